//go:build !purego

package arm64

// DWSlideNEON computes one, two or four rows (rows) of n pixels of a 3x3 depthwise
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
//				y[(i*n+j)*ldy+c] = (s + add[(i*n+j)*ldy+c]) * mul[(i*n+j)*ldy+c]
//			}
//		}
//	}
//
// where columns -1 and n are zeros, row -1 if above is 0 and row `rows` if below
// is 0. bias may be nil, and add and mul together; they may be y. residual = 1 adds
// x[(i*n+j)*ldx+c] to s.
//
//go:noescape
func DWSlideNEON(y, x, w, bias, add, mul *float32, ldx, ldy, ldw, ch, n, rows, above, below, residual int)

// DWSlide2NEON computes a row of n pixels of a 3x3 depthwise convolution of stride 2
// with padding 1, for ch channels:
//
//	for j := range n {
//		for c := range ch {
//			s := bias[c]
//			for r := -1; r <= 1; r++ {
//				for t := -1; t <= 1; t++ {
//					s += x[r*ldrow+(2*j+t)*ldx+c] * w[(3*r+t+4)*ldw+c]
//				}
//			}
//			y[j*ldy+c] = s
//		}
//	}
//
// where column -1 is zeros, row -1 if above is 0, row 1 if below is 0 and, if odd is
// 1, column 2n-1. bias may be nil.
//
//go:noescape
func DWSlide2NEON(y, x, w, bias *float32, ldrow, ldx, ldy, ldw, ch, n, above, below, odd int)

// DWTapsNEON computes ch channels of n neighbouring pixels of a depthwise convolution
// of k x k taps that all exist:
//
//	for j := range n {
//		for c := range ch {
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
func DWTapsNEON(y, x, w, bias *float32, ldrow, ldx, ldy, ldw, ch, n, k int)
