package checkpoint

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
)

// parseSafetensors reads the header: eight bytes of little-endian length, that
// many of JSON, then the data, which the tensors must cover exactly.
func (f *File) parseSafetensors(o *options) error {
	size := le.Uint64(f.data)
	if size > uint64(o.maxHeader) {
		return fmt.Errorf("the header claims %d bytes, above the limit of %d; the file is damaged, or raise the limit", size, o.maxHeader)
	}
	if size > uint64(len(f.data)-8) {
		return fmt.Errorf("the header claims %d bytes but the file has only %d; the file is truncated, download it again", size, len(f.data))
	}
	header, data := f.data[8:8+size], f.data[8+size:]
	type span struct {
		name       string
		begin, end uint64
	}
	var spans []span
	err := eachKey(header, func(dec *json.Decoder, key string) error {
		if key == "__metadata__" {
			if err := dec.Decode(&f.meta); err != nil {
				return fmt.Errorf("__metadata__ is not an object of strings: %w", err)
			}
			return nil
		}
		if f.tensors[key] != nil {
			return fmt.Errorf("tensor %q appears twice", key)
		}
		var t struct {
			DType   string    `json:"dtype"`
			Shape   []uint64  `json:"shape"`
			Offsets []*uint64 `json:"data_offsets"`
		}
		if err := dec.Decode(&t); err != nil {
			return fmt.Errorf("tensor %q: %w", key, err)
		}
		dt, ok := parseDType(t.DType)
		if !ok {
			return fmt.Errorf("tensor %q has the type %q, which is not supported (F32, F16, BF16, F64, I64, I32, I16, I8, U8, BOOL are)", key, t.DType)
		}
		if t.Shape == nil || len(t.Offsets) != 2 || t.Offsets[0] == nil || t.Offsets[1] == nil {
			return fmt.Errorf("tensor %q lacks its shape or its data_offsets", key)
		}
		begin, end := *t.Offsets[0], *t.Offsets[1]
		if begin > end || end > uint64(len(data)) {
			return fmt.Errorf("tensor %q occupies bytes %d to %d but there are %d bytes of data; the file is truncated, download it again", key, begin, end, len(data))
		}
		shape := make([]int, len(t.Shape))
		for i, d := range t.Shape {
			if d > maxElements {
				return fmt.Errorf("tensor %q: shape %v is too large", key, t.Shape)
			}
			shape[i] = int(d)
		}
		v, err := newView(dt, shape, 0, nil, data[begin:end])
		if err != nil {
			return fmt.Errorf("tensor %q: %w", key, err)
		}
		if uint64(v.n)*uint64(dt.Size()) != end-begin {
			return fmt.Errorf("tensor %q: shape %v of %v needs %d bytes, data_offsets give it %d", key, shape, dt, uint64(v.n)*uint64(dt.Size()), end-begin)
		}
		f.tensors[key] = v
		spans = append(spans, span{key, begin, end})
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
			return fmt.Errorf("tensor %q begins at byte %d of the data, expected %d: tensors overlap or leave a hole", s.name, s.begin, at)
		}
		at = s.end
		f.names = append(f.names, s.name)
	}
	if at != uint64(len(data)) {
		return fmt.Errorf("%d bytes follow the last tensor; the file is damaged", uint64(len(data))-at)
	}
	return nil
}

// eachKey calls visit for each key of the JSON object in data, in order. It
// exists because decoding into a map would drop duplicate keys unseen.
func eachKey(data []byte, visit func(dec *json.Decoder, key string) error) error {
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
		key, _ := t.(string)
		if seen[key] {
			return fmt.Errorf("%q appears twice", key)
		}
		seen[key] = true
		if err := visit(dec, key); err != nil {
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

// Tensor is one tensor to write: either F32 values, stored as DType (F32, F16 or
// F64), or Data, elements of DType as they are to be stored.
type Tensor struct {
	Name  string
	DType DType
	Shape []int
	F32   []float32
	Data  []byte
}

func (t *Tensor) encode() ([]byte, error) {
	n, err := shapeLen(t.Shape)
	if err != nil {
		return nil, err
	}
	if t.F32 == nil {
		if n > math.MaxInt/t.DType.Size() || len(t.Data) != n*t.DType.Size() {
			return nil, fmt.Errorf("shape %v of %v needs %d elements, there are %d bytes", t.Shape, t.DType, n, len(t.Data))
		}
		return t.Data, nil
	}
	if len(t.F32) != n {
		return nil, fmt.Errorf("shape %v needs %d elements, there are %d", t.Shape, n, len(t.F32))
	}
	out := make([]byte, 0, n*t.DType.Size())
	for _, v := range t.F32 {
		switch t.DType {
		case F32:
			out = le.AppendUint32(out, math.Float32bits(v))
		case F16:
			out = le.AppendUint16(out, toF16(v))
		case F64:
			out = le.AppendUint64(out, math.Float64bits(float64(v)))
		default:
			return nil, fmt.Errorf("float32 values cannot be stored as %v", t.DType)
		}
	}
	return out, nil
}

// WriteSafetensors writes tensors in the given order, with a header padded so
// that the data starts at a multiple of 8 bytes. The same arguments give the
// same bytes.
func WriteSafetensors(w io.Writer, tensors []Tensor, metadata map[string]string) error {
	type entry struct {
		DType   string `json:"dtype"`
		Shape   []int  `json:"shape"`
		Offsets [2]int `json:"data_offsets"`
	}
	var header bytes.Buffer
	header.WriteByte('{')
	put := func(key string, value any) error {
		if header.Len() > 1 {
			header.WriteByte(',')
		}
		k, err := json.Marshal(key)
		if err != nil {
			return err
		}
		v, err := json.Marshal(value) // map keys come sorted
		if err != nil {
			return err
		}
		header.Write(k)
		header.WriteByte(':')
		header.Write(v)
		return nil
	}
	if len(metadata) > 0 {
		if err := put("__metadata__", metadata); err != nil {
			return err
		}
	}
	seen := map[string]bool{"__metadata__": true}
	at := 0
	for i := range tensors {
		t := &tensors[i]
		if seen[t.Name] || t.Name == "" {
			return fmt.Errorf("checkpoint: the tensor name %q is empty, reserved or used twice", t.Name)
		}
		seen[t.Name] = true
		if int(t.DType) >= len(dtypes) {
			return fmt.Errorf("checkpoint: tensor %q: unknown type %v", t.Name, t.DType)
		}
		n, err := shapeLen(t.Shape)
		if err != nil {
			return fmt.Errorf("checkpoint: tensor %q: %w", t.Name, err)
		}
		end := at + n*t.DType.Size()
		if err := put(t.Name, entry{t.DType.String(), slices.Concat([]int{}, t.Shape), [2]int{at, end}}); err != nil {
			return err
		}
		at = end
	}
	header.WriteByte('}')
	for header.Len()%8 != 0 {
		header.WriteByte(' ')
	}
	if _, err := w.Write(le.AppendUint64(nil, uint64(header.Len()))); err != nil {
		return err
	}
	if _, err := w.Write(header.Bytes()); err != nil {
		return err
	}
	for i := range tensors {
		data, err := tensors[i].encode()
		if err != nil {
			return fmt.Errorf("checkpoint: tensor %q: %w", tensors[i].Name, err)
		}
		if _, err := w.Write(data); err != nil {
			return err
		}
	}
	return nil
}

// SaveSafetensors writes a file as [WriteSafetensors] does. It appears under its
// name only when it is complete.
func SaveSafetensors(path string, tensors []Tensor, metadata map[string]string) (err error) {
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	defer func() {
		if err != nil {
			tmp.Close()
			os.Remove(tmp.Name())
		}
	}()
	if err = WriteSafetensors(tmp, tensors, metadata); err != nil {
		return err
	}
	if err = tmp.Chmod(0o644); err != nil {
		return err
	}
	if err = tmp.Close(); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}
