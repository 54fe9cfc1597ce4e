package kernels_test

import (
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/mila-go/mila/internal/golden"
	"github.com/mila-go/mila/kernels"
)

type sizes map[string]any

func (s sizes) int(key string) int { v, _ := s[key].(float64); return int(v) }

// goldenCases runs f for each case of a golden set at each level. The complete set must
// have all cases, a selection at least one.
func goldenCases(t *testing.T, name, only string, f func(t *testing.T, l kernels.Level, s golden.Set, id string, c sizes)) {
	set := golden.Open(t, name, true)
	_, complete := golden.Shared(t, "golden", name+".safetensors")
	var cases map[string]sizes
	golden.JSON(t, name, &cases)
	for _, l := range kernels.Levels() {
		ran := 0
		for id, c := range cases {
			there := slices.ContainsFunc(set.Names(), func(n string) bool { return strings.HasPrefix(n, id+".") })
			switch {
			case !strings.HasPrefix(id, only):
			case there:
				f(t, l, set, id, c)
				ran++
			case complete:
				t.Errorf("%v: case %s of %s has no tensors", l, id, name)
			}
		}
		if ran == 0 {
			t.Fatalf("no case of %s ran", name)
		}
		t.Logf("%v: %d cases of %s", l, ran, name)
	}
}

func TestGoldenLinear(t *testing.T) {
	goldenCases(t, "linear", "g", func(t *testing.T, l kernels.Level, s golden.Set, id string, c sizes) {
		m, n, k := c.int("M"), c.int("N"), c.int("K")
		w := s.F32(id + ".weight")
		packed := make([]float32, kernels.PackedLen(l, n, k))
		kernels.Pack(l, packed, w, k, n, k)
		y := make([]float32, m*n)
		kernels.Gemm(l, y, n, s.F32(id+".x"), k, packed, m, n, k, kernels.Epilogue{Bias: s.F32(id + ".bias")})
		golden.Near(t, id, y, s.F32(id+".y"), 2e-6)
	})
}

func TestGoldenSoftmax(t *testing.T) {
	set := golden.Open(t, "linear", true)
	for _, l := range kernels.Levels() {
		for id := range set.Cases() {
			if shape, ok := set.Shape(id + ".x"); ok && strings.HasPrefix(id, "softmax") {
				x := set.F32(id + ".x")
				n := shape[len(shape)-1]
				y := make([]float32, len(x))
				kernels.Softmax(l, y, x, len(x)/max(n, 1), n)
				golden.Near(t, id, y, set.F32(id+".y"), 2e-6)
			}
		}
	}
}

func TestGoldenConv2D(t *testing.T) {
	goldenCases(t, "conv2d", "", func(t *testing.T, l kernels.Level, s golden.Set, id string, c sizes) {
		n, h, w, ci, co := c.int("N"), c.int("H"), c.int("W"), c.int("Cin"), c.int("Cout")
		k, stride, pad := c.int("k"), c.int("stride"), c.int("pad")
		packed := make([]float32, kernels.PackedLen(l, co, k*k*ci))
		kernels.PackConv(l, packed, s.F32(id+".weight"), co, ci, k, k)
		ph, pw := h+2*pad, w+2*pad
		oh, ow := (ph-k)/stride+1, (pw-k)/stride+1
		x, y := s.F32(id+".x"), make([]float32, n*oh*ow*co)
		for i := range n {
			padded := make([]float32, ph*pw*ci)
			for r := range h {
				copy(padded[((r+pad)*pw+pad)*ci:], x[(i*h+r)*w*ci:(i*h+r+1)*w*ci])
			}
			kernels.Conv2D(l, y[i*oh*ow*co:], padded, packed, kernels.ConvShape{
				OutH: oh, OutW: ow, Cin: ci, Cout: co, KH: k, KW: k, Stride: stride, RowX: pw * ci, RowY: ow * co}, kernels.Epilogue{Bias: s.F32(id + ".bias")})
		}
		golden.Near(t, id, y, s.F32(id+".y"), 2e-6)
	})
}

func TestGoldenDWConv3x3(t *testing.T) {
	goldenCases(t, "dwconv3x3", "", func(t *testing.T, l kernels.Level, s golden.Set, id string, c sizes) {
		n, h, w, ch, stride, oh, ow := c.int("N"), c.int("H"), c.int("W"), c.int("C"), c.int("stride"), c.int("OH"), c.int("OW")
		w9 := make([]float32, 9*ch)
		kernels.PackDW3x3(w9, s.F32(id+".weight"), ch)
		x, y := s.F32(id+".x"), make([]float32, n*oh*ow*ch)
		for i := range n {
			kernels.DWConv3x3(l, y[i*oh*ow*ch:], x[i*h*w*ch:], w9, s.F32(id+".bias"), kernels.DWShape{H: h, W: w, Ch: ch, Stride: stride, Row0: 0, Row1: oh}, kernels.Identity)
		}
		golden.Near(t, id, y, s.F32(id+".y"), 2e-6)
	})
}

func TestGoldenNorms(t *testing.T) {
	goldenCases(t, "norms", "ln", func(t *testing.T, l kernels.Level, s golden.Set, id string, c sizes) {
		rows, ch := c.int("rows"), c.int("C")
		y := make([]float32, rows*ch)
		kernels.LayerNorm(l, y, ch, s.F32(id+".x"), ch, rows, ch, s.F32(id+".weight"), s.F32(id+".bias"), 1e-5)
		tol := 2e-6
		switch data := c["data"]; {
		case data == "const":
			tol = 1e-4
		case data == "offset":
			tol = 2e-5
		case ch <= 2:
			tol = 1e-5
		}
		golden.Near(t, id, y, s.F32(id+".y"), tol)
	})
	goldenCases(t, "norms", "bn", func(t *testing.T, l kernels.Level, s golden.Set, id string, c sizes) {
		gamma := s.F32(id + ".weight")
		ch := len(gamma)
		scale, shift := make([]float64, ch), make([]float64, ch)
		kernels.FoldBatchNorm(scale, shift, gamma, s.F32(id+".bias"), s.F32(id+".running_mean"), s.F32(id+".running_var"), 1e-5)
		sc, sh := make([]float32, ch), make([]float32, ch)
		for i := range sc {
			sc[i], sh[i] = float32(scale[i]), float32(shift[i])
		}
		x := s.F32(id + ".x")
		y := make([]float32, len(x))
		kernels.ScaleShift(l, y, x, sc, sh, len(x)/ch, ch)
		golden.Near(t, id, y, s.F32(id+".y"), 2e-6)
	})
}

func TestGoldenRoPE(t *testing.T) {
	goldenCases(t, "rope2d", "", func(t *testing.T, l kernels.Level, s golden.Set, id string, c sizes) {
		n, h, w, ch := c.int("N"), c.int("H"), c.int("W"), c.int("C")
		table := make([]float32, kernels.RoPE2DLen(h, w, ch))
		kernels.RoPE2DTable(table, h, w, ch, float64(c.int("base")))
		x := s.F32(id + ".x")
		y := make([]float32, len(x))
		for i := range n {
			kernels.RoPE2D(l, y[i*h*w*ch:], ch, x[i*h*w*ch:], ch, table, h, w, ch, 0, h*w)
		}
		golden.Near(t, id, y, s.F32(id+".y"), 5e-6)
	})
}

// TestGoldenLinAttn checks the non-causal cases: the state, and both forms of
// the normaliser.
func TestGoldenLinAttn(t *testing.T) {
	goldenCases(t, "linattn", "nc", func(t *testing.T, l kernels.Level, s golden.Set, id string, c sizes) {
		b, n, heads, d := c.int("B"), c.int("N"), c.int("H"), c.int("K")
		ch := heads * d
		q, k, v := s.F32(id+".q"), s.F32(id+".k"), s.F32(id+".v")
		kernels.Activate(l, kernels.ELU1, q, q)
		kernels.Activate(l, kernels.ELU1, k, k)
		kv, ksum := make([]float32, b*ch*d), make([]float32, b*ch)
		exact, mean := make([]float32, b*n*ch), make([]float32, b*n*ch)
		shape := kernels.LinAttnShape{H: 1, W: n, Heads: heads, Dim: d, T1: n}
		for i := range b {
			kvi, si := kv[i*ch*d:(i+1)*ch*d], ksum[i*ch:(i+1)*ch]
			kernels.LinAttnKV(l, kvi, si, k[i*n*ch:], ch, v[i*n*ch:], ch, nil, shape)
			kernels.LinAttnReadout(l, exact[i*n*ch:], ch, q[i*n*ch:], ch, kvi, si, nil, shape, 0)
			kernels.LinAttnReadout(l, mean[i*n*ch:], ch, q[i*n*ch:], ch, kvi, si, nil, shape, 1e-6*float32(n))
		}
		golden.Near(t, id+".kv", kv, s.F32(id+".kv"), 1e-5)
		golden.Near(t, id+".o_exact", exact, s.F32(id+".o_exact"), 1e-5)
		golden.Near(t, id+".o_mean_eps", mean, s.F32(id+".o_mean_eps"), 1e-5)
	})
}

func TestGoldenActivations(t *testing.T) {
	s := golden.Open(t, "activations", false)
	x := s.F32("x")
	of := func(a kernels.Activation) func(l kernels.Level, y, x []float32) {
		return func(l kernels.Level, y, x []float32) { kernels.Activate(l, a, y, x) }
	}
	for name, f := range map[string]func(l kernels.Level, y, x []float32){
		"relu": of(kernels.ReLU), "silu": of(kernels.SiLU), "gelu_erf": of(kernels.GELU), "elu_plus_1": of(kernels.ELU1),
		"exp": kernels.Exp, "erf": kernels.Erf, "sigmoid": kernels.Sigmoid, "softplus": kernels.Softplus,
	} {
		want := s.F32(name)
		if want == nil {
			t.Fatalf("no golden values of %s", name)
		}
		for _, l := range kernels.Levels() {
			y := make([]float32, len(x))
			f(l, y, x)
			for i, w := range want {
				g := float64(y[i])
				if math.IsNaN(float64(w)) != math.IsNaN(g) || !math.IsNaN(g) && g != float64(w) && !(math.Abs(g-float64(w)) <= 1e-6*max(1, math.Abs(float64(w)))) {
					t.Errorf("%v %s(%v) = %v, want %v", l, name, x[i], y[i], w)
				}
			}
		}
	}
}
