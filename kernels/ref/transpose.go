package ref

// Transpose copies src (rows x cols): dst[j·ldd + i] = src[i·lds + j].
func Transpose(dst []float32, ldd int, src []float32, lds, rows, cols int) {
	for i := range rows {
		for j := range cols {
			dst[j*ldd+i] = src[i*lds+j]
		}
	}
}
