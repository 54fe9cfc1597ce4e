package main

import (
	"bytes"
	"fmt"
	"math"
)

// The selective scan runs a vector of channels over blocks of up to scanTokens
// tokens: ScanIn prepares three rows a token in a buffer, Scan passes over them
// with some of the states in registers, as often as the number of states asks for,
// and ScanOut writes the result.
const (
	scanTokens = 64
	scanPanel  = 64 // bytes between the states of a parameter's panel
)

// The forms of Scan; scanStates gives the numbers of states that each has a body
// for.
const (
	scanGeneral = iota // an exponential for each decay
	scanPowers         // the decays of the first states: w, w², ..
	scanOn             // the decays of later states: v, v w, v w², ..
	scanB              // general, with B in panels
	scanC              // general, with C in panels
	scanBC             // general, with both
	scanForms
)

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

// scanConstants adds the constants of scans: for n lanes
//
//	2^x = 2^floor(k/n) · (t0 + r (t1 + r (t2 + r t3))) [k mod n],  k = round(n x),  r = x - k/n
//
// t0 of k = 0 is exactly 1, since an error there would grow with every token that a
// state lives. logJ are the coefficients of 2 artanh(q) / q in q².
func (g *gen) scanConstants(c *constants) {
	n := g.vb / 4
	half := 1 / float64(2*n)
	d := interpolate(func(r float64) float64 {
		if math.Abs(r) < 1e-5 {
			return math.Ln2 + r*math.Ln2*math.Ln2/2
		}
		return math.Expm1(r*math.Ln2) / r
	}, -half, half, 2)
	for j, d := range append([]float64{1}, d...) {
		t := make([]float64, n)
		for i := range t {
			t[i] = d * math.Exp2(float64(i)/float64(n))
		}
		c.values(fmt.Sprintf("scan%d", j), t...)
	}
	// AVX2 shifts the sum's bits into an exponent, which needs its bias.
	bias := map[int]float64{32: 127, 64: 0}[g.vb]
	c.values("scanmagic", 1.5*float64(int(1)<<23)/float64(n)+bias)
	c.values("scanlo", -127)
	c.values("scanhi", 128)
	c.values("deltahi", 0x1p64)
	c.values("deltalo", -0x1p64)
	c.values("two", 2)
	for j, k := range interpolate(func(s float64) float64 {
		if s < 1e-8 {
			return 2 + 2*s/3
		}
		q := math.Sqrt(s)
		return 2 * math.Atanh(q) / q
	}, 0, 1.0/9, logDegree) {
		c.values(fmt.Sprintf("log%d", j), k)
	}
}

const logDegree = 4

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

// lanesMask makes the mask of the first CX channels, at most a vector; AX is a
// temporary.
func (g *gen) lanesMask(mask int) {
	if g.vb == 64 {
		g.op("MOVL $1, AX")
		g.op("SHLL CX, AX")
		g.op("DECL AX")
		g.op("KMOVW AX, K1")
		return
	}
	g.partMask("CX", "AX", mask)
}

// rowAt leaves the address of the row of the token at R12 in d: base + token·ld.
func (g *gen) rowAt(base, ld, d string) {
	g.op("MOVLQSX (R12), %s", d)
	g.op("IMULQ %s, %s", ld, d)
	g.op("ADDQ %s, %s", base, d)
}

// work is the address of row i of a token's work: delta, delta·u, the sum.
func (g *gen) work(i int) string { return fmt.Sprintf("%d(DI)", i*scanTokens*g.vb) }

// scanIn writes ScanIn<level>. Registers:
//
//	DI           the work of the token; R12 its place in the order; CX tokens left
//	SI R8, BX R9 delta and u and their distances of tokens; AX DX their rows
//	R10 R11      D (0: none) and softplus
//	V0 to V4     delta and temporaries; V5 u; V8 the bias, V9 D; V10 V11 the bounds
//	V7 (K1)      the mask of the channels
func (g *gen) scanIn() {
	g.p("// func ScanIn%s(work, delta *float32, lddelta int, u *float32, ldu int, bias, d *float32, order *int32, tokens, lanes, softplus int)", g.name)
	g.p("TEXT ·ScanIn%s(SB), 0, $128-88", g.name)
	g.op("MOVQ lanes+72(FP), CX")
	g.lanesMask(7)
	g.op("MOVQ work+0(FP), DI")
	g.op("MOVQ delta+8(FP), SI")
	g.op("MOVQ lddelta+16(FP), R8")
	g.op("SHLQ $2, R8")
	g.op("MOVQ u+24(FP), BX")
	g.op("MOVQ ldu+32(FP), R9")
	g.op("SHLQ $2, R9")
	g.op("VXORPS X8, X8, X8")
	g.op("MOVQ bias+40(FP), AX")
	g.op("TESTQ AX, AX")
	g.op("JZ nobias")
	g.loadTail("(AX)", 7, 8)
	g.p("nobias:")
	g.op("MOVQ d+48(FP), R10")
	g.op("TESTQ R10, R10")
	g.op("JZ nod")
	g.loadTail("(R10)", 7, 9)
	g.p("nod:")
	g.op("MOVQ order+56(FP), R12")
	g.op("MOVQ tokens+64(FP), CX")
	g.op("MOVQ softplus+80(FP), R11")
	g.load("deltalo", 10)
	g.load("deltahi", 11)
	g.op("PCALIGN $32")
	g.p("token:")
	g.rowAt("SI", "R8", "AX")
	g.rowAt("BX", "R9", "DX")
	g.loadTail("(AX)", 7, 0)
	g.loadTail("(DX)", 7, 5)
	g.v3("VADDPS", 8, 0, 0)
	g.op("TESTQ R11, R11")
	g.op("JZ delta")
	g.softplus([4]int{0, 1, 2, 3}, 4)
	g.p("delta:")
	g.v3("VMULPS", 5, 0, 1)
	g.op("VMOVUPS %s, %s", g.v(1), g.work(1))
	// The decay of an infinite delta is that of a large one: infinity minus
	// infinity would be NaN.
	g.v3("VMAXPS", 0, 10, 0)
	g.v3("VMINPS", 0, 11, 0)
	g.op("VMOVUPS %s, %s", g.v(0), g.work(0))
	g.op("VXORPS X1, X1, X1")
	g.op("TESTQ R10, R10")
	g.op("JZ sum")
	g.v3("VMULPS", 5, 9, 1)
	g.p("sum:")
	g.op("VMOVUPS %s, %s", g.v(1), g.work(2))
	g.op("ADDQ $%d, DI", g.vb)
	g.op("ADDQ $4, R12")
	g.op("DECQ CX")
	g.op("JNZ token")
	g.op("VZEROUPPER")
	g.op("RET")
}

// scanOut writes ScanOut<level>. Registers:
//
//	DI           the work of the token; R12 its place in the order; CX tokens left
//	SI R8, BX R9 y and z (0: none) and their distances of tokens; AX DX their rows
//	R10          add
//	V0 the sum, V1 z, V2 to V5 temporaries; V7 (K1) the mask of the channels
func (g *gen) scanOut() {
	g.p("// func ScanOut%s(y *float32, ldy int, z *float32, ldz int, work *float32, order *int32, tokens, lanes, add int)", g.name)
	g.p("TEXT ·ScanOut%s(SB), 0, $128-72", g.name)
	g.op("MOVQ lanes+56(FP), CX")
	g.lanesMask(7)
	g.op("MOVQ y+0(FP), SI")
	g.op("MOVQ ldy+8(FP), R8")
	g.op("SHLQ $2, R8")
	g.op("MOVQ z+16(FP), BX")
	g.op("MOVQ ldz+24(FP), R9")
	g.op("SHLQ $2, R9")
	g.op("MOVQ work+32(FP), DI")
	g.op("MOVQ order+40(FP), R12")
	g.op("MOVQ tokens+48(FP), CX")
	g.op("MOVQ add+64(FP), R10")
	g.op("PCALIGN $32")
	g.p("token:")
	g.rowAt("SI", "R8", "AX")
	g.op("VMOVUPS %s, %s", g.work(2), g.v(0))
	g.op("TESTQ BX, BX")
	g.op("JZ gated")
	g.rowAt("BX", "R9", "DX")
	g.loadTail("(DX)", 7, 1)
	g.activate("silu", 1, [4]int{2, 3, 4, 5})
	g.v3("VMULPS", 1, 0, 0)
	g.p("gated:")
	g.op("TESTQ R10, R10")
	g.op("JZ put")
	g.loadTail("(AX)", 7, 1)
	g.v3("VADDPS", 1, 0, 0)
	g.p("put:")
	if g.vb == 64 {
		g.storeTail(0, 7, "(AX)")
	} else {
		g.op("CMPQ lanes+56(FP), $8")
		g.storePart(0, 7, "(AX)")
	}
	g.op("ADDQ $%d, DI", g.vb)
	g.op("ADDQ $4, R12")
	g.op("DECQ CX")
	g.op("JNZ token")
	g.op("VZEROUPPER")
	g.op("RET")
}

// scan writes Scan<level>. Registers:
//
//	DI           the work of the token; R12 its place in the order
//	SI BX        A at the first state of the body, and at state 0 of the panel
//	R8 R10, R9 R11  B and C and their distances of tokens; AX CX their rows
//	DX R13       the state and its distance of rows; in the loop DX counts tokens
//	V0 ..        the states of the body; the others as scanVectors has them
//	K1           the mask of the channels; at AVX2 V11, outside of the loop
func (g *gen) scan() {
	g.p("// func Scan%s(state *float32, ld int, a, a0, b *float32, ldb int, c *float32, ldc int, work *float32, order *int32, tokens, lanes, states, form int)", g.name)
	g.p("TEXT ·Scan%s(SB), 0, $128-112", g.name)
	g.op("MOVQ lanes+88(FP), CX")
	g.lanesMask(11)
	g.op("MOVQ state+0(FP), DX")
	g.op("MOVQ ld+8(FP), R13")
	g.op("SHLQ $2, R13")
	g.op("MOVQ a+16(FP), SI")
	g.op("MOVQ a0+24(FP), BX")
	g.op("MOVQ b+32(FP), R8")
	g.op("MOVQ ldb+40(FP), R10")
	g.op("SHLQ $2, R10")
	g.op("MOVQ c+48(FP), R9")
	g.op("MOVQ ldc+56(FP), R11")
	g.op("SHLQ $2, R11")
	g.op("MOVQ work+64(FP), DI")
	g.op("MOVQ order+72(FP), R12")
	g.op("MOVQ states+96(FP), AX")
	g.op("MOVQ form+104(FP), CX")
	for form := range scanForms {
		next := g.label("form")
		g.op("CMPQ CX, $%d", form)
		g.op("JNE %s", next)
		for _, n := range g.scanStates(form) {
			g.op("CMPQ AX, $%d", n)
			g.op("JEQ scan%d_%d", form, n)
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

// scanVectors are the registers of a body beside its states. Tables stay in
// registers where the exponentials are many.
type scanVectors struct {
	delta, du, sum int
	magic, tables  int // the sum's constant and the first of four tables, or -1: in memory
	free           []int
}

func (g *gen) scanBody(form, n int) {
	powers := form == scanPowers || form == scanOn
	v := scanVectors{8, 9, 10, 11, -1, []int{12, 13, 14, 15}}
	if g.vb == 64 {
		v = scanVectors{16, 17, 18, 19, 20, []int{24, 25, 26, 27, 28, 29, 30, 31}}
	}
	if powers {
		v.free = append(v.free, v.magic)
		if v.tables >= 0 {
			v.free = append(v.free, v.tables)
		}
		v.magic, v.tables = -1, -1
	}
	g.p("")
	g.p("scan%d_%d:", form, n)
	g.op("MOVQ DX, AX")
	for i := range n {
		g.loadTail("(AX)", 11, i)
		g.op("ADDQ R13, AX")
	}
	if !powers {
		g.load("scanmagic", v.magic)
	}
	if v.tables >= 0 {
		for j := range 4 {
			g.op("VMOVUPS %s, %s", g.at(fmt.Sprintf("scan%d", j)), g.v(v.tables+j))
		}
	}
	g.op("MOVQ tokens+80(FP), DX")
	g.op("PCALIGN $64")
	g.p("token%d_%d:", form, n)
	if form != scanB && form != scanBC {
		g.rowAt("R8", "R10", "AX")
	}
	if form != scanC && form != scanBC {
		g.rowAt("R9", "R11", "CX")
	}
	g.op("VMOVUPS %s, %s", g.work(0), g.v(v.delta))
	g.op("VMOVUPS %s, %s", g.work(1), g.v(v.du))
	g.op("VMOVUPS %s, %s", g.work(2), g.v(v.sum))
	if powers {
		g.scanPowers(form, n, v)
	} else {
		together := min(n, len(v.free)/4)
		for i := 0; i < n; i += together {
			g.interleave(together, func(k int) {
				t := v.free[4*k : 4*k+4]
				g.op("VMULPS %d(SI), %s, %s", (i+k)*scanPanel, g.v(v.delta), g.v(t[0]))
				g.scanExp(v, i+k, t)
				g.scanUpdate(form, i+k, t[0], t[1], v)
			})
		}
	}
	g.op("VMOVUPS %s, %s", g.v(v.sum), g.work(2))
	g.op("ADDQ $%d, DI", g.vb)
	g.op("ADDQ $4, R12")
	g.op("DECQ DX")
	g.op("JNZ token%d_%d", form, n)
	g.op("MOVQ state+0(FP), DX")
	if g.vb == 32 {
		g.op("MOVQ lanes+88(FP), CX")
		g.lanesMask(11)
	}
	for i := range n {
		if g.vb == 64 {
			g.storeTail(i, 11, "(DX)")
		} else {
			g.op("CMPQ lanes+88(FP), $8")
			g.storePart(i, 11, "(DX)")
		}
		g.op("ADDQ R13, DX")
	}
	g.op("VZEROUPPER")
	g.op("RET")
}

// scanUpdate lets state i decay by V(e), adds its input and reads it out. V(q) is a
// temporary.
func (g *gen) scanUpdate(form, i, e, q int, v scanVectors) {
	switch {
	case form == scanB || form == scanBC:
		g.op("VMULPS %d(R8), %s, %s", i*scanPanel, g.v(v.du), g.v(q))
	case g.vb == 64:
		g.op("VMULPS.BCST %d(AX), %s, %s", 4*i, g.v(v.du), g.v(q))
	default:
		g.op("VBROADCASTSS %d(AX), %s", 4*i, g.v(q))
		g.v3("VMULPS", v.du, q, q)
	}
	g.v3("VFMADD213PS", q, e, i)
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

// interleave writes the instructions of part(0), part(1) .. part(n-1) in turn:
// chains of dependent instructions would fill the scheduler of the CPU if they came
// one behind the other.
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

// scanExp replaces V(t[0]) by 2 to its power, or with a state h >= 0 at AVX-512 by
// a factor that with the change of V(h) has that effect. NaN passes.
func (g *gen) scanExp(v scanVectors, h int, t []int) {
	x, u, p, q := t[0], t[1], t[2], t[3]
	table := func(j, d int) {
		if v.tables >= 0 {
			g.v3("VPERMPS", v.tables+j, u, d)
		} else {
			g.lookup(fmt.Sprintf("scan%d", j), u, d)
		}
	}
	k := q
	if g.vb == 32 {
		g.load("scanlo", p)
		g.v3("VMAXPS", x, p, x)
		g.load("scanhi", q)
		g.v3("VMINPS", x, q, x)
	} else if h < 0 {
		k = t[4]
	}
	if v.magic >= 0 {
		g.v3("VADDPS", v.magic, x, u)
		g.v3("VSUBPS", v.magic, u, k)
	} else {
		g.c3("VADDPS", "scanmagic", x, u)
		g.c3("VSUBPS", "scanmagic", u, k)
	}
	g.v3("VSUBPS", k, x, x)
	if g.vb == 64 && h >= 0 {
		g.v3("VSCALEFPS", k, h, h)
	}
	table(3, p)
	for j := 2; j >= 0; j-- {
		table(j, q)
		if j == 0 && g.vb == 64 && h >= 0 {
			g.v3("VFMADD213PS", q, p, x) // x = p x + q
			return
		}
		g.v3("VFMADD213PS", q, x, p)
	}
	if g.vb == 64 {
		g.v3("VSCALEFPS", k, p, x)
		return
	}
	g.op("VPSRLD $3, %s, %s", g.v(u), g.v(u))
	g.op("VPSLLD $23, %s, %s", g.v(u), g.v(u))
	g.v3("VMULPS", u, p, x)
}

// scanPowers makes the decays of n states, a power of two, from one exponential w
// of state 0 or, in the form scanOn, from w and that of the body's first state: c
// decays times w^c are the next c, so that a decay is a product of few. The last
// doubling is in place. w lies in V(delta).
func (g *gen) scanPowers(form, n int, v scanVectors) {
	e, q := v.free[:n/2], v.free[n/2]
	g.op("VMULPS (SI), %s, %s", g.v(v.delta), g.v(e[0]))
	if form == scanOn {
		g.op("VMULPS (BX), %s, %s", g.v(v.delta), g.v(v.delta))
		g.scanExp(v, -1, append([]int{v.delta}, v.free[1:]...))
	}
	g.scanExp(v, -1, v.free)
	g.scanUpdate(form, 0, e[0], q, v)
	for c := 1; c < n; c *= 2 {
		w := v.delta
		if form == scanPowers {
			w = e[c-1]
		}
		for k := range c {
			d := e[k]
			if c+k < len(e) {
				d = e[c+k]
			}
			g.v3("VMULPS", w, e[k], d)
			g.scanUpdate(form, c+k, d, q, v)
		}
		if form == scanOn && 2*c < n {
			g.v3("VMULPS", v.delta, v.delta, v.delta)
		}
	}
}
