//go:build (amd64 || arm64) && !purego

package kernels

import "github.com/mila-go/mila/kernels/generic"

// outerSumVector needs tokens·rows of a bounded size: a call cannot be preempted.
func outerSumVector(l Level, y []float32, ldy int, k []float32, ldk int, v []float32, ldv, tokens, rows, cols int) {
	nr := l.panel()
	for b := 0; b < cols; b += nr {
		outerSumCall(l, &y[b], ldy, &k[0], ldk, &v[b], ldv, tokens, rows, min(nr, cols-b))
	}
}

// Linear attention runs head by head over blocks of tokens, whose rotated keys or
// queries lie in a buffer on the stack that stays in the L1 cache.
const (
	tokenBlock = 64
	maxHeadDim = 64 // larger heads, and odd ones, take the portable loops
	blockSize  = 2048
)

// blockTokens is how many tokens of heads with kd channels a block has: no more
// than blockSize channels, since Go clears the buffer at every call.
func blockTokens(kd int) int { return min(tokenBlock, blockSize/kd) }

// unrotated is a rotation table by angle 0.
var unrotated = func() (t [maxHeadDim]float32) {
	for i := 0; i < len(t); i += 2 {
		t[i] = 1
	}
	return t
}()

// rotateHead rotates the d channels from ch on of the tokens [t0, t0+n), of which x
// begins with the first, into the dense rows y, which may be x. Channels below half
// of all take the table of the token's row, the others that of its column; a head may
// have both.
func rotateHead(l Level, y, x []float32, ldx int, rope []float32, s LinAttnShape, t0, n, ch, d int, scale *float32, sum []float32) {
	part := func(from, to int, table *float32, step, wrap int) {
		column := t0 % s.W
		rotateCall(l, &y[from], d, &x[from], ldx, table, step, wrap, column, s.W, n, to-from, scale, orNil(sum, from))
	}
	if rope == nil {
		part(0, d, &unrotated[0], 0, 0)
		return
	}
	half := s.KeyChannels() / 2
	mid := min(max(0, half-ch), d)
	if mid > 0 {
		part(0, mid, &rope[t0/s.W*half+ch], 0, half)
	}
	if mid < d {
		part(mid, d, &rope[(s.H+t0%s.W)*half+ch+mid-half], half, -s.W*half)
	}
}

func linAttnKVVector(l Level, kv, ksum, k []float32, ldk int, v []float32, ldv int, rope []float32, s LinAttnShape) {
	var keys [blockSize]float32
	d, nr := s.Dim, l.panel()
	h0, h1 := s.HeadRange()
	for h := h0; h < h1; h++ {
		ch, kd := s.Key(h)
		var sum []float32
		if ksum != nil {
			sum = ksum[h*kd : (h+1)*kd]
		}
		block := blockTokens(kd)
		for t0 := s.T0; t0 < s.T1; t0 += block {
			n := min(block, s.T1-t0)
			if rope != nil || sum != nil {
				rotateHead(l, keys[:], k[t0*ldk+ch:], ldk, rope, s, t0, n, ch, kd, nil, sum)
			}
			rows, ld := &keys[0], kd
			if rope == nil {
				rows, ld = &k[t0*ldk+ch], ldk // infinite keys stay infinite: 0 times them would be NaN
			}
			for b := 0; b < d; b += nr {
				outerSumCall(l, &kv[h*kd*d+b], d, rows, ld, &v[t0*ldv+h*d+b], ldv, n, kd, min(nr, d-b))
			}
		}
	}
}

// linAttnReadoutVector works on the state of a head as a packed panel, which it is
// where the head has NR channels.
func linAttnReadoutVector(l Level, y []float32, ldy int, q []float32, ldq int, kv, ksum, rope []float32, s LinAttnShape, eps float32) {
	if s.Dim == l.panel() {
		readoutHeads(l, y, ldy, q, ldq, kv, ksum, rope, s, eps, nil)
		return
	}
	var packed [maxHeadDim * maxHeadDim]float32
	readoutHeads(l, y, ldy, q, ldq, kv, ksum, rope, s, eps, packed[:])
}

func readoutHeads(l Level, y []float32, ldy int, q []float32, ldq int, kv, ksum, rope []float32, s LinAttnShape, eps float32, packed []float32) {
	var queries [blockSize]float32
	var inverse [tokenBlock]float32
	d, nr := s.Dim, l.panel()
	h0, h1 := s.HeadRange()
	for h := h0; h < h1; h++ {
		ch, kd := s.Key(h)
		xr := generic.Rows{Ld: kd, Segs: 1, SegLen: kd}
		state := kv[h*kd*d : (h+1)*kd*d]
		if packed != nil {
			for b := 0; b < d; b += nr {
				cols := min(nr, d-b)
				scaleRowsVector(l, packed[b*kd:], nr, state[b:], d, kd, cols, ones[:])
				for a := range kd {
					clear(packed[b*kd+a*nr+cols : b*kd+(a+1)*nr])
				}
			}
			state = packed
		}
		block := blockTokens(kd)
		for t0 := s.T0; t0 < s.T1; t0 += block {
			n := min(block, s.T1-t0)
			from, ld := q[t0*ldq+ch:], ldq
			var inv *float32
			if ksum != nil {
				inv = &inverse[0]
				if inverseCall(l, inv, &queries[0], &from[0], ldq, &ksum[h*kd], n, kd, eps) {
					from, ld = queries[:], kd
				}
			}
			rotateHead(l, queries[:], from, ld, rope, s, t0, n, ch, kd, inv, nil)
			for b := 0; b < d; b += nr {
				out := y[t0*ldy+h*d+b:]
				if d-b >= nr {
					gemmCall(l, &out[0], ldy, &queries[0], xr, &state[b*kd], nil, nil, 0, nil, 0, n, Identity)
				} else {
					gemmEdge(l, out, ldy, queries[:], xr, &state[b*kd], n, 0, d-b, &Epilogue{})
				}
			}
		}
	}
}
