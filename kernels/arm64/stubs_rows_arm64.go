//go:build !purego

package arm64

// LayerNormNEON normalises rows of c elements:
//
//	y[r] = (x[r] - mean(x[r])) / sqrt(var(x[r]) + eps) * gamma + beta
//
// gamma and beta may be nil; y may be x. With centre 0 the mean counts as 0, with 1
// it is taken.
//
//go:noescape
func LayerNormNEON(y *float32, ldy int, x *float32, ldx, rows, c int, gamma, beta *float32, eps float32, centre int)

// MeanRowsNEON sums columns:
//
//	for c := range cols { y[c] = Σ_r x[r*ldx+c] * scale }
//
//go:noescape
func MeanRowsNEON(y, x *float32, ldx, rows, cols int, scale float32)
