package block

import (
	"math"

	"github.com/mila-go/mila/kernels"
)

const mamba2 = "mamba2"

// mixer2 is a Mamba-2 block: heads whose state decays by one gate each, between
// projections, after a causal convolution, with a gated norm. Figure 6 of arXiv
// 2405.21060:
//
//	[z | xBC | dt] = in u;  [x | B | C] = SiLU(conv(xBC))
//	y = out (RMSNorm(SSD(x; softplus(dt + bias), A, B, C, D) ⊙ SiLU(z)))
type mixer2 struct {
	heads, dim, groups, n, width int
	eps                          float32
	in                           linear
	conv, convBias               []float32
	a, d, dtBias                 []float32
	out                          linear // the norm is folded in
}

func (l *loader) mixer2(p string, c *MambaConfig, before []float32) *mixer2 {
	m := &mixer2{heads: c.Heads, dim: c.HeadDim, groups: c.Groups, n: c.StateSize, width: c.ConvKernel, eps: float32(c.Epsilon)}
	e, mixed := c.inner(), m.mixed()
	m.dtBias, m.d = l.vector(p+"dt_bias", c.Heads), l.vector(p+"D", c.Heads)
	m.a = l.vector(p+"A_log", c.Heads)
	for i, v := range m.a {
		m.a[i] = float32(-math.Exp(float64(v)))
	}
	l.declare(p+"conv1d.weight", mixed, 1, c.ConvKernel)
	if !l.declares {
		m.conv = make([]float32, c.ConvKernel*mixed)
		kernels.PackConv1D(m.conv, l.scratch(p+"conv1d.weight", c.ConvKernel*mixed), mixed, c.ConvKernel)
	}
	if c.ConvBias {
		m.convBias = l.vector(p+"conv1d.bias", mixed)
	}
	norm := l.vector(p+"norm.weight", e)
	m.in = l.linear(p+"in_proj", e+mixed+c.Heads, c.HiddenSize, c.Bias, &affine{gamma: before})
	m.out = l.linear(p+"out_proj", c.HiddenSize, e, c.Bias, &affine{gamma: norm})
	return m
}

// mixed returns the channels of x, B and C together.
func (m *mixer2) mixed() int { return m.heads*m.dim + 2*m.groups*m.n }

func (m *mixer2) convState() int { return (m.width - 1) * m.mixed() }
func (m *mixer2) scanState() int { return m.heads * m.n * m.dim }

func (m *mixer2) plan(b *planner, y, u tokens, l int, conv, state []float32) {
	p, level := b.Plan, b.level
	e, mixed, keys := m.heads*m.dim, m.mixed(), m.groups*m.n
	in, xbc, out := b.tokens(l, m.in.n), b.tokens(l, mixed), b.tokens(l, e)
	fused := b.byRows(l, 1)
	b.chain(fused, l, 1, b.project(in, u, l, 1, &m.in, kernels.Identity, nil))
	chunks := ceilDiv(mixed, scanChunk)
	b.count(l * mixed * m.width)
	b.step(chunks, func(chunk, _ int) {
		kernels.Conv1D(level, p.f(xbc.buffer), conv, p.f(in.buffer)[e:], m.conv, m.convBias, kernels.Conv1DShape{L: l, Ch: mixed, Width: m.width, LdX: in.ld,
			Ch0: chunk * scanChunk, Ch1: min(mixed, (chunk+1)*scanChunk)}, kernels.SiLU)
	})
	// δ, the gates δ A, and δ x in place of x, of which D's share is kept in out.
	gates := b.tokens(l, m.heads)
	b.chain(false, l, 1, op{run: func(t tile) {
		for i := t.r0; i < t.r1; i++ {
			delta, x := p.f(gates.buffer)[i*m.heads:(i+1)*m.heads], p.f(xbc.buffer)[i*mixed:i*mixed+e]
			for h, v := range p.f(in.buffer)[i*in.ld+e+mixed : (i+1)*in.ld] {
				delta[h] = v + m.dtBias[h]
			}
			kernels.Softplus(level, delta, delta)
			for h, dt := range delta {
				skip := p.f(out.buffer)[i*e+h*m.dim : i*e+(h+1)*m.dim]
				for j, v := range x[h*m.dim : (h+1)*m.dim] {
					skip[j] = m.d[h] * v
					x[h*m.dim+j] = dt * v
				}
				delta[h] = dt * m.a[h]
			}
		}
	}})
	shape := kernels.RecurrenceShape{L: l, Heads: m.heads, KeyDim: m.n, Dim: m.dim, Groups: m.groups, LdQ: mixed, LdK: mixed, LdV: mixed, LdO: mixed}
	work := kernels.ChunkedLen(m.n, m.dim)
	b.need(work)
	b.count(l * e * m.n * 3)
	const few = 8 // tokens, from which on chunks are faster
	b.step(m.heads, func(h, worker int) {
		s := shape
		s.Head0, s.Head1 = h, h+1
		x := p.f(xbc.buffer)
		k, q, opt := x[e:], x[e+keys:], kernels.RecurrenceOptions{HeadGate: p.f(gates.buffer)[:l*m.heads]}
		if l < few {
			kernels.Recurrent(level, x, state, q, k, x, s, opt)
		} else {
			kernels.Chunked(level, x, state, q, k, x, s, opt, p.work(worker))
		}
	})
	b.count(normMACs * l * e)
	b.chain(fused, l, 1, op{run: func(t tile) {
		for i := t.r0; i < t.r1; i++ {
			row, z := p.f(out.buffer)[i*e:(i+1)*e], p.f(in.buffer)[i*in.ld:i*in.ld+e]
			kernels.Add(level, row, row, p.f(xbc.buffer)[i*mixed:i*mixed+e])
			kernels.Activate(level, kernels.SiLU, z, z)
			kernels.Mul(level, row, row, z)
		}
		kernels.RMSNorm(level, p.rows(out, t, 1), e, p.rows(out, t, 1), e, t.r1-t.r0, e, nil, m.eps)
	}}, b.project(y, out, l, 1, &m.out, kernels.Identity, &y))
	b.release(in.buffer, xbc.buffer, out.buffer, gates.buffer)
}
