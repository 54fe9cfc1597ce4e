package kernels

import (
	"github.com/mila-go/mila/kernels/generic"
	"github.com/mila-go/mila/kernels/ref"
)

// Epilogue is what a product or convolution does to each element before its
// only store: y = Act(acc + Bias) * Mul + Add. Nil slices leave their terms
// out; the zero Epilogue stores the bare product. Mul and Add may be the output
// itself (the same elements), which is how a residual is updated in place.
type Epilogue = ref.Epilogue

// panel returns NR, the number of columns in a packed panel at level l.
func (l Level) panel() int {
	switch l {
	case AVX512:
		return 32
	case AVX2, NEON:
		return 16
	}
	return generic.NR
}

// PanelWidth returns NR, the number of weight rows (output columns) that level
// l packs together. A packed product can be cut at its multiples: columns
// [j0, n) are the packed weights from j0·k on.
func PanelWidth(l Level) int { return l.resolve("PanelWidth").panel() }

// PackedLen returns the length of the packed form of an n x k weight matrix at
// level l: n rounded up to whole panels, times k.
func PackedLen(l Level, n, k int) int {
	checkDims("PackedLen", n, k)
	nr := l.resolve("PackedLen").panel()
	return (n + nr - 1) / nr * nr * k
}

// Pack packs the weight matrix W (n x k, row j being the weights of output
// column j, as in a PyTorch Linear) for [Gemm] at the same level:
//
//	dst[(j/NR)·k·NR + p·NR + j%NR] = W[j, p],  NR = PanelWidth(l)
//
// with zeros beyond row n-1. Packed weights of different levels are not
// interchangeable. len(dst) must be at least [PackedLen].
func Pack(l Level, dst, w []float32, ldw, n, k int) {
	checkDims("Pack", n, k)
	checkMatrix("Pack", "w", w, ldw, n, k)
	l = l.resolve("Pack")
	nr := l.panel()
	checkLen("Pack", "dst", dst, (n+nr-1)/nr*nr*k)
	for j0 := 0; j0 < n; j0 += nr {
		panel, cols := dst[j0*k:(j0+nr)*k], min(nr, n-j0)
		if k > 0 {
			transpose(l, panel, nr, w[j0*ldw:], ldw, cols, k)
		}
		if cols < nr {
			for p := range k {
				clear(panel[p*nr+cols : (p+1)*nr])
			}
		}
	}
}

// Gemm computes Y = epilogue(X Wᵀ) for X (m x k), packed W (n x k, from [Pack]
// at the same level) and Y (m x n):
//
//	y[i·ldy + j] = Act(Σ_p x[i·ldx+p] W[j,p] + Bias[j]) * Mul[i·LdMul+j] + Add[i·LdAdd+j]
//
// y may be Mul or Add, but must not overlap x or w. k = 0 is the empty sum.
func Gemm(l Level, y []float32, ldy int, x []float32, ldx int, w []float32, m, n, k int, e Epilogue) {
	l = l.resolve("Gemm")
	checkDims("Gemm", m, n)
	checkDims("Gemm", m, k)
	checkDims("Gemm", n, k)
	checkMatrix("Gemm", "y", y, ldy, m, n)
	checkMatrix("Gemm", "x", x, ldx, m, k)
	checkLen("Gemm", "w (packed)", w, PackedLen(l, n, k))
	checkEpilogue("Gemm", &e, m, n, n)
	if m == 0 || n == 0 {
		return
	}
	if k == 0 {
		ldx = 0 // x may be empty: no row of it is indexed
	}
	gemm(l, y, ldy, x, generic.Rows{Ld: ldx, Segs: 1, SegLen: k}, w, m, n, &e)
}

// gemm dispatches a product whose arguments are checked.
func gemm(l Level, y []float32, ldy int, x []float32, xr generic.Rows, w []float32, m, n int, e *Epilogue) {
	if l == Generic {
		generic.Gemm(y, ldy, x, xr, w, m, n, e)
	} else {
		gemmVector(l, y, ldy, x, xr, w, m, n, e)
	}
}
