package ref

// PadNCHW lays an NCHW image (c x h x w) into a zero-bordered NHWC one:
//
//	dst[(top+i)·rowDst + (left+j)·c + ch] = src[ch, i, j]
//
// and zero everywhere else in the dstH rows of rowDst floats.
func PadNCHW(dst []float32, rowDst, dstH, top, left int, src []float32, c, h, w int) {
	clear(dst[:dstH*rowDst])
	for ch := range c {
		for i := range h {
			row := dst[(top+i)*rowDst+left*c:]
			for j, v := range src[(ch*h+i)*w : (ch*h+i)*w+w] {
				row[j*c+ch] = v
			}
		}
	}
}

// NCHW turns a matrix of tokens x channels into channel planes:
// dst[ch·tokens + t] = src[t·c + ch].
func NCHW(dst, src []float32, tokens, c int) {
	for t := range tokens {
		for ch := range c {
			dst[ch*tokens+t] = src[t*c+ch]
		}
	}
}
