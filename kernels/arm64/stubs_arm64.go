//go:build !purego

package arm64

// Rows and columns of the register tile.
const GemmMR, GemmNR = 8, 8

// GemmNEON multiplies rows of X by one packed panel of 8 columns:
//
//	for i := range rows {
//		for j := range 8 {
//			acc := bias[j]
//			p := 0
//			for s := range segs {
//				for t := range segLen {
//					acc += x[i*ldx+s*segStride+t] * w[8*p+j]
//					p++
//				}
//			}
//			y[i*ldy+j] = f(acc) * mul[i*ldmul+j] + add[i*ldadd+j]
//		}
//	}
//
// bias, mul and add may be nil; mul and add may be y. f is the identity, or ReLU
// where relu is not 0. segs must be at least 1. The caller bounds rows*segs*segLen so
// that a call lasts at most about 100 µs.
//
//go:noescape
func GemmNEON(y *float32, ldy int, x *float32, ldx, segs, segLen, segStride int, w, bias, mul *float32, ldmul int, add *float32, ldadd, rows, relu int)

// FinishNEON ends an epilogue for rows of 8 elements, dense in x:
//
//	for i := range rows {
//		for j := range 8 {
//			y[i*ldy+j] = x[8*i+j] * mul[i*ldmul+j] + add[i*ldadd+j]
//		}
//	}
//
// mul and add may be nil, or y.
//
//go:noescape
func FinishNEON(y *float32, ldy int, x, mul *float32, ldmul int, add *float32, ldadd, rows int)

// The vector functions compute y[i] = f(x[i]) for i < n; y may be x.

//go:noescape
func ReluNEON(y, x *float32, n int)

//go:noescape
func ExpNEON(y, x *float32, n int)

//go:noescape
func SigmoidNEON(y, x *float32, n int)

//go:noescape
func SiluNEON(y, x *float32, n int)

//go:noescape
func Elu1NEON(y, x *float32, n int)

//go:noescape
func ErfNEON(y, x *float32, n int)

//go:noescape
func GeluNEON(y, x *float32, n int)

// AddNEON computes y[i] = a[i] + b[i]; y may be a or b.
//
//go:noescape
func AddNEON(y, a, b *float32, n int)

// MulNEON computes y[i] = a[i] * b[i]; y may be a or b.
//
//go:noescape
func MulNEON(y, a, b *float32, n int)

// PeakNEON runs n rounds of sixteen multiply-adds of four floats.
//
//go:noescape
func PeakNEON(n int)
