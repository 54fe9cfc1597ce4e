//go:build !purego

package amd64

//go:generate go run ./gen

// Tile sizes of the matrix products: MR rows of X and NR columns of the packed
// weights stay in registers over the whole of K.
const (
	GemmAVX512MR, GemmAVX512NR = 14, 32
	GemmAVX2MR, GemmAVX2NR     = 6, 16
)

// How many output rows DWSlide takes at most.
const DWSlideAVX512Rows, DWSlideAVX2Rows = 4, 2

// GemmAVX512 multiplies rows of X by one packed panel of 32 columns:
//
//	for i := range rows {
//		for j := range 32 {
//			acc := bias[j]
//			p := 0
//			for s := range segs {
//				for t := range segLen {
//					acc += x[i*ldx+s*segStride+t] * w[32*p+j]
//					p++
//				}
//			}
//			y[i*ldy+j] = f(acc) * mul[i*ldmul+j] + add[i*ldadd+j]
//		}
//	}
//
// bias, mul and add may be nil; mul and add may be y. f is the identity, ReLU,
// SiLU, GELU or ELU+1 for act = 0 .. 4. segs must be at least 1. The caller
// bounds rows*segs*segLen so that a call lasts at most about 100 µs.
//
//go:noescape
func GemmAVX512(y *float32, ldy int, x *float32, ldx, segs, segLen, segStride int, w, bias, mul *float32, ldmul int, add *float32, ldadd, rows, act int)

// GemmAVX2 is [GemmAVX512] for a panel of 16 columns.
//
//go:noescape
func GemmAVX2(y *float32, ldy int, x *float32, ldx, segs, segLen, segStride int, w, bias, mul *float32, ldmul int, add *float32, ldadd, rows, act int)

// DWSlideAVX512 computes rows (1 to 4) rows of n pixels of a 3x3 depthwise
// convolution of stride 1 with padding 1, for ch channels:
//
//	for i := range rows {
//		for j := range n {
//			for c := range ch {
//				s := bias[c]
//				for r := -1; r <= 1; r++ {
//					for t := -1; t <= 1; t++ {
//						s += x[((i+r)*n+j+t)*ldx+c] * w[(3*r+t+4)*ldw+c]
//					}
//				}
//				y[(i*n+j)*ldy+c] = f(s)
//			}
//		}
//	}
//
// where columns -1 and n are zeros, row -1 if above is 0 and row `rows` if below
// is 0. bias may be nil. residual = 1 adds x[(i*n+j)*ldx+c] to s. f is by mode
// 0: s, 1: ReLU, 2: SiLU, 3: (s + add) * mul with add and mul like y, which may be
// y.
//
//go:noescape
func DWSlideAVX512(y, x, w, bias, add, mul *float32, ldx, ldy, ldw, ch, n, rows, above, below, residual, mode int)

// DWSlideAVX2 is [DWSlideAVX512] for 1 or 2 rows.
//
//go:noescape
func DWSlideAVX2(y, x, w, bias, add, mul *float32, ldx, ldy, ldw, ch, n, rows, above, below, residual, mode int)

// DWConvAVX512 computes n pixels of a depthwise convolution all of whose taps lie
// inside the image: rows (1 to 3) input rows ldrow apart, taps (1 to 3) pixels ldx
// apart, weights for three taps a row.
//
//	for j := range n {
//		for c := range ch {
//			s := bias[c]
//			for r := range rows {
//				for t := range taps {
//					s += x[r*ldrow+j*ldpix+t*ldx+c] * w[(3*r+t)*ldw+c]
//				}
//			}
//			y[j*ldy+c] = s
//		}
//	}
//
// bias may be nil.
//
//go:noescape
func DWConvAVX512(y, x, w, bias *float32, ldrow, ldpix, ldx, ldy, ldw, ch, n, rows, taps int)

// DWConvAVX2 is [DWConvAVX512] with 8 channels in a vector.
//
//go:noescape
func DWConvAVX2(y, x, w, bias *float32, ldrow, ldpix, ldx, ldy, ldw, ch, n, rows, taps int)

// DWTapsAVX512 computes lanes channels, at most a vector, of n neighbouring pixels
// of a depthwise convolution of k x k taps that all exist.
//
//	for j := range n {
//		for c := range lanes {
//			s := bias[c]
//			for r := range k {
//				for t := range k {
//					s += x[r*ldrow+(j+t)*ldx+c] * w[(r*k+t)*ldw+c]
//				}
//			}
//			y[j*ldy+c] = s
//		}
//	}
//
// bias may be nil.
//
//go:noescape
func DWTapsAVX512(y, x, w, bias *float32, ldrow, ldx, ldy, ldw, lanes, n, k int)

// DWTapsAVX2 is [DWTapsAVX512] with 8 channels in a vector.
//
//go:noescape
func DWTapsAVX2(y, x, w, bias *float32, ldrow, ldx, ldy, ldw, lanes, n, k int)

// MeanRowsAVX512 sums columns:
//
//	for c := range cols { y[c] = Σ_r x[r*ldx+c] * scale }
//
//go:noescape
func MeanRowsAVX512(y, x *float32, ldx, rows, cols int, scale float32)

// MeanRowsAVX2 is [MeanRowsAVX512] with 8 columns in a vector.
//
//go:noescape
func MeanRowsAVX2(y, x *float32, ldx, rows, cols int, scale float32)

// ScaleRowsAVX512 multiplies at least one row of x by its scale:
//
//	for r := range rows { for c := range cols { y[r*ldy+c] = x[r*ldx+c] * s[r] } }
//
// y may be x.
//
//go:noescape
func ScaleRowsAVX512(y *float32, ldy int, x *float32, ldx, rows, cols int, s *float32)

// ScaleRowsAVX2 is [ScaleRowsAVX512] with 8 elements in a vector.
//
//go:noescape
func ScaleRowsAVX2(y *float32, ldy int, x *float32, ldx, rows, cols int, s *float32)

// LayerNormAVX512 normalises rows of c elements:
//
//	y[r] = (x[r] - mean(x[r])) / sqrt(var(x[r]) + eps) * gamma + beta
//
// gamma and beta may be nil; y may be x. With centre 0 the mean counts as 0, with 1
// it is taken.
//
//go:noescape
func LayerNormAVX512(y *float32, ldy int, x *float32, ldx, rows, c int, gamma, beta *float32, eps float32, centre int)

// LayerNormAVX2 is [LayerNormAVX512] with 8 elements in a vector.
//
//go:noescape
func LayerNormAVX2(y *float32, ldy int, x *float32, ldx, rows, c int, gamma, beta *float32, eps float32, centre int)

// OuterSumAVX512 adds outer products of keys and values, at least one token,
// cols <= 32:
//
//	for t := range tokens {
//		for a := range rows {
//			for b := range cols {
//				kv[a*ldkv+b] += k[t*ldk+a] * v[t*ldv+b]
//			}
//		}
//	}
//
//go:noescape
func OuterSumAVX512(kv *float32, ldkv int, k *float32, ldk int, v *float32, ldv, tokens, rows, cols int)

// OuterSumAVX2 is [OuterSumAVX512] for cols <= 16.
//
//go:noescape
func OuterSumAVX2(kv *float32, ldkv int, k *float32, ldk int, v *float32, ldv, tokens, rows, cols int)

// RotateAVX512 rotates the pairs of n channels (n even and positive) of at least
// one token of a grid w tokens wide, the first of them in the given column:
//
//	for t := range tokens {
//		for p := 0; p < n; p += 2 {
//			a, b, cos, sin := x[t*ldx+p], x[t*ldx+p+1], table[p], table[p+1]
//			y[t*ldy+p] = (a*cos - b*sin) * scale[t]
//			y[t*ldy+p+1] = (b*cos + a*sin) * scale[t]
//			sum[p] += a
//			sum[p+1] += b
//		}
//		table = table[step:]
//		if column++; column == w {
//			column, table = 0, table[wrap:]
//		}
//	}
//
// scale and sum may be nil; step and wrap may be negative.
//
//go:noescape
func RotateAVX512(y *float32, ldy int, x *float32, ldx int, table *float32, step, wrap, column, w, tokens, n int, scale, sum *float32)

// RotateAVX2 is [RotateAVX512] with 8 channels in a vector.
//
//go:noescape
func RotateAVX2(y *float32, ldy int, x *float32, ldx int, table *float32, step, wrap, column, w, tokens, n int, scale, sum *float32)

// InverseAVX512 computes y[t] = 1 / (eps + Σ x[t*ldx+a] s[a]) over a < n and
// dense[t*n+a] = x[t*ldx+a].
//
//go:noescape
func InverseAVX512(y, dense, x *float32, ldx int, s *float32, tokens, n int, eps float32)

// InverseAVX2 is [InverseAVX512] with 8 channels in a vector.
//
//go:noescape
func InverseAVX2(y, dense, x *float32, ldx int, s *float32, tokens, n int, eps float32)

// AddAVX512 computes y[i] = a[i] + b[i]; y may be a or b.
//
//go:noescape
func AddAVX512(y, a, b *float32, n int)

// AddAVX2 is [AddAVX512] with 8 elements in a vector.
//
//go:noescape
func AddAVX2(y, a, b *float32, n int)

// MulAVX512 computes y[i] = a[i] * b[i]; y may be a or b.
//
//go:noescape
func MulAVX512(y, a, b *float32, n int)

// MulAVX2 is [MulAVX512] with 8 elements in a vector.
//
//go:noescape
func MulAVX2(y, a, b *float32, n int)

// PeakAVX512 does 12 n independent multiply-adds of 16 elements in registers, for
// measuring the peak that other speeds are compared with. n is at least 1.
//
//go:noescape
func PeakAVX512(n int)

// PeakAVX2 is [PeakAVX512] with 8 elements in a vector.
//
//go:noescape
func PeakAVX2(n int)

// The activations compute, with x = y allowed,
//
//	for r := range rows {
//		for c := range cols {
//			y[r*ldy+c] = f(x[r*ldx+c])
//		}
//	}

//go:noescape
func ReluAVX512(y *float32, ldy int, x *float32, ldx, rows, cols int)

//go:noescape
func SiluAVX512(y *float32, ldy int, x *float32, ldx, rows, cols int)

//go:noescape
func GeluAVX512(y *float32, ldy int, x *float32, ldx, rows, cols int)

//go:noescape
func Elu1AVX512(y *float32, ldy int, x *float32, ldx, rows, cols int)

//go:noescape
func ExpAVX512(y *float32, ldy int, x *float32, ldx, rows, cols int)

//go:noescape
func SigmoidAVX512(y *float32, ldy int, x *float32, ldx, rows, cols int)

//go:noescape
func ErfAVX512(y *float32, ldy int, x *float32, ldx, rows, cols int)

//go:noescape
func SoftplusAVX512(y *float32, ldy int, x *float32, ldx, rows, cols int)

//go:noescape
func ReluAVX2(y *float32, ldy int, x *float32, ldx, rows, cols int)

//go:noescape
func SiluAVX2(y *float32, ldy int, x *float32, ldx, rows, cols int)

//go:noescape
func GeluAVX2(y *float32, ldy int, x *float32, ldx, rows, cols int)

//go:noescape
func Elu1AVX2(y *float32, ldy int, x *float32, ldx, rows, cols int)

//go:noescape
func ExpAVX2(y *float32, ldy int, x *float32, ldx, rows, cols int)

//go:noescape
func SigmoidAVX2(y *float32, ldy int, x *float32, ldx, rows, cols int)

//go:noescape
func ErfAVX2(y *float32, ldy int, x *float32, ldx, rows, cols int)

//go:noescape
func SoftplusAVX2(y *float32, ldy int, x *float32, ldx, rows, cols int)

// TransposeAVX2 copies squares of 8 x 8 of src to their places in its transpose:
//
//	for i := range rows {
//		for j := range cols {
//			dst[j*ldd+i] = src[i*lds+j]
//		}
//	}
//
// rows and cols must be multiples of 8 and not 0.
//
//go:noescape
func TransposeAVX2(dst *float32, ldd int, src *float32, lds, rows, cols int)
