package kernels

import "github.com/mila-go/mila/kernels/ref"

// LayerNorm normalises each row of c elements,
//
//	y = (x - mean) / sqrt(var + eps) * gamma + beta
//
// with the biased variance over the row. gamma and beta, of c elements, may be
// nil. y may be x.
func LayerNorm(l Level, y []float32, ldy int, x []float32, ldx, rows, c int, gamma, beta []float32, eps float32) {
	const op = "LayerNorm"
	l = l.resolve(op)
	checkDims(op, rows, c)
	checkMatrix(op, "y", y, ldy, rows, c)
	checkMatrix(op, "x", x, ldx, rows, c)
	if gamma != nil {
		checkLen(op, "gamma", gamma, c)
	}
	if beta != nil {
		checkLen(op, "beta", beta, c)
	}
	switch {
	case l == Generic:
		ref.LayerNorm(y, ldy, x, ldx, rows, c, gamma, beta, eps)
	case c > 0:
		layerNormVector(l, y, ldy, x, ldx, rows, c, gamma, beta, eps, 1)
	}
}

// RMSNorm divides each row of c elements by the root of its mean square,
//
//	y = x / sqrt(mean(x²) + eps) * gamma
//
// gamma, of c elements, may be nil. y may be x. Equation 4 of arXiv 1910.07467.
func RMSNorm(l Level, y []float32, ldy int, x []float32, ldx, rows, c int, gamma []float32, eps float32) {
	const op = "RMSNorm"
	l = l.resolve(op)
	checkDims(op, rows, c)
	checkMatrix(op, "y", y, ldy, rows, c)
	checkMatrix(op, "x", x, ldx, rows, c)
	if gamma != nil {
		checkLen(op, "gamma", gamma, c)
	}
	switch {
	case l == Generic:
		ref.RMSNorm(y, ldy, x, ldx, rows, c, gamma, eps)
	case c > 0:
		layerNormVector(l, y, ldy, x, ldx, rows, c, gamma, nil, eps, 0)
	}
}

// ScaleShift computes y[r,i] = x[r,i] * scale[i] + shift[i] for a dense
// rows x c matrix: BatchNorm at inference, where it cannot be folded into a
// neighbouring operation. y may be x. See [FoldBatchNorm].
func ScaleShift(l Level, y, x, scale, shift []float32, rows, c int) {
	const op = "ScaleShift"
	l.resolve(op)
	checkDims(op, rows, c)
	checkLen(op, "y", y, rows*c)
	checkLen(op, "x", x, rows*c)
	checkLen(op, "scale", scale, c)
	checkLen(op, "shift", shift, c)
	ref.ScaleShift(y, x, scale, shift, rows, c)
}

// FoldBatchNorm returns the affine map that BatchNorm with running statistics
// is at inference,
//
//	scale = gamma / sqrt(variance + eps),  shift = beta - mean * scale,
//
// in float64, for folding into the weights and bias of the convolution before
// it. All slices have the same length.
func FoldBatchNorm(scale, shift []float64, gamma, beta, mean, variance []float32, eps float64) {
	const op = "FoldBatchNorm"
	for i, x := range [][]float32{gamma, beta, mean, variance} {
		if len(x) != len(scale) || len(shift) != len(scale) {
			fail(op, "%s has %d elements, scale %d, shift %d", [...]string{"gamma", "beta", "mean", "variance"}[i], len(x), len(scale), len(shift))
		}
	}
	ref.FoldBatchNorm(scale, shift, gamma, beta, mean, variance, eps)
}

// MeanRows sets dst[j] to the mean over the rows of x[:, j], for x (rows x c)
// with rows ldx apart. rows must be at least 1.
func MeanRows(l Level, dst, x []float32, ldx, rows, c int) {
	const op = "MeanRows"
	l = l.resolve(op)
	checkDims(op, rows, c)
	if rows < 1 {
		fail(op, "the mean of no rows")
	}
	checkMatrix(op, "x", x, ldx, rows, c)
	checkLen(op, "dst", dst, c)
	if l == Generic {
		ref.MeanRows(dst, x, ldx, rows, c)
	} else {
		meanRowsVector(l, dst, x, ldx, rows, c)
	}
}
