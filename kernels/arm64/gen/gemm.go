package main

import "fmt"

const mr = 8

// gemm writes GemmNEON. Registers in the loop over K:
//
//	R0 .. R7         rows of the tile in X
//	R8               the packed panel, read once from start to end for each tile
//	R9 R10           elements left in a run of K, runs left
//	R11              from the end of a run to the next, in bytes
//	V0 .. V15        accumulators, row r in V(2r) and V(2r+1)
//	V16 .. V23       four elements of each row
//	V24 .. V27       two steps of the panel
//
// and between the tiles R12 X, R13 Y, R14 Mul (0: none), R15 Add (0: none), R19 rows
// left, R20 to R23 their distances in bytes. Eight rows and two vectors of columns
// take sixteen multiply-adds by element a step, and twelve loads every four steps, so
// that the multiply-adds are the bound.
func (g *gen) gemm() {
	g.p("// func GemmNEON(y *float32, ldy int, x *float32, ldx, segs, segLen, segStride int, w, bias, mul *float32, ldmul int, add *float32, ldadd, rows, relu int)")
	g.p("TEXT ·GemmNEON(SB), 0, $128-120")
	for _, a := range [][2]string{{"x+16", "R12"}, {"y+0", "R13"}, {"mul+72", "R14"}, {"add+88", "R15"}, {"rows+104", "R19"}, {"ldx+24", "R20"}, {"ldy+8", "R21"}, {"ldmul+80", "R22"}, {"ldadd+96", "R23"}} {
		g.op("MOVD %s(FP), %s", a[0], a[1])
	}
	for i := range 4 {
		g.op("LSL $2, R%d, R%d", 20+i, 20+i)
	}
	g.p("next:")
	g.op("CMP $%d, R19", mr)
	g.op("BGE tile%d", mr)
	for m := mr - 1; m >= 1; m-- {
		g.op("CMP $%d, R19", m)
		g.op("BEQ tile%d", m)
	}
	g.op("RET")
	for m := mr; m >= 1; m-- {
		g.tile(m)
	}
}

func (g *gen) tile(m int) {
	g.p("")
	g.p("tile%d:", m)
	g.op("MOVD R12, R0")
	for r := 1; r < m; r++ {
		g.op("ADD R20, R%d, R%d", r-1, r)
	}
	// The accumulators begin with the bias.
	g.op("MOVD bias+64(FP), R9")
	g.op("CBZ R9, nobias%d", m)
	g.op("VLD1 (R9), [V0.S4, V1.S4]")
	g.op("B begin%d", m)
	g.p("nobias%d:", m)
	g.op("VEOR V0.B16, V0.B16, V0.B16")
	g.op("VEOR V1.B16, V1.B16, V1.B16")
	g.p("begin%d:", m)
	for r := 1; r < m; r++ {
		g.op("VMOV V0.B16, V%d.B16", 2*r)
		g.op("VMOV V1.B16, V%d.B16", 2*r+1)
	}
	g.op("MOVD w+56(FP), R8")
	g.op("MOVD segs+32(FP), R10")
	g.op("MOVD segLen+40(FP), R9")
	g.op("MOVD segStride+48(FP), R11")
	g.op("SUB R9, R11, R11")
	g.op("LSL $2, R11, R11")
	g.p("seg%d:", m)
	g.op("MOVD segLen+40(FP), R9")
	g.op("SUBS $4, R9, R9")
	g.op("BLT rest%d", m)
	g.op("PCALIGN $16")
	g.p("loop%d:", m)
	g.op("VLD1.P 32(R8), [V24.S4, V25.S4]")
	for r := range m {
		g.op("VLD1.P 16(R%d), [V%d.S4]", r, 16+r)
	}
	for u := range 4 {
		w := 24 + 2*(u%2)
		if u < 3 {
			next := 24 + 2*((u+1)%2)
			g.op("VLD1.P 32(R8), [V%d.S4, V%d.S4]", next, next+1)
		}
		for r := range m {
			g.fmlaLane(2*r, w, 16+r, u)
			g.fmlaLane(2*r+1, w+1, 16+r, u)
		}
	}
	g.op("SUBS $4, R9, R9")
	g.op("BGE loop%d", m)
	g.p("rest%d:", m)
	g.op("ADDS $4, R9, R9")
	g.op("BEQ segend%d", m)
	g.p("one%d:", m)
	g.op("VLD1.P 32(R8), [V24.S4, V25.S4]")
	for r := range m {
		g.op("FMOVS.P 4(R%d), F%d", r, 16+r)
	}
	for r := range m {
		g.fmlaLane(2*r, 24, 16+r, 0)
		g.fmlaLane(2*r+1, 25, 16+r, 0)
	}
	g.op("SUBS $1, R9, R9")
	g.op("BNE one%d", m)
	g.p("segend%d:", m)
	for r := range m {
		g.op("ADD R11, R%d, R%d", r, r)
	}
	g.op("SUBS $1, R10, R10")
	g.op("BNE seg%d", m)

	// f(acc) * mul + add
	g.op("MOVD relu+112(FP), R9")
	g.op("CBZ R9, linear%d", m)
	g.op("VEOR V31.B16, V31.B16, V31.B16")
	for i := range 2 * m {
		g.v3("FMAX", i, i, 31)
	}
	g.p("linear%d:", m)
	for _, f := range []struct{ name, at, distance, op string }{{"mul", "R14", "R22", "FMUL"}, {"add", "R15", "R23", "FADD"}} {
		skip := fmt.Sprintf("no%s%d", f.name, m)
		g.op("CBZ %s, %s", f.at, skip)
		for r := range m {
			g.op("VLD1 (%s), [V24.S4, V25.S4]", f.at)
			g.op("ADD %s, %s, %s", f.distance, f.at, f.at)
			g.v3(f.op, 2*r, 2*r, 24)
			g.v3(f.op, 2*r+1, 2*r+1, 25)
		}
		g.p("%s:", skip)
	}
	for r := range m {
		g.op("VST1 [V%d.S4, V%d.S4], (R13)", 2*r, 2*r+1)
		g.op("ADD R21, R13, R13")
	}
	g.op("MOVD $%d, R9", m)
	g.op("MADD R9, R12, R20, R12")
	g.op("SUB $%d, R19, R19", m)
	g.op("B next")
}
