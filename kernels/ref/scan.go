package ref

import "math"

// ScanLanes is how many channels a panel of scan parameters holds.
const ScanLanes = 16

// ScanShape describes a selective scan: Ch channels with N states each, over L
// tokens. Channels are split into Groups contiguous ranges that share their rows
// of B and C. All slices begin at channel 0 and, by token, at token 0.
type ScanShape struct {
	L, Ch, N int
	Groups   int // 0 means 1; divides Ch
	// Order lists the token of each of the L steps, nil meaning 0, 1, .. L-1. A
	// backward or column-wise scan is another order, not another layout.
	Order []int32
	// Floats between tokens; 0 means Ch, for B and C Groups·N.
	LdY, LdU, LdDelta, LdZ, LdB, LdC int
	// B and C that do not depend on the token: (Ch, N) in this package, panels in
	// package kernels.
	ConstB, ConstC bool
	// Panels to process: [Panel0, Panel1) of Panels(), all where Panel1 is 0.
	// Nothing of other channels is read or written.
	Panel0, Panel1 int
}

// ScanOptions are the optional parts of a selective scan.
type ScanOptions struct {
	DeltaBias []float32 // (Ch), added to delta; nil for none
	Softplus  bool      // delta = log(1 + exp(delta)) after the bias
	D         []float32 // (Ch), y += D·u; nil for none
	Z         []float32 // tokens x channels, y *= SiLU(z); nil for none
	Add       bool      // add to y instead of writing it
	// NoInputGate makes the input of the state u·b instead of δ·u·b.
	NoInputGate bool
}

// Dense returns s with Groups, Panel1 and the distances that are 0 filled in.
func (s ScanShape) Dense() ScanShape {
	s.Groups = max(s.Groups, 1)
	for _, ld := range []*int{&s.LdY, &s.LdU, &s.LdDelta, &s.LdZ} {
		if *ld == 0 {
			*ld = s.Ch
		}
	}
	for _, ld := range []*int{&s.LdB, &s.LdC} {
		if *ld == 0 {
			*ld = s.Groups * s.N
		}
	}
	if s.Panel1 == 0 {
		s.Panel1 = s.Panels()
	}
	return s
}

// groupPanels returns how many panels a group has.
func (s ScanShape) groupPanels() int {
	return (s.Ch/max(s.Groups, 1) + ScanLanes - 1) / ScanLanes
}

// Panels returns the number of panels, ranges of up to ScanLanes channels within
// one group.
func (s ScanShape) Panels() int { return max(s.Groups, 1) * s.groupPanels() }

// Panel returns the first channel, the number of channels and the group of a
// panel.
func (s ScanShape) Panel(p int) (c0, channels, group int) {
	width, per := s.Ch/max(s.Groups, 1), s.groupPanels()
	at := p % per * ScanLanes
	return p/per*width + at, min(ScanLanes, width-at), p / per
}

// Token returns the token of a step.
func (s ScanShape) Token(step int) int {
	if s.Order == nil {
		return step
	}
	return int(s.Order[step])
}

// Softplus returns log(1 + exp(x)).
func Softplus(x float64) float64 {
	if x > 20 { // as PyTorch's; the difference is below 2.1e-9
		return x
	}
	return math.Log1p(math.Exp(x))
}

// Scan computes, for every channel c of group g and token t in s.Order,
//
//	δ      = delta[t, c] + DeltaBias[c], then Softplus(δ) if o.Softplus
//	h[n,c] = exp(δ · a[c, n]) · h[n, c] + δ · u[t, c] · b[t, g, n]
//	y[t,c] = (Σ_n c[t, g, n] · h[n, c] + D[c] · u[t, c]) · SiLU(z[t, c])
//
// state being h, (N, Ch). The selective scan of Mamba, arXiv 2312.00752,
// algorithm 2 and equation 2 with its zero-order hold for A, and Euler's rule for B.
func Scan(y, state, u, delta, a, b, c []float32, s ScanShape, o ScanOptions) {
	s = s.Dense()
	h := make([]float64, s.N)
	for p := s.Panel0; p < s.Panel1; p++ {
		c0, channels, g := s.Panel(p)
		for ch := c0; ch < c0+channels; ch++ {
			for n := range h {
				h[n] = float64(state[n*s.Ch+ch])
			}
			for step := range s.L {
				t := s.Token(step)
				x, dt := float64(u[t*s.LdU+ch]), float64(delta[t*s.LdDelta+ch])
				if o.DeltaBias != nil {
					dt += float64(o.DeltaBias[ch])
				}
				if o.Softplus {
					dt = Softplus(dt)
				}
				var sum float64
				in := dt * x
				if o.NoInputGate {
					in = x
				}
				for n := range h {
					bn, cn := at(b, s.ConstB, ch*s.N+n, t*s.LdB+g*s.N+n), at(c, s.ConstC, ch*s.N+n, t*s.LdC+g*s.N+n)
					h[n] = math.Exp(dt*float64(a[ch*s.N+n]))*h[n] + in*bn
					sum += cn * h[n]
				}
				if o.D != nil {
					sum += float64(o.D[ch]) * x
				}
				if o.Z != nil {
					sum *= SiLU.apply(float64(o.Z[t*s.LdZ+ch]))
				}
				if o.Add {
					sum += float64(y[t*s.LdY+ch])
				}
				y[t*s.LdY+ch] = float32(sum)
			}
			for n, v := range h {
				state[n*s.Ch+ch] = float32(v)
			}
		}
	}
}

// at returns x[i] if constant and x[j] otherwise.
func at(x []float32, constant bool, i, j int) float64 {
	if constant {
		return float64(x[i])
	}
	return float64(x[j])
}
