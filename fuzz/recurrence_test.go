package fuzz_test

import (
	"math"
	"testing"

	"github.com/mila-go/mila/kernels"
	"github.com/mila-go/mila/kernels/ref"
)

// FuzzRecurrence compares both forms of the recurrences with their definition.
func FuzzRecurrence(f *testing.F) {
	f.Add(uint64(1), uint8(70), uint8(2), uint8(16), uint8(33), uint8(0))
	f.Add(uint64(2), uint8(130), uint8(3), uint8(7), uint8(5), uint8(0xff))
	f.Fuzz(func(t *testing.T, seed uint64, l8, h8, k8, d8, flags uint8) {
		has := func(bit int) bool { return flags>>bit&1 != 0 }
		s := kernels.RecurrenceShape{L: int(l8), Heads: 1 + int(h8)%4, KeyDim: 1 + int(k8)%70, Dim: 1 + int(d8)%70, Scale: 0.5}
		if has(0) {
			s.Groups = 1
		}
		d := s.Dense()
		each(t, seed, false, func(l kernels.Level, src source) {
			q, k, v := src.values(s.L*d.LdQ), src.values(s.L*d.LdK), src.values(s.L*d.LdV)
			for i := range q { // a normaliser that stays away from 0, keys that keep the delta rule stable
				q[i], k[i] = q[i]*q[i]+0.1, (k[i]*k[i]+0.1)/float32(s.KeyDim)/8
			}
			negative := func(n int) []float32 {
				x := src.values(n)
				for i, v := range x {
					x[i] = -v * v
				}
				return x
			}
			opt := kernels.RecurrenceOptions{Eps: 0.5}
			if has(1) {
				opt.HeadGate = negative(s.L * s.Heads)
			}
			if has(2) {
				opt.KeyGate = negative(s.L * s.Heads * s.KeyDim)
			}
			if has(3) {
				opt.Beta = negative(s.L * s.Heads)
				for i, v := range opt.Beta {
					opt.Beta[i] = min(1, -v)
				}
			}
			start, z := src.values(s.Heads*s.KeyDim*s.Dim), negative(s.Heads*s.KeyDim)
			for i := range z {
				z[i] = -z[i]
			}
			work := make([]float32, kernels.ChunkedLen(s.KeyDim, s.Dim))
			for _, chunked := range []bool{false, true} {
				if chunked && opt.KeyGate != nil && has(4) {
					continue
				}
				o, state := src.alloc(s.L*d.LdO), clone(start)
				want, wstate, wopt := make([]float32, len(o)), clone(start), opt
				if has(4) {
					opt.Sum, wopt.Sum = clone(z), clone(z)
				}
				ref.Recurrence(want, wstate, q, k, v, s, wopt)
				if chunked {
					kernels.Chunked(l, o, state, q, k, v, s, opt, work)
				} else {
					kernels.Recurrent(l, o, state, q, k, v, s, opt)
				}
				scale := 8 * float64(s.L+s.KeyDim)
				close(t, "o", l, o, want, scale, 1e-5)
				close(t, "state", l, state, wstate, scale, 1e-5)
			}
		})
	})
}

// FuzzSSD compares Mamba-2's recurrence with its definition.
func FuzzSSD(f *testing.F) {
	f.Add(uint64(1), uint8(70), uint8(1), uint8(16), uint8(33), uint8(0))
	f.Add(uint64(2), uint8(9), uint8(3), uint8(7), uint8(5), uint8(0xff))
	f.Fuzz(func(t *testing.T, seed uint64, l8, h8, n8, d8, flags uint8) {
		has := func(bit int) bool { return flags>>bit&1 != 0 }
		s := kernels.RecurrenceShape{L: int(l8), Heads: 1 + int(h8)%4, KeyDim: 1 + int(n8)%40, Dim: 1 + int(d8)%40}
		if has(0) {
			s.Groups = 1
		}
		dense := s.Dense()
		each(t, seed, false, func(l kernels.Level, src source) {
			x, b, c := src.values(s.L*dense.LdV), src.values(s.L*dense.LdK), src.values(s.L*dense.LdQ)
			delta, a, state := src.values(s.L*s.Heads), src.values(s.Heads), src.values(s.Heads*s.KeyDim*s.Dim)
			for i, v := range a {
				a[i] = -v * v
			}
			o := kernels.SSDOptions{Softplus: true}
			if has(1) {
				o.DeltaBias = src.values(s.Heads)
			}
			if has(2) {
				o.D = src.values(s.Heads)
			}
			if has(3) {
				o.Z = src.values(len(x))
			}
			// The recurrence of δ x with gates δ a.
			gates, values, want, wstate := make([]float32, len(delta)), clone(x), make([]float32, len(x)), clone(state)
			for i, v := range delta {
				h := i % s.Heads
				if o.DeltaBias != nil {
					v += o.DeltaBias[h]
				}
				dt := ref.Softplus(float64(v))
				gates[i] = float32(dt * float64(a[h]))
				for j := range s.Dim {
					values[i*s.Dim+j] *= float32(dt)
				}
			}
			ref.Recurrence(want, wstate, c, b, values, s, kernels.RecurrenceOptions{HeadGate: gates})
			for i := range want {
				if o.D != nil {
					want[i] += o.D[i/s.Dim%s.Heads] * x[i]
				}
				if o.Z != nil {
					z := float64(o.Z[i])
					want[i] *= float32(z / (1 + math.Exp(-z)))
				}
			}
			y := src.alloc(len(x))
			kernels.SSD(l, y, state, x, delta, a, b, c, s, o, make([]float32, kernels.SSDLen(s)))
			scale := 8 * float64(s.L+s.KeyDim)
			close(t, "y", l, y, want, scale, 1e-5)
			close(t, "state", l, state, wstate, scale, 1e-5)
		})
	})
}

func FuzzDWValid(f *testing.F) {
	f.Add(uint64(1), uint8(3), uint8(5), uint8(17), uint8(7))
	f.Fuzz(func(t *testing.T, seed uint64, h8, w8, c8, k8 uint8) {
		k, ch := 1+int(k8)%8, 1+int(c8)%40
		s := kernels.DWValidShape{OutH: 1 + int(h8)%5, OutW: 1 + int(w8)%11, Ch: ch, K: k, LdX: ch + int(seed%3), LdY: ch + int(seed%2)}
		s.RowX = (s.OutW+k-1)*s.LdX + int(seed%5)
		each(t, seed, false, func(l kernels.Level, src source) {
			x, w, bias := src.values((s.OutH+k-2)*s.RowX+(s.OutW+k-2)*s.LdX+ch), src.values(k*k*ch), src.values(ch)
			y := src.values((s.OutH*s.OutW-1)*s.LdY + ch)
			want := clone(y)
			ref.DWValid(want, x, w, bias, s)
			kernels.DWValid(l, y, x, w, bias, s)
			close(t, "dwvalid", l, y, want, 4*float64(k*k), 4e-6)
		})
	})
}
