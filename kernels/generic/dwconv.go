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

// DWConv3x3 computes output rows [row0, row1) of the 3x3 depthwise convolution
// of the NHWC image x with zero padding 1 and tap-major weights (9 x ch), and
// then what d says.
func DWConv3x3(y, x, w9, bias []float32, h, w, ch, stride, row0, row1 int, d DW) {
	var acc [dwBlock]float32
	ow := (w + stride - 1) / stride
	for i := row0; i < row1; i++ {
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
					src, taps := (u*w+v0)*ch+c0, w9[3*r*ch+c0:]
					if v0 >= 0 && v0+3 <= w {
						tap3(sum, x[src:], taps, ch)
						continue
					}
					for t := range 3 {
						if v := v0 + t; v >= 0 && v < w {
							tap1(sum, x[src+t*ch:], taps[t*ch:])
						}
					}
				}
				at := (i*ow+j)*ch + c0
				if d.Act != ref.Identity {
					ref.Activate(d.Act, sum, sum)
				}
				if d.Residual {
					addTo(sum, x[at:])
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

// tap3 adds three neighbouring taps: sum[c] += Σ_t x[t·ch+c] w[t·ch+c].
func tap3(sum, x, w []float32, ch int) {
	n := len(sum)
	x0, x1, x2 := x[:n], x[ch:ch+n], x[2*ch:2*ch+n]
	w0, w1, w2 := w[:n], w[ch:ch+n], w[2*ch:2*ch+n]
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
