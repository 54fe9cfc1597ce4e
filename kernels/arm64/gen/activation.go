package main

import (
	"fmt"
	"math"
	"slices"
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

// constant is a value that a function uses by its name, in four lanes.
type constant struct {
	name string
	bits uint32
}

func float(name string, v float64) constant { return constant{name, math.Float32bits(float32(v))} }

const (
	expDegree = 6
	erfDegree = 15
	// 1.5 · 2^23: a small number added to it is rounded to an integer, which then lies
	// in the low bits.
	magic = 3 << 22
)

// expConstants are those of exp(sign · x), clamped to [lo, hi] before.
func expConstants(sign, lo, hi float64) []constant {
	const ln2hi = 0.693145751953125 // few bits, so that its multiples are exact
	c := []constant{float("one", 1), float("log2e", sign*math.Log2E), float("magic", magic), float("ln2hi", sign*ln2hi), float("ln2lo", sign*(math.Ln2-ln2hi))}
	if sign < 0 {
		lo, hi = -hi, -lo
	}
	c = append(c, float("lo", lo), float("hi", hi))
	// exp(r) = 1 + r + r² e(r), so that exp(0) is exactly 1
	e := interpolate(func(r float64) float64 {
		if math.Abs(r) < 1e-3 {
			return 0.5 + r/6 + r*r/24
		}
		return (math.Expm1(r) - r) / (r * r)
	}, -math.Ln2/2, math.Ln2/2, expDegree-2)
	for i, v := range append([]float64{1, 1}, e...) {
		c = append(c, float(fmt.Sprintf("c%d", i), v*math.Pow(sign, float64(i))))
	}
	return c
}

// oddConstants are those of an odd function f with f(x) = limit from some x on, and
// slope at 0: x times a polynomial in x². The clamp is the first one, from about
// where f is so close to its limit that float32 cannot tell, at which the polynomial
// reaches it.
func oddConstants(f func(float64) float64, slope, limit, clamp float64) []constant {
	for ; ; clamp += 1.0 / 256 {
		middle := float64(float32(clamp * clamp / 2))
		p := interpolate(func(s float64) float64 {
			x := math.Sqrt(s + middle)
			if x < 1e-4 {
				return slope
			}
			return f(x) / x
		}, -middle, middle, erfDegree)
		c := []constant{float("lo", -clamp), float("hi", clamp), float("limit", limit), float("-limit", -limit), float("-middle", -middle)}
		s, y := float32(clamp*clamp-middle), float32(p[erfDegree])
		for i := erfDegree - 1; i >= 0; i-- {
			y = float32(float64(y)*float64(s) + float64(float32(p[i])))
		}
		if float32(float64(y)*clamp) < float32(limit) {
			continue
		}
		for i, v := range p {
			c = append(c, float(fmt.Sprintf("c%d", i), v))
		}
		return c
	}
}

const logDegree = 4

// logConstants are the coefficients of 2 artanh(q) / q in q².
var logConstants = func() (c []constant) {
	for i, v := range interpolate(func(s float64) float64 {
		if s < 1e-8 {
			return 2 + 2*s/3
		}
		q := math.Sqrt(s)
		return 2 * math.Atanh(q) / q
	}, 0, 1.0/9, logDegree) {
		c = append(c, float(fmt.Sprintf("log%d", i), v))
	}
	return c
}()

// function is one of the vector functions, or the activation of an epilogue.
type function struct {
	name      string
	constants []constant
	inside    []string // those that lie in registers; the others are loaded where used
	body      func(f *emitter)
}

var (
	expInside = []string{"one", "log2e", "magic", "ln2hi", "ln2lo", "lo", "hi", "c6"}
	// Of exp(-x), where results below 2^-126 may be 0 and those above 2^127.5 infinite.
	sigmoid   = expConstants(-1, -88.37, 89)
	functions = []function{
		{"Relu", []constant{float("zero", 0)}, []string{"zero"}, func(f *emitter) { f.v3("FMAX", f.x, f.x, f.k("zero")) }},
		{"Silu", sigmoid, expInside, func(f *emitter) {
			f.exp(f.d, f.x)
			f.v3("FADD", f.d, f.d, f.k("one"))
			f.reciprocal(f.d)
			f.v3("FMUL", f.x, f.x, f.d)
		}},
		// x Φ(x)
		{"Gelu", append(oddConstants(func(x float64) float64 { return math.Erf(x/math.Sqrt2) / 2 }, 1/math.Sqrt(2*math.Pi), 0.5, 5.4), float("half", 0.5)),
			[]string{"lo", "hi", "limit", "-limit", "half", "c15"}, func(f *emitter) {
				f.odd(f.d, f.x)
				f.v3("FADD", f.d, f.d, f.k("half"))
				f.v3("FMUL", f.x, f.x, f.d)
			}},
		// exp(min(x, 0)) + max(x, 0)
		{"Elu1", append(expConstants(1, -88.37, 0), float("zero", 0)), append(expInside, "zero"), func(f *emitter) {
			f.v3("FMAX", f.d, f.x, f.k("zero"))
			f.exp(f.x, f.x)
			f.v3("FADD", f.x, f.x, f.d)
		}},
		{"Exp", append(expConstants(1, -104, 89), constant{"exponent", 0xFF800000}), append(expInside, "exponent"), func(f *emitter) { f.exp(f.x, f.x) }},
		{"Sigmoid", sigmoid, expInside, func(f *emitter) {
			f.exp(f.x, f.x)
			f.v3("FADD", f.x, f.x, f.k("one"))
			f.reciprocal(f.x)
		}},
		// max(x, 0) + log1p(w), w = exp(-|x|), log1p(w) = 2 artanh(w / (2 + w))
		{"Softplus", append(append(expConstants(-1, -88.37, 89), logConstants...), float("zero", 0), float("two", 2)), append(expInside, "zero", "two", "log4"), func(f *emitter) {
			for i := range f.vectors {
				f.v2("FABS", at(f.d, i), at(f.x, i))
			}
			f.v3("FMAX", f.x, f.x, f.k("zero"))
			f.exp(f.d, f.d)
			f.v3("FADD", f.c, f.d, f.k("two"))
			f.reciprocal(f.c)
			f.v3("FMUL", f.d, f.d, f.c)
			f.v3("FMUL", f.a, f.d, f.d)
			f.v3("FMLA", f.x, f.d, f.horner("log", logDegree, f.a))
		}},
		{"Erf", oddConstants(math.Erf, 2/math.Sqrt(math.Pi), 1, 3.8), []string{"lo", "hi", "limit", "-limit", "c15"}, func(f *emitter) { f.odd(f.x, f.x) }},
	}
)

// registers says where an emitter finds what: vector i is V(x+i) and has the
// temporaries V(a+i) to V(d+i); constants lie in V(kept) and on, and at R(table).
type registers struct{ x, a, b, c, d, kept, table int }

// emitter writes a function's body for some vectors at a time, each instruction for
// all of them before the next, so that a CPU that issues in order finds independent
// ones.
type emitter struct {
	*gen
	function
	registers
	vectors int
}

// emitter returns one for up to four vectors from V0 on.
func (g *gen) emitter(fn function, vectors int) *emitter {
	return &emitter{g, fn, registers{0, 4, 8, 12, 16, 20, 3}, vectors}
}

// constantTable writes the function's constants, four lanes each.
func (g *gen) constantTable(fn function) {
	for i, c := range fn.constants {
		for j := range 2 {
			g.p("DATA consts%s<>+%d(SB)/8, $0x%08x%08x", fn.name, 16*i+8*j, c.bits, c.bits)
		}
	}
	g.p("GLOBL consts%s<>(SB), RODATA|NOPTR, $%d", fn.name, 16*len(fn.constants))
}

// begin loads the constants that stay in registers.
func (f *emitter) begin() {
	f.loadTable(f.function, f.table)
	for i, name := range f.inside {
		f.op("FMOVQ %d(R%d), F%d", f.offset(name), f.table, f.kept+i)
	}
}

// tableOff is where in a table the register of its address points. Offsets from there
// are no multiples of 16, so that they become unscaled loads, which on Neoverse N1 are
// one operation where others are two.
const tableOff = 136

// loadTable makes R(r) the table of fn.
func (g *gen) loadTable(fn function, r int) {
	g.op("MOVD $consts%s<>+%d(SB), R%d", fn.name, tableOff, r)
}

// offset returns where from the table's register a constant is.
func (fn function) offset(name string) int {
	for i, c := range fn.constants {
		if c.name == name {
			return 16*i - tableOff
		}
	}
	panic("no constant " + name)
}

// k returns the register of a constant, as a negative number: it is the same for all
// vectors.
func (f *emitter) k(name string) int {
	for i, n := range f.inside {
		if n == name {
			return -(f.kept + i)
		}
	}
	panic(name + " lies in no register")
}

// at returns the register that r stands for at vector i.
func at(r, i int) int {
	if r < 0 {
		return -r
	}
	return r + i
}

func (f *emitter) v3(name string, d, n, m int) {
	for i := range f.vectors {
		f.gen.v3(name, at(d, i), at(n, i), at(m, i))
	}
}

// int3 is d = n op m on integers, in the order of Arm's manual.
func (f *emitter) int3(name string, d, n, m int, lanes string) {
	for i := range f.vectors {
		f.op("%s V%d.%s, V%d.%s, V%d.%s", name, at(m, i), lanes, at(n, i), lanes, at(d, i), lanes)
	}
}

// seed loads a constant into a register that a sum begins in: the load unit has time,
// where a move would cost one of the arithmetic units.
func (f *emitter) seed(d int, name string) {
	for i := range f.vectors {
		f.op("FMOVQ %d(R%d), F%d", f.offset(name), f.table, at(d, i))
	}
}

// horner returns the register of the polynomial of x with coefficients <name>0 to
// <name><degree>, the last one in a register, one of b and c.
func (f *emitter) horner(name string, degree, x int) int {
	p, next := f.k(fmt.Sprintf("%s%d", name, degree)), f.b
	for i := degree - 1; i >= 0; i-- {
		f.seed(next, fmt.Sprintf("%s%d", name, i))
		f.v3("FMLA", next, p, x)
		p, next = next, f.b+f.c-next
	}
	return p
}

// exp is y = exp(x), or exp(-x), by a, b and c; y may be x:
//
//	n = round(x log2 e), r = x - n ln 2, exp(x) = 2^n (1 + r + r² e(r))
//
// With the constant "exponent" there are two powers, of n/2 and of the rest, for
// results that are subnormal or overflow; else n is between -127, whose power is 0,
// and 128, whose power is infinite.
func (f *emitter) exp(y, x int) {
	f.v3("FMAX", y, x, f.k("lo"))
	f.v3("FMIN", y, y, f.k("hi"))
	f.seed(f.a, "magic")
	f.v3("FMLA", f.a, y, f.k("log2e"))
	f.v3("FSUB", f.b, f.a, f.k("magic"))
	f.v3("FMLS", y, f.b, f.k("ln2hi"))
	f.v3("FMLS", y, f.b, f.k("ln2lo"))
	p := f.horner("c", expDegree, y)
	for i := range f.vectors {
		f.op("VSHL $23, V%d.S4, V%d.S4", at(f.a, i), at(f.a, i))
	}
	if slices.Contains(f.inside, "exponent") {
		half := f.b + f.c - p
		for i := range f.vectors {
			f.word(0x4F3F0400|uint32(at(f.a, i))<<5|uint32(at(half, i)), "SSHR V%d.4S, V%d.4S, #1", at(half, i), at(f.a, i))
		}
		f.int3("VAND", half, half, f.k("exponent"), "B16")
		f.int3("VSUB", f.a, f.a, half, "S4")
		f.int3("VADD", p, p, half, "S4")
	}
	f.int3("VADD", f.a, f.a, f.k("one"), "S4")
	f.v3("FMUL", y, p, f.a)
}

// reciprocal replaces y by 1/y, by a and b: Newton's iteration takes less time than a
// division.
func (f *emitter) reciprocal(y int) {
	for i := range f.vectors {
		f.v2("FRECPE", at(f.a, i), at(y, i))
	}
	f.v3("FRECPS", f.b, f.a, y)
	f.v3("FMUL", f.a, f.a, f.b)
	f.v3("FRECPS", f.b, f.a, y)
	f.v3("FMUL", y, f.a, f.b)
}

// odd is y = an odd function of x, by a, b and c: x p(x² - middle), kept within the
// limits; y may be x.
func (f *emitter) odd(y, x int) {
	f.v3("FMAX", y, x, f.k("lo"))
	f.v3("FMIN", y, y, f.k("hi"))
	f.seed(f.a, "-middle")
	f.v3("FMLA", f.a, y, y)
	p := f.horner("c", erfDegree, f.a)
	f.v3("FMUL", y, y, p)
	f.v3("FMAX", y, y, f.k("-limit"))
	f.v3("FMIN", y, y, f.k("limit"))
}

// activations writes a function for each of functions:
//
//	for i := range n { y[i] = f(x[i]) }
//
// Registers: R0 R1 y and x, R2 elements left, R3 the constants.
func (g *gen) activations() {
	for _, fn := range functions {
		g.p("")
		g.constantTable(fn)
		g.p("")
		g.function(fn.name+"NEON", frame, "y, x *float32, n int")
		g.args("y", "R0", "x", "R1", "n", "R2")
		g.emitter(fn, 1).begin()
		g.elements("", "R2", func(w width) {
			g.load(w, "R1", 0)
			fn.body(g.emitter(fn, w.vectors))
			g.store(w, "R0", 0)
		})
		g.op("RET")
	}
}
