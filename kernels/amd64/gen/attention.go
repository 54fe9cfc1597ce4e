package main

import "fmt"

// outer writes OuterSum<level>. Registers:
//
//	AX BX        keys and values at the current token; R8 R9 the distances of tokens
//	CX           tokens left; DX the distance of rows of the state
//	DI R10       the tile's first row in the state; rows left; SI its first key
//	V0 V1        the values of a token; V2 V3 a key, broadcast
//	V4 ..        the tile: row a in V(4+2a) and V(5+2a)
//	K1 K2 (V14 V15) the masks of the two vectors of columns
func (g *gen) outer() {
	mr := g.outerRows()
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
	g.p("next:")
	g.op("MOVQ SI, AX")
	g.op("MOVQ v+32(FP), BX")
	g.op("MOVQ tokens+48(FP), CX")
	g.op("CMPQ R10, $%d", mr)
	g.op("JGE tile%d", mr)
	for m := mr - 1; m >= 1; m-- {
		g.op("CMPQ R10, $%d", m)
		g.op("JEQ tile%d", m)
	}
	g.op("VZEROUPPER")
	g.op("RET")
	load := func(at string, c, d int) {
		if g.vb == 64 {
			g.op("VMOVUPS.Z %s, K%d, Z%d", at, 1+c, d)
		} else {
			g.op("VMASKMOVPS %s, Y%d, Y%d", at, 14+c, d)
		}
	}
	for m := mr; m >= 1; m-- {
		g.p("")
		g.p("tile%d:", m)
		g.op("MOVQ DI, R11")
		for r := range m {
			for c := range 2 {
				load(fmt.Sprintf("%d(R11)", c*g.vb), c, g.acc(r, c))
			}
			g.op("ADDQ DX, R11")
		}
		g.op("PCALIGN $64")
		g.p("token%d:", m)
		for c := range 2 {
			load(fmt.Sprintf("%d(BX)", c*g.vb), c, c)
		}
		for r := range m {
			b := 2
			if g.vb == 64 {
				b += r % 2
			}
			g.op("VBROADCASTSS %d(AX), %s", 4*r, g.v(b))
			for c := range 2 {
				g.v3("VFMADD231PS", c, b, g.acc(r, c))
			}
		}
		g.op("ADDQ R8, AX")
		g.op("ADDQ R9, BX")
		g.op("DECQ CX")
		g.op("JNZ token%d", m)
		for r := range m {
			for c := range 2 {
				at := fmt.Sprintf("%d(DI)", c*g.vb)
				if g.vb == 64 {
					g.op("VMOVUPS Z%d, K%d, %s", g.acc(r, c), 1+c, at)
				} else {
					g.op("CMPQ cols+64(FP), $%d", lanes*(c+1))
					g.storePart(g.acc(r, c), 14+c, at)
				}
			}
			g.op("ADDQ DX, DI")
		}
		g.op("ADDQ $%d, SI", 4*m)
		g.op("SUBQ $%d, R10", m)
		g.op("JMP next")
	}
}

func (g *gen) outerRows() int { return map[int]int{32: 5, 64: 12}[g.vb] }

// rotate writes Rotate<level>. Registers:
//
//	AX           bytes of channels done; CX channels left
//	SI DI        x and y at the current token; R8 R9 the distances of tokens
//	BX           the table; R12 its step from token to token, R13 after column w-1
//	DX R11       tokens left, the token's column; R10 scale (0: none)
//	V0 the vector, V1 cos, V2 the pairs exchanged, V3 sin, V4 the sum
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
	g.vectorMask("CX", "BX", 7)
	g.op("MOVQ y+0(FP), DI")
	g.op("ADDQ AX, DI")
	g.op("MOVQ x+16(FP), SI")
	g.op("ADDQ AX, SI")
	g.op("MOVQ table+32(FP), BX")
	g.op("ADDQ AX, BX")
	g.op("MOVQ column+56(FP), R11")
	g.op("MOVQ tokens+72(FP), DX")
	g.op("MOVQ scale+88(FP), R10")
	g.op("VXORPS X4, X4, X4")
	g.p("token:")
	g.loadTail("(SI)", 7, 0)
	g.loadTail("(BX)", 7, 1)
	g.v3("VADDPS", 0, 4, 4)
	g.op("VPERMILPS $0xb1, %s, %s", g.v(0), g.v(2))
	g.op("VMOVSHDUP %s, %s", g.v(1), g.v(3))
	g.op("VMOVSLDUP %s, %s", g.v(1), g.v(1))
	g.v3("VMULPS", 3, 2, 2)
	g.v3("VFMADDSUB213PS", 2, 1, 0)
	g.op("TESTQ R10, R10")
	g.op("JZ put")
	g.op("VBROADCASTSS (R10), %s", g.v(1))
	g.v3("VMULPS", 1, 0, 0)
	g.op("ADDQ $4, R10")
	g.p("put:")
	if g.vb == 64 {
		g.storeTail(0, 7, "(DI)")
	} else {
		g.op("CMPQ CX, $8")
		g.storePart(0, 7, "(DI)")
	}
	g.op("ADDQ R8, SI")
	g.op("ADDQ R9, DI")
	g.op("ADDQ R12, BX")
	g.op("INCQ R11")
	g.op("CMPQ R11, w+64(FP)")
	g.op("JNE same")
	g.op("XORQ R11, R11")
	g.op("ADDQ R13, BX")
	g.p("same:")
	g.op("DECQ DX")
	g.op("JNZ token")
	g.op("MOVQ sum+96(FP), DI")
	g.op("TESTQ DI, DI")
	g.op("JZ nosum")
	g.op("ADDQ AX, DI")
	g.loadTail("(DI)", 7, 0)
	g.v3("VADDPS", 0, 4, 4)
	g.storeTail(4, 7, "(DI)")
	g.p("nosum:")
	g.op("ADDQ $%d, AX", g.vb)
	g.op("SUBQ $%d, CX", g.vb/4)
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

// inverse writes Inverse<level>. Registers: SI the token, R8 the distance of
// tokens, DI the result, BX the sums, DX tokens left, AX CX position and channels
// left; V0 the dot product, V1 V2 temporaries, V5 eps, V6 1; V7 (K1) the mask of
// a row's end.
func (g *gen) inverse() {
	lanes := g.vb / 4
	g.p("// func Inverse%s(y, x *float32, ldx int, s *float32, tokens, n int, eps float32)", g.name)
	g.p("TEXT ·Inverse%s(SB), 0, $128-52", g.name)
	g.op("MOVQ y+0(FP), DI")
	g.op("MOVQ x+8(FP), SI")
	g.op("MOVQ ldx+16(FP), R8")
	g.op("SHLQ $2, R8")
	g.op("MOVQ s+24(FP), BX")
	g.op("MOVQ tokens+32(FP), DX")
	g.op("VMOVSS eps+48(FP), X5")
	g.op("VMOVSS %s, X6", g.at("one"))
	g.op("MOVQ n+40(FP), CX")
	g.tailMask("CX", "AX", 7)
	g.p("token:")
	g.op("XORQ AX, AX")
	g.op("VXORPS X0, X0, X0")
	g.op("MOVQ n+40(FP), CX")
	g.op("SUBQ $%d, CX", lanes)
	g.op("JLT tail")
	g.p("vector:")
	g.op("VMOVUPS (SI)(AX*1), %s", g.v(1))
	g.op("VFMADD231PS (BX)(AX*1), %s, %s", g.v(1), g.v(0))
	g.op("ADDQ $%d, AX", g.vb)
	g.op("SUBQ $%d, CX", lanes)
	g.op("JGE vector")
	g.p("tail:")
	g.op("ADDQ $%d, CX", lanes)
	g.op("JZ done")
	g.loadTail("(SI)(AX*1)", 7, 1)
	g.loadTail("(BX)(AX*1)", 7, 2)
	g.v3("VFMADD231PS", 1, 2, 0)
	g.p("done:")
	g.reduce(0, 1)
	g.op("VADDSS X5, X0, X0")
	g.op("VDIVSS X0, X6, X0")
	g.op("VMOVSS X0, (DI)")
	g.op("ADDQ $4, DI")
	g.op("ADDQ R8, SI")
	g.op("DECQ DX")
	g.op("JNZ token")
	g.op("VZEROUPPER")
	g.op("RET")
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
