package generic

import "github.com/mila-go/mila/kernels/ref"

// DW says what a depthwise convolution does with each sum.
type DW struct {
	Act      ref.Activation
	Residual bool      // add the convolution's own input
	Add, Mul []float32 // (sum + Add) * Mul, indexed like the output; nil: left out
}

// dwBlock channels are summed on the stack before anything is stored, so that y
// may be Add or Mul.
const dwBlock = 256

// DWConv3x3 computes a 3x3 depthwise convolution with zero padding 1 and
// tap-major weights, and then what d says. No distance in s is 0.
func DWConv3x3(y, x, w9, bias []float32, s ref.DWShape, d DW) {
	var acc [dwBlock]float32
	h, w, ch, ldx, ldw, stride, ow := s.H, s.W, s.Ch, s.LdX, s.LdW, s.Stride, s.OutW()
	for i := s.Row0; i < s.Row1; i++ {
		for j := range ow {
			for c0 := 0; c0 < ch; c0 += dwBlock {
				n := min(dwBlock, ch-c0)
				sum := acc[:n]
				if bias != nil {
					copy(sum, bias[c0:])
				} else {
					clear(sum)
				}
				for r := range 3 {
					u := i*stride + r - 1
					if u < 0 || u >= h {
						continue
					}
					v0 := j*stride - 1
					src, taps := (u*w+v0)*ldx+c0, w9[3*r*ldw+c0:]
					if v0 >= 0 && v0+3 <= w {
						tap3(sum, x[src:], taps, ldx, ldw)
						continue
					}
					for t := range 3 {
						if v := v0 + t; v >= 0 && v < w {
							tap1(sum, x[src+t*ldx:], taps[t*ldw:])
						}
					}
				}
				at := (i*ow+j)*s.LdY + c0
				if d.Act != ref.Identity {
					ref.Activate(d.Act, sum, sum)
				}
				if d.Residual {
					addTo(sum, x[(i*w+j)*ldx+c0:])
				}
				if d.Add != nil {
					addTo(sum, d.Add[at:])
				}
				if d.Mul != nil {
					for c, v := range d.Mul[at : at+n] {
						sum[c] *= v
					}
				}
				copy(y[at:at+n], sum)
			}
		}
	}
}

// tap3 adds three neighbouring taps: sum[c] += Σ_t x[t·ldx+c] w[t·ldw+c].
func tap3(sum, x, w []float32, ldx, ldw int) {
	n := len(sum)
	x0, x1, x2 := x[:n], x[ldx:ldx+n], x[2*ldx:2*ldx+n]
	w0, w1, w2 := w[:n], w[ldw:ldw+n], w[2*ldw:2*ldw+n]
	for c, v := range sum {
		sum[c] = v + x0[c]*w0[c] + x1[c]*w1[c] + x2[c]*w2[c]
	}
}

func tap1(sum, x, w []float32) {
	x, w = x[:len(sum)], w[:len(sum)]
	for c := range sum {
		sum[c] += x[c] * w[c]
	}
}

func addTo(sum, x []float32) {
	for c, v := range x[:len(sum)] {
		sum[c] += v
	}
}

// DWValid is ref.DWValid with float32 sums.
func DWValid(y, x, w, bias []float32, s ref.DWValidShape) {
	for i := range s.OutH {
		for j := range s.OutW {
			at := (i*s.OutW + j) * s.LdY
			sum := y[at : at+s.Ch]
			if bias != nil {
				copy(sum, bias)
			} else {
				clear(sum)
			}
			for r := range s.K {
				for t := range s.K {
					tap1(sum, x[(i+r)*s.RowX+(j+t)*s.LdX:], w[(r*s.K+t)*s.Ch:])
				}
			}
		}
	}
}
