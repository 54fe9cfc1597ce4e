package main

import "fmt"

// conv1d writes Conv1D<level>: a vector of channels slides over the tokens. Registers:
//
//	DI R8, SI R9 y and x and their distances of tokens; AX the row
//	R12 DX       the order, the step
//	R11          silu
//	V0 to V3     the weights, those of the newest input last; V4 the bias
//	V5 to V7     the inputs before, the newest last; V8 the input, V9 the sum
//	V10 to V13   temporaries
//	V14 (K1)     the mask of the channels
func (g *gen) conv1d() {
	const lanes = "lanes+96(FP)"
	g.p("// func Conv1D%s(y *float32, ldy int, x *float32, ldx int, state *float32, ldstate int, w *float32, ldw int, bias *float32, order *int32, tokens, width, lanes, silu int)", g.name)
	g.p("TEXT ·Conv1D%s(SB), 0, $128-112", g.name)
	g.lanesMask(lanes, 14)
	g.op("MOVQ y+0(FP), DI")
	g.op("MOVQ ldy+8(FP), R8")
	g.op("SHLQ $2, R8")
	g.op("MOVQ x+16(FP), SI")
	g.op("MOVQ ldx+24(FP), R9")
	g.op("SHLQ $2, R9")
	g.op("VXORPS X4, X4, X4")
	g.op("MOVQ bias+64(FP), AX")
	g.op("TESTQ AX, AX")
	g.op("JZ unbiased")
	g.loadTail("(AX)", 14, 4)
	g.p("unbiased:")
	g.op("MOVQ order+72(FP), R12")
	g.op("MOVQ silu+104(FP), R11")
	g.op("XORQ DX, DX")
	g.op("MOVQ state+32(FP), AX")
	g.op("MOVQ ldstate+40(FP), BX")
	g.op("MOVQ w+48(FP), CX")
	g.op("MOVQ ldw+56(FP), R13")
	g.op("SHLQ $2, BX")
	g.op("SHLQ $2, R13")
	for width := 2; width < 4; width++ {
		g.op("CMPQ width+88(FP), $%d", width)
		g.op("JEQ width%d", width)
	}
	for _, width := range []int{4, 3, 2} {
		g.p("width%d:", width)
		for j := 4 - width; j < 3; j++ {
			g.loadTail("(AX)", 14, 5+j)
			g.op("ADDQ BX, AX")
		}
		for j := 4 - width; j < 4; j++ {
			g.loadTail("(CX)", 14, j)
			g.op("ADDQ R13, CX")
		}
		g.op("PCALIGN $32")
		g.p("token%d:", width)
		g.op("MOVLQSX (R12)(DX*4), AX")
		g.op("MOVQ AX, CX")
		g.op("IMULQ R9, AX")
		g.op("IMULQ R8, CX")
		g.loadTail("(SI)(AX*1)", 14, 8)
		g.op("PREFETCHT0 64(SI)(AX*1)") // of the next channels
		g.op("PREFETCHT0 64(DI)(CX*1)")
		g.op("VMOVAPS %s, %s", g.v(4), g.v(9))
		for j := 4 - width; j < 4; j++ {
			g.v3("VFMADD231PS", j, 5+j, 9)
		}
		for j := 4 - width; j < 3; j++ {
			g.op("VMOVAPS %s, %s", g.v(6+j), g.v(5+j))
		}
		plain := fmt.Sprintf("plain%d", width)
		g.op("TESTQ R11, R11")
		g.op("JZ %s", plain)
		g.activate("silu", 9, [4]int{10, 11, 12, 13})
		g.p("%s:", plain)
		g.storeLanes(lanes, 9, 14, "(DI)(CX*1)")
		g.op("INCQ DX")
		g.op("CMPQ DX, tokens+80(FP)")
		g.op("JLT token%d", width)
		g.op("MOVQ state+32(FP), AX")
		for j := 4 - width; j < 3; j++ {
			g.storeLanes(lanes, 5+j, 14, "(AX)")
			g.op("ADDQ BX, AX")
		}
		g.op("VZEROUPPER")
		g.op("RET")
	}
}
