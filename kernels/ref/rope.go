package ref

import "math"

// RoPE2DTable fills table with the rotations of the 2-D rotary position
// encoding of an h x w grid of c channels, c a multiple of 4:
//
//	θ_p = base^(-p/(c/4)),  p = 0 .. c/4-1
//	row table    i·c/2 + 2p      = cos(i θ_p), + 1 = sin(i θ_p)   for i < h
//	column table (h+j)·c/2 + 2p  = cos(j θ_p), + 1 = sin(j θ_p)   for j < w
//
// len(table) = (h + w) * c/2.
func RoPE2DTable(table []float32, h, w, c int, base float64) {
	q := c / 4
	for p := range q {
		theta := math.Pow(base, -float64(p)/float64(q))
		for i := range h {
			s, co := math.Sincos(float64(i) * theta)
			table[i*2*q+2*p], table[i*2*q+2*p+1] = float32(co), float32(s)
		}
		for j := range w {
			s, co := math.Sincos(float64(j) * theta)
			table[(h+j)*2*q+2*p], table[(h+j)*2*q+2*p+1] = float32(co), float32(s)
		}
	}
}

// rotate returns channel ch of token t of RoPE(x), x being that token's
// channels. A nil table rotates by nothing.
func rotate(x, table []float32, h, w, c, t, ch int) float64 {
	if table == nil {
		return float64(x[ch])
	}
	half := c / 2
	row := table[(t/w)*half:]
	if ch >= half {
		row = table[(h+t%w)*half-half:] // so that index ch fits both halves
	}
	pair := ch &^ 1
	a, b := float64(x[pair]), float64(x[pair+1])
	co, s := float64(row[pair]), float64(row[pair+1])
	if ch == pair {
		return a*co - b*s
	}
	return a*s + b*co
}

// RoPE2D rotates the tokens [t0, t1) of an h x w grid, token t being at row t/w
// and column t%w. Channels (2p, 2p+1) form a pair (a, b) that becomes
//
//	(a cos - b sin, a sin + b cos)
//
// by the angle row·θ_p for pairs in the first half of the channels and
// column·θ_p for the second half (see [RoPE2DTable]).
func RoPE2D(y []float32, ldy int, x []float32, ldx int, table []float32, h, w, c, t0, t1 int) {
	for t := t0; t < t1; t++ {
		xr, yr := x[t*ldx:t*ldx+c], y[t*ldy:t*ldy+c]
		for ch := 0; ch < c; ch += 2 {
			a := rotate(xr, table, h, w, c, t, ch)
			b := rotate(xr, table, h, w, c, t, ch+1)
			yr[ch], yr[ch+1] = float32(a), float32(b)
		}
	}
}
