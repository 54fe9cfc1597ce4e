package main

// transpose writes TransposeNEON:
//
//	for i := range rows {
//		for j := range cols {
//			dst[j*ldd+i] = src[i*lds+j]
//		}
//	}
//
// in squares of 8 x 8, down a column of squares of dst at a time. Registers: R0 dst and
// R2 src at the square row, R1 and R3 bytes between their rows, R4 rows left, R5 columns
// left, R6 and R7 the rows of dst and src; V0 to V15 eight rows of eight, V16 to V31
// pairs of rows interleaved.
func (g *gen) transpose() {
	g.function("TransposeNEON", frame, "dst *float32, ldd int, src *float32, lds, rows, cols int")
	g.args("dst", "R0", "ldd", "R1", "src", "R2", "lds", "R3", "rows", "R4")
	g.op("LSL $2, R1, R1")
	g.op("LSL $2, R3, R3")
	g.p("rows:")
	g.op("MOVD R0, R6")
	g.op("MOVD R2, R8")
	g.args("cols", "R5")
	g.op("PCALIGN $16")
	g.p("loop:")
	g.op("MOVD R8, R7")
	for i := range 8 {
		g.op("VLD1 (R7), [V%d.S4, V%d.S4]", 2*i, 2*i+1)
		if i < 7 {
			g.op("ADD R3, R7, R7")
		}
	}
	for half := range 2 { // of the columns
		// Of each four rows: the words of rows 0 and 1, 2 and 3 in turn.
		for four := range 2 {
			for pair := range 2 {
				from, to := 8*four+4*pair+half, 16+4*four+2*pair
				g.op("VTRN1 V%d.S4, V%d.S4, V%d.S4", from+2, from, to)
				g.op("VTRN2 V%d.S4, V%d.S4, V%d.S4", from+2, from, to+1)
			}
		}
		for column := range 4 {
			trn := [2]string{"VTRN1", "VTRN2"}[column/2]
			for four := range 2 {
				at := 16 + 4*four + column%2
				g.op("%s V%d.D2, V%d.D2, V%d.D2", trn, at+2, at, 24+2*column+four)
			}
		}
		for column := range 4 {
			g.op("VST1 [V%d.S4, V%d.S4], (R6)", 24+2*column, 25+2*column)
			g.op("ADD R1, R6, R6")
		}
	}
	g.op("ADD $32, R8, R8")
	g.op("SUBS $8, R5, R5")
	g.op("BNE loop")
	g.op("ADD $32, R0, R0")
	g.op("ADD R3<<3, R2, R2")
	g.op("SUBS $8, R4, R4")
	g.op("BNE rows")
	g.op("RET")
}

// scaleRows writes ScaleRowsNEON. Registers: R0 R1 rows of y and their distance less a
// row, R2 R3 those of x, R4 rows left, R5 columns, R6 s, R7 columns left; V0 the row's
// factor, V1 to V4 elements.
func (g *gen) scaleRows() {
	g.function("ScaleRowsNEON", frame, "y *float32, ldy int, x *float32, ldx, rows, cols int, s *float32")
	g.args("y", "R0", "ldy", "R1", "x", "R2", "ldx", "R3", "rows", "R4", "cols", "R5", "s", "R6")
	for _, r := range []int{1, 3} {
		g.op("SUB R5, R%d, R%d", r, r)
		g.op("LSL $2, R%d, R%d", r, r)
	}
	g.p("row:")
	g.op("VLD1R.P 4(R6), [V0.S4]")
	g.op("SUBS $16, R5, R7")
	g.op("BLT rest")
	g.p("loop:")
	g.op("VLD1.P 64(R2), [V1.S4, V2.S4, V3.S4, V4.S4]")
	for i := range 4 {
		g.v3("FMUL", 1+i, 1+i, 0)
	}
	g.op("VST1.P [V1.S4, V2.S4, V3.S4, V4.S4], 64(R0)")
	g.op("SUBS $16, R7, R7")
	g.op("BGE loop")
	g.p("rest:")
	g.op("ADDS $12, R7, R7")
	g.op("BLT few")
	g.p("four:")
	g.op("VLD1.P 16(R2), [V1.S4]")
	g.v3("FMUL", 1, 1, 0)
	g.op("VST1.P [V1.S4], 16(R0)")
	g.op("SUBS $4, R7, R7")
	g.op("BGE four")
	g.p("few:")
	g.op("ADDS $4, R7, R7")
	g.op("BEQ next")
	g.p("one:")
	g.op("FMOVS.P 4(R2), F1")
	g.v3("FMUL", 1, 1, 0)
	g.op("FMOVS.P F1, 4(R0)")
	g.op("SUBS $1, R7, R7")
	g.op("BNE one")
	g.p("next:")
	g.op("ADD R1, R0, R0")
	g.op("ADD R3, R2, R2")
	g.op("SUBS $1, R4, R4")
	g.op("BNE row")
	g.op("RET")
}
