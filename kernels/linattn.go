package kernels

import (
	"github.com/mila-go/mila/kernels/generic"
	"github.com/mila-go/mila/kernels/ref"
)

// LinAttnShape describes one image's tokens for linear attention; see the
// fields.
type LinAttnShape = ref.LinAttnShape

func checkLinAttn(op string, kv, ksum, rope []float32, s LinAttnShape) {
	checkDims(op, s.H, s.W)
	_, kd := s.Key(0)
	checkDims(op, s.Heads, kd, s.Dim)
	checkDims(op, s.H*s.W, s.Heads*s.Dim)
	checkDims(op, s.H*s.W, s.Heads*kd)
	checkTokens(op, s.H, s.W, s.T0, s.T1)
	if h0, h1 := s.HeadRange(); h0 < 0 || h0 > h1 || h1 > s.Heads {
		fail(op, "heads [%d, %d) are not among the %d", h0, h1, s.Heads)
	}
	checkLen(op, "kv", kv, s.Heads*kd*s.Dim)
	if ksum != nil {
		checkLen(op, "ksum", ksum, s.Heads*kd)
	}
	if rope != nil {
		checkLen(op, "rope", rope, RoPE2DLen(s.H, s.W, s.KeyChannels()))
	}
}

// LinAttnKV adds tokens [T0, T1) to the key-value state and to the sum of keys of
// the heads of s.HeadRange:
//
//	kv[h,a,b] += Σ_t RoPE(k)[t,h,a] · v[t,h,b]
//	ksum[h,a] += Σ_t k[t,h,a]                      (not rotated)
//
// kv is (Heads, KeyDim, Dim), key index first; ksum, (Heads, KeyDim), may be nil; k
// and v are tokens x channels, indexed by token from their start; rope is a table
// of [RoPE2DTable] for H x W and the channels of k, or nil for no rotation. The caller clears kv
// and ksum, or adds up states of several token ranges. Numerator and
// denominator of equations 2 and 4 of arXiv 2405.16605; the rotation is applied
// to the whole channel dimension before the split into heads, as in MILA.
// Outputs must not overlap inputs.
func LinAttnKV(l Level, kv, ksum, k []float32, ldk int, v []float32, ldv int, rope []float32, s LinAttnShape) {
	const op = "LinAttnKV"
	l = l.resolve(op)
	checkLinAttn(op, kv, ksum, rope, s)
	checkMatrix(op, "k", k, ldk, s.T1, s.KeyChannels())
	checkMatrix(op, "v", v, ldv, s.T1, s.Heads*s.Dim)
	if l.vectorHeads(s) {
		linAttnKVVector(l, kv, ksum, k, ldk, v, ldv, rope, s)
		return
	}
	generic.LinAttnKV(kv, ksum, k, ldk, v, ldv, rope, s)
}

// LinAttnReadout computes for tokens [T0, T1) and the heads h of s.HeadRange
//
//	y[t,h,b] = (Σ_a RoPE(q)[t,h,a] · kv[h,a,b]) / (Σ_a q[t,h,a] · ksum[h,a] + eps)
//
// with the normaliser from the unrotated query. With kv and ksum summed over
// all N tokens, eps = N·1e-6 gives MILA's form
// q (kᵀv / N) / (q · mean k + 1e-6), and eps = 0 equation 2 of arXiv 2405.16605.
// With ksum nil nothing is divided.
// y must not overlap the inputs.
func LinAttnReadout(l Level, y []float32, ldy int, q []float32, ldq int, kv, ksum, rope []float32, s LinAttnShape, eps float32) {
	const op = "LinAttnReadout"
	l = l.resolve(op)
	checkLinAttn(op, kv, ksum, rope, s)
	checkMatrix(op, "y", y, ldy, s.T1, s.Heads*s.Dim)
	checkMatrix(op, "q", q, ldq, s.T1, s.KeyChannels())
	if l.vectorHeads(s) {
		linAttnReadoutVector(l, y, ldy, q, ldq, kv, ksum, rope, s, eps)
		return
	}
	generic.LinAttnReadout(y, ldy, q, ldq, kv, ksum, rope, s, eps)
}

// vectorHeads reports whether level l has a fast path for heads of this size.
func (l Level) vectorHeads(s LinAttnShape) bool {
	_, kd := s.Key(0)
	return l != Generic && s.Dim > 0 && s.Dim <= maxHeadDim && kd > 0 && kd <= maxHeadDim && kd%2 == 0
}
