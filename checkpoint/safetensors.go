package checkpoint

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"unicode/utf8"
)

// metadataKey is the header entry that is no tensor.
const metadataKey = "__metadata__"

// parseSafetensors reads the header: eight bytes of little-endian length, that
// many of JSON, then the data, which the tensors must cover exactly.
func (f *File) parseSafetensors(o options) error {
	f.state, f.states = "model", []string{"model"}
	if o.state != f.state {
		return f.noState(o.state)
	}
	size := le.Uint64(f.data)
	if size > o.maxHeader {
		return fmt.Errorf("the header claims %d bytes, above the limit of %d; the file is damaged", size, o.maxHeader)
	}
	if size > uint64(len(f.data)-8) {
		return fmt.Errorf("the header claims %d bytes but the file has only %d; the file is truncated, download it again", size, len(f.data))
	}
	header, data := f.data[8:8+size], f.data[8+size:]
	if !utf8.Valid(header) { // else different names could be read as one
		return errors.New("header: not UTF-8; the file is damaged")
	}
	type span struct {
		name       string
		begin, end uint64
	}
	var spans []span
	err := eachKey(header, func(key string, value json.RawMessage) error {
		if key == metadataKey {
			return f.parseMetadata(value)
		}
		if len(key) > maxName {
			return fmt.Errorf("tensor %.80q: its name has %d bytes, above the limit of %d", key, len(key), maxName)
		}
		v, begin, err := parseEntry(value, data)
		if err != nil {
			return fmt.Errorf("tensor %q: %w", key, err)
		}
		f.tensors[key] = v
		spans = append(spans, span{key, begin, begin + uint64(len(v.data))})
		return nil
	})
	if err != nil {
		return fmt.Errorf("header: %w", err)
	}
	slices.SortStableFunc(spans, func(a, b span) int {
		return cmp.Or(cmp.Compare(a.begin, b.begin), cmp.Compare(a.end, b.end))
	})
	at := uint64(0)
	for _, s := range spans {
		if s.begin != at {
			return fmt.Errorf("tensor %q begins at byte %d of the data, expected %d: tensors overlap or leave a hole; write the file again", s.name, s.begin, at)
		}
		at = s.end
		f.names = append(f.names, s.name)
	}
	if at != uint64(len(data)) {
		return fmt.Errorf("%d bytes follow the last tensor; the file is damaged", uint64(len(data))-at)
	}
	return nil
}

func (f *File) parseMetadata(raw json.RawMessage) error {
	err := eachKey(raw, func(key string, value json.RawMessage) error {
		var s *string
		if json.Unmarshal(value, &s) != nil || s == nil {
			return fmt.Errorf("%.80q is not a string", key)
		}
		f.meta[key] = *s
		return nil
	})
	if err != nil {
		return fmt.Errorf("%s must be an object of strings: %w", metadataKey, err)
	}
	return nil
}

// parseEntry reads a tensor's header entry and returns it and where it begins.
func parseEntry(raw json.RawMessage, data []byte) (*view, uint64, error) {
	var dtype *string
	var dims, offsets []*uint64 // pointers, because null would count as 0
	err := eachKey(raw, func(key string, value json.RawMessage) (err error) {
		switch key {
		case "dtype":
			err = json.Unmarshal(value, &dtype)
		case "shape":
			err = json.Unmarshal(value, &dims)
		case "data_offsets":
			err = json.Unmarshal(value, &offsets)
		}
		if err != nil {
			return fmt.Errorf("%s: %.200v", key, err) // it may quote the file at length
		}
		return nil
	})
	if err != nil {
		return nil, 0, err
	}
	if dtype == nil || dims == nil || slices.Contains(dims, nil) || len(offsets) != 2 || slices.Contains(offsets, nil) {
		return nil, 0, errors.New("its dtype, shape or data_offsets are missing or incomplete; the file is damaged")
	}
	dt, ok := parseDType(*dtype)
	if !ok {
		return nil, 0, fmt.Errorf("its type %.20q is not supported (F32, F16, BF16, F64, I64, I32, I16, I8, U8, BOOL are); convert it", *dtype)
	}
	begin, end := *offsets[0], *offsets[1]
	if begin > end {
		return nil, 0, fmt.Errorf("data_offsets %d to %d run backwards; the file is damaged", begin, end)
	}
	if end > uint64(len(data)) {
		return nil, 0, fmt.Errorf("it occupies bytes %d to %d but there are %d bytes of data; the file is truncated, download it again", begin, end, len(data))
	}
	shape := make([]int, min(len(dims), maxDims+1))
	for i := range shape {
		if *dims[i] > maxElements {
			return nil, 0, fmt.Errorf("its dimension %d is too large", *dims[i])
		}
		shape[i] = int(*dims[i])
	}
	n, err := shapeLen(shape)
	if err != nil {
		return nil, 0, err
	}
	if need := uint64(n) * uint64(dt.Size()); need != end-begin {
		return nil, 0, fmt.Errorf("shape %v of %v needs %d bytes, data_offsets give it %d; the file is damaged", shape, dt, need, end-begin)
	}
	v, err := newView(dt, shape, 0, nil, data[begin:end:end])
	return v, begin, err
}

// eachKey calls visit for each entry of the JSON object in data, in order. It
// exists because decoding into a map or struct would accept duplicate keys, null
// for an object and keys of another case.
func eachKey(data []byte, visit func(key string, value json.RawMessage) error) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return errors.New("not a JSON object")
	}
	seen := map[string]bool{}
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return err
		}
		key, ok := t.(string)
		if !ok {
			return errors.New("a key is not a string")
		}
		if seen[key] {
			return fmt.Errorf("%.80q appears twice", key)
		}
		seen[key] = true
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return fmt.Errorf("%.80q: %w", key, err)
		}
		if err := visit(key, value); err != nil {
			return err
		}
	}
	if _, err := dec.Token(); err != nil {
		return err
	}
	if rest := data[dec.InputOffset():]; len(bytes.TrimSpace(rest)) > 0 {
		return errors.New("text follows the JSON object")
	}
	return nil
}

// Tensor is one tensor to write: either F32, values that are stored as DType
// (F32, F16 or F64), or Data, elements of DType as they are to be stored.
type Tensor struct {
	Name  string
	DType DType
	Shape []int
	F32   []float32
	Data  []byte
}

// check returns how many bytes the tensor takes.
func (t *Tensor) check() (int64, error) {
	if t.DType.Size() == 0 {
		return 0, fmt.Errorf("unknown type %v", t.DType)
	}
	n, err := shapeLen(t.Shape)
	if err != nil {
		return 0, err
	}
	if len(t.Shape) > maxDims {
		return 0, fmt.Errorf("%d dimensions; the limit is %d", len(t.Shape), maxDims)
	}
	size := int64(n) * int64(t.DType.Size())
	switch {
	case t.F32 != nil && t.Data != nil:
		return 0, errors.New("both F32 and Data are set")
	case t.F32 != nil && t.DType != F32 && t.DType != F16 && t.DType != F64:
		return 0, fmt.Errorf("float32 values cannot be stored as %v, only as F32, F16 or F64", t.DType)
	case t.F32 != nil && len(t.F32) != n:
		return 0, fmt.Errorf("shape %v needs %d elements, F32 has %d", t.Shape, n, len(t.F32))
	case t.F32 == nil && int64(len(t.Data)) != size:
		return 0, fmt.Errorf("shape %v of %v needs %d bytes, Data has %d", t.Shape, t.DType, size, len(t.Data))
	}
	return size, nil
}

// write writes the checked tensor's elements.
func (t *Tensor) write(w io.Writer) error {
	if t.F32 == nil {
		_, err := w.Write(t.Data)
		return err
	}
	// By parts: the tensor may be a large share of the memory.
	out := make([]byte, 0, 8*min(len(t.F32), 1<<14))
	for part := range slices.Chunk(t.F32, 1<<14) {
		out = out[:0]
		switch t.DType {
		case F32:
			for _, v := range part {
				out = le.AppendUint32(out, math.Float32bits(v))
			}
		case F16:
			for _, v := range part {
				out = le.AppendUint16(out, toF16(v))
			}
		case F64:
			for _, v := range part {
				out = le.AppendUint64(out, math.Float64bits(float64(v)))
			}
		}
		if _, err := w.Write(out); err != nil {
			return err
		}
	}
	return nil
}

// WriteSafetensors writes tensors in the given order, with a header padded so
// that the data starts at a multiple of 8 bytes. The same arguments give the
// same bytes. Nothing is written unless all arguments are valid. Values beyond
// the range of F16 become infinite.
func WriteSafetensors(w io.Writer, tensors []Tensor, metadata map[string]string) error {
	type entry struct {
		DType   string   `json:"dtype"`
		Shape   []int    `json:"shape"`
		Offsets [2]int64 `json:"data_offsets"`
	}
	header := []byte{'{'}
	put := func(key string, value any) error {
		if len(header) > 1 {
			header = append(header, ',')
		}
		k, err := json.Marshal(key)
		if err != nil {
			return err
		}
		v, err := json.Marshal(value) // the keys of maps come sorted
		if err != nil {
			return err
		}
		header = append(append(append(header, k...), ':'), v...)
		return nil
	}
	if len(metadata) > 0 {
		for k, v := range metadata {
			if !utf8.ValidString(k) || !utf8.ValidString(v) {
				return fmt.Errorf("checkpoint: the metadata %q is not UTF-8", k)
			}
		}
		if err := put(metadataKey, metadata); err != nil {
			return fmt.Errorf("checkpoint: metadata: %w", err)
		}
	}
	seen := map[string]bool{metadataKey: true}
	at := int64(0)
	for i := range tensors {
		t := &tensors[i]
		if t.Name == "" || seen[t.Name] || !utf8.ValidString(t.Name) {
			return fmt.Errorf("checkpoint: the tensor name %q is empty, reserved, used twice or not UTF-8", t.Name)
		}
		if len(t.Name) > maxName {
			return fmt.Errorf("checkpoint: the tensor name %.80q has %d bytes, above the limit of %d", t.Name, len(t.Name), maxName)
		}
		seen[t.Name] = true
		size, err := t.check()
		if err == nil && size > math.MaxInt64-at {
			err = errors.New("the file would be too large")
		}
		if err == nil {
			err = put(t.Name, entry{t.DType.String(), append([]int{}, t.Shape...), [2]int64{at, at + size}})
		}
		if err != nil {
			return fmt.Errorf("checkpoint: tensor %q: %w", t.Name, err)
		}
		at += size
	}
	header = append(header, '}')
	for len(header)%8 != 0 {
		header = append(header, ' ')
	}
	if len(header) > maxHeader {
		return fmt.Errorf("checkpoint: the header would have %d bytes, above the limit of %d", len(header), maxHeader)
	}
	if _, err := w.Write(append(le.AppendUint64(nil, uint64(len(header))), header...)); err != nil {
		return err
	}
	for i := range tensors {
		if err := tensors[i].write(w); err != nil {
			return err
		}
	}
	return nil
}

// SaveSafetensors writes a file as [WriteSafetensors] does. It appears under its
// name, in place of an older one, only when it is complete.
func SaveSafetensors(path string, tensors []Tensor, metadata map[string]string) error {
	if err := save(path, tensors, metadata); err != nil {
		return fmt.Errorf("checkpoint: saving %s: %w", path, err)
	}
	return nil
}

func save(path string, tensors []Tensor, metadata map[string]string) (err error) {
	// Not os.CreateTemp: its mode is 0600 whatever the umask, and would stay.
	tmp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+"."+strconv.FormatUint(rand.Uint64(), 36))
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close() // a second Close does no harm
			os.Remove(tmp)
		}
	}()
	if err = WriteSafetensors(f, tensors, metadata); err != nil {
		return err
	}
	// Else a crash could leave the new name with the data still unwritten.
	if err = f.Sync(); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
