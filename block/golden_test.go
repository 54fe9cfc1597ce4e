package block_test

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/mila-go/mila/block"
	"github.com/mila-go/mila/checkpoint"
	"github.com/mila-go/mila/internal/golden"
	"github.com/mila-go/mila/kernels"
)

const tol = 1e-5

// sidecar is the JSON beside a golden model.
type sidecar struct {
	Config    json.RawMessage `json:"config"`
	Seed      uint64          `json:"generator_seed"`
	InputSeed uint64          `json:"input_seed"`
	Batch     int             `json:"batch"`
	Params    int             `json:"params"`
	SHA256    string          `json:"weights_sha256"`
	InputHash string          `json:"input_sha256"`
	Top5      [][]int         `json:"top5"`
	Stats     map[string]struct {
		Mean, Std, Min, Max, L2 float64
		AbsMax                  float64 `json:"abs_max"`
	} `json:"stats_fp64"`
}

func load(t testing.TB, name string) (sidecar, block.Config) {
	var s sidecar
	golden.JSON(t, name, &s)
	cfg, err := block.ParseConfig(s.Config)
	if err != nil {
		t.Fatal(err)
	}
	return s, cfg
}

// image is the documented synthetic image batch.
func image(n, ch, h, w int, seed uint64) []float32 {
	ch32, cw32 := (h+31)/32, (w+31)/32
	coarse, x := make([]float32, n*ch*ch32*cw32), make([]float32, n*ch*h*w)
	block.Generate(coarse, "input.coarse", seed, 0, 2)
	block.Generate(x, "input.fine", seed, 0, 0.5)
	for p := range n * ch {
		for i := range h {
			for j := range w {
				x[(p*h+i)*w+j] += coarse[(p*ch32+i/32)*cw32+j/32]
			}
		}
	}
	return x
}

func hash(parts ...[]float32) string {
	h := sha256.New()
	for _, p := range parts {
		b := make([]byte, 0, 4*len(p))
		for _, v := range p {
			b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
		}
		h.Write(b)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// synthetic returns the generator's weights and checks their hash.
func synthetic(t testing.TB, s sidecar, cfg block.Config) block.Weights {
	w := block.Synthetic(cfg, s.Seed)
	names := w.Names()
	parts := make([][]float32, len(names))
	for i, n := range names {
		shape, _ := w.Shape(n)
		size := 1
		for _, d := range shape {
			size *= d
		}
		parts[i] = make([]float32, size)
		if err := w.Read(n, parts[i]); err != nil {
			t.Fatal(err)
		}
	}
	if got := hash(parts...); got != s.SHA256 {
		t.Fatalf("generated weights hash to %s, want %s", got, s.SHA256)
	}
	return w
}

func TestGenerator(t *testing.T) {
	var g struct {
		Vectors []struct {
			Name      string
			Seed      uint64
			Center, A float64
			Bits      []string `json:"float32_bits"`
		}
	}
	golden.JSON(t, "generator", &g)
	if len(g.Vectors) == 0 {
		t.Fatal("no vectors")
	}
	for _, v := range g.Vectors {
		x := make([]float32, len(v.Bits))
		block.Generate(x, v.Name, v.Seed, v.Center, v.A)
		for i, bits := range v.Bits {
			if got := fmt.Sprintf("%08x", math.Float32bits(x[i])); got != bits {
				t.Errorf("%s seed %d [%d] is %s, want %s", v.Name, v.Seed, i, got, bits)
			}
		}
	}
}

func levels(t *testing.T, f func(t *testing.T, l kernels.Level)) {
	for _, l := range kernels.Levels() {
		t.Run(l.String(), func(t *testing.T) { f(t, l) })
	}
}

// TestGoldenSteps compares every step of every block, run unfused, and every
// block of the fused plan with the golden activations.
func TestGoldenSteps(t *testing.T) {
	for _, name := range []string{"mila_a64", "mila_b96", "mila_c32", "mila_v32"} {
		t.Run(name, func(t *testing.T) {
			levels(t, func(t *testing.T, l kernels.Level) {
				s, cfg := load(t, name)
				if cfg.Params() != s.Params {
					t.Errorf("%d parameters, want %d", cfg.Params(), s.Params)
				}
				acts := golden.Open(t, name+".acts", false)
				weights, x := synthetic(t, s, cfg), acts.F32("input")
				compared := map[string]bool{}
				tap := func(name string, shape []int, data []float32) {
					want := acts.F32(name)
					if want == nil {
						return
					}
					compared[name] = true
					golden.Near(t, name, data[:len(want)], want, tol) // steps hold the first image
				}
				if err := block.Steps(context.Background(), cfg, weights, s.Batch, cfg.ImgSize, cfg.ImgSize, x, tap, block.WithLevel(l)); err != nil {
					t.Fatal(err)
				}
				for _, n := range acts.Names() {
					if n != "input" && !compared[n] {
						t.Errorf("%s was not computed", n)
					}
				}
				clear(compared)
				m, err := block.New(cfg, weights, block.WithLevel(l))
				if err != nil {
					t.Fatal(err)
				}
				p, err := m.Plan(s.Batch, cfg.ImgSize, cfg.ImgSize)
				if err != nil {
					t.Fatal(err)
				}
				p.Tap = tap
				out := block.Output{Logits: make([]float32, s.Batch*cfg.NumClasses), Pooled: make([]float32, len(acts.F32("pooled")))}
				if err := p.Forward(context.Background(), &out, x); err != nil {
					t.Fatal(err)
				}
				golden.Near(t, "logits", out.Logits, acts.F32("logits"), tol)
				golden.Near(t, "pooled", out.Pooled, acts.F32("pooled"), tol)
				for _, n := range acts.Names() {
					if n != "input" && n != "logits" && !strings.Contains(n, ".steps.") && !compared[n] {
						t.Errorf("%s was not tapped", n)
					}
				}
			})
		})
	}
}

// TestGoldenModels runs the real configurations at full size on generated
// weights: samples and statistics of every activation, logits and top-5.
func TestGoldenModels(t *testing.T) {
	names := []string{"mila_t224", "mila_s224", "mila_b224", "mila_t384"}
	if testing.Short() || raceEnabled {
		names = names[:1]
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			s, cfg := load(t, name)
			out := golden.Open(t, name+".out", false)
			m, err := block.New(cfg, synthetic(t, s, cfg))
			if err != nil {
				t.Fatal(err)
			}
			x := image(s.Batch, cfg.InChans, cfg.ImgSize, cfg.ImgSize, s.Seed)
			if s.InputHash != "" && hash(x) != s.InputHash {
				t.Fatal("the generated input differs from the documented one")
			}
			p, err := m.Plan(s.Batch, cfg.ImgSize, cfg.ImgSize)
			if err != nil {
				t.Fatal(err)
			}
			compared := 0
			p.Tap = func(name string, shape []int, data []float32) {
				index := make([]int64, 512)
				want := out.F32("sample_value." + name)
				if want == nil {
					return
				}
				compared++
				index = index[:len(want)]
				if err := out.ReadInt64("sample_index."+name, index); err != nil {
					t.Fatal(err)
				}
				got := make([]float32, len(index))
				for i, at := range index {
					got[i] = data[at]
				}
				st, ok := s.Stats[name]
				if !ok {
					t.Fatalf("no statistics of %s", name)
				}
				for i := range got {
					if d := math.Abs(float64(got[i]) - float64(want[i])); !(d <= tol*st.AbsMax) {
						t.Errorf("%s[%d] is %v, want %v", name, index[i], got[i], want[i])
						break
					}
				}
				statistics(t, name, data, st.Mean, st.Std, st.Min, st.Max, st.L2)
			}
			logits := make([]float32, s.Batch*cfg.NumClasses)
			pooled := make([]float32, s.Batch*cfg.Dim(len(cfg.Depths)-1))
			if err := p.Forward(context.Background(), &block.Output{Logits: logits, Pooled: pooled}, x); err != nil {
				t.Fatal(err)
			}
			golden.Near(t, "logits", logits, out.F32("logits"), tol)
			golden.Near(t, "pooled", pooled, out.F32("pooled"), tol)
			blocks := 0
			for _, d := range cfg.Depths {
				blocks += d
			}
			if compared < blocks+4 {
				t.Errorf("only %d activations were compared", compared)
			}
			for i, want := range s.Top5 {
				if got := top(logits[i*cfg.NumClasses:(i+1)*cfg.NumClasses], len(want)); !slices.Equal(got, want) {
					t.Errorf("image %d: top classes %v, want %v", i, got, want)
				}
			}
		})
	}
}

func statistics(t *testing.T, name string, x []float32, mean, std, lo, hi, l2 float64) {
	t.Helper()
	var sum, sq float64
	gl, gh := math.Inf(1), math.Inf(-1)
	for _, v := range x {
		f := float64(v)
		sum, sq, gl, gh = sum+f, sq+f*f, min(gl, f), max(gh, f)
	}
	n := float64(len(x))
	gm := sum / n
	scale := max(math.Abs(lo), math.Abs(hi))
	for what, pair := range map[string][2]float64{"mean": {gm, mean}, "min": {gl, lo}, "max": {gh, hi}, "std": {math.Sqrt(sq/n - gm*gm), std}} {
		if !(math.Abs(pair[0]-pair[1]) <= tol*scale) {
			t.Errorf("%s: %s is %v, want %v", name, what, pair[0], pair[1])
		}
	}
	if !(math.Abs(math.Sqrt(sq)-l2) <= tol*l2) {
		t.Errorf("%s: l2 norm is %v, want %v", name, math.Sqrt(sq), l2)
	}
}

func top(x []float32, k int) []int {
	index := make([]int, len(x))
	for i := range index {
		index[i] = i
	}
	slices.SortStableFunc(index, func(a, b int) int {
		switch {
		case x[a] > x[b]:
			return -1
		case x[a] < x[b]:
			return 1
		}
		return 0
	})
	return index[:k]
}

// withFeatureNorms adds the norms of feature maps to the generator's weights.
type withFeatureNorms struct {
	block.Weights
	cfg  block.Config
	seed uint64
}

func (w withFeatureNorms) norm(name string) (int, bool) {
	for i := range w.cfg.Depths {
		if p := fmt.Sprintf("norm%d.", i); name == p+"weight" || name == p+"bias" {
			return w.cfg.Dim(i), true
		}
	}
	return 0, false
}

func (w withFeatureNorms) Shape(name string) ([]int, bool) {
	if n, ok := w.norm(name); ok {
		return []int{n}, true
	}
	return w.Weights.Shape(name)
}

func (w withFeatureNorms) Read(name string, dst []float32) error {
	if _, ok := w.norm(name); !ok {
		return w.Weights.Read(name, dst)
	}
	if strings.HasSuffix(name, "bias") {
		block.Generate(dst, name, w.seed, 0, 0.125)
	} else {
		block.Generate(dst, name, w.seed, 1, 0.25)
	}
	return nil
}

// TestGoldenDense compares feature maps, pooled features and logits at sizes
// with every kind of padding.
func TestGoldenDense(t *testing.T) {
	levels(t, func(t *testing.T, l kernels.Level) {
		var s struct {
			sidecar
			Sizes map[string]struct{ Batch int }
		}
		golden.JSON(t, "mila_dense", &s)
		cfg, err := block.ParseConfig(s.Config)
		if err != nil {
			t.Fatal(err)
		}
		out := golden.Open(t, "mila_dense.out", false)
		m, err := block.New(cfg, withFeatureNorms{block.Synthetic(cfg, s.Seed), cfg, s.Seed}, block.WithLevel(l))
		if err != nil {
			t.Fatal(err)
		}
		if len(s.Sizes) < 7 {
			t.Fatalf("sizes %v", s.Sizes)
		}
		for size, spec := range s.Sizes {
			var h, w int
			if _, err := fmt.Sscanf(size, "%dx%d", &h, &w); err != nil {
				t.Fatal(err)
			}
			x := image(spec.Batch, cfg.InChans, h, w, s.InputSeed)
			if want := out.F32(size + ".input"); want != nil {
				golden.Near(t, size+".input", x, want, 0)
			}
			p, err := m.Plan(spec.Batch, h, w)
			if err != nil {
				t.Fatal(err)
			}
			got := block.Output{Logits: make([]float32, spec.Batch*cfg.NumClasses), Pooled: make([]float32, spec.Batch*cfg.Dim(3)), Features: make([][]float32, 4)}
			for i := range got.Features {
				fh, fw := p.FeatureSize(i)
				got.Features[i] = make([]float32, spec.Batch*cfg.Dim(i)*fh*fw)
			}
			if err := p.Forward(context.Background(), &got, x); err != nil {
				t.Fatal(err)
			}
			for i, f := range got.Features {
				golden.Near(t, fmt.Sprintf("%s.feat%d", size, i), f, out.F32(fmt.Sprintf("%s.feat%d", size, i)), tol)
			}
			golden.Near(t, size+".pooled", got.Pooled, out.F32(size+".pooled"), tol)
			golden.Near(t, size+".logits", got.Logits, out.F32(size+".logits"), tol)
		}
	})
}

// TestGoldenCheckpoints runs each official checkpoint layout end to end, with
// the configuration from the file where it has one.
func TestGoldenCheckpoints(t *testing.T) {
	out := golden.Open(t, "ckpt_tiny.out", false)
	_, cfg := load(t, "ckpt_tiny")
	for _, tc := range []struct{ file, state, want string }{
		{"ckpt_tiny_train.pth", "", "logits"}, {"ckpt_tiny_train_ema.pth", "", "logits"}, {"ckpt_tiny_train_ema.pth", "ema", "logits_ema"},
		{"ckpt_tiny_plain.pth", "", "logits"}, {"ckpt_tiny_module.pth", "", "logits"}, {"ckpt_tiny_half.pth", "", "logits_half"},
		{"ckpt_tiny_legacy.pth", "", "logits"}, {"ckpt_tiny.weights.safetensors", "", "logits"},
	} {
		t.Run(tc.file+tc.state, func(t *testing.T) {
			f, err := checkpoint.Open(golden.Path(t, "golden", tc.file), checkpoint.WithState(tc.state))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			use := cfg
			if c, ok := f.Config(); ok {
				if use, err = block.ConfigFromMap(c); err != nil {
					t.Fatal(err)
				}
				if !slices.Equal(use.NumHeads, cfg.NumHeads) || use.NumClasses != cfg.NumClasses {
					t.Fatalf("configuration from the file: %+v", use)
				}
			}
			m, err := block.New(use, f)
			if err != nil {
				t.Fatal(err)
			}
			x := out.F32("input")
			p, err := m.Plan(2, 32, 32)
			if err != nil {
				t.Fatal(err)
			}
			logits := make([]float32, 2*cfg.NumClasses)
			if err := p.Forward(context.Background(), &block.Output{Logits: logits}, x); err != nil {
				t.Fatal(err)
			}
			golden.Near(t, tc.want, logits, out.F32(tc.want), tol)
		})
	}
	// Heads are in no shape and 8 channels are not 32 a head: the error must say so.
	f, err := checkpoint.Open(golden.Path(t, "golden", "ckpt_tiny_plain.pth"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := block.InferConfig(f); err == nil || !strings.Contains(err.Error(), "--config") {
		t.Errorf("inferring the heads of a model with 8 channels: %v", err)
	}
}

// TestGoldenNano runs trained models on the pixels of photographs: the shipped one, and one of four stages where the
// complete collection is there.
func TestGoldenNano(t *testing.T) {
	trained(t, golden.Root(t)+"/models/nano/nano.safetensors", golden.Path(t, "nano", "photos.expected.safetensors"))
	if p, ok := golden.Shared(t, "models", "mila_n_tin200_v0.safetensors"); ok {
		trained(t, p, strings.TrimSuffix(p, "safetensors")+"expected.safetensors")
	}
}

func trained(t *testing.T, weights, expected string) {
	want := golden.OpenFile(t, expected)
	f, err := checkpoint.Open(weights)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	c, _ := f.Config()
	cfg, err := block.ConfigFromMap(c)
	if err != nil {
		t.Fatal(err)
	}
	m, err := block.New(cfg, f)
	if err != nil {
		t.Fatal(err)
	}
	if inferred, err := block.InferConfig(f); err != nil || fmt.Sprint(inferred.Depths, inferred.NumHeads, inferred.NumClasses, inferred.MLPRatio) != fmt.Sprint(cfg.Depths, cfg.NumHeads, cfg.NumClasses, cfg.MLPRatio) {
		t.Errorf("inferred %+v, %v", inferred, err)
	}
	size := cfg.ImgSize
	mean, std := []float64{0.485, 0.456, 0.406}, []float64{0.229, 0.224, 0.225}
	for _, name := range want.Names() {
		name, ok := strings.CutSuffix(name, "pixels_u8")
		if !ok {
			continue
		}
		logits := want.F32(name + "logits")
		n := len(logits) / cfg.NumClasses
		pixels := make([]byte, n*size*size*3)
		if err := want.ReadBytes(name+"pixels_u8", pixels); err != nil {
			t.Fatal(err)
		}
		x := make([]float32, len(pixels))
		for i := range n {
			for p := range size * size {
				for ch := range 3 {
					x[(i*3+ch)*size*size+p] = float32((float64(pixels[(i*size*size+p)*3+ch])/255 - mean[ch]) / std[ch])
				}
			}
		}
		p, err := m.Plan(n, size, size)
		if err != nil {
			t.Fatal(err)
		}
		got := make([]float32, len(logits))
		if err := p.Forward(context.Background(), &block.Output{Logits: got}, x); err != nil {
			t.Fatal(err)
		}
		golden.Near(t, name+"logits", got, logits, 2e-5) // the reference is float32 itself
	}
}
