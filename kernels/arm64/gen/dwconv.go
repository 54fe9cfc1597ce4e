package main

import "fmt"

// loadStep loads a vector, or one float, and moves the pointer on.
func (g *gen) loadStep(letter, p, step string, d int) {
	g.op("FMOV%s (%s), F%d", letter, p, d)
	g.op("ADD %s, %s, %s", step, p, p)
}

// storeStep stores a vector, or one float, and moves the pointer on.
func (g *gen) storeStep(letter, p, step string, s int) {
	g.op("FMOV%s F%d, (%s)", letter, s, p)
	g.op("ADD %s, %s, %s", step, p, p)
}

// loadOffset loads a vector, or one float, from R(base) + R(offset).
func (g *gen) loadOffset(letter string, base, offset, d int) {
	if letter == "Q" {
		g.loadAt(d, base, offset)
	} else {
		g.op("FMOVS (R%d)(R%d), F%d", base, offset, d)
	}
}

// storeOffset stores a vector, or one float, at R(base) + R(offset).
func (g *gen) storeOffset(letter string, base, offset, s int) {
	if letter == "Q" {
		g.storeAt(s, base, offset)
	} else {
		g.op("FMOVS F%d, (R%d)(R%d)", s, base, offset)
	}
}

// zeros writes what rows outside of an image point at.
func (g *gen) zeros() {
	g.p("DATA zeros<>+0(SB)/8, $0")
	g.p("DATA zeros<>+8(SB)/8, $0")
	g.p("GLOBL zeros<>(SB), RODATA|NOPTR, $16")
}

// channelLoop writes body for four channels at a time and for single ones, and the
// loop over these blocks: R13 is the offset of the block in bytes, R14 the channels left.
func (g *gen) channelLoop(body func(letter string)) {
	g.op("MOVD ZR, R13")
	g.args("ch", "R14")
	for _, letter := range []string{"Q", "S"} {
		g.p("block%s:", letter)
		g.op("CMP $%d, R14", registerBytes[letter]/4)
		g.op("BLT done%s", letter)
		body(letter)
		g.p("next%s:", letter)
		g.op("ADD $%d, R13, R13", registerBytes[letter])
		g.op("SUB $%d, R14, R14", registerBytes[letter]/4)
		g.op("B block%s", letter)
		g.p("done%s:", letter)
	}
	g.op("RET")
}

// weights3x3 loads the nine weights of a block into V0 to V8 and puts its bias on the
// stack, from where sums begin with it: the load unit has time, where a move would
// cost one of the arithmetic units.
func (g *gen) weights3x3(letter string) {
	g.args("w", "R16", "ldw", "R17", "bias", "R15")
	g.op("ADD R13, R16, R16")
	g.op("LSL $2, R17, R17")
	for i := range 9 {
		g.loadStep(letter, "R16", "R17", i)
	}
	g.op("VEOR V9.B16, V9.B16, V9.B16")
	g.op("CBZ R15, nobias%s", letter)
	g.op("ADD R13, R15, R15")
	g.loadStep(letter, "R15", "R17", 9)
	g.p("nobias%s:", letter)
	g.op("FMOVQ F9, seed-24(SP)")
}

// outside points a row that is outside of the image at zeros.
func (g *gen) outside(arg, row, step, label string) {
	g.args(arg, "R21")
	g.op("CBNZ R21, %s", label)
	g.op("MOVD $zeros<>(SB), %s", row)
	g.op("MOVD ZR, %s", step)
	g.p("%s:", label)
}

// slideRows are the numbers of output rows that DWSlideNEON takes.
var slideRows = []int{4, 2, 1}

// Where DWSlideNEON finds its rows: of the input from the one above the first output
// row on; of the output, add and mul each second one, with the offsets in that and in
// the next one.
var (
	slideIn                      = []int{0, 1, 2, 3, 8, 9}
	slideOut, slideAdd, slideMul = [2]int{7, 10}, [2]int{15, 16}, [2]int{17, 19}
	slideOffset                  = [2]int{26, 20}
)

// slide writes DWSlideNEON: output rows of a depthwise convolution of stride 1. The
// code slides along x, and each column of the input rows, once loaded, goes into the
// outputs around it, nine in the middle of four rows. Registers:
//
//	R0 .. R3 R8 R9  the input rows
//	R4 R5 R6        the column's offset in the rows between, in the first and in the
//	                last one; R23 R24 R25 what it grows by: 0 outside of the image
//	R7 R10          output rows 0 and 2; R15 R16 and R17 R19 add and mul
//	R26 R20         the offset there of the column before, and that in the row below
//	R12 R11         distance of columns there; columns left
//	V0 .. V8        the weights
//	V9 ..           sums of three columns of output, a column of input, add and mul
//
// The sums of the three columns in flight rotate through three roles, so the loop is
// unrolled three times.
func (g *gen) slide() {
	g.function("DWSlideNEON", frame, "y, x, w, bias, add, mul *float32, ldx, ldy, ldw, ch, n, rows, above, below, residual int")
	g.args("ldx", "R23", "ldy", "R12")
	g.op("LSL $2, R23, R23")
	g.op("LSL $2, R12, R12")
	g.channelLoop(func(letter string) {
		g.weights3x3(letter)
		g.args("residual", "R15")
		g.op("CBZ R15, plain%s", letter)
		g.op("FMOVS $1.0, F9")
		g.op("VDUP V9.S[0], V9.S4")
		g.v3("FADD", 4, 4, 9) // the convolution plus its input
		g.p("plain%s:", letter)
		g.args("y", "R7", "add", "R15", "mul", "R17", "x", "R1", "n", "R11")
		for _, r := range []string{"R7", "R15", "R17", "R1"} {
			g.op("ADD R13, %s, %s", r, r)
		}
		g.op("MUL R11, R12, R20")
		for _, r := range [][2]int{slideOut, slideAdd, slideMul} {
			g.op("ADD R20<<1, R%d, R%d", r[0], r[1])
		}
		g.op("MSUB R11, R1, R23, R0")
		g.op("MADD R11, R1, R23, R2")
		for _, r := range []string{"R4", "R5", "R6", "R26"} {
			g.op("MOVD ZR, %s", r)
		}
		g.op("MOVD R23, R24")
		g.op("MOVD R23, R25")
		g.outside("above", "R0", "R24", "above"+letter)
		g.args("rows", "R22")
		for i := 3; i < len(slideIn); i++ { // those that there are not are not read
			g.op("MADD R11, R%d, R23, R%d", slideIn[i-1], slideIn[i])
		}
		for _, rows := range slideRows {
			g.op("CMP $%d, R22", rows)
			g.op("BEQ rows%s%d", letter, rows)
		}
		for _, rows := range slideRows {
			g.p("rows%s%d:", letter, rows)
			g.outside("below", fmt.Sprintf("R%d", slideIn[rows+1]), "R25", fmt.Sprintf("below%s%d", letter, rows))
			g.args("add", "R22")
			g.op("CBNZ R22, start%s%dtrue", letter, rows)
			for _, gated := range []bool{false, true} {
				g.slideLoop(letter, rows, gated)
			}
		}
	})
}

func (g *gen) slideLoop(letter string, rows int, gated bool) {
	id := fmt.Sprintf("%s%d%v", letter, rows, gated)
	acc := func(k, r int) int { return 9 + rows*(k%3) + r }
	value := 9 + 3*rows
	gates := value + rows + 2
	loads := func() {
		for i := range rows + 2 {
			offset := 4
			switch i {
			case 0:
				offset = 5
			case rows + 1:
				offset = 6
			}
			g.loadOffset(letter, slideIn[i], offset, value+i)
		}
		for i := range 3 {
			g.op("ADD R%d, R%d, R%d", 23+i, 4+i, 4+i)
		}
	}
	begin := func(k, r int) { g.op("FMOVQ seed-24(SP), F%d", acc(k, r)) }
	// finish completes and stores output k, two rows at a time.
	finish := func(k int) {
		for first := 0; first < rows; first += 2 {
			pair := min(2, rows-first)
			for r := 0; r < pair && gated; r++ {
				g.loadOffset(letter, slideAdd[first/2], slideOffset[r], gates+r)
				g.loadOffset(letter, slideMul[first/2], slideOffset[r], gates+2+r)
			}
			for i, op := range []string{"FADD", "FMUL"} {
				for r := 0; r < pair && gated; r++ {
					g.v3(op, acc(k, first+r), acc(k, first+r), gates+2*i+r)
				}
			}
			for r := range pair {
				g.storeOffset(letter, slideOut[first/2], slideOffset[r], acc(k, first+r))
			}
		}
		for r := range min(2, rows) {
			g.op("ADD R12, R%d, R%d", slideOffset[r], slideOffset[r])
		}
	}
	// terms adds a column: the last of output k, the middle one of k+1, the first of
	// k+2.
	terms := func(k int, first bool) {
		begin(k+2, 0)
		for v := range rows + 2 { // input row by input row, so that the first need not wait for all
			if v+1 < rows {
				begin(k+2, v+1)
			}
			for r := range rows {
				t := v - r
				if t < 0 || t > 2 {
					continue
				}
				if !first {
					g.v3("FMLA", acc(k, r), 3*t+2, value+v)
				}
				g.v3("FMLA", acc(k+1, r), 3*t+1, value+v)
				g.v3("FMLA", acc(k+2, r), 3*t, value+v)
			}
		}
	}
	g.p("")
	g.p("start%s:", id)
	for r := range rows {
		begin(3, r)
	}
	loads()
	terms(2, true) // roles 3 = 0 and 4 = 1 are now in flight
	g.op("SUBS $1, R11, R11")
	g.op("BEQ end%s_0", id)
	loads()
	g.op("PCALIGN $16")
	g.p("loop%s:", id)
	for k := range 3 {
		terms(k, false)
		g.op("SUBS $1, R11, R11")
		g.op("BEQ end%s_%d", id, k+1)
		loads() // before this output is finished, so that neither waits
		finish(k)
	}
	g.op("B loop%s", id)
	for k := range 3 {
		g.p("end%s_%d:", id, k+1)
		finish(k)
		if k == 2 {
			g.p("end%s_0:", id)
		}
		finish(k + 1)
		g.op("B next%s", letter)
	}
}

// slide2 writes DWSlide2NEON: a row of a depthwise convolution of stride 2, two
// outputs at a time. Registers:
//
//	R0 R1 R2      the input rows at the current column; R4 distance of columns; R5 and
//	              R6 those of the first and the last row: 0 outside of the image
//	R7 R12        the output, distance of its columns; R11 outputs left
//	V0 .. V8      the weights
//	V9 .. V11     the column left of an output, which comes from the one before
//	V12 .. V20    the columns right of it
//	V21 .. V24    sums, two for each output: a chain of nine would be long
func (g *gen) slide2() {
	g.function("DWSlide2NEON", frame, "y, x, w, bias *float32, ldrow, ldx, ldy, ldw, ch, n, above, below, odd int")
	g.args("ldx", "R4", "ldy", "R12", "ldrow", "R8", "odd", "R9")
	g.op("LSL $2, R4, R4")
	g.op("LSL $2, R8, R8")
	g.op("LSL $2, R12, R12")
	g.channelLoop(func(letter string) {
		step := []int{5, 4, 6}
		load := func(column int) { // the left one of two
			for r := range 3 {
				g.op("FMOV%s (R%d), F%d", letter, r, column+r)
			}
		}
		load2 := func(column int) { // the right one
			for r := range 3 {
				g.loadOffset(letter, r, step[r], column+r)
				g.op("ADD R%d<<1, R%d, R%d", step[r], r, r)
			}
		}
		begin := func(sum int) {
			g.op("FMOVQ seed-24(SP), F%d", sum)
			g.op("VEOR V%d.B16, V%d.B16, V%d.B16", sum+1, sum+1, sum+1)
		}
		add := func(t, column, sum int) {
			for r := range 3 {
				g.v3("FMLA", sum+(t+r)%2, 3*r+t, column+r)
			}
		}
		put := func(sum int) {
			g.v3("FADD", sum, sum, sum+1)
			g.storeStep(letter, "R7", "R12", sum)
		}
		const left, a, b, c = 9, 12, 15, 18
		g.weights3x3(letter)
		g.args("y", "R7", "x", "R1", "n", "R11")
		g.op("SUB R9, R11, R11")
		g.op("ADD R13, R7, R7")
		g.op("ADD R13, R1, R1")
		g.op("SUB R8, R1, R0")
		g.op("ADD R8, R1, R2")
		g.op("MOVD R4, R5")
		g.op("MOVD R4, R6")
		g.outside("above", "R0", "R5", "above"+letter)
		g.outside("below", "R2", "R6", "below"+letter)
		for r := range 3 {
			g.op("VEOR V%d.B16, V%d.B16, V%d.B16", left+r, left+r, left+r)
		}
		g.op("SUBS $2, R11, R11")
		g.op("BLT one%s", letter)
		g.op("PCALIGN $16")
		g.p("loop%s:", letter)
		load(a)
		begin(21)
		begin(23)
		add(0, left, 21)
		load2(b)
		add(1, a, 21)
		load(c)
		add(2, b, 21)
		add(0, b, 23)
		load2(left)
		add(1, c, 23)
		put(21)
		add(2, left, 23)
		put(23)
		g.op("SUBS $2, R11, R11")
		g.op("BGE loop%s", letter)
		g.p("one%s:", letter)
		g.op("ADDS $2, R11, R11")
		g.op("BEQ odd%s", letter)
		load(a)
		begin(21)
		add(0, left, 21)
		load2(left)
		add(1, a, 21)
		add(2, left, 21)
		put(21)
		g.p("odd%s:", letter) // the last output, whose right column is outside
		g.op("CBZ R9, next%s", letter)
		load(a)
		begin(21)
		add(0, left, 21)
		add(1, a, 21)
		put(21)
	})
}

// dwtaps writes DWTapsNEON: a depthwise convolution of k x k taps that all exist, four
// pixels at a time, so that each weight is loaded once for four products, and each
// pixel of x too, as it slides through the four. Registers:
//
//	R0 R1         the first pixel in x and y; R4 R12 distance of pixels; R11 pixels left
//	R2 R3         x at the row and at the tap; R5 distance of rows
//	R6 R7         the weight, distance of weights
//	R8 R9 R10     rows and taps left, k
//	V0 .. V3      sums; V4 to V7 four neighbouring pixels; V16 the weight; V17 the bias
func (g *gen) dwtaps() {
	g.function("DWTapsNEON", frame, "y, x, w, bias *float32, ldrow, ldx, ldy, ldw, ch, n, k int")
	g.args("ldrow", "R5", "ldx", "R4", "ldy", "R12", "ldw", "R7", "k", "R10")
	for _, r := range []string{"R5", "R4", "R12", "R7"} {
		g.op("LSL $2, %s, %s", r, r)
	}
	g.channelLoop(func(letter string) {
		g.args("y", "R1", "x", "R0", "bias", "R15", "n", "R11")
		g.op("ADD R13, R0, R0")
		g.op("ADD R13, R1, R1")
		g.op("VEOR V17.B16, V17.B16, V17.B16")
		g.op("CBZ R15, nobias%s", letter)
		g.op("ADD R13, R15, R15")
		g.loadStep(letter, "R15", "R7", 17)
		g.p("nobias%s:", letter)
		for _, pixels := range []int{4, 1} {
			id := fmt.Sprintf("%s%d", letter, pixels)
			g.p("pixels%s:", id)
			g.op("CMP $%d, R11", pixels)
			g.op("BLT end%s", id)
			for i := range pixels {
				g.op("VMOV V17.B16, V%d.B16", i)
			}
			g.op("MOVD R0, R2")
			g.args("w", "R6")
			g.op("ADD R13, R6, R6")
			g.op("MOVD R10, R8")
			g.p("row%s:", id)
			g.op("MOVD R2, R3")
			g.op("MOVD R10, R9")
			for i := range pixels - 1 {
				g.loadStep(letter, "R3", "R4", 4+i)
			}
			g.op("PCALIGN $16")
			g.p("loop%s:", id)
			for t := range pixels {
				g.loadStep(letter, "R6", "R7", 16)
				g.loadStep(letter, "R3", "R4", 4+(t+pixels-1)%pixels)
				for i := range pixels {
					g.v3("FMLA", i, 16, 4+(t+i)%pixels)
				}
				g.op("SUBS $1, R9, R9")
				if t < pixels-1 {
					g.op("BEQ rowend%s", id)
				} else {
					g.op("BNE loop%s", id)
				}
			}
			g.p("rowend%s:", id)
			g.op("ADD R5, R2, R2")
			g.op("SUBS $1, R8, R8")
			g.op("BNE row%s", id)
			for i := range pixels {
				g.storeStep(letter, "R1", "R12", i)
				g.op("ADD R4, R0, R0")
			}
			g.op("SUB $%d, R11, R11", pixels)
			g.op("B pixels%s", id)
			g.p("end%s:", id)
		}
	})
}
