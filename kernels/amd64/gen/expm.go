package main

import (
	"fmt"
	"math"
)

// An exponential for functions that add 1 to it, or whose argument is negative:
// what counts is the absolute error, so that one rounded multiple of log2 e, and a
// range that ends at normal numbers, are enough.
//
// At AVX-512, 2^t = 2^floor(t) p(t - floor(t)) for every t, without limits.
//
// At AVX2, e^-x = 2^(k/8) p(r) with k = round(-8 x log2 e) and r = x + k ln 2 / 8.
// Adding k 2^20 to the bits of a float multiplies it by 2^floor(k/8) and adds the
// k mod 8 that the table's entries have less. The ends of the range are those of
// normal numbers, and infinity where k is 1024: its product with p is infinite too.
const expmLeast, expmMost = -88.74, 87.3 // of x

func (g *gen) expmDegree() int { return map[int]int{32: 3, 64: 5}[g.vb] }

func (c *constants) expmConstants(lanes int) {
	c.values("-log2e", -math.Log2E)
	if lanes == 16 {
		for i, e := range interpolate(math.Exp2, 0, 1, 5) {
			c.values(fmt.Sprintf("m%d", i), e)
		}
		return
	}
	c.values("least", expmLeast)
	c.values("most", expmMost)
	c.values("ln2", math.Ln2)
	pow := make([]uint32, lanes)
	for i := range pow {
		pow[i] = math.Float32bits(float32(math.Exp2(float64(i)/8))) - uint32(i)<<20
	}
	c.bits("powless", pow...)
	half := math.Ln2 / 16
	for i, e := range interpolate(func(r float64) float64 { return math.Exp(-r) }, -half, half, 3) {
		c.values(fmt.Sprintf("m%d", i), e)
	}
}

// expm writes V(t[0]) = e^-V(x). x may be t[0]. NaN passes.
func (g *gen) expm(x int, t [4]int) {
	if g.vb == 64 {
		g.c3("VMULPS", "-log2e", x, t[1])
		g.exp2(t)
		return
	}
	e, u, p, q := t[0], t[1], t[2], t[3]
	g.load("least", u)
	g.v3("VMAXPS", x, u, e)
	g.load("most", u)
	g.v3("VMINPS", e, u, e)
	g.load("expmagic", u)
	g.c3("VFMADD231PS", "-log2e", e, u)
	g.lookup("powless", u, p)
	g.op("VPSLLD $20, %s, %s", g.v(u), g.v(q))
	g.v3("VPADDD", q, p, p)
	g.c3("VSUBPS", "expmagic", u, u)
	g.c3("VFMADD231PS", "ln2", u, e)
	g.expmPolynomial(e, q)
	g.v3("VMULPS", p, q, e)
}

// exp2 writes V(t[0]) = 2^V(t[1]) at AVX-512.
func (g *gen) exp2(t [4]int) {
	g.op("VREDUCEPS $9, %s, %s", g.v(t[1]), g.v(t[0])) // less its floor
	g.expmPolynomial(t[0], t[3])
	g.v3("VSCALEFPS", t[1], t[3], t[0]) // by 2^floor
}

// expmPolynomial writes V(p) = Σ m_i V(r)^i.
func (g *gen) expmPolynomial(r, p int) {
	n := g.expmDegree()
	g.load(fmt.Sprintf("m%d", n), p)
	for i := n - 1; i >= 0; i-- {
		g.c3("VFMADD213PS", fmt.Sprintf("m%d", i), r, p)
	}
}
