package ref

// DWShape describes output rows [Row0, Row1) of a 3x3 depthwise convolution of
// one NHWC image with zero padding 1. The whole output has OutH x OutW pixels and
// is indexed from its start.
type DWShape struct {
	H, W       int // pixels of the input
	Ch         int // channels
	LdX, LdY   int // floats between pixels of x and of y; 0 means Ch
	LdW        int // floats between the taps of the weights; 0 means Ch
	Stride     int // 1 or 2
	Row0, Row1 int // rows of the output to compute
}

// OutW returns the number of pixels in an output row, ceil(W / Stride).
func (s DWShape) OutW() int { return (s.W + s.Stride - 1) / s.Stride }

// OutH returns the number of output rows, ceil(H / Stride).
func (s DWShape) OutH() int { return (s.H + s.Stride - 1) / s.Stride }

// Dense returns s with the distances that are 0 filled in.
func (s DWShape) Dense() DWShape {
	for _, ld := range []*int{&s.LdX, &s.LdY, &s.LdW} {
		if *ld == 0 {
			*ld = s.Ch
		}
	}
	return s
}

// dwAt returns the convolution at output pixel (i, j), channel c, in float64.
func dwAt(x, w9, bias []float32, s DWShape, i, j, c int) float64 {
	var acc float64
	for r := range 3 {
		for t := range 3 {
			u, v := i*s.Stride+r-1, j*s.Stride+t-1
			if u < 0 || u >= s.H || v < 0 || v >= s.W {
				continue
			}
			acc += float64(x[(u*s.W+v)*s.LdX+c]) * float64(w9[(r*3+t)*s.LdW+c])
		}
	}
	if bias != nil {
		acc += float64(bias[c])
	}
	return acc
}

// DWConv3x3 computes
//
//	y[i,j,c] = act( Σ_{r,t} x[i·Stride+r-1, j·Stride+t-1, c] · w9[r·3+t, c] + bias[c] )
//
// for an NHWC image x, zero outside, with tap-major weights.
func DWConv3x3(y, x, w9, bias []float32, s DWShape, act Activation) {
	s = s.Dense()
	s.each(func(i, j, c, at int) {
		y[at] = float32(act.apply(dwAt(x, w9, bias, s, i, j, c)))
	})
}

// each calls f for every output pixel and channel, with its index.
func (s DWShape) each(f func(i, j, c, at int)) {
	for i := s.Row0; i < s.Row1; i++ {
		for j := range s.OutW() {
			for c := range s.Ch {
				f(i, j, c, (i*s.OutW()+j)*s.LdY+c)
			}
		}
	}
}

// DWConv3x3Residual computes y = x + conv(x) + bias, the conditional position
// encoding (CPE), with the convolution of [DWConv3x3] at stride 1.
func DWConv3x3Residual(y, x, w9, bias []float32, s DWShape) {
	s = s.Dense()
	s.each(func(i, j, c, at int) {
		y[at] = float32(float64(x[(i*s.W+j)*s.LdX+c]) + dwAt(x, w9, bias, s, i, j, c))
	})
}

// DWConv3x3AddMul computes y = (conv(x) + bias + add) * mul: the local position
// encoding (LePE) of the values x, added to the attention output and gated, with
// the convolution of [DWConv3x3] at stride 1.
func DWConv3x3AddMul(y, x, w9, bias, add, mul []float32, s DWShape) {
	s = s.Dense()
	s.each(func(i, j, c, at int) {
		y[at] = float32((dwAt(x, w9, bias, s, i, j, c) + float64(add[at])) * float64(mul[at]))
	})
}

// DWValidShape describes a depthwise convolution of K x K taps, all of which exist:
// the image has (OutH+K-1) x (OutW+K-1) pixels, its border included.
type DWValidShape struct {
	OutH, OutW int // pixels of the output
	Ch, K      int
	LdX, LdY   int // floats between pixels
	RowX       int // floats between rows of x; those of y follow one another
}

// DWValid computes
//
//	y[i,j,c] = bias[c] + Σ_{r,t} x[i+r, j+t, c] · w[r·K+t, c]
//
// with tap-major weights.
func DWValid(y, x, w, bias []float32, s DWValidShape) {
	for i := range s.OutH {
		for j := range s.OutW {
			for c := range s.Ch {
				var acc float64
				if bias != nil {
					acc = float64(bias[c])
				}
				for r := range s.K {
					for t := range s.K {
						acc += float64(x[(i+r)*s.RowX+(j+t)*s.LdX+c]) * float64(w[(r*s.K+t)*s.Ch+c])
					}
				}
				y[(i*s.OutW+j)*s.LdY+c] = float32(acc)
			}
		}
	}
}
