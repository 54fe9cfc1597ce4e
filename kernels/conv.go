package kernels

import (
	"github.com/mila-go/mila/kernels/generic"
	"github.com/mila-go/mila/kernels/ref"
)

// ConvShape describes a valid (unpadded) convolution of one NHWC image; see the
// fields. Zero padding is a matter of layout: put the image into a larger
// zeroed one with [PadNCHW] or by giving the previous operation such rows.
type ConvShape = ref.ConvShape

// PackConv packs convolution weights in PyTorch's order (cout, cin, kh, kw) for
// [Conv2D] at the same level: as [Pack] does with k running over (kernel row,
// kernel column, input channel). dst needs PackedLen(l, cout, kh*kw*cin)
// elements.
func PackConv(l Level, dst, w []float32, cout, cin, kh, kw int) {
	checkDims("PackConv", cout, cin, kh, kw)
	checkLen("PackConv", "w", w, cout*cin*kh*kw)
	k := kh * kw * cin
	checkLen("PackConv", "dst", dst, PackedLen(l, cout, k))
	nr := PanelWidth(l)
	clear(dst[:PackedLen(l, cout, k)])
	for o := range cout {
		for c := range cin {
			for r := range kh {
				for t := range kw {
					p := (r*kw+t)*cin + c
					dst[o/nr*nr*k+p*nr+o%nr] = w[((o*cin+c)*kh+r)*kw+t]
				}
			}
		}
	}
}

// Conv2D computes a dense convolution of one NHWC image with packed weights
// (see [PackConv]) as an implicit matrix product, without an im2col copy:
//
//	y[i,j,o] = Act(Σ_{r,t,c} x[i·Stride+r, j·Stride+t, c] W[o,c,r,t] + Bias[o]) * Mul[i,j,o] + Add[i,j,o]
//
// Mul and Add have the pixel layout of y, with LdMul and LdAdd floats between
// image rows. y may be Mul or Add, but must not overlap x or w.
func Conv2D(l Level, y, x, w []float32, s ConvShape, e Epilogue) {
	const op = "Conv2D"
	l = l.resolve(op)
	checkDims(op, s.OutH, s.OutW, s.Cout)
	checkDims(op, s.Cin, s.Cout, s.KH, s.KW)
	if s.Stride < 1 || s.KH < 1 || s.KW < 1 || s.Cin < 1 {
		fail(op, "kernel %dx%d, stride %d, %d input channels: each must be at least 1", s.KH, s.KW, s.Stride, s.Cin)
	}
	checkDims(op, s.OutH, s.OutW, s.Stride, s.Stride, s.Cin)
	if s.OutH == 0 || s.OutW == 0 || s.Cout == 0 {
		return
	}
	checkMatrix(op, "x", x, s.RowX, (s.OutH-1)*s.Stride+s.KH, ((s.OutW-1)*s.Stride+s.KW)*s.Cin)
	checkMatrix(op, "y", y, s.RowY, s.OutH, s.OutW*s.Cout)
	checkLen(op, "w (packed)", w, PackedLen(l, s.Cout, s.KH*s.KW*s.Cin))
	checkEpilogue(op, &e, s.OutH, s.OutW*s.Cout, s.Cout)
	// Each output row is one product whose left operand is read in place.
	xr := generic.Rows{Ld: s.Stride * s.Cin, Segs: s.KH, SegLen: s.KW * s.Cin, SegStride: s.RowX}
	for i := range s.OutH {
		row := e
		if e.Mul != nil {
			row.Mul, row.LdMul = e.Mul[i*e.LdMul:], s.Cout
		}
		if e.Add != nil {
			row.Add, row.LdAdd = e.Add[i*e.LdAdd:], s.Cout
		}
		gemm(l, y[i*s.RowY:], s.Cout, x[i*s.Stride*s.RowX:], xr, w, s.OutW, s.Cout, &row)
	}
}
