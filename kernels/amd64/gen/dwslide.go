package main

import "fmt"

// The modes of DWSlide's epilogue.
var slideModes = []string{"", "relu", "silu", "addmul"}

// slide writes DWSlide<level>: one or two output rows of a depthwise convolution
// of stride 1. A vector is a block of channels; the code slides along x, and each
// column of the input rows, once loaded, goes into the three outputs it belongs
// to. Registers:
//
//	AX SI DI R8   the input rows from the one above the first output row on, at
//	              the current column (R8 only for two output rows)
//	R9            distance of columns of x; R10 and R11 those of the first and the last
//	              input row: 0 where the row lies outside of the image, and then
//	              its pointer is at zeros
//	BX R12        output at the column before; distance of its rows
//	R13 DX        add and mul, as BX
//	CX            columns left
//
// The sums of the three columns in flight rotate through three roles, so the loop
// is unrolled three times. Summing the last tap column apart, to shorten the chain
// of an output, brings nothing: the chains of many outputs overlap.
func (g *gen) slide() {
	g.p("// func DWSlide%s(y, x, w, bias, add, mul *float32, ldx, ldy, ldw, ch, n, rows, above, below, residual, mode int)", g.name)
	g.p("TEXT ·DWSlide%s(SB), 0, $%d-128", g.name, 64+12*g.vb)
	g.op("MOVQ $0, done-8(SP) // bytes of channels done")
	g.op("MOVQ ch+72(FP), AX")
	g.op("MOVQ AX, left-16(SP)")
	g.p("block:")
	g.op("MOVQ left-16(SP), CX")
	g.vectorMask("CX", "AX", g.sl().mask)
	g.op("MOVQ done-8(SP), CX")
	g.op("MOVQ ldw+64(FP), R9")
	g.op("SHLQ $2, R9")
	g.op("MOVQ w+16(FP), BX")
	g.op("ADDQ CX, BX")
	for i := range 9 {
		r := g.sl().weight(i)
		if r < 0 {
			r = 0
		}
		g.loadTail("(BX)", g.sl().mask, r)
		if i == 4 {
			g.op("CMPQ residual+112(FP), $0")
			g.op("JEQ plain")
			g.c3("VADDPS", "one", r, r) // the convolution plus its input
			g.p("plain:")
		}
		if g.sl().weight(i) < 0 {
			g.op("VMOVUPS %s, %s", g.v(r), g.spill(i))
		}
		if i < 8 {
			g.op("ADDQ R9, BX")
		}
	}
	bias := max(0, g.sl().bias)
	g.op("VXORPS X%d, X%d, X%d", bias, bias, bias)
	g.op("MOVQ bias+24(FP), BX")
	g.op("TESTQ BX, BX")
	g.op("JZ nobias")
	g.op("ADDQ CX, BX")
	g.loadTail("(BX)", g.sl().mask, bias)
	g.p("nobias:")
	if g.sl().bias < 0 {
		g.op("VMOVUPS %s, %s", g.v(bias), g.spill(9))
	}
	g.op("MOVQ y+0(FP), BX")
	g.op("ADDQ CX, BX")
	g.op("MOVQ add+32(FP), R13")
	g.op("ADDQ CX, R13")
	g.op("MOVQ mul+40(FP), DX")
	g.op("ADDQ CX, DX")
	g.op("MOVQ ldx+48(FP), R9")
	g.op("SHLQ $2, R9")
	g.op("MOVQ R9, R12 // the distance of rows in x, for now")
	g.op("IMULQ n+80(FP), R12")
	g.op("MOVQ x+8(FP), SI")
	g.op("ADDQ CX, SI")
	g.op("MOVQ SI, AX")
	g.op("SUBQ R12, AX")
	g.op("MOVQ R9, R10")
	g.op("MOVQ R9, R11")
	outside := func(arg, at, step string) {
		label := g.label("inside")
		g.op("CMPQ %s(FP), $0", arg)
		g.op("JNE %s", label)
		g.op("LEAQ %s, %s", g.at("zeros"), at)
		g.op("XORQ %s, %s", step, step)
		g.p("%s:", label)
	}
	outside("above+96", "AX", "R10")
	g.op("LEAQ (SI)(R12*1), DI")
	g.op("CMPQ rows+88(FP), $2")
	g.op("JEQ two")
	for rows := 1; rows <= 2; rows++ {
		if rows == 2 {
			g.p("two:")
			g.op("LEAQ (DI)(R12*1), R8")
		}
		outside("below+104", []string{"DI", "R8"}[rows-1], "R11")
		g.op("MOVQ ldy+56(FP), CX")
		g.op("SHLQ $2, CX")
		g.op("MOVQ CX, ldy-24(SP)")
		g.op("MOVQ n+80(FP), R12")
		g.op("IMULQ CX, R12")
		g.op("MOVQ n+80(FP), CX")
		for i := len(slideModes) - 1; i > 0; i-- {
			g.op("CMPQ mode+120(FP), $%d", i)
			g.op("JEQ start%d_%d", rows, i)
		}
		g.op("JMP start%d_0", rows)
	}
	for rows := 1; rows <= 2; rows++ {
		for mode := range slideModes {
			g.slideLoop(rows, mode)
		}
	}
	g.p("blockend:")
	g.op("ADDQ $%d, done-8(SP)", g.vb)
	g.op("SUBQ $%d, left-16(SP)", g.vb/4)
	g.op("JGT block")
	g.op("VZEROUPPER")
	g.op("RET")
}

// slideRegisters says where DWSlide keeps what; -1 is the stack.
type slideRegisters struct {
	weight                 func(i int) int
	bias, mask, acc, value int
}

func (g *gen) sl() slideRegisters {
	if g.vb == 64 {
		return slideRegisters{weight: func(i int) int { return i }, bias: 9, mask: 0, acc: 10, value: 16}
	}
	return slideRegisters{weight: func(i int) int {
		if i < 5 {
			return 10 + i
		}
		return -1
	}, bias: -1, mask: 15, acc: 0, value: 6}
}

// spill is weight i, or 9 for the bias, on the stack.
func (g *gen) spill(i int) string { return fmt.Sprintf("spill-%d(SP)", 64+g.vb*(i+1)) }

// term writes V(d) += weight i * V(x), or without the sum.
func (g *gen) term(op string, i, x, d int) {
	if r := g.sl().weight(i); r >= 0 {
		g.v3(op, r, x, d)
	} else {
		g.op("%s %s, %s, %s", op, g.spill(i), g.v(x), g.v(d))
	}
}

func (g *gen) slideLoop(rows, mode int) {
	s := g.sl()
	id := fmt.Sprintf("%d_%d", rows, mode)
	acc := func(k, r int) int { return s.acc + 2*(k%3) + r }
	pointers := []string{"AX", "SI", "DI", "R8"}[:rows+2]
	loads := func() {
		for i, p := range pointers {
			g.loadTail("("+p+")", s.mask, s.value+i)
			step := "R9"
			switch i {
			case 0:
				step = "R10"
			case rows + 1:
				step = "R11"
			}
			g.op("ADDQ %s, %s", step, p)
		}
	}
	begin := func(k int) { // a new output: the bias
		for r := range rows {
			if s.bias >= 0 {
				g.op("VMOVAPS %s, %s", g.v(s.bias), g.v(acc(k, r)))
			} else {
				g.op("VMOVUPS %s, %s", g.spill(9), g.v(acc(k, r)))
			}
		}
	}
	// finish completes and stores the output of role k.
	finish := func(k int) {
		for r := range rows {
			a := acc(k, r)
			if slideModes[mode] == "addmul" {
				for i, p := range []string{"R13", "DX"} {
					at := "(" + p + ")"
					if r > 0 {
						at += "(R12*1)"
					}
					g.loadTail(at, s.mask, s.value+i)
				}
				g.v3("VADDPS", s.value, a, a)
				g.v3("VMULPS", s.value+1, a, a)
			} else {
				g.activate(slideModes[mode], a, [4]int{s.value, s.value + 1, s.value + 2, s.value + 3})
			}
			at := "(BX)"
			if r > 0 {
				at += "(R12*1)"
			}
			if g.vb == 64 {
				g.storeTail(a, 0, at)
			} else {
				g.op("CMPQ left-16(SP), $8")
				g.storePart(a, s.mask, at)
			}
		}
		g.op("ADDQ ldy-24(SP), BX")
		if slideModes[mode] == "addmul" {
			g.op("ADDQ ldy-24(SP), R13")
			g.op("ADDQ ldy-24(SP), DX")
		}
	}
	// step takes a column: the last of output k, the middle one of k+1, the first
	// of k+2.
	step := func(k int, first bool) {
		loads()
		begin(k + 2)
		for t := range 3 {
			for r := range rows {
				v := s.value + r + t
				if !first {
					g.term("VFMADD231PS", 3*t+2, v, acc(k, r))
				}
				g.term("VFMADD231PS", 3*t+1, v, acc(k+1, r))
				g.term("VFMADD231PS", 3*t, v, acc(k+2, r))
			}
		}
		if first {
			return
		}
		finish(k)
	}
	g.p("")
	g.p("start%s:", id)
	begin(3)
	step(2, true) // roles 3 = 0 and 4 = 1 are now in flight
	g.op("DECQ CX")
	g.op("JZ end%s_0", id)
	g.op("PCALIGN $64")
	g.p("loop%s:", id)
	for k := range 3 {
		step(k, false)
		g.op("DECQ CX")
		if k < 2 {
			g.op("JZ end%s_%d", id, k+1)
		} else {
			g.op("JNZ loop%s", id)
		}
	}
	for k := range 3 {
		g.p("end%s_%d:", id, k)
		finish(k)
		g.op("JMP blockend")
	}
}
