package main

import (
	"bytes"
	"fmt"
	"math"
)

// A constant is repeated over 32 bytes, so that AVX2 can use it as an operand;
// a table has one entry for each lane of its level.
type constants struct {
	data    []uint32
	offsets map[string]int
}

func (c *constants) bits(name string, b ...uint32) {
	c.offsets[name] = 4 * len(c.data)
	for len(b) < 8 {
		b = append(b, b...)
	}
	c.data = append(c.data, b...)
}

func (c *constants) values(name string, v ...float64) {
	var b []uint32
	for _, x := range v {
		b = append(b, math.Float32bits(float32(x)))
	}
	c.bits(name, b...)
}

// interpolate returns the coefficients of the polynomial of the given degree
// that equals f at the Chebyshev nodes of [a, b], which is within a few percent
// of the best one.
func interpolate(f func(float64) float64, a, b float64, degree int) []float64 {
	n := degree + 1
	m := make([][]float64, n) // Vandermonde matrix and right-hand side
	for i := range m {
		x := (a+b)/2 + (b-a)/2*math.Cos(math.Pi*(float64(i)+0.5)/float64(n))
		m[i] = make([]float64, n+1)
		for j := range n {
			m[i][j] = math.Pow(x, float64(j))
		}
		m[i][n] = f(x)
	}
	for i := range n {
		pivot := i
		for r := i; r < n; r++ {
			if math.Abs(m[r][i]) > math.Abs(m[pivot][i]) {
				pivot = r
			}
		}
		m[i], m[pivot] = m[pivot], m[i]
		for r := range n {
			if q := m[r][i] / m[i][i]; r != i {
				for c := i; c <= n; c++ {
					m[r][c] -= q * m[i][c]
				}
			}
		}
	}
	out := make([]float64, n)
	for i := range out {
		out[i] = m[i][n] / m[i][i]
	}
	return out
}

// The two tables of a level with n lanes, looked up with VPERMPS by the low bits
// of a float to which a large number was added:
//
//	exp(x) = 2^(k/n) (1 + r + r² (e2 + e3 r + ..)),  k = round(n x / ln 2),  r = x - k ln 2 / n
//	Φ(x) - 1/2 = p_i(|x| - i w) for |x| nearest to i w; the last piece is constant 1/2
//
// From phiEnd on, x (1 - Φ(x)) is below 4.1e-7.
const phiEnd = 5.26

func (g *gen) phiDegree() int { return map[int]int{32: 6, 64: 5}[g.vb] }
func (g *gen) expDegree() int { return map[int]int{32: 4, 64: 3}[g.vb] }

func (g *gen) constants() *constants {
	c := &constants{offsets: map[string]int{}}
	n := g.vb / 4
	c.values("lo", -104)
	c.values("hi", 89)
	c.values("log2e", math.Log2E)
	c.values("ln2", math.Ln2)
	c.values("ln2hi", 0.693359375) // 10 bits: k·ln2hi is exact
	c.values("ln2lo", math.Ln2-0.693359375)
	c.values("expmagic", 1.5*float64(int(1)<<23)/float64(n)) // the last bit is worth 1/n
	pow := make([]float64, n)
	for i := range pow {
		pow[i] = math.Exp2(float64(i) / float64(n))
	}
	c.values("pow", pow...)
	half := math.Ln2 / float64(2*n)
	for i, e := range interpolate(func(x float64) float64 {
		if math.Abs(x) < 1e-4 {
			return 0.5 + x/6 + x*x/24
		}
		return (math.Expm1(x) - x) / (x * x)
	}, -half, half, g.expDegree()-2) {
		c.values(fmt.Sprintf("e%d", i+2), e)
	}
	w := math.Ceil(phiEnd/(float64(n)-1.5)*256) / 256 // short, so that i w is exact
	c.values("phiscale", 1/w)
	c.values("phiwidth", w)
	c.values("phimost", float64(n-1)*w)
	c.values("phimagic", 1.5*float64(1<<23))
	p := make([][]float64, g.phiDegree()+1)
	for i := range n {
		at := float64(i) * w
		k := make([]float64, len(p))
		switch {
		case i == n-1:
			k[0] = 0.5
		default:
			from := -w / 2
			if i == 0 {
				from = 0
			}
			k = interpolate(func(d float64) float64 { return math.Erf((at+d)/math.Sqrt2) / 2 }, from, w/2, g.phiDegree())
		}
		for j := range p {
			p[j] = append(p[j], k[j])
		}
	}
	for j := range p {
		c.values(fmt.Sprintf("phi%d", j), p[j]...)
	}
	c.values("one", 1)
	c.values("half", 0.5)
	c.values("sqrt2", math.Sqrt2)
	c.values("zeros", make([]float64, 16)...)
	c.bits("sign", 0x80000000)
	c.bits("abs", 0x7fffffff)
	c.bits("bias127", 127)
	g.scanConstants(c)
	return c
}

// writeConstants writes the symbols that the level's functions share.
func (g *gen) writeConstants() {
	g.p("")
	for i, c := range g.consts.data {
		g.p("DATA ·consts%s+%d(SB)/4, $0x%08x", g.name, 4*i, c)
	}
	g.p("GLOBL ·consts%s(SB), RODATA|NOPTR, $%d", g.name, 4*len(g.consts.data))
	if g.vb == 32 {
		// The masks of partial vectors: n set lanes begin at 32-4n bytes.
		for i := range 16 {
			v := 0
			if i < 8 {
				v = -1
			}
			g.p("DATA ·tails%s+%d(SB)/4, $%d", g.name, 4*i, v)
		}
		g.p("GLOBL ·tails%s(SB), RODATA|NOPTR, $64", g.name)
	}
}

func (g *gen) at(name string) string {
	off, ok := g.consts.offsets[name]
	if !ok {
		panic("no constant " + name)
	}
	return fmt.Sprintf("·consts%s+%d(SB)", g.name, off)
}

// c3 writes a three-operand instruction whose first operand is a constant.
func (g *gen) c3(op, name string, a, d int) {
	if g.vb == 64 {
		op += ".BCST"
	}
	g.op("%s %s, %s, %s", op, g.at(name), g.v(a), g.v(d))
}

func (g *gen) load(name string, d int) {
	if g.vb == 64 {
		g.op("VBROADCASTSS %s, %s", g.at(name), g.v(d))
	} else {
		g.op("VMOVUPS %s, %s", g.at(name), g.v(d))
	}
}

// bitwise writes V(d) = V(a) op constant.
func (g *gen) bitwise(op, name string, a, d int) {
	if g.vb == 64 {
		op += "D"
	}
	g.c3(op, name, a, d)
}

// v3 writes a three-operand instruction on registers.
func (g *gen) v3(op string, a, b, d int) { g.op("%s %s, %s, %s", op, g.v(a), g.v(b), g.v(d)) }

// lookup writes V(d) = table[low bits of V(i)].
func (g *gen) lookup(table string, i, d int) {
	g.op("VPERMPS %s, %s, %s", g.at(table), g.v(i), g.v(d))
}

// exp replaces V(t[0]) by its exponential. Arguments are clamped where the
// result is 0 or infinite anyway, from above only if the caller has not; NaN
// passes, being the second operand. One constant for ln 2 leaves a relative
// error of 3e-9 |x|, for activations; two leave none.
func (g *gen) exp(t [4]int, above, exact bool) {
	x, u, p, q := t[0], t[1], t[2], t[3]
	g.load("lo", u)
	g.v3("VMAXPS", x, u, x)
	if above {
		g.load("hi", u)
		g.v3("VMINPS", x, u, x)
	}
	g.load("expmagic", u)
	g.c3("VFMADD231PS", "log2e", x, u)
	g.lookup("pow", u, p)
	g.c3("VSUBPS", "expmagic", u, u)
	if exact {
		g.c3("VFNMADD231PS", "ln2hi", u, x)
		g.c3("VFNMADD231PS", "ln2lo", u, x)
	} else {
		g.c3("VFNMADD231PS", "ln2", u, x)
	}
	g.load(fmt.Sprintf("e%d", g.expDegree()), q)
	for i := g.expDegree() - 1; i >= 2; i-- {
		g.c3("VFMADD213PS", fmt.Sprintf("e%d", i), x, q)
	}
	g.c3("VFMADD213PS", "one", x, q)
	g.v3("VMULPS", x, q, q)
	g.v3("VFMADD213PS", p, p, q)
	if g.vb == 64 {
		g.v3("VSCALEFPS", u, q, x) // by 2^floor(u)
		return
	}
	// 2^floor(u) in two factors, since it reaches beyond the exponents of normal
	// numbers.
	g.op("VROUNDPS $9, %s, %s", g.v(u), g.v(u))
	g.op("VCVTPS2DQ %s, %s", g.v(u), g.v(u))
	g.op("VPSRAD $1, %s, %s", g.v(u), g.v(p))
	g.v3("VPSUBD", p, u, u)
	for _, r := range []int{u, p} {
		g.c3("VPADDD", "bias127", r, r)
		g.op("VPSLLD $23, %s, %s", g.v(r), g.v(r))
	}
	g.v3("VMULPS", u, q, q)
	g.v3("VMULPS", p, q, x)
}

// phi leaves Φ(|x|) - 1/2 in V(t[3]) for |x| in V(t[0]), which it destroys. NaN
// passes.
func (g *gen) phi(t [4]int) {
	x, u, c, p := t[0], t[1], t[2], t[3]
	g.load("phimost", u)
	g.v3("VMINPS", x, u, x)
	g.load("phimagic", u)
	g.c3("VFMADD231PS", "phiscale", x, u)
	g.c3("VSUBPS", "phimagic", u, c)
	g.c3("VFNMADD231PS", "phiwidth", c, x)
	n := g.phiDegree()
	g.lookup(fmt.Sprintf("phi%d", n), u, p)
	for j := n - 1; j >= 0; j-- {
		g.lookup(fmt.Sprintf("phi%d", j), u, c)
		g.v3("VFMADD213PS", c, x, p)
	}
}

// negate writes V(d) = -V(x).
func (g *gen) negate(x, d int) { g.bitwise("VPXOR", "sign", x, d) }

// bodies are the vector functions: each replaces V(x), with four temporaries.
var bodies = map[string]func(g *gen, x int, t [4]int){
	"": func(*gen, int, [4]int) {},
	"relu": func(g *gen, x int, t [4]int) {
		g.op("VXORPS X%d, X%d, X%d", t[0], t[0], t[0])
		g.v3("VMAXPS", x, t[0], x)
	},
	"silu": func(g *gen, x int, t [4]int) {
		g.negate(x, t[0])
		g.exp(t, true, false)
		g.c3("VADDPS", "one", t[0], t[0])
		g.v3("VDIVPS", t[0], x, x)
	},
	// x/2 + |x| (Φ(|x|) - 1/2): where x is negative, the terms cancel exactly as
	// far as the table is exact.
	"gelu": func(g *gen, x int, t [4]int) {
		g.bitwise("VPAND", "abs", x, t[0])
		g.phi(t)
		g.bitwise("VPAND", "abs", x, t[0])
		g.c3("VMULPS", "half", x, x)
		g.v3("VFMADD231PS", t[0], t[3], x)
	},
	// exp(min(x, 0)) + max(x, 0)
	"elu1": func(g *gen, x int, t [4]int) {
		g.op("VXORPS X%d, X%d, X%d", t[1], t[1], t[1])
		g.v3("VMINPS", x, t[1], t[0])
		g.v3("VMAXPS", x, t[1], x)
		g.exp(t, false, false)
		g.v3("VADDPS", t[0], x, x)
	},
	"exp": func(g *gen, x int, t [4]int) {
		t[0], x = x, t[0]
		g.exp(t, true, true)
	},
	"sigmoid": func(g *gen, x int, t [4]int) {
		g.negate(x, t[0])
		g.exp(t, true, false)
		g.c3("VADDPS", "one", t[0], t[0])
		g.load("one", x)
		g.v3("VDIVPS", t[0], x, x)
	},
	"softplus": func(g *gen, x int, t [4]int) { g.softplus([4]int{x, t[0], t[1], t[2]}, t[3]) },
	// 2 (Φ(√2 |x|) - 1/2) with the sign of x
	"erf": func(g *gen, x int, t [4]int) {
		g.c3("VMULPS", "sqrt2", x, t[0])
		g.bitwise("VPAND", "abs", t[0], t[0])
		g.phi(t)
		g.v3("VADDPS", t[3], t[3], t[3])
		g.bitwise("VPAND", "sign", x, t[0])
		g.v3("VPOR"+g.d(), t[0], t[3], x)
	},
}

// d is the suffix of EVEX bitwise instructions.
func (g *gen) d() string {
	if g.vb == 64 {
		return "D"
	}
	return ""
}

func (g *gen) activate(name string, x int, t [4]int) { bodies[name](g, x, t) }

// activations writes one function a level for each vector function:
//
//	for r := range rows { for c := range cols { y[r*ldy+c] = f(x[r*ldx+c]) } }
//
// Registers: DI SI the rows of y and x, R8 R9 the distances between rows in
// bytes, R10 rows left, CX elements left in a row, AX BX positions; V0 the
// vector, V1 to V4 temporaries; V7 (K1) the mask of a row's end.
func (g *gen) activations() {
	for _, name := range []string{"relu", "silu", "gelu", "elu1", "exp", "sigmoid", "erf", "softplus"} {
		g.activation(name)
	}
}

func (g *gen) activation(name string) {
	body := func() { g.activate(name, 0, [4]int{1, 2, 3, 4}) }
	title := string(bytes.ToUpper([]byte(name[:1]))) + name[1:]
	g.p("")
	g.p("// func %s%s(y *float32, ldy int, x *float32, ldx, rows, cols int)", title, g.name)
	g.p("TEXT ·%s%s(SB), 0, $128-48", title, g.name)
	g.op("MOVQ y+0(FP), DI")
	g.op("MOVQ ldy+8(FP), R8")
	g.op("SHLQ $2, R8")
	g.op("MOVQ x+16(FP), SI")
	g.op("MOVQ ldx+24(FP), R9")
	g.op("SHLQ $2, R9")
	g.op("MOVQ rows+32(FP), R10")
	lanes := g.vb / 4
	g.op("MOVQ cols+40(FP), CX")
	g.tailMask("CX", "AX", 7)
	g.p("row:")
	g.op("SUBQ $1, R10")
	g.op("JLT end")
	g.op("MOVQ SI, AX")
	g.op("MOVQ DI, BX")
	g.op("MOVQ cols+40(FP), CX")
	g.op("SUBQ $%d, CX", lanes)
	g.op("JLT tail")
	g.op("PCALIGN $32")
	g.p("vector:")
	g.op("VMOVUPS (AX), %s", g.v(0))
	body()
	g.op("VMOVUPS %s, (BX)", g.v(0))
	g.op("ADDQ $%d, AX", g.vb)
	g.op("ADDQ $%d, BX", g.vb)
	g.op("SUBQ $%d, CX", lanes)
	g.op("JGE vector")
	g.p("tail:")
	g.op("ADDQ $%d, CX", lanes)
	g.op("JZ rowend")
	g.loadTail("(AX)", 7, 0)
	body()
	g.storeTail(0, 7, "(BX)")
	g.p("rowend:")
	g.op("ADDQ R9, SI")
	g.op("ADDQ R8, DI")
	g.op("JMP row")
	g.p("end:")
	g.op("VZEROUPPER")
	g.op("RET")
}

// tailMask makes the mask of n mod lanes elements, n in register n, which it
// destroys: K1, or V(mask) at AVX2.
func (g *gen) tailMask(n, tmp string, mask int) {
	g.op("ANDQ $%d, %s", g.vb/4-1, n)
	g.partMask(n, tmp, mask)
}

// partMask makes the mask of n elements, fewer than a vector has. n must be CX at
// AVX-512, for the shift.
func (g *gen) partMask(n, tmp string, mask int) {
	if g.vb == 64 {
		g.op("MOVL $1, %s", tmp)
		g.op("SHLL %s, %s", n, tmp)
		g.op("DECL %s", tmp)
		g.op("KMOVW %s, K1", tmp)
		return
	}
	g.op("NEGQ %s", n)
	g.op("LEAQ ·tails%s+32(SB), %s", g.name, tmp)
	g.op("VMOVUPS (%s)(%s*4), %s", tmp, n, g.v(mask))
}

// loadTail and storeTail move the elements of the mask; the others load as 0.
func (g *gen) loadTail(at string, mask, d int) {
	if g.vb == 64 {
		g.op("VMOVUPS.Z %s, K1, Z%d", at, d)
	} else {
		g.op("VMASKMOVPS %s, Y%d, Y%d", at, mask, d)
	}
}

func (g *gen) storeTail(s, mask int, at string) {
	if g.vb == 64 {
		g.op("VMOVUPS Z%d, K1, %s", s, at)
	} else {
		g.op("VMASKMOVPS Y%d, Y%d, %s", s, mask, at)
	}
}
