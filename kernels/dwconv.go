package kernels

import "github.com/mila-go/mila/kernels/generic"

// PackDW3x3 turns 3x3 depthwise weights from PyTorch's order (ch, 1, 3, 3) into
// the tap-major order (9, ch) of the DWConv3x3 functions; it is the same at
// every level.
func PackDW3x3(dst, w []float32, ch int) {
	checkDims("PackDW3x3", 9, ch)
	checkLen("PackDW3x3", "dst", dst, 9*ch)
	checkLen("PackDW3x3", "w", w, 9*ch)
	for c := range ch {
		for t := range 9 {
			dst[t*ch+c] = w[c*9+t]
		}
	}
}

// checkDW checks the arguments that the depthwise forms share.
func checkDW(op string, y, x, w9, bias []float32, h, w, ch, stride, row0, row1 int) {
	checkDims(op, h, w, ch)
	checkDims(op, 9, ch)
	if stride != 1 && stride != 2 {
		fail(op, "stride %d; only 1 and 2 exist", stride)
	}
	oh, ow := (h+stride-1)/stride, (w+stride-1)/stride
	if row0 < 0 || row0 > row1 || row1 > oh {
		fail(op, "output rows [%d, %d) of %d", row0, row1, oh)
	}
	checkLen(op, "x", x, h*w*ch)
	checkLen(op, "y", y, row1*ow*ch)
	checkLen(op, "w9", w9, 9*ch)
	if bias != nil {
		checkLen(op, "bias", bias, ch)
	}
}

// DWConv3x3 computes output rows [row0, row1) of a 3x3 depthwise convolution of
// one NHWC image x (h x w x ch) with zero padding 1 and stride 1 or 2, then an
// activation:
//
//	y[i,j,c] = act(Σ_{r,t} x[i·stride+r-1, j·stride+t-1, c] · w9[3r+t, c] + bias[c])
//
// w9 is tap-major (see [PackDW3x3]); bias may be nil. The whole output has
// ceil(h/stride) x ceil(w/stride) pixels and y is indexed from its start, so
// bands of rows can be computed independently. y must not overlap x.
func DWConv3x3(l Level, y, x, w9, bias []float32, h, w, ch, stride, row0, row1 int, act Activation) {
	l = l.resolve("DWConv3x3")
	checkDW("DWConv3x3", y, x, w9, bias, h, w, ch, stride, row0, row1)
	dwconv(l, y, x, w9, bias, h, w, ch, stride, row0, row1, generic.DW{Act: act})
}

// DWConv3x3Residual computes rows [row0, row1) of y = x + conv(x) + bias, the
// conditional position encoding (CPE) of MILA, with the convolution of
// [DWConv3x3] at stride 1. y must not overlap x.
func DWConv3x3Residual(l Level, y, x, w9, bias []float32, h, w, ch, row0, row1 int) {
	l = l.resolve("DWConv3x3Residual")
	checkDW("DWConv3x3Residual", y, x, w9, bias, h, w, ch, 1, row0, row1)
	dwconv(l, y, x, w9, bias, h, w, ch, 1, row0, row1, generic.DW{Residual: true})
}

// DWConv3x3AddMul computes rows [row0, row1) of
//
//	y = (conv(x) + bias + add) * mul
//
// with the convolution of [DWConv3x3] at stride 1: for MILA's attention the
// local position encoding (LePE) of the values x, plus the attention output
// add, times the gate mul. add and mul have y's layout; y may be add or mul but
// must not overlap x.
func DWConv3x3AddMul(l Level, y, x, w9, bias, add, mul []float32, h, w, ch, row0, row1 int) {
	l = l.resolve("DWConv3x3AddMul")
	checkDW("DWConv3x3AddMul", y, x, w9, bias, h, w, ch, 1, row0, row1)
	checkLen("DWConv3x3AddMul", "add", add, row1*w*ch)
	checkLen("DWConv3x3AddMul", "mul", mul, row1*w*ch)
	dwconv(l, y, x, w9, bias, h, w, ch, 1, row0, row1, generic.DW{Add: add, Mul: mul})
}

// dwconv dispatches a convolution whose arguments are checked.
func dwconv(l Level, y, x, w9, bias []float32, h, w, ch, stride, row0, row1 int, d generic.DW) {
	switch l {
	case AVX2, AVX512:
		dwconvVector(l, y, x, w9, bias, h, w, ch, stride, row0, row1, d)
	default:
		generic.DWConv3x3(y, x, w9, bias, h, w, ch, stride, row0, row1, d)
	}
}
