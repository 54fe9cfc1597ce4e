package kernels

// SSDOptions are the optional parts of [SSD].
type SSDOptions struct {
	DeltaBias []float32 // (Heads), added to delta; nil for none
	Softplus  bool      // delta = log(1 + exp(delta)) after the bias
	D         []float32 // (Heads), y += D x; nil for none
	Z         []float32 // tokens x (Heads, Dim), dense, y *= SiLU(z); nil for none
}

// SSDLen returns the length of the work space that [SSD] needs.
func SSDLen(s RecurrenceShape) int {
	return ChunkedLen(s.KeyDim, s.Dim) + s.L*s.Heads
}

// SSD runs the state-space recurrence of Mamba-2 (arXiv 2405.21060, equation 16):
// for each head with its state S of (KeyDim, Dim),
//
//	δ = delta[t, h] + DeltaBias[h], then log(1 + exp(δ)) if o.Softplus
//	S = exp(δ a[h]) S + b_t (δ x_t)ᵀ
//	y = (Sᵀ c_t + D[h] x_t) · SiLU(z_t)
//
// by [Chunked]. b and c, keys and queries, are tokens x (Groups, KeyDim); x and y are
// tokens x (Heads, Dim), dense; delta is (L, Heads); a is usually negative. state,
// (Heads, KeyDim, Dim), goes in and out, so consecutive pieces of a sequence equal
// the whole. s.Scale, the distances LdV and LdO and the range of heads are not used.
// work has SSDLen elements. y must not overlap the inputs.
func SSD(l Level, y, state, x, delta, a, b, c []float32, s RecurrenceShape, o SSDOptions, work []float32) {
	const op = "SSD"
	l = l.resolve(op)
	s.LdV, s.LdO, s.Scale, s.Head0, s.Head1 = 0, 0, 0, 0, 0
	checkRecurrence(op, y, state, c, b, x, &s, &RecurrenceOptions{})
	n := s.L * s.Heads
	for _, m := range []struct {
		name string
		x    []float32
		n    int
		some bool
	}{{"delta", delta, n, true}, {"a", a, s.Heads, true}, {"DeltaBias", o.DeltaBias, s.Heads, o.DeltaBias != nil},
		{"D", o.D, s.Heads, o.D != nil}, {"Z", o.Z, n * s.Dim, o.Z != nil}, {"work", work, SSDLen(s), true}} {
		if m.some {
			checkLen(op, m.name, m.x, m.n)
		}
	}
	gates, rest := work[:n], work[n:]
	for i, v := range delta[:n] {
		if o.DeltaBias != nil {
			v += o.DeltaBias[i%s.Heads]
		}
		gates[i] = v
	}
	if o.Softplus {
		Softplus(l, gates, gates)
	}
	if n > 0 && s.Dim > 0 {
		scaleRows(l, y, s.Dim, x, s.Dim, n, s.Dim, gates)
	}
	for i := range gates {
		gates[i] *= a[i%s.Heads]
	}
	Chunked(l, y, state, c, b, y, s, RecurrenceOptions{HeadGate: gates}, rest)
	for i := range n {
		row := y[i*s.Dim : (i+1)*s.Dim]
		if o.D != nil {
			d := o.D[i%s.Heads]
			for j, v := range x[i*s.Dim : (i+1)*s.Dim] {
				row[j] += d * v
			}
		}
	}
	const part = 1 << 9
	var gate [part]float32
	for i := 0; o.Z != nil && i < n*s.Dim; i += part {
		m := min(part, n*s.Dim-i)
		Activate(l, SiLU, gate[:m], o.Z[i:i+m])
		Mul(l, y[i:i+m], y[i:i+m], gate[:m])
	}
}
