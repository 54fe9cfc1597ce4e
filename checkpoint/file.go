package checkpoint

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"runtime/debug"
	"slices"
	"strings"
)

// File is an opened checkpoint. Its methods other than Close are safe for
// concurrent use.
type File struct {
	name    string
	format  string
	data    []byte
	unmap   func() error
	names   []string
	tensors map[string]*view
	meta    map[string]string
	object  any // pth: the unpickled object
	state   string
	states  []string
}

// view is a tensor inside the file: elements of dtype in data, which begins at
// the tensor's storage.
type view struct {
	dtype   DType
	shape   []int
	n       int // number of elements
	offset  int // of the first, in elements
	strides []int
	dense   bool // C order without gaps
	data    []byte
}

// Option changes how a checkpoint is opened.
type Option func(*options)

type options struct {
	state     string
	maxHeader uint64
}

// maxHeader is the largest safetensors header or pickle in bytes unless an
// option says otherwise. The header's is that of the reference implementation.
const maxHeader = 100_000_000

// maxName is the longest name of a tensor in bytes.
const maxName = 4096

// WithState chooses between the weights that a training checkpoint holds:
// "model", the default, or "ema", the exponential moving average.
func WithState(name string) Option { return func(o *options) { o.state = name } }

// WithMaxHeader sets how many bytes a safetensors header or a pickle may have,
// 100 MB by default: less where memory is scarce and files are not trusted, for
// parsing takes a multiple of it. A limit that is not positive means the default.
func WithMaxHeader(n int64) Option {
	return func(o *options) {
		if o.maxHeader = maxHeader; n > 0 {
			o.maxHeader = uint64(n)
		}
	}
}

// Open opens the checkpoint at path, whose format follows from its content. The
// file is memory-mapped where the system can, and read where it cannot. It must
// not be changed until Close: what is read from a changed file is undefined, an
// error at best.
func Open(path string, opts ...Option) (*File, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("checkpoint: %w", err)
	}
	if info.IsDir() {
		return nil, fmt.Errorf("checkpoint: %s is a directory, not a .safetensors or .pth file", path)
	}
	if !info.Mode().IsRegular() { // opening a named pipe would wait for a writer
		return nil, fmt.Errorf("checkpoint: %s is not a regular file", path)
	}
	data, unmap, err := mapFile(path)
	if err != nil {
		return nil, fmt.Errorf("checkpoint: %w", err)
	}
	f, err := parse(path, data, opts)
	if err != nil {
		unmap()
		return nil, err
	}
	f.unmap = unmap
	return f, nil
}

// Parse opens a checkpoint held in memory, for instance an embedded one. data
// is not copied and must not change while the File is used.
func Parse(data []byte, opts ...Option) (*File, error) { return parse("(memory)", data, opts) }

func parse(name string, data []byte, opts []Option) (_ *File, err error) {
	defer onFault(name, debug.SetPanicOnFault(true), &err)
	o := options{state: "model", maxHeader: maxHeader}
	for _, set := range opts {
		set(&o)
	}
	if o.state == "" {
		o.state = "model"
	}
	f := &File{name: name, data: data, tensors: map[string]*view{}, meta: map[string]string{}}
	switch {
	case len(data) == 0:
		err = errors.New("the file is empty")
	// A header's length could look like the start of a pickle or an archive; the
	// brace behind it cannot.
	case len(data) > 8 && data[8] == '{':
		f.format = "safetensors"
		err = f.parseSafetensors(o)
	case bytes.HasPrefix(data, []byte("PK\x03\x04")) || bytes.HasPrefix(data, []byte("PK\x05\x06")):
		f.format = "pth (zip)"
		err = f.parseZip(o)
	case bytes.HasPrefix(data, []byte("\x80")) && len(data) > 2 && data[1] <= 5 && data[2] == opLong1:
		f.format = "pth (legacy)"
		err = f.parseLegacy(o)
	case len(data) >= 8 && le.Uint64(data) <= uint64(len(data)-8):
		err = errors.New("its safetensors header is not a JSON object; the file is damaged or of another format")
	default:
		err = errors.New("this is neither a safetensors file nor a PyTorch checkpoint (zip or legacy format); was the download complete?")
	}
	if err != nil {
		return nil, fmt.Errorf("checkpoint: %s: %w", name, err)
	}
	return f, nil
}

// onFault is deferred around whatever touches the file's bytes. A page of a
// mapping that cannot be had, because the file was truncated or its disk fails,
// is a fault, which would end the process; it becomes an error. old is the
// setting of [debug.SetPanicOnFault] to return to.
func onFault(name string, old bool, err *error) {
	debug.SetPanicOnFault(old)
	r := recover()
	if r == nil {
		return
	}
	if _, ok := r.(interface{ Addr() uintptr }); !ok { // of a fault only
		panic(r)
	}
	*err = fmt.Errorf("checkpoint: %s: the file cannot be read any more; was it changed or removed, or does its disk fail?", name)
}

func (f *File) noState(want string) error {
	return fmt.Errorf("there is no state %q in this file; it has %s, choose that instead", want, strings.Join(f.states, ", "))
}

// Close unmaps the file. Afterwards there are no tensors to read; what was read
// before stays valid. It must not run while another method does.
func (f *File) Close() error {
	f.tensors, f.data = nil, nil
	if f.unmap == nil {
		return nil
	}
	unmap := f.unmap
	f.unmap = nil
	return unmap()
}

// Names returns the tensors' names in file order: that of their data in a
// safetensors file, that of the state dict in a .pth file.
func (f *File) Names() []string { return slices.Clone(f.names) }

// Has reports whether there is a tensor of that name.
func (f *File) Has(name string) bool { return f.tensors[name] != nil }

// Shape returns a tensor's dimensions (none for a scalar) and whether it exists.
func (f *File) Shape(name string) ([]int, bool) {
	v := f.tensors[name]
	if v == nil {
		return nil, false
	}
	return slices.Clone(v.shape), true
}

// DType returns the type that a tensor is stored as and whether it exists.
func (f *File) DType(name string) (DType, bool) {
	v := f.tensors[name]
	if v == nil {
		return 0, false
	}
	return v.dtype, true
}

// Metadata returns the strings in a safetensors header; it is empty for .pth.
func (f *File) Metadata() map[string]string { return maps.Clone(f.meta) }

// Format returns "safetensors", "pth (zip)" or "pth (legacy)".
func (f *File) Format() string { return f.format }

// State returns the state that was chosen: "model" or "ema".
func (f *File) State() string { return f.state }

// States returns the states that the file has.
func (f *File) States() []string { return slices.Clone(f.states) }

func (f *File) lookup(name string, have int) (*view, error) {
	v := f.tensors[name]
	if v == nil {
		return nil, fmt.Errorf("checkpoint: %s: there is no tensor %q", f.name, name)
	}
	if have != v.n {
		return nil, fmt.Errorf("checkpoint: %s: tensor %q has %d elements (%v), the destination %d", f.name, name, v.n, v.shape, have)
	}
	return v, nil
}

// Read copies a tensor, in row-major order and converted to float32 (float64
// and integers are rounded), into dst, which must have exactly its number of
// elements.
func (f *File) Read(name string, dst []float32) (err error) {
	defer onFault(f.name, debug.SetPanicOnFault(true), &err)
	v, err := f.lookup(name, len(dst))
	if err != nil {
		return err
	}
	if v.dense {
		v.dtype.decode32(dst, v.data[v.offset*v.dtype.Size():])
		return nil
	}
	v.each(func(i, at int) { dst[i] = float32(v.dtype.float(v.data, at)) })
	return nil
}

// ReadFloat64 is [File.Read] for float64.
func (f *File) ReadFloat64(name string, dst []float64) (err error) {
	defer onFault(f.name, debug.SetPanicOnFault(true), &err)
	v, err := f.lookup(name, len(dst))
	if err != nil {
		return err
	}
	v.each(func(i, at int) { dst[i] = v.dtype.float(v.data, at) })
	return nil
}

// ReadInt64 copies a tensor of integers or booleans into dst.
func (f *File) ReadInt64(name string, dst []int64) (err error) {
	defer onFault(f.name, debug.SetPanicOnFault(true), &err)
	v, err := f.lookup(name, len(dst))
	if err != nil {
		return err
	}
	if !v.dtype.integer() {
		return fmt.Errorf("checkpoint: %s: tensor %q is %v, not integers", f.name, name, v.dtype)
	}
	v.each(func(i, at int) { dst[i] = v.dtype.int(v.data, at) })
	return nil
}

// ReadBytes copies a tensor of U8, I8 or BOOL into dst as it is stored.
func (f *File) ReadBytes(name string, dst []byte) (err error) {
	defer onFault(f.name, debug.SetPanicOnFault(true), &err)
	v, err := f.lookup(name, len(dst))
	if err != nil {
		return err
	}
	if v.dtype.Size() != 1 {
		return fmt.Errorf("checkpoint: %s: tensor %q is %v, not bytes", f.name, name, v.dtype)
	}
	v.each(func(i, at int) { dst[i] = v.data[at] })
	return nil
}

// each calls visit for every element in row-major order with its index in that
// order and its index in the storage. newView has checked the extent.
func (v *view) each(visit func(i, at int)) {
	if v.n == 0 {
		return
	}
	index := make([]int, len(v.shape))
	at := v.offset
	for i := 0; ; {
		visit(i, at)
		if i++; i == v.n {
			return
		}
		for d := len(index) - 1; ; d-- {
			if index[d]++; index[d] < v.shape[d] {
				at += v.strides[d]
				break
			}
			at -= (v.shape[d] - 1) * v.strides[d]
			index[d] = 0
		}
	}
}

// Limits of a tensor; doc.go gives them to the reader.
const (
	maxDims   = 32
	maxRepeat = 1 << 22 // elements of a tensor with more elements than storage
)

// newView checks that a tensor lies inside its storage and describes it.
// strides nil means C order.
func newView(dt DType, shape []int, offset int, strides []int, storage []byte) (*view, error) {
	if len(shape) > maxDims {
		return nil, fmt.Errorf("%d dimensions; the limit is %d", len(shape), maxDims)
	}
	n, err := shapeLen(shape)
	if err != nil {
		return nil, err
	}
	if strides != nil && len(strides) != len(shape) {
		return nil, fmt.Errorf("%d strides for %d dimensions", len(strides), len(shape))
	}
	for _, s := range strides {
		if s < 0 {
			return nil, fmt.Errorf("negative stride in %v", strides)
		}
	}
	v := &view{dtype: dt, shape: shape, n: n, offset: offset, strides: make([]int, len(shape)), dense: true, data: storage}
	if n == 0 { // its offset and strides never matter, and torch leaves odd ones
		v.offset = 0
		return v, nil
	}
	step := 1
	for i := len(shape) - 1; i >= 0; i-- {
		v.strides[i] = step
		step *= shape[i]
	}
	if strides != nil {
		for i, s := range strides {
			if shape[i] > 1 && s != v.strides[i] {
				v.dense = false
			}
		}
		v.strides = strides
	}
	have := len(storage) / dt.Size()
	outside := offset < 0 || offset >= have
	for last, i := offset, 0; i < len(shape) && !outside; i++ {
		if d, s := shape[i]-1, v.strides[i]; d > 0 && s > 0 {
			if outside = d > (have-1-last)/s; !outside {
				last += d * s
			}
		}
	}
	if outside {
		return nil, fmt.Errorf("shape %v with strides %v from element %d on does not lie within its storage of %d elements; the file is damaged or truncated", shape, v.strides, offset, have)
	}
	if n > have && n > maxRepeat {
		return nil, fmt.Errorf("shape %v with strides %v repeats a storage of %d elements more than is supported; save a contiguous copy", shape, v.strides, have)
	}
	return v, nil
}
