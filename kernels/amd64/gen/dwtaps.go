package main

import "fmt"

// dwtaps writes DWTaps<level>: a vector of channels of n neighbouring pixels of a
// depthwise convolution of k x k taps, four pixels at a time, so that each weight
// is loaded once for four products.
//
// Registers: DI y, SI x of the first pixel, R8 R9 R10 bytes between rows, pixels,
// three pixels of x, R11 between taps; CX pixels left, DX row of x, AX x and BX w
// at the tap, R12 R13 rows and taps left; V0 to V3 sums, V4 the weight, V5 a pixel,
// V8 the bias, V7 (K1) the mask of the channels.
func (g *gen) dwtaps() {
	g.p("// func DWTaps%s(y, x, w, bias *float32, ldrow, ldx, ldy, ldw, lanes, n, k int)", g.name)
	g.p("TEXT ·DWTaps%s(SB), 0, $128-88", g.name)
	g.op("VXORPS X8, X8, X8")
	g.op("MOVQ lanes+64(FP), CX")
	g.partMask("CX", "AX", 7)
	g.op("MOVQ bias+24(FP), AX")
	g.op("TESTQ AX, AX")
	g.op("JZ unbiased")
	g.loadTail("(AX)", 7, 8)
	g.p("unbiased:")
	for _, a := range [][2]string{{"y+0", "DI"}, {"x+8", "SI"}, {"ldrow+32", "R8"}, {"ldx+40", "R9"}, {"ldw+56", "R11"}, {"n+72", "CX"}} {
		g.op("MOVQ %s(FP), %s", a[0], a[1])
	}
	for _, r := range []string{"R8", "R9", "R11"} {
		g.op("SHLQ $2, %s", r)
	}
	g.op("LEAQ (R9)(R9*2), R10")
	for _, pixels := range []int{4, 1} {
		for _, full := range []bool{true, false} {
			g.dwtapsBody(pixels, full)
		}
	}
	g.p("end:")
	g.op("VZEROUPPER")
	g.op("RET")
}

func (g *gen) dwtapsBody(pixels int, full bool) {
	name := fmt.Sprintf("p%d%v", pixels, full)
	// The body for full vectors is passed by where there are fewer channels.
	if full {
		g.op("CMPQ lanes+64(FP), $%d", g.vb/4)
		g.op("JLT %send", name)
	}
	g.p("%s:", name)
	g.op("CMPQ CX, $%d", pixels)
	g.op("JLT %send", name)
	for i := range pixels {
		g.op("VMOVAPS %s, %s", g.v(8), g.v(i))
	}
	g.op("MOVQ SI, DX")
	g.op("MOVQ w+16(FP), BX")
	g.op("MOVQ k+80(FP), R12")
	g.p("%srow:", name)
	g.op("MOVQ DX, AX")
	g.op("MOVQ k+80(FP), R13")
	g.op("PCALIGN $32")
	g.p("%stap:", name)
	at := []string{"(AX)", "(AX)(R9*1)", "(AX)(R9*2)", "(AX)(R10*1)"}
	if full {
		g.op("VMOVUPS (BX), %s", g.v(4))
	} else {
		g.loadTail("(BX)", 7, 4)
	}
	for i := range pixels {
		if full {
			g.op("VFMADD231PS %s, %s, %s", at[i], g.v(4), g.v(i))
		} else {
			g.loadTail(at[i], 7, 5)
			g.v3("VFMADD231PS", 5, 4, i)
		}
	}
	g.op("ADDQ R9, AX")
	g.op("ADDQ R11, BX")
	g.op("DECQ R13")
	g.op("JNZ %stap", name)
	g.op("ADDQ R8, DX")
	g.op("DECQ R12")
	g.op("JNZ %srow", name)
	g.op("MOVQ ldy+48(FP), AX")
	g.op("SHLQ $2, AX")
	for i := range pixels {
		if full {
			g.op("VMOVUPS %s, (DI)", g.v(i))
		} else {
			g.storeTail(i, 7, "(DI)")
		}
		g.op("ADDQ AX, DI")
		g.op("ADDQ R9, SI")
	}
	g.op("SUBQ $%d, CX", pixels)
	g.op("JMP %s", name)
	g.p("%send:", name)
}
