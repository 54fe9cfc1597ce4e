//go:build !purego

package kernels

import (
	"github.com/mila-go/mila/kernels/amd64"
	"github.com/mila-go/mila/kernels/generic"
	"golang.org/x/sys/cpu"
)

// x/sys/cpu also asks the operating system whether it saves the registers.
var (
	hasAVX2   = cpu.X86.HasAVX2 && cpu.X86.HasFMA
	hasAVX512 = hasAVX2 && cpu.X86.HasAVX512F && cpu.X86.HasAVX512CD && cpu.X86.HasAVX512BW && cpu.X86.HasAVX512DQ && cpu.X86.HasAVX512VL
)

const hasNEON = false

// callWork bounds rows·K of one assembly call, which cannot be preempted, to
// some 80 µs.
const callWork = 1 << 17

// edgeRows is how many rows of the last, partial panel are computed at a time: a
// multiple of both MR; maxNR is the widest panel.
const edgeRows, maxNR = 42, amd64.GemmAVX512NR

// tileRows returns MR.
func (l Level) tileRows() int {
	if l == AVX2 {
		return amd64.GemmAVX2MR
	}
	return amd64.GemmAVX512MR
}

func gemmCall(l Level, y *float32, ldy int, x *float32, xr generic.Rows, w, bias, mul *float32, ldmul int, add *float32, ldadd, rows int, a Activation) {
	if l == AVX512 {
		amd64.GemmAVX512(y, ldy, x, xr.Ld, xr.Segs, xr.SegLen, xr.SegStride, w, bias, mul, ldmul, add, ldadd, rows, int(a))
	} else {
		amd64.GemmAVX2(y, ldy, x, xr.Ld, xr.Segs, xr.SegLen, xr.SegStride, w, bias, mul, ldmul, add, ldadd, rows, int(a))
	}
}

// The numbers of the vector functions beyond the activations of an epilogue.
const (
	fnExp Activation = iota + 32
	fnSigmoid
	fnErf
	fnSoftplus
)

// activateVector applies a to rows x cols elements; y may be x.
func activateVector(l Level, a Activation, y []float32, ldy int, x []float32, ldx, rows, cols int) {
	if rows == 0 || cols == 0 {
		return
	}
	if a == Identity {
		for r := range rows {
			copy(y[r*ldy:r*ldy+cols], x[r*ldx:r*ldx+cols])
		}
		return
	}
	_, _ = y[(rows-1)*ldy+cols-1], x[(rows-1)*ldx+cols-1]
	yp, xp := &y[0], &x[0]
	if l == AVX512 {
		switch a {
		case ReLU:
			amd64.ReluAVX512(yp, ldy, xp, ldx, rows, cols)
		case SiLU:
			amd64.SiluAVX512(yp, ldy, xp, ldx, rows, cols)
		case GELU:
			amd64.GeluAVX512(yp, ldy, xp, ldx, rows, cols)
		case ELU1:
			amd64.Elu1AVX512(yp, ldy, xp, ldx, rows, cols)
		case fnExp:
			amd64.ExpAVX512(yp, ldy, xp, ldx, rows, cols)
		case fnSigmoid:
			amd64.SigmoidAVX512(yp, ldy, xp, ldx, rows, cols)
		case fnErf:
			amd64.ErfAVX512(yp, ldy, xp, ldx, rows, cols)
		case fnSoftplus:
			amd64.SoftplusAVX512(yp, ldy, xp, ldx, rows, cols)
		}
		return
	}
	switch a {
	case ReLU:
		amd64.ReluAVX2(yp, ldy, xp, ldx, rows, cols)
	case SiLU:
		amd64.SiluAVX2(yp, ldy, xp, ldx, rows, cols)
	case GELU:
		amd64.GeluAVX2(yp, ldy, xp, ldx, rows, cols)
	case ELU1:
		amd64.Elu1AVX2(yp, ldy, xp, ldx, rows, cols)
	case fnExp:
		amd64.ExpAVX2(yp, ldy, xp, ldx, rows, cols)
	case fnSigmoid:
		amd64.SigmoidAVX2(yp, ldy, xp, ldx, rows, cols)
	case fnErf:
		amd64.ErfAVX2(yp, ldy, xp, ldx, rows, cols)
	case fnSoftplus:
		amd64.SoftplusAVX2(yp, ldy, xp, ldx, rows, cols)
	}
}

// dwconvVector is generic.DWConv3x3 at level AVX2 or AVX512.
func dwconvVector(l Level, y, x, w9, bias []float32, s DWShape, d generic.DW) {
	if s.Stride == 1 {
		dwslide(l, y, x, w9, bias, s, d)
		if d.Act == Identity || d.Act == ReLU || d.Act == SiLU {
			return
		}
	} else {
		dwpixels(l, y, x, w9, bias, s)
	}
	for i := s.Row0 * s.OutW(); i < s.Row1*s.OutW(); i++ {
		out := y[i*s.LdY : i*s.LdY+s.Ch]
		activateAll(l, d.Act, out, out)
	}
}

// dwslide computes a few rows at a time at stride 1, and some channels at a time
// where rows are long.
func dwslide(l Level, y, x, w9, bias []float32, s DWShape, d generic.DW) {
	const plain, relu, silu, addMul = 0, 1, 2, 3
	mode := plain
	switch {
	case d.Add != nil:
		mode = addMul
	case d.Act == ReLU:
		mode = relu
	case d.Act == SiLU:
		mode = silu
	}
	most := amd64.DWSlideAVX512Rows
	if l == AVX2 {
		most = amd64.DWSlideAVX2Rows
	}
	rows := s.Row1 - s.Row0
	groups := (rows + most - 1) / most
	part := max(1, callWork/most/s.W/64) * 64
	for g := range groups {
		i, end := s.Row0+rows*g/groups, s.Row0+rows*(g+1)/groups
		above, below := flag(i > 0), flag(end < s.H)
		for c := 0; c < s.Ch; c += part {
			at := i*s.W*s.LdY + c
			var add, mul *float32
			if mode == addMul {
				add, mul = &d.Add[at], &d.Mul[at]
			}
			b, n := orNil(bias, c), min(part, s.Ch-c)
			if l == AVX512 {
				amd64.DWSlideAVX512(&y[at], &x[i*s.W*s.LdX+c], &w9[c], b, add, mul, s.LdX, s.LdY, s.LdW, n, s.W, end-i, above, below, flag(d.Residual), mode)
			} else {
				amd64.DWSlideAVX2(&y[at], &x[i*s.W*s.LdX+c], &w9[c], b, add, mul, s.LdX, s.LdY, s.LdW, n, s.W, end-i, above, below, flag(d.Residual), mode)
			}
		}
	}
}

// dwpixels computes rows at any stride: each is an interior whose taps all exist
// and up to two border pixels that lack some.
func dwpixels(l Level, y, x, w9, bias []float32, s DWShape) {
	var b *float32
	if bias != nil {
		b = &bias[0]
	}
	h, w, ld, stride, ow := s.H, s.W, s.LdX, s.Stride, s.OutW()
	most := max(1, callWork/s.Ch)
	for i := s.Row0; i < s.Row1; i++ {
		u := i*stride - 1
		r0, r1 := max(0, -u), min(3, h-u)
		xRow, wRow := (u+r0)*w*ld, 3*r0*s.LdW
		// pixels computes output pixels [j, j+n), whose taps [t0, t1) exist.
		pixels := func(j, n, t0, t1 int) {
			at := (i*ow + j) * s.LdY
			src, wt := &x[xRow+(j*stride-1+t0)*ld], &w9[wRow+t0*s.LdW]
			if l == AVX512 {
				amd64.DWConvAVX512(&y[at], src, wt, b, w*ld, stride*ld, ld, s.LdY, s.LdW, s.Ch, n, r1-r0, t1-t0)
			} else {
				amd64.DWConvAVX2(&y[at], src, wt, b, w*ld, stride*ld, ld, s.LdY, s.LdW, s.Ch, n, r1-r0, t1-t0)
			}
		}
		pixels(0, 1, 1, min(3, w+1))
		inner := max(1, (w-2)/stride+1) // the first pixel beyond the interior
		for j := 1; j < inner; j += most {
			pixels(j, min(most, inner-j), 0, 3)
		}
		for j := inner; j < ow; j++ {
			pixels(j, 1, 0, w-(j*stride-1))
		}
	}
}

// dwvalidVector is generic.DWValid at level AVX2 or AVX512.
func dwvalidVector(l Level, y, x, w, bias []float32, s DWValidShape) {
	vector := 16
	if l == AVX2 {
		vector = 8
	}
	most := max(1, callWork/(s.K*s.K*vector))
	for i := range s.OutH {
		for c := 0; c < s.Ch; c += vector {
			lanes := min(vector, s.Ch-c)
			for j := 0; j < s.OutW; j += most {
				n := min(most, s.OutW-j)
				out, in := &y[(i*s.OutW+j)*s.LdY+c], &x[i*s.RowX+j*s.LdX+c]
				if l == AVX512 {
					amd64.DWTapsAVX512(out, in, &w[c], orNil(bias, c), s.RowX, s.LdX, s.LdY, s.Ch, lanes, n, s.K)
				} else {
					amd64.DWTapsAVX2(out, in, &w[c], orNil(bias, c), s.RowX, s.LdX, s.LdY, s.Ch, lanes, n, s.K)
				}
			}
		}
	}
}

func scaleRowsCall(l Level, y *float32, ldy int, x *float32, ldx, rows, cols int, s *float32) {
	if l == AVX512 {
		amd64.ScaleRowsAVX512(y, ldy, x, ldx, rows, cols, s)
	} else {
		amd64.ScaleRowsAVX2(y, ldy, x, ldx, rows, cols, s)
	}
}

func transposeSquares(dst *float32, ldd int, src *float32, lds, rows, cols int) {
	amd64.TransposeAVX2(dst, ldd, src, lds, rows, cols)
}

func meanRowsCall(l Level, y, x *float32, ldx, rows, cols int, scale float32) {
	if l == AVX512 {
		amd64.MeanRowsAVX512(y, x, ldx, rows, cols, scale)
	} else {
		amd64.MeanRowsAVX2(y, x, ldx, rows, cols, scale)
	}
}

func layerNormCall(l Level, y *float32, ldy int, x *float32, ldx, rows, c int, gamma, beta *float32, eps float32, centre int) {
	if l == AVX512 {
		amd64.LayerNormAVX512(y, ldy, x, ldx, rows, c, gamma, beta, eps, centre)
	} else {
		amd64.LayerNormAVX2(y, ldy, x, ldx, rows, c, gamma, beta, eps, centre)
	}
}

func outerSumCall(l Level, kv *float32, ldkv int, k *float32, ldk int, v *float32, ldv, tokens, rows, cols int) {
	if l == AVX512 {
		amd64.OuterSumAVX512(kv, ldkv, k, ldk, v, ldv, tokens, rows, cols)
	} else {
		amd64.OuterSumAVX2(kv, ldkv, k, ldk, v, ldv, tokens, rows, cols)
	}
}

func rotateCall(l Level, y *float32, ldy int, x *float32, ldx int, table *float32, step, wrap, column, w, tokens, n int, scale, sum *float32) {
	if l == AVX512 {
		amd64.RotateAVX512(y, ldy, x, ldx, table, step, wrap, column, w, tokens, n, scale, sum)
	} else {
		amd64.RotateAVX2(y, ldy, x, ldx, table, step, wrap, column, w, tokens, n, scale, sum)
	}
}

// inverseCall also copies the tokens to dense rows, and says so.
func inverseCall(l Level, y, dense, x *float32, ldx int, s *float32, tokens, n int, eps float32) bool {
	if l == AVX512 {
		amd64.InverseAVX512(y, dense, x, ldx, s, tokens, n, eps)
	} else {
		amd64.InverseAVX2(y, dense, x, ldx, s, tokens, n, eps)
	}
	return true
}

// binaryVector computes y = a op b in calls of bounded length.
func binaryVector(l Level, y, a, b []float32, mul bool) {
	const most = 1 << 15
	for i := 0; i < len(y); i += most {
		n := min(most, len(y)-i)
		switch {
		case l == AVX512 && mul:
			amd64.MulAVX512(&y[i], &a[i], &b[i], n)
		case l == AVX512:
			amd64.AddAVX512(&y[i], &a[i], &b[i], n)
		case mul:
			amd64.MulAVX2(&y[i], &a[i], &b[i], n)
		default:
			amd64.AddAVX2(&y[i], &a[i], &b[i], n)
		}
	}
}

func multiplyAddsVector(l Level, n int) int {
	if l == AVX512 {
		amd64.PeakAVX512(n)
		return 12 * 16 * n
	}
	amd64.PeakAVX2(n)
	return 12 * 8 * n
}
