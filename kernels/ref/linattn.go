package ref

// LinAttnShape describes one image's tokens for linear attention. Tokens form
// an H x W grid (only RoPE cares; use H = 1 for a plain sequence); channels are
// split into Heads contiguous ranges of Dim channels.
type LinAttnShape struct {
	H, W       int
	Heads, Dim int
	T0, T1     int // tokens to process: [T0, T1) of H*W
	// Heads to process: [Head0, Head1), all where Head1 is 0. Nothing of other
	// heads is read or written; all slices begin at head 0 nevertheless.
	Head0, Head1 int
}

// HeadRange returns the heads to process.
func (s LinAttnShape) HeadRange() (h0, h1 int) {
	if s.Head1 == 0 {
		return s.Head0, s.Heads
	}
	return s.Head0, s.Head1
}

// LinAttnKV adds the tokens [T0, T1) to the key-value state and the key sum,
//
//	kv[h, a, b] += Σ_t RoPE(k)[t, h, a] · v[t, h, b]
//	ksum[h, a]  += Σ_t k[t, h, a]            (not rotated)
//
// kv being (Heads, Dim, Dim) with the key index before the value index. rope is
// a table of [RoPE2DTable], or nil for no rotation. Equations 2 and 4 of arXiv
// 2405.16605.
func LinAttnKV(kv, ksum, k []float32, ldk int, v []float32, ldv int, rope []float32, s LinAttnShape) {
	d, c := s.Dim, s.Heads*s.Dim
	h0, h1 := s.HeadRange()
	sum := make([]float64, d*d)
	for h := h0; h < h1; h++ {
		clear(sum)
		for t := s.T0; t < s.T1; t++ {
			kr, vr := k[t*ldk:t*ldk+c], v[t*ldv+h*d:t*ldv+h*d+d]
			for a := range d {
				ka := rotate(kr, rope, s.H, s.W, c, t, h*d+a)
				row := sum[a*d : a*d+d]
				for b, vb := range vr {
					row[b] += ka * float64(vb)
				}
			}
		}
		for i, v := range sum {
			kv[h*d*d+i] = float32(float64(kv[h*d*d+i]) + v)
		}
	}
	for a := h0 * d; a < h1*d; a++ {
		acc := float64(ksum[a])
		for t := s.T0; t < s.T1; t++ {
			acc += float64(k[t*ldk+a])
		}
		ksum[a] = float32(acc)
	}
}

// LinAttnReadout computes for the tokens [T0, T1)
//
//	y[t, h, b] = (Σ_a RoPE(q)[t, h, a] · kv[h, a, b]) / (Σ_a q[t, h, a] · ksum[h, a] + eps)
//
// with the numerator rotated and the normaliser not. With kv and ksum summed over all
// N tokens this is the mean form q·mean(kᵀv) / (q·mean(k) + ε) for eps = N·ε.
func LinAttnReadout(y []float32, ldy int, q []float32, ldq int, kv, ksum, rope []float32, s LinAttnShape, eps float32) {
	d, c := s.Dim, s.Heads*s.Dim
	h0, h1 := s.HeadRange()
	rot, out := make([]float64, d), make([]float64, d)
	for t := s.T0; t < s.T1; t++ {
		qr := q[t*ldq : t*ldq+c]
		for h := h0; h < h1; h++ {
			den := float64(eps)
			for a := range d {
				rot[a] = rotate(qr, rope, s.H, s.W, c, t, h*d+a)
				den += float64(qr[h*d+a]) * float64(ksum[h*d+a])
			}
			clear(out)
			for a, qa := range rot {
				row := kv[(h*d+a)*d : (h*d+a)*d+d]
				for b, v := range row {
					out[b] += qa * float64(v)
				}
			}
			for b, v := range out {
				y[t*ldy+h*d+b] = float32(v / den)
			}
		}
	}
}
