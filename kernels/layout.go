package kernels

import "github.com/mila-go/mila/kernels/ref"

// PadNCHW lays an NCHW image src (c x h x w) into an NHWC image with a border,
// dst: dstH rows of rowDst floats, the image's pixel (0, 0) at row top, pixel
// left, zeros everywhere else. It is how images enter [Conv2D], whose padding is
// a matter of layout.
func PadNCHW(dst []float32, rowDst, dstH, top, left int, src []float32, c, h, w int) {
	const op = "PadNCHW"
	checkDims(op, dstH, rowDst)
	checkDims(op, c, h, w)
	if top < 0 || left < 0 || top+h > dstH || (left+w)*c > rowDst {
		fail(op, "an image of %dx%dx%d at (%d, %d) does not fit into %d rows of %d floats", h, w, c, top, left, dstH, rowDst)
	}
	checkLen(op, "dst", dst, dstH*rowDst)
	checkLen(op, "src", src, c*h*w)
	ref.PadNCHW(dst, rowDst, dstH, top, left, src, c, h, w)
}

// NCHW turns a matrix of tokens x channels (NHWC) into channel planes:
// dst[ch·tokens + t] = src[t·c + ch]. dst must not overlap src.
func NCHW(dst, src []float32, tokens, c int) {
	checkDims("NCHW", tokens, c)
	checkLen("NCHW", "dst", dst, tokens*c)
	checkLen("NCHW", "src", src, tokens*c)
	ref.NCHW(dst, src, tokens, c)
}
