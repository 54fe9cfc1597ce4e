package generic

import (
	"math"

	"github.com/mila-go/mila/kernels/ref"
)

// Scan is ref.Scan in float32, with a (times log2 e), constant b and constant c
// in panels. With powers, A[c, n] is (n+1)·A[c, 0] and one exponential serves all
// states of a channel.
func Scan(y, state, u, delta, a []float32, powers bool, b, c []float32, s ref.ScanShape, o ref.ScanOptions) {
	var dt, du, sum, decay, factor, bn, cn [ref.ScanLanes]float32
	for p := s.Panel0; p < s.Panel1; p++ {
		c0, lanes, g := s.Panel(p)
		panel := p * s.N * ref.ScanLanes
		for step := range s.L {
			t := s.Token(step)
			x := u[t*s.LdU+c0 : t*s.LdU+c0+lanes]
			for i, d := range delta[t*s.LdDelta+c0 : t*s.LdDelta+c0+lanes] {
				if o.DeltaBias != nil {
					d += o.DeltaBias[c0+i]
				}
				if o.Softplus {
					d = float32(ref.Softplus(float64(d)))
				}
				dt[i], du[i], sum[i] = d, d*x[i], 0
				if o.D != nil {
					sum[i] = o.D[c0+i] * x[i]
				}
			}
			for n := range s.N {
				row := panel + n*ref.ScanLanes
				switch {
				case !powers || n == 0:
					for i, v := range a[row : row+lanes] {
						factor[i] = exp2(dt[i] * v)
					}
					decay = factor
				default:
					for i := range lanes {
						decay[i] *= factor[i]
					}
				}
				spread(&bn, b, s.ConstB, row, t*s.LdB+g*s.N+n, lanes)
				spread(&cn, c, s.ConstC, row, t*s.LdC+g*s.N+n, lanes)
				h := state[n*s.Ch+c0 : n*s.Ch+c0+lanes]
				for i, v := range h {
					v = decay[i]*v + du[i]*bn[i]
					h[i] = v
					sum[i] += cn[i] * v
				}
			}
			out := y[t*s.LdY+c0 : t*s.LdY+c0+lanes]
			for i := range out {
				v := sum[i]
				if o.Z != nil {
					v *= ref.SiLU.Apply(o.Z[t*s.LdZ+c0+i])
				}
				if o.Add {
					v += out[i]
				}
				out[i] = v
			}
		}
	}
}

// spread fills dst with the row of a panel, or with the element of a token.
func spread(dst *[ref.ScanLanes]float32, x []float32, panels bool, row, element, lanes int) {
	if panels {
		copy(dst[:], x[row:row+lanes])
		return
	}
	v := x[element]
	for i := range lanes {
		dst[i] = v
	}
}

// exp2 returns 2^x within 2 ulp; results below 2^-125 are 0. The constant term of
// the polynomial is exactly 1: an error there would grow with every token that a
// state lives.
func exp2(x float32) float32 {
	switch {
	case x < -125:
		return 0
	case x >= 128:
		return float32(math.Inf(1))
	}
	const magic = 3 << 22 // the last bit is worth 1
	k := float32(x+magic) - magic
	r := x - k
	p := float32(0.00132764719)
	p = p*r + 0.00967554213
	p = p*r + 0.0555071327
	p = p*r + 0.240221197
	p = p*r + 0.693146967
	p = p*r + 1
	// k may be 128 and the power infinite where the result is not.
	return p * 2 * math.Float32frombits(uint32(int32(k)+126)<<23)
}
