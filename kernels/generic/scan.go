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
			copy(dt[:], delta[t*s.LdDelta+c0:t*s.LdDelta+c0+lanes])
			if o.DeltaBias != nil {
				for i, v := range o.DeltaBias[c0 : c0+lanes] {
					dt[i] += v
				}
			}
			if o.Softplus {
				softplus(dt[:lanes])
			}
			for i, d := range dt[:lanes] {
				du[i], sum[i] = d*x[i], 0
				if o.NoInputGate {
					du[i] = x[i]
				}
				if o.D != nil {
					sum[i] = o.D[c0+i] * x[i]
				}
			}
			for n := range s.N {
				row := panel + n*ref.ScanLanes
				switch {
				case !powers || n == 0:
					for i, v := range a[row : row+lanes] {
						factor[i] = dt[i] * v
					}
					exp2(factor[:lanes])
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
			if o.Z != nil {
				gate(sum[:lanes], o.Z[t*s.LdZ+c0:t*s.LdZ+c0+lanes])
			}
			out := y[t*s.LdY+c0 : t*s.LdY+c0+lanes]
			for i, v := range sum[:lanes] {
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

// exp2 replaces each element of x by 2^x within 2 ulp; results below 2^-125 are 0. The
// constant term of the polynomial is exactly 1: an error there would grow with every
// token that a state lives.
func exp2(x []float32) {
	for i, v := range x {
		switch {
		case v < -125:
			x[i] = 0
			continue
		case v >= 128:
			x[i] = float32(math.Inf(1))
			continue
		}
		const magic = 3 << 22 // the last bit is worth 1
		k := float32(v+magic) - magic
		r := v - k
		p := ((((0.00132764719*r+0.00967554213)*r+0.0555071327)*r+0.240221197)*r+0.693146967)*r + 1
		// k may be 128 and the power infinite where the result is not.
		x[i] = 2 * p * math.Float32frombits(uint32(int32(k)+126)<<23)
	}
}

// softplus replaces each element of x by log(1 + exp(x)) = max(x, 0) + log1p(w),
// w = exp(-|x|), where log1p(w) = 2 artanh(w / (2 + w)).
func softplus(x []float32) {
	var w [ref.ScanLanes]float32
	for i, v := range x {
		w[i] = -math.Log2E * float32(math.Abs(float64(v)))
	}
	exp2(w[:len(x)])
	for i, v := range x {
		q := w[i] / (2 + w[i])
		s := q * q
		q *= 2 + s*(0.666666667+s*(0.4+s*(0.285714286+s*(0.222222222+s*(0.181818182+s*0.17)))))
		x[i] = max(v, 0) + q
	}
}

// gate multiplies each element of y by SiLU(z).
func gate(y, z []float32) {
	var w [ref.ScanLanes]float32
	for i, v := range z {
		w[i] = -math.Log2E * v
	}
	exp2(w[:len(z)])
	for i, v := range z {
		y[i] *= v / (1 + w[i])
	}
}
