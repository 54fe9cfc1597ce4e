package main

// transpose writes TransposeAVX2:
//
//	for i := range rows {
//		for j := range cols {
//			dst[j*ldd+i] = src[i*lds+j]
//		}
//	}
//
// in squares of 8 x 8, down a column of squares of dst at a time. Each half of a
// register holds four columns of a row, rows r and r+4 together, so that all
// shuffles stay within the halves. Registers: DI dst and SI src at the square row,
// R8 and R9 bytes between rows of dst and src, R12 and R10 three times that, R11
// rows left, CX columns left, DX dst, AX src and BX src four rows below.
func (g *gen) transpose() {
	g.p("// func TransposeAVX2(dst *float32, ldd int, src *float32, lds, rows, cols int)")
	g.p("TEXT ·TransposeAVX2(SB), 0, $128-48")
	g.op("MOVQ dst+0(FP), DI")
	g.op("MOVQ ldd+8(FP), R8")
	g.op("MOVQ src+16(FP), SI")
	g.op("MOVQ lds+24(FP), R9")
	g.op("MOVQ rows+32(FP), R11")
	g.op("SHLQ $2, R8")
	g.op("SHLQ $2, R9")
	g.op("LEAQ (R8)(R8*2), R12")
	g.op("LEAQ (R9)(R9*2), R10")
	g.p("rows:")
	g.op("MOVQ DI, DX")
	g.op("MOVQ SI, AX")
	g.op("LEAQ (SI)(R9*4), BX")
	g.op("MOVQ cols+40(FP), CX")
	g.op("PCALIGN $32")
	g.p("square:")
	from := []string{"", "(R9*1)", "(R9*2)", "(R10*1)"}
	to := []string{"", "(R8*1)", "(R8*2)", "(R12*1)"}
	for half := range 2 {
		for i, at := range from {
			g.op("VMOVUPS %d(AX)%s, X%d", 16*half, at, 4*half+i)
			g.op("VINSERTF128 $1, %d(BX)%s, Y%d, Y%d", 16*half, at, 4*half+i, 4*half+i)
		}
	}
	for half := range 2 {
		v := 4 * half
		g.op("VUNPCKLPS Y%d, Y%d, Y8", v+1, v)
		g.op("VUNPCKHPS Y%d, Y%d, Y9", v+1, v)
		g.op("VUNPCKLPS Y%d, Y%d, Y10", v+3, v+2)
		g.op("VUNPCKHPS Y%d, Y%d, Y11", v+3, v+2)
		g.op("VUNPCKLPD Y10, Y8, Y12")
		g.op("VUNPCKHPD Y10, Y8, Y13")
		g.op("VUNPCKLPD Y11, Y9, Y14")
		g.op("VUNPCKHPD Y11, Y9, Y15")
		for i, at := range to {
			g.op("VMOVUPS Y%d, (DX)%s", 12+i, at)
		}
		g.op("LEAQ (DX)(R8*4), DX")
	}
	g.op("ADDQ $32, AX")
	g.op("ADDQ $32, BX")
	g.op("SUBQ $8, CX")
	g.op("JNZ square")
	g.op("ADDQ $32, DI")
	g.op("LEAQ (SI)(R9*8), SI")
	g.op("SUBQ $8, R11")
	g.op("JNZ rows")
	g.op("VZEROUPPER")
	g.op("RET")
}
