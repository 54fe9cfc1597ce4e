package ref

// LinAttnShape describes one image's tokens for linear attention. Tokens form
// an H x W grid (only RoPE cares; use H = 1 for a plain sequence); channels are
// split into Heads contiguous ranges of Dim channels.
type LinAttnShape struct {
	H, W       int
	Heads, Dim int
	// Channels of a head's query and key; 0 means Dim, that of its value.
	KeyDim int
	// SharedKeys makes all heads read the same KeyDim channels of q and k: one head
	// of many value channels, as in Mamba, is one of so many heads.
	SharedKeys bool
	T0, T1     int // tokens to process: [T0, T1) of H*W
	// Heads to process: [Head0, Head1), all where Head1 is 0. Nothing of other
	// heads is read or written; all slices begin at head 0 nevertheless.
	Head0, Head1 int
}

// Key returns a head's first channel in q and k, and the number of its channels.
func (s LinAttnShape) Key(head int) (ch, dim int) {
	if dim = s.KeyDim; dim == 0 {
		dim = s.Dim
	}
	if s.SharedKeys {
		return 0, dim
	}
	return head * dim, dim
}

// KeyChannels returns how many channels q and k have.
func (s LinAttnShape) KeyChannels() int {
	ch, dim := s.Key(s.Heads - 1)
	return ch + dim
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
// kv being (Heads, KeyDim, Dim), key index first, and ksum (Heads, KeyDim), or nil
// where it is not wanted. rope is a table of [RoPE2DTable] for the channels of k,
// or nil for no rotation. Equations 2 and 4 of arXiv 2405.16605.
func LinAttnKV(kv, ksum, k []float32, ldk int, v []float32, ldv int, rope []float32, s LinAttnShape) {
	d, c := s.Dim, s.KeyChannels()
	h0, h1 := s.HeadRange()
	for h := h0; h < h1; h++ {
		kh, kd := s.Key(h)
		sum := make([]float64, kd*d)
		for t := s.T0; t < s.T1; t++ {
			kr, vr := k[t*ldk:t*ldk+c], v[t*ldv+h*d:t*ldv+h*d+d]
			for a := range kd {
				ka := rotate(kr, rope, s.H, s.W, c, t, kh+a)
				row := sum[a*d : a*d+d]
				for b, vb := range vr {
					row[b] += ka * float64(vb)
				}
			}
		}
		for i, v := range sum {
			kv[h*kd*d+i] = float32(float64(kv[h*kd*d+i]) + v)
		}
		if ksum == nil {
			continue
		}
		for a := range kd {
			acc := float64(ksum[h*kd+a])
			for t := s.T0; t < s.T1; t++ {
				acc += float64(k[t*ldk+kh+a])
			}
			ksum[h*kd+a] = float32(acc)
		}
	}
}

// LinAttnReadout computes for the tokens [T0, T1)
//
//	y[t, h, b] = (Σ_a RoPE(q)[t, h, a] · kv[h, a, b]) / (Σ_a q[t, h, a] · ksum[h, a] + eps)
//
// with the numerator rotated and the normaliser not, or without normaliser where
// ksum is nil. With kv and ksum summed over all
// N tokens this is the mean form q·mean(kᵀv) / (q·mean(k) + ε) for eps = N·ε.
func LinAttnReadout(y []float32, ldy int, q []float32, ldq int, kv, ksum, rope []float32, s LinAttnShape, eps float32) {
	d, c := s.Dim, s.KeyChannels()
	h0, h1 := s.HeadRange()
	out := make([]float64, d)
	for t := s.T0; t < s.T1; t++ {
		qr := q[t*ldq : t*ldq+c]
		for h := h0; h < h1; h++ {
			kh, kd := s.Key(h)
			den := float64(eps)
			clear(out)
			for a := range kd {
				qa := rotate(qr, rope, s.H, s.W, c, t, kh+a)
				row := kv[(h*kd+a)*d : (h*kd+a)*d+d]
				for b, v := range row {
					out[b] += qa * float64(v)
				}
				if ksum != nil {
					den += float64(qr[kh+a]) * float64(ksum[h*kd+a])
				}
			}
			if ksum == nil {
				den = 1
			}
			for b, v := range out {
				y[t*ldy+h*d+b] = float32(v / den)
			}
		}
	}
}
