//go:build (amd64 || arm64) && !purego

package kernels

import "github.com/mila-go/mila/kernels/generic"

// transposeVector is generic.Transpose in squares of 8 x 8, at all levels: what
// bounds it are loads and stores, of which wider vectors would not need fewer.
func transposeVector(dst []float32, ldd int, src []float32, lds, rows, cols int) {
	const (
		side   = 8
		block  = 64      // so many rows of dst stay in the L1 cache
		height = 1 << 10 // and a call lasts some 20 µs
	)
	r, c := rows/side*side, cols/side*side
	for j := 0; j < c; j += block {
		for i := 0; i < r; i += height {
			transposeSquares(&dst[j*ldd+i], ldd, &src[i*lds+j], lds, min(height, r-i), min(block, c-j))
		}
	}
	if c < cols {
		generic.Transpose(dst[c*ldd:], ldd, src[c:], lds, r, cols-c)
	}
	if r < rows {
		generic.Transpose(dst[r:], ldd, src[r*lds:], lds, rows-r, cols)
	}
}
