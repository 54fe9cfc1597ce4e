package ref

// PadNCHW lays the rows [row0, row1) of a zero-bordered NHWC image, whose inside
// is the NCHW image src (c x h x w), into dst:
//
//	dst[(top+i-row0)·rowDst + (left+j)·c + ch] = src[ch, i, j]
//
// and zero everywhere else in the rows of rowDst floats.
func PadNCHW(dst []float32, rowDst, row0, row1, top, left int, src []float32, c, h, w int) {
	clear(dst[:(row1-row0)*rowDst])
	for ch := range c {
		for i := max(0, row0-top); i < min(h, row1-top); i++ {
			row := dst[(top+i-row0)*rowDst+left*c:]
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
