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

// recurrenceChunk is how many tokens the chunked form takes at a time.
const recurrenceChunk = 64

// causalMask is 1 where a token of a chunk, the row, reads another, and 0 elsewhere;
// noGate is the logarithm of a gate that is shut.
var causalMask, noGate = func() (m [recurrenceChunk * recurrenceChunk]float32, shut [recurrenceChunk]float32) {
	for i := range recurrenceChunk {
		for j := range i + 1 {
			m[i*recurrenceChunk+j] = 1
		}
		shut[i] = float32(math.Inf(-1))
	}
	return m, shut
}()

// ChunkedLen returns the length of the work space that [Chunked] needs for heads of
// so many channels.
func ChunkedLen(l Level, keyDim, dim int) int {
	const t = recurrenceChunk
	nr := PanelWidth(l)
	up := func(n int) int { return (n + nr - 1) / nr * nr }
	return t*(t+keyDim+16) + up(dim)*(t+keyDim) + up(t)*keyDim + t*max(t, keyDim) + t*keyDim + 3*t
}

// Chunked computes what [Recurrent] does, but for the delta rule (opt.Beta) and for
// a normaliser beside gates of key channels, by matrix products over chunks of up to
// 64 tokens:
//
//	o_i = Σ_{j≤i} exp(G_i - G_j) (q_i·k_j) v_j + exp(G_i) Sᵀ q_i,  G the sum of the chunk's gates so far
//
// Gates of heads are only added up, never subtracted, so gates however strong
// neither overflow nor cancel. Where there are gates of key channels, queries are
// multiplied by exp(G) and keys by exp(-G); chunks end before |G| passes 40, and where
// that leaves few tokens, these go through Recurrent. With 64 channels it is the
// faster form from some 20 tokens on, with gates from 10 (AVX-512). work has
// ChunkedLen elements. Results differ from Recurrent's by rounding, and a NaN or an
// infinity makes NaN of its value channel (in q or k: of all) in its whole chunk.
func Chunked(l Level, o, state, q, k, v []float32, s RecurrenceShape, opt RecurrenceOptions, work []float32) {
	const op = "Chunked"
	l = l.resolve(op)
	checkRecurrence(op, o, state, q, k, v, &s, &opt)
	switch {
	case opt.Beta != nil:
		fail(op, "the delta rule has no chunked form; use Recurrent")
	case opt.KeyGate != nil && opt.Sum != nil:
		fail(op, "gates of key channels beside a normaliser have no chunked form; use Recurrent")
	}
	checkLen(op, "work", work, ChunkedLen(l, s.KeyDim, s.Dim))
	if s.KeyDim == 0 || s.Dim == 0 {
		return
	}
	for t0 := 0; t0 < s.L; t0 += recurrenceChunk {
		n := min(recurrenceChunk, s.L-t0)
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
func chunk(l Level, o, state, q, k, v []float32, s *RecurrenceShape, opt *RecurrenceOptions, work []float32, t0, n, h int) int {
	const most = recurrenceChunk
	kd, d, nr := s.KeyDim, s.Dim, l.panel()
	up := func(n int) int { return (n + nr - 1) / nr * nr }
	take := func(n int) (part []float32) {
		part, work = work[:n:n], work[n:]
		return part
	}
	x, right, keys, decay, scaled := take(most*(most+kd+16)), take(up(d)*(most+kd)), take(up(most)*kd), take(most*max(most, kd)), take(most*kd)
	out, in, inverse := take(most), take(most), take(most)
	ldx := most + kd + 16
	S := state[h*kd*d : (h+1)*kd*d]
	qc, kc := q[t0*s.LdQ+s.Key(h):], k[t0*s.LdK+s.Key(h):]
	vc, oc := v[t0*s.LdV+h*d:], o[t0*s.LdO+h*d:]
	if opt.KeyGate != nil {
		reach := keyGates(l, decay, s, opt, t0, n, h)
		if n = min(n, max(reach, fewTokens)); reach < n {
			piece, gates := *s, *opt
			piece.L, piece.Head0, piece.Head1 = n, h, h+1
			gates.KeyGate = opt.KeyGate[t0*s.Heads*kd:]
			if opt.HeadGate != nil {
				gates.HeadGate = opt.HeadGate[t0*s.Heads:]
			}
			Recurrent(l, o[t0*s.LdO:], state, q[t0*s.LdQ:], k[t0*s.LdK:], v[t0*s.LdV:], piece, gates)
			return n
		}
	}

	// The left matrix is [q kᵀ, masked and decayed | q decayed], the right one v
	// above S. Rows of the arguments often lie a power of two apart, where they
	// share few sets of the L1 cache: each is read once.
	for i := range n {
		out[i] = s.Scale
		copy(scaled[i*kd:(i+1)*kd], kc[i*s.LdK:])
	}
	scaleRows(l, x[n:], ldx, qc, s.LdQ, n, kd, out)
	if opt.KeyGate != nil {
		rise := keys[:n*kd] // free until keys are packed
		for i, g := range decay[:n*kd] {
			rise[i] = -g
		}
		Exp(l, rise, rise)
		Mul(l, scaled[:n*kd], scaled[:n*kd], rise)
		Exp(l, decay[:n*kd], decay[:n*kd])
		for i := range n {
			Mul(l, x[i*ldx+n:i*ldx+n+kd], x[i*ldx+n:i*ldx+n+kd], decay[i*kd:(i+1)*kd])
		}
	}
	for j := 0; j < n; j += nr {
		panel, rows := keys[j*kd:(j+nr)*kd], min(nr, n-j)
		if rows < nr {
			clear(panel)
		}
		transpose(l, panel, nr, scaled[j*kd:], kd, rows, kd)
	}
	mask := causalMask[:]
	for i := range n {
		out[i] = 1
	}
	if opt.HeadGate != nil && opt.KeyGate == nil {
		// Sums of the gates after j up to i: added up, since differences of long
		// sums would cancel.
		mask = decay
		g := float32(0)
		for i := range n {
			gate := opt.HeadGate[(t0+i)*s.Heads+h]
			g += gate
			out[i] = g
			row := mask[i*most : (i+1)*most]
			if i > 0 {
				for j, sum := range mask[(i-1)*most : (i-1)*most+i] {
					row[j] = sum + gate
				}
			}
			row[i] = 0
			copy(row[i+1:], noGate[i+1:])
		}
		Exp(l, mask[:n*most], mask[:n*most])
		Exp(l, out[:n], out[:n])
		copy(in, mask[(n-1)*most:(n-1)*most+n])
	}
	products := mask
	if opt.Sum != nil { // keys do not decay in the normaliser
		products = causalMask[:]
	}
	for j := 0; j < n; j += nr { // rows above a panel's first token are masked
		cols := min(nr, n-j)
		for i := range j {
			clear(x[i*ldx+j : i*ldx+j+cols])
		}
		Gemm(l, x[j*ldx+j:], ldx, x[j*ldx+n:], ldx, keys[j*kd:], n-j, cols, kd, Epilogue{Mul: products[j*most+j:], LdMul: most})
	}
	if opt.Sum != nil {
		z := opt.Sum[h*kd : (h+1)*kd]
		for i := range n {
			den := float32(0)
			for a, v := range x[i*ldx+n : i*ldx+n+kd] {
				den += v * z[a]
			}
			den += opt.Eps
			for _, v := range x[i*ldx : i*ldx+i+1] {
				den += v
			}
			inverse[i] = 1 / den
			if opt.HeadGate != nil {
				Mul(l, x[i*ldx:i*ldx+i+1], x[i*ldx:i*ldx+i+1], mask[i*most:i*most+i+1])
			}
		}
		for i := range n {
			for a, v := range scaled[i*kd : (i+1)*kd] {
				z[a] += v
			}
		}
	}
	total := out[n-1]
	if opt.HeadGate != nil && opt.KeyGate == nil {
		scaleRows(l, x[n:], ldx, x[n:], ldx, n, kd, out)
	}
	for b := 0; b < d; b += nr {
		cols, panel := min(nr, d-b), right[b*(n+kd):(b+nr)*(n+kd)]
		for t := range n {
			row := panel[t*nr : (t+1)*nr]
			clear(row[copy(row, vc[t*s.LdV+b:t*s.LdV+b+cols]):])
		}
		for a := range kd {
			row := panel[(n+a)*nr : (n+a+1)*nr]
			clear(row[copy(row, S[a*d+b:a*d+b+cols]):])
		}
	}
	if opt.HeadGate != nil && opt.KeyGate == nil {
		for a := range kd {
			decay[a] = total
		}
		scaleRows(l, S, d, S, d, kd, d, decay)
		scaleRows(l, scaled, kd, scaled, kd, n, kd, in)
	}
	for b := 0; b < d; b += nr {
		outerSum(l, S[b:], d, scaled, kd, right[b*(n+kd):], nr, n, kd, min(nr, d-b))
	}
	if opt.KeyGate != nil {
		scaleRows(l, S, d, S, d, kd, d, decay[(n-1)*kd:])
	}
	Gemm(l, oc, s.LdO, x, ldx, right, n, d, n+kd, Epilogue{})
	if opt.Sum != nil {
		scaleRows(l, oc, s.LdO, oc, s.LdO, n, d, inverse)
	}
	return n
}

// keyGates fills g, n rows of KeyDim, with the sums of the gates from t0 on, and
// returns how many tokens pass before one is beyond what exp can take both ways.
func keyGates(l Level, g []float32, s *RecurrenceShape, opt *RecurrenceOptions, t0, n, h int) int {
	const limit = 40
	kd := s.KeyDim
	for i := range n {
		row := g[i*kd : (i+1)*kd]
		copy(row, opt.KeyGate[((t0+i)*s.Heads+h)*kd:])
		if opt.HeadGate != nil {
			gate := opt.HeadGate[(t0+i)*s.Heads+h]
			for a := range row {
				row[a] += gate
			}
		}
		if i > 0 {
			Add(l, row, row, g[(i-1)*kd:i*kd])
		}
		for _, v := range row {
			if !(v >= -limit && v <= limit) { // NaN too
				return i
			}
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

// outerSum computes y[a, b] += Σ_t k[t, a] · v[t, b] for one token at least.
func outerSum(l Level, y []float32, ldy int, k []float32, ldk int, v []float32, ldv, tokens, rows, cols int) {
	_, _, _ = y[(rows-1)*ldy+cols-1], k[(tokens-1)*ldk+rows-1], v[(tokens-1)*ldv+cols-1]
	if l == Generic {
		generic.OuterSum(y, ldy, k, ldk, v, ldv, tokens, rows, cols)
		return
	}
	outerSumVector(l, y, ldy, k, ldk, v, ldv, tokens, rows, cols)
}
