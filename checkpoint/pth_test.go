package checkpoint_test

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/big"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/mila-go/mila/checkpoint"
	"github.com/mila-go/mila/internal/golden"
)

// The pickles of these tests, opcode by opcode.

func pstr(s string) string {
	return "X" + string(binary.LittleEndian.AppendUint32(nil, uint32(len(s)))) + s
}

func pint(n int64) string {
	return "\x8a\x08" + string(binary.LittleEndian.AppendUint64(nil, uint64(n)))
}

func pints(n ...int64) string {
	s := "("
	for _, v := range n {
		s += pint(v)
	}
	return s + "t"
}

func pglobal(module, name string) string { return "c" + module + "\n" + name + "\n" }

func pstorage(class, key string, n int64) string {
	return "(" + pstr("storage") + pglobal("torch", class) + pstr(key) + pstr("cpu") + pint(n) + "tQ"
}

// ptensor is a tensor of n float32 in storage 0, pargs what it is rebuilt from.
func ptensor(n, offset int64, shape, strides []int64) string {
	return pglobal("torch._utils", "_rebuild_tensor_v2") + pargs(n, offset, shape, strides) + "R"
}

func pargs(n, offset int64, shape, strides []int64) string {
	return "(" + pstorage("FloatStorage", "0", n) + pint(offset) + pints(shape...) + pints(strides...) +
		"\x89" + pglobal("collections", "OrderedDict") + ")Rt"
}

func pdict(items ...string) string { return "}(" + strings.Join(items, "") + "u" }

func pickle(body string) []byte { return []byte("\x80\x02" + body + ".") }

// archive makes a zip archive of names and contents in turn.
func archive(t testing.TB, method uint16, entries ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for i := 0; i < len(entries); i += 2 {
		e, err := w.CreateHeader(&zip.FileHeader{Name: entries[i], Method: method})
		if err == nil {
			_, err = io.WriteString(e, entries[i+1])
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// pth is an archive of a pickle and, as storage 0, six float32: 0 to 5.
func pth(t testing.TB, body string) []byte {
	var data []byte
	for i := range 6 {
		data, _ = binary.Append(data, binary.LittleEndian, float32(i))
	}
	return archive(t, zip.Store, "x/data.pkl", string(pickle(body)), "x/byteorder", "little", "x/data/0", string(data))
}

// legacy is the same in the legacy format.
func legacy(body string, count uint64) []byte {
	b := []byte("\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.")
	b = append(b, pickle(pint(1001))...)
	b = append(b, pickle(pdict(pstr("little_endian"), "\x88"))...)
	b = append(b, pickle(body)...)
	b = append(b, pickle("]("+pstr("0")+"e")...)
	b = binary.LittleEndian.AppendUint64(b, count)
	for i := range 6 {
		b, _ = binary.Append(b, binary.LittleEndian, float32(i))
	}
	return b
}

func TestViews(t *testing.T) {
	for _, tc := range []struct {
		offset         int64
		shape, strides []int64
		want           []float32
	}{
		{0, []int64{2, 3}, []int64{3, 1}, []float32{0, 1, 2, 3, 4, 5}},
		{0, []int64{3, 2}, []int64{1, 3}, []float32{0, 3, 1, 4, 2, 5}},
		{1, []int64{2, 2}, []int64{3, 1}, []float32{1, 2, 4, 5}},
		{5, []int64{2, 2}, []int64{0, 0}, []float32{5, 5, 5, 5}},
		{5, nil, nil, []float32{5}},
		{2, []int64{1, 2, 1}, []int64{99, 3, 77}, []float32{2, 5}},
		{0, []int64{4, 3}, []int64{1, 1}, []float32{0, 1, 2, 1, 2, 3, 2, 3, 4, 3, 4, 5}},
		{77, []int64{3, 0}, []int64{1, 1}, []float32{}},
		{4, append(slices.Repeat([]int64{1}, 31), 2), slices.Repeat([]int64{1}, 32), []float32{4, 5}},
	} {
		body := pdict(pstr("w"), ptensor(6, tc.offset, tc.shape, tc.strides))
		for _, data := range [][]byte{pth(t, body), legacy(body, 6)} {
			f, err := checkpoint.Parse(data)
			if err != nil {
				t.Errorf("%v: %v", tc, err)
				continue
			}
			got := make([]float32, len(tc.want))
			if err := f.Read("w", got); err != nil || !slices.Equal(got, tc.want) {
				t.Errorf("%s %v: %v %v", f.Format(), tc, got, err)
			}
		}
	}
}

func TestPthRejects(t *testing.T) {
	w := func(n, offset int64, shape, strides []int64) string {
		return pdict(pstr("w"), ptensor(n, offset, shape, strides))
	}
	one := []int64{1}
	good := w(6, 0, []int64{6}, one)
	for what, tc := range map[string]struct{ body, want string }{
		"too many elements":   {w(7, 0, []int64{6}, one), `tensor "w": its storage "0" should have 7 elements of F32`},
		"huge storage":        {w(1<<62, 0, []int64{6}, one), "should have"},
		"negative storage":    {w(-1, 0, []int64{6}, one), "without type, key or size"},
		"beyond":              {w(6, 1, []int64{6}, one), "does not lie within"},
		"offset":              {w(6, 6, nil, nil), "does not lie within"},
		"huge offset":         {w(6, 1<<62, nil, nil), "no usable integers"},
		"negative offset":     {w(6, -1, nil, nil), "no usable integers"},
		"negative stride":     {w(6, 5, []int64{6}, []int64{-1}), "negative stride"},
		"negative dimension":  {w(6, 0, []int64{-1}, one), "negative dimension"},
		"overflowing extent":  {w(6, 5, []int64{3, 3}, []int64{1<<31 - 1, 1<<31 - 1}), "does not lie within"},
		"overflowing extent2": {w(6, 0, []int64{1<<31 - 1}, []int64{1<<31 - 1}), "does not lie within"},
		"overflowing shape":   {w(6, 0, []int64{1 << 30, 1 << 30}, []int64{0, 0}), "more than"},
		"huge dimension":      {w(6, 0, []int64{1 << 32}, []int64{0}), "no usable integers"},
		"expanded":            {w(6, 0, []int64{1 << 23}, []int64{0}), "save a contiguous copy"},
		"strides":             {w(6, 0, []int64{6}, []int64{1, 1}), "2 strides for 1 dimensions"},
		"dimensions":          {w(6, 0, make([]int64, 33), make([]int64, 33)), "no usable integers"},
		"missing storage":     {pdict(pstr("w"), pstorage("FloatStorage", "7", 1)), "is missing from the archive"},
		"complex":             {strings.ReplaceAll(good, "FloatStorage", "ComplexFloatStorage"), `tensor "w": its type "torch.ComplexFloatStorage" is not supported`},
		"no arguments":        {pdict(pstr("w"), pglobal("torch._utils", "_rebuild_tensor_v2")+")R"), "has 0 arguments"},
		"no storage":          {pdict(pstr("w"), pglobal("torch._utils", "_rebuild_tensor_v2")+"(NNNNtR"), "storage is missing"},
		"not a storage":       {pdict(pstr("w"), "NQ"), "no storage"},
		"protocol 0 id":       {"Pabc\n", "no storage"},
		"a whole module":      {pglobal("models.mila", "MILA") + ")\x81}b", `class "models.mila.MILA", not a state dict`},
		"one name twice":      {pdict(pstr("a"), pdict(pint(1), ptensor(6, 0, one, one), pstr("1"), ptensor(6, 0, one, one))), `tensor "a.1" appears twice`},
		"underflow":           {"0", "the stack is empty"},
		"below the mark":      {"}(a", "the stack is empty"},
		"no mark":             {"}u", "there is no mark"},
		"odd items":           {"}(Nu", "items set on"},
		"append to number":    {pint(1) + "Na", "an append to what is no list"},
		"no memo":             {"h\x05", "nothing was stored under 5"},
		"memo index":          {"Nr\xff\xff\xff\x7f", "out of sequence"},
		"memo negative":       {"Np-1\n", "is no index"},
		"long4":               {"\x8b\xff\xff\xff\x7f", "bytes are wanted"},
		"long4 sign":          {"\x8b\xff\xff\xff\xff", "bytes are wanted"},
		"long integer":        {"\x8b\x01\x08\x00\x00" + strings.Repeat("x", 3000), "an integer of 2049 bytes"},
		"long decimal":        {"L" + strings.Repeat("9", 3000) + "L\n", "an integer of 3001 digits"},
		"binbytes8":           {"\x8e\xff\xff\xff\xff\xff\xff\xff\xff", "bytes are wanted"},
		"binunicode8":         {"\x8d\x00\x00\x00\x00\x00\x00\x00\x40", "bytes are wanted"},
		"call":                {"NNR", "a call without arguments"},
		"class name":          {"NN\x93", "a class name that is no string"},
		"line":                {"I12", "a line does not end"},
		"quotes":              {"Sx\n", "without quotes"},
		"float":               {"F" + strings.Repeat("x", 9999) + "\n", "is no float64"},
		"index":               {"g" + strings.Repeat("9", 9999) + "\n", "is no index"},
		"opcode":              {"\xff", "opcode 0xff"},
		"extension":           {"\x82\x01", "opcode 0x82"},
	} {
		f, err := checkpoint.Parse(pth(t, tc.body))
		if err == nil {
			t.Errorf("%s: accepted with %v", what, f.Names())
		} else if !strings.Contains(err.Error(), tc.want) || len(err.Error()) > 1000 {
			t.Errorf("%s: %v, want %q", what, err, tc.want)
		}
		if _, err := checkpoint.Parse(legacy(tc.body, 6)); err == nil {
			t.Errorf("%s: accepted in the legacy format", what)
		}
	}
	for what, tc := range map[string]struct {
		data []byte
		want string
	}{
		"compressed":      {archive(t, zip.Deflate, "x/data.pkl", strings.Repeat("N", 999)), "is compressed or encrypted"},
		"no pickle":       {archive(t, zip.Store, "x/y", "z"), "has 0 data.pkl"},
		"nothing":         {archive(t, zip.Store), "has 0 data.pkl"},
		"two pickles":     {archive(t, zip.Store, "x/data.pkl", "N.", "y/data.pkl", "N."), "has 2 data.pkl"},
		"same name":       {archive(t, zip.Store, "x/data.pkl", "N.", "x/data.pkl", "N."), "two entries"},
		"big endian":      {archive(t, zip.Store, "x/data.pkl", "N.", "x/byteorder", "big"), `byte order is "big"`},
		"TorchScript":     {archive(t, zip.Store, "x/data.pkl", "N.", "x/constants.pkl", "N."), "TorchScript"},
		"empty pickle":    {archive(t, zip.Store, "x/data.pkl", ""), "bytes are wanted"},
		"legacy count":    {legacy(good, 7), `the storage "0" should have 7 elements of F32 but 24 bytes are left`},
		"legacy overflow": {legacy(good, 1<<63+6), "should have"},
		"legacy short":    {legacy(good, 5), `tensor "w": its storage "0" should have 6`},
		"another pickle":  {pickle(pint(5)), "not one of torch.save"},
	} {
		if _, err := checkpoint.Parse(tc.data); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", what, err, tc.want)
		}
	}
}

func TestPthDamage(t *testing.T) {
	misc, err := os.ReadFile(golden.Path(t, "golden", "misc.pth"))
	if err != nil {
		t.Fatal(err)
	}
	body := pdict(pstr("model"), pdict(pstr("w"), ptensor(6, 0, []int64{2, 3}, []int64{1, 2}), pstr("n"), pint(1)), pstr("epoch"), pint(3))
	for _, data := range [][]byte{misc, pth(t, body), legacy(body, 6)} {
		f, err := checkpoint.Parse(data)
		if err != nil {
			t.Fatal(err)
		}
		readAll(t, f)
		damage(t, data)
	}
}

// TestStates covers what the golden files have no case of.
func TestStates(t *testing.T) {
	one := ptensor(6, 1, nil, nil)
	two := ptensor(6, 2, nil, nil)
	for _, tc := range []struct {
		body, state string
		names       []string
		want        float32
		err         string
	}{
		{pdict(pstr("w"), one), "ema", nil, 0, `no state "ema" in this file; it has model`},
		{pdict(pstr("w"), one), "average", nil, 0, `no state "average"`},
		{pdict(pstr("model_ema"), pdict(pstr("w"), two)), "", nil, 0, `no state "model" in this file; it has ema`},
		{pdict(pstr("model_ema"), pdict(pstr("w"), two)), "ema", []string{"w"}, 2, ""},
		{pdict(pstr("state_dict"), pdict(pstr("module.w"), one), pstr("state_dict_ema"), pdict(pstr("module.w"), two)), "ema", []string{"w"}, 2, ""},
		{pdict(pstr("module.w"), one, pstr("module"), one), "", []string{"module.w", "module"}, 1, ""},
		{pdict(pstr("module.w"), one, pstr("step"), pint(4)), "", []string{"w"}, 1, ""},
		{pdict(pstr("w"), one, pint(4), two), "", []string{"w"}, 1, ""}, // the key 4 is no parameter's
		{pdict(pstr("list"), "]("+one+two+"e"), "", []string{"list.0", "list.1"}, 1, ""},
		{pdict(pint(7), pdict("\x88", one), "("+pint(1)+pint(2)+"t", two), "", []string{"7.true", "1,2"}, 1, ""},
		{"N", "", nil, 0, ""},
		// A subclass of Tensor, a Parameter, an untyped storage.
		{pdict(pstr("w"), pglobal("torch._tensor", "_rebuild_from_type_v2")+"("+pglobal("torch._utils", "_rebuild_tensor_v2")+
			pglobal("mine", "Tensor")+pargs(6, 1, nil, nil)+"NtR"), "", []string{"w"}, 1, ""},
		{pdict(pstr("w"), pglobal("torch._utils", "_rebuild_parameter")+"("+one+"\x88NtR"), "", []string{"w"}, 1, ""},
		{pdict(pstr("w"), pglobal("torch._utils", "_rebuild_tensor_v3")+"("+pstorage("UntypedStorage", "0", 24)+pint(1)+")"+")"+"\x89N"+pglobal("torch", "float32")+"tR"), "", []string{"w"}, 1, ""},
	} {
		f, err := checkpoint.Parse(pth(t, tc.body), checkpoint.WithState(tc.state))
		if tc.err != "" {
			if err == nil || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("%v, want %q", err, tc.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%q: %v", tc.names, err)
			continue
		}
		if !slices.Equal(f.Names(), tc.names) {
			t.Errorf("%q, want %q", f.Names(), tc.names)
			continue
		}
		got := make([]float32, 1)
		if len(tc.names) > 0 && (f.Read(tc.names[0], got) != nil || got[0] != tc.want) {
			t.Errorf("%q is %v, want %v", tc.names, got, tc.want)
		}
	}
}

// TestObject: every other class keeps what it was made of and does nothing.
func TestObject(t *testing.T) {
	body := pdict(
		pstr("evil"), pglobal("os", "system")+"("+pstr("touch /tmp/x")+"tR",
		pstr("evil2"), pglobal("builtins", "getattr")+"("+pglobal("os", "path")+pstr("x")+"tR)R",
		pstr("dict"), pglobal("yacs.config", "CfgNode")+")\x81"+pdict(pstr("A"), pint(1))[1:]+"}b",
		pstr("ns"), pglobal("argparse", "Namespace")+")\x81"+pdict(pstr("lr"), "G?\xe0\x00\x00\x00\x00\x00\x00")+"b",
		pstr("list"), "](NK\x01M\x01\x01J\xff\xff\xff\xffF1.5\nI01\nL12L\ne",
		pstr("text"), "(S'a'\nVb\nU\x01c\x8c\x01d\x8d\x01\x00\x00\x00\x00\x00\x00\x00et",
		pstr("bytes"), "C\x02\x00\xff",
		pstr("set"), "\x8f("+pint(3)+"\x90",
		pstr("size"), pglobal("torch", "Size")+"("+pints(2, 3)+"tR",
		pstr("class"), pglobal("torch", "float32"),
		pstr("big"), "\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x00\x80",
		pstr("tensor"), "]"+ptensor(6, 0, []int64{2, 3}, []int64{3, 1})+"a",
		pstr("config"), "}"+pstr("x")+"Ns",
	)
	want := map[string]any{
		"evil":   map[string]any{"__class__": "os.system", "__args__": []any{"touch /tmp/x"}},
		"evil2":  map[string]any{"__class__": "call of builtins.getattr"},
		"dict":   map[string]any{"A": int64(1)},
		"ns":     map[string]any{"__class__": "argparse.Namespace", "__state__": map[string]any{"lr": 0.5}},
		"list":   []any{nil, int64(1), int64(257), int64(-1), 1.5, true, int64(12)},
		"text":   []any{"a", "b", "c", "d", "e"},
		"bytes":  []byte{0, 255},
		"set":    []any{int64(3)},
		"size":   []any{int64(2), int64(3)},
		"class":  "torch.float32",
		"big":    new(big.Int).Lsh(big.NewInt(-1), 71),
		"tensor": []any{[]int{2, 3}},
		"config": map[string]any{"x": nil},
	}
	f, err := checkpoint.Parse(pth(t, body))
	if err != nil {
		t.Fatal(err)
	}
	got := f.Object().(map[string]any)
	for k, w := range want {
		if b, ok := w.(*big.Int); ok {
			if g, ok := got[k].(*big.Int); !ok || g.Cmp(b) != 0 {
				t.Errorf("%s is %v, want %v", k, got[k], b)
			}
		} else if !reflect.DeepEqual(got[k], w) {
			t.Errorf("%s is %#v, want %#v", k, got[k], w)
		}
	}
	if !slices.Equal(f.Names(), []string{"tensor.0"}) {
		t.Errorf("%q", f.Names())
	}
	if cfg, ok := f.Config(); !ok || !reflect.DeepEqual(cfg, want["config"]) {
		t.Errorf("config %v", cfg)
	}
}

// TestBombs: small files that ask for much. Each must end quickly and cost no
// more than a small multiple of its size, whether it is accepted or not.
func TestBombs(t *testing.T) {
	const n = 1 << 17
	memo := func(i int) string { return "r" + string(binary.LittleEndian.AppendUint32(nil, uint32(i))) }
	laughs := "]" + memo(0) + "0" + "](" + strings.Repeat("N", 10) + "e" + memo(1)
	for i := range 60 {
		laughs += "0](" + strings.Repeat("h"+string(rune(1+i)), 10) + "e" + memo(2+i)
	}
	key := strings.Repeat("k", n)
	tensors := "](" + ptensor(6, 0, nil, nil) + memo(1) + strings.Repeat("h\x01", n) + "e"
	self := "}" + memo(1) + "(" + pstr("a") + "h\x01"
	for i := range n / 8 {
		self += pstr(fmt.Sprint(i)) + "N"
	}
	for what, body := range map[string]string{
		"stack":          strings.Repeat("N", n),
		"marks":          strings.Repeat("(", n),
		"lists":          strings.Repeat("]", n),
		"nested lists":   strings.Repeat("]", n) + strings.Repeat("a", n-1),
		"nested tuples":  "N" + strings.Repeat("\x85", n),
		"dictionaries":   strings.Repeat("}", n),
		"memo":           "N" + strings.Repeat("\x94", n),
		"sparse memo":    pstr(key) + "r\x00\x00\x01\x00",
		"calls":          pglobal("a", "b") + memo(0) + strings.Repeat("h\x00)R", n/4),
		"laughs":         laughs,
		"contains self":  "]" + memo(0) + "h\x00a",
		"dict in itself": self + "u",
		"encode":         pglobal("_codecs", "encode") + memo(0) + "0(" + pstr(key) + pstr("latin1") + "t" + memo(1) + "0](" + strings.Repeat("h\x00h\x01R", n/8) + "e",
		"copies":         pglobal("builtins", "dict") + memo(0) + "0](" + strings.Repeat("(NNt", n/16) + "e\x85" + memo(1) + "0](" + strings.Repeat("h\x00h\x01R", n/8) + "e",
		"sets":           pglobal("builtins", "set") + memo(0) + "0](" + strings.Repeat("N", n) + "e\x85" + memo(1) + "0](" + strings.Repeat("h\x00h\x01R", n/8) + "e",
		"long path":      pdict(pstr(key), tensors),
		"many paths":     tensors,
		"deep paths":     pdict(pstr(key[:1000]), pdict(pstr(key[:1000]), tensors)),
		"nested calls":   pglobal("a", "b") + strings.Repeat(")R", n/2),
		"big numbers":    "]" + "\x8b\x00\x04\x00\x00" + key[:1024] + memo(1) + "0](" + strings.Repeat("h\x01", n) + "e",
		"expanded":       pdict(pstr("a"), ptensor(6, 0, []int64{1 << 22}, []int64{0}), pstr("b"), ptensor(6, 0, []int64{1 << 22}, []int64{0}), pstr("c"), ptensor(6, 0, []int64{1 << 22}, []int64{0}), pstr("d"), ptensor(6, 0, []int64{1 << 22}, []int64{0}), pstr("e"), ptensor(6, 0, []int64{1 << 22}, []int64{0})),
	} {
		// The tensor in front lets the legacy reader come to its second pass.
		body = ptensor(6, 0, nil, nil) + "0" + body
		for _, data := range [][]byte{pth(t, body), legacy(body, 6)} {
			var f *checkpoint.File
			var err error
			cost := allocated(func() {
				if f, err = checkpoint.Parse(data); err == nil {
					f.Object()
				}
			})
			// Per byte of input at most an opcode, at most two passes, each with
			// a value of some 100 bytes, its place on the stack and in the memo.
			if limit := uint64(512*len(data) + 1<<20); cost > limit {
				t.Errorf("%s: %d bytes of input allocate %d (%.60v)", what, len(data), cost, err)
			}
		}
	}
	if _, err := checkpoint.Parse(pth(t, strings.Repeat("N", 5_000_000))); err == nil || !strings.Contains(err.Error(), "opcodes") {
		t.Errorf("%v", err)
	}
	// The same for a header.
	for what, data := range map[string][]byte{
		"brackets":   safe(`{"a":`+strings.Repeat("[", n), 0),
		"dimensions": safe(`{"a":{"dtype":"F32","shape":[1`+strings.Repeat(",1", n)+`],"data_offsets":[0,4]}}`, 4),
		"names":      safe(`{"__metadata__":{`+strings.Repeat(`"":"",`, n)+`}}`, 4),
	} {
		cost := allocated(func() {
			if _, err := checkpoint.Parse(data); err == nil {
				t.Errorf("%s: accepted", what)
			}
		})
		if cost > uint64(64*len(data)+1<<20) {
			t.Errorf("%s: %d bytes of input allocate %d", what, len(data), cost)
		}
	}
}
