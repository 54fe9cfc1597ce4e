package kernels

import "github.com/mila-go/mila/kernels/ref"

// PadNCHW lays an NCHW image src (c x h x w) into an NHWC image with a border
// and returns its rows [row0, row1) in dst: rows of rowDst floats, the image's
// pixel (0, 0) at row top, pixel left, zeros everywhere else, above and below the
// image too. It is how images enter [Conv2D], whose padding is a matter of layout.
func PadNCHW(dst []float32, rowDst, row0, row1, top, left int, src []float32, c, h, w int) {
	const op = "PadNCHW"
	checkDims(op, row1, rowDst)
	checkDims(op, c, h, w)
	if top < 0 || left < 0 || row0 < 0 || row0 > row1 || (left+w)*c > rowDst {
		fail(op, "rows [%d, %d) of %d floats do not hold those of an image of %dx%dx%d at (%d, %d)", row0, row1, rowDst, h, w, c, top, left)
	}
	checkLen(op, "dst", dst, (row1-row0)*rowDst)
	checkLen(op, "src", src, c*h*w)
	ref.PadNCHW(dst, rowDst, row0, row1, top, left, src, c, h, w)
}

// NCHW turns a matrix of tokens x channels (NHWC) into channel planes:
// dst[ch·tokens + t] = src[t·c + ch]. dst must not overlap src.
func NCHW(dst, src []float32, tokens, c int) {
	checkDims("NCHW", tokens, c)
	checkLen("NCHW", "dst", dst, tokens*c)
	checkLen("NCHW", "src", src, tokens*c)
	ref.NCHW(dst, src, tokens, c)
}
