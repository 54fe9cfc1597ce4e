package main

import "fmt"

// outer writes OuterSumNEON: tiles of 4 or 1 rows and 16, 4 or 1 columns of the state
// stay in registers over all tokens, which are taken two at a time. Registers:
//
//	R0 R1       the state at the columns, distance of its rows
//	R2 R3       keys, their distance; R4 R5 values at the columns, their distance
//	R6 R7 R8    tokens, rows, columns left
//	R9 R10 R11  the tile in the state, rows left, keys of the tile
//	R12 R13     keys and values at the token; R14 tokens left; R15 scratch
//	V0 .. V15   the tile, row a in V(4a) to V(4a+3)
//	V16 .. V20  a token's keys and values; V21 to V25 the next one's
func (g *gen) outer() {
	g.function("OuterSumNEON", frame, "kv *float32, ldkv int, k *float32, ldk int, v *float32, ldv, tokens, rows, cols int")
	g.args("kv", "R0", "ldkv", "R1", "k", "R2", "ldk", "R3", "v", "R4", "ldv", "R5", "tokens", "R6", "rows", "R7", "cols", "R8")
	for _, r := range []int{1, 3, 5} {
		g.op("LSL $2, R%d, R%d", r, r)
	}
	g.elements("cols", "R8", func(w width) {
		g.op("MOVD R0, R9")
		g.op("MOVD R7, R10")
		g.op("MOVD R2, R11")
		for _, rows := range []int{4, 1} {
			g.outerTile(w, rows)
		}
		g.op("ADD $%d, R0, R0", w.size())
		g.op("ADD $%d, R4, R4", w.size())
	})
	g.op("RET")
}

func (g *gen) outerTile(w width, rows int) {
	id := fmt.Sprintf("%dx%d", rows, w.size()/4)
	keys := width{1, map[int]string{4: "Q", 1: "S"}[rows]}
	load := func(at int) {
		g.op("FMOV%s (R12), F%d", keys.letter, at)
		g.op("ADD R3, R12, R12")
		g.get(w, "R13", at+1)
		g.op("ADD R5, R13, R13")
	}
	add := func(at int) {
		for a := range rows {
			for c := range w.vectors {
				g.lane("FMLA", 4*a+c, at+1+c, at, a)
			}
		}
	}
	// state loads or stores the tile.
	state := func(move func(w width, p string, r int)) {
		g.op("MOVD R9, R15")
		for a := range rows {
			move(w, "R15", 4*a)
			g.op("ADD R1, R15, R15")
		}
	}
	g.p("tile%s:", id)
	g.op("SUBS $%d, R10, R10", rows)
	g.op("BLT end%s", id)
	state(g.get)
	g.op("MOVD R11, R12")
	g.op("MOVD R4, R13")
	g.pairs(id, "R6", "R14", func() {
		load(16)
		load(21)
		add(16)
		add(21)
	}, func() {
		load(16)
		add(16)
	})
	state(g.put)
	g.op("MOVD R15, R9")
	g.op("ADD $%d, R11, R11", keys.size())
	g.op("B tile%s", id)
	g.p("end%s:", id)
	g.op("ADD $%d, R10, R10", rows)
}

// rotate writes RotateNEON: sixteen channels at a time, then four, then two. With the
// pairs (a, b) of channels and (cos, sin) of the table, y is (a, b) · cos plus (b, a) ·
// (-sin, sin). Registers:
//
//	R0 R1       x and y at the channels; R2 R3 distances of tokens
//	R4          the table at the channels; R5 its step from token to token, R6 after
//	            column w-1; R7 the width of the grid; R8 channels left; R9 sum (0: none)
//	R10 R11     x and y at the token; R12 the table; R13 column; R14 tokens left; R15
//	            scale (0: none)
//	V0 .. V3 channels, V4 .. V7 table, V8 .. V11 pairs exchanged, V12 .. V15 sines,
//	V16 .. V19 sums, V20 the scale, V21 -1, 1, -1, 1
func (g *gen) rotate() {
	g.p("DATA signs<>+0(SB)/8, $0x3f800000bf800000")
	g.p("DATA signs<>+8(SB)/8, $0x3f800000bf800000")
	g.p("GLOBL signs<>(SB), RODATA|NOPTR, $16")
	g.p("")
	g.function("RotateNEON", frame, "y *float32, ldy int, x *float32, ldx int, table *float32, step, wrap, column, w, tokens, n int, scale, sum *float32")
	g.args("x", "R0", "y", "R1", "ldx", "R2", "ldy", "R3", "table", "R4", "step", "R5", "wrap", "R6", "w", "R7", "n", "R8", "sum", "R9")
	for _, r := range []int{2, 3, 5, 6} {
		g.op("LSL $2, R%d, R%d", r, r)
	}
	g.op("MOVD $signs<>(SB), R16")
	g.op("FMOVQ (R16), F21")
	for _, w := range []width{{4, "Q"}, {1, "Q"}, {1, "D"}} {
		id := fmt.Sprint(w.size() / 4)
		each := func(f func(i int)) {
			for i := range w.vectors {
				f(i)
			}
		}
		g.p("channels%s:", id)
		g.op("SUBS $%s, R8, R8", id)
		g.op("BLT end%s", id)
		g.op("MOVD R0, R10")
		g.op("MOVD R1, R11")
		g.op("MOVD R4, R12")
		g.args("column", "R13", "tokens", "R14", "scale", "R15")
		g.clear(16, w.vectors)
		g.op("PCALIGN $16")
		g.p("loop%s:", id)
		g.get(w, "R10", 0)
		g.get(w, "R12", 4)
		each(func(i int) { g.v3("FADD", 16+i, 16+i, i) })
		each(func(i int) { g.op("VREV64 V%d.S4, V%d.S4", i, 8+i) })
		each(func(i int) { g.op("VTRN2 V%d.S4, V%d.S4, V%d.S4", 4+i, 4+i, 12+i) })
		each(func(i int) { g.op("VTRN1 V%d.S4, V%d.S4, V%d.S4", 4+i, 4+i, 4+i) })
		each(func(i int) { g.v3("FMUL", 8+i, 8+i, 12+i) })
		each(func(i int) { g.v3("FMUL", i, i, 4+i) })
		each(func(i int) { g.v3("FMLA", i, 8+i, 21) })
		g.op("CBZ R15, unscaled%s", id)
		g.op("FMOVS.P 4(R15), F20")
		each(func(i int) { g.lane("FMUL", i, i, 20, 0) })
		g.p("unscaled%s:", id)
		g.put(w, "R11", 0)
		g.op("ADD R2, R10, R10")
		g.op("ADD R3, R11, R11")
		g.op("ADD R5, R12, R12")
		g.op("ADD $1, R13, R13")
		g.op("CMP R7, R13")
		g.op("BNE same%s", id)
		g.op("MOVD ZR, R13")
		g.op("ADD R6, R12, R12")
		g.p("same%s:", id)
		g.op("SUBS $1, R14, R14")
		g.op("BNE loop%s", id)
		g.op("CBZ R9, nosum%s", id)
		g.get(w, "R9", 0)
		each(func(i int) { g.v3("FADD", i, i, 16+i) })
		g.store(w, "R9", 0)
		g.p("nosum%s:", id)
		for _, r := range []int{0, 1, 4} {
			g.op("ADD $%d, R%d, R%d", w.size(), r, r)
		}
		g.op("B channels%s", id)
		g.p("end%s:", id)
		g.op("ADD $%s, R8, R8", id)
	}
	g.op("RET")
}

// inverse writes InverseNEON. Registers: R0 y, R1 x at the token, R2 distance of
// tokens, R3 the sums, R4 tokens left, R5 channels; R6 R7 R8 where the product is in x
// and the sums, channels left; V0 to V7 elements, V16 to V19 the product, V20 eps, V21
// one.
func (g *gen) inverse() {
	g.function("InverseNEON", frame, "y, x *float32, ldx int, s *float32, tokens, n int, eps float32")
	g.args("y", "R0", "x", "R1", "ldx", "R2", "s", "R3", "tokens", "R4", "n", "R5")
	g.op("LSL $2, R2, R2")
	g.op("FMOVS %s, F20", g.arg["eps"])
	g.op("FMOVS $1.0, F21")
	g.p("token:")
	g.clear(16, 4)
	g.op("MOVD R1, R6")
	g.op("MOVD R3, R7")
	g.op("MOVD R5, R8")
	g.elements("", "R8", func(w width) {
		g.load(w, "R6", 0)
		g.load(w, "R7", 4)
		for i := range w.vectors {
			g.v3("FMLA", 16+i, i, 4+i)
		}
	})
	g.reduce(16)
	g.op("FADDS F20, F16, F16")
	g.op("FDIVS F16, F21, F16")
	g.op("FMOVS.P F16, 4(R0)")
	g.op("ADD R2, R1, R1")
	g.op("SUBS $1, R4, R4")
	g.op("BNE token")
	g.op("RET")
}
