package main

import "fmt"

// gemm writes Gemm<level>. Registers in the loop over K:
//
//	AX SI DI R8 R9   rows 0, 3, 6, 9, 12 of the tile in X; DX is the distance of
//	                 two rows in bytes, so (p), (p)(DX*1), (p)(DX*2) are three rows
//	BX               the packed panel, read once from start to end for each tile
//	CX R10           elements left in a run of K, runs left
//	R12              from the end of a run to the next, in bytes
//	R13              where the next panel is prefetched, R11 how far that moves in
//	                 four steps: so far that the call's tiles together reach its end
//	V0 V1            one step of the panel: 2 vectors of columns
//	V2 V3            elements of X, broadcast
//	V4 ..            accumulators, row r in V(4+2r) and V(5+2r)
//
// The loop is bound by the multiply-adds: mr rows take 2 mr of them, mr
// broadcasts and 2 loads. After it the rows of the tile are finished from the
// last to the first, so that tiles of every height share one epilogue, which
// they enter at their own last row:
//
//	R8               the last row's number
//	R10 R11 R12      the row in Y, Mul (0: none) and Add (0: none)
//	AX SI DI         their distances in bytes
//	DX               GELU's table at AVX-512
//	V0 .. V3         temporaries of the activations
func (g *gen) gemm() {
	frame := 128 // of this size the function checks the stack and so can be preempted between calls
	g.p("// func Gemm%s(y *float32, ldy int, x *float32, ldx, segs, segLen, segStride int, w, bias, mul *float32, ldmul int, add *float32, ldadd, rows, act int)", g.name)
	g.p("TEXT ·Gemm%s(SB), 0, $%d-120", g.name, frame)
	for i, a := range []string{"x+16", "y+0", "mul+72", "add+88", "rows+104"} {
		g.op("MOVQ %s(FP), AX", a)
		g.op("MOVQ AX, %s(SP)", locals[i])
	}
	g.op("MOVQ segs+32(FP), AX")
	g.op("IMULQ segLen+40(FP), AX")
	g.op("IMUL3Q $%d, AX, AX", 2*g.vb)
	g.op("ADDQ w+56(FP), AX")
	g.op("MOVQ AX, ahead-48(SP)")
	// Bytes to prefetch in four steps, of the panel's 8 vb: as many tiles as the
	// call has share them, but never more than the loop has prefetches for.
	g.op("MOVQ rows+104(FP), AX")
	g.op("ADDQ $%d, AX", g.mr-1)
	g.op("XORL DX, DX")
	g.op("MOVL $%d, CX", g.mr)
	g.op("DIVQ CX")
	g.op("MOVQ AX, CX")
	g.op("ADDQ $%d, AX", 8*g.vb-1)
	g.op("XORL DX, DX")
	g.op("DIVQ CX")
	g.op("MOVL $%d, CX", 2*g.vb)
	g.op("CMPQ AX, CX")
	g.op("CMOVQGT CX, AX")
	g.op("MOVQ AX, pace-56(SP)")
	g.p("next:")
	g.op("MOVQ left-40(SP), CX")
	g.op("CMPQ CX, $%d", g.mr)
	g.op("JGE tile%d", g.mr)
	for m := g.mr - 1; m >= 1; m-- {
		g.op("CMPQ CX, $%d", m)
		g.op("JEQ tile%d", m)
	}
	g.op("VZEROUPPER")
	g.op("RET")
	for m := g.mr; m >= 1; m-- {
		g.tile(m)
	}
	for i, a := range fused {
		g.epilogue(i, a)
	}
	g.p("")
	g.p("tileend:")
	g.op("INCQ R8")
	g.op("SUBQ R8, left-40(SP)")
	for i, a := range []string{"ldx+24", "ldy+8", "ldmul+80", "ldadd+96"} {
		g.op("MOVQ %s(FP), AX", a)
		g.op("IMULQ R8, AX")
		g.op("SHLQ $2, AX")
		if i >= 2 {
			g.op("CMPQ %s(SP), $0", locals[i])
			g.op("JEQ none%d", i)
		}
		g.op("ADDQ AX, %s(SP)", locals[i])
		if i >= 2 {
			g.p("none%d:", i)
		}
	}
	g.op("JMP next")
}

var locals = []string{"xcur-8", "ycur-16", "mulcur-24", "addcur-32", "left-40"}

// fused are the activations of the epilogue in the order of their numbers.
var fused = []string{"", "relu", "silu", "gelu", "elu1"}

var pointers = []string{"AX", "SI", "DI", "R8", "R9"}

func (g *gen) acc(r, c int) int { return 4 + 2*r + c }

func (g *gen) tile(m int) {
	used := pointers[:(m+2)/3]
	g.p("")
	g.p("tile%d:", m)
	g.op("MOVQ ldx+24(FP), DX")
	g.op("SHLQ $2, DX")
	g.op("LEAQ (DX)(DX*2), R11")
	g.op("MOVQ xcur-8(SP), AX")
	for i := 1; i < len(used); i++ {
		g.op("LEAQ (%s)(R11*1), %s", used[i-1], used[i])
	}
	// The accumulators begin with the bias.
	g.op("MOVQ bias+64(FP), R12")
	g.op("TESTQ R12, R12")
	g.op("JZ nobias%d", m)
	for c := range 2 {
		g.op("VMOVUPS %d(R12), %s", c*g.vb, g.v(g.acc(0, c)))
	}
	g.op("JMP begin%d", m)
	g.p("nobias%d:", m)
	for c := range 2 {
		g.op("VXORPS X%d, X%d, X%d", 4+c, 4+c, 4+c)
	}
	g.p("begin%d:", m)
	for r := 1; r < m; r++ {
		for c := range 2 {
			g.op("VMOVAPS %s, %s", g.v(g.acc(0, c)), g.v(g.acc(r, c)))
		}
	}
	g.op("MOVQ w+56(FP), BX")
	g.op("MOVQ segs+32(FP), R10")
	g.op("MOVQ ahead-48(SP), R13")
	g.op("MOVQ pace-56(SP), R11")
	g.op("MOVQ segStride+48(FP), R12")
	g.op("SUBQ segLen+40(FP), R12")
	g.op("SHLQ $2, R12")
	g.p("seg%d:", m)
	g.op("MOVQ segLen+40(FP), CX")
	g.op("SUBQ $4, CX")
	g.op("JLT rest%d", m)
	g.op("PCALIGN $64")
	g.p("loop%d:", m)
	// The next panel comes into the L2 cache while this one is used, spread over
	// all of the call: more at a time would take the buffers that misses of the L1
	// cache need, and what lies behind the panel may never be used. The rows of X
	// come into the L1 cache ahead of their use: each tile has others, and they would
	// all miss at once, in the step that begins a cache line.
	for u := range 4 {
		if n := 128 / g.vb; u%n == 0 {
			g.op("PREFETCHT1 %d(R13)", 64*(u/n))
		}
		for r := u; r < m; r += 4 {
			g.op("PREFETCHT0 %s", row(r, 128))
		}
		g.kstep(m, u)
	}
	g.op("ADDQ R11, R13")
	for _, p := range used {
		g.op("ADDQ $16, %s", p)
	}
	g.op("ADDQ $%d, BX", 8*g.vb)
	g.op("SUBQ $4, CX")
	g.op("JGE loop%d", m)
	g.p("rest%d:", m)
	g.op("ADDQ $4, CX")
	g.op("JZ done%d", m)
	g.p("one%d:", m)
	g.kstep(m, 0)
	for _, p := range used {
		g.op("ADDQ $4, %s", p)
	}
	g.op("ADDQ $%d, BX", 2*g.vb)
	g.op("DECQ CX")
	g.op("JNZ one%d", m)
	g.p("done%d:", m)
	for _, p := range used {
		g.op("ADDQ R12, %s", p)
	}
	g.op("DECQ R10")
	g.op("JNZ seg%d", m)

	g.op("MOVQ R13, ahead-48(SP)")
	g.op("MOVQ $%d, R8", m-1)
	for i, a := range []struct{ ld, dist, at string }{{"ldy+8", "AX", "R10"}, {"ldmul+80", "SI", "R11"}, {"ldadd+96", "DI", "R12"}} {
		g.op("MOVQ %s(SP), %s", locals[i+1], a.at)
		g.op("MOVQ %s(FP), %s", a.ld, a.dist)
		g.op("SHLQ $2, %s", a.dist)
		if i > 0 {
			g.op("TESTQ %s, %s", a.at, a.at)
			g.op("JZ no%s%d", a.at, m)
		}
		g.op("IMUL3Q $%d, %s, CX", m-1, a.dist)
		g.op("ADDQ CX, %s", a.at)
		if i > 0 {
			g.p("no%s%d:", a.at, m)
		}
	}
	g.op("MOVQ act+112(FP), CX")
	if g.vb == 64 {
		g.op("MOVQ ·geluTable(SB), DX")
	}
	for i := range fused {
		g.op("CMPQ CX, $%d", i)
		g.op("JEQ row%d_%d", i, m-1)
	}
}

// epilogue writes activation i, Mul, Add and the store of rows mr-1 to 0.
func (g *gen) epilogue(i int, name string) {
	for r := g.mr - 1; r >= 0; r-- {
		g.p("")
		g.p("row%d_%d:", i, r)
		for c := range 2 {
			g.activate(name, g.acc(r, c), [4]int{0, 1, 2, 3})
		}
		for _, e := range []struct{ at, dist, op string }{{"R11", "SI", "VMULPS"}, {"R12", "DI", "VADDPS"}} {
			g.op("TESTQ %s, %s", e.at, e.at)
			g.op("JZ no%s_%d_%d", e.at, i, r)
			for c := range 2 {
				g.op("%s %d(%s), %s, %s", e.op, c*g.vb, e.at, g.v(g.acc(r, c)), g.v(g.acc(r, c)))
			}
			g.op("SUBQ %s, %s", e.dist, e.at)
			g.p("no%s_%d_%d:", e.at, i, r)
		}
		for c := range 2 {
			g.op("VMOVUPS %s, %d(R10)", g.v(g.acc(r, c)), c*g.vb)
		}
		g.op("SUBQ AX, R10")
	}
	g.op("JMP tileend")
}

// row is the operand so many bytes on in row r of the tile in X.
func row(r, bytes int) string {
	at := fmt.Sprintf("%d(%s)", bytes, pointers[r/3])
	if r%3 > 0 {
		at += fmt.Sprintf("(DX*%d)", r%3)
	}
	return at
}

// kstep writes step u of the unrolled loop over K.
func (g *gen) kstep(m, u int) {
	for c := range 2 {
		g.op("VMOVUPS %d(BX), %s", (2*u+c)*g.vb, g.v(c))
	}
	for r := range m {
		g.op("VBROADCASTSS %s, %s", row(r, 4*u), g.v(2+r%2))
		for c := range 2 {
			g.op("VFMADD231PS %s, %s, %s", g.v(c), g.v(2+r%2), g.v(g.acc(r, c)))
		}
	}
}
