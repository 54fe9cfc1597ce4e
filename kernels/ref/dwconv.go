package ref

// dwAt returns the 3x3 depthwise convolution at output pixel (i, j), channel c,
// of the NHWC image x (h x w x ch) with zero padding 1, in float64.
func dwAt(x, w9, bias []float32, h, w, ch, stride, i, j, c int) float64 {
	var acc float64
	for r := range 3 {
		for t := range 3 {
			u, v := i*stride+r-1, j*stride+t-1
			if u < 0 || u >= h || v < 0 || v >= w {
				continue
			}
			acc += float64(x[(u*w+v)*ch+c]) * float64(w9[(r*3+t)*ch+c])
		}
	}
	if bias != nil {
		acc += float64(bias[c])
	}
	return acc
}

// DWConv3x3 computes output rows [row0, row1) of
//
//	y[i,j,c] = act( Σ_{r,t} x[i·stride+r-1, j·stride+t-1, c] · w9[r·3+t, c] + bias[c] )
//
// for an NHWC image x (h x w x ch), zero outside, with tap-major weights
// (9 x ch). The output has ceil(h/stride) x ceil(w/stride) pixels.
func DWConv3x3(y, x, w9, bias []float32, h, w, ch, stride, row0, row1 int, act Activation) {
	ow := (w + stride - 1) / stride
	for i := row0; i < row1; i++ {
		for j := range ow {
			for c := range ch {
				y[(i*ow+j)*ch+c] = float32(act.apply(dwAt(x, w9, bias, h, w, ch, stride, i, j, c)))
			}
		}
	}
}

// DWConv3x3Residual computes rows [row0, row1) of y = x + conv(x) + bias, the
// conditional position encoding (CPE), with the convolution of [DWConv3x3] at
// stride 1.
func DWConv3x3Residual(y, x, w9, bias []float32, h, w, ch, row0, row1 int) {
	for i := row0; i < row1; i++ {
		for j := range w {
			for c := range ch {
				at := (i*w+j)*ch + c
				y[at] = float32(float64(x[at]) + dwAt(x, w9, bias, h, w, ch, 1, i, j, c))
			}
		}
	}
}

// DWConv3x3AddMul computes rows [row0, row1) of
// y = (conv(x) + bias + add) * mul: the local position encoding (LePE) of the
// values x, added to the attention output and gated, with the convolution of
// [DWConv3x3] at stride 1.
func DWConv3x3AddMul(y, x, w9, bias, add, mul []float32, h, w, ch, row0, row1 int) {
	for i := row0; i < row1; i++ {
		for j := range w {
			for c := range ch {
				at := (i*w+j)*ch + c
				y[at] = float32((dwAt(x, w9, bias, h, w, ch, 1, i, j, c) + float64(add[at])) * float64(mul[at]))
			}
		}
	}
}
