package generic

// Transpose copies src (rows x cols): dst[j·ldd + i] = src[i·lds + j], eight rows
// at a time, so that stores go to runs of memory.
func Transpose(dst []float32, ldd int, src []float32, lds, rows, cols int) {
	const block = 64 // so many rows of dst stay in the L1 cache
	for j0 := 0; j0 < cols; j0 += block {
		n := min(block, cols-j0)
		i := 0
		for ; i+8 <= rows; i += 8 {
			row := func(r int) []float32 { return src[(i+r)*lds+j0:][:n] }
			s0, s1, s2, s3, s4, s5, s6, s7 := row(0), row(1), row(2), row(3), row(4), row(5), row(6), row(7)
			for j := range n {
				d := (*[8]float32)(dst[(j0+j)*ldd+i:])
				d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7] = s0[j], s1[j], s2[j], s3[j], s4[j], s5[j], s6[j], s7[j]
			}
		}
		for ; i < rows; i++ {
			for j, v := range src[i*lds+j0:][:n] {
				dst[(j0+j)*ldd+i] = v
			}
		}
	}
}
