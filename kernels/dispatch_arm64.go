//go:build !purego

package kernels

import (
	"github.com/mila-go/mila/kernels/arm64"
	"github.com/mila-go/mila/kernels/generic"
	"golang.org/x/sys/cpu"
)

const hasAVX2, hasAVX512 = false, false

var hasNEON = cpu.ARM64.HasASIMD

// callWork bounds rows·K of one assembly call, which cannot be preempted, to some
// 30 µs on a large core and 100 µs on a small one.
const callWork = 1 << 15

// edgeRows is how many rows of the last, partial panel are computed at a time: a
// multiple of both MR; maxNR is the width of a panel.
const edgeRows, maxNR = 30, arm64.GemmNR

func (l Level) tileRows() int {
	if inOrder() {
		return arm64.GemmInOrderMR
	}
	return arm64.GemmMR
}

func gemmCall(l Level, y *float32, ldy int, x *float32, xr generic.Rows, w, bias, mul *float32, ldmul int, add *float32, ldadd, rows int, a Activation) {
	if inOrder() {
		arm64.GemmInOrderNEON(y, ldy, x, xr.Ld, xr.Segs, xr.SegLen, xr.SegStride, w, bias, mul, ldmul, add, ldadd, rows, int(a))
	} else {
		arm64.GemmNEON(y, ldy, x, xr.Ld, xr.Segs, xr.SegLen, xr.SegStride, w, bias, mul, ldmul, add, ldadd, rows, int(a))
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
	if ldy == cols && ldx == cols && rows > 1 {
		activateAll(l, a, y[:rows*cols], x[:rows*cols])
		return
	}
	for r := range rows {
		if cols == 0 {
			return
		}
		to, from := y[r*ldy:r*ldy+cols], x[r*ldx:r*ldx+cols]
		switch a {
		case Identity:
			copy(to, from)
		case ReLU:
			arm64.ReluNEON(&to[0], &from[0], cols)
		case SiLU:
			arm64.SiluNEON(&to[0], &from[0], cols)
		case GELU:
			arm64.GeluNEON(&to[0], &from[0], cols)
		case ELU1:
			arm64.Elu1NEON(&to[0], &from[0], cols)
		case fnExp:
			arm64.ExpNEON(&to[0], &from[0], cols)
		case fnSigmoid:
			arm64.SigmoidNEON(&to[0], &from[0], cols)
		case fnErf:
			arm64.ErfNEON(&to[0], &from[0], cols)
		case fnSoftplus:
			arm64.SoftplusNEON(&to[0], &from[0], cols)
		}
	}
}

func meanRowsCall(l Level, y, x *float32, ldx, rows, cols int, scale float32) {
	arm64.MeanRowsNEON(y, x, ldx, rows, cols, scale)
}

func layerNormCall(l Level, y *float32, ldy int, x *float32, ldx, rows, c int, gamma, beta *float32, eps float32, centre int) {
	arm64.LayerNormNEON(y, ldy, x, ldx, rows, c, gamma, beta, eps, centre)
}

func outerSumCall(l Level, kv *float32, ldkv int, k *float32, ldk int, v *float32, ldv, tokens, rows, cols int) {
	arm64.OuterSumNEON(kv, ldkv, k, ldk, v, ldv, tokens, rows, cols)
}

func rotateCall(l Level, y *float32, ldy int, x *float32, ldx int, table *float32, step, wrap, column, w, tokens, n int, scale, sum *float32) {
	arm64.RotateNEON(y, ldy, x, ldx, table, step, wrap, column, w, tokens, n, scale, sum)
}

// inverseCall leaves the tokens where they are.
func inverseCall(l Level, y, _, x *float32, ldx int, s *float32, tokens, n int, eps float32) bool {
	arm64.InverseNEON(y, x, ldx, s, tokens, n, eps)
	return false
}

// binaryVector computes y = a op b in calls of bounded length.
func binaryVector(l Level, y, a, b []float32, mul bool) {
	const most = callWork / 4
	for i := 0; i < len(y); i += most {
		n := min(most, len(y)-i)
		if mul {
			arm64.MulNEON(&y[i], &a[i], &b[i], n)
		} else {
			arm64.AddNEON(&y[i], &a[i], &b[i], n)
		}
	}
}

func multiplyAddsVector(l Level, n int) int {
	arm64.PeakNEON(n)
	return 16 * 4 * n
}
