package checkpoint_test

import (
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/mila-go/mila/checkpoint"
	"github.com/mila-go/mila/internal/golden"
)

func open(t *testing.T, name string, opts ...checkpoint.Option) golden.Set {
	t.Helper()
	f, err := checkpoint.Open(golden.Path(t, "golden", name), opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	s := golden.OpenFile(t, golden.Path(t, "golden", "ckpt_tiny.weights.safetensors"))
	s.File = f
	return s
}

func equal(t *testing.T, got, want golden.Set, round func(float32) float32) {
	t.Helper()
	if len(want.Names()) == 0 {
		t.Fatal("no expected tensors")
	}
	for _, name := range want.Names() {
		g, w := got.F32(name), want.F32(name)
		gs, _ := got.Shape(name)
		ws, _ := want.Shape(name)
		if !slices.Equal(gs, ws) {
			t.Errorf("%s: shape %v, want %v", name, gs, ws)
			continue
		}
		for i := range w {
			if math.Float32bits(g[i]) != math.Float32bits(round(w[i])) {
				t.Errorf("%s[%d] is %v, want %v", name, i, g[i], round(w[i]))
				break
			}
		}
	}
}

func same(x float32) float32 { return x }

func TestGoldenCheckpoints(t *testing.T) {
	var meta struct {
		Keys   []string `json:"state_keys"`
		Config struct {
			EmbedDim int   `json:"embed_dim"`
			Depths   []int `json:"depths"`
		}
	}
	golden.JSON(t, "ckpt_tiny", &meta)
	for _, tc := range []struct {
		file, state, format string
		states              int
	}{
		{"ckpt_tiny_train.pth", "", "pth (zip)", 1}, {"ckpt_tiny_train_ema.pth", "model", "pth (zip)", 2},
		{"ckpt_tiny_train_ema.pth", "ema", "pth (zip)", 2}, {"ckpt_tiny_plain.pth", "", "pth (zip)", 1},
		{"ckpt_tiny_module.pth", "", "pth (zip)", 1}, {"ckpt_tiny_legacy.pth", "", "pth (legacy)", 1},
		{"ckpt_tiny_half.pth", "", "pth (zip)", 1},
	} {
		t.Run(tc.file+tc.state, func(t *testing.T) {
			got := open(t, tc.file, checkpoint.WithState(tc.state))
			want, round := "ckpt_tiny.weights", same
			if tc.state == "ema" {
				want = "ckpt_tiny_ema.weights"
			}
			if strings.Contains(tc.file, "half") {
				round = checkpoint.RoundF16
				if dt, _ := got.DType("head.weight"); dt != checkpoint.F16 {
					t.Errorf("head.weight is %v", dt)
				}
			}
			equal(t, got, golden.Open(t, want, false), round)
			if got.Format() != tc.format || len(got.States()) != tc.states {
				t.Errorf("format %q, states %v", got.Format(), got.States())
			}
			if !slices.Equal(got.Names(), meta.Keys) {
				t.Errorf("names are not the state dict's keys in order")
			}
			if n := make([]int64, 1); got.ReadInt64("patch_embed.conv1.norm.num_batches_tracked", n) != nil {
				t.Errorf("the int64 scalar cannot be read")
			}
		})
	}
	f := open(t, "ckpt_tiny_train.pth")
	cfg, ok := f.Config()
	if !ok {
		t.Fatal("no config")
	}
	mlla, _ := cfg["MODEL"].(map[string]any)["MLLA"].(map[string]any)
	var depths []any
	for _, d := range meta.Config.Depths {
		depths = append(depths, int64(d))
	}
	if mlla["EMBED_DIM"] != int64(meta.Config.EmbedDim) || len(depths) == 0 || !reflect.DeepEqual(mlla["DEPTHS"], depths) {
		t.Errorf("MODEL.MLLA is %v", mlla)
	}
	if _, err := checkpoint.Open(golden.Path(t, "golden", "ckpt_tiny_train.pth"), checkpoint.WithState("ema")); err == nil || !strings.Contains(err.Error(), "it has model") {
		t.Errorf("asking for an EMA that is not there: %v", err)
	}
}

func TestMiscObjects(t *testing.T) {
	got, want := open(t, "misc.pth"), golden.Open(t, "misc.expected", false)
	for _, name := range want.Names() {
		path := "nested.tensors." + name
		ws, _ := want.Shape(name)
		gs, ok := got.Shape(path)
		wd, _ := want.DType(name)
		gd, _ := got.DType(path)
		if !ok || !slices.Equal(gs, ws) || gd != wd {
			t.Errorf("%s: %v %v, want %v %v", path, gd, gs, wd, ws)
			continue
		}
		n := len(want.F32(name))
		g, w := make([]float64, n), make([]float64, n)
		if err := got.ReadFloat64(path, g); err != nil {
			t.Fatal(err)
		}
		if err := want.ReadFloat64(name, w); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(g, w) {
			t.Errorf("%s is %v, want %v", path, g, w)
		}
		f32 := make([]float32, n)
		if err := got.Read(path, f32); err != nil || !slices.Equal(f32, want.F32(name)) {
			t.Errorf("%s as float32: %v, %v", path, f32, err)
		}
		if wd.Size() == 1 {
			gb, wb := make([]byte, n), make([]byte, n)
			if err := got.ReadBytes(path, gb); err != nil || want.ReadBytes(name, wb) != nil || !slices.Equal(gb, wb) {
				t.Errorf("%s is %v, want %v (%v)", path, gb, wb, err)
			}
		}
		if wd >= checkpoint.I64 {
			gi, wi := make([]int64, n), make([]int64, n)
			if err := got.ReadInt64(path, gi); err != nil || want.ReadInt64(name, wi) != nil || !slices.Equal(gi, wi) {
				t.Errorf("%s is %v, want %v (%v)", path, gi, wi, err)
			}
		}
	}
	nested := got.Object().(map[string]any)["nested"].(map[string]any)
	if nested["unicode"] != "é中" || nested["neg"] != int64(-1<<40) {
		t.Errorf("plain values: %v %v", nested["unicode"], nested["neg"])
	}
	if b, _ := nested["bytes"].([]byte); len(b) < 2 || b[0] != 0 || b[1] != 255 {
		t.Errorf("bytes: %v", nested["bytes"])
	}
}

// TestOpenCopiesNothing bounds what opening allocates, which must depend on the
// number of tensors only: the weights stay in the mapping.
func TestOpenCopiesNothing(t *testing.T) {
	if !checkpoint.Maps {
		t.Skip("files are read, not mapped")
	}
	// 16 MB that take no place on most disks.
	large := filepath.Join(t.TempDir(), "large.safetensors")
	header := safe(`{"a":{"dtype":"F32","shape":[4194304],"data_offsets":[0,16777216]}}`, 0)
	if err := os.WriteFile(large, header, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(large, int64(len(header))+1<<24); err != nil {
		t.Skip(err)
	}
	for path, limit := range map[string]uint64{
		large: 1 << 16,
		golden.Root(t) + "/models/nano/nano.safetensors":    2 << 20, // of 9.7 MB
		golden.Path(t, "golden", "ckpt_tiny_train_ema.pth"): 2 << 20, // 500 small tensors
	} {
		got := allocated(func() {
			f, err := checkpoint.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
		})
		t.Logf("opening %s allocates %d bytes", path, got)
		if got > limit {
			t.Errorf("opening %s allocates %d bytes, above %d", path, got, limit)
		}
	}
}

// TestNano reads the config and the half-precision weights of the model that
// ships with the module.
func TestNano(t *testing.T) {
	f, err := checkpoint.Open(golden.Root(t) + "/models/nano/nano.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cfg, ok := f.Config()
	if _, isNumber := cfg["embed_dim"].(float64); !ok || !isNumber {
		t.Errorf("config %v", cfg)
	}
	for _, name := range f.Names() {
		shape, _ := f.Shape(name)
		x := make([]float32, product(shape))
		if err := f.Read(name, x); err != nil {
			t.Fatal(err)
		}
		for i, v := range x {
			if v != v || v-v != 0 {
				t.Fatalf("%s[%d] is %v", name, i, v)
			}
		}
	}
}
