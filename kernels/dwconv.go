package kernels

import (
	"github.com/mila-go/mila/kernels/generic"
	"github.com/mila-go/mila/kernels/ref"
)

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

// DWShape describes output rows [Row0, Row1) of a 3x3 depthwise convolution of
// one NHWC image; see the fields. With distances larger than Ch it works on some
// of the channels of wider pixels: slices then begin at the first channel.
type DWShape = ref.DWShape

// checkDW checks the arguments that the depthwise forms share, fills in the
// distances of s, and returns the length that images like y need.
func checkDW(op string, y, x, w9, bias []float32, s *DWShape) int {
	checkDims(op, s.H, s.W, s.Ch)
	if s.Stride != 1 && s.Stride != 2 {
		fail(op, "stride %d; only 1 and 2 exist", s.Stride)
	}
	*s = s.Dense()
	for i, ld := range [...]int{s.LdX, s.LdY, s.LdW} {
		if ld < s.Ch {
			fail(op, "%s is %d, less than the %d channels", [...]string{"LdX", "LdY", "LdW"}[i], ld, s.Ch)
		}
		checkDims(op, s.H, s.W, ld)
		checkDims(op, 9, ld)
	}
	if s.Row0 < 0 || s.Row0 > s.Row1 || s.Row1 > s.OutH() {
		fail(op, "output rows [%d, %d) of %d", s.Row0, s.Row1, s.OutH())
	}
	if s.Ch == 0 || s.W == 0 || s.Row0 == s.Row1 {
		return 0
	}
	n := (s.Row1*s.OutW()-1)*s.LdY + s.Ch
	checkLen(op, "x", x, (s.H*s.W-1)*s.LdX+s.Ch)
	checkLen(op, "y", y, n)
	checkLen(op, "w9", w9, 8*s.LdW+s.Ch)
	if bias != nil {
		checkLen(op, "bias", bias, s.Ch)
	}
	return n
}

// DWConv3x3 computes a 3x3 depthwise convolution with zero padding 1 and stride 1
// or 2, then an activation:
//
//	y[i,j,c] = act(Σ_{r,t} x[i·Stride+r-1, j·Stride+t-1, c] · w9[3r+t, c] + bias[c])
//
// w9 is tap-major (see [PackDW3x3]) and must be finite, since it also meets the
// zeros outside of the image; bias may be nil. The whole output has
// ceil(H/Stride) x ceil(W/Stride) pixels and y is indexed from its start, so
// bands of rows can be computed independently. y must not overlap x.
func DWConv3x3(l Level, y, x, w9, bias []float32, s DWShape, act Activation) {
	l = l.resolve("DWConv3x3")
	if checkDW("DWConv3x3", y, x, w9, bias, &s) > 0 {
		dwconv(l, y, x, w9, bias, s, generic.DW{Act: act})
	}
}

// checkStride1 checks the stride of the fused forms.
func checkStride1(op string, s *DWShape) {
	if s.Stride != 1 {
		fail(op, "stride %d; this form has stride 1", s.Stride)
	}
}

// DWConv3x3Residual computes y = x + conv(x) + bias, the conditional position
// encoding (CPE) of MILA, with the convolution of [DWConv3x3] at stride 1. Where
// x is infinite, y is infinite or NaN. y must not overlap x.
func DWConv3x3Residual(l Level, y, x, w9, bias []float32, s DWShape) {
	l = l.resolve("DWConv3x3Residual")
	checkStride1("DWConv3x3Residual", &s)
	if checkDW("DWConv3x3Residual", y, x, w9, bias, &s) > 0 {
		dwconv(l, y, x, w9, bias, s, generic.DW{Residual: true})
	}
}

// DWConv3x3AddMul computes
//
//	y = (conv(x) + bias + add) * mul
//
// with the convolution of [DWConv3x3] at stride 1: for MILA's attention the
// local position encoding (LePE) of the values x, plus the attention output
// add, times the gate mul. add and mul have y's layout; y may be add or mul but
// must not overlap x.
func DWConv3x3AddMul(l Level, y, x, w9, bias, add, mul []float32, s DWShape) {
	const op = "DWConv3x3AddMul"
	l = l.resolve(op)
	checkStride1(op, &s)
	if n := checkDW(op, y, x, w9, bias, &s); n > 0 {
		checkLen(op, "add", add, n)
		checkLen(op, "mul", mul, n)
		dwconv(l, y, x, w9, bias, s, generic.DW{Add: add, Mul: mul})
	}
}

// dwconv dispatches a convolution whose arguments are checked; it is not empty.
func dwconv(l Level, y, x, w9, bias []float32, s DWShape, d generic.DW) {
	if l == Generic {
		generic.DWConv3x3(y, x, w9, bias, s, d)
	} else {
		dwconvVector(l, y, x, w9, bias, s, d)
	}
}

// PackDW turns depthwise weights of k x k taps from PyTorch's order (ch, 1, k, k)
// into the tap-major order (k·k, ch) of [DWValid]; it is the same at every level.
func PackDW(dst, w []float32, ch, k int) {
	checkDims("PackDW", k, k, ch)
	checkLen("PackDW", "dst", dst, k*k*ch)
	checkLen("PackDW", "w", w, k*k*ch)
	ref.NCHW(dst, w, ch, k*k)
}

// DWValidShape describes a depthwise convolution without padding; see the fields.
type DWValidShape = ref.DWValidShape

// DWValid computes a depthwise convolution of K x K taps at stride 1 without
// padding, of an image that has a border where padding is wanted (as [Conv2D]):
//
//	y[i,j,c] = bias[c] + Σ_{r,t} x[i+r, j+t, c] · w[r·K+t, c]
//
// x has (OutH+K-1) x (OutW+K-1) pixels, w is tap-major (see [PackDW]), bias may be
// nil. y must not overlap the inputs. For 3x3 taps [DWConv3x3] is faster.
func DWValid(l Level, y, x, w, bias []float32, s DWValidShape) {
	const op = "DWValid"
	l = l.resolve(op)
	checkDims(op, s.OutH, s.OutW, s.Ch)
	checkDims(op, s.K, s.K, s.Ch)
	if s.K < 1 {
		fail(op, "%d x %d taps", s.K, s.K)
	}
	if s.OutH == 0 || s.OutW == 0 || s.Ch == 0 {
		return
	}
	if s.LdX < s.Ch || s.LdY < s.Ch {
		fail(op, "pixels are %d and %d floats apart, with %d channels", s.LdX, s.LdY, s.Ch)
	}
	checkDims(op, s.OutH+s.K, s.RowX)
	checkDims(op, s.OutW+s.K, s.LdX)
	checkDims(op, s.OutH, s.OutW, s.LdY)
	checkMatrix(op, "x", x, s.RowX, s.OutH+s.K-1, (s.OutW+s.K-2)*s.LdX+s.Ch)
	checkMatrix(op, "y", y, s.LdY, s.OutH*s.OutW, s.Ch)
	checkLen(op, "w", w, s.K*s.K*s.Ch)
	if bias != nil {
		checkLen(op, "bias", bias, s.Ch)
	}
	if l == Generic {
		generic.DWValid(y, x, w, bias, s)
		return
	}
	dwvalidVector(l, y, x, w, bias, s)
}
