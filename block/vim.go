package block

import (
	"fmt"

	"github.com/mila-go/mila/kernels"
)

// Vim is the configuration of a Vision Mamba (arXiv 2401.09417) for
// classification, with the parameter names of the official repository: a sequence
// of patches with a class token in its middle, and blocks that scan it in both
// directions.
//
//	[x | z] = in RMSNorm(t)
//	t = t + out (SiLU(z) ⊙ (scan_f(SiLU(conv_f(x))) + scan_b(SiLU(conv_b(x))))) / 2
//
// Checked against an independent implementation in float64; no released weights
// were at hand, so names and shapes follow the published code.
type Vim struct {
	Dim        int // channels of a token
	Depth      int
	StateDim   int // N
	PatchSize  int
	NumClasses int
	ImgSize    int // the only size that runs: the position embedding is absolute
}

func vim(dim int) Vim {
	return Vim{Dim: dim, Depth: 24, StateDim: 16, PatchSize: 16, NumClasses: 1000, ImgSize: 224}
}

const (
	vimExpand = 2 // inner channels / channels
	vimWidth  = 4 // of the causal convolutions
)

// String names the configuration in errors.
func (c Vim) String() string {
	return fmt.Sprintf("Vim: embed_dim %d, depth %d, d_state %d, patch_size %d", c.Dim, c.Depth, c.StateDim, c.PatchSize)
}

// Validate says what is wrong with the configuration, if anything.
func (c Vim) Validate() error {
	if c.Dim < 1 || c.Dim > 1<<13 || c.Depth < 1 || c.Depth > 1000 || c.StateDim < 1 || c.StateDim > 64 || c.NumClasses < 1 || c.PatchSize < 1 || c.ImgSize < c.PatchSize || c.ImgSize%c.PatchSize != 0 || c.ImgSize > 1<<12 {
		return fmt.Errorf("block: configuration %v, img_size %d: a value is out of range, or the patches do not divide the image", c, c.ImgSize)
	}
	return nil
}

// Image returns the channels of an image and its size.
func (c Vim) Image() (chans, size int) { return 3, c.ImgSize }

// Classes returns the number of outputs of the classification head.
func (c Vim) Classes() int { return c.NumClasses }

// Tensors returns every parameter under its official name.
func (c Vim) Tensors() []TensorSpec { return declared(c) }

// Params returns the number of trainable parameters.
func (c Vim) Params() int { return countParams(declared(c)) }

// MACs returns the multiply-adds of one image. A scan counts nine for each state and
// a norm five for each channel, as in the published figures.
func (c Vim) MACs(h, w int) int64 { return plannedMACs(c, h, w) }

func (c Vim) tokens() int { n := c.ImgSize / c.PatchSize; return n*n + 1 }

type vimNet struct {
	cfg      Vim
	patch    linear
	class    []float32
	position []float32
	layers   []vimLayer
	norm     affine
	head     linear
}

type vimLayer struct {
	in         linear
	directions [2]direction // forward, backward
	out        linear
}

func (c Vim) network(l *loader, groups has) network {
	m := &vimNet{cfg: c}
	m.class, m.position = l.vector("cls_token", 1, 1, c.Dim), l.vector("pos_embed", 1, c.tokens(), c.Dim)
	m.patch = l.conv("patch_embed.proj", c.Dim, 3, c.PatchSize, true)
	e, rank := vimExpand*c.Dim, ceilDiv(c.Dim, 16)
	for i := range c.Depth {
		p := fmt.Sprintf("layers.%d.mixer.", i)
		norm := affine{gamma: l.vector(fmt.Sprintf("layers.%d.norm.weight", i), c.Dim)}
		layer := vimLayer{in: l.linear(p+"in_proj", 2*e, c.Dim, false, &norm), out: l.linear(p+"out_proj", c.Dim, e, false, nil)}
		layer.directions[0] = l.direction(p, "", e, c.StateDim, rank, vimWidth, true)
		layer.directions[1] = l.direction(p, "_b", e, c.StateDim, rank, vimWidth, true)
		for i := range layer.out.w {
			layer.out.w[i] /= 2
		}
		m.layers = append(m.layers, layer)
	}
	if l.group = "norm"; groups["norm"] {
		m.norm = affine{gamma: l.vector("norm_f.weight", c.Dim)}
	}
	if l.group = "head"; groups["head"] {
		m.head = l.linear("head", c.NumClasses, c.Dim, true, nil)
	}
	l.group = ""
	return m
}

func (m *vimNet) check(batch, h, w int) error { return ownSize(m.cfg, m.cfg.Dim, batch, h, w) }

func (m *vimNet) channels() []featureMap { return []featureMap{{channels: m.cfg.Dim}} }

func (m *vimNet) plan(b *planner) {
	p, level, c, l := b.Plan, b.level, m.cfg.Dim, m.cfg.tokens()
	middle := (l - 1) / 2
	patches, ph, pw := b.imageConv(&m.patch, 3, m.cfg.PatchSize, m.cfg.PatchSize, 0, kernels.Identity)
	b.maps = append(b.maps, [2]int{ph, pw})
	x := b.tokens(l, c)
	b.step(b.batch, func(i, _ int) {
		to, from := p.image(x, i), p.image(patches, i)
		copy(to, from[:middle*c])
		copy(to[middle*c:], m.class)
		copy(to[(middle+1)*c:], from[middle*c:])
		kernels.Add(level, to, to, m.position)
	})
	b.release(patches.buffer)
	b.tap("patch_embed", x, b.batch, l, c)
	backward := make([]int32, l)
	kernels.ScanOrder(backward, 1, l, kernels.RowBackward)
	for i := range m.layers {
		m.layer(b, &m.layers[i], x, l, backward)
		b.tap(fmt.Sprintf("layers.%d", i), x, b.batch, l, c)
	}
	// Only the class token goes on.
	b.count(normMACs * c)
	pooled := b.tokens(1, c)
	b.step(b.batch, func(i, _ int) {
		kernels.RMSNorm(level, p.image(pooled, i), c, p.image(x, i)[middle*c:], c, 1, c, m.norm.gamma, normEps)
	})
	b.when(b.pooledWanted)
	b.output(pooled, m.head)
}

// layer plans one block on x, in place.
func (m *vimNet) layer(b *planner, layer *vimLayer, x tokens, l int, backward []int32) {
	p, level, e := b.Plan, b.level, layer.out.k
	fused, used := b.byRows(l, 1), 0
	xz := b.tokens(l, 2*e)
	u := b.between(fused, l, 1, x.ld, &used)
	b.count(normMACs * l * x.ld)
	b.chain(fused, l, 1, op{run: func(t tile) {
		kernels.RMSNorm(level, p.rows(u, t, 1), u.ld, p.rows(x, t, 1), x.ld, t.r1-t.r0, x.ld, nil, normEps)
	}}, b.project(xz, u, l, 1, &layer.in, kernels.Identity, nil))
	if !fused {
		b.release(u.buffer)
	}

	orders := [2][]int32{nil, backward}
	var v, proj [2]tokens
	var project []op
	var passes []scanPass
	for k := range v {
		d := &layer.directions[k]
		v[k], proj[k] = b.tokens(l, e), b.tokens(l, ceilDiv(d.proj.n, lanes)*lanes)
		b.count(l * e * d.width)
		project = append(project, b.project(proj[k], v[k], l, 1, &d.proj, kernels.Identity, nil))
		passes = append(passes, scanPass{scanParams: &d.scan, u: v[k], proj: proj[k], order: orders[k]})
	}
	chunks := ceilDiv(e, scanChunk)
	b.need((vimWidth - 1) * e)
	b.step(2*b.batch*chunks, func(task, worker int) {
		k, i, chunk := task%2, task/2/chunks, task/2%chunks
		state := p.work(worker)[:(vimWidth-1)*e]
		for j := range vimWidth - 1 {
			clear(state[j*e+chunk*scanChunk : j*e+min(e, (chunk+1)*scanChunk)])
		}
		layer.directions[k].convolve(level, p.image(v[k], i), p.image(xz, i), xz.ld, state, l, chunk, orders[k])
	})
	b.chain(fused, l, 1, project...)
	y := b.tokens(l, e)
	b.scans(y, e, l, &xz, e, nil, passes...)
	b.chain(fused, l, 1, b.project(x, y, l, 1, &layer.out, kernels.Identity, &x))
	b.release(xz.buffer, v[0].buffer, v[1].buffer, proj[0].buffer, proj[1].buffer, y.buffer)
}
