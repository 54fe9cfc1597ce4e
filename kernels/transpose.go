package kernels

import "github.com/mila-go/mila/kernels/generic"

// Transpose writes the transpose of the matrix src (rows x cols) to dst:
//
//	dst[j·ldd + i] = src[i·lds + j],  i < rows, j < cols
//
// Elements are copied bit for bit. dst must not overlap src; what lies between
// its rows stays as it is.
func Transpose(l Level, dst []float32, ldd int, src []float32, lds, rows, cols int) {
	const op = "Transpose"
	l = l.resolve(op)
	checkDims(op, rows, cols)
	checkDims(op, rows, lds)
	checkDims(op, cols, ldd)
	checkMatrix(op, "src", src, lds, rows, cols)
	checkMatrix(op, "dst", dst, ldd, cols, rows)
	if rows > 0 && cols > 0 {
		transpose(l, dst, ldd, src, lds, rows, cols)
	}
}

// transpose dispatches a transposition, not of nothing, whose arguments are checked.
func transpose(l Level, dst []float32, ldd int, src []float32, lds, rows, cols int) {
	if l == Generic {
		generic.Transpose(dst, ldd, src, lds, rows, cols)
		return
	}
	transposeVector(dst, ldd, src, lds, rows, cols)
}
