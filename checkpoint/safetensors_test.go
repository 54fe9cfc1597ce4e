package checkpoint_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/mila-go/mila/checkpoint"
)

// safe makes a file of a header and n bytes of data.
func safe(header string, n int) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(b, header...), make([]byte, n)...)
}

func product(shape []int) int {
	n := 1
	for _, d := range shape {
		n *= d
	}
	return n
}

// readAll reads every tensor in every way that its type allows.
func readAll(t *testing.T, f *checkpoint.File) {
	t.Helper()
	for _, name := range f.Names() {
		shape, ok := f.Shape(name)
		dt, _ := f.DType(name)
		n := product(shape)
		err := errors.Join(f.Read(name, make([]float32, n)), f.ReadFloat64(name, make([]float64, n)))
		if dt >= checkpoint.I64 {
			err = errors.Join(err, f.ReadInt64(name, make([]int64, n)))
		}
		if dt.Size() == 1 {
			err = errors.Join(err, f.ReadBytes(name, make([]byte, n)))
		}
		if !ok || !f.Has(name) || err != nil {
			t.Errorf("%q %v %v: %v", name, dt, shape, err)
		}
	}
	f.Object()
	f.Config()
	f.Metadata()
}

func TestSafetensorsRejects(t *testing.T) {
	const a = `"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}`
	long := safe(`{}`, 0)
	binary.LittleEndian.PutUint64(long, 1<<63)
	many := "{" + strings.Repeat(`"x":`, 20000)
	for what, tc := range map[string]struct {
		data []byte
		want string
	}{
		"empty":                 {nil, "empty"},
		"text":                  {[]byte("<html>not found</html>"), "neither"},
		"zeros":                 {make([]byte, 64), "not a JSON object"},
		"huge header":           {long, "above the limit"},
		"header beyond the end": {safe(`{`+a+`}`, 0)[:20], "truncated"},
		"truncated data":        {safe(`{`+a+`}`, 7), `tensor "a": it occupies bytes 0 to 8 but there are 7`},
		"trailing data":         {safe(`{`+a+`}`, 9), "1 bytes follow the last tensor"},
		"trailing text":         {safe(`{`+a+`} x`, 8), "text follows"},
		"array":                 {safe(`[1]`, 8), "not a JSON object"},
		"unfinished":            {safe(`{`+a, 8), "EOF"},
		"nested":                {safe(many, 8), "header"},
		"not UTF-8":             {safe("{\"\xff\":1}", 8), "UTF-8"},
		"duplicate":             {safe(`{`+a+`,`+a+`}`, 8), `"a" appears twice`},
		"duplicate escaped":     {safe(`{`+a+`,"\u0061":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}`, 16), `"a" appears twice`},
		"duplicate inside":      {safe(`{"a":{"dtype":"F32","dtype":"I32","shape":[2],"data_offsets":[0,8]}}`, 8), `tensor "a": "dtype" appears twice`},
		"other case":            {safe(`{"a":{"DTYPE":"F32","shape":[2],"data_offsets":[0,8]}}`, 8), "missing"},
		"null":                  {safe(`{"a":null}`, 0), `tensor "a": not a JSON object`},
		"null shape":            {safe(`{"a":{"dtype":"F32","shape":null,"data_offsets":[0,8]}}`, 8), "missing"},
		"null dimension":        {safe(`{"a":{"dtype":"F32","shape":[null],"data_offsets":[0,0]}}`, 0), "missing"},
		"null offset":           {safe(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[null,8]}}`, 8), "missing"},
		"three offsets":         {safe(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8,8]}}`, 8), "missing"},
		"no offsets":            {safe(`{"a":{"dtype":"F32","shape":[2]}}`, 8), "missing"},
		"unknown type":          {safe(`{"a":{"dtype":"F8_E4M3","shape":[8],"data_offsets":[0,8]}}`, 8), `"F8_E4M3" is not supported`},
		"negative":              {safe(`{"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}`, 8), `tensor "a": shape`},
		"fraction":              {safe(`{"a":{"dtype":"F32","shape":[2.5],"data_offsets":[0,8]}}`, 8), `tensor "a": shape`},
		"backwards":             {safe(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}`, 8), "backwards"},
		"span":                  {safe(`{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}`, 8), "needs 12 bytes, data_offsets give it 8"},
		"overflow to zero":      {safe(`{"a":{"dtype":"F32","shape":[65536,65536,65536,65536],"data_offsets":[0,0]}}`, 0), "more than"},
		"overflow of 32 bits":   {safe(`{"a":{"dtype":"F32","shape":[1073741826],"data_offsets":[0,8]}}`, 8), "needs 4294967304 bytes"},
		"overflow of 64 bits":   {safe(`{"a":{"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,8]}}`, 8), "too large"},
		"overflow beside zero":  {safe(`{"a":{"dtype":"F32","shape":[0,65536,65536],"data_offsets":[0,0]}}`, 0), "more than"},
		"long name":             {safe(`{"`+strings.Repeat("k", 4097)+`":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}`, 8), "its name has 4097 bytes"},
		"long number":           {safe(`{"a":{"dtype":"F32","shape":[`+strings.Repeat("9", 9999)+`],"data_offsets":[0,8]}}`, 8), `tensor "a": shape`},
		"dimensions":            {safe(`{"a":{"dtype":"F32","shape":[2`+strings.Repeat(",1", 32)+`],"data_offsets":[0,8]}}`, 8), "dimensions"},
		"overlap":               {safe(`{`+a+`,"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}`, 12), `tensor "b" begins at byte 4 of the data, expected 8`},
		"hole":                  {safe(`{`+a+`,"b":{"dtype":"F32","shape":[1],"data_offsets":[12,16]}}`, 16), `tensor "b" begins at byte 12 of the data, expected 8`},
		"hole in front":         {safe(`{"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}`, 8), "hole"},
		"empty inside":          {safe(`{`+a+`,"b":{"dtype":"F32","shape":[0],"data_offsets":[4,4]}}`, 8), "expected"},
		"metadata list":         {safe(`{"__metadata__":["x"],`+a+`}`, 8), "__metadata__ must be an object of strings"},
		"metadata null":         {safe(`{"__metadata__":null,`+a+`}`, 8), "__metadata__ must be an object of strings"},
		"metadata long key":     {safe(`{"__metadata__":{"`+strings.Repeat("k", 9999)+`":1},`+a+`}`, 8), "is not a string"},
		"metadata number":       {safe(`{"__metadata__":{"x":1},`+a+`}`, 8), `"x" is not a string`},
		"metadata null string":  {safe(`{"__metadata__":{"x":null},`+a+`}`, 8), `"x" is not a string`},
		"metadata duplicate":    {safe(`{"__metadata__":{"x":"1","x":"2"},`+a+`}`, 8), `"x" appears twice`},
	} {
		f, err := checkpoint.Parse(tc.data)
		if err == nil {
			t.Errorf("%s: accepted with %v", what, f.Names())
		} else if !strings.Contains(err.Error(), tc.want) || !strings.HasPrefix(err.Error(), "checkpoint: (memory): ") || len(err.Error()) > 1000 {
			t.Errorf("%s: %v, want %q", what, err, tc.want)
		}
	}
	// Keys that nobody has defined yet, white space and empty tensors are fine.
	ok := safe(`{ "e":{"dtype":"F32","shape":[0,3],"data_offsets":[0,0]}, "a":{"dtype":"F32","new":[{}],"shape":[2`+strings.Repeat(",1", 31)+`],"data_offsets":[0,8]}}   `, 8)
	if f, err := checkpoint.Parse(ok); err != nil || !slices.Equal(f.Names(), []string{"e", "a"}) {
		t.Errorf("%v", err)
	} else {
		readAll(t, f)
	}
}

// sample is a small file of every type, at odd offsets.
func sample() []byte {
	var tensors []checkpoint.Tensor
	data := make([]byte, 8*6)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range data {
		data[i] = byte(r.Uint32())
	}
	for _, dt := range []checkpoint.DType{checkpoint.U8, checkpoint.F32, checkpoint.F16, checkpoint.BF16, checkpoint.BOOL, checkpoint.F64,
		checkpoint.I64, checkpoint.I8, checkpoint.I32, checkpoint.I16} {
		n := 3
		if dt.Size() == 1 {
			n = 5
		}
		tensors = append(tensors, checkpoint.Tensor{Name: dt.String(), DType: dt, Shape: []int{n, 1}, Data: data[:n*dt.Size()]})
	}
	var b bytes.Buffer
	if err := checkpoint.WriteSafetensors(&b, tensors, map[string]string{"config": `{"embed_dim": 8}`}); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// damage opens every prefix of data, which must all be refused, and data with
// single bits inverted (every one of a small file), which may be accepted but
// must then be readable.
func damage(t *testing.T, data []byte) {
	t.Helper()
	for n := range data {
		if f, err := checkpoint.Parse(data[:n:n]); err == nil {
			t.Errorf("the first %d of %d bytes are accepted with %v", n, len(data), f.Names())
		}
	}
	flipped := bytes.Clone(data)
	step := 1 + len(data)/1024
	if step%2 == 0 {
		step++ // so that every place in a byte has its turn
	}
	for i := 0; i < 8*len(data); i += step {
		flipped[i/8] ^= 1 << (i % 8)
		if f, err := checkpoint.Parse(flipped); err == nil {
			readAll(t, f)
		}
		flipped[i/8] ^= 1 << (i % 8)
	}
}

func TestSafetensorsDamage(t *testing.T) {
	data := sample()
	f, err := checkpoint.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	readAll(t, f)
	damage(t, data)
}

// TestUnalignedValues compares every type with encoding/binary.
func TestUnalignedValues(t *testing.T) {
	f, err := checkpoint.Parse(sample())
	if err != nil {
		t.Fatal(err)
	}
	raw := make([]byte, 5)
	if err := f.ReadBytes("U8", raw); err != nil {
		t.Fatal(err)
	}
	bits := make([]byte, 48)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range bits {
		bits[i] = byte(r.Uint32())
	}
	if !bytes.Equal(raw, bits[:5]) {
		t.Errorf("U8 %v, want %v", raw, bits[:5])
	}
	var i64 [3]int64
	var i32 [3]int32
	var i16 [3]int16
	var i8 [5]int8
	var f64 [3]float64
	for _, into := range []any{&i64, &i32, &i16, &i8, &f64} {
		if err := binary.Read(bytes.NewReader(bits), binary.LittleEndian, into); err != nil {
			t.Fatal(err)
		}
	}
	want := map[string][]int64{"I64": i64[:]}
	for _, v := range i32 {
		want["I32"] = append(want["I32"], int64(v))
	}
	for _, v := range i16 {
		want["I16"] = append(want["I16"], int64(v))
	}
	for i, v := range i8 {
		want["I8"] = append(want["I8"], int64(v))
		want["BOOL"] = append(want["BOOL"], int64(min(bits[i], 1)))
	}
	for name, w := range want {
		got, got32 := make([]int64, len(w)), make([]float32, len(w))
		if err := errors.Join(f.ReadInt64(name, got), f.Read(name, got32)); err != nil || !slices.Equal(got, w) {
			t.Errorf("%s is %v, want %v (%v)", name, got, w, err)
		}
		for i, v := range w {
			if got32[i] != float32(v) {
				t.Errorf("%s[%d] is %v as float32, want %v", name, i, got32[i], float32(v))
			}
		}
	}
	got := make([]float64, 3)
	if err := f.ReadFloat64("F64", got); err != nil || !slices.Equal(got, f64[:]) {
		t.Errorf("F64 is %v, want %v (%v)", got, f64, err)
	}
}

func TestReadRefuses(t *testing.T) {
	f, err := checkpoint.Parse(sample())
	if err != nil {
		t.Fatal(err)
	}
	for want, err := range map[string]error{
		`no tensor "x"`:          f.Read("x", nil),
		"has 3 elements ([3 1])": f.Read("F32", make([]float32, 2)),
		"the destination 4":      f.Read("F32", make([]float32, 4)),
		"is F32, not integers":   f.ReadInt64("F32", make([]int64, 3)),
		"is I16, not bytes":      f.ReadBytes("I16", make([]byte, 3)),
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if _, ok := f.Shape("x"); ok || f.Has("x") {
		t.Error("there is an x")
	}
	if cfg, ok := f.Config(); !ok || cfg["embed_dim"] != 8.0 {
		t.Errorf("config %v", cfg)
	}
	if _, err := checkpoint.Parse(sample(), checkpoint.WithState("ema")); err == nil || !strings.Contains(err.Error(), "it has model") {
		t.Errorf("%v", err)
	}
	f.Close()
	if err := errors.Join(f.Close(), f.Read("F32", make([]float32, 3))); err == nil {
		t.Error("a closed file can be read")
	}
}

func TestWriteRoundTrip(t *testing.T) {
	values := []float32{0, -1, 1.0 / 3, 65504, 7e-6, math.MaxFloat32}
	tensors := []checkpoint.Tensor{
		{Name: "z", Shape: []int{2, 3}, F32: values},
		{Name: `q"<é>`, DType: checkpoint.F16, Shape: []int{5}, F32: values[:5]},
		{Name: "raw", DType: checkpoint.I8, Shape: []int{3}, Data: []byte{1, 2, 255}},
		{Name: "wide", DType: checkpoint.F64, Shape: []int{6, 1}, F32: values},
		{Name: "scalar", Shape: nil, F32: values[2:3]},
		{Name: "none", Shape: []int{0, 4}},
		{Name: "long", Shape: []int{50000}, F32: make([]float32, 50000)},
	}
	meta := map[string]string{"b": "1", "a": "é\n<", "config": "{}"}
	path := filepath.Join(t.TempDir(), "x.safetensors")
	for range 2 { // the second replaces the first
		if err := checkpoint.SaveSafetensors(path, tensors, meta); err != nil {
			t.Fatal(err)
		}
	}
	if left, _ := os.ReadDir(filepath.Dir(path)); len(left) != 1 {
		t.Errorf("files left: %v", left)
	}
	f, err := checkpoint.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var names []string
	for _, x := range tensors {
		names = append(names, x.Name)
		shape, _ := f.Shape(x.Name)
		if dt, _ := f.DType(x.Name); dt != x.DType || !slices.Equal(shape, x.Shape) {
			t.Errorf("%s: %v %v", x.Name, dt, shape)
		}
		got := make([]float32, product(shape))
		if err := f.Read(x.Name, got); err != nil {
			t.Error(err)
		}
		for i, v := range x.F32 {
			if x.DType == checkpoint.F16 {
				v = checkpoint.RoundF16(v)
			}
			if got[i] != v {
				t.Errorf("%s[%d] is %v, want %v", x.Name, i, got[i], v)
			}
		}
	}
	if !slices.Equal(f.Names(), names) || !maps.Equal(f.Metadata(), meta) || f.Format() != "safetensors" || f.State() != "model" {
		t.Errorf("%q %v %q %q", f.Names(), f.Metadata(), f.Format(), f.State())
	}
	var b1, b2 bytes.Buffer
	if err := errors.Join(checkpoint.WriteSafetensors(&b1, tensors, meta), checkpoint.WriteSafetensors(&b2, tensors, meta)); err != nil {
		t.Fatal(err)
	}
	if saved, _ := os.ReadFile(path); !bytes.Equal(b1.Bytes(), b2.Bytes()) || !bytes.Equal(saved, b1.Bytes()) {
		t.Error("the same arguments give different bytes")
	}
	if binary.LittleEndian.Uint64(b1.Bytes())%8 != 0 {
		t.Error("the data is not aligned")
	}
}

func TestWriteRefuses(t *testing.T) {
	for want, x := range map[string]checkpoint.Tensor{
		"name":             {Shape: []int{1}, F32: []float32{1}},
		"reserved":         {Name: "__metadata__", Shape: []int{1}, F32: []float32{1}},
		"has 4097 bytes":   {Name: strings.Repeat("k", 4097), Shape: []int{1}, F32: []float32{1}},
		"not UTF-8":        {Name: "\xff", Shape: []int{1}, F32: []float32{1}},
		"negative":         {Name: "a", Shape: []int{-1}},
		"more than":        {Name: "a", Shape: []int{1 << 20, 1 << 20}},
		"needs 2 elements": {Name: "a", Shape: []int{2}, F32: []float32{1}},
		"needs 4 bytes":    {Name: "a", Shape: []int{1}, Data: []byte{1}},
		"both":             {Name: "a", Shape: []int{1}, F32: []float32{1}, Data: make([]byte, 4)},
		"unknown type":     {Name: "a", DType: 99, Shape: []int{0}},
		"stored as I8":     {Name: "a", DType: checkpoint.I8, Shape: []int{1}, F32: []float32{1}},
	} {
		var b bytes.Buffer
		good := checkpoint.Tensor{Name: "good", Shape: []int{1}, F32: []float32{1}}
		err := checkpoint.WriteSafetensors(&b, []checkpoint.Tensor{good, x}, nil)
		if err == nil || !strings.Contains(err.Error(), want) || b.Len() > 0 {
			t.Errorf("%v with %d bytes written, want %q", err, b.Len(), want)
		}
	}
	a := checkpoint.Tensor{Name: "a", Shape: []int{1}, F32: []float32{1}}
	if err := checkpoint.WriteSafetensors(&bytes.Buffer{}, []checkpoint.Tensor{a, a}, nil); err == nil {
		t.Error("a name is written twice")
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "old.safetensors")
	if err := os.WriteFile(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := checkpoint.SaveSafetensors(path, []checkpoint.Tensor{a, a}, nil); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("%v", err)
	}
	if b, _ := os.ReadFile(path); string(b) != "old" {
		t.Error("a failed save has touched the old file")
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("files left: %v", left)
	}
	if err := checkpoint.SaveSafetensors(filepath.Join(dir, "absent", "x"), nil, nil); err == nil {
		t.Error("saved in a directory that is not there")
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		dir: "is a directory", empty: "empty", filepath.Join(dir, "absent"): "absent",
	} {
		if _, err := checkpoint.Open(path); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func TestMaxHeader(t *testing.T) {
	body := pdict(pstr("w"), ptensor(6, 0, []int64{6}, []int64{1}))
	for what, tc := range map[string]struct {
		data []byte
		need int64 // bytes of the header or pickle
		want string
	}{
		"safetensors": {sample(), int64(binary.LittleEndian.Uint64(sample())), "above the limit"},
		"zip":         {pth(t, body), int64(len(pickle(body))), "above the limit"},
		// The pickles end where the only storage begins: 8 bytes and 6 floats.
		"legacy": {legacy(body, 6), int64(len(legacy(body, 6)) - 32), "the limit"},
	} {
		for limit, ok := range map[int64]bool{0: true, -1: true, tc.need: true, tc.need - 1: false, 1: false} {
			_, err := checkpoint.Parse(tc.data, checkpoint.WithMaxHeader(limit))
			if ok != (err == nil) || !ok && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%s with a limit of %d: %v", what, limit, err)
			}
		}
	}
}

// TestFileShrinks: the pages of a mapping whose file was truncated are gone;
// reading them must not end the process.
func TestFileShrinks(t *testing.T) {
	if !checkpoint.Maps {
		t.Skip("files are read, not mapped")
	}
	raw := "B" + string(binary.LittleEndian.AppendUint32(nil, 9)) + "012345678"
	for what, data := range map[string][]byte{
		"safetensors": sample(),
		"pth":         pth(t, pdict(pstr("F32"), ptensor(6, 0, []int64{3}, []int64{2}), pstr("raw"), raw)),
	} {
		path := filepath.Join(t.TempDir(), "x")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := checkpoint.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, 0); err != nil {
			t.Skip(err)
		}
		errs := map[string]error{"Read": f.Read("F32", make([]float32, 3)), "ReadFloat64": f.ReadFloat64("F32", make([]float64, 3))}
		if what == "safetensors" {
			errs["ReadInt64"] = f.ReadInt64("I64", make([]int64, 3))
			errs["ReadBytes"] = f.ReadBytes("U8", make([]byte, 5))
		}
		for method, err := range errs {
			if err == nil || !strings.Contains(err.Error(), path+": the file cannot be read any more") {
				t.Errorf("%s, %s: %v", what, method, err)
			}
		}
		if x := f.Object(); x != nil {
			t.Errorf("%s: object %v", what, x)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestConcurrentReads is for the race detector.
func TestConcurrentReads(t *testing.T) {
	body := pdict(pstr("a"), ptensor(6, 0, []int64{2, 3}, []int64{1, 2}), pstr("b"), ptensor(6, 0, []int64{6}, []int64{1}))
	for _, data := range [][]byte{sample(), pth(t, body), legacy(body, 6)} {
		f, err := checkpoint.Parse(data)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() { readAll(t, f) })
		}
		wg.Wait()
	}
}

// allocated returns the bytes that do allocates.
func allocated(do func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	do()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}
