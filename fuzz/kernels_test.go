package fuzz_test

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/mila-go/mila/internal/guard"
	"github.com/mila-go/mila/kernels"
	"github.com/mila-go/mila/kernels/ref"
)

// source makes operands from a fuzzed seed: mostly ordinary values, and where
// special is set a few zeros, subnormals, infinities and NaNs.
type source struct {
	rng     *rand.Rand
	special bool
	alloc   func(int) []float32
}

// specials has no huge finite values: sums of those overflow in float32 and not
// in the definition's float64, which is the difference between the two, no fault.
var specials = []float32{0, float32(math.Copysign(0, -1)), 1e-45, -1e-40, 1e-30, float32(math.Inf(1)), float32(math.Inf(-1)), float32(math.NaN())}

func (s source) values(n int) []float32 {
	x := s.alloc(n)
	for i := range x {
		x[i] = 4*s.rng.Float32() - 2
		if s.special && s.rng.IntN(50) == 0 {
			x[i] = specials[s.rng.IntN(len(specials))]
		}
	}
	return x
}

// each runs f at every level on guarded buffers.
func each(t *testing.T, seed uint64, special bool, f func(l kernels.Level, s source)) {
	for _, l := range kernels.Levels() {
		guard.Both(t, func(_ testing.TB, alloc func(int) []float32) {
			f(l, source{rand.New(rand.NewPCG(seed, 1)), special, alloc})
		})
	}
}

// close fails unless got is want within tol of the larger of scale and |want|.
// What is infinite or NaN must be the same in both.
func close(t *testing.T, what string, l kernels.Level, got, want []float32, scale, tol float64) {
	t.Helper()
	for i, w := range want {
		g, w := float64(got[i]), float64(w)
		if g == w || math.IsNaN(g) && math.IsNaN(w) || math.Abs(g-w) <= tol*max(scale, math.Abs(w)) && !math.IsInf(w, 0) {
			continue
		}
		t.Fatalf("%v %s: element %d is %v, want %v", l, what, i, g, w)
	}
}

func clone(x []float32) []float32 { return append([]float32(nil), x...) }

func FuzzGemm(f *testing.F) {
	f.Add(uint64(1), uint8(3), uint8(7), uint8(9), uint8(0), false)
	f.Add(uint64(2), uint8(15), uint8(33), uint8(64), uint8(0xff), true)
	f.Fuzz(func(t *testing.T, seed uint64, m8, n8, k8, flags uint8, special bool) {
		m, n, k := int(m8)%40, int(n8)%100, int(k8)%100
		each(t, seed, special, func(l kernels.Level, s source) {
			ldx, ldy := k+int(flags>>6&1), n+int(flags>>7)
			if k == 0 {
				ldx = 0
			}
			x, w := s.values(max(0, (m-1)*ldx+k)), s.values(n*k)
			y := s.values(max(0, (m-1)*ldy+n))
			if m == 0 || n == 0 {
				y = nil // nothing may be touched
			}
			e := kernels.Epilogue{Act: kernels.Activation(flags % 5)}
			if flags&8 != 0 {
				e.Bias = s.values(n)
			}
			if flags&16 != 0 {
				// Finite gates: an activation that underflows in float32 alone would
				// make NaN, not infinity, of an infinite one.
				e.Mul, e.LdMul = source{s.rng, false, s.alloc}.values(m*n), n
			}
			if flags&32 != 0 {
				e.Add, e.LdAdd = y, ldy
			}
			want, def := clone(y), e
			if e.Add != nil {
				def.Add = clone(y)
			}
			packed := s.alloc(kernels.PackedLen(l, n, k))
			kernels.Pack(l, packed, w, k, n, k)
			ref.Gemm(want, ldy, x, ldx, w, k, m, n, k, def)
			kernels.Gemm(l, y, ldy, x, max(ldx, k), packed, m, n, k, e)
			close(t, "gemm", l, y, want, 4*float64(k)+4, 4e-6)
		})
	})
}

func FuzzConv2D(f *testing.F) {
	f.Add(uint64(1), uint8(3), uint8(5), uint8(3), uint8(4), uint8(9), false)
	f.Fuzz(func(t *testing.T, seed uint64, oh8, ow8, ci8, co8, flags uint8, special bool) {
		oh, ow, ci, co := 1+int(oh8)%6, 1+int(ow8)%20, 1+int(ci8)%9, 1+int(co8)%40
		ks, stride := 1+int(flags)%3, 1+int(flags>>2)%2
		each(t, seed, special, func(l kernels.Level, s source) {
			iw := (ow-1)*stride + ks
			c := kernels.ConvShape{OutH: oh, OutW: ow, Cin: ci, Cout: co, KH: ks, KW: ks, Stride: stride, RowX: iw*ci + int(flags>>4&3), RowY: ow*co + int(flags>>6)}
			x, w := s.values(((oh-1)*stride+ks-1)*c.RowX+iw*ci), s.values(co*ci*ks*ks)
			y := s.values((oh-1)*c.RowY + ow*co)
			e := kernels.Epilogue{Bias: s.values(co), Act: kernels.Activation(seed % 5), Add: y, LdAdd: c.RowY}
			want, def := clone(y), e
			def.Add = clone(y)
			packed := s.alloc(kernels.PackedLen(l, co, ks*ks*ci))
			kernels.PackConv(l, packed, w, co, ci, ks, ks)
			ref.Conv2D(want, x, w, c, def)
			kernels.Conv2D(l, y, x, packed, c, e)
			close(t, "conv", l, y, want, 4*float64(ks*ks*ci)+4, 4e-6)
		})
	})
}

func FuzzDWConv(f *testing.F) {
	f.Add(uint64(1), uint8(7), uint8(7), uint8(33), uint8(0), false)
	f.Fuzz(func(t *testing.T, seed uint64, h8, w8, c8, flags uint8, special bool) {
		h, w, ch, stride := 1+int(h8)%9, 1+int(w8)%12, 1+int(c8)%70, 1+int(flags)&1
		each(t, seed, special, func(l kernels.Level, s source) {
			finite := source{s.rng, false, s.alloc} // as weights must be
			x, w9, bias := s.values(h*w*ch), finite.values(9*ch), s.values(ch)
			oh, ow := (h+stride-1)/stride, (w+stride-1)/stride
			y, want := s.alloc(oh*ow*ch), make([]float32, oh*ow*ch)
			act := kernels.Activation(flags >> 1 % 5)
			ref.DWConv3x3(want, x, w9, bias, kernels.DWShape{H: h, W: w, Ch: ch, Stride: stride, Row0: 0, Row1: oh}, act)
			kernels.DWConv3x3(l, y, x, w9, bias, kernels.DWShape{H: h, W: w, Ch: ch, Stride: stride, Row0: 0, Row1: oh}, act)
			close(t, "dwconv", l, y, want, 40, 4e-6)
			if stride == 1 {
				if !special { // an infinite input plus its product may be infinite or NaN
					ref.DWConv3x3Residual(want, x, w9, bias, kernels.DWShape{H: h, W: w, Ch: ch, Stride: 1, Row0: 0, Row1: h})
					kernels.DWConv3x3Residual(l, y, x, w9, bias, kernels.DWShape{H: h, W: w, Ch: ch, Stride: 1, Row0: 0, Row1: h})
					close(t, "dwconv residual", l, y, want, 40, 4e-6)
				}
				add, mul := s.values(h*w*ch), s.values(h*w*ch)
				ref.DWConv3x3AddMul(want, x, w9, bias, add, mul, kernels.DWShape{H: h, W: w, Ch: ch, Stride: 1, Row0: 0, Row1: h})
				kernels.DWConv3x3AddMul(l, add, x, w9, bias, add, mul, kernels.DWShape{H: h, W: w, Ch: ch, Stride: 1, Row0: 0, Row1: h})
				close(t, "dwconv add mul", l, add, want, 80, 4e-6)
			}
		})
	})
}

func FuzzLinAttn(f *testing.F) {
	f.Add(uint64(1), uint8(3), uint8(5), uint8(2), uint8(8), true)
	f.Fuzz(func(t *testing.T, seed uint64, h8, w8, heads8, d8 uint8, rotated bool) {
		h, w, heads, d := 1+int(h8)%6, 1+int(w8)%9, 1+int(heads8)%4, 4*(1+int(d8)%12)
		each(t, seed, false, func(l kernels.Level, s source) {
			n, c := h*w, heads*d
			shape := kernels.LinAttnShape{H: h, W: w, Heads: heads, Dim: d, T0: int(seed % uint64(n)), T1: n, Head0: int(seed>>8) % heads}
			q, k, v := s.values(n*c), s.values(n*c), s.values(n*c)
			for i := range q {
				q[i], k[i] = q[i]*q[i]+0.1, k[i]*k[i]+0.1
			}
			var rope []float32
			if rotated {
				rope = s.alloc(kernels.RoPE2DLen(h, w, c))
				kernels.RoPE2DTable(rope, h, w, c, 10000)
			}
			kv, ksum := s.alloc(c*d), s.alloc(c)
			clear(kv)
			clear(ksum)
			wkv, wsum := clone(kv), clone(ksum)
			ref.LinAttnKV(wkv, wsum, k, c, v, c, rope, shape)
			kernels.LinAttnKV(l, kv, ksum, k, c, v, c, rope, shape)
			close(t, "kv", l, kv, wkv, 8*float64(n), 4e-6)
			close(t, "key sum", l, ksum, wsum, 4*float64(n), 4e-6)
			y, want := s.values(n*c), make([]float32, n*c)
			copy(want, y)
			ref.LinAttnReadout(want, c, q, c, wkv, wsum, rope, shape, 0.1)
			kernels.LinAttnReadout(l, y, c, q, c, wkv, wsum, rope, shape, 0.1)
			close(t, "readout", l, y, want, 10, 1e-5)
		})
	})
}

func FuzzRows(f *testing.F) {
	f.Add(uint64(1), uint8(3), uint8(33), false)
	f.Add(uint64(2), uint8(1), uint8(1), true)
	f.Fuzz(func(t *testing.T, seed uint64, rows8, c8 uint8, special bool) {
		rows, c := 1+int(rows8)%5, 1+int(c8)
		each(t, seed, special, func(l kernels.Level, s source) {
			x, gamma, beta := s.values(rows*c), s.values(c), s.values(c)
			y, want := s.alloc(rows*c), make([]float32, rows*c)
			for act := kernels.Identity; act <= kernels.ELU1; act++ {
				ref.Activate(act, want, x)
				kernels.Activate(l, act, y, x)
				close(t, act.String(), l, y, want, 1, 1e-6)
			}
			ref.Exp(want, x)
			kernels.Exp(l, y, x)
			close(t, "exp", l, y, want, 1e-30, 3e-7)
			ref.Sigmoid(want, x)
			kernels.Sigmoid(l, y, x)
			close(t, "sigmoid", l, y, want, 1, 1e-6)
			ref.Erf(want, x)
			kernels.Erf(l, y, x)
			close(t, "erf", l, y, want, 1, 1e-6)
			ref.Softmax(want, x, rows, c)
			kernels.Softmax(l, y, x, rows, c)
			close(t, "softmax", l, y, want, 1, 1e-6)
			if !special {
				ref.LayerNorm(want, c, x, c, rows, c, gamma, beta, 1e-5)
				kernels.LayerNorm(l, y, c, x, c, rows, c, gamma, beta, 1e-5)
				close(t, "layernorm", l, y, want, float64(c), 1e-5)
				ref.MeanRows(want[:c], x, c, rows, c)
				kernels.MeanRows(l, y[:c], x, c, rows, c)
				close(t, "mean", l, y[:c], want[:c], 1, 1e-6)
			}
		})
	})
}
