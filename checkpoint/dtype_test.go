package checkpoint_test

import (
	"math"
	"testing"

	"github.com/mila-go/mila/checkpoint"
)

// half is the definition of an IEEE half, in float64 arithmetic.
func half(h uint16) float64 {
	sign, exp, frac := 1.0, int(h>>10&31), float64(h&1023)
	if h>>15 != 0 {
		sign = -1
	}
	switch exp {
	case 0:
		return sign * math.Ldexp(frac, -24)
	case 31:
		if frac != 0 {
			return math.NaN()
		}
		return math.Inf(int(sign))
	}
	return sign * math.Ldexp(1024+frac, exp-25)
}

// TestEvery16BitValue checks both widenings, and the way back, exhaustively.
func TestEvery16BitValue(t *testing.T) {
	for i := range 1 << 16 {
		h := uint16(i)
		got, want := checkpoint.FromF16(h), half(h)
		if math.IsNaN(want) != math.IsNaN(float64(got)) || want == want && math.Float64bits(float64(got)) != math.Float64bits(want) {
			t.Fatalf("F16 %#04x is %v, want %v", h, got, want)
		}
		// A signalling NaN comes back quiet; everything else as it was.
		back := h
		if want != want {
			back |= 0x200
		}
		if r := checkpoint.ToF16(got); r != back {
			t.Fatalf("F16 %#04x comes back as %#04x", h, r)
		}
		if b := math.Float32bits(checkpoint.FromBF16(h)); b != uint32(h)<<16 {
			t.Fatalf("BF16 %#04x is %#08x", h, b)
		}
	}
}

// TestToF16Rounds looks at and around the midpoint of every pair of neighbours.
func TestToF16Rounds(t *testing.T) {
	for i := range 0x7c00 {
		lo, hi := uint16(i), uint16(i)+1
		top := half(hi)
		if hi == 0x7c00 {
			top = 65536 // what rounds like the next number, were there one
		}
		mid := float32((half(lo) + top) / 2) // exact
		even := lo + lo&1
		for _, c := range []struct {
			x    float32
			want uint16
		}{
			{mid, even}, {math.Nextafter32(mid, 0), lo}, {math.Nextafter32(mid, math.MaxFloat32), hi},
			{-mid, even | 0x8000},
		} {
			if got := checkpoint.ToF16(c.x); got != c.want {
				t.Fatalf("%v becomes %#04x, want %#04x", c.x, got, c.want)
			}
		}
	}
	for _, x := range []float32{65536, 1e6, math.MaxFloat32, float32(math.Inf(1))} {
		if got := checkpoint.ToF16(x); got != 0x7c00 {
			t.Errorf("%v becomes %#04x, want infinity", x, got)
		}
	}
	if got := checkpoint.ToF16(math.SmallestNonzeroFloat32); got != 0 {
		t.Errorf("the smallest float32 becomes %#04x", got)
	}
}
