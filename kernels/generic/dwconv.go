package generic

import "github.com/mila-go/mila/kernels/ref"

// DW says what a depthwise convolution does with each sum.
type DW struct {
	Act      ref.Activation
	Residual bool      // add the convolution's own input
	Add, Mul []float32 // (sum + Add) * Mul, indexed like the output; nil: left out
}

// DWConv3x3 computes output rows [row0, row1) of the 3x3 depthwise convolution
// of the NHWC image x with zero padding 1 and tap-major weights (9 x ch), and
// then what d says.
func DWConv3x3(y, x, w9, bias []float32, h, w, ch, stride, row0, row1 int, d DW) {
	ow := (w + stride - 1) / stride
	for i := row0; i < row1; i++ {
		for j := range ow {
			at := (i*ow + j) * ch
			out := y[at : at+ch]
			if bias != nil {
				copy(out, bias[:ch])
			} else {
				clear(out)
			}
			for r := range 3 {
				u := i*stride + r - 1
				if u < 0 || u >= h {
					continue
				}
				v0 := j*stride - 1
				src := (u*w + v0) * ch
				taps := w9[r*3*ch : (r*3+3)*ch]
				if v0 >= 0 && v0+3 <= w {
					tap3(out, x[src:src+3*ch], taps)
					continue
				}
				for t := range 3 {
					if v := v0 + t; v >= 0 && v < w {
						tap1(out, x[src+t*ch:src+(t+1)*ch], taps[t*ch:(t+1)*ch])
					}
				}
			}
			if d.Act != ref.Identity {
				ref.Activate(d.Act, out, out)
			}
			if d.Residual {
				for c, v := range x[at : at+ch] {
					out[c] += v
				}
			}
			if d.Add != nil {
				for c, v := range d.Add[at : at+ch] {
					out[c] += v
				}
			}
			if d.Mul != nil {
				for c, v := range d.Mul[at : at+ch] {
					out[c] *= v
				}
			}
		}
	}
}

// tap3 adds three neighbouring taps: out[c] += Σ_t x[t·ch+c] w[t·ch+c].
func tap3(out, x, w []float32) {
	ch := len(out)
	x0, x1, x2 := x[:ch], x[ch:2*ch], x[2*ch:3*ch]
	w0, w1, w2 := w[:ch], w[ch:2*ch], w[2*ch:3*ch]
	for c, v := range out {
		out[c] = v + x0[c]*w0[c] + x1[c]*w1[c] + x2[c]*w2[c]
	}
}

func tap1(out, x, w []float32) {
	x, w = x[:len(out)], w[:len(out)]
	for c := range out {
		out[c] += x[c] * w[c]
	}
}
