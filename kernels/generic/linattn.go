package generic

import "github.com/mila-go/mila/kernels/ref"

// maxStackChannels is how many channels are rotated in a buffer on the stack;
// more take one allocation a call (MILA-B has 768).
const maxStackChannels = 1024

// rotateRow writes channels [c0, c1) of RoPE(x), and the other ones of their pairs,
// for token t of an (·, w) grid of height h.
func rotateRow(y, x, table []float32, h, w, t, c0, c1 int) {
	half := len(x) / 2
	c0, c1 = c0&^1, (c1+1)&^1
	i, j := t/w, t%w
	if mid := min(half, c1); c0 < mid {
		Rotate(y[c0:mid], x[c0:mid], table[i*half+c0:])
	}
	if mid := max(half, c0); mid < c1 {
		Rotate(y[mid:c1], x[mid:c1], table[(h+j)*half+mid-half:])
	}
}

// Rotate turns the pairs (a, b) of x by the (cos, sin) pairs of cs:
// y = (a cos - b sin, a sin + b cos). y may be x.
func Rotate(y, x, cs []float32) {
	y, cs = y[:len(x)], cs[:len(x)]
	for p := 0; p+1 < len(x); p += 2 {
		a, b, co, s := x[p], x[p+1], cs[p], cs[p+1]
		y[p], y[p+1] = a*co-b*s, a*s+b*co
	}
}

// LinAttnKV is ref.LinAttnKV with float32 sums, token by token.
func LinAttnKV(kv, ksum, k []float32, ldk int, v []float32, ldv int, rope []float32, s ref.LinAttnShape) {
	d, c := s.Dim, s.KeyChannels()
	h0, h1 := s.HeadRange()
	var stack [maxStackChannels]float32
	rot := scratch(stack[:], c)
	for t := s.T0; t < s.T1; t++ {
		kr, vr := k[t*ldk:t*ldk+c], v[t*ldv:t*ldv+s.Heads*d]
		for h := h0; h < h1; h++ {
			kh, kd := s.Key(h)
			key := kr[kh : kh+kd]
			if ksum != nil {
				for a, x := range key {
					ksum[h*kd+a] += x
				}
			}
			if rope != nil {
				rotateRow(rot, kr, rope, s.H, s.W, t, kh, kh+kd)
				key = rot[kh : kh+kd]
			}
			outer(kv[h*kd*d:(h+1)*kd*d], key, vr[h*d:(h+1)*d])
		}
	}
}

// outer adds the outer product: kv[a·d+b] += k[a] v[b].
func outer(kv, k, v []float32) {
	for a, x := range k {
		row := kv[a*len(v):]
		row = row[:len(v)]
		for b, y := range v {
			row[b] += x * y
		}
	}
}

// LinAttnReadout is ref.LinAttnReadout with float32 sums, token by token.
func LinAttnReadout(y []float32, ldy int, q []float32, ldq int, kv, ksum, rope []float32, s ref.LinAttnShape, eps float32) {
	d, c := s.Dim, s.KeyChannels()
	h0, h1 := s.HeadRange()
	var stack [maxStackChannels]float32
	rot := scratch(stack[:], c)
	for t := s.T0; t < s.T1; t++ {
		qr, yr := q[t*ldq:t*ldq+c], y[t*ldy:t*ldy+s.Heads*d]
		for h := h0; h < h1; h++ {
			kh, kd := s.Key(h)
			query, inv := qr[kh:kh+kd], float32(1)
			if ksum != nil {
				den := eps
				sums := ksum[h*kd : (h+1)*kd]
				for a, x := range query {
					den += x * sums[a]
				}
				inv = 1 / den
			}
			if rope != nil {
				rotateRow(rot, qr, rope, s.H, s.W, t, kh, kh+kd)
				query = rot[kh : kh+kd]
			}
			out := yr[h*d : (h+1)*d]
			clear(out)
			for a, x := range query {
				row := kv[(h*kd+a)*d : (h*kd+a+1)*d]
				row = row[:len(out)]
				for b := range out {
					out[b] += x * row[b]
				}
			}
			for b := range out {
				out[b] *= inv
			}
		}
	}
}

// scratch returns c floats: those of the caller's stack where they suffice.
func scratch(stack []float32, c int) []float32 {
	if c <= len(stack) {
		return stack[:c]
	}
	return make([]float32, c)
}
