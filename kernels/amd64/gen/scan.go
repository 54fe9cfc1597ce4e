package main

import (
	"bytes"
	"fmt"
	"math"
)

// The selective scan runs a vector of channels over a block of tokens: ScanIn
// applies the softplus to delta, Scan passes over the tokens with some of the
// states in registers, as often as the number of states asks for, and ScanOut gates
// the sums. All take the address of an amd64.ScanCall.

// scanFields are the fields of ScanCall, of 8 bytes each, in its order.
var scanFields = []string{"tokens", "lanes", "order",
	"delta", "ldDelta", "bias", "softplus", "work",
	"step", "ldStep", "stepOrder", "u", "ldU", "d", "state", "ldState", "a", "a0", "b", "ldB", "c", "ldC", "states", "form",
	"sum", "ldSum", "sumOrder", "onto", "y", "ldY", "z", "ldZ", "add", "plain"}

// arg is the address of a field of the ScanCall at DI.
func (g *gen) arg(name string) string {
	for i, f := range scanFields {
		if f == name {
			return fmt.Sprintf("%d(DI)", 8*i)
		}
	}
	panic("no field " + name)
}

// The forms of Scan.
const (
	scanGeneral = iota // an exponential for each decay
	scanPowers         // the decays of the first states: w, w², ..
	scanOn             // the decays of later states: v, v w, v w², ..
	scanB              // general, with B in panels
	scanC              // general, with C in panels
	scanBC             // general, with both
	scanGated          // general, with softplus before and gate behind; AVX-512 only
	scanForms
)

// scanPanel is the distance in bytes between the states of a panel of parameters.
const scanPanel = 64

// scanStates gives the numbers of states that a form has a body for.
func (g *gen) scanStates(form int) []int {
	most := map[int]int{32: 8, 64: 16}[g.vb]
	switch form {
	case scanGeneral:
		return []int{most, 4, 1}
	case scanPowers, scanOn:
		return []int{most, 4}
	case scanGated:
		if g.vb == 64 {
			return []int{most}
		}
		return nil
	}
	return []int{4, 1}
}

const (
	scanDegree = 5
	logDegree  = 4
)

// scanConstants adds the constants of scans: the coefficients of
//
//	2^r = 1 + r (two1 + r (two2 + ..)),  |r| <= 1/2
//
// whose constant term is exactly 1, since an error there would grow with every token
// that a state lives, and those of 2 artanh(q) / q in q².
func (g *gen) scanConstants(c *constants) {
	for i, k := range interpolate(func(r float64) float64 {
		if math.Abs(r) < 1e-5 {
			return math.Ln2 + r*math.Ln2*math.Ln2/2
		}
		return math.Expm1(r*math.Ln2) / r
	}, -0.5, 0.5, scanDegree-1) {
		c.values(fmt.Sprintf("two%d", i+1), k)
	}
	c.values("deltahi", 0x1p64)
	c.values("deltalo", -0x1p64)
	c.values("scanlo", -127)
	c.values("scanhi", 127.49)                    // beyond, infinity times a state of 0 would be NaN
	c.values("scanmagic", 1.5*float64(1<<23)+127) // x plus it: the exponent bits of 2^x below
	c.values("two", 2)
	for i, k := range interpolate(func(s float64) float64 {
		if s < 1e-8 {
			return 2 + 2*s/3
		}
		q := math.Sqrt(s)
		return 2 * math.Atanh(q) / q
	}, 0, 1.0/9, logDegree) {
		c.values(fmt.Sprintf("log%d", i), k)
	}
}

// softplus replaces V(t[0]) by log(1 + exp(x)) = max(x, 0) + log1p(w) with
// w = exp(-|x|), and log1p(w) = 2 artanh(w / (2 + w)). V(m) is a temporary.
func (g *gen) softplus(t [4]int, m int) {
	x, u, p := t[0], t[1], t[2]
	g.op("VXORPS X%d, X%d, X%d", u, u, u)
	g.v3("VMAXPS", x, u, m)
	g.bitwise("VPOR", "sign", x, x)
	g.exp(t, false)
	g.load("two", u)
	g.v3("VADDPS", u, x, u)
	g.v3("VDIVPS", u, x, x)
	g.v3("VMULPS", x, x, u)
	g.load(fmt.Sprintf("log%d", logDegree), p)
	for j := logDegree - 1; j >= 0; j-- {
		g.c3("VFMADD213PS", fmt.Sprintf("log%d", j), u, p)
	}
	g.v3("VFMADD213PS", m, p, x)
}

// lanesMask makes the mask of the first channels, at most a vector: K1, or V(mask)
// and at R10. AX and CX are temporaries.
func (g *gen) lanesMask(lanes string, mask int) {
	g.op("MOVQ %s, CX", lanes)
	if g.vb == 64 {
		g.op("MOVL $1, AX")
		g.op("SHLL CX, AX")
		g.op("DECL AX")
		g.op("KMOVW AX, K1")
		return
	}
	g.op("NEGQ CX")
	g.op("LEAQ ·tails%s+32(SB), AX", g.name)
	g.op("LEAQ (AX)(CX*4), R10")
	g.loadMask(mask)
}

// loadMask loads the mask again where its register had another use.
func (g *gen) loadMask(mask int) {
	if g.vb == 32 {
		g.op("VMOVUPS (R10), %s", g.v(mask))
	}
}

// storeLanes stores the channels of the mask; masked stores take dozens of cycles on
// some CPUs.
func (g *gen) storeLanes(lanes string, s, mask int, at string) {
	part, done := g.label("part"), g.label("stored")
	g.op("CMPQ %s, $%d", lanes, g.vb/4)
	g.op("JLT %s", part)
	g.op("VMOVUPS %s, %s", g.v(s), at)
	g.op("JMP %s", done)
	g.p("%s:", part)
	g.storeTail(s, mask, at)
	g.p("%s:", done)
}

// scanHead begins a function: DI is the ScanCall, R12 the order of its tokens, DX
// the step.
func (g *gen) scanHead(name string, mask int) {
	g.p("// func %s%s(call *ScanCall)", name, g.name)
	g.p("TEXT ·%s%s(SB), 0, $128-8", name, g.name)
	g.op("MOVQ call+0(FP), DI")
	g.lanesMask(g.arg("lanes"), mask)
	g.op("MOVQ %s, R12", g.arg("order"))
	g.op("XORQ DX, DX")
}

// row leaves the address of a row of the step's token in d.
func (g *gen) row(base, ld, d string) {
	g.op("MOVLQSX (R12)(DX*4), %s", d)
	g.op("IMULQ %s, %s", g.arg(ld), d)
	g.op("ADDQ %s, %s", g.arg(base), d)
}

// rowBy is row for an order of its own and the step in a register.
func (g *gen) rowBy(order, step, base, ld, d string) {
	g.op("MOVQ %s, %s", g.arg(order), d)
	g.op("MOVLQSX (%s)(%s*4), %s", d, step, d)
	g.op("IMULQ %s, %s", g.arg(ld), d)
	g.op("ADDQ %s, %s", g.arg(base), d)
}

// nextStep ends the loop over the steps.
func (g *gen) nextStep(label string) {
	g.op("INCQ DX")
	g.op("CMPQ DX, %s", g.arg("tokens"))
	g.op("JLT %s", label)
}

// scanIn writes ScanIn<level>. V0 is delta, V1 to V4 are temporaries, V8 the bias,
// V7 (K1) the mask of the channels; BX is the work of the step.
func (g *gen) scanIn() {
	g.scanHead("ScanIn", 7)
	g.op("MOVQ %s, AX", g.arg("bias"))
	g.loadTail("(AX)", 7, 8)
	g.op("MOVQ %s, BX", g.arg("work"))
	g.op("PCALIGN $32")
	g.p("token:")
	g.row("delta", "ldDelta", "AX")
	g.loadTail("(AX)", 7, 0)
	g.v3("VADDPS", 8, 0, 0)
	g.op("CMPQ %s, $0", g.arg("softplus"))
	g.op("JEQ put")
	g.softplus([4]int{0, 1, 2, 3}, 4)
	g.p("put:")
	g.op("VMOVUPS %s, (BX)", g.v(0))
	g.op("ADDQ $%d, BX", g.vb)
	g.nextStep("token")
	g.op("VZEROUPPER")
	g.op("RET")
}

// scanOut writes ScanOut<level>. V0 is the sum, V1 the gate, V2 to V5 are
// temporaries, V7 (K1) the mask of the channels; BX is the work of the step.
func (g *gen) scanOut() {
	g.scanHead("ScanOut", 7)
	g.op("MOVQ %s, BX", g.arg("work"))
	g.op("PCALIGN $32")
	g.p("token:")
	g.row("y", "ldY", "AX")
	g.op("VMOVUPS (BX), %s", g.v(0))
	g.op("CMPQ %s, $0", g.arg("z"))
	g.op("JEQ gated")
	g.row("z", "ldZ", "CX")
	g.loadTail("(CX)", 7, 1)
	g.activate("silu", 1, [4]int{2, 3, 4, 5})
	g.v3("VMULPS", 1, 0, 0)
	g.p("gated:")
	g.op("CMPQ %s, $0", g.arg("add"))
	g.op("JEQ put")
	g.loadTail("(AX)", 7, 1)
	g.v3("VADDPS", 1, 0, 0)
	g.p("put:")
	g.storeLanes(g.arg("lanes"), 0, 7, "(AX)")
	g.op("ADDQ $%d, BX", g.vb)
	g.nextStep("token")
	g.op("VZEROUPPER")
	g.op("RET")
}

// scanVectors are the registers of a body of Scan beside its states.
type scanVectors struct {
	delta, du    int
	mask         int   // at AVX2; a temporary when it has been used
	sums         []int // parts of the sum, in turn
	coefficients int   // the first of those in registers: two5, two4 ..
	kept         int   // how many there are
	lo, magic    int   // constants at AVX2, or -1: in memory
	free         []int // temporaries of the states
	side         []int // those of the softplus and the gate in the form scanGated
}

// sequence returns from, from+1 .. to-1.
func sequence(from, to int) (s []int) {
	for i := from; i < to; i++ {
		s = append(s, i)
	}
	return s
}

func (v scanVectors) sum(i int) int { return v.sums[i%len(v.sums)] }

// scan writes Scan<level>. Registers:
//
//	SI BX        A at the first state of the body, and at state 0 of the panel
//	R8 R9        B and C; AX CX their rows
//	R10          the mask at AVX2; rows of the next token and of the gate
//	R11          the row of u; the next step
//	R13          other rows; the row of the sum
//	V0 ..        the states of the body; the others as scanBody has them
func (g *gen) scan() {
	g.scanHead("Scan", 12)
	for _, r := range [][2]string{{"a", "SI"}, {"a0", "BX"}, {"b", "R8"}, {"c", "R9"}, {"states", "AX"}, {"form", "CX"}} {
		g.op("MOVQ %s, %s", g.arg(r[0]), r[1])
	}
	for form := range scanForms {
		next := g.label("form")
		g.op("CMPQ CX, $%d", form)
		g.op("JNE %s", next)
		for _, n := range g.scanStates(form) {
			g.op("CMPQ AX, $%d", n)
			g.op("JEQ states%d_%d", form, n)
		}
		g.p("%s:", next)
	}
	g.op("VZEROUPPER")
	g.op("RET")
	for form := range scanForms {
		for _, n := range g.scanStates(form) {
			g.scanBody(form, n)
		}
	}
}

func (g *gen) scanBody(form, n int) {
	powers := form == scanPowers || form == scanOn
	gated := form == scanGated
	v := scanVectors{delta: 8, du: 9, sums: []int{10}, lo: 11, mask: 12, magic: 15, free: []int{12, 13, 14}}
	if powers { // few exponentials and many decays
		v.free, v.lo, v.magic = append(v.free, v.lo, v.magic), -1, -1
	}
	if g.vb == 64 {
		v = scanVectors{delta: 16, du: 17, sums: []int{18, 19}, coefficients: 20, lo: -1, magic: -1}
		switch {
		case powers:
			v.free = sequence(20, 32)
		case gated:
			v.kept, v.free, v.side = 3, sequence(23, 26), sequence(26, 32)
		default:
			v.kept, v.free = scanDegree, sequence(25, 32)
		}
	}
	each := func(f func(i int)) {
		g.op("MOVQ %s, AX", g.arg("state"))
		g.op("MOVQ %s, CX", g.arg("ldState"))
		for i := range n {
			f(i)
			g.op("ADDQ CX, AX")
		}
	}
	g.p("")
	g.p("states%d_%d:", form, n)
	each(func(i int) { g.loadTail("(AX)", v.mask, i) })
	for i := range v.kept {
		g.load(fmt.Sprintf("two%d", scanDegree-i), v.coefficients+i)
	}
	if v.lo >= 0 {
		g.load("scanlo", v.lo)
		g.load("scanmagic", v.magic)
	}
	ahead := g.ahead(form)
	switch {
	case ahead:
		g.firstDecay(v, "DX")
	case gated:
		g.deltaAhead(v, "DX")
	}
	g.op("PCALIGN $64")
	token := fmt.Sprintf("token%d_%d", form, n)
	g.p("%s:", token)
	g.loadMask(v.mask)
	// delta, delta·u, and the sum's beginning: 0 or what is there, plus D·u
	if gated {
		g.op("VMOVAPS %s, %s", g.v(v.side[5]), g.v(v.delta))
	} else {
		g.rowBy("stepOrder", "DX", "step", "ldStep", "R13")
		g.loadTail("(R13)", v.mask, v.delta)
	}
	g.row("u", "ldU", "R11")
	u := v.free[1]
	g.loadTail("(R11)", v.mask, u)
	g.v3("VMULPS", v.delta, u, v.du)
	times := g.label("times")
	g.op("CMPQ %s, $0", g.arg("plain"))
	g.op("JEQ %s", times)
	g.op("VMOVAPS %s, %s", g.v(u), g.v(v.du))
	g.p("%s:", times)
	if !powers && n > 1 {
		g.bounded(v.delta, v.free[0])
	}
	g.rowBy("sumOrder", "DX", "sum", "ldSum", "R13")
	fresh, direct := g.label("fresh"), g.label("direct")
	for _, sum := range v.sums {
		g.v3("VPXOR"+g.d(), sum, sum, sum)
	}
	if !gated {
		g.op("CMPQ %s, $0", g.arg("onto"))
		g.op("JEQ %s", fresh)
		g.loadTail("(R13)", v.mask, v.sum(0))
		g.p("%s:", fresh)
	}
	g.op("MOVQ %s, AX", g.arg("d"))
	g.op("TESTQ AX, AX")
	g.op("JZ %s", direct)
	g.loadTail("(AX)", v.mask, v.free[2])
	g.v3("VFMADD231PS", v.free[2], u, v.sum(0))
	g.p("%s:", direct)
	// The lines that ScanOut will need, and those of the next channels.
	g.op("PREFETCHT0 64(R11)")
	g.row("delta", "ldDelta", "AX")
	g.op("PREFETCHT0 64(AX)")
	g.row("y", "ldY", "AX")
	g.op("PREFETCHT0 (AX)")
	if !gated {
		ungated := g.label("ungated")
		g.op("CMPQ %s, $0", g.arg("z"))
		g.op("JEQ %s", ungated)
		g.row("z", "ldZ", "AX")
		g.op("PREFETCHT0 (AX)")
		g.p("%s:", ungated)
	}
	if form != scanB && form != scanBC {
		g.row("b", "ldB", "AX")
	}
	if form != scanC && form != scanBC {
		g.row("c", "ldC", "CX")
	}
	switch {
	case powers:
		g.scanPowers(form, n, v)
	case n == 1: // a state waits for that of the token before: the shortest way from it
		x, q := v.free[0], v.free[1]
		g.op("VMULPS (SI), %s, %s", g.v(v.delta), g.v(x))
		g.decay(v, x, v.free[1:])
		g.scanInput("VMULPS", form, 0, q, q, v)
		g.v3("VFMADD213PS", q, x, 0)
		g.scanRead(form, 0, v, q)
	case gated:
		g.weave(func() {
			for i := range n {
				g.scanState(form, i, v, v.free)
			}
		}, func() {
			g.op("LEAQ 1(DX), R10")
			g.op("CMPQ R10, %s", g.arg("tokens"))
			g.op("CMOVQGE DX, R10")
			g.deltaAhead(v, "R10")
			g.row("z", "ldZ", "R10")
			g.loadTail("(R10)", v.mask, v.side[0])
			g.op("PREFETCHT0 64(R10)")
			g.activate("silu", v.side[0], [4]int(v.side[1:5]))
		})
	default:
		together := min(n, len(v.free)/3)
		for i := 0; i < n; i += together {
			var parts []func()
			for k := range together {
				parts = append(parts, func() { g.scanState(form, i+k, v, v.free[3*k:]) })
			}
			g.weave(parts...)
		}
	}
	g.loadMask(v.mask)
	for _, sum := range v.sums[1:] {
		g.v3("VADDPS", sum, v.sum(0), v.sum(0))
	}
	if gated {
		g.v3("VMULPS", v.side[0], v.sum(0), v.sum(0))
		g.op("CMPQ %s, $0", g.arg("onto"))
		g.op("JEQ %s", fresh)
		g.loadTail("(R13)", v.mask, v.side[0])
		g.v3("VADDPS", v.side[0], v.sum(0), v.sum(0))
		g.p("%s:", fresh)
	}
	g.storeLanes(g.arg("lanes"), v.sum(0), v.mask, "(R13)")
	g.nextStep(token)
	each(func(i int) { g.storeLanes(g.arg("lanes"), i, v.mask, "(AX)") })
	g.op("VZEROUPPER")
	g.op("RET")
}

// weave writes the instructions of the parts as one sequence in which each is spread
// evenly, so that chains of dependent instructions run beside each other.
func (g *gen) weave(parts ...func()) {
	var lines [][][]byte
	start, total := g.Len(), 0
	for _, part := range parts {
		part()
		l := bytes.SplitAfter(bytes.Clone(g.Bytes()[start:]), []byte("\n"))
		lines = append(lines, l)
		total = max(total, len(l))
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

// scanState advances state i by a token:
//
//	h = 2^n (h + p r h) + delta·u·B,  2^r = 1 + p r
//
// The decay itself is never formed: near 1 its rounding would be a large error of
// what the state loses.
func (g *gen) scanState(form, i int, v scanVectors, t []int) {
	x, k, p := t[0], t[1], t[2]
	g.op("VMULPS %d(SI), %s, %s", i*scanPanel, g.v(v.delta), g.v(x))
	x, k = g.power(v, x, k, p)
	if g.vb == 64 {
		g.v3("VSCALEFPS", k, i, i)
	} else {
		g.v3("VMULPS", k, i, i)
	}
	g.v3("VMULPS", i, x, x)
	g.scanInput("VFMADD231PS", form, i, i, k, v)
	g.v3("VFMADD231PS", x, p, i)
	g.scanRead(form, i, v, k)
}

// power splits 2^x into 2^n (1 + p r), and returns the registers of r and of n for
// VSCALEFPS, or 2^n at AVX2, where it is 0 below 2^-126: V(x) and V(k), or the other way
// round. NaN passes.
func (g *gen) power(v scanVectors, x, k, p int) (int, int) {
	if g.vb == 64 {
		g.op("VREDUCEPS $0, %s, %s", g.v(x), g.v(k)) // one operation, while rounding takes two on Intel's
		g.v3("VSUBPS", k, x, x)
		x, k = k, x
	} else {
		lo := v.lo
		if lo < 0 {
			lo = p
			g.load("scanlo", p)
		}
		g.v3("VMAXPS", x, lo, x)
		g.load("scanhi", k)
		g.v3("VMINPS", x, k, x)
		if v.magic >= 0 {
			g.v3("VADDPS", v.magic, x, k)
			g.v3("VSUBPS", v.magic, k, p)
		} else {
			g.c3("VADDPS", "scanmagic", x, k)
			g.c3("VSUBPS", "scanmagic", k, p)
		}
		g.v3("VSUBPS", p, x, x)
		g.op("VPSLLD $23, %s, %s", g.v(k), g.v(k))
	}
	if v.kept > 0 {
		g.op("VMOVAPS %s, %s", g.v(v.coefficients), g.v(p))
	} else {
		g.load(fmt.Sprintf("two%d", scanDegree), p)
	}
	for i := 1; i < scanDegree; i++ {
		if i < v.kept {
			g.v3("VFMADD213PS", v.coefficients+i, x, p)
		} else {
			g.c3("VFMADD213PS", fmt.Sprintf("two%d", scanDegree-i), x, p)
		}
	}
	return x, k
}

// decay replaces V(x) by 2 to its power, with two temporaries.
func (g *gen) decay(v scanVectors, x int, t []int) {
	d, p := x, t[1]
	x, k := g.power(v, x, t[0], p)
	g.c3("VFMADD213PS", "one", x, p)
	if g.vb == 64 {
		g.v3("VSCALEFPS", k, p, d)
	} else {
		g.v3("VMULPS", k, p, d)
	}
}

// scanInput writes V(d) += delta·u·B of state i, or with the operation VMULPS V(d) =
// delta·u·B. V(q) is a temporary.
func (g *gen) scanInput(op string, form, i, d, q int, v scanVectors) {
	switch {
	case form == scanB || form == scanBC:
		g.op("%s %d(R8), %s, %s", op, i*scanPanel, g.v(v.du), g.v(d))
	case g.vb == 64:
		g.op("%s.BCST %d(AX), %s, %s", op, 4*i, g.v(v.du), g.v(d))
	default:
		g.op("VBROADCASTSS %d(AX), %s", 4*i, g.v(q))
		g.v3(op, q, v.du, d)
	}
}

// scanRead adds C times state i to the sum.
func (g *gen) scanRead(form, i int, v scanVectors, q int) {
	switch {
	case form == scanC || form == scanBC:
		g.op("VFMADD231PS %d(R9), %s, %s", i*scanPanel, g.v(i), g.v(v.sum(i)))
	case g.vb == 64:
		g.op("VFMADD231PS.BCST %d(CX), %s, %s", 4*i, g.v(i), g.v(v.sum(i)))
	default:
		g.op("VBROADCASTSS %d(CX), %s", 4*i, g.v(q))
		g.v3("VFMADD231PS", q, i, v.sum(i))
	}
}

// bounded keeps an infinite delta from making NaN of infinity minus infinity in
// scanState: it decays as a large one. Elsewhere VSCALEFPS makes 0 of that NaN, since
// it scales by 2^-∞, and AVX2 bounds the exponents.
func (g *gen) bounded(delta, t int) {
	if g.vb == 64 {
		g.load("deltalo", t)
		g.v3("VMAXPS", delta, t, delta)
		g.load("deltahi", t)
		g.v3("VMINPS", delta, t, delta)
	}
}

// ahead reports whether a form makes the one exponential of a token during the token
// before, since nothing else could begin without it.
func (g *gen) ahead(form int) bool { return g.vb == 64 && form == scanPowers }

// firstDecay leaves the decay of state 0 at a step in the fourth last free register.
func (g *gen) firstDecay(v scanVectors, step string) {
	t := v.free[len(v.free)-4:]
	g.rowBy("stepOrder", step, "step", "ldStep", "R10")
	g.loadTail("(R10)", v.mask, t[0])
	g.op("VMULPS (SI), %s, %s", g.v(t[0]), g.v(t[0]))
	g.decay(v, t[0], t[1:])
}

// deltaAhead leaves softplus(delta + bias) of a step in the last side register, for
// the form scanGated, in which that runs beside the states of the token before.
func (g *gen) deltaAhead(v scanVectors, step string) {
	t := v.side
	g.op("MOVLQSX (R12)(%s*4), R10", step)
	g.op("IMULQ %s, R10", g.arg("ldDelta"))
	g.op("ADDQ %s, R10", g.arg("delta"))
	g.loadTail("(R10)", v.mask, t[0])
	g.op("MOVQ %s, R10", g.arg("bias"))
	g.loadTail("(R10)", v.mask, t[1])
	g.v3("VADDPS", t[1], t[0], t[0])
	g.softplus([4]int(t[:4]), t[4])
	g.op("VMOVAPS %s, %s", g.v(t[0]), g.v(t[5]))
}

// scanPowers makes the decays of n states, a power of two, from one exponential w
// of state 0 or, in the form scanOn, from w and that of the body's first state: c
// decays times w^c are the next c, so that a decay is a product of few. The last
// doubling is in place.
func (g *gen) scanPowers(form, n int, v scanVectors) {
	e, w := v.free[:n/2], v.delta // V(delta) becomes w^c in the form scanOn
	q := v.free[len(v.free)-1]
	update := func(i, e int) {
		g.scanInput("VMULPS", form, i, q, q, v)
		g.v3("VFMADD213PS", q, e, i)
		g.scanRead(form, i, v, q)
	}
	states := func() {
		update(0, e[0])
		for c := 1; c < n; c *= 2 {
			if form == scanPowers {
				w = e[c-1]
			}
			for k := range c {
				d := e[k]
				if c+k < len(e) {
					d = e[c+k]
				}
				g.v3("VMULPS", w, e[k], d)
				update(c+k, d)
			}
			if form == scanOn && 2*c < n {
				g.v3("VMULPS", w, w, w)
			}
		}
	}
	if g.ahead(form) {
		g.op("VMOVAPS %s, %s", g.v(v.free[len(v.free)-4]), g.v(e[0]))
		g.weave(states, func() {
			g.op("LEAQ 1(DX), R11")
			g.op("CMPQ R11, %s", g.arg("tokens"))
			g.op("CMOVQGE DX, R11")
			g.firstDecay(v, "R11")
		})
		return
	}
	g.op("VMULPS (SI), %s, %s", g.v(v.delta), g.v(e[0]))
	if form == scanOn {
		g.op("VMULPS (BX), %s, %s", g.v(v.delta), g.v(v.delta))
		g.decay(v, v.delta, v.free[1:])
	}
	g.decay(v, e[0], v.free[1:])
	states()
}
