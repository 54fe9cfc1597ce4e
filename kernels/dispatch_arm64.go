//go:build !purego

package kernels

import (
	"unsafe"

	"github.com/mila-go/mila/kernels/arm64"
	"github.com/mila-go/mila/kernels/generic"
	"github.com/mila-go/mila/kernels/ref"
	"golang.org/x/sys/cpu"
)

const hasAVX2, hasAVX512 = false, false

var hasNEON = cpu.ARM64.HasASIMD

// edgeRows is how many rows are computed at a time where a product goes through a
// tile on the stack; maxNR is the width of a panel.
const edgeRows, maxNR = 32, arm64.GemmNR

func (l Level) tileRows() int { return arm64.GemmMR }

// gemmCall multiplies rows by one panel. Activations but ReLU go through a tile on
// the stack.
func gemmCall(l Level, y *float32, ldy int, x *float32, xr generic.Rows, w, bias, mul *float32, ldmul int, add *float32, ldadd, rows int, a Activation) {
	if a == Identity || a == ReLU {
		arm64.GemmNEON(y, ldy, x, xr.Ld, xr.Segs, xr.SegLen, xr.SegStride, w, bias, mul, ldmul, add, ldadd, rows, int(a))
		return
	}
	const nr = arm64.GemmNR
	var tile [edgeRows * nr]float32
	for i := 0; i < rows; i += edgeRows {
		n := min(edgeRows, rows-i)
		arm64.GemmNEON(&tile[0], nr, advance(x, i*xr.Ld), xr.Ld, xr.Segs, xr.SegLen, xr.SegStride, w, bias, nil, 0, nil, 0, n, 0)
		activateAll(l, a, tile[:n*nr], tile[:n*nr])
		arm64.FinishNEON(advance(y, i*ldy), ldy, &tile[0], advance(mul, i*ldmul), ldmul, advance(add, i*ldadd), ldadd, n)
	}
}

// advance returns the address n elements on; nil stays nil.
func advance(p *float32, n int) *float32 {
	if p == nil {
		return nil
	}
	return (*float32)(unsafe.Add(unsafe.Pointer(p), 4*n))
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

// binaryVector computes y = a op b in calls of bounded length.
func binaryVector(l Level, y, a, b []float32, mul bool) {
	const most = 1 << 15
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

// What has no assembly here yet runs as at level Generic.

// maxHeadDim 0 leaves linear attention to its portable form.
const maxHeadDim = 0

func dwconvVector(l Level, y, x, w9, bias []float32, s DWShape, d generic.DW) {
	generic.DWConv3x3(y, x, w9, bias, s, d)
}

func dwvalidVector(l Level, y, x, w, bias []float32, s DWValidShape) {
	generic.DWValid(y, x, w, bias, s)
}

func layerNormVector(l Level, y []float32, ldy int, x []float32, ldx, rows, c int, gamma, beta []float32, eps float32, centre int) {
	if centre == 0 {
		ref.RMSNorm(y, ldy, x, ldx, rows, c, gamma, eps)
		return
	}
	ref.LayerNorm(y, ldy, x, ldx, rows, c, gamma, beta, eps)
}

func meanRowsVector(l Level, dst, x []float32, ldx, rows, c int) { ref.MeanRows(dst, x, ldx, rows, c) }

func outerSumVector(l Level, y []float32, ldy int, k []float32, ldk int, v []float32, ldv, tokens, rows, cols int) {
	generic.OuterSum(y, ldy, k, ldk, v, ldv, tokens, rows, cols)
}

func linAttnKVVector(l Level, kv, ksum, k []float32, ldk int, v []float32, ldv int, rope []float32, s LinAttnShape) {
	generic.LinAttnKV(kv, ksum, k, ldk, v, ldv, rope, s)
}

func linAttnReadoutVector(l Level, y []float32, ldy int, q []float32, ldq int, kv, ksum, rope []float32, s LinAttnShape, eps float32) {
	generic.LinAttnReadout(y, ldy, q, ldq, kv, ksum, rope, s, eps)
}
