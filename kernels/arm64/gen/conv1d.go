package main

import "fmt"

// conv1d writes Conv1DNEON: a vector of channels slides over the tokens, four tokens
// at a time, whose gates are four chains of instructions beside each other.
// Registers:
//
//	R0 R1 R2 R3  y and x and their distances of tokens
//	R4 R5 R6     the order, tokens left, silu
//	R7 R8 R9 R10 the state and the weights and the distances of their rows
//	R11          a row of x
//	R12 to R15   tokens, then rows of y
//	V0 to V3     the weights, those of the newest input last; V4 the bias
//	V5 to V7     the inputs before, the newest last; V8 to V11 the inputs
//	V12 to V15   the sums; V16 to V31 temporaries of their gates
func (g *gen) conv1d() {
	const bias, before, inputs, sums, temporaries = 4, 5, 8, 12, 16
	g.function("Conv1DNEON", frame, "y *float32, ldy int, x *float32, ldx int, order *int32, tokens, silu int, state *float32, ldstate int, w *float32, ldw int, bias *float32, width int")
	g.args("y", "R0", "ldy", "R1", "x", "R2", "ldx", "R3", "order", "R4", "tokens", "R5", "silu", "R6", "state", "R7", "ldstate", "R8", "w", "R9", "ldw", "R10", "bias", "R11", "width", "R12")
	for _, r := range []int{1, 3, 8, 10} {
		g.op("LSL $2, R%d, R%d", r, r)
	}
	g.loadTable(scanTable, tableAt)
	g.zero(bias)
	g.op("CBZ R11, unbiased")
	g.ldr(0, 11, bias)
	g.p("unbiased:")
	for width := 2; width < 4; width++ {
		g.op("CMP $%d, R12", width)
		g.op("BEQ width%d", width)
	}
	for _, width := range []int{4, 3, 2} {
		// rows goes through the rows of the state or of the weights.
		rows := func(at, distance, n int, f func(j int)) {
			g.op("MOVD R%d, R11", at)
			for j := range n {
				f(4 - width + j)
				g.op("ADD R%d, R11, R11", distance)
			}
		}
		tokens := func(name string, n int) {
			for i := range n {
				g.op("MOVW.P 4(R4), R%d", 12+i)
				g.op("MADD R3, R2, R%d, R11", 12+i)
				g.ldr(0, 11, inputs+i)
				g.op("MADD R1, R0, R%d, R%d", 12+i, 12+i)
			}
			var parts []func()
			for i := range n {
				parts = append(parts, func() {
					g.op("VMOV V%d.B16, V%d.B16", bias, sums+i)
					for j := 4 - width; j < 4; j++ {
						g.v3("FMLA", sums+i, before+i+j, j)
					}
				})
			}
			g.weave(parts...)
			g.op("CBZ R6, %s", name)
			parts = nil
			for i := range n {
				t := temporaries + 4*i
				parts = append(parts, func() { g.gate(sums+i, t, t+1, t+2, t+3) })
			}
			g.weave(parts...)
			g.p("%s:", name)
			for i := range n {
				g.str(sums+i, 0, 12+i)
			}
			for j := 4 - width; j < 3; j++ {
				g.op("VMOV V%d.B16, V%d.B16", before+n+j, before+j)
			}
		}
		g.p("width%d:", width)
		rows(7, 8, width-1, func(j int) { g.ldr(0, 11, before+j) })
		rows(9, 10, width, func(j int) { g.ldr(0, 11, j) })
		g.op("SUBS $4, R5, R5")
		g.op("BLT rest%d", width)
		g.op("PCALIGN $16")
		g.p("loop%d:", width)
		tokens(fmt.Sprintf("four%d", width), 4)
		g.op("SUBS $4, R5, R5")
		g.op("BGE loop%d", width)
		g.p("rest%d:", width)
		g.op("ADDS $4, R5, R5")
		g.op("BEQ end%d", width)
		g.p("one%d:", width)
		tokens(fmt.Sprintf("single%d", width), 1)
		g.op("SUBS $1, R5, R5")
		g.op("BNE one%d", width)
		g.p("end%d:", width)
		rows(7, 8, width-1, func(j int) { g.str(before+j, 0, 11) })
		g.op("RET")
	}
}

// gate replaces V(z) by SiLU(z) = z / (1 + exp(-z)), by four temporaries. The
// exponential is infinite from 2^127.5 on, so that the gate of -infinity is NaN as in
// its definition.
func (g *gen) gate(z, x, k, p, q int) {
	g.constant("-log2e", k)
	g.v3("FMUL", x, z, k)
	g.bound("FMAX", x, "lo", -1, k)
	g.bound("FMIN", x, "gatehi", -1, k)
	g.decay(x, x, k, p, q, scanKept{-1, -1, -1, -1})
	g.constant("one", k)
	g.v3("FADD", x, x, k)
	one := &emitter{gen: g, registers: registers{a: k, b: p}, vectors: 1}
	one.reciprocal(x)
	g.v3("FMUL", z, z, x)
}
