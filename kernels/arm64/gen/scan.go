package main

import (
	"bytes"
	"fmt"
	"math"
	"slices"
)

// The selective scan runs the 16 channels of a panel over a block of tokens. What it
// reads by token is gathered into dense rows of 16 floats: ScanIn adds the bias to
// delta, ScanInput makes delta·u and begins the sums, Scan passes over the tokens
// with some of the states of a vector of channels in registers, as often as the
// number of states asks for, and ScanOut gates the sums. Where one exponential serves
// several states, or a state is alone, ScanDecay makes those of all tokens before.

const (
	scanPanel  = 16 // channels
	scanRow    = 4 * scanPanel
	scanDegree = 5
)

// The forms of Scan, as in arm64.ScanCall.
const (
	scanGeneral = iota // an exponential for each decay
	scanFalling        // the same where no decay is above 1
	scanPowers         // the decays of the first states: w, w², ..
	scanOn             // the decays of later states: v, v w, v w², ..
	scanB              // general, with B in panels
	scanC              // general, with C in panels
	scanBC             // general, with both
)

// scanNames are the forms in labels.
var scanNames = []string{"general", "falling", "powers", "on", "b", "c", "bc"}

// scanBodies gives the numbers of states that each form has a body for. Eight leave
// room for four chains of dependent instructions beside each other, which hide the
// latency of the cores that issue in order.
var scanBodies = [][]int{scanGeneral: {8, 4, 1}, scanFalling: {8}, scanPowers: {16, 4}, scanOn: {16, 4}, scanB: {4, 1}, scanC: {4, 1}, scanBC: {4, 1}}

// scanTable holds the constants, in memory: multiply-adds overwrite their addend, so
// that coefficients of a polynomial have to be loaded anyway.
var scanTable = func() (f function) {
	f.name = "Scan"
	add := func(name string, v float64) { f.constants = append(f.constants, float(name, v)) }
	// 2^r = 1 + r (two1 + r (two2 + ..)), |r| <= 1/2: the constant term is exactly
	// 1, since an error there would grow with every token that a state lives.
	for i, k := range interpolate(func(r float64) float64 {
		if math.Abs(r) < 1e-5 {
			return math.Ln2 + r*math.Ln2*math.Ln2/2
		}
		return math.Expm1(r*math.Ln2) / r
	}, -0.5, 0.5, scanDegree-1) {
		add(fmt.Sprintf("two%d", i+1), k)
	}
	add("magic", 1.5*float64(1<<23)+127) // x plus it: the exponent bits of 2^x below
	add("lo", -127)
	add("hi", 127.49)    // beyond, infinity times a state of 0 would be NaN
	add("gatehi", 128.4) // 2^128 is infinite, as the gate of -infinity needs
	add("-log2e", -math.Log2E)
	add("one", 1)
	return f
}()

// tableAt is the register of the table in functions that use constant.
const tableAt = 25

// constant loads a constant into V(v).
func (g *gen) constant(name string, v int) { g.ldr(scanTable.offset(name), tableAt, v) }

func (g *gen) ldr(off, base, v int) { g.op("FMOVQ %d(R%d), F%d", off, base, v) }
func (g *gen) str(v, off, base int) { g.op("FMOVQ F%d, %d(R%d)", v, off, base) }

// zero clears V(v); an exclusive or would wait for what is there.
func (g *gen) zero(v int) { g.op("VMOVI $0, V%d.B16", v) }

// rowOf leaves base + ld times the next token of the order at R(order) in R(d).
func (g *gen) rowOf(order, base, ld, d int) {
	g.op("MOVW.P 4(R%d), R%d", order, d)
	g.op("MADD R%d, R%d, R%d, R%d", ld, base, d, d)
}

// weave writes the instructions of the parts as one sequence in which each is spread
// evenly, so that chains of dependent instructions run beside each other.
func (g *gen) weave(parts ...func()) {
	var lines [][][]byte
	start, total := g.Len(), 0
	for _, part := range parts {
		part()
		l := bytes.SplitAfter(bytes.Clone(g.Bytes()[start:]), []byte("\n"))
		l = l[:len(l)-1]
		lines, total = append(lines, l), max(total, len(l))
		g.Truncate(start)
	}
	for i := range total {
		for _, l := range lines {
			for _, line := range l[i*len(l)/total : (i+1)*len(l)/total] {
				g.Write(line)
			}
		}
	}
}

// scanKept are the registers of constants that stay there, or -1.
type scanKept struct{ magic, lo, hi, top int }

// keep loads the constants that stay in registers.
func (g *gen) keep(k scanKept) {
	for _, c := range []struct {
		name string
		v    int
	}{{"magic", k.magic}, {"lo", k.lo}, {"hi", k.hi}, {fmt.Sprintf("two%d", scanDegree), k.top}} {
		if c.v >= 0 {
			g.constant(c.name, c.v)
		}
	}
}

// bound replaces V(x) by op(V(x), constant), which is in V(kept) or else loaded to
// V(t). NaN passes.
func (g *gen) bound(op string, x int, name string, kept, t int) {
	if kept < 0 {
		kept = t
		g.constant(name, t)
	}
	g.v3(op, x, x, kept)
}

// split turns x in V(x), at least -127 and below 128, into 2^x = 2^n (1 + p r): n is
// the nearest integer, V(x) becomes r, V(k) 2^n, which is 0 for n = -127.
func (g *gen) split(x, k, p, magic int) {
	if magic < 0 {
		magic = p
		g.constant("magic", p)
		g.v3("FADD", k, x, p)
		g.v3("FSUB", p, k, p)
	} else {
		g.v3("FADD", k, x, magic)
		g.v3("FSUB", p, k, magic)
	}
	g.op("VSHL $23, V%d.S4, V%d.S4", k, k)
	g.v3("FSUB", x, x, p)
}

// polynomial leaves p of split in one of V(t[0]) and V(t[1]), and returns which.
func (g *gen) polynomial(x int, t [2]int, top int) int {
	to, from := t[0], top
	if top < 0 {
		from = t[1]
		g.constant(fmt.Sprintf("two%d", scanDegree), from)
	}
	g.constant(fmt.Sprintf("two%d", scanDegree-1), to)
	for i := scanDegree - 1; i >= 1; i-- {
		g.v3("FMLA", to, from, x)
		if from = to; i > 1 {
			to = t[0] + t[1] - from
			g.constant(fmt.Sprintf("two%d", i-1), to)
		}
	}
	return from
}

// decay leaves 2^x in V(d), for x in V(x) bounded as split wants it, by the
// temporaries V(k), V(p) and V(q).
func (g *gen) decay(d, x, k, p, q int, kept scanKept) {
	g.split(x, k, p, kept.magic)
	top := g.polynomial(x, [2]int{p, q}, kept.top)
	other := p + q - top
	g.constant("one", other)
	g.v3("FMLA", other, top, x)
	g.v3("FMUL", d, other, k)
}

// scanCall is the order of the fields of arm64.ScanCall.
var scanCall = []string{"steps", "powers", "inputs", "sums", "order", "tokens", "vectors", "a", "b", "ldB", "c", "ldC", "state", "ldState", "states", "form"}

// field loads a field of the call at R0.
func (g *gen) field(name string, r int) {
	g.op("MOVD %d(R0), R%d", 8*slices.Index(scanCall, name), r)
}

// scan writes ScanNEON. Registers:
//
//	R0           the call
//	R1 R2 R3     rows of the steps, the inputs delta·u and the sums
//	R4 R5        the order; tokens left
//	R6 R7 R8 R9  B and C, and their distances of tokens
//	R10 R11      the rows of B and C
//	R12          A of the body's first state
//	R13          rows of the decays of state 0, in the form scanOn
//	R14 R15 R16  the row of a state, the first one, their distance
//	R17          a temporary
//	R19 R20      vectors of channels left; bytes from the first vector to this one
//	R25          the constants
//	V0 ..        the states; the others as scanBody has them
func (g *gen) scan() {
	g.function("ScanNEON", frame, "call *ScanCall")
	g.args("call", "R0")
	g.loadTable(scanTable, tableAt)
	g.field("states", 1)
	g.field("form", 2)
	g.field("vectors", 19)
	g.op("MOVD ZR, R20")
	for form, bodies := range scanBodies {
		next := fmt.Sprintf("not%d", form)
		g.op("CMP $%d, R2", form)
		g.op("BNE %s", next)
		for _, n := range bodies {
			g.op("CMP $%d, R1", n)
			g.op("BEQ form%s", scanName(form, n))
		}
		g.p("%s:", next)
	}
	g.op("RET")
	for form, bodies := range scanBodies {
		for _, n := range bodies {
			switch {
			case n == 1:
				g.scanSingle(form)
			case form == scanPowers || form == scanOn:
				g.scanPowers(form, n)
			default:
				g.scanGeneral(form, n)
			}
		}
	}
}

// scanRegisters are the fields that a body keeps in registers, by their number.
var scanRegisters = [...]string{1: "steps", 2: "inputs", 3: "sums", 4: "order", 5: "tokens", 6: "b", 7: "ldB", 8: "c", 9: "ldC", 12: "a", 13: "powers", 15: "state", 16: "ldState"}

// scanFields loads the registers of a body.
func (g *gen) scanFields() {
	for r, name := range scanRegisters {
		if name != "" {
			g.field(name, r)
		}
	}
}

// scanName is the end of a body's labels.
func scanName(form, n int) string { return fmt.Sprintf("%s%d", scanNames[form], n) }

// scanBegin begins a body: at vector<name> a vector of channels, its n states loaded.
func (g *gen) scanBegin(form, n int) (name string) {
	name = scanName(form, n)
	g.p("")
	g.p("form%s:", name)
	g.p("vector%s:", name)
	g.scanFields()
	for r, name := range scanRegisters {
		switch {
		case name == "b" && !constB(form), name == "c" && !constC(form):
		case slices.Contains([]string{"steps", "powers", "inputs", "sums", "a", "b", "c", "state"}, name):
			g.op("ADD R20, R%d, R%d", r, r)
		}
	}
	g.states(n, func(i int) { g.ldr(0, 14, i) })
	return name
}

// scanEnd ends the token, stores the states and goes on with the next vector of
// channels.
func (g *gen) scanEnd(name string, n int) {
	g.op("SUBS $1, R5, R5")
	g.op("BNE loop%s", name)
	g.states(n, func(i int) { g.str(i, 0, 14) })
	g.op("ADD $16, R20, R20")
	g.op("SUBS $1, R19, R19")
	g.op("BNE vector%s", name)
	g.op("RET")
}

// states goes through the rows of n states by R14.
func (g *gen) states(n int, f func(i int)) {
	g.op("MOVD R15, R14")
	for i := range n {
		f(i)
		if i < n-1 {
			g.op("ADD R16, R14, R14")
		}
	}
}

func constB(form int) bool { return form == scanB || form == scanBC }
func constC(form int) bool { return form == scanC || form == scanBC }

// scanRows leaves the rows of B and C of the next token in R10 and R11. The distance
// of tokens is 0 for a panel.
func (g *gen) scanRows() {
	g.op("MOVW.P 4(R4), R17")
	g.op("MADD R7, R6, R17, R10")
	g.op("MADD R9, R8, R17, R11")
}

// fours loads four states' elements of B and C.
func (g *gen) fours(form, i, b, c int) {
	if !constB(form) {
		g.ldr(4*i, 10, b)
	}
	if !constC(form) {
		g.ldr(4*i, 11, c)
	}
}

// input is V(d) += delta·u·B of state i, read is V(sum) += C·V(h). V(t) is a
// temporary.
func (g *gen) input(form, i, d, du, b, t int) {
	if constB(form) {
		g.ldr(scanRow*i, 10, t)
		g.v3("FMLA", d, du, t)
		return
	}
	g.lane("FMLA", d, du, b, i%4)
}

func (g *gen) read(form, i, sum, h, c, t int) {
	if constC(form) {
		g.ldr(scanRow*i, 11, t)
		g.v3("FMLA", sum, h, t)
		return
	}
	g.lane("FMLA", sum, h, c, i%4)
}

// scanGeneral writes the body of n states, four chains beside each other. A state
// advances by
//
//	h = 2^n (h + p r h) + delta·u·B,  2^r = 1 + p r
//
// The decay itself is never formed: near 1 its rounding would be a large error of
// what the state loses. Sixteen operations of the floating-point pipes, and six loads.
func (g *gen) scanGeneral(form, n int) {
	const delta, du, b, c, temporaries = 8, 9, 18, 19, 20
	sums := []int{10, 11, 12, 13}
	kept := scanKept{magic: 14, lo: 15, hi: 16, top: 17}
	name := g.scanBegin(form, n)
	g.keep(kept)
	g.op("PCALIGN $16")
	g.p("loop%s:", name)
	g.op("FMOVQ.P %d(R1), F%d", scanRow, delta)
	g.op("FMOVQ.P %d(R2), F%d", scanRow, du)
	g.ldr(0, 3, sums[0])
	for _, s := range sums[1:] {
		g.zero(s)
	}
	g.scanRows()
	for i := 0; i < n; i += 4 {
		g.fours(form, i, b, c)
		var parts []func()
		for j := range 4 {
			h, x, k, p := i+j, temporaries+3*j, temporaries+3*j+1, temporaries+3*j+2
			parts = append(parts, func() {
				g.ldr(scanRow*h, 12, x)
				g.v3("FMUL", x, x, delta)
				g.v3("FMAX", x, x, kept.lo)
				if form != scanFalling {
					g.v3("FMIN", x, x, kept.hi)
				}
				g.split(x, k, p, kept.magic)
				g.v3("FMUL", h, h, k)
				top := g.polynomial(x, [2]int{p, k}, kept.top)
				g.v3("FMUL", x, h, x)
				g.input(form, h, h, du, b, p+k-top)
				g.v3("FMLA", h, x, top)
				g.read(form, h, sums[j], h, c, p+k-top)
			})
		}
		g.weave(parts...)
	}
	g.total(sums)
	g.scanEnd(name, n)
}

// scanDecay writes ScanDecayNEON. Registers: R0 decays, R1 steps, R2 a, R3 tokens
// left; V0 to V15 four chains of four temporaries, V16 to V19 a, V20 to V23 constants.
func (g *gen) scanDecay() {
	g.function("ScanDecayNEON", frame, "decays, steps, a *float32, tokens int")
	g.args("decays", "R0", "steps", "R1", "a", "R2", "tokens", "R3")
	g.loadTable(scanTable, tableAt)
	kept := scanKept{magic: 20, lo: 21, hi: 22, top: 23}
	g.keep(kept)
	g.quad("VLD1", 16, "(R2)")
	g.op("PCALIGN $16")
	g.p("loop:")
	g.decays(1, 0, 16, kept)
	g.quad("VST1.P", 0, "64(R0)")
	g.op("SUBS $1, R3, R3")
	g.op("BNE loop")
	g.op("RET")
}

// scanSingle writes the body of one state, the four vectors of a panel beside each
// other. The decay is formed here, to wait for the token before no longer than need
// be. V0 to V3 are the states, V4 to V7 a, V8 and V9 B and C, V10 to V25 four chains of
// four temporaries, V26 to V29 constants.
func (g *gen) scanSingle(form int) {
	const a, b, c, temporaries = 4, 8, 9, 10
	kept := scanKept{magic: 26, lo: 27, hi: 28, top: 29}
	name := scanName(form, 1)
	g.p("")
	g.p("form%s:", name)
	g.scanFields()
	g.quad("VLD1", 0, "(R15)")
	g.quad("VLD1", a, "(R12)")
	g.keep(kept)
	g.op("PCALIGN $16")
	g.p("loop%s:", name)
	g.scanRows()
	if !constB(form) {
		g.op("FMOVS (R10), F%d", b)
	}
	if !constC(form) {
		g.op("FMOVS (R11), F%d", c)
	}
	g.decays(1, temporaries, a, kept)
	input, sum, t := temporaries+4, temporaries+8, temporaries+12
	g.quad("VLD1.P", input, "64(R2)")
	g.quad("VLD1", sum, "(R3)")
	for v := range 4 {
		g.v3("FMUL", v, v, temporaries+v)
	}
	operand := func(constant bool, at, d, n, lane int) {
		if constant {
			g.quad("VLD1", t, fmt.Sprintf("(R%d)", at))
		}
		for v := range 4 {
			if constant {
				g.v3("FMLA", d+v, n+v, t+v)
			} else {
				g.lane("FMLA", d+v, n+v, lane, 0)
			}
		}
	}
	operand(constB(form), 10, 0, input, b)
	operand(constC(form), 11, sum, 0, c)
	g.quad("VST1", sum, "(R3)")
	g.op("ADD $%d, R3, R3", scanRow)
	g.op("SUBS $1, R5, R5")
	g.op("BNE loop%s", name)
	g.quad("VST1", 0, "(R15)")
	g.op("RET")
}

// quad loads or stores four registers.
func (g *gen) quad(op string, v int, at string) {
	list := fmt.Sprintf("[V%d.S4, V%d.S4, V%d.S4, V%d.S4]", v, v+1, v+2, v+3)
	if op == "VST1" || op == "VST1.P" {
		at, list = list, at
	}
	g.op("%s %s, %s", op, at, list)
}

// decays leaves the decays of a panel's next token at R(at) in V(t) and on: 2 to the
// power of it times V(a) and on. V(t) to V(t+15) are four chains' temporaries.
func (g *gen) decays(at, t, a int, kept scanKept) {
	g.quad("VLD1.P", t, fmt.Sprintf("64(R%d)", at))
	var parts []func()
	for v := range 4 {
		x := t + v
		parts = append(parts, func() {
			g.v3("FMUL", x, x, a+v)
			g.v3("FMAX", x, x, kept.lo)
			g.v3("FMIN", x, x, kept.hi)
			g.decay(x, x, x+4, x+8, x+12, kept)
		})
	}
	g.weave(parts...)
}

// scanPowers writes the body of n states whose decays are products: those of four
// states, times the fourth power of that of state 0, are those of the next four. The
// first ones are w, w², w³ and w⁴, or for later states v, v w, v w² and v w³.
func (g *gen) scanPowers(form, n int) {
	const w4, du, b, c = 20, 21, 26, 27
	e, sums := []int{16, 17, 18, 19}, []int{22, 23, 24, 25}
	name := g.scanBegin(form, n)
	g.op("PCALIGN $16")
	g.p("loop%s:", name)
	g.op("FMOVQ.P %d(R1), F%d", scanRow, e[0])
	g.op("FMOVQ.P %d(R2), F%d", scanRow, du)
	g.ldr(0, 3, sums[0])
	for _, s := range sums[1:] {
		g.zero(s)
	}
	g.scanRows()
	four := e // the decays of a group
	if form == scanPowers {
		four = []int{e[0], e[1], e[2], w4}
		g.v3("FMUL", e[1], e[0], e[0])
		g.v3("FMUL", e[2], e[1], e[0])
		g.v3("FMUL", w4, e[1], e[1])
	} else {
		g.op("FMOVQ.P %d(R13), F%d", scanRow, e[3])
		g.v3("FMUL", w4, e[3], e[3])
		g.v3("FMUL", e[1], e[0], e[3])
		g.v3("FMUL", e[2], e[0], w4)
		g.v3("FMUL", e[3], e[1], w4)
		g.v3("FMUL", w4, w4, w4)
	}
	for i := 0; i < n; i += 4 {
		g.fours(form, i, b, c)
		for j := range 4 {
			g.v3("FMUL", i+j, i+j, four[j])
		}
		for j := range 4 {
			g.lane("FMLA", i+j, du, b, j)
		}
		for j := range 4 {
			if i+4 < n {
				g.v3("FMUL", e[j], four[j], w4)
			}
			g.lane("FMLA", sums[j], i+j, c, j)
		}
		four = e
	}
	g.total(sums)
	g.scanEnd(name, n)
}

// total stores the sum of four parts. The address is not advanced by the store, which
// would make the next token's loads wait for it where a store is one operation.
func (g *gen) total(sums []int) {
	g.v3("FADD", sums[0], sums[0], sums[1])
	g.v3("FADD", sums[2], sums[2], sums[3])
	g.v3("FADD", sums[0], sums[0], sums[2])
	g.str(sums[0], 0, 3)
	g.op("ADD $%d, R3, R3", scanRow)
}

// scanIn writes ScanInNEON. Registers: R0 work, R1 R2 rows of x and their distance,
// R3 the order, R4 tokens left; V0 to V3 the row, V4 to V7 the bias.
func (g *gen) scanIn() {
	g.function("ScanInNEON", frame, "work, x *float32, ldx int, bias *float32, order *int32, tokens int")
	g.args("work", "R0", "x", "R1", "ldx", "R2", "order", "R3", "tokens", "R4", "bias", "R5")
	g.op("LSL $2, R2, R2")
	g.quad("VLD1", 4, "(R5)")
	g.p("loop:")
	g.rowOf(3, 1, 2, 6)
	g.quad("VLD1", 0, "(R6)")
	for i := range 4 {
		g.v3("FADD", i, i, 4+i)
	}
	g.quad("VST1.P", 0, "64(R0)")
	g.op("SUBS $1, R4, R4")
	g.op("BNE loop")
	g.op("RET")
}

// scanInput writes ScanInputNEON. Registers: R0 the inputs, R1 the sums, R2 the steps,
// R3 R4 rows of u and their distance, R5 the order, R6 tokens left, R7 plain; V0 to V3
// u, V4 to V7 the steps and then the sums, V8 to V11 D.
func (g *gen) scanInput() {
	g.function("ScanInputNEON", frame, "inputs, sums, steps, u *float32, ldu int, d *float32, order *int32, tokens, plain int")
	g.args("inputs", "R0", "sums", "R1", "steps", "R2", "u", "R3", "ldu", "R4", "order", "R5", "tokens", "R6", "plain", "R7", "d", "R8")
	g.op("LSL $2, R4, R4")
	g.op("CBZ R8, loop")
	g.quad("VLD1", 8, "(R8)")
	g.p("loop:")
	g.rowOf(5, 3, 4, 9)
	g.quad("VLD1", 0, "(R9)")
	for i := range 4 {
		g.zero(4 + i)
	}
	g.op("CBZ R8, direct")
	for i := range 4 {
		g.v3("FMUL", 4+i, 8+i, i)
	}
	g.p("direct:")
	g.quad("VST1.P", 4, "64(R1)")
	g.op("CBNZ R7, put")
	g.quad("VLD1.P", 4, "64(R2)")
	for i := range 4 {
		g.v3("FMUL", i, i, 4+i)
	}
	g.p("put:")
	g.quad("VST1.P", 0, "64(R0)")
	g.op("SUBS $1, R6, R6")
	g.op("BNE loop")
	g.op("RET")
}

// scanOut writes ScanOutNEON. Registers: R0 R1 rows of y and their distance, R2 the
// sums, R3 the gate or 0, R4 the order, R5 tokens left, R6 add; V0 to V3 the sums, V4
// to V7 what they meet.
func (g *gen) scanOut() {
	g.function("ScanOutNEON", frame, "y *float32, ldy int, sums, gate *float32, order *int32, tokens, add int")
	g.args("y", "R0", "ldy", "R1", "sums", "R2", "gate", "R3", "order", "R4", "tokens", "R5", "add", "R6")
	g.op("LSL $2, R1, R1")
	g.p("loop:")
	g.rowOf(4, 0, 1, 7)
	g.quad("VLD1.P", 0, "64(R2)")
	g.op("CBZ R3, gated")
	g.quad("VLD1.P", 4, "64(R3)")
	for i := range 4 {
		g.v3("FMUL", i, i, 4+i)
	}
	g.p("gated:")
	g.op("CBZ R6, put")
	g.quad("VLD1", 4, "(R7)")
	for i := range 4 {
		g.v3("FADD", i, i, 4+i)
	}
	g.p("put:")
	g.quad("VST1", 0, "(R7)")
	g.op("SUBS $1, R5, R5")
	g.op("BNE loop")
	g.op("RET")
}
