package main

import "fmt"

// reduce adds the lanes of V(a) to V(a+3) into all lanes of V(a).
func (g *gen) reduce(a int) {
	g.v3("FADD", a, a, a+1)
	g.v3("FADD", a+2, a+2, a+3)
	g.v3("FADD", a, a, a+2)
	g.v3("FADDP", a, a, a)
	g.v3("FADDP", a, a, a)
}

func (g *gen) clear(from, n int) {
	for i := range n {
		g.op("VEOR V%d.B16, V%d.B16, V%d.B16", from+i, from+i, from+i)
	}
}

// layernorm writes LayerNormNEON. Mean and variance are two passes over a row, which
// lies in the L1 cache. Registers: R0 R1 the rows of y and x, R2 R3 their distances,
// R4 rows left, R5 elements, R6 R7 gamma and beta, R8 centre; R9 to R13 where a pass
// is in x, y, gamma and beta and what it has left; V0 to V7 elements, V16 to V19 sums,
// V20 the number of elements, V21 mean, V22 1/sqrt, V23 eps, V24 one.
func (g *gen) layernorm() {
	g.function("LayerNormNEON", frame, "y *float32, ldy int, x *float32, ldx, rows, c int, gamma, beta *float32, eps float32, centre int")
	g.args("y", "R0", "ldy", "R2", "x", "R1", "ldx", "R3", "rows", "R4", "c", "R5", "gamma", "R6", "beta", "R7", "centre", "R8")
	g.op("LSL $2, R2, R2")
	g.op("LSL $2, R3, R3")
	g.op("FMOVS %s, F23", g.arg["eps"])
	g.op("SCVTFS R5, F20")
	g.op("VDUP V20.S[0], V20.S4")
	g.op("FMOVS $1.0, F24")
	g.p("row:")
	g.op("SUBS $1, R4, R4")
	g.op("BLT end")
	g.clear(21, 1)
	g.op("CBZ R8, centred")
	g.clear(16, 4)
	g.op("MOVD R1, R9")
	g.op("MOVD R5, R13")
	g.elements("sum", "R13", func(w width) {
		g.load(w, "R9", 0)
		for i := range w.vectors {
			g.v3("FADD", 16+i, 16+i, i)
		}
	})
	g.reduce(16)
	g.v3("FDIV", 21, 16, 20)
	g.p("centred:")
	g.clear(16, 4)
	g.op("MOVD R1, R9")
	g.op("MOVD R5, R13")
	g.elements("dev", "R13", func(w width) {
		g.load(w, "R9", 0)
		for i := range w.vectors {
			if w.letter == "S" {
				g.op("FSUBS F21, F0, F0") // clears the other lanes
			} else {
				g.v3("FSUB", i, i, 21)
			}
		}
		for i := range w.vectors {
			g.v3("FMLA", 16+i, i, i)
		}
	})
	g.reduce(16)
	g.op("FDIVS F20, F16, F16")
	g.op("FADDS F23, F16, F16")
	g.op("FSQRTS F16, F16")
	g.op("FDIVS F16, F24, F16")
	g.op("VDUP V16.S[0], V22.S4")
	for i, r := range []string{"R1", "R0", "R6", "R7", "R5"} {
		g.op("MOVD %s, R%d", r, 9+i)
	}
	g.elements("put", "R13", func(w width) {
		g.load(w, "R9", 0)
		for i := range w.vectors {
			g.v3("FSUB", i, i, 21)
		}
		for i := range w.vectors {
			g.v3("FMUL", i, i, 22)
		}
		for i, op := range []string{"FMUL", "FADD"} {
			skip := fmt.Sprint("no", op, w.size()/4)
			g.op("CBZ R%d, %s", 6+i, skip)
			g.load(w, []string{"R11", "R12"}[i], 4)
			for i := range w.vectors {
				g.v3(op, i, i, 4+i)
			}
			g.p("%s:", skip)
		}
		g.store(w, "R10", 0)
	})
	g.op("ADD R3, R1, R1")
	g.op("ADD R2, R0, R0")
	g.op("B row")
	g.p("end:")
	g.op("RET")
}

// meanrows writes MeanRowsNEON: sixteen columns at a time, then four, then one by one,
// and two sums of each. Registers: R0 R1 y and x at the columns, R2 distance of rows,
// R3 rows, R4 columns left, R5 the row, R6 rows left; V0 to V3 and V4 to V7 sums, V8 to
// V15 two rows, V16 the scale.
func (g *gen) meanrows() {
	g.function("MeanRowsNEON", frame, "y, x *float32, ldx, rows, cols int, scale float32")
	g.args("y", "R0", "x", "R1", "ldx", "R2", "rows", "R3", "cols", "R4")
	g.op("LSL $2, R2, R2")
	g.op("FMOVS %s, F16", g.arg["scale"])
	g.op("VDUP V16.S[0], V16.S4")
	g.elements("", "R4", func(w width) {
		row := func(i int) {
			g.get(w, "R5", 8+4*i)
			g.op("ADD R2, R5, R5")
		}
		add := func(sum int) {
			for i := range w.vectors {
				g.v3("FADD", sum+i, sum+i, 8+sum+i)
			}
		}
		g.clear(0, 8)
		g.op("MOVD R1, R5")
		g.pairs(fmt.Sprint("rows", w.size()/4), "R3", "R6", func() {
			row(0)
			row(1)
			add(0)
			add(4)
		}, func() {
			row(0)
			add(0)
		})
		for i := range w.vectors {
			g.v3("FADD", i, i, 4+i)
			g.v3("FMUL", i, i, 16)
		}
		g.store(w, "R0", 0)
		g.op("ADD $%d, R1, R1", w.size())
	})
	g.op("RET")
}
