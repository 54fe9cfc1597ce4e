//go:build (amd64 || arm64) && !purego

package kernels

// layerNormVector is ref.LayerNorm (centre 1) or ref.RMSNorm (centre 0) in
// float32.
func layerNormVector(l Level, y []float32, ldy int, x []float32, ldx, rows, c int, gamma, beta []float32, eps float32, centre int) {
	chunk := max(1, callWork/c)
	for r := 0; r < rows; r += chunk {
		n := min(chunk, rows-r)
		layerNormCall(l, &y[r*ldy], ldy, &x[r*ldx], ldx, n, c, orNil(gamma, 0), orNil(beta, 0), eps, centre)
	}
}

// meanRowsVector is ref.MeanRows in float32, some columns at
// a time where there are many rows.
func meanRowsVector(l Level, dst, x []float32, ldx, rows, c int) {
	part := max(1, 4*callWork/rows/64) * 64
	for i := 0; i < c; i += part {
		n := min(part, c-i)
		meanRowsCall(l, &dst[i], &x[i], ldx, rows, n, 1/float32(rows))
	}
}
