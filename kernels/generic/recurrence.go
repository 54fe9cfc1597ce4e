package generic

// ScaleRows computes y[r, c] = x[r, c] · s[r]; y may be x.
func ScaleRows(y []float32, ldy int, x []float32, ldx, rows, cols int, s []float32) {
	for r := range rows {
		to, from, f := y[r*ldy:r*ldy+cols], x[r*ldx:], s[r]
		from = from[:len(to)]
		for i, v := range from {
			to[i] = v * f
		}
	}
}

// OuterSum adds outer products: y[a, b] += Σ_t k[t, a] · v[t, b].
func OuterSum(y []float32, ldy int, k []float32, ldk int, v []float32, ldv, tokens, rows, cols int) {
	for t := range tokens {
		for a := range rows {
			f, to, from := k[t*ldk+a], y[a*ldy:a*ldy+cols], v[t*ldv:]
			from = from[:len(to)]
			for b, x := range from {
				to[b] += f * x
			}
		}
	}
}
