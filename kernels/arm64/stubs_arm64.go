//go:build !purego

package arm64

// Rows and columns of the register tile; rows of that of [GemmInOrderNEON].
const GemmMR, GemmNR, GemmInOrderMR = 6, 16, 5

// GemmNEON multiplies rows of X by one packed panel of 16 columns:
//
//	for i := range rows {
//		for j := range 16 {
//			acc := bias[j]
//			p := 0
//			for s := range segs {
//				for t := range segLen {
//					acc += x[i*ldx+s*segStride+t] * w[16*p+j]
//					p++
//				}
//			}
//			y[i*ldy+j] = f(acc) * mul[i*ldmul+j] + add[i*ldadd+j]
//		}
//	}
//
// bias, mul and add may be nil; mul and add may be y. f is the identity, ReLU, SiLU,
// GELU or ELU+1 for act = 0 .. 4. segs must be at least 1. The caller bounds
// rows*segs*segLen so that a call lasts at most about 100 µs.
//
//go:noescape
func GemmNEON(y *float32, ldy int, x *float32, ldx, segs, segLen, segStride int, w, bias, mul *float32, ldmul int, add *float32, ldadd, rows, act int)

// GemmInOrderNEON is [GemmNEON] for cores that issue in order and load 64 bits a cycle.
//
//go:noescape
func GemmInOrderNEON(y *float32, ldy int, x *float32, ldx, segs, segLen, segStride int, w, bias, mul *float32, ldmul int, add *float32, ldadd, rows, act int)

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
func SoftplusNEON(y, x *float32, n int)

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
