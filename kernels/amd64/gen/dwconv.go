package main

import "fmt"

// dwconv writes DWConv<level>. Registers:
//
//	AX SI DI  the three taps of the first row, at the current pixel
//	R8        distance of input rows; R9 of input pixels; DX of taps,
//	then R12 of pixels of y, R13 of taps' weights
//	BX        output at the current pixel
//	CX        pixels left; R10 weights; R11 channels left
//	V0 .. V8  weights of one block of channels; V9 bias; V10 sum; V11 a load
//	K1 (V15)  the mask of the last block of channels
//
// A pixel of three rows and taps is nine multiply-adds with a memory operand;
// the chains of many pixels overlap in the reorder buffer.
func (g *gen) dwconv() {
	g.p("// func DWConv%s(y, x, w, bias *float32, ldrow, ldpix, ldx, ldy, ldw, ch, n, rows, taps int)", g.name)
	g.p("TEXT ·DWConv%s(SB), 0, $128-104", g.name)
	g.op("MOVQ $0, done-8(SP) // bytes of channels done")
	g.op("MOVQ ch+72(FP), R11")
	g.op("MOVQ ldrow+32(FP), R8")
	g.op("SHLQ $2, R8")
	g.op("MOVQ ldpix+40(FP), R9")
	g.op("SHLQ $2, R9")
	g.op("MOVQ ldx+48(FP), DX")
	g.op("SHLQ $2, DX")
	for _, a := range []string{"ldy+56(FP), R12", "ldw+64(FP), R13"} {
		g.op("MOVQ %s", a)
		g.op("SHLQ $2, %s", a[len(a)-3:])
	}
	lanes := g.vb / 4
	g.p("block:")
	g.op("MOVQ done-8(SP), R10")
	g.op("MOVQ x+8(FP), AX")
	g.op("ADDQ R10, AX")
	g.op("LEAQ (AX)(DX*1), SI")
	g.op("LEAQ (AX)(DX*2), DI")
	g.op("MOVQ y+0(FP), BX")
	g.op("ADDQ R10, BX")
	g.op("MOVQ n+80(FP), CX")
	if g.vb == 64 {
		g.op("MOVL $0xffff, R10")
		g.op("CMPQ R11, $16")
		g.op("JGE whole")
		g.op("XCHGQ CX, R11")
		g.op("MOVL $1, R10")
		g.op("SHLL CX, R10")
		g.op("DECL R10")
		g.op("XCHGQ CX, R11")
		g.p("whole:")
		g.op("KMOVW R10, K1")
		g.dispatch("")
	} else {
		g.op("CMPQ R11, $8")
		g.op("JLT partial")
		g.dispatch("")
		g.p("partial:")
		g.op("MOVQ R11, R10")
		g.op("NEGQ R10")
		g.op("LEAQ ·tailsAVX2+32(SB), CX")
		g.op("VMOVUPS (CX)(R10*4), Y15")
		g.op("MOVQ n+80(FP), CX")
		g.dispatch("tail")
	}
	g.p("blockend:")
	g.op("ADDQ $%d, done-8(SP)", g.vb)
	g.op("SUBQ $%d, R11", lanes)
	g.op("JGT block")
	g.op("VZEROUPPER")
	g.op("RET")
	suffixes := []string{""}
	if g.vb == 32 {
		suffixes = []string{"", "tail"}
	}
	for _, s := range suffixes {
		for rows := 1; rows <= 3; rows++ {
			for taps := 1; taps <= 3; taps++ {
				g.dwbody(rows, taps, s)
			}
		}
	}
}

// dispatch jumps to the body for the number of rows and taps.
func (g *gen) dispatch(suffix string) {
	g.op("MOVQ rows+88(FP), R10")
	g.op("LEAQ (R10)(R10*2), R10")
	g.op("ADDQ taps+96(FP), R10")
	for rows := 1; rows <= 3; rows++ {
		for taps := 1; taps <= 3; taps++ {
			if rows == 3 && taps == 3 {
				continue
			}
			g.op("CMPQ R10, $%d", 3*rows+taps)
			g.op("JEQ pre%d%d%s", rows, taps, suffix)
		}
	}
	g.op("JMP pre33%s", suffix)
}

func (g *gen) dwbody(rows, taps int, suffix string) {
	tail := suffix != ""
	load := func(at string, r int) {
		switch {
		case g.vb == 64:
			g.op("VMOVUPS.Z %s, K1, Z%d", at, r)
		case tail:
			g.op("VMASKMOVPS %s, Y15, Y%d", at, r)
		default:
			g.op("VMOVUPS %s, Y%d", at, r)
		}
	}
	id := fmt.Sprintf("%d%d%s", rows, taps, suffix)
	g.p("pre%s:", id)
	g.op("MOVQ w+16(FP), R10")
	g.op("ADDQ done-8(SP), R10")
	for r := range rows {
		for t := range 3 {
			if t < taps {
				load("(R10)", 3*r+t)
			}
			g.op("ADDQ R13, R10")
		}
	}
	g.op("VXORPS X9, X9, X9")
	g.op("MOVQ bias+24(FP), R10")
	g.op("TESTQ R10, R10")
	g.op("JZ pixel%s", id)
	g.op("ADDQ done-8(SP), R10")
	load("(R10)", 9)
	g.op("PCALIGN $32")
	g.p("pixel%s:", id)
	g.op("VMOVAPS %s, %s", g.v(9), g.v(10))
	arith := func(op, at string, a int) {
		switch {
		case g.vb == 64:
			g.op("%s %s, Z%d, K1, Z10", op, at, a)
		case tail:
			g.op("VMASKMOVPS %s, Y15, Y11", at)
			g.op("%s Y11, Y%d, Y10", op, a)
		default:
			g.op("%s %s, Y%d, Y10", op, at, a)
		}
	}
	for r := range rows {
		for t := range taps {
			at := "(" + []string{"AX", "SI", "DI"}[t] + ")"
			if r > 0 {
				at += fmt.Sprintf("(R8*%d)", r)
			}
			arith("VFMADD231PS", at, 3*r+t)
		}
	}
	switch {
	case g.vb == 64:
		g.op("VMOVUPS Z10, K1, (BX)")
	case tail:
		g.op("VMASKMOVPS Y10, Y15, (BX)")
	default:
		g.op("VMOVUPS Y10, (BX)")
	}
	g.op("ADDQ R12, BX")
	for _, p := range []string{"AX", "SI", "DI"}[:taps] {
		g.op("ADDQ R9, %s", p)
	}
	g.op("DECQ CX")
	g.op("JNZ pixel%s", id)
	g.op("JMP blockend")
}

// layernorm writes LayerNorm<level>:
//
//	for r := range rows { y[r] = (x[r] - mean(x[r])) / sqrt(var(x[r]) + eps) }
//
// then times gamma plus beta where they are not nil; without centre the mean
// counts as 0, which is RMSNorm. Mean and variance are two
// passes over the row, which lies in the L1 cache, with four sums each. Registers: SI
// DI the rows, R8 R9 their distances, R10 rows left, AX offset, CX elements left; V0 to
// V3 sums, V4 to V8 values, V9 mean, V10 1/sqrt, V11 1/c, V12 1; R11 R12 gamma,
// beta; K1 (V15) the tail's mask.
func (g *gen) layernorm() {
	lanes := g.vb / 4
	g.p("// func LayerNorm%s(y *float32, ldy int, x *float32, ldx, rows, c int, gamma, beta *float32, eps float32, centre int)", g.name)
	g.p("TEXT ·LayerNorm%s(SB), 0, $128-80", g.name)
	g.op("MOVQ y+0(FP), DI")
	g.op("MOVQ ldy+8(FP), R8")
	g.op("SHLQ $2, R8")
	g.op("MOVQ x+16(FP), SI")
	g.op("MOVQ ldx+24(FP), R9")
	g.op("SHLQ $2, R9")
	g.op("MOVQ rows+32(FP), R10")
	g.op("MOVQ gamma+48(FP), R11")
	g.op("MOVQ beta+56(FP), R12")
	g.op("MOVQ c+40(FP), CX")
	g.op("VXORPS X11, X11, X11")
	g.op("VCVTSI2SSQ CX, X11, X11 // the number of channels")
	g.op("VMOVSS %s, X12", g.at("one"))
	g.op("VDIVSS X11, X12, X11")
	g.tailMask("CX", "AX", 15)
	// loop runs body over a row, four vectors at a time, then one by one; tail is its
	// last, partial vector.
	loop := func(name string, body func(vectors int, tail bool)) {
		g.op("XORQ AX, AX")
		g.op("MOVQ c+40(FP), CX")
		for _, vectors := range []int{4, 1} {
			label := fmt.Sprint(name, vectors)
			g.op("SUBQ $%d, CX", vectors*lanes)
			g.op("JLT %send", label)
			g.p("%s:", label)
			body(vectors, false)
			g.op("ADDQ $%d, AX", vectors*g.vb)
			g.op("SUBQ $%d, CX", vectors*lanes)
			g.op("JGE %s", label)
			g.p("%send:", label)
			g.op("ADDQ $%d, CX", vectors*lanes)
		}
		g.op("JZ %send", name)
		body(1, true)
		g.p("%send:", name)
	}
	load := func(base string, v, to int, tail bool) {
		if tail {
			g.loadTail("("+base+")(AX*1)", 15, to)
		} else {
			g.op("VMOVUPS %d(%s)(AX*1), %s", v*g.vb, base, g.v(to))
		}
	}
	clear := func() {
		for v := range 4 {
			g.op("VXORPS X%d, X%d, X%d", v, v, v)
		}
	}
	mean := func() { // of the lanes of the sums, into X0
		g.v3("VADDPS", 1, 0, 0)
		g.v3("VADDPS", 3, 2, 2)
		g.v3("VADDPS", 2, 0, 0)
		g.reduce(0, 1)
		g.op("VMULSS X11, X0, X0")
	}
	g.p("row:")
	g.op("SUBQ $1, R10")
	g.op("JLT end")
	g.op("VXORPS X9, X9, X9")
	g.op("CMPQ centre+72(FP), $0")
	g.op("JEQ centred")
	clear()
	loop("sum", func(vectors int, tail bool) {
		for v := range vectors {
			load("SI", v, 4+v, tail)
			g.v3("VADDPS", 4+v, v, v)
		}
	})
	mean()
	g.op("VBROADCASTSS X0, %s", g.v(9))
	g.p("centred:")
	clear()
	loop("dev", func(vectors int, tail bool) {
		for v := range vectors {
			load("SI", v, 4+v, tail)
			switch {
			case tail && g.vb == 64:
				g.op("VSUBPS.Z Z9, Z4, K1, Z4")
			case tail:
				g.op("VSUBPS Y9, Y4, Y4")
				g.op("VANDPS Y15, Y4, Y4")
			default:
				g.v3("VSUBPS", 9, 4+v, 4+v)
			}
			g.v3("VFMADD231PS", 4+v, 4+v, v)
		}
	})
	mean()
	g.op("VADDSS eps+64(FP), X0, X0")
	g.op("VSQRTSS X0, X0, X0")
	g.op("VDIVSS X0, X12, X0")
	g.op("VBROADCASTSS X0, %s", g.v(10))
	loop("put", func(vectors int, tail bool) {
		for v := range vectors {
			load("SI", v, 4+v, tail)
			g.v3("VSUBPS", 9, 4+v, 4+v)
			g.v3("VMULPS", 10, 4+v, 4+v)
		}
		for i, r := range []string{"R11", "R12"} {
			label := g.label("no" + r)
			g.op("TESTQ %s, %s", r, r)
			g.op("JZ %s", label)
			for v := range vectors {
				load(r, v, 8, tail)
				g.v3([]string{"VMULPS", "VADDPS"}[i], 8, 4+v, 4+v)
			}
			g.p("%s:", label)
		}
		for v := range vectors {
			if tail {
				g.storeTail(4, 15, "(DI)(AX*1)")
			} else {
				g.op("VMOVUPS %s, %d(DI)(AX*1)", g.v(4+v), v*g.vb)
			}
		}
	})
	g.op("ADDQ R9, SI")
	g.op("ADDQ R8, DI")
	g.op("JMP row")
	g.p("end:")
	g.op("VZEROUPPER")
	g.op("RET")
}
