package main

import "fmt"

// The register tile of the matrix products: so many rows of X, fewer for CPUs that
// issue in order, and four vectors of columns.
const mr, mrInOrder, vectors = 6, 5, 4

// fused are the activations of the epilogue beyond the identity and ReLU, in the
// order of their numbers.
var fused = []string{"Silu", "Gelu", "Elu1"}

// gemm writes GemmNEON, or GemmInOrderNEON. Registers in the loop over K:
//
//	R0 .. R5      rows of the tile in X
//	R6            bytes from there to the current element; R7 elements left in a run
//	R8            the packed panel, read once from start to end for each tile
//	R9 R17        bytes of the panel to the next four steps, 0 after the last ones, and
//	              where these are
//	R10 R11       runs left; bytes from the rows to the current run
//	R13 R26       from the panel to the line of the next one to prefetch; 256
//	R23           bytes of a panel
//	V0 .. V23     accumulators, row r in V(4r) to V(4r+3)
//	V24 ..        four elements of each row (at m rows from V(4m) on)
//	.. V31        vectors of the panel, used in turn: 2 for 6 rows, 8 for few
//
// and between the tiles R12 X, R14 Mul (0: none), R15 Add (0: none), R22 Y, R19 rows
// left, R20 R21 R10 R11 the distances of X, Y, Mul and Add in bytes.
//
// Six rows take 24 multiply-adds by element a step, and five and a half loads, so that
// the multiply-adds are the bound, and there are as many chains as four units of
// latency 4 need and half as many again. Every load stands some multiply-adds ahead
// of its use and behind the last use of what was in its register, for CPUs that issue
// in order; so the last four steps load once more what they hold, since there may be
// nothing behind.
//
// GemmInOrderNEON is for the small cores that issue two instructions in order, load 64
// bits a cycle, and can issue nothing beside a load of 128 (Cortex-A53, A55). There a
// vector comes as a load of its lower half, a load of the upper one into R16 (R25 for
// X, whose offset is R24), and an insertion, each of which is issued beside a
// multiply-add. On other CPUs the insertion would take the place of one. A tile of five
// rows leaves two registers more for vectors on their way.
//
// SiLU, GELU and ELU+1 go through a tile on the stack, at R1 then: there is no room
// for their constants beside the accumulators.
func (g *gen) gemm(name string, inOrder bool) {
	g.function(name, 16+tileBytes, "y *float32, ldy int, x *float32, ldx, segs, segLen, segStride int, w, bias, mul *float32, ldmul int, add *float32, ldadd, rows, act int")
	g.args("x", "R12", "y", "R22", "mul", "R14", "add", "R15", "rows", "R19", "ldx", "R20", "ldy", "R21",
		"segLen", "R9", "segs", "R10")
	g.op("LSL $2, R20, R20")
	g.op("LSL $2, R21, R21")
	g.op("MUL R9, R10, R10")
	g.op("LSL $6, R10, R23")
	g.op("MOVD R23, R13")
	g.op("MOVD $%d, R26", groups*16)
	most := mr
	if inOrder {
		most = mrInOrder
	}
	g.p("next:")
	g.op("CMP $%d, R19", most)
	g.op("BGE tile%d", most)
	for m := most - 1; m >= 1; m-- {
		g.op("CMP $%d, R19", m)
		g.op("BEQ tile%d", m)
	}
	g.op("RET")
	for m := most; m >= 1; m-- {
		g.tile(tile{m, inOrder})
	}
	for i, name := range fused {
		g.activate(2+i, name)
	}
}

// groups is the number of vectors of the panel in four steps.
const groups = 4 * vectors

const tileBytes = mr * vectors * 16

// tile is a body of the product for so many rows.
type tile struct {
	m       int
	inOrder bool
}

// panel is how many registers take vectors of the panel in turn.
func (t tile) panel() int {
	n := 2
	for n < 8 && vectors*t.m+t.m+2*n <= 32 {
		n *= 2
	}
	return n
}

func (t tile) acc(r, c int) int { return vectors*r + c }
func (t tile) row(r int) int    { return vectors*t.m + r }

// column is the register of vector i of the panel.
func (t tile) column(i int) int { return 32 - t.panel() + i%t.panel() }

// steps writes four steps of K. Group i multiplies vector i of the panel's 16 by m
// rows; behind its multiply-adds stand the loads, of the panel by as many vectors ahead
// as there are registers for, of X for the next steps. One cache line of four is
// prefetched: four tiles bring the next panel into the L2 cache while this one is used.
func (g *gen) steps(t tile) {
	fill := g.wide(t)
	if t.inOrder {
		fill = g.narrow(t)
	}
	for i := range groups {
		for r := range t.m {
			g.lane("FMLA", t.acc(r, i%vectors), t.column(i), t.row(r), i/vectors)
			fill(i, r)
		}
	}
}

// wide returns what to write behind multiply-add r of group i.
func (g *gen) wide(t tile) func(i, r int) {
	issued := 0
	op := func(slots int, format string, args ...any) {
		g.op(format, args...)
		issued += slots
	}
	loaded := -1 // the last group that the load for has been written in
	return func(i, r int) {
		issued++
		// Decoders of three take a load, which some split in two, only as their first or
		// second instruction.
		if loaded < i && (issued%3 != 2 || r == min(t.m, 2)-1) {
			loaded = i
			load := i + t.panel() - 1
			op(2, "FMOVQ %d(%s), F%d", 16*(load%groups), base(load), t.column(load))
		}
		switch {
		case i == 0 && r == t.m-1:
			op(1, "SUBS $4, R7, R7")
		case i == 1 && r == t.m-1:
			op(1, "CSEL GE, R26, ZR, R9")
		case i == 2 && r == t.m-1:
			op(1, "ADD R9, R8, R17")
		case i == 3 && r == t.m-1:
			op(1, "ADD R9>>4, R6, R6")
		case i == 4 && r == t.m-1:
			g.prefetch()
			issued++
		case i == groups-t.panel() && r == t.m-1:
			op(1, "MOVD R17, R8")
		case i == groups-1:
			g.loadAt(t.row(r), r, 6)
			issued += 2
		}
	}
}

// narrow is wide for loads of 64 bits.
func (g *gen) narrow(t tile) func(i, r int) {
	slots := map[[2]int][]func(){}
	// at plans instructions behind multiply-add r of group i, or the next that there is.
	at := func(i, r int, f func()) {
		i, r = i+r/t.m, r%t.m
		slots[[2]int{i, r}] = append(slots[[2]int{i, r}], f)
	}
	for i := range groups {
		load := i + t.panel() - 1
		from, to := 16*(load%groups), t.column(load)
		// The vector before is completed beside this load, which a Cortex-A53 cannot issue
		// beside a multiply-add.
		at(i, 0, func() { g.op("FMOVD %d(%s), F%d", from, base(load), to) })
		if i > 0 {
			at(i, 0, func() { g.op("VMOV R16, V%d.D[1]", t.column(load-1)) })
		}
		at(i, min(1, t.m-1), func() { g.op("MOVD %d(%s), R16", from+8, base(load)) })
	}
	at(groups-1, t.m-1, func() { g.op("VMOV R16, V%d.D[1]", t.column(t.panel()-2)) })
	at(0, t.m-1, func() { g.op("SUBS $4, R7, R7") })
	at(1, t.m-1, func() { g.op("CSEL GE, R26, ZR, R9") })
	at(2, t.m-1, func() { g.op("ADD R9, R8, R17") })
	at(3, t.m-1, g.prefetch)
	at(4, t.m-1, func() { g.op("ADD R9>>4, R6, R6") })
	at(groups-t.panel(), t.m-1, func() { g.op("MOVD R17, R8") })
	for r := range t.m {
		// The next use of the row is in the group behind.
		at(r, r, func() { g.op("MOVD (R%d)(R24), R25", r) })
		at(r+1, r, func() { g.op("VMOV R25, V%d.D[1]", t.row(r)) })
		at(groups-1, r, func() { g.op("FMOVD (R%d)(R6), F%d", r, t.row(r)) })
	}
	at(groups-1, t.m-1, func() { g.op("ADD $8, R6, R24") })
	return func(i, r int) {
		for _, f := range slots[[2]int{i, r}] {
			f()
		}
	}
}

// base is where vector i of the panel is, counted from the current steps on.
func base(i int) string {
	if i < groups {
		return "R8"
	}
	return "R17"
}

func (g *gen) prefetch() { g.word(0xF8AD6902, "PRFM PLDL2KEEP, [X8,X13]") }

func (g *gen) tile(t tile) {
	m, panel, acc, row, column := t.m, t.panel(), t.acc, t.row, t.column
	g.p("")
	g.p("tile%d:", m)
	g.op("MOVD R12, R0")
	for r := 1; r < m; r++ {
		g.op("ADD R20, R%d, R%d", r-1, r)
	}
	// The accumulators begin with the bias.
	g.args("bias", "R9")
	g.op("CBZ R9, nobias%d", m)
	g.op("VLD1 (R9), [V0.S4, V1.S4, V2.S4, V3.S4]")
	g.op("B begin%d", m)
	g.p("nobias%d:", m)
	for c := range vectors {
		g.op("VEOR V%d.B16, V%d.B16, V%d.B16", c, c, c)
	}
	g.p("begin%d:", m)
	for r := 1; r < m; r++ {
		for c := range vectors {
			g.op("VMOV V%d.B16, V%d.B16", c, acc(r, c))
		}
	}
	g.args("w", "R8", "segs", "R10")
	g.op("MOVD ZR, R11")
	g.p("run%d:", m)
	g.op("MOVD R11, R6")
	g.args("segLen", "R7")
	g.op("SUBS $4, R7, R7")
	g.op("BLT rest%d", m)
	for r := range m {
		g.loadAt(row(r), r, 6)
	}
	for i := range panel - 1 {
		g.op("FMOVQ %d(R8), F%d", 16*i, column(i))
	}
	if t.inOrder {
		g.op("ADD $8, R6, R24")
	}
	g.op("PCALIGN $16")
	g.p("loop%d:", m)
	g.steps(t)
	g.op("BGE loop%d", m)
	g.op("ADD $16, R6, R6")
	g.op("ADD $%d, R8, R8", groups*16)
	g.p("rest%d:", m)
	g.op("ADDS $4, R7, R7")
	g.op("BEQ runend%d", m)
	g.p("one%d:", m)
	for c := range vectors {
		if c < panel {
			g.op("FMOVQ.P 16(R8), F%d", column(c))
		}
	}
	for r := range m {
		g.op("FMOVS (R%d)(R6), F%d", r, row(r))
	}
	for c := range vectors {
		if c >= panel {
			g.op("FMOVQ.P 16(R8), F%d", column(c))
		}
		for r := range m {
			g.lane("FMLA", acc(r, c), column(c), row(r), 0)
		}
	}
	g.op("ADD $4, R6, R6")
	g.op("SUBS $1, R7, R7")
	g.op("BNE one%d", m)
	g.p("runend%d:", m)
	g.args("segStride", "R9")
	g.op("ADD R9<<2, R11, R11")
	g.op("SUBS $1, R10, R10")
	g.op("BNE run%d", m)

	g.op("ADD $64, R13, R13") // of four lines in turn
	g.op("SUB R23, R13, R13")
	g.op("AND $192, R13, R13")
	g.op("ADD R23, R13, R13")
	g.op("MOVD $%d, R9", m)
	g.op("MADD R9, R12, R20, R12")
	g.op("SUB R9, R19, R19")
	g.args("act", "R7", "ldmul", "R10", "ldadd", "R11")
	g.op("LSL $2, R10, R10")
	g.op("LSL $2, R11, R11")
	g.op("CBZ R7, linear%d", m)
	g.op("CMP $1, R7")
	g.op("BGT fused%d", m)
	g.op("VEOR V31.B16, V31.B16, V31.B16")
	for i := range vectors * m {
		g.v3("FMAX", i, i, 31)
	}
	g.p("linear%d:", m)
	for _, f := range gates {
		skip := fmt.Sprintf("no%s%d", f.name, m)
		g.op("CBZ %s, %s", f.at, skip)
		for r := range m {
			g.op("VLD1 (%s), [V24.S4, V25.S4, V26.S4, V27.S4]", f.at)
			g.op("ADD %s, %s, %s", f.distance, f.at, f.at)
			for c := range vectors {
				g.v3(f.op, acc(r, c), acc(r, c), 24+c)
			}
		}
		g.p("%s:", skip)
	}
	for r := range m {
		g.op("VST1 [V%d.S4, V%d.S4, V%d.S4, V%d.S4], (R22)", acc(r, 0), acc(r, 1), acc(r, 2), acc(r, 3))
		g.op("ADD R21, R22, R22")
	}
	g.op("B next")
	g.p("fused%d:", m)
	g.op("MOVD $tile-%d(SP), R1 // a multiple of 16", tileBytes+8)
	g.op("MOVD R1, R2")
	for r := range m {
		g.op("VST1.P [V%d.S4, V%d.S4, V%d.S4, V%d.S4], 64(R2)", acc(r, 0), acc(r, 1), acc(r, 2), acc(r, 3))
	}
	for i := range fused {
		g.op("CMP $%d, R7", 2+i)
		g.op("BEQ act%d", 2+i)
	}
}

// gates are what an epilogue does after the activation.
var gates = []struct{ name, at, distance, op string }{{"mul", "R14", "R10", "FMUL"}, {"add", "R15", "R11", "FADD"}}

// activate writes the end of an epilogue for the R9 rows at R1.
func (g *gen) activate(number int, name string) {
	f := g.emitter(find(name), vectors)
	g.p("")
	g.p("act%d:", number)
	f.begin()
	g.p("actrow%d:", number)
	g.op("VLD1.P 64(R1), [V0.S4, V1.S4, V2.S4, V3.S4]")
	f.body(f)
	for _, e := range gates {
		skip := fmt.Sprintf("act%s%d", e.name, number)
		g.op("CBZ %s, %s", e.at, skip)
		g.op("VLD1 (%s), [V4.S4, V5.S4, V6.S4, V7.S4]", e.at)
		g.op("ADD %s, %s, %s", e.distance, e.at, e.at)
		for c := range vectors {
			g.v3(e.op, c, c, 4+c)
		}
		g.p("%s:", skip)
	}
	g.op("VST1 [V0.S4, V1.S4, V2.S4, V3.S4], (R22)")
	g.op("ADD R21, R22, R22")
	g.op("SUBS $1, R9, R9")
	g.op("BNE actrow%d", number)
	g.op("B next")
}

// find returns a function by its name.
func find(name string) function {
	for _, f := range functions {
		if f.name == name {
			return f
		}
	}
	panic("no function " + name)
}
