package block

import (
	"math"

	"github.com/mila-go/mila/kernels"
)

// scanChunk is how many channels a task scans. Their step sizes δ are computed on
// the spot, into the worker's scratch, so those of all channels never exist.
const scanChunk = 32

// scanParams are the parameters of one selective scan over E channels: the rows
// of a projection of the input hold dt (rank), then B and C (N each).
type scanParams struct {
	rank, n int
	dt      linear // rank -> E, without bias
	dtBias  []float32
	a       []*kernels.ScanA // by chunk of channels
	d       []float32
}

// row is how many values of the projected input a scan reads.
func (s *scanParams) row() int { return s.rank + 2*s.n }

// scanA returns A = -exp(logs), (e, n), in chunks.
func (l *loader) scanA(logs []float32, e, n int) []*kernels.ScanA {
	if l.declares {
		return nil
	}
	a := make([]float32, e*n)
	for i, v := range logs {
		a[i] = float32(-math.Exp(float64(v)))
	}
	var out []*kernels.ScanA
	for c := 0; c < e; c += scanChunk {
		ch := min(scanChunk, e-c)
		out = append(out, kernels.NewScanA(a[c*n:(c+ch)*n], ch, n, 1))
	}
	return out
}

// scanPass is one of the scans whose outputs are added up: its parameters, its
// input u, the projections of the input (from column offset on), and the tokens in
// the order of the steps, nil meaning all as they are.
type scanPass struct {
	*scanParams
	u, proj tokens
	offset  int
	order   []int32
}

// scans plans y = Σ over the passes of SiLU(z) ⊙ scan(u), for e channels of l
// tokens; z, from column offset on, may be absent. Equation 10 of arXiv 2405.16605.
// With state, of one sequence and one pass, scans go on from it and leave theirs,
// (N, channels) for each chunk; nil states begin at 0.
func (b *planner) scans(y tokens, e, l int, z *tokens, offset int, state []float32, passes ...scanPass) {
	p, level := b.Plan, b.level
	chunks := ceilDiv(e, scanChunk)
	most := 0
	for _, s := range passes {
		b.count(l*e*s.rank + 9*l*e*s.n)
		most = max(most, s.n)
	}
	b.need(l*scanChunk + most*scanChunk)
	b.step(b.batch*chunks, func(task, worker int) {
		i, chunk := task/chunks, task%chunks
		c0 := chunk * scanChunk
		ch := min(scanChunk, e-c0)
		scratch := p.work(worker)
		for k := range passes {
			s := &passes[k]
			proj := p.image(s.proj, i)[s.offset:]
			delta, h := scratch[:l*ch], scratch[l*scanChunk:l*scanChunk+s.n*ch]
			if state != nil {
				h = state[c0*s.n : (c0+ch)*s.n]
			} else {
				clear(h)
			}
			kernels.Gemm(level, delta, ch, proj, s.proj.ld, s.dt.w[c0*s.rank:], l, ch, s.rank, kernels.Epilogue{})
			o := kernels.ScanOptions{DeltaBias: s.dtBias[c0:], Softplus: true, D: s.d[c0:], Add: k > 0}
			steps := l
			if s.order != nil {
				steps = len(s.order)
			}
			shape := kernels.ScanShape{L: steps, Ch: ch, N: s.n, Order: s.order, LdY: y.ld, LdU: s.u.ld, LdDelta: ch, LdB: s.proj.ld, LdC: s.proj.ld}
			if z != nil {
				o.Z, shape.LdZ = p.image(*z, i)[offset+c0:], z.ld
			}
			kernels.Scan(level, p.image(y, i)[c0:], h, p.image(s.u, i)[c0:], delta, s.a[chunk], proj[s.rank:], proj[s.rank+s.n:], shape, o)
		}
	})
}
