package main

// meanrows writes MeanRows<level>:
//
//	for c := range cols {
//		y[c] = Σ_r x[r*ldx+c] * scale
//	}
//
// Two vectors of columns at a time and two sums of each, then one by one.
// Registers: DI y, SI x at the columns, R8 bytes between rows, CX columns
// left, DX rows left, AX the row; V0 to V3 sums, V5 the scale, V7 (K1) the mask of
// the last columns.
func (g *gen) meanrows() {
	g.p("// func MeanRows%s(y, x *float32, ldx, rows, cols int, scale float32)", g.name)
	g.p("TEXT ·MeanRows%s(SB), 0, $128-44", g.name)
	g.op("MOVQ y+0(FP), DI")
	g.op("MOVQ x+8(FP), SI")
	g.op("MOVQ ldx+16(FP), R8")
	g.op("SHLQ $2, R8")
	g.op("VBROADCASTSS scale+40(FP), %s", g.v(5))
	g.op("MOVQ cols+32(FP), CX")
	g.tailMask("CX", "AX", 7)
	g.op("MOVQ cols+32(FP), CX")
	g.meanColumns("pair", 2, false)
	g.meanColumns("one", 1, false)
	g.op("TESTQ CX, CX")
	g.op("JZ end")
	g.meanColumns("tail", 1, true)
	g.p("end:")
	g.op("VZEROUPPER")
	g.op("RET")
}

func (g *gen) meanColumns(name string, vectors int, tail bool) {
	lanes := g.vb / 4
	offsets := []string{"(AX)", "64(AX)"}
	if g.vb == 32 {
		offsets[1] = "32(AX)"
	}
	g.p("%s:", name)
	if !tail {
		g.op("CMPQ CX, $%d", vectors*lanes)
		g.op("JLT %send", name)
	}
	for i := range 4 {
		g.v3("VXORPS", i, i, i)
	}
	add := func(at string, sum int) {
		if tail {
			g.loadTail(at, 7, 4)
			g.v3("VADDPS", 4, sum, sum)
		} else {
			g.op("VADDPS %s, %s, %s", at, g.v(sum), g.v(sum))
		}
	}
	g.op("MOVQ SI, AX")
	g.op("MOVQ rows+24(FP), DX")
	g.op("SUBQ $2, DX")
	g.op("JLT %slast", name)
	g.op("PCALIGN $32")
	g.p("%srows:", name)
	for i := range vectors {
		add(offsets[i], i)
	}
	g.op("ADDQ R8, AX")
	for i := range vectors {
		add(offsets[i], 2+i)
	}
	g.op("ADDQ R8, AX")
	g.op("SUBQ $2, DX")
	g.op("JGE %srows", name)
	g.p("%slast:", name)
	g.op("ADDQ $2, DX")
	g.op("JZ %sput", name)
	for i := range vectors {
		add(offsets[i], i)
	}
	g.p("%sput:", name)
	for i := range vectors {
		g.v3("VADDPS", 2+i, i, i)
		g.v3("VMULPS", 5, i, i)
		to := []string{"(DI)", offsets[1][:2] + "(DI)"}[i]
		if tail {
			g.storeTail(i, 7, to)
		} else {
			g.op("VMOVUPS %s, %s", g.v(i), to)
		}
	}
	if tail {
		return
	}
	g.op("ADDQ $%d, SI", vectors*g.vb)
	g.op("ADDQ $%d, DI", vectors*g.vb)
	g.op("SUBQ $%d, CX", vectors*lanes)
	g.op("JMP %s", name)
	g.p("%send:", name)
}

// scaleRows writes ScaleRows<level>:
//
//	for r := range rows { for c := range cols { y[r*ldy+c] = x[r*ldx+c] * s[r] } }
//
// Registers: DI SI the rows of y and x, R8 R9 bytes between them, BX the scales, R10
// rows left, CX columns left, AX the offset; V1 the scale, V7 (K1) the mask of a
// row's end.
func (g *gen) scaleRows() {
	lanes := g.vb / 4
	g.p("// func ScaleRows%s(y *float32, ldy int, x *float32, ldx, rows, cols int, s *float32)", g.name)
	g.p("TEXT ·ScaleRows%s(SB), 0, $128-56", g.name)
	for _, a := range [][2]string{{"y+0", "DI"}, {"ldy+8", "R8"}, {"x+16", "SI"}, {"ldx+24", "R9"}, {"rows+32", "R10"}, {"cols+40", "CX"}, {"s+48", "BX"}} {
		g.op("MOVQ %s(FP), %s", a[0], a[1])
	}
	g.op("SHLQ $2, R8")
	g.op("SHLQ $2, R9")
	g.tailMask("CX", "AX", 7)
	g.p("row:")
	g.op("VBROADCASTSS (BX), %s", g.v(1))
	g.op("XORQ AX, AX")
	g.op("MOVQ cols+40(FP), CX")
	g.op("SUBQ $%d, CX", lanes)
	g.op("JLT tail")
	g.p("vector:")
	g.op("VMULPS (SI)(AX*1), %s, %s", g.v(1), g.v(0))
	g.op("VMOVUPS %s, (DI)(AX*1)", g.v(0))
	g.op("ADDQ $%d, AX", g.vb)
	g.op("SUBQ $%d, CX", lanes)
	g.op("JGE vector")
	g.p("tail:")
	g.op("ADDQ $%d, CX", lanes)
	g.op("JZ next")
	g.loadTail("(SI)(AX*1)", 7, 0)
	g.v3("VMULPS", 1, 0, 0)
	g.storeTail(0, 7, "(DI)(AX*1)")
	g.p("next:")
	g.op("ADDQ R9, SI")
	g.op("ADDQ R8, DI")
	g.op("ADDQ $4, BX")
	g.op("DECQ R10")
	g.op("JNZ row")
	g.op("VZEROUPPER")
	g.op("RET")
}
