package fuzz_test

import (
	"math"
	"testing"

	"github.com/mila-go/mila/kernels"
	"github.com/mila-go/mila/kernels/ref"
)

func FuzzScan(f *testing.F) {
	f.Add(uint64(1), uint8(3), uint8(17), uint8(16), uint16(0), false)
	f.Add(uint64(2), uint8(200), uint8(5), uint8(1), uint16(0xffff), true)
	f.Add(uint64(3), uint8(9), uint8(40), uint8(35), uint16(0x5555), false)
	f.Fuzz(func(t *testing.T, seed uint64, l8, c8, n8 uint8, flags uint16, nan bool) {
		has := func(bit int) bool { return flags>>bit&1 != 0 }
		steps, ch, n := int(l8), 1+int(c8)%50, int(n8)%40
		s := kernels.ScanShape{L: steps, Ch: ch, N: n, ConstB: has(0), ConstC: has(1)}
		if has(2) && ch%2 == 0 {
			s.Groups = 2
		}
		if has(3) {
			s.LdY, s.LdU, s.LdDelta, s.LdZ, s.LdB, s.LdC = ch+1, ch, ch+3, ch+2, 2*n+1, 2*n
		}
		d := s.Dense()
		each(t, seed, false, func(l kernels.Level, src source) {
			span := func(ld, cols int) int {
				if steps == 0 || cols == 0 {
					return 0
				}
				return (steps-1)*ld + cols
			}
			if s.Order = nil; has(4) {
				s.Order = make([]int32, steps)
				for i, t := range src.rng.Perm(steps) {
					s.Order[i] = int32(t)
				}
			}
			u, delta, matrix := src.values(span(d.LdU, ch)), src.values(span(d.LdDelta, ch)), src.values(ch*n)
			for i := range delta {
				if delta[i] *= 4; !has(5) {
					delta[i] = float32(math.Abs(float64(delta[i]))) // decays, no growth
				}
			}
			for i, v := range matrix {
				if matrix[i] = -v * v; has(6) {
					matrix[i] = -float32(i%n + 1)
				}
			}
			operand := func(constant bool, ld int) (packed, plain []float32) {
				if !constant {
					x := src.values(span(ld, d.Groups*n))
					return x, x
				}
				plain = src.values(ch * n)
				packed = src.alloc(kernels.PackedScanLen(ch, n, s.Groups))
				kernels.PackScan(packed, plain, ch, n, s.Groups)
				return packed, plain
			}
			b, refB := operand(s.ConstB, d.LdB)
			c, refC := operand(s.ConstC, d.LdC)
			o := kernels.ScanOptions{Softplus: has(5), Add: has(7), NoInputGate: has(8)}
			if has(9) {
				o.D = src.values(ch)
			}
			if has(10) {
				o.Z = src.values(span(d.LdZ, ch))
			}
			if has(11) && has(5) {
				o.DeltaBias = src.values(ch)
			}
			if nan && len(u) > 0 {
				u[src.rng.IntN(len(u))] = float32(math.NaN())
			}
			y, state := src.values(span(d.LdY, ch)), src.values(n*ch)
			wantY, wantState := clone(y), clone(state)
			ref.Scan(wantY, wantState, u, delta, matrix, refB, refC, s, o)
			kernels.Scan(l, y, state, u, delta, kernels.NewScanA(matrix, ch, n, s.Groups), b, c, s, o)
			// A state sums up to some thousand products of up to 8·2·2.
			scale := float64(n+1) * float64(min(steps, 100)+1) * 8
			close(t, "scan y", l, y, wantY, scale, 1e-5)
			close(t, "scan state", l, state, wantState, scale, 1e-5)
		})
	})
}

func FuzzConv1D(f *testing.F) {
	f.Add(uint64(1), uint8(3), uint8(17), uint8(0), false)
	f.Add(uint64(2), uint8(150), uint8(5), uint8(0xff), true)
	f.Fuzz(func(t *testing.T, seed uint64, l8, c8, flags uint8, special bool) {
		steps, ch := int(l8), 1+int(c8)%50
		s := kernels.Conv1DShape{L: steps, Ch: ch, Width: 2 + int(flags)%3, LdX: ch + int(flags>>2&1), LdY: ch + int(flags>>3&1)}
		act := kernels.Identity
		if flags&16 != 0 {
			act = kernels.SiLU
		}
		each(t, seed, special, func(l kernels.Level, src source) {
			if s.Order = nil; flags&32 != 0 {
				s.Order = make([]int32, steps)
				for i, t := range src.rng.Perm(steps) {
					s.Order[i] = int32(t)
				}
			}
			x, y := src.values(max(0, (steps-1)*s.LdX+ch)), src.values(max(0, (steps-1)*s.LdY+ch))
			if steps == 0 {
				x, y = nil, nil
			}
			w, state := src.values(s.Width*ch), src.values((s.Width-1)*ch)
			var bias []float32
			if flags&64 != 0 {
				bias = src.values(ch)
			}
			wantY, wantState := clone(y), clone(state)
			ref.Conv1D(wantY, wantState, x, w, bias, s, act)
			kernels.Conv1D(l, y, state, x, w, bias, s, act)
			close(t, "conv1d y", l, y, wantY, 20, 2e-6)
			close(t, "conv1d state", l, state, wantState, 1, 0)
		})
	})
}
