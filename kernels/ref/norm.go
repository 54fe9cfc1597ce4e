package ref

import "math"

// LayerNorm sets each row of c elements to (x - mean) / sqrt(var + eps),
// var being the biased variance, and then, where they are not nil, multiplies
// by gamma and adds beta.
func LayerNorm(y []float32, ldy int, x []float32, ldx, rows, c int, gamma, beta []float32, eps float32) {
	for r := range rows {
		xr, yr := x[r*ldx:r*ldx+c], y[r*ldy:r*ldy+c]
		var mean, va float64
		for _, v := range xr {
			mean += float64(v)
		}
		mean /= float64(c)
		for _, v := range xr {
			d := float64(v) - mean
			va += d * d
		}
		inv := 1 / math.Sqrt(va/float64(c)+float64(eps))
		for i, v := range xr {
			t := (float64(v) - mean) * inv
			if gamma != nil {
				t *= float64(gamma[i])
			}
			if beta != nil {
				t += float64(beta[i])
			}
			yr[i] = float32(t)
		}
	}
}

// RMSNorm sets each row of c elements to x / sqrt(mean(x²) + eps) and then, where
// it is not nil, multiplies by gamma.
func RMSNorm(y []float32, ldy int, x []float32, ldx, rows, c int, gamma []float32, eps float32) {
	for r := range rows {
		xr, yr := x[r*ldx:r*ldx+c], y[r*ldy:r*ldy+c]
		sum := 0.0
		for _, v := range xr {
			sum += float64(v) * float64(v)
		}
		inv := 1 / math.Sqrt(sum/float64(c)+float64(eps))
		for i, v := range xr {
			t := float64(v) * inv
			if gamma != nil {
				t *= float64(gamma[i])
			}
			yr[i] = float32(t)
		}
	}
}

// ScaleShift sets each row of c elements to x * scale + shift: BatchNorm at
// inference once [FoldBatchNorm] has made scale and shift.
func ScaleShift(y, x, scale, shift []float32, rows, c int) {
	for r := range rows {
		for i := range c {
			y[r*c+i] = float32(float64(x[r*c+i])*float64(scale[i]) + float64(shift[i]))
		}
	}
}

// FoldBatchNorm returns in scale and shift the affine map that BatchNorm with
// running statistics is at inference:
//
//	scale = gamma / sqrt(variance + eps),  shift = beta - mean * scale.
func FoldBatchNorm(scale, shift []float64, gamma, beta, mean, variance []float32, eps float64) {
	for i := range scale {
		scale[i] = float64(gamma[i]) / math.Sqrt(float64(variance[i])+eps)
		shift[i] = float64(beta[i]) - float64(mean[i])*scale[i]
	}
}

// MeanRows sets dst[j] to the mean over the rows of column j of x (rows x c).
func MeanRows(dst, x []float32, ldx, rows, c int) {
	for j := range c {
		var sum float64
		for r := range rows {
			sum += float64(x[r*ldx+j])
		}
		dst[j] = float32(sum / float64(rows))
	}
}
