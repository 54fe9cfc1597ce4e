package generic

import "github.com/mila-go/mila/kernels/ref"

// MR x NR is the register tile. Eight accumulators are what Go's register
// allocator keeps in amd64's fifteen SSE registers beside the operands: 2 x 4
// ran at 3.4 GMAC/s on a Zen 4 core, 3 x 4 (spilling) at 2.4, 4 x 4 at 1.4.
const (
	MR = 2
	NR = 4
)

// Rows is the geometry of the left operand X of a product: row i starts at
// i·Ld, and its K elements lie in Segs runs of SegLen contiguous elements that
// start SegStride apart. A plain matrix has one run; the input patch of a
// convolution has one run per kernel row.
type Rows struct {
	Ld                      int
	Segs, SegLen, SegStride int
}

// Gemm computes m rows of Y = epilogue(X Wᵀ) for W packed in panels of NR
// columns: w[(j/NR)·K·NR + p·NR + j%NR] = W[j,p], zero beyond column n.
func Gemm(y []float32, ldy int, x []float32, xr Rows, w []float32, m, n int, e *ref.Epilogue) {
	k := xr.Segs * xr.SegLen
	var out [MR * NR]float32
	for i := 0; i < m; i += MR {
		x0 := x[i*xr.Ld:]
		x1 := x0 // an odd last row is computed twice and stored once
		rows := min(MR, m-i)
		if rows == MR {
			x1 = x[(i+1)*xr.Ld:]
		}
		for j := 0; j < n; j += NR {
			panel := w[j*k : j*k+k*NR]
			clear(out[:])
			for s := range xr.Segs {
				at := s * xr.SegStride
				tile(&out, x0[at:at+xr.SegLen], x1[at:at+xr.SegLen], panel[s*xr.SegLen*NR:(s+1)*xr.SegLen*NR])
			}
			cols := min(NR, n-j)
			for r := range rows {
				finish(y[(i+r)*ldy+j:(i+r)*ldy+j+cols], out[r*NR:r*NR+cols], e, i+r, j)
			}
		}
	}
}

// tile adds X Wᵀ to the 2 x 4 tile: out[r·4+j] += Σ_p x_r[p] w[4p+j].
func tile(out *[MR * NR]float32, x0, x1, w []float32) {
	a0, a1, a2, a3, b0, b1, b2, b3 := out[0], out[1], out[2], out[3], out[4], out[5], out[6], out[7]
	x1 = x1[:len(x0)]
	for p, u := range x0 {
		if len(w) < NR { // never taken; removes the four bounds checks
			break
		}
		w0, w1, w2, w3 := w[0], w[1], w[2], w[3]
		w = w[NR:]
		v := x1[p]
		a0 += u * w0
		a1 += u * w1
		a2 += u * w2
		a3 += u * w3
		b0 += v * w0
		b1 += v * w1
		b2 += v * w2
		b3 += v * w3
	}
	*out = [MR * NR]float32{a0, a1, a2, a3, b0, b1, b2, b3}
}

// finish stores y[c] = epilogue(acc[c]) for the columns from col on.
func finish(y, acc []float32, e *ref.Epilogue, row, col int) {
	if e.Bias != nil {
		for c, b := range e.Bias[col : col+len(acc)] {
			acc[c] += b
		}
	}
	if e.Act != ref.Identity {
		for c, v := range acc {
			acc[c] = e.Act.Apply(v)
		}
	}
	if e.Mul != nil {
		at := row*e.LdMul + col
		for c, v := range e.Mul[at : at+len(acc)] {
			acc[c] *= v
		}
	}
	if e.Add != nil {
		at := row*e.LdAdd + col
		for c, v := range e.Add[at : at+len(acc)] {
			acc[c] += v
		}
	}
	copy(y, acc)
}
