package kernels_test

import (
	"slices"
	"testing"

	"github.com/mila-go/mila/kernels"
	"github.com/mila-go/mila/kernels/ref"
)

func TestTranspose(t *testing.T) {
	eachLevel(t, func(e *testEnv) {
		for _, rows := range []int{0, 1, 7, 8, 9, 16, 30, 1030} {
			for _, cols := range []int{0, 1, 7, 8, 11, 64, 72, 77} {
				lds, ldd := cols+rows%3, rows+cols%2
				src, dst := e.random(max(0, (rows-1)*lds+cols)), e.random(max(0, (cols-1)*ldd+rows))
				want := copyOf(dst)
				ref.Transpose(want, ldd, src, lds, rows, cols)
				kernels.Transpose(e.level, dst, ldd, src, lds, rows, cols)
				if !slices.Equal(dst, want) {
					t.Fatalf("%v: %d x %d, rows %d and %d apart", e.level, rows, cols, lds, ldd)
				}
			}
		}
	})
}
