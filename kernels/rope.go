package kernels

import "github.com/mila-go/mila/kernels/ref"

// RoPE2DLen returns the length of the rotation table of an h x w grid of c
// channels: (h + w) * c/2.
func RoPE2DLen(h, w, c int) int {
	checkGrid("RoPE2DLen", h, w, c)
	return (h + w) * (c / 2)
}

func checkGrid(op string, h, w, c int) {
	checkDims(op, h, w, c)
	checkDims(op, h+w, c)
	if c%4 != 0 {
		fail(op, "%d channels; 2-D RoPE needs a multiple of 4", c)
	}
}

// RoPE2DTable fills table (of [RoPE2DLen] elements) with the rotations of an
// h x w grid: for each row i, then for each column j, the c/4 pairs
// (cos, sin) of i·θ_p (or j·θ_p) with θ_p = base^(-p/(c/4)). The reference uses
// base 10000 at every size. The table is separable: a pair of channels in the
// first half turns with the row, one in the second half with the column.
func RoPE2DTable(table []float32, h, w, c int, base float64) {
	checkLen("RoPE2DTable", "table", table, RoPE2DLen(h, w, c))
	ref.RoPE2DTable(table, h, w, c, base)
}

// RoPE2D rotates tokens [t0, t1) of an h x w grid (row t/w, column t%w): each
// channel pair (a, b) = (2p, 2p+1) becomes (a cos - b sin, a sin + b cos). x
// and y are indexed by token from their start. y may be x.
func RoPE2D(l Level, y []float32, ldy int, x []float32, ldx int, table []float32, h, w, c, t0, t1 int) {
	const op = "RoPE2D"
	l.resolve(op)
	checkLen(op, "table", table, RoPE2DLen(h, w, c))
	checkTokens(op, h, w, t0, t1)
	checkMatrix(op, "y", y, ldy, t1, c)
	checkMatrix(op, "x", x, ldx, t1, c)
	ref.RoPE2D(y, ldy, x, ldx, table, h, w, c, t0, t1)
}

func checkTokens(op string, h, w, t0, t1 int) {
	if t0 < 0 || t0 > t1 || t1 > h*w {
		fail(op, "tokens [%d, %d) of %d", t0, t1, h*w)
	}
}
