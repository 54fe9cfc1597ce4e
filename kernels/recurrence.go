package kernels

import (
	"math"

	"github.com/mila-go/mila/kernels/generic"
	"github.com/mila-go/mila/kernels/ref"
)

// RecurrenceShape describes a causal recurrence of linear attention; see the
// fields. Heads have at most 256 channels of keys and of values.
type RecurrenceShape = ref.RecurrenceShape

// RecurrenceOptions are the optional parts of a recurrence; see the fields.
type RecurrenceOptions = ref.RecurrenceOptions

// maxRecurrence bounds the channels of a head.
const maxRecurrence = 256

func checkRecurrence(op string, o, state, q, k, v []float32, s *RecurrenceShape, opt *RecurrenceOptions) {
	checkDims(op, s.L, s.Heads, s.KeyDim)
	checkDims(op, s.L, s.Heads, s.Dim)
	checkDims(op, s.Heads, s.KeyDim, s.Dim)
	if s.KeyDim > maxRecurrence || s.Dim > maxRecurrence {
		fail(op, "heads of %d key and %d value channels; at most %d", s.KeyDim, s.Dim, maxRecurrence)
	}
	if s.Groups < 0 || s.Groups > 0 && s.Heads%s.Groups != 0 {
		fail(op, "%d heads do not fall into %d groups", s.Heads, s.Groups)
	}
	*s = s.Dense()
	if s.Head0 < 0 || s.Head0 > s.Head1 || s.Head1 > s.Heads {
		fail(op, "heads [%d, %d) are not among the %d", s.Head0, s.Head1, s.Heads)
	}
	checkMatrix(op, "q", q, s.LdQ, s.L, s.Groups*s.KeyDim)
	checkMatrix(op, "k", k, s.LdK, s.L, s.Groups*s.KeyDim)
	checkMatrix(op, "v", v, s.LdV, s.L, s.Heads*s.Dim)
	checkMatrix(op, "o", o, s.LdO, s.L, s.Heads*s.Dim)
	checkLen(op, "state", state, s.Heads*s.KeyDim*s.Dim)
	for _, x := range []struct {
		name string
		x    []float32
		n    int
	}{{"HeadGate", opt.HeadGate, s.L * s.Heads}, {"KeyGate", opt.KeyGate, s.L * s.Heads * s.KeyDim}, {"Beta", opt.Beta, s.L * s.Heads}, {"Sum", opt.Sum, s.Heads * s.KeyDim}} {
		if x.x != nil {
			checkLen(op, x.name, x.x, x.n)
		}
	}
}

// Recurrent runs a causal recurrence of linear attention token by token, the form
// for decoding and for short sequences. For each head, with its state S of
// (KeyDim, Dim),
//
//	S = exp(gate) ⊙ S                 gates of opt.HeadGate and opt.KeyGate, none: 1
//	w = v, or the delta rule with opt.Beta:  w = beta (v - Sᵀ k)
//	S = S + k wᵀ;   z = z + k          z is opt.Sum, which does not decay
//	o = scale · Sᵀ q,  over  scale · q·z + eps  where opt.Sum is there
//
// which is causal linear attention (equation 4 of arXiv 2405.16605), with gates
// retention (arXiv 2307.08621), Mamba-2's SSD (arXiv 2405.21060) and gated linear
// attention (arXiv 2312.06635), with Beta the delta rule (arXiv 2406.06484) and its
// gated form (arXiv 2412.06464). Gates are logarithms; above 0 the state grows.
//
// q and k are tokens x (Groups, KeyDim), v and o tokens x (Heads, Dim). state and
// opt.Sum go in and out, so consecutive pieces of a sequence equal the whole, and
// L = 0 does nothing. o may be v; apart from that outputs must not overlap inputs.
func Recurrent(l Level, o, state, q, k, v []float32, s RecurrenceShape, opt RecurrenceOptions) {
	const op = "Recurrent"
	l = l.resolve(op)
	checkRecurrence(op, o, state, q, k, v, &s, &opt)
	kd, d := s.KeyDim, s.Dim
	if kd == 0 || d == 0 {
		return
	}
	var gates, query, value [maxRecurrence]float32
	for h := s.Head0; h < s.Head1; h++ {
		S := state[h*kd*d : (h+1)*kd*d]
		for t := range s.L {
			qr, kr := q[t*s.LdQ+s.Key(h):][:kd], k[t*s.LdK+s.Key(h):][:kd]
			vr, or := v[t*s.LdV+h*d:][:d], o[t*s.LdO+h*d:][:d]
			if opt.HeadGate != nil || opt.KeyGate != nil {
				var g float32
				if opt.HeadGate != nil {
					g = opt.HeadGate[t*s.Heads+h]
				}
				if opt.KeyGate == nil {
					g = float32(math.Exp(float64(g)))
					for a := range kd {
						gates[a] = g
					}
				} else {
					for a, x := range opt.KeyGate[(t*s.Heads+h)*kd:][:kd] {
						gates[a] = g + x
					}
					Exp(l, gates[:kd], gates[:kd])
				}
				scaleRows(l, S, d, S, d, kd, d, gates[:])
			}
			w := vr
			if opt.Beta != nil {
				w = value[:d]
				clear(w)
				outerSum(l, w, d, kr, 1, S, d, kd, 1, d) // Sᵀ k
				beta := opt.Beta[t*s.Heads+h]
				for b, x := range vr {
					w[b] = beta * (x - w[b])
				}
			}
			outerSum(l, S, d, kr, kd, w, d, 1, kd, d)
			scale := s.Scale
			if opt.Sum != nil {
				den := opt.Eps
				for a, x := range kr {
					z := &opt.Sum[h*kd+a]
					*z += x
					den += s.Scale * qr[a] * *z
				}
				scale /= den
			}
			for a, x := range qr {
				query[a] = scale * x
			}
			clear(or)
			outerSum(l, or, d, query[:], 1, S, d, kd, 1, d)
		}
	}
}

// recurrenceChunk is how many tokens the chunked form takes at most at a time, a
// multiple of every level's panels. It takes half as many where it can: products
// between the tokens of a chunk, half of them masked, are what the recurrence itself
// does not have. With gates of key channels what each call costs weighs more.
const recurrenceChunk = 64

func chunkTokens(opt *RecurrenceOptions) int {
	if opt.KeyGate != nil {
		return recurrenceChunk
	}
	return recurrenceChunk / 2
}

// causalMask is 1 where a token of a chunk, the row, is read by another, and 0
// elsewhere; ones is its first row.
var causalMask, ones = func() (m [recurrenceChunk * recurrenceChunk]float32, row [recurrenceChunk]float32) {
	for j := range recurrenceChunk {
		row[j] = 1
		for i := j; i < recurrenceChunk; i++ {
			m[j*recurrenceChunk+i] = 1
		}
	}
	return m, row
}()

// ChunkedLen returns the length of the work space that [Chunked] needs for heads of
// so many channels. It is the same at every level.
func ChunkedLen(keyDim, dim int) int {
	const t = recurrenceChunk
	return t*(2*keyDim+2*dim) + 2*t*max(t, keyDim) + 4*t + keyDim
}

// Chunked computes what [Recurrent] does, but for a normaliser beside gates of key
// channels, by matrix products over chunks of 32 tokens (64 with gates of key
// channels). With G the sum of the chunk's gates so far,
//
//	o_i = Σ_{j≤i} exp(G_i - G_j) (q_i·k_j) w_j + exp(G_i) Sᵀ q_i
//	w_i = v_i,  or with Beta  beta_i (v_i - Σ_{j<i} exp(G_i - G_j) (k_i·k_j) w_j - exp(G_i) Sᵀ k_i)
//
// the latter being a triangular system, solved for all channels of the values at once.
// Gates of heads are multiplied and never divided, so gates however strong neither
// overflow nor cancel. Where there are gates of key channels, queries are multiplied
// by exp(G) and keys by exp(-G); chunks end before |G| passes 40, and where that
// leaves few tokens, these go through Recurrent. From how many tokens on it is the
// faster form: bench/README.md. work has ChunkedLen elements. Results differ from
// Recurrent's by rounding, and a NaN or an infinity makes NaN of its value channel (in
// q or k: of all) in its whole chunk.
func Chunked(l Level, o, state, q, k, v []float32, s RecurrenceShape, opt RecurrenceOptions, work []float32) {
	const op = "Chunked"
	l = l.resolve(op)
	checkRecurrence(op, o, state, q, k, v, &s, &opt)
	if opt.KeyGate != nil && opt.Sum != nil {
		fail(op, "gates of key channels beside a normaliser have no chunked form; use Recurrent")
	}
	checkLen(op, "work", work, ChunkedLen(s.KeyDim, s.Dim))
	if s.KeyDim == 0 || s.Dim == 0 {
		return
	}
	step := chunkTokens(&opt)
	for t0 := 0; t0 < s.L; t0 += step {
		n := min(step, s.L-t0)
		for h := s.Head0; h < s.Head1; h++ { // inside: the rows of all heads lie together
			if opt.KeyGate == nil {
				chunk(l, o, state, q, k, v, &s, &opt, work, t0, n, h)
				continue
			}
			for t := t0; t < t0+n; {
				t += chunk(l, o, state, q, k, v, &s, &opt, work, t, t0+n-t, h)
			}
		}
	}
}

// fewTokens are not worth a chunk.
const fewTokens = 8

// chunk advances head h by up to n tokens from t0 on and returns by how many.
//
// Rows of the arguments often lie a power of two apart, where they share few sets of
// the L1 cache: each is touched once, and copied or turned. Products with a turned
// operand are sums of outer products, for which neither values nor state are packed.
func chunk(l Level, o, state, q, k, v []float32, s *RecurrenceShape, opt *RecurrenceOptions, work []float32, t0, n, h int) int {
	const most = recurrenceChunk
	kd, d, nr := s.KeyDim, s.Dim, l.panel()
	take := func(n int) (part []float32) {
		part, work = work[:n:n], work[n:]
		return part
	}
	keys, values, results, turned := take(most*kd), take(most*d), take(most*d), take(most*kd)
	products := take(most * max(most, kd)) // of keys, the rows, and queries; and, before, rows to turn
	decay := take(most * max(most, kd))    // exp(G_i - G_j), laid out as products, or of key channels exp(G)
	factors, out, in, ends, total := take(most), take(most), take(most), take(most), take(kd)
	S := state[h*kd*d : (h+1)*kd*d]
	qc, kc := q[t0*s.LdQ+s.Key(h):], k[t0*s.LdK+s.Key(h):]
	vc, oc := v[t0*s.LdV+h*d:], o[t0*s.LdO+h*d:]
	keyed, gated := opt.KeyGate != nil, opt.HeadGate != nil && opt.KeyGate == nil
	if keyed {
		reach := keyGates(l, decay, s, opt, t0, n, h)
		if n = min(n, max(reach, fewTokens)); reach < n {
			piece, options := *s, *opt
			piece.L, piece.Head0, piece.Head1 = n, h, h+1
			options.KeyGate = opt.KeyGate[t0*s.Heads*kd:]
			if opt.HeadGate != nil {
				options.HeadGate = opt.HeadGate[t0*s.Heads:]
			}
			if opt.Beta != nil {
				options.Beta = opt.Beta[t0*s.Heads:]
			}
			Recurrent(l, o[t0*s.LdO:], state, q[t0*s.LdQ:], k[t0*s.LdK:], v[t0*s.LdV:], piece, options)
			return n
		}
	}

	copyRows(l, keys, kd, kc, s.LdK, n, kd)
	if opt.Sum != nil {
		z := opt.Sum[h*kd : (h+1)*kd]
		copy(total, z)
		outerSum(l, z, kd, ones[:], 1, keys, kd, n, 1, kd)
	}
	mask := causalMask[:]
	switch {
	case gated:
		mask = decay
		for i := range n {
			factors[i] = opt.HeadGate[(t0+i)*s.Heads+h]
		}
		Exp(l, factors[:n], factors[:n])
		headDecays(l, mask, out, in, factors[:n], nr)
	case keyed:
		rise := turned[:n*kd]
		for i := range n {
			factors[i] = -1
		}
		scaleRows(l, rise, kd, decay, kd, n, kd, factors)
		Exp(l, rise, rise)
		Mul(l, keys[:n*kd], keys[:n*kd], rise)
		Exp(l, decay[:n*kd], decay[:n*kd])
	}

	// turn fills turned with panels of (f x)ᵀ, x decayed by the gates of key channels;
	// without f, of xᵀ.
	turn := func(x []float32, ldx int, f []float32) {
		if f == nil && keyed {
			f = ones[:]
		}
		if f != nil {
			rows := products[:n*kd]
			scaleRows(l, rows, kd, x, ldx, n, kd, f)
			if keyed {
				Mul(l, rows, rows, decay[:n*kd])
			}
			x, ldx = rows, kd
		}
		for i := 0; i < n; i += nr {
			transpose(l, turned[i*kd:], nr, x[i*ldx:], ldx, min(nr, n-i), kd)
		}
	}
	// read adds to y what x, times f, reads from the state before the chunk, with gates
	// of heads to a y of zeros, and fills products with (f x)·keys.
	read := func(y, x []float32, ldx int, f, mask []float32) {
		turn(x, ldx, f)
		for i := 0; i < n; i += nr {
			cols := min(nr, n-i)
			outerSum(l, y[i*d:], d, turned[i*kd:], nr, S, d, kd, cols, d)
			// keys behind a panel are masked
			Gemm(l, products[i:], most, keys, kd, turned[i*kd:], i+cols, cols, kd, Epilogue{Mul: mask[i:], LdMul: most})
		}
		if gated {
			scaleRows(l, y, d, y, d, n, d, out)
		}
	}

	if opt.Beta == nil {
		copyRows(l, values, d, vc, s.LdV, n, d)
	} else { // w in place of v
		own := values // beta v
		if gated {
			own = results
			clear(values[:n*d])
		}
		for i := range n {
			factors[i] = opt.Beta[(t0+i)*s.Heads+h]
		}
		scaleRows(l, own, d, vc, s.LdV, n, d, factors)
		for i := range n {
			factors[i] = -factors[i]
		}
		read(values, kc, s.LdK, factors[:n], mask)
		if gated {
			Add(l, values[:n*d], values[:n*d], own[:n*d])
		}
		solve(l, values, d, products, n)
	}

	clear(results[:n*d])
	if opt.Sum != nil {
		mask = causalMask[:] // keys do not decay in the normaliser
	}
	read(results, qc, s.LdQ, nil, mask)
	ends = ends[:n]
	if opt.Sum == nil {
		for i := range ends {
			ends[i] = s.Scale
		}
	} else {
		clear(ends)
		for i := 0; i < n; i += nr {
			cols := min(nr, n-i)
			outerSum(l, ends[i:], cols, total, 1, turned[i*kd:], nr, kd, 1, cols)
			outerSum(l, ends[i:], cols, ones[:], 1, products[i:], most, i+cols, 1, cols)
		}
		for i, v := range ends {
			ends[i] = s.Scale / (s.Scale*v + opt.Eps)
		}
		if gated {
			for j := range n {
				Mul(l, products[j*most+j:j*most+n], products[j*most+j:j*most+n], decay[j*most+j:j*most+n])
			}
		}
	}
	for i := 0; i < n; i += nr {
		cols := min(nr, n-i)
		outerSum(l, results[i*d:], d, products[i:], most, values, d, i+cols, cols, d)
	}
	scaleRows(l, oc, s.LdO, results, d, n, d, ends)

	if gated {
		for a := range total {
			total[a] = out[n-1]
		}
		scaleRows(l, S, d, S, d, kd, d, total)
		scaleRows(l, keys, kd, keys, kd, n, kd, in)
	}
	outerSum(l, S, d, keys, kd, values, d, n, kd, d)
	if keyed {
		scaleRows(l, S, d, S, d, kd, d, decay[(n-1)*kd:])
	}
	return n
}

// headDecays fills decay with the products of the gates behind token j, the row, up to
// token i; out with those from the first up to each, and in with those behind each. What
// a panel of nr columns reads on the left of the diagonal is 0.
func headDecays(l Level, decay, out, in, gates []float32, nr int) {
	const most, block = recurrenceChunk, 8
	n := len(gates)
	for j0 := (n - 1) / block * block; j0 >= 0; j0 -= block {
		j1 := min(n, j0+block)
		for j := j0; j < j1; j++ {
			row := decay[j*most : j*most+n]
			clear(row[j/nr*nr : j])
			product := float32(1)
			for i := j; i < j1; i++ {
				if i > j {
					product *= gates[i]
				}
				row[i] = product
			}
			in[j] = product * gates[min(j1, n-1)] // up to the next block's first
		}
		if j1 < n { // times the decays behind that
			scaleRows(l, decay[j0*most+j1:], most, decay[j1*most+j1:], 0, j1-j0, n-j1, in[j0:])
		}
		for j := j0; j < j1; j++ {
			in[j] = decay[j*most+n-1]
		}
	}
	scaleRows(l, out, n, decay, 0, 1, n, gates)
}

// solve adds to each row i of w, of d channels, Σ_{j<i} a[j, i] w_j, from the first row
// to the last.
func solve(l Level, w []float32, d int, a []float32, n int) {
	const most, block = recurrenceChunk, 16
	for i0 := 0; i0 < n; i0 += block {
		i1 := min(n, i0+block)
		for i := i0 + 1; i < i1; i++ {
			outerSum(l, w[i*d:], d, a[i0*most+i:], most, w[i0*d:], d, i-i0, 1, d)
		}
		if i1 < n {
			outerSum(l, w[i1*d:], d, a[i0*most+i1:], most, w[i0*d:], d, i1-i0, n-i1, d)
		}
	}
}

// keyGates fills g, n rows of KeyDim, with the sums of the gates from t0 on, and
// returns how many tokens pass before one is beyond what exp can take both ways.
func keyGates(l Level, g []float32, s *RecurrenceShape, opt *RecurrenceOptions, t0, n, h int) int {
	const sign = 1 << 31
	limit := int32(math.Float32bits(40))
	kd := s.KeyDim
	for i := range n {
		row, gates := g[i*kd:(i+1)*kd], opt.KeyGate[((t0+i)*s.Heads+h)*kd:][:kd]
		if i > 0 {
			Add(l, row, gates, g[(i-1)*kd:i*kd])
		} else {
			copy(row, gates)
		}
		if opt.HeadGate != nil {
			gate := opt.HeadGate[(t0+i)*s.Heads+h]
			for a := range row {
				row[a] += gate
			}
		}
	}
	for i := range n { // apart from the sums, so that these wait for memory together
		row := g[i*kd : (i+1)*kd]
		beyond := int32(0) // negative once an absolute value is, as bits, with NaN
		for _, v := range row {
			beyond |= limit - int32(math.Float32bits(v)&^sign)
		}
		if beyond < 0 {
			return i
		}
	}
	return n
}

// scaleRows computes y[r, c] = x[r, c] · s[r]; y may be x.
func scaleRows(l Level, y []float32, ldy int, x []float32, ldx, rows, cols int, s []float32) {
	if rows == 0 || cols == 0 {
		return
	}
	_, _, _ = y[(rows-1)*ldy+cols-1], x[(rows-1)*ldx+cols-1], s[rows-1]
	if l == Generic {
		generic.ScaleRows(y, ldy, x, ldx, rows, cols, s)
		return
	}
	scaleRowsVector(l, y, ldy, x, ldx, rows, cols, s)
}

// copyRows computes y[r, c] = x[r, c] for up to recurrenceChunk rows.
func copyRows(l Level, y []float32, ldy int, x []float32, ldx, rows, cols int) {
	scaleRows(l, y, ldy, x, ldx, rows, cols, ones[:])
}

// outerSum computes y[a, b] += Σ_t k[t, a] · v[t, b] for one token at least.
func outerSum(l Level, y []float32, ldy int, k []float32, ldk int, v []float32, ldv, tokens, rows, cols int) {
	_, _, _ = y[(rows-1)*ldy+cols-1], k[(tokens-1)*ldk+rows-1], v[(tokens-1)*ldv+cols-1]
	if l == Generic {
		generic.OuterSum(y, ldy, k, ldk, v, ldv, tokens, rows, cols)
		return
	}
	outerSumVector(l, y, ldy, k, ldk, v, ldv, tokens, rows, cols)
}
