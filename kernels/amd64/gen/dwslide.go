package main

import "fmt"

// The modes of DWSlide's epilogue.
var slideModes = []string{"", "relu", "silu", "addmul"}

// slideBody is one of DWSlide's loops, for so many output rows and neighbouring
// vectors of channels. Registers: the sums, three columns of each vector; then the
// pixels of a column in as many rows as one row of taps meets, and a weight.
//
// Two vectors run side by side because the L2 cache serves neighbouring lines at
// up to twice the rate of lines a pixel apart, and at AVX2 because two vectors are
// a line. The last, single or partial vector has bodies with masks, which take
// slots of the units that multiply.
type slideBody struct {
	*gen
	rows, mode int
	last       bool
}

func (g *gen) slideRows() int { return map[int]int{32: 2, 64: 4}[g.vb] }

func (b *slideBody) label(name string) string {
	return fmt.Sprintf("%s%d_%d_%v", name, b.rows, b.mode, b.last)
}

func (b *slideBody) vectors() int {
	if b.last {
		return 1
	}
	return 2
}

// acc is the sum of output k in row r of vector v.
func (b *slideBody) acc(v, k, r int) int { return (3*v+k%3)*b.rows + r }

// pixel is the pixel of an input row; temp are registers that are free where no
// pixels are held. Y15 is the mask.
func (b *slideBody) pixel(u int) int { return 6*b.slideRows() + u%b.slideRows() }
func (b *slideBody) temp() [4]int {
	t := 6 * b.slideRows()
	if b.last {
		t = 3 * b.rows
	}
	return [4]int{t, t + 1, t + 2, t + 3}
}

func (b *slideBody) load(v int, at string, d int) {
	if b.last {
		b.loadTail(at, 15, d)
	} else {
		b.op("VMOVUPS %d%s, %s", v*b.vb, at, b.v(d))
	}
}

// slide writes DWSlide<level>: some output rows of a depthwise convolution of
// stride 1. The code slides along x, and each column of the input rows, once
// loaded, goes into the three outputs it belongs to. Registers:
//
//	AX SI R8     input rows at the current column: the one above the first output
//	             row, that one, the one below the last
//	R12 R13      distance of input rows, and three times that
//	BX R10 R11   output, add and mul at the column before
//	DX R9        distance of output rows, and three times that
//	CX           columns left
//	DI           the weights as rows of taps, then the bias, of each vector: on the
//	             stack, at the start of a cache line
//
// The distances of columns are on the stack for x, y and for the first and the last
// input row: 0 where the row lies outside of the image, and then its pointer is at
// zeros.
//
// The sums of the three columns in flight rotate through three roles, so the loop
// is unrolled three times. Summing the last tap column apart, to shorten the chain
// of an output, brings nothing: the chains of many outputs overlap.
func (g *gen) slide() {
	g.p("// func DWSlide%s(y, x, w, bias, add, mul *float32, ldx, ldy, ldw, ch, n, rows, above, below, residual, mode int)", g.name)
	g.p("TEXT ·DWSlide%s(SB), 0, $%d-128", g.name, 128+20*g.vb)
	for _, a := range [][3]string{{"ldx+48", "SI", "x-24"}, {"ldy+56", "CX", "y-32"}} {
		g.op("MOVQ %s(FP), %s", a[0], a[1])
		g.op("SHLQ $2, %s", a[1])
		g.op("MOVQ %s, %s(SP)", a[1], a[2])
	}
	g.op("MOVQ n+80(FP), R12")
	g.op("MOVQ R12, DX")
	g.op("IMULQ SI, R12")
	g.op("IMULQ CX, DX")
	g.op("LEAQ (R12)(R12*2), R13")
	g.op("LEAQ (DX)(DX*2), R9")
	g.op("LEAQ weights-%d(SP), DI", 112+20*g.vb)
	g.op("ADDQ $63, DI")
	g.op("ANDQ $-64, DI")
	g.op("MOVQ $0, done-8(SP) // bytes of channels done")
	g.op("MOVQ ch+72(FP), CX")
	g.op("MOVQ CX, left-16(SP)")
	g.p("block:") // CX: channels left
	g.op("CMPQ CX, $%d", g.vb/2)
	g.op("JLT partial")
	g.slideWeights(2)
	g.op("JMP weighted")
	g.p("partial:")
	g.vectorMask("CX", "AX", 15)
	g.slideWeights(1)
	g.p("weighted:")
	g.op("MOVQ done-8(SP), CX")
	for _, a := range [][2]string{{"y+0", "BX"}, {"add+32", "R10"}, {"mul+40", "R11"}, {"x+8", "SI"}} {
		g.op("MOVQ %s(FP), %s", a[0], a[1])
		g.op("ADDQ CX, %s", a[1])
	}
	g.op("MOVQ SI, AX")
	g.op("SUBQ R12, AX")
	g.op("MOVQ rows+88(FP), R8")
	g.op("IMULQ R12, R8")
	g.op("ADDQ SI, R8")
	g.op("MOVQ x-24(SP), CX")
	for _, o := range [][3]string{{"above+96", "AX", "first-40"}, {"below+104", "R8", "last-48"}} {
		label := g.label("inside")
		g.op("MOVQ CX, %s(SP)", o[2])
		g.op("CMPQ %s(FP), $0", o[0])
		g.op("JNE %s", label)
		g.op("LEAQ %s, %s", g.at("zeros"), o[1])
		g.op("MOVQ $0, %s(SP)", o[2])
		g.p("%s:", label)
	}
	var bodies []*slideBody
	for _, last := range []bool{false, true} {
		for mode := range slideModes {
			for rows := g.slideRows(); rows >= 1; rows-- {
				bodies = append(bodies, &slideBody{g, rows, mode, last})
			}
		}
	}
	g.op("MOVQ mode+120(FP), CX")
	g.op("SHLQ $3, CX")
	g.op("ADDQ rows+88(FP), CX")
	g.op("CMPQ left-16(SP), $%d", g.vb/2)
	g.op("JLT single")
	for i, b := range bodies {
		if i == len(bodies)/2 {
			g.p("single:")
		}
		g.op("CMPQ CX, $%d", 8*b.mode+b.rows)
		g.op("JEQ %s", b.label("start"))
	}
	for _, b := range bodies {
		b.loop()
	}
	g.p("")
	for _, vectors := range []int{1, 2} {
		g.p("end%d:", vectors)
		g.op("ADDQ $%d, done-8(SP)", vectors*g.vb)
		g.op("MOVQ left-16(SP), CX")
		g.op("SUBQ $%d, CX", vectors*g.vb/4)
		g.op("MOVQ CX, left-16(SP)")
		g.op("JGT block")
		g.op("VZEROUPPER")
		g.op("RET")
	}
}

// slideWeights copies the weights and the bias of the next vectors of channels.
func (g *gen) slideWeights(vectors int) {
	b := &slideBody{gen: g, last: vectors == 1}
	label := func(name string, v int) string { return fmt.Sprintf("%s%d_%d", name, vectors, v) }
	g.op("MOVQ done-8(SP), BX")
	g.op("MOVQ w+16(FP), SI")
	g.op("ADDQ BX, SI")
	g.op("MOVQ ldw+64(FP), R8")
	g.op("SHLQ $2, R8")
	g.op("CMPQ residual+112(FP), $0")
	for i := range 9 {
		for v := range vectors {
			b.load(v, "(SI)", v)
			if i == 4 {
				g.op("JEQ %s", label("plain", v))
				g.c3("VADDPS", "one", v, v) // the convolution plus its input
				g.p("%s:", label("plain", v))
			}
			g.op("VMOVUPS %s, %s", g.v(v), g.weight(v, i))
		}
		g.op("LEAQ (SI)(R8*1), SI") // keeps the flags
	}
	for v := range vectors {
		g.op("VXORPS X%d, X%d, X%d", v, v, v)
	}
	g.op("MOVQ bias+24(FP), SI")
	g.op("TESTQ SI, SI")
	g.op("JZ %s", label("unbiased", 0))
	g.op("ADDQ BX, SI")
	for v := range vectors {
		b.load(v, "(SI)", v)
	}
	g.p("%s:", label("unbiased", 0))
	for v := range vectors {
		g.op("VMOVUPS %s, %s", g.v(v), g.weight(v, 9))
	}
}

// weight is weight i of a vector, or 9 for the bias.
func (g *gen) weight(v, i int) string { return fmt.Sprintf("%d(DI)", g.vb*(10*v+i)) }

// rowAt is the address of an output or input row from a base on.
func rowAt(r int, base, distance, distance3 string) string {
	return "(" + base + ")" + []string{"", "(" + distance + "*1)", "(" + distance + "*2)", "(" + distance3 + "*1)"}[r]
}

// begin starts output k of a vector with the bias.
func (b *slideBody) begin(v, k int) {
	for r := range b.rows {
		if r == 0 {
			b.op("VMOVUPS %s, %s", b.weight(v, 9), b.v(b.acc(v, k, r)))
		} else {
			b.op("VMOVAPS %s, %s", b.v(b.acc(v, k, 0)), b.v(b.acc(v, k, r)))
		}
	}
}

// step takes a column: the last of output k, the middle one of k+1, the first of
// k+2.
func (b *slideBody) step(v, k int, first bool) {
	b.begin(v, k+2)
	weight := 7 * b.slideRows()
	for t := range 3 { // the row of taps
		for r := range b.rows {
			u := r + t
			if t > 0 && r < b.rows-1 {
				continue // in its register
			}
			switch u {
			case 0:
				b.load(v, "(AX)", b.pixel(u))
			case b.rows + 1:
				b.load(v, "(R8)", b.pixel(u))
			default:
				b.load(v, rowAt(u-1, "SI", "R12", "R13"), b.pixel(u))
			}
		}
		for c := range 3 { // the tap's column
			if first && c == 2 {
				continue
			}
			b.op("VMOVUPS %s, %s", b.weight(v, 3*t+c), b.v(weight))
			for r := range b.rows {
				b.v3("VFMADD231PS", weight, b.pixel(r+t), b.acc(v, k+2-c, r))
			}
		}
	}
}

// advance moves the inputs to the next column.
func (b *slideBody) advance() {
	b.op("ADDQ first-40(SP), AX")
	b.op("ADDQ x-24(SP), SI")
	b.op("ADDQ last-48(SP), R8")
}

// finish completes and stores output k of a vector.
func (b *slideBody) finish(v, k int) {
	for r := range b.rows {
		a, to := b.acc(v, k, r), rowAt(r, "BX", "DX", "R9")
		if slideModes[b.mode] == "addmul" {
			for i, p := range []string{"R10", "R11"} {
				op := []string{"VADDPS", "VMULPS"}[i]
				if b.last {
					b.load(v, rowAt(r, p, "DX", "R9"), b.temp()[i])
					b.v3(op, b.temp()[i], a, a)
				} else {
					b.op("%s %d%s, %s, %s", op, v*b.vb, rowAt(r, p, "DX", "R9"), b.v(a), b.v(a))
				}
			}
		} else {
			b.activate(slideModes[b.mode], a, b.temp())
		}
		if b.last {
			b.storeTail(a, 15, to)
		} else {
			b.op("VMOVUPS %s, %d%s", b.v(a), v*b.vb, to)
		}
	}
}

// next moves the outputs to the next column.
func (b *slideBody) next() {
	b.op("ADDQ y-32(SP), BX")
	if slideModes[b.mode] == "addmul" {
		b.op("ADDQ y-32(SP), R10")
		b.op("ADDQ y-32(SP), R11")
	}
}

func (b *slideBody) loop() {
	b.p("")
	b.p("%s:", b.label("start"))
	b.op("MOVQ n+80(FP), CX")
	for v := range b.vectors() {
		b.begin(v, 3)
		b.step(v, 2, true) // roles 3 = 0 and 4 = 1 are now in flight
	}
	b.advance()
	b.op("DECQ CX")
	b.op("JZ %s_0", b.label("end"))
	b.op("PCALIGN $64")
	b.p("%s:", b.label("loop"))
	for k := range 3 {
		for v := range b.vectors() {
			b.step(v, k, false)
			b.finish(v, k)
		}
		b.advance()
		b.next()
		b.op("DECQ CX")
		if k < 2 {
			b.op("JZ %s_%d", b.label("end"), k+1)
		} else {
			b.op("JNZ %s", b.label("loop"))
		}
	}
	b.p("%s_0:", b.label("end"))
	for v := range b.vectors() {
		b.finish(v, 0)
	}
	b.op("JMP end%d", b.vectors())
	for k := 1; k < 3; k++ { // as role 0
		b.p("%s_%d:", b.label("end"), k)
		for v := range b.vectors() {
			for r := range b.rows {
				b.op("VMOVAPS %s, %s", b.v(b.acc(v, k, r)), b.v(b.acc(v, 0, r)))
			}
		}
		b.op("JMP %s_0", b.label("end"))
	}
}
