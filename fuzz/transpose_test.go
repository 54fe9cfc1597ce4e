package fuzz_test

import (
	"math"
	"slices"
	"testing"

	"github.com/mila-go/mila/kernels"
	"github.com/mila-go/mila/kernels/ref"
)

// FuzzTranspose asserts that every element arrives bit for bit, NaN too.
func FuzzTranspose(f *testing.F) {
	f.Add(uint64(1), uint8(8), uint8(16), uint8(0), false)
	f.Add(uint64(2), uint8(67), uint8(13), uint8(7), true)
	f.Fuzz(func(t *testing.T, seed uint64, rows8, cols8, gaps uint8, special bool) {
		rows, cols := int(rows8)%100, int(cols8)%100
		lds, ldd := cols+int(gaps)%16, rows+int(gaps)/16
		each(t, seed, special, func(l kernels.Level, s source) {
			src, dst := s.values(max(0, (rows-1)*lds+cols)), s.values(max(0, (cols-1)*ldd+rows))
			want := clone(dst)
			ref.Transpose(want, ldd, src, lds, rows, cols)
			kernels.Transpose(l, dst, ldd, src, lds, rows, cols)
			same := func(a, b float32) bool { return math.Float32bits(a) == math.Float32bits(b) }
			if !slices.EqualFunc(dst, want, same) {
				t.Fatalf("%v: %d x %d, rows %d and %d apart", l, rows, cols, lds, ldd)
			}
		})
	})
}
