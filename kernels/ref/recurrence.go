package ref

import "math"

// RecurrenceShape describes a causal recurrence of linear attention over L tokens.
// Every slice begins at head 0 and, by token, at token 0.
type RecurrenceShape struct {
	L, Heads    int
	KeyDim, Dim int // channels of a head's query and key, and of its value
	// Groups of consecutive heads share a query and a key; 0 means Heads.
	Groups             int
	LdQ, LdK, LdV, LdO int     // floats between tokens; 0 means dense
	Scale              float32 // of the queries; 0 means 1
	Head0, Head1       int     // heads to process: [Head0, Head1), all where Head1 is 0
}

// RecurrenceOptions are the optional parts of a recurrence.
type RecurrenceOptions struct {
	HeadGate []float32 // (L, Heads), logarithms of gates; nil for none
	KeyGate  []float32 // (L, Heads, KeyDim), logarithms of gates for each key channel; nil for none
	Beta     []float32 // (L, Heads): the delta rule; nil for plain sums
	Sum      []float32 // (Heads, KeyDim), the sum of keys, for a normaliser; nil for none
	Eps      float32   // added to the normaliser
}

// Dense returns s with Groups, Head1, Scale and the distances that are 0 filled in.
func (s RecurrenceShape) Dense() RecurrenceShape {
	if s.Groups == 0 {
		s.Groups = s.Heads
	}
	for _, d := range []struct {
		ld *int
		n  int
	}{{&s.LdQ, s.Groups * s.KeyDim}, {&s.LdK, s.Groups * s.KeyDim}, {&s.LdV, s.Heads * s.Dim}, {&s.LdO, s.Heads * s.Dim}} {
		if *d.ld == 0 {
			*d.ld = d.n
		}
	}
	if s.Head1 == 0 {
		s.Head1 = s.Heads
	}
	if s.Scale == 0 {
		s.Scale = 1
	}
	return s
}

// Key returns the first channel of a head's query and key.
func (s RecurrenceShape) Key(head int) int { return head / max(1, s.Heads/max(1, s.Groups)) * s.KeyDim }

// Recurrence computes for every head, with the state S (KeyDim, Dim), token by
// token
//
//	S = exp(gate) S;  w = v, or with beta  w = beta (v - Sᵀ k);  S = S + k wᵀ;  z = z + k
//	o = scale Sᵀ q,  divided by  scale q·z + eps  where there is a normaliser
func Recurrence(o, state, q, k, v []float32, s RecurrenceShape, opt RecurrenceOptions) {
	s = s.Dense()
	kd, d := s.KeyDim, s.Dim
	for h := s.Head0; h < s.Head1; h++ {
		S, z := make([]float64, kd*d), make([]float64, kd)
		for i := range S {
			S[i] = float64(state[h*kd*d+i])
		}
		for i := range z {
			if opt.Sum != nil {
				z[i] = float64(opt.Sum[h*kd+i])
			}
		}
		w := make([]float64, d)
		for t := range s.L {
			qr, kr, vr := q[t*s.LdQ+s.Key(h):], k[t*s.LdK+s.Key(h):], v[t*s.LdV+h*d:]
			for a := range kd {
				g := 0.0
				if opt.HeadGate != nil {
					g += float64(opt.HeadGate[t*s.Heads+h])
				}
				if opt.KeyGate != nil {
					g += float64(opt.KeyGate[(t*s.Heads+h)*kd+a])
				}
				for b := range d {
					S[a*d+b] *= math.Exp(g)
				}
			}
			for b := range d {
				w[b] = float64(vr[b])
				if opt.Beta != nil {
					for a := range kd {
						w[b] -= S[a*d+b] * float64(kr[a])
					}
					w[b] *= float64(opt.Beta[t*s.Heads+h])
				}
			}
			den := float64(opt.Eps)
			for a := range kd {
				z[a] += float64(kr[a])
				den += float64(s.Scale) * float64(qr[a]) * z[a]
				for b := range d {
					S[a*d+b] += float64(kr[a]) * w[b]
				}
			}
			if opt.Sum == nil {
				den = 1
			}
			for b := range d {
				sum := 0.0
				for a := range kd {
					sum += float64(s.Scale) * float64(qr[a]) * S[a*d+b]
				}
				o[t*s.LdO+h*d+b] = float32(sum / den)
			}
		}
		for i, x := range S {
			state[h*kd*d+i] = float32(x)
		}
		for i, x := range z {
			if opt.Sum != nil {
				opt.Sum[h*kd+i] = float32(x)
			}
		}
	}
}
