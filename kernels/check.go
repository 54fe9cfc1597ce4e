package kernels

import "fmt"

// The checks below run before an operation touches memory. They panic, since a
// wrong shape is a mistake of the calling program; data that comes from outside
// is checked where it enters (packages checkpoint, vision and block).

func fail(op, format string, args ...any) {
	panic("kernels." + op + ": " + fmt.Sprintf(format, args...))
}

// checkMatrix panics unless a rows x cols matrix with distance ld between rows
// fits into x.
func checkMatrix(op, name string, x []float32, ld, rows, cols int) {
	if ld < cols {
		fail(op, "rows of %s are %d apart but %d long", name, ld, cols)
	}
	if rows > 0 && cols > 0 {
		// ld*(rows-1) cannot wrap: dimensions are limited by checkDims.
		if need := ld*(rows-1) + cols; len(x) < need {
			fail(op, "%s has %d elements, %d rows of %d (%d apart) need %d", name, len(x), rows, cols, ld, need)
		}
	}
}

func checkLen(op, name string, x []float32, need int) {
	if len(x) < need {
		fail(op, "%s has %d elements, needs %d", name, len(x), need)
	}
}

// maxDim bounds every dimension and the product of those given together, so
// that no index computation overflows, on 32-bit platforms either.
const maxDim = 1<<31 - 1

// checkDims panics on a negative dimension or a product beyond maxDim.
func checkDims(op string, dims ...int) {
	product := 1
	for _, d := range dims {
		if d < 0 {
			fail(op, "negative dimension in %v", append([]int(nil), dims...))
		}
		if d > 0 && product > maxDim/d {
			fail(op, "dimensions %v are too large", append([]int(nil), dims...))
		}
		product *= d
	}
}

// checkEpilogue checks an epilogue for a rows x cols result of n channels.
func checkEpilogue(op string, e *Epilogue, rows, cols, n int) {
	if e.Bias != nil {
		checkLen(op, "bias", e.Bias, n)
	}
	if e.Act > ELU1 {
		fail(op, "unknown activation %d", e.Act)
	}
	if e.Mul != nil {
		checkMatrix(op, "mul", e.Mul, e.LdMul, rows, cols)
	}
	if e.Add != nil {
		checkMatrix(op, "add", e.Add, e.LdAdd, rows, cols)
	}
}
