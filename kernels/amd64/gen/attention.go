package main

import "fmt"

// outer writes OuterSum<level>. Registers:
//
//	AX BX        keys and values at the current token; R8 R9 the distances of tokens
//	CX           tokens left; DX the distance of rows of the state
//	DI R10       the tile's first row in the state; rows left; SI its first key
//	V0 V1        the values of a token; V2 (V3) a key, broadcast
//	then         the tile, two vectors a row
//	K1 K2 (V14 V15) the masks of two vectors of columns that are not whole
func (g *gen) outer() {
	mr, masked := g.outerRows(false), g.outerRows(true)
	g.p("// func OuterSum%s(kv *float32, ldkv int, k *float32, ldk int, v *float32, ldv, tokens, rows, cols int)", g.name)
	g.p("TEXT ·OuterSum%s(SB), 0, $128-72", g.name)
	g.op("MOVQ kv+0(FP), DI")
	g.op("MOVQ ldkv+8(FP), DX")
	g.op("SHLQ $2, DX")
	g.op("MOVQ k+16(FP), SI")
	g.op("MOVQ ldk+24(FP), R8")
	g.op("SHLQ $2, R8")
	g.op("MOVQ ldv+40(FP), R9")
	g.op("SHLQ $2, R9")
	g.op("MOVQ rows+56(FP), R10")
	g.op("MOVQ cols+64(FP), CX")
	lanes := g.vb / 4
	g.op("CMPQ CX, $%d", 2*lanes)
	g.op("JEQ whole")
	if g.vb == 64 {
		g.op("MOVQ $-1, AX")
		g.op("SHLQ CX, AX")
		g.op("NOTQ AX")
		g.op("KMOVW AX, K1")
		g.op("SHRQ $16, AX")
		g.op("KMOVW AX, K2")
	} else {
		g.op("LEAQ ·tailsAVX2+32(SB), AX")
		for c := range 2 {
			// Lanes of this vector: CX - 8c, at least 0 and at most 8.
			g.op("MOVQ CX, BX")
			g.op("SUBQ $%d, BX", c*lanes)
			g.op("MOVQ $0, R11")
			g.op("CMOVQLT R11, BX")
			g.op("MOVQ $%d, R11", lanes)
			g.op("CMPQ BX, R11")
			g.op("CMOVQGT R11, BX")
			g.op("NEGQ BX")
			g.op("VMOVUPS (AX)(BX*4), Y%d", 14+c)
		}
	}
	for _, whole := range []bool{false, true} {
		name, most := "part", masked
		if whole {
			name, most = "whole", mr
		}
		g.p("%s:", name)
		g.op("MOVQ SI, AX")
		g.op("MOVQ v+32(FP), BX")
		g.op("MOVQ tokens+48(FP), CX")
		g.op("CMPQ R10, $%d", most)
		g.op("JEQ %s%d", name, most)
		if low := map[int]int{32: 4, 64: 2}[g.vb]; whole {
			// The last two tiles are of nearly equal height where a low one would wait
			// for its own sums.
			g.op("CMPQ R10, $%d", most+low)
			g.op("JGE %s%d", name, most)
			for m := most + low - 1; m > most; m-- {
				g.op("CMPQ R10, $%d", m)
				g.op("JEQ %s%d", name, (m+1)/2)
			}
		} else {
			g.op("JGE %s%d", name, most)
		}
		for m := most - 1; m >= 1; m-- {
			g.op("CMPQ R10, $%d", m)
			g.op("JEQ %s%d", name, m)
		}
		g.op("VZEROUPPER")
		g.op("RET")
		for m := most; m >= 1; m-- {
			g.outerTile(name, m, whole)
		}
	}
}

func (g *gen) outerTile(name string, m int, whole bool) {
	keys := 1 // registers
	if g.vb == 64 {
		keys = 2
	}
	acc := func(r, c int) int { return 2 + keys + 2*r + c }
	load := func(at string, c, d int) {
		switch {
		case whole:
			g.op("VMOVUPS %s, %s", at, g.v(d))
		case g.vb == 64:
			g.op("VMOVUPS.Z %s, K%d, Z%d", at, 1+c, d)
		default:
			g.op("VMASKMOVPS %s, Y%d, Y%d", at, 14+c, d)
		}
	}
	g.p("")
	g.p("%s%d:", name, m)
	g.op("MOVQ DI, R11")
	for r := range m {
		for c := range 2 {
			load(fmt.Sprintf("%d(R11)", c*g.vb), c, acc(r, c))
		}
		g.op("ADDQ DX, R11")
	}
	g.op("PCALIGN $64")
	g.p("%stoken%d:", name, m)
	for c := range 2 {
		load(fmt.Sprintf("%d(BX)", c*g.vb), c, c)
	}
	for r := range m {
		b := 2 + r%keys
		g.op("VBROADCASTSS %d(AX), %s", 4*r, g.v(b))
		for c := range 2 {
			g.v3("VFMADD231PS", c, b, acc(r, c))
		}
	}
	g.op("ADDQ R8, AX")
	g.op("ADDQ R9, BX")
	g.op("DECQ CX")
	g.op("JNZ %stoken%d", name, m)
	for r := range m {
		for c := range 2 {
			at := fmt.Sprintf("%d(DI)", c*g.vb)
			switch {
			case whole:
				g.op("VMOVUPS %s, %s", g.v(acc(r, c)), at)
			case g.vb == 64:
				g.op("VMOVUPS Z%d, K%d, %s", acc(r, c), 1+c, at)
			default:
				g.op("CMPQ cols+64(FP), $%d", g.vb/4*(c+1))
				g.storePart(acc(r, c), 14+c, at)
			}
		}
		g.op("ADDQ DX, DI")
	}
	g.op("ADDQ $%d, SI", 4*m)
	g.op("SUBQ $%d, R10", m)
	g.op("JMP %s", name)
}

// outerRows is how many rows of two vectors a tile has.
func (g *gen) outerRows(masked bool) int {
	switch {
	case g.vb == 64:
		return 12
	case masked:
		return 5
	}
	return 6
}

// rotate writes Rotate<level>. Registers:
//
//	AX           bytes of channels done; CX channels left
//	SI DI        x and y at the current token; R8 R9 the distances of tokens
//	BX           the table; R12 its step from token to token, R13 after column w-1
//	DX R11       tokens left, the token's column; R10 scale
//	V0 V1        two vectors of the token; V2 (V3) their pairs exchanged; V4 V5 sums
//	V6 (V8) V9   sin, cos, scale
//	V7 (K1)      the mask of the last vector
func (g *gen) rotate() {
	g.p("// func Rotate%s(y *float32, ldy int, x *float32, ldx int, table *float32, step, wrap, column, w, tokens, n int, scale, sum *float32)", g.name)
	g.p("TEXT ·Rotate%s(SB), 0, $128-104", g.name)
	g.op("MOVQ ldy+8(FP), R9")
	g.op("SHLQ $2, R9")
	g.op("MOVQ ldx+24(FP), R8")
	g.op("SHLQ $2, R8")
	g.op("MOVQ step+40(FP), R12")
	g.op("SHLQ $2, R12")
	g.op("MOVQ wrap+48(FP), R13")
	g.op("SHLQ $2, R13")
	g.op("XORQ AX, AX")
	g.op("MOVQ n+80(FP), CX")
	g.p("block:")
	g.op("MOVQ y+0(FP), DI")
	g.op("ADDQ AX, DI")
	g.op("MOVQ x+16(FP), SI")
	g.op("ADDQ AX, SI")
	g.op("MOVQ table+32(FP), BX")
	g.op("ADDQ AX, BX")
	g.op("MOVQ column+56(FP), R11")
	g.op("MOVQ tokens+72(FP), DX")
	g.op("VXORPS X4, X4, X4")
	g.op("VXORPS X5, X5, X5")
	g.op("CMPQ CX, $%d", g.vb/2)
	g.op("JGE wide")
	g.vectorMask("CX", "R10", 7)
	g.op("MOVQ scale+88(FP), R10")
	g.op("TESTQ R10, R10")
	g.op("JNZ tailscaled")
	g.rotateLoop("tail", 1, true, false)
	g.rotateLoop("tailscaled", 1, true, true)
	g.p("wide:")
	g.op("MOVQ scale+88(FP), R10")
	g.op("TESTQ R10, R10")
	g.op("JNZ scaled")
	g.rotateLoop("plain", 2, false, false)
	g.rotateLoop("scaled", 2, false, true)
}

// rotateLoop rotates some vectors of all tokens, which are summed or scaled.
func (g *gen) rotateLoop(name string, vectors int, tail, scaled bool) {
	at := func(v int, base string) string { return fmt.Sprintf("%d(%s)", v*g.vb, base) }
	g.op("PCALIGN $32")
	g.p("%s:", name)
	if scaled {
		g.op("VBROADCASTSS (R10), %s", g.v(9))
		g.op("ADDQ $4, R10")
	}
	for v := range vectors {
		if tail {
			g.loadTail("(SI)", 7, 0)
			g.loadTail("(BX)", 7, 8)
			g.op("VMOVSHDUP %s, %s", g.v(8), g.v(6))
			g.op("VMOVSLDUP %s, %s", g.v(8), g.v(8))
		} else { // duplicating loads take no slot of the arithmetic units
			g.op("VMOVUPS %s, %s", at(v, "SI"), g.v(v))
			g.op("VMOVSHDUP %s, %s", at(v, "BX"), g.v(6))
			g.op("VMOVSLDUP %s, %s", at(v, "BX"), g.v(8))
		}
		if !scaled {
			g.v3("VADDPS", v, 4+v, 4+v)
		}
		g.op("VPERMILPS $0xb1, %s, %s", g.v(v), g.v(2+v))
		g.v3("VMULPS", 6, 2+v, 2+v)
		g.v3("VFMADDSUB213PS", 2+v, 8, v)
		if scaled {
			g.v3("VMULPS", 9, v, v)
		}
		switch {
		case !tail:
			g.op("VMOVUPS %s, %s", g.v(v), at(v, "DI"))
		case g.vb == 64:
			g.storeTail(0, 7, "(DI)")
		default:
			g.op("CMPQ CX, $8")
			g.storePart(0, 7, "(DI)")
		}
	}
	g.op("ADDQ R8, SI")
	g.op("ADDQ R9, DI")
	g.op("ADDQ R12, BX")
	g.op("INCQ R11")
	g.op("CMPQ R11, w+64(FP)")
	g.op("JNE %ssame", name)
	g.op("XORQ R11, R11")
	g.op("ADDQ R13, BX")
	g.p("%ssame:", name)
	g.op("DECQ DX")
	g.op("JNZ %s", name)
	if !scaled {
		g.op("MOVQ sum+96(FP), DI")
		g.op("TESTQ DI, DI")
		g.op("JZ %send", name)
		g.op("ADDQ AX, DI")
		for v := range vectors {
			if tail {
				g.loadTail("(DI)", 7, 0)
				g.v3("VADDPS", 0, 4, 4)
				g.storeTail(4, 7, "(DI)")
			} else {
				g.op("VADDPS %s, %s, %s", at(v, "DI"), g.v(4+v), g.v(4+v))
				g.op("VMOVUPS %s, %s", g.v(4+v), at(v, "DI"))
			}
		}
		g.p("%send:", name)
	}
	g.op("ADDQ $%d, AX", vectors*g.vb)
	g.op("SUBQ $%d, CX", vectors*g.vb/4)
	g.op("JGT block")
	g.op("VZEROUPPER")
	g.op("RET")
}

// vectorMask makes the mask of the next vector of n elements left: all lanes, or
// n if fewer. n must be CX at AVX-512 and stays as it is.
func (g *gen) vectorMask(n, tmp string, mask int) {
	label := g.label("whole")
	if g.vb == 64 {
		g.op("MOVL $0xffff, %s", tmp)
		g.op("CMPQ %s, $16", n)
		g.op("JGE %s", label)
		g.op("MOVL $1, %s", tmp)
		g.op("SHLL %s, %s", n, tmp)
		g.op("DECL %s", tmp)
		g.p("%s:", label)
		g.op("KMOVW %s, K1", tmp)
		return
	}
	g.op("VPCMPEQD Y%d, Y%d, Y%d", mask, mask, mask)
	g.op("CMPQ %s, $8", n)
	g.op("JGE %s", label)
	g.op("SHLQ $2, %s", n)
	g.op("LEAQ ·tailsAVX2+32(SB), %s", tmp)
	g.op("SUBQ %s, %s", n, tmp)
	g.op("SHRQ $2, %s", n)
	g.op("VMOVUPS (%s), Y%d", tmp, mask)
	g.p("%s:", label)
}

// storePart stores all of a vector if the comparison before it found enough
// elements, else those of the mask: AVX2's masked stores take dozens of cycles on
// some CPUs.
func (g *gen) storePart(s, mask int, at string) {
	part, done := g.label("part"), g.label("stored")
	g.op("JLT %s", part)
	g.op("VMOVUPS Y%d, %s", s, at)
	g.op("JMP %s", done)
	g.p("%s:", part)
	g.storeTail(s, mask, at)
	g.p("%s:", done)
}

// reduce adds the lanes of V(a) into lane 0, using V(t).
func (g *gen) reduce(a, t int) {
	if g.vb == 64 {
		g.op("VEXTRACTF64X4 $1, Z%d, Y%d", a, t)
		g.op("VADDPS Y%d, Y%d, Y%d", t, a, a)
	}
	g.op("VEXTRACTF128 $1, Y%d, X%d", a, t)
	g.op("VADDPS X%d, X%d, X%d", t, a, a)
	g.op("VMOVHLPS X%d, X%d, X%d", a, a, t)
	g.op("VADDPS X%d, X%d, X%d", t, a, a)
	g.op("VMOVSHDUP X%d, X%d", a, t)
	g.op("VADDSS X%d, X%d, X%d", t, a, a)
}

// inverse writes Inverse<level>: four tokens at a time, then one by one, each with
// its sum in the same order. Registers:
//
//	SI R9        the first token and its copy, at the current vector of channels
//	R8 R13       the distances of tokens and of copies; R10 R11 three times that
//	BX DI        the sums, the result
//	DX           tokens left; AX CX bytes of channels done, channels left
//	V0 to V3     the dot products; V4 the sums, V5 a query, V6 a temporary
//	V8 V9        eps, 1
//	V7 (K1)      the mask of a row's end
func (g *gen) inverse() {
	g.p("// func Inverse%s(y, dense, x *float32, ldx int, s *float32, tokens, n int, eps float32)", g.name)
	g.p("TEXT ·Inverse%s(SB), 0, $128-60", g.name)
	for _, a := range [][2]string{{"y+0", "DI"}, {"dense+8", "R9"}, {"x+16", "SI"}, {"ldx+24", "R8"}, {"s+32", "BX"}, {"tokens+40", "DX"}, {"n+48", "CX"}} {
		g.op("MOVQ %s(FP), %s", a[0], a[1])
	}
	g.op("SHLQ $2, R8")
	g.op("LEAQ (R8)(R8*2), R10")
	g.op("LEAQ (CX*4), R13")
	g.op("LEAQ (R13)(R13*2), R11")
	g.op("VBROADCASTSS eps+56(FP), X8")
	g.op("VBROADCASTSS %s, X9", g.at("one"))
	g.tailMask("CX", "AX", 7)
	g.p("four:")
	g.op("SUBQ $4, DX")
	g.op("JLT rest")
	g.inverseTokens("four", 4)
	pairs := func(op string, a, b, to int) { // the sums of what both unpackings bring together
		g.v3("VUNPCKL"+op, b, a, 6)
		g.v3("VUNPCKH"+op, b, a, to)
		g.v3("VADDPS", 6, to, to)
	}
	pairs("PS", 0, 1, 0)
	pairs("PS", 2, 3, 2)
	pairs("PD", 0, 2, 0)
	g.inverseEnd()
	g.op("VMOVUPS X0, (DI)")
	g.op("ADDQ $16, DI")
	g.op("LEAQ (SI)(R8*4), SI")
	g.op("LEAQ (R9)(R13*4), R9")
	g.op("JMP four")
	g.p("rest:")
	g.op("ADDQ $4, DX")
	g.p("one:")
	g.op("SUBQ $1, DX")
	g.op("JLT end")
	g.inverseTokens("one", 1)
	g.op("VPERMILPS $0x4e, %s, %s", g.v(0), g.v(1))
	g.v3("VADDPS", 1, 0, 0)
	g.op("VMOVSHDUP %s, %s", g.v(0), g.v(1))
	g.v3("VADDPS", 1, 0, 0)
	g.inverseEnd()
	g.op("VMOVSS X0, (DI)")
	g.op("ADDQ $4, DI")
	g.op("ADDQ R8, SI")
	g.op("ADDQ R13, R9")
	g.op("JMP one")
	g.p("end:")
	g.op("VZEROUPPER")
	g.op("RET")
}

// inverseTokens leaves the products of tokens with the sums in V0, V1, .. and copies
// the tokens.
func (g *gen) inverseTokens(name string, tokens int) {
	lanes := g.vb / 4
	g.op("XORQ AX, AX")
	for t := range tokens {
		g.op("VXORPS X%d, X%d, X%d", t, t, t)
	}
	g.op("MOVQ n+48(FP), CX")
	g.op("SUBQ $%d, CX", lanes)
	g.op("JLT %stail", name)
	g.p("%svector:", name)
	g.op("VMOVUPS (BX)(AX*1), %s", g.v(4))
	for t := range tokens {
		g.op("VMOVUPS %s, %s", rowAt(t, "SI", "R8", "R10"), g.v(5))
		g.v3("VFMADD231PS", 5, 4, t)
		g.op("VMOVUPS %s, %s", g.v(5), rowAt(t, "R9", "R13", "R11"))
	}
	for _, p := range []string{"AX", "SI", "R9"} {
		g.op("ADDQ $%d, %s", g.vb, p)
	}
	g.op("SUBQ $%d, CX", lanes)
	g.op("JGE %svector", name)
	g.p("%stail:", name)
	g.op("ADDQ $%d, CX", lanes)
	g.op("JZ %ssum", name)
	g.loadTail("(BX)(AX*1)", 7, 4)
	for t := range tokens {
		g.loadTail(rowAt(t, "SI", "R8", "R10"), 7, 5)
		g.v3("VFMADD231PS", 5, 4, t)
		g.storeTail(5, 7, rowAt(t, "R9", "R13", "R11"))
	}
	g.p("%ssum:", name)
	g.op("SUBQ AX, SI")
	g.op("SUBQ AX, R9")
}

// inverseEnd adds up the quarters of V0, of which each is a token, and leaves the
// inverses in X0.
func (g *gen) inverseEnd() {
	if g.vb == 64 {
		g.op("VEXTRACTF64X4 $1, Z0, Y1")
		g.op("VADDPS Y1, Y0, Y0")
	}
	g.op("VEXTRACTF128 $1, Y0, X1")
	g.op("VADDPS X1, X0, X0")
	g.op("VADDPS X8, X0, X0")
	g.op("VDIVPS X0, X9, X0")
}

// binary writes Add<level> or Mul<level>: y[i] = a[i] op b[i]. Registers: DI SI BX
// y, a, b; AX position, CX elements left; V0 the vector; V7 (K1) the mask of the
// end.
func (g *gen) binary(name, op string) {
	lanes := g.vb / 4
	g.p("// func %s%s(y, a, b *float32, n int)", name, g.name)
	g.p("TEXT ·%s%s(SB), 0, $128-32", name, g.name)
	g.op("MOVQ y+0(FP), DI")
	g.op("MOVQ a+8(FP), SI")
	g.op("MOVQ b+16(FP), BX")
	g.op("MOVQ n+24(FP), CX")
	g.op("XORQ AX, AX")
	g.op("SUBQ $%d, CX", lanes)
	g.op("JLT tail")
	g.p("vector:")
	g.op("VMOVUPS (SI)(AX*1), %s", g.v(0))
	g.op("%s (BX)(AX*1), %s, %s", op, g.v(0), g.v(0))
	g.op("VMOVUPS %s, (DI)(AX*1)", g.v(0))
	g.op("ADDQ $%d, AX", g.vb)
	g.op("SUBQ $%d, CX", lanes)
	g.op("JGE vector")
	g.p("tail:")
	g.op("ADDQ $%d, CX", lanes)
	g.op("JZ end")
	g.partMask("CX", "DX", 7)
	g.loadTail("(SI)(AX*1)", 7, 0)
	g.loadTail("(BX)(AX*1)", 7, 1)
	g.v3(op, 1, 0, 0)
	g.storeTail(0, 7, "(DI)(AX*1)")
	g.p("end:")
	g.op("VZEROUPPER")
	g.op("RET")
}
