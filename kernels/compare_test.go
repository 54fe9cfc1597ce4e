package kernels_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/mila-go/mila/internal/guard"
	"github.com/mila-go/mila/kernels"
	"github.com/mila-go/mila/kernels/ref"
)

// The tests here run every level of this machine against kernels/ref on
// buffers that end or begin at an inaccessible page.

type testEnv struct {
	t     testing.TB
	level kernels.Level
	alloc func(n int) []float32
	rng   *rand.Rand
}

// random returns n guarded values in [-2, 2).
func (e *testEnv) random(n int) []float32 {
	x := e.alloc(n)
	for i := range x {
		x[i] = 4*e.rng.Float32() - 2
	}
	return x
}

func (e *testEnv) positive(n int) []float32 {
	x := e.random(n)
	for i := range x {
		x[i] = x[i]*x[i] + 0.1
	}
	return x
}

// near fails unless got is within tol·max|want| of want everywhere.
func (e *testEnv) near(what string, got, want []float32, tol float64) {
	e.t.Helper()
	e.scaled(what, got, want, 1e-30, tol)
}

// scaled is near with a lower bound of the maximum, for sums that may cancel.
func (e *testEnv) scaled(what string, got, want []float32, top, tol float64) {
	e.t.Helper()
	for _, v := range want {
		if a := math.Abs(float64(v)); !math.IsInf(a, 0) && !math.IsNaN(a) {
			top = max(top, a)
		}
	}
	for i := range want {
		g, w := float64(got[i]), float64(want[i])
		if math.IsNaN(g) && math.IsNaN(w) || g == w {
			continue
		}
		if d := math.Abs(g - w); !(d <= tol*top) {
			e.t.Fatalf("%v %s: element %d is %v, want %v (%.2g of the maximum %v)", e.level, what, i, g, w, d/top, top)
		}
	}
}

func eachLevel(t *testing.T, f func(e *testEnv)) {
	for _, level := range kernels.Levels() {
		t.Run(level.String(), func(t *testing.T) {
			guard.Both(t, func(t testing.TB, alloc func(n int) []float32) {
				f(&testEnv{t, level, alloc, rand.New(rand.NewPCG(1, 2))})
			})
		})
	}
}

func copyOf(x []float32) []float32 { return append([]float32(nil), x...) }

var acts = []kernels.Activation{kernels.Identity, kernels.ReLU, kernels.SiLU, kernels.GELU, kernels.ELU1}

func TestGemm(t *testing.T) {
	eachLevel(t, func(e *testEnv) {
		for _, m := range []int{0, 1, 2, 3, 5, 14, 15, 29} {
			for _, n := range []int{0, 1, 3, 4, 7, 16, 31, 33, 48, 65} {
				for _, k := range []int{0, 1, 2, 7, 16, 33} {
					e.gemm(m, n, k, k+m%3, n+k%2, acts[(m+n+k)%len(acts)], m%2 == 0, n%2 == 0, k%2 == 0)
				}
			}
		}
	})
}

func (e *testEnv) gemm(m, n, k, ldx, ldy int, act kernels.Activation, bias, mul, add bool) {
	span := func(rows, cols, ld int) int {
		if rows == 0 || cols == 0 {
			return 0
		}
		return (rows-1)*ld + cols
	}
	if k == 0 {
		ldx = 0
	}
	x, w := e.random(span(m, k, ldx)), e.random(n*k)
	packed := e.alloc(kernels.PackedLen(e.level, n, k))
	kernels.Pack(e.level, packed, w, k, n, k)
	ep := kernels.Epilogue{Act: act}
	if bias {
		ep.Bias = e.random(n)
	}
	if mul {
		ep.Mul, ep.LdMul = e.random(span(m, n, n)), n
	}
	y := e.random(span(m, n, ldy))
	want := copyOf(y)
	if add { // in place
		ep.Add, ep.LdAdd = y, ldy
	}
	rep := ep
	if add {
		rep.Add = copyOf(y)
	}
	ref.Gemm(want, ldy, x, ldx, w, k, m, n, k, rep)
	kernels.Gemm(e.level, y, ldy, x, ldx, packed, m, n, k, ep)
	e.near(fmt.Sprintf("gemm m=%d n=%d k=%d act=%v", m, n, k, act), y, want, 2e-6)
}

func TestConv2D(t *testing.T) {
	eachLevel(t, func(e *testEnv) {
		for _, ks := range []int{1, 2, 3} {
			for _, stride := range []int{1, 2} {
				for _, ci := range []int{1, 3, 8} {
					for _, co := range []int{1, 5, 32} {
						e.conv(ks, stride, ci, co, 1+ci%3, 1+2*co%15, acts[(ks+ci+co)%len(acts)])
					}
				}
			}
		}
	})
}

func (e *testEnv) conv(ks, stride, ci, co, oh, ow int, act kernels.Activation) {
	ih, iw := (oh-1)*stride+ks, (ow-1)*stride+ks
	s := kernels.ConvShape{OutH: oh, OutW: ow, Cin: ci, Cout: co, KH: ks, KW: ks, Stride: stride, RowX: iw*ci + 3, RowY: ow*co + 1}
	x, w := e.random((ih-1)*s.RowX+iw*ci), e.random(co*ci*ks*ks)
	packed := e.alloc(kernels.PackedLen(e.level, co, ks*ks*ci))
	kernels.PackConv(e.level, packed, w, co, ci, ks, ks)
	y := e.random((oh-1)*s.RowY + ow*co)
	ep := kernels.Epilogue{Bias: e.random(co), Act: act, Add: y, LdAdd: s.RowY}
	want, rep := copyOf(y), ep
	rep.Add = copyOf(y)
	ref.Conv2D(want, x, w, s, rep)
	kernels.Conv2D(e.level, y, x, packed, s, ep)
	e.near(fmt.Sprintf("conv %+v", s), y, want, 2e-6)
}

func TestDWConv3x3(t *testing.T) {
	eachLevel(t, func(e *testEnv) {
		for _, hw := range [][2]int{{1, 1}, {1, 4}, {4, 1}, {2, 2}, {3, 3}, {5, 8}, {7, 7}} {
			for _, ch := range []int{1, 3, 4, 8, 15, 16, 17, 33, 64, 257} {
				e.dwconv(hw[0], hw[1], ch)
			}
		}
	})
}

func (e *testEnv) dwconv(h, w, ch int) {
	name := fmt.Sprintf("dwconv h=%d w=%d c=%d", h, w, ch)
	s := kernels.DWShape{H: h, W: w, Ch: ch, LdX: ch + 2*(h%3), LdY: ch + h%2, LdW: ch + w%3}
	span := func(pixels, ld int) int { return (pixels-1)*ld + ch }
	x, pt, bias := e.random(span(h*w, s.LdX)), e.random(9*s.LdW), e.random(ch)
	w9 := e.alloc(9 * s.LdW)
	kernels.PackDW3x3(w9, pt, s.LdW)
	if s.LdW > 1 && w9[s.LdW+1] != pt[9+1] {
		e.t.Fatalf("%s: tap 1 of channel 1 is not where the doc says", name)
	}
	w9 = append(e.alloc(span(9, s.LdW))[:0], w9[:span(9, s.LdW)]...)
	if h == 2 { // without a bias
		bias = nil
	}
	for s.Stride = 1; s.Stride <= 2; s.Stride++ {
		oh := s.OutH()
		for _, act := range acts {
			y := e.random(span(oh*s.OutW(), s.LdY))
			want := copyOf(y)
			s.Row0, s.Row1 = 0, oh
			ref.DWConv3x3(want, x, w9, bias, s, act)
			s.Row1 = oh / 2
			kernels.DWConv3x3(e.level, y, x, w9, bias, s, act)
			s.Row0, s.Row1 = oh/2, oh
			kernels.DWConv3x3(e.level, y, x, w9, bias, s, act)
			e.scaled(name, y, want, 1, 2e-6)
		}
	}
	s.Stride, s.Row0, s.Row1 = 1, 0, h
	y := e.random(span(h*w, s.LdY))
	want := copyOf(y)
	ref.DWConv3x3Residual(want, x, w9, bias, s)
	kernels.DWConv3x3Residual(e.level, y, x, w9, bias, s)
	e.scaled(name+" residual", y, want, 1, 2e-6)
	add, mul := e.random(span(h*w, s.LdY)), e.random(span(h*w, s.LdY))
	ref.DWConv3x3AddMul(want, x, w9, bias, add, mul, s)
	kernels.DWConv3x3AddMul(e.level, y, x, w9, bias, add, mul, s)
	e.scaled(name+" add mul", y, want, 1, 2e-6)
	want = copyOf(add)
	ref.DWConv3x3AddMul(want, x, w9, bias, add, mul, s)
	kernels.DWConv3x3AddMul(e.level, add, x, w9, bias, add, mul, s)
	e.scaled(name+" add mul in place", add, want, 1, 2e-6)
}

func TestDWValid(t *testing.T) {
	eachLevel(t, func(e *testEnv) {
		for _, ch := range []int{1, 7, 8, 9, 16, 17, 40} {
			for _, size := range [][2]int{{1, 1}, {2, 3}, {1, 4}, {3, 9}} {
				for _, k := range []int{1, 5, 7} {
					s := kernels.DWValidShape{OutH: size[0], OutW: size[1], Ch: ch, K: k, LdX: ch + 2, LdY: ch + 1}
					s.RowX = (s.OutW+k-1)*s.LdX + 3
					x := e.random((s.OutH+k-2)*s.RowX + (s.OutW+k-2)*s.LdX + ch)
					w, y := e.random(k*k*ch), e.random((s.OutH*s.OutW-1)*s.LdY+ch)
					for _, bias := range [][]float32{nil, e.random(ch)} {
						want := copyOf(y)
						ref.DWValid(want, x, w, bias, s)
						kernels.DWValid(e.level, y, x, w, bias, s)
						e.scaled(fmt.Sprintf("dwvalid %+v", s), y, want, 1, 5e-6)
					}
				}
			}
		}
	})
}

func TestLinAttn(t *testing.T) {
	eachLevel(t, func(e *testEnv) {
		for _, s := range []kernels.LinAttnShape{
			{H: 1, W: 1, Heads: 1, Dim: 4, T1: 1}, {H: 3, W: 5, Heads: 2, Dim: 8, T1: 15}, {H: 4, W: 4, Heads: 3, Dim: 4, T0: 3, T1: 14},
			{H: 2, W: 9, Heads: 2, Dim: 32, T1: 18}, {H: 1, W: 7, Heads: 1, Dim: 36, T0: 2, T1: 2}, {H: 2, W: 2, Heads: 4, Dim: 257, T1: 4},
			{H: 3, W: 3, Heads: 3, Dim: 32, T0: 1, T1: 9}, {H: 3, W: 3, Heads: 3, Dim: 32, T1: 9, Head0: 1, Head1: 2},
			{H: 2, W: 5, Heads: 2, Dim: 6, T1: 10, Head0: 1}, {H: 2, W: 2, Heads: 2, Dim: 258, T1: 4, Head1: 1},
			{H: 3, W: 7, Heads: 3, Dim: 40, KeyDim: 24, T1: 21}, {H: 3, W: 7, Heads: 3, Dim: 16, KeyDim: 48, T0: 2, T1: 21, SharedKeys: true},
			{H: 2, W: 2, Heads: 2, Dim: 5, KeyDim: 66, T1: 4, Head0: 1}, {H: 9, W: 9, Heads: 2, Dim: 64, KeyDim: 32, T1: 81},
		} {
			for _, rotated := range []bool{true, false} {
				e.linattn(s, rotated)
			}
		}
	})
}

func (e *testEnv) linattn(s kernels.LinAttnShape, rotated bool) {
	name := fmt.Sprintf("linattn %+v rope=%v", s, rotated)
	c, kc := s.Heads*s.Dim, s.KeyChannels()
	_, kd := s.Key(0)
	n := s.H * s.W
	ld := 2*kc + 1
	var rope []float32
	if rotated {
		rope = e.alloc(kernels.RoPE2DLen(s.H, s.W, kc))
		kernels.RoPE2DTable(rope, s.H, s.W, kc, 10000)
	}
	qk, v := e.positive((n-1)*ld+2*kc), e.random(n*c)
	for _, normalised := range []bool{true, false} {
		kv, ksum := e.random(c*kd), e.random(s.Heads*kd)
		if !normalised {
			ksum = nil
		}
		wkv, wksum := copyOf(kv), copyOf(ksum)
		if ksum == nil {
			wksum = nil
		}
		ref.LinAttnKV(wkv, wksum, qk[kc:], ld, v, c, rope, s)
		kernels.LinAttnKV(e.level, kv, ksum, qk[kc:], ld, v, c, rope, s)
		e.near(name+" kv", kv, wkv, 2e-6)
		e.near(name+" ksum", ksum, wksum, 2e-6)
		for i := range ksum {
			ksum[i] = ksum[i]*ksum[i] + 1
		}
		y := e.random(n * c)
		want := copyOf(y)
		ref.LinAttnReadout(want, c, qk, ld, kv, ksum, rope, s, 1e-3)
		kernels.LinAttnReadout(e.level, y, c, qk, ld, kv, ksum, rope, s, 1e-3)
		e.near(name+" readout", y, want, 3e-6)
	}
}

func TestRows(t *testing.T) {
	eachLevel(t, func(e *testEnv) {
		for _, c := range []int{1, 2, 3, 4, 8, 15, 16, 17, 31, 32, 33, 64, 100, 513} {
			for _, rows := range []int{0, 1, 3} {
				e.rows(rows, c)
			}
		}
		for _, hw := range [][2]int{{1, 1}, {2, 5}, {7, 7}} {
			for _, c := range []int{4, 12, 32, 100} {
				e.rope(hw[0], hw[1], c)
			}
		}
	})
}

func (e *testEnv) rope(h, w, c int) {
	table := e.alloc(kernels.RoPE2DLen(h, w, c))
	kernels.RoPE2DTable(table, h, w, c, 10000)
	x, y, want := e.random(h*w*c), e.alloc(h*w*c), make([]float32, h*w*c)
	ref.RoPE2D(want, c, x, c, table, h, w, c, 0, h*w)
	kernels.RoPE2D(e.level, y, c, x, c, table, h, w, c, 0, h*w)
	e.near("rope", y, want, 1e-6)
	kernels.RoPE2D(e.level, x, c, x, c, table, h, w, c, 0, h*w)
	e.near("rope in place", x, want, 1e-6)
}

func (e *testEnv) rows(rows, c int) {
	n := rows * c
	ld := c + 3
	span := max(0, (rows-1)*ld+c)
	if rows == 0 {
		span = 0
	}
	x, gamma, beta := e.random(span), e.random(c), e.random(c)
	y := e.random(span)
	want := copyOf(y)
	for _, affine := range []bool{true, false} {
		if !affine {
			gamma, beta = nil, nil
		}
		ref.LayerNorm(want, ld, x, ld, rows, c, gamma, beta, 1e-5)
		kernels.LayerNorm(e.level, y, ld, x, ld, rows, c, gamma, beta, 1e-5)
		e.near("layernorm", y, want, 5e-6)
		ref.RMSNorm(want, ld, x, ld, rows, c, gamma, 1e-5)
		kernels.RMSNorm(e.level, y, ld, x, ld, rows, c, gamma, 1e-5)
		e.near("rmsnorm", y, want, 2e-6)
	}
	a, b := e.random(n), e.random(n)
	out, wout := e.alloc(n), make([]float32, n)
	scale, shift := e.random(c), e.random(c)
	ref.ScaleShift(wout, a, scale, shift, rows, c)
	kernels.ScaleShift(e.level, out, a, scale, shift, rows, c)
	e.near("scaleshift", out, wout, 1e-6)
	ref.Softmax(wout, a, rows, c)
	kernels.Softmax(e.level, out, a, rows, c)
	e.near("softmax", out, wout, 1e-6)
	ref.Add(wout, a, b)
	kernels.Add(e.level, out, a, b)
	e.near("add", out, wout, 0)
	ref.Mul(wout, a, b)
	kernels.Mul(e.level, out, a, b)
	e.near("mul", out, wout, 0)
	for _, act := range acts {
		ref.Activate(act, wout, a)
		kernels.Activate(e.level, act, out, a)
		e.near(act.String(), out, wout, 1e-6)
	}
	ref.Exp(wout, a)
	kernels.Exp(e.level, out, a)
	e.near("exp", out, wout, 1e-6)
	ref.Erf(wout, a)
	kernels.Erf(e.level, out, a)
	e.near("erf", out, wout, 1e-6)
	ref.Sigmoid(wout, a)
	kernels.Sigmoid(e.level, out, a)
	e.near("sigmoid", out, wout, 1e-6)
	ref.SoftplusAll(wout, a)
	kernels.Softplus(e.level, out, a)
	e.near("softplus", out, wout, 1e-6)
	if rows > 0 {
		mean, wmean := e.alloc(c), make([]float32, c)
		ref.MeanRows(wmean, x, ld, rows, c)
		kernels.MeanRows(e.level, mean, x, ld, rows, c)
		e.near("mean", mean, wmean, 1e-6)
	}
}
