package kernels_test

import (
	"math"
	"testing"

	"github.com/mila-go/mila/kernels"
)

// sampled returns finite float32 values over the whole range, and densely where
// exp and erf are neither 0 nor saturated.
func sampled() []float32 {
	var x []float32
	for b := uint64(0); b < 1<<32; b += 8209 {
		if v := math.Float32frombits(uint32(b)); v == v && !math.IsInf(float64(v), 0) {
			x = append(x, v)
		}
	}
	for i := -110_000; i <= 90_000; i++ {
		x = append(x, float32(i)*1e-3+1e-5)
	}
	return x
}

// ulp returns the distance between float32 values at |v|.
func ulp(v float64) float64 {
	f := float32(math.Abs(v))
	if math.IsInf(float64(f), 0) {
		f = math.MaxFloat32
		return float64(f) - float64(math.Nextafter32(f, 0))
	}
	return float64(math.Nextafter32(f, float32(math.Inf(1)))) - float64(f)
}

// TestStatedErrors asserts the bounds that the documentation states.
func TestStatedErrors(t *testing.T) {
	x := sampled()
	y := make([]float32, len(x))
	for _, l := range kernels.Levels() {
		kernels.Exp(l, y, x)
		worst := 0.0
		for i, v := range x {
			want := math.Exp(float64(v))
			if got := float64(y[i]); want > math.MaxFloat32 {
				if !math.IsInf(got, 1) && got < math.MaxFloat32*0.999 {
					t.Fatalf("%v: exp(%v) = %v", l, v, got)
				}
			} else if e := math.Abs(got-want) / ulp(want); e > worst {
				worst = e
			}
		}
		if t.Logf("%v: exp: %.3f ulp", l, worst); worst > 2 {
			t.Errorf("%v: exp is %.3f ulp off, at most 2 are stated", l, worst)
		}
		for _, f := range []struct {
			name  string
			got   func()
			want  func(v float64) float64
			bound float64 // absolute, times max(1, |result|)
		}{
			{"erf", func() { kernels.Erf(l, y, x) }, math.Erf, 2e-7},
			{"softplus", func() { kernels.Softplus(l, y, x) }, func(v float64) float64 { return math.Max(v, 0) + math.Log1p(math.Exp(-math.Abs(v))) }, 2e-7},
			{"gelu", func() { kernels.Activate(l, kernels.GELU, y, x) }, func(v float64) float64 { return v / 2 * math.Erfc(-v/math.Sqrt2) }, 1e-6},
			{"silu", func() { kernels.Activate(l, kernels.SiLU, y, x) }, func(v float64) float64 { return v / (1 + math.Exp(-v)) }, 1e-6},
			{"elu1", func() { kernels.Activate(l, kernels.ELU1, y, x) }, func(v float64) float64 { return math.Exp(math.Min(v, 0)) + math.Max(v, 0) }, 1e-6},
			{"sigmoid", func() { kernels.Sigmoid(l, y, x) }, func(v float64) float64 { return 1 / (1 + math.Exp(-v)) }, 2e-7},
		} {
			f.got()
			worst := 0.0
			for i, v := range x {
				want := f.want(float64(v))
				worst = max(worst, math.Abs(float64(y[i])-want)/max(1, math.Abs(want)))
			}
			if t.Logf("%v: %s: %.2g", l, f.name, worst); worst > f.bound {
				t.Errorf("%v: %s is %.2g off, %.2g is stated", l, f.name, worst, f.bound)
			}
		}
	}
}
