package main

import (
	"fmt"
	"math"
)

// interpolate returns the coefficients of the polynomial of a degree that equals f at
// the Chebyshev nodes of [lo, hi], which is close to the best one.
func interpolate(f func(float64) float64, lo, hi float64, degree int) []float64 {
	n := degree + 1
	x, c := make([]float64, n), make([]float64, n)
	for i := range x {
		x[i] = (lo+hi)/2 + (hi-lo)/2*math.Cos(math.Pi*(float64(i)+0.5)/float64(n))
		c[i] = f(x[i])
	}
	for k := 1; k < n; k++ { // divided differences, then Newton's form multiplied out
		for i := n - 1; i >= k; i-- {
			c[i] = (c[i] - c[i-1]) / (x[i] - x[i-k])
		}
	}
	out := make([]float64, n)
	for i := n - 1; i >= 0; i-- {
		for j := n - 1; j > 0; j-- {
			out[j] = out[j-1] - x[i]*out[j]
		}
		out[0] = c[i] - x[i]*out[0]
	}
	return out
}

const (
	expDegree  = 6
	erfcDegree = 10
)

// erfcx is exp(z²) erfc(z).
func erfcx(z float64) float64 {
	if z < 20 {
		return math.Exp(z*z) * math.Erfc(z)
	}
	s := 1 / (z * z)
	return (1 - s/2 + 3*s*s/4) / (z * math.Sqrt(math.Pi))
}

// constants are what the functions load, by name.
func constants() map[string]uint32 {
	c := map[string]uint32{"bias": 127}
	f := func(name string, v float64) { c[name] = math.Float32bits(float32(v)) }
	const ln2hi = 0.693145751953125 // few bits, so that its multiples are exact
	f("lo", -104)
	f("hi", 89)
	f("log2e", math.Log2E)
	f("ln2hi", ln2hi)
	f("ln2lo", math.Ln2-ln2hi)
	f("one", 1)
	f("half", 0.5)
	f("zero", 0)
	f("rsqrt2", math.Sqrt2/2)
	f("zmax", 11) // where erfc is 0
	// exp(r) = 1 + r + r² e(r), so that exp(0) is exactly 1
	e := interpolate(func(r float64) float64 {
		if math.Abs(r) < 1e-3 {
			return 0.5 + r/6 + r*r/24
		}
		return (math.Expm1(r) - r) / (r * r)
	}, -math.Ln2/2, math.Ln2/2, expDegree-2)
	for i, v := range e {
		f(fmt.Sprintf("e%d", i), v)
	}
	// erfcx(z) = t q(t), t = 1 / (1 + z/2)
	q := interpolate(func(t float64) float64 { return erfcx(2*(1/t-1)) / t }, 1e-6, 1, erfcDegree)
	for i, v := range q {
		f(fmt.Sprintf("q%d", i), v)
	}
	return c
}

// expConsts and erfcConsts are what exp and erfc need.
var expConsts, erfcConsts = func() (e, q []string) {
	e = []string{"lo", "hi", "log2e", "ln2hi", "ln2lo", "bias", "one"}
	for i := range expDegree - 1 {
		e = append(e, fmt.Sprintf("e%d", i))
	}
	q = []string{"half", "zmax"}
	for i := range erfcDegree + 1 {
		q = append(q, fmt.Sprintf("q%d", i))
	}
	return e, append(q, e...)
}()

// functions are the vector functions: each body replaces V0 and may use V1 to V7.
var functions = []struct {
	name   string
	consts []string
	body   func(f *function)
}{
	{"Relu", []string{"zero"}, func(f *function) { f.v3("FMAX", 0, 0, f.c("zero")) }},
	{"Exp", expConsts, func(f *function) { f.exp(0) }},
	{"Sigmoid", expConsts, func(f *function) {
		f.v2("FNEG", 0, 0)
		f.exp(0)
		f.v3("FADD", 0, 0, f.c("one"))
		f.v3("FDIV", 0, f.c("one"), 0)
	}},
	{"Silu", expConsts, func(f *function) {
		f.op("VMOV V0.B16, V6.B16")
		f.v2("FNEG", 0, 0)
		f.exp(0)
		f.v3("FADD", 0, 0, f.c("one"))
		f.v3("FDIV", 0, 6, 0)
	}},
	// exp(min(x, 0)) + max(x, 0)
	{"Elu1", append([]string{"zero"}, expConsts...), func(f *function) {
		f.v3("FMAX", 6, 0, f.c("zero"))
		f.v3("FMIN", 0, 0, f.c("zero"))
		f.exp(0)
		f.v3("FADD", 0, 0, 6)
	}},
	// 1 - erfc|x| with the sign of x
	{"Erf", erfcConsts, func(f *function) {
		f.op("VMOV V0.B16, V6.B16")
		f.v2("FABS", 7, 0)
		f.erfc()
		f.v3("FSUB", 0, f.c("one"), 0)
		f.op("VMOVI $0x80, V1.B16") // the sign's bit of each float
		f.op("VSHL $24, V1.S4, V1.S4")
		f.op("VBIT V1.B16, V6.B16, V0.B16")
	}},
	// x Φ(x): Φ = erfc(|x|/√2) / 2 where x is negative, else 1 minus that
	{"Gelu", append([]string{"rsqrt2", "zero"}, erfcConsts...), func(f *function) {
		f.op("VMOV V0.B16, V6.B16")
		f.v2("FABS", 7, 0)
		f.v3("FMUL", 7, 7, f.c("rsqrt2"))
		f.erfc()
		f.v3("FMUL", 0, 0, f.c("half"))
		f.v3("FSUB", 1, f.c("one"), 0)
		f.v3("FCMGT", 2, f.c("zero"), 6)
		f.op("VBIF V2.B16, V1.B16, V0.B16")
		f.v3("FMUL", 0, 0, 6)
	}},
}

// function is one vector function. Its constants lie in V8 and on; those that find
// no room are loaded into V5 where they are used.
type function struct {
	*gen
	consts []string
}

const constRegisters = 24

// c returns the register of a constant.
func (f *function) c(name string) int {
	for i, c := range f.consts {
		switch {
		case c != name:
		case i < constRegisters:
			return 8 + i
		default:
			f.op("ADD $%d, R3, R4", 4*i)
			f.op("VLD1R (R4), [V5.S4]")
			return 5
		}
	}
	panic("no constant " + name)
}

// horner leaves the polynomial of V(x) whose coefficients are name0 to name<degree>
// in V2, by V3.
func (f *function) horner(name string, degree, x int) {
	f.op("VMOV V%d.B16, V2.B16", f.c(fmt.Sprintf("%s%d", name, degree)))
	for i := degree - 1; i >= 0; i-- {
		f.op("VMOV V%d.B16, V3.B16", f.c(fmt.Sprintf("%s%d", name, i)))
		f.v3("FMLA", 3, 2, x)
		f.op("VMOV V3.B16, V2.B16")
	}
}

// exp replaces V(x) by its exponential, by V1 to V3:
//
//	n = round(x log2 e), r = x - n ln 2, exp(x) = (1 + r + r² e(r)) 2^(n/2) 2^(n - n/2)
//
// in two powers, for results that are subnormal or overflow.
func (f *function) exp(x int) {
	f.v3("FMAX", x, x, f.c("lo"))
	f.v3("FMIN", x, x, f.c("hi"))
	f.v3("FMUL", 1, x, f.c("log2e"))
	f.v2("FRINTN", 1, 1)
	f.v3("FMLS", x, 1, f.c("ln2hi"))
	f.v3("FMLS", x, 1, f.c("ln2lo"))
	f.v2("FCVTNS", 1, 1)
	f.horner("e", expDegree-2, x)
	f.v3("FMUL", 2, 2, x) // r e(r)
	f.op("VMOV V%d.B16, V3.B16", x)
	f.v3("FMLA", 3, 2, x) // r + r² e(r)
	f.v3("FADD", x, 3, f.c("one"))
	f.word(0x4F3F0400|1<<5|2, "SSHR V2.4S, V1.4S, #1")
	f.op("VSUB V2.S4, V1.S4, V1.S4")
	for _, n := range []int{1, 2} {
		f.op("VADD V%d.S4, V%d.S4, V%d.S4", f.c("bias"), n, n)
		f.op("VSHL $23, V%d.S4, V%d.S4", n, n)
		f.v3("FMUL", x, x, n)
	}
}

// erfc leaves erfc(V7), V7 not negative, in V0, by V1 to V5: exp(-z²) t q(t), times
// what the rounding of z² took from it.
func (f *function) erfc() {
	f.v3("FMIN", 7, 7, f.c("zmax"))
	f.v3("FMUL", 0, 7, 7)
	f.v2("FNEG", 4, 0)
	f.v3("FMLA", 4, 7, 7) // z² - round(z²)
	f.v2("FNEG", 0, 0)
	f.exp(0)
	f.v3("FMLS", 0, 0, 4)
	f.op("VMOV V%d.B16, V1.B16", f.c("one"))
	f.v3("FMLA", 1, 7, f.c("half"))
	f.v3("FDIV", 1, f.c("one"), 1) // t
	f.horner("q", erfcDegree, 1)
	f.v3("FMUL", 2, 2, 1)
	f.v3("FMUL", 0, 0, 2)
}

// activations writes a function for each of functions:
//
//	for i := range n { y[i] = f(x[i]) }
//
// Registers: R0 R1 y and x, R2 elements left, R3 the constants.
func (g *gen) activations() {
	values := constants()
	for _, v := range functions {
		f := &function{g, v.consts}
		g.p("")
		for i, c := range v.consts {
			g.p("DATA consts%s<>+%d(SB)/4, $0x%08x", v.name, 4*i, values[c])
		}
		g.p("GLOBL consts%s<>(SB), RODATA|NOPTR, $%d", v.name, 4*len(v.consts))
		g.p("")
		g.p("// func %sNEON(y, x *float32, n int)", v.name)
		g.p("TEXT ·%sNEON(SB), 0, $128-24", v.name)
		g.op("MOVD y+0(FP), R0")
		g.op("MOVD x+8(FP), R1")
		g.op("MOVD n+16(FP), R2")
		g.op("MOVD $consts%s<>(SB), R3", v.name)
		g.op("MOVD R3, R4")
		for i := range min(constRegisters, len(v.consts)) {
			g.op("VLD1R.P 4(R4), [V%d.S4]", 8+i)
		}
		g.op("SUBS $4, R2, R2")
		g.op("BLT tail")
		g.p("vector:")
		g.op("VLD1.P 16(R1), [V0.S4]")
		v.body(f)
		g.op("VST1.P [V0.S4], 16(R0)")
		g.op("SUBS $4, R2, R2")
		g.op("BGE vector")
		g.p("tail:")
		g.op("ADDS $4, R2, R2")
		g.op("BEQ end")
		g.p("one:")
		g.op("FMOVS.P 4(R1), F0")
		v.body(f)
		g.op("FMOVS.P F0, 4(R0)")
		g.op("SUBS $1, R2, R2")
		g.op("BNE one")
		g.p("end:")
		g.op("RET")
	}
}
