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
	"sum", "ldSum", "sumOrder", "onto", "y", "ldY", "z", "ldZ", "add"}

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
	c.values("scanhi", 127.49) // beyond, infinity times a state of 0 would be NaN
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
	g.exp(t, false, true)
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

// lanesMask makes the mask of the call's channels: K1, or V(mask) and at R10. AX and
// CX are temporaries.
func (g *gen) lanesMask(mask int) {
	g.op("MOVQ %s, CX", g.arg("lanes"))
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

// storeLanes stores the channels of the mask.
func (g *gen) storeLanes(s, mask int, at string) {
	if g.vb == 64 {
		g.storeTail(s, mask, at)
		return
	}
	g.op("CMPQ %s, $8", g.arg("lanes"))
	g.storePart(s, mask, at)
}

// scanHead begins a function: DI is the ScanCall, R12 the order of its tokens, DX
// the step.
func (g *gen) scanHead(name string, mask int) {
	g.p("// func %s%s(call *ScanCall)", name, g.name)
	g.p("TEXT ·%s%s(SB), 0, $128-8", name, g.name)
	g.op("MOVQ call+0(FP), DI")
	g.lanesMask(mask)
	g.op("MOVQ %s, R12", g.arg("order"))
	g.op("XORQ DX, DX")
}

// row leaves the address of a row of the step's token in d.
func (g *gen) row(base, ld, d string) {
	g.op("MOVLQSX (R12)(DX*4), %s", d)
	g.op("IMULQ %s, %s", g.arg(ld), d)
	g.op("ADDQ %s, %s", g.arg(base), d)
}

// rowBy is row for an order of its own.
func (g *gen) rowBy(order, base, ld, d string) {
	g.op("MOVQ %s, %s", g.arg(order), d)
	g.op("MOVLQSX (%s)(DX*4), %s", d, d)
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
	g.op("VXORPS X8, X8, X8")
	g.op("MOVQ %s, AX", g.arg("bias"))
	g.op("TESTQ AX, AX")
	g.op("JZ unbiased")
	g.loadTail("(AX)", 7, 8)
	g.p("unbiased:")
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
	g.storeLanes(0, 7, "(AX)")
	g.op("ADDQ $%d, BX", g.vb)
	g.nextStep("token")
	g.op("VZEROUPPER")
	g.op("RET")
}

// scanVectors are the registers of a body of Scan beside its states.
type scanVectors struct {
	delta, du, sum, mask int
	coefficients         int // the first of two1, two2 .., or -1: in memory
	free                 []int
}

// scan writes Scan<level>. Registers:
//
//	SI BX        A at the first state of the body, and at state 0 of the panel
//	R8 R9        B and C; AX CX their rows
//	R10          the mask at AVX2
//	R13          other rows; the row of the sum
//	V0 ..        the states of the body; the others as scanBody has them
func (g *gen) scan() {
	g.scanHead("Scan", 11)
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
	v := scanVectors{8, 9, 10, 11, -1, []int{12, 13, 14, 15, 11}}
	if g.vb == 64 {
		v = scanVectors{16, 17, 18, -1, 19, []int{24, 25, 26, 27, 28, 29, 30, 31}}
		if powers {
			v.coefficients, v.free = -1, append(v.free, 19, 20, 21, 22, 23)
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
	if v.coefficients >= 0 {
		for i := range scanDegree {
			g.load(fmt.Sprintf("two%d", i+1), v.coefficients+i)
		}
	}
	g.op("PCALIGN $64")
	token := fmt.Sprintf("token%d_%d", form, n)
	g.p("%s:", token)
	g.loadMask(v.mask)
	// delta, delta·u, and the sum's beginning: 0 or what is there, plus D·u
	g.rowBy("stepOrder", "step", "ldStep", "R13")
	g.loadTail("(R13)", v.mask, v.delta)
	g.row("u", "ldU", "R13")
	u := v.free[0]
	g.loadTail("(R13)", v.mask, u)
	g.v3("VMULPS", v.delta, u, v.du)
	if g.vb == 64 {
		// An infinite delta decays as a large one: infinity minus infinity would
		// be NaN.
		g.load("deltalo", v.free[1])
		g.v3("VMAXPS", v.delta, v.free[1], v.delta)
		g.load("deltahi", v.free[1])
		g.v3("VMINPS", v.delta, v.free[1], v.delta)
	}
	g.rowBy("sumOrder", "sum", "ldSum", "R13")
	fresh, direct := g.label("fresh"), g.label("direct")
	g.v3("VPXOR"+g.d(), v.sum, v.sum, v.sum)
	g.op("CMPQ %s, $0", g.arg("onto"))
	g.op("JEQ %s", fresh)
	g.loadTail("(R13)", v.mask, v.sum)
	g.p("%s:", fresh)
	g.op("MOVQ %s, AX", g.arg("d"))
	g.op("TESTQ AX, AX")
	g.op("JZ %s", direct)
	g.loadTail("(AX)", v.mask, v.free[1])
	g.v3("VFMADD231PS", v.free[1], u, v.sum)
	g.p("%s:", direct)
	if form != scanB && form != scanBC {
		g.row("b", "ldB", "AX")
	}
	if form != scanC && form != scanBC {
		g.row("c", "ldC", "CX")
	}
	if powers {
		g.scanPowers(form, n, v)
	} else {
		together := min(n, len(v.free)/4)
		for i := 0; i < n; i += together {
			g.interleave(together, func(k int) { g.scanState(form, i+k, v, v.free[4*k:4*k+4]) })
		}
	}
	g.loadMask(v.mask)
	g.storeLanes(v.sum, v.mask, "(R13)")
	g.nextStep(token)
	each(func(i int) { g.storeLanes(i, v.mask, "(AX)") })
	g.op("VZEROUPPER")
	g.op("RET")
}

// interleave writes the instructions of part(0), part(1) .. part(n-1) in turn.
func (g *gen) interleave(n int, part func(k int)) {
	var lines [][][]byte
	start := g.Len()
	for k := range n {
		part(k)
		lines = append(lines, bytes.SplitAfter(bytes.Clone(g.Bytes()[start:]), []byte("\n")))
		g.Truncate(start)
	}
	for i := range lines[0] {
		for _, l := range lines {
			g.Write(l[i])
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
	g.power(v, x, k, p, t[3])
	if g.vb == 64 {
		g.v3("VSCALEFPS", k, i, i)
	} else {
		g.v3("VMULPS", k, i, i)
	}
	g.v3("VMULPS", i, x, x)
	g.v3("VFMADD231PS", x, p, i)
	g.scanInput(form, i, i, v, t[3])
	g.scanRead(form, i, v, t[3])
}

// power splits 2^x into 2^n (1 + p r), leaving r in V(x); V(k) is n for VSCALEFPS,
// or 2^n at AVX2, where it is 0 below 2^-126. NaN passes.
func (g *gen) power(v scanVectors, x, k, p, q int) {
	if g.vb == 64 {
		g.op("VRNDSCALEPS $0, %s, %s", g.v(x), g.v(k))
		g.v3("VSUBPS", k, x, x)
	} else {
		g.load("scanlo", p)
		g.v3("VMAXPS", x, p, x)
		g.load("scanhi", q)
		g.v3("VMINPS", x, q, x)
		g.c3("VADDPS", "scanmagic", x, k)
		g.c3("VSUBPS", "scanmagic", k, p)
		g.v3("VSUBPS", p, x, x)
		g.op("VPSLLD $23, %s, %s", g.v(k), g.v(k))
	}
	if v.coefficients < 0 {
		g.load(fmt.Sprintf("two%d", scanDegree), p)
		for j := scanDegree - 1; j >= 1; j-- {
			g.c3("VFMADD213PS", fmt.Sprintf("two%d", j), x, p)
		}
		return
	}
	g.op("VMOVAPS %s, %s", g.v(v.coefficients+scanDegree-1), g.v(p))
	for j := scanDegree - 1; j >= 1; j-- {
		g.v3("VFMADD213PS", v.coefficients+j-1, x, p)
	}
}

// scanInput writes V(d) += delta·u·B of state i.
func (g *gen) scanInput(form, i, d int, v scanVectors, q int) {
	switch {
	case form == scanB || form == scanBC:
		g.op("VFMADD231PS %d(R8), %s, %s", i*scanPanel, g.v(v.du), g.v(d))
	case g.vb == 64:
		g.op("VFMADD231PS.BCST %d(AX), %s, %s", 4*i, g.v(v.du), g.v(d))
	default:
		g.op("VBROADCASTSS %d(AX), %s", 4*i, g.v(q))
		g.v3("VFMADD231PS", q, v.du, d)
	}
}

// scanRead adds C times state i to the sum.
func (g *gen) scanRead(form, i int, v scanVectors, q int) {
	switch {
	case form == scanC || form == scanBC:
		g.op("VFMADD231PS %d(R9), %s, %s", i*scanPanel, g.v(i), g.v(v.sum))
	case g.vb == 64:
		g.op("VFMADD231PS.BCST %d(CX), %s, %s", 4*i, g.v(i), g.v(v.sum))
	default:
		g.op("VBROADCASTSS %d(CX), %s", 4*i, g.v(q))
		g.v3("VFMADD231PS", q, i, v.sum)
	}
}

// scanPowers makes the decays of n states, a power of two, from one exponential w
// of state 0 or, in the form scanOn, from w and that of the body's first state: c
// decays times w^c are the next c, so that a decay is a product of few. The last
// doubling is in place.
func (g *gen) scanPowers(form, n int, v scanVectors) {
	decay := func(x int, t []int) {
		g.power(v, x, t[0], t[1], t[2])
		g.c3("VFMADD213PS", "one", x, t[1])
		if g.vb == 64 {
			g.v3("VSCALEFPS", t[0], t[1], x)
		} else {
			g.v3("VMULPS", t[0], t[1], x)
		}
	}
	e, w := v.free[:n/2], v.delta // V(delta) becomes w^c in the form scanOn
	g.op("VMULPS (SI), %s, %s", g.v(v.delta), g.v(e[0]))
	if form == scanOn {
		g.op("VMULPS (BX), %s, %s", g.v(v.delta), g.v(v.delta))
		decay(v.delta, v.free[1:])
	}
	decay(e[0], v.free[1:])
	q := v.free[len(v.free)-1]
	update := func(i, e int) {
		g.v3("VMULPS", e, i, i)
		g.scanInput(form, i, i, v, q)
		g.scanRead(form, i, v, q)
	}
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
