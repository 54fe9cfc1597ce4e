//go:build (amd64 || arm64) && !purego

package kernels

import "github.com/mila-go/mila/kernels/generic"

// gemmVector is generic.Gemm in assembly. Panels of the weights are
// the outer loop: each is read once for all rows, which come from the L2 cache.
func gemmVector(l Level, y []float32, ldy int, x []float32, xr generic.Rows, w []float32, m, n int, e *Epilogue) {
	mr, nr := l.tileRows(), l.panel()
	k := xr.Segs * xr.SegLen
	if k == 0 || xr.Segs == 0 {
		generic.Gemm(y, ldy, x, xr, w, m, n, e) // the bias alone
		return
	}
	chunk := max(mr, callWork/k/mr*mr)
	for j := 0; j < n; j += nr {
		if n-j < nr {
			gemmEdge(l, y[j:], ldy, x, xr, &w[j*k], m, j, n-j, e)
			return
		}
		var bias, mul, add *float32
		if e.Bias != nil {
			bias = &e.Bias[j]
		}
		for i := 0; i < m; i += chunk {
			if e.Mul != nil {
				mul = &e.Mul[i*e.LdMul+j]
			}
			if e.Add != nil {
				add = &e.Add[i*e.LdAdd+j]
			}
			gemmCall(l, &y[i*ldy+j], ldy, &x[i*xr.Ld], xr, &w[j*k], bias, mul, e.LdMul, add, e.LdAdd, min(chunk, m-i), e.Act)
		}
	}
}

// gemmEdge computes the last cols columns, from column j on, which do not fill a
// panel, through a tile on the stack. y begins at column j.
func gemmEdge(l Level, y []float32, ldy int, x []float32, xr generic.Rows, w *float32, m, j, cols int, e *Epilogue) {
	var tile [edgeRows * maxNR]float32
	var bias [maxNR]float32
	if e.Bias != nil {
		copy(bias[:cols], e.Bias[j:])
	}
	nr := l.panel()
	chunk := max(1, min(edgeRows, callWork/(xr.Segs*xr.SegLen)))
	for i := 0; i < m; i += chunk {
		rows := min(chunk, m-i)
		gemmCall(l, &tile[0], nr, &x[i*xr.Ld], xr, w, &bias[0], nil, 0, nil, 0, rows, e.Act)
		for r := range rows {
			acc := tile[r*nr : r*nr+cols]
			if e.Mul != nil {
				at := (i+r)*e.LdMul + j
				for c, v := range e.Mul[at : at+cols] {
					acc[c] *= v
				}
			}
			if e.Add != nil {
				at := (i+r)*e.LdAdd + j
				for c, v := range e.Add[at : at+cols] {
					acc[c] += v
				}
			}
			copy(y[(i+r)*ldy:(i+r)*ldy+cols], acc)
		}
	}
}

// scaleRowsVector is generic.ScaleRows in assembly.
func scaleRowsVector(l Level, y []float32, ldy int, x []float32, ldx, rows, cols int, s []float32) {
	chunk := max(1, callWork/cols)
	for r := 0; r < rows; r += chunk {
		scaleRowsCall(l, &y[r*ldy], ldy, &x[r*ldx], ldx, min(chunk, rows-r), cols, &s[r])
	}
}

// orNil returns the address of x[i], or nil for a slice that is not there.
func orNil(x []float32, i int) *float32 {
	if x == nil {
		return nil
	}
	return &x[i]
}

func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}

// activateAll applies a vector function to a slice in calls of bounded length.
func activateAll(l Level, a Activation, y, x []float32) {
	const most = callWork / 4
	for len(x) > 0 {
		n := min(most, len(x))
		activateVector(l, a, y, 0, x, 0, 1, n)
		y, x = y[n:], x[n:]
	}
}
