package block

import (
	"fmt"
	"strconv"

	"github.com/mila-go/mila/kernels"
)

// VMamba is the configuration of a VMamba (arXiv 2401.10166) for classification,
// with the parameter names of the official repository: the released second version
// (no gate, an MLP, one state a channel) and the vanilla form of the first.
//
//	x = x + out LN(Σ_k scan_k(SiLU(dw3x3(in LN(x)))))   [⊙ SiLU(z) in the vanilla form]
//	x = x + fc2 GELU(fc1 LN(x))                          [not in the vanilla form]
//
// The four scans go along rows, along columns, and along both backwards. Checked
// against an independent implementation in float64; no released weights were at
// hand, so names and shapes follow the published code.
type VMamba struct {
	EmbedDim int     // channels of the first stage; stage i has EmbedDim * 2^i
	Depths   []int   // blocks in each stage
	StateDim int     // N
	SSMRatio float64 // inner channels / channels
	Vanilla  bool    // the first version: gate, no MLP, patches of 4x4, patch merging
	// Directions of the scans of each block, in place of the four: makes a
	// LocalVMamba of the vanilla form. See [LocalScan].
	Directions [][]string
	NumClasses int
	ImgSize    int // the size trained at; any multiple of 32 runs
}

func vmamba(dim, third int) VMamba {
	return VMamba{EmbedDim: dim, Depths: []int{2, 2, third, 2}, StateDim: 1, SSMRatio: 1, NumClasses: 1000, ImgSize: 224}
}

func vanilla(dim, third int) VMamba {
	c := vmamba(dim, third)
	c.StateDim, c.SSMRatio, c.Vanilla = 16, 2, true
	return c
}

// String names the configuration in errors.
func (c VMamba) String() string {
	name := "VMamba"
	if c.Directions != nil {
		name = "LocalVMamba"
	}
	return name + fmt.Sprintf(": embed_dim %d, depths %v, d_state %d, ssm_ratio %v, vanilla %v", c.EmbedDim, c.Depths, c.StateDim, c.SSMRatio, c.Vanilla)
}

// Validate says what is wrong with the configuration, if anything.
func (c VMamba) Validate() error {
	if c.EmbedDim < 2 || c.EmbedDim > 1<<13 || c.EmbedDim%2 != 0 || c.StateDim < 1 || c.StateDim > 64 || !(c.SSMRatio > 0 && c.SSMRatio <= 8) || c.NumClasses < 1 || len(c.Depths) != 4 {
		return fmt.Errorf("block: configuration %v; it needs an even embed_dim, four stages, d_state from 1 to 64, ssm_ratio up to 8, and classes", c)
	}
	return c.validateDirections()
}

// Image returns the channels of an image and the size trained at.
func (c VMamba) Image() (chans, size int) { return 3, c.ImgSize }

// Classes returns the number of outputs of the classification head.
func (c VMamba) Classes() int { return c.NumClasses }

// Tensors returns every parameter under its official name.
func (c VMamba) Tensors() []TensorSpec { return declared(c) }

// Params returns the number of trainable parameters.
func (c VMamba) Params() int { return countParams(declared(c)) }

// MACs returns the multiply-adds of one image. A scan counts nine for each state and
// a norm five for each channel, as in the published figures.
func (c VMamba) MACs(h, w int) int64 { return plannedMACs(c, h, w) }

type vmambaNet struct {
	cfg          VMamba
	stem1, stem2 linear
	norm1, norm2 affine
	stages       []vmambaStage
	norm         affine
	head         linear
}

type vmambaStage struct {
	dim, inner int
	blocks     []vmambaBlock
	down       linear
	downNorm   affine // after a convolution, before a merging of the vanilla form, into which it is folded
}

type vmambaBlock struct {
	in, proj, out linear
	conv          depthwise
	norm          affine // of the vanilla form's output, before its gate
	scans         []scanParams
	mlp           mlp
	local         *localBlock // of a LocalVMamba
}

func (c VMamba) network(l *loader, groups has) network {
	m := &vmambaNet{cfg: c}
	if c.Vanilla {
		m.stem1, m.norm1 = l.conv("patch_embed.0", c.EmbedDim, 3, 4, true), l.affine("patch_embed.2", c.EmbedDim)
	} else {
		m.stem1, m.norm1 = l.conv("patch_embed.0", c.EmbedDim/2, 3, 3, true), l.affine("patch_embed.2", c.EmbedDim/2)
		m.stem2, m.norm2 = l.conv("patch_embed.5", c.EmbedDim, c.EmbedDim/2, 3, true), l.affine("patch_embed.7", c.EmbedDim)
	}
	done := 0
	for i, depth := range c.Depths {
		d := c.EmbedDim << i
		st := vmambaStage{dim: d, inner: int(c.SSMRatio * float64(d))}
		layer := "layers." + strconv.Itoa(i)
		for j := range depth {
			p := fmt.Sprintf("%s.blocks.%d.", layer, j)
			b := c.block(l, p, d, st.inner)
			if c.Directions != nil {
				b.local = l.localBlock(p+"op.multi_scan.attn.", st.inner, c.Directions[done])
				done++
			}
			st.blocks = append(st.blocks, b)
		}
		switch {
		case i+1 == len(c.Depths):
		case c.Vanilla:
			norm := l.affine(layer+".downsample.norm", 4*d)
			st.down = l.linear(layer+".downsample.reduction", 2*d, 4*d, false, &norm)
		default:
			st.down, st.downNorm = l.conv(layer+".downsample.1", 2*d, d, 3, true), l.affine(layer+".downsample.3", 2*d)
		}
		m.stages = append(m.stages, st)
	}
	last := c.EmbedDim << (len(c.Depths) - 1)
	m.norm, m.head = l.classifier(groups, "classifier.norm", "classifier.head", c.NumClasses, last)
	return m
}

func (c VMamba) block(l *loader, p string, d, e int) vmambaBlock {
	n, rank := c.StateDim, ceilDiv(d, 16)
	norm := l.affine(p+"norm", d)
	var b vmambaBlock
	proj := l.vector(p+"op.x_proj_weight", 4, rank+2*n, e)
	b.proj = linear{n: 4 * (rank + 2*n), k: e}
	dt, bias := l.vector(p+"op.dt_projs_weight", 4, e, rank), l.vector(p+"op.dt_projs_bias", 4, e)
	logs, skip := l.vector(p+"op.A_logs", 4*e, n), l.vector(p+"op.Ds", 4*e)
	if !l.declares {
		b.proj.w = l.pack(proj, b.proj.n, e)
	}
	for k := range 4 {
		s := scanParams{rank: rank, n: n, dt: linear{n: e, k: rank}}
		if !l.declares {
			s.dt.w, s.dtBias, s.d = l.pack(dt[k*e*rank:(k+1)*e*rank], e, rank), bias[k*e:(k+1)*e], skip[k*e:(k+1)*e]
			s.a = l.scanA(logs[k*e*n:(k+1)*e*n], e, n)
		}
		b.scans = append(b.scans, s)
	}
	inner := e
	if c.Vanilla {
		inner = 2 * e
	}
	b.in = l.linear(p+"op.in_proj", inner, d, false, &norm)
	b.conv = l.depthwise(p+"op.conv2d", e, c.Vanilla)
	after := l.affine(p+"op.out_norm", e)
	if c.Vanilla {
		b.norm = after
		b.out = l.linear(p+"op.out_proj", d, e, false, nil)
		return b
	}
	b.out = l.linear(p+"op.out_proj", d, e, false, &after)
	norm2 := l.affine(p+"norm2", d)
	b.mlp = l.mlp(p+"mlp", d, 4*d, &norm2)
	return b
}

func (m *vmambaNet) check(batch, h, w int) error {
	return multipleOf(32, m.cfg, m.cfg.EmbedDim, batch, h, w)
}

func (m *vmambaNet) channels() []featureMap {
	out := make([]featureMap, len(m.stages))
	for i, st := range m.stages {
		out[i].channels = st.dim
	}
	return out
}

func (m *vmambaNet) plan(b *planner) {
	var x tokens
	var h, w int
	if m.cfg.Vanilla {
		x, h, w = b.imageConv(&m.stem1, 3, 4, 4, 0, kernels.Identity)
		b.norm(x, x, h, w, &m.norm1, normEps, kernels.Identity)
	} else {
		var half tokens
		half, h, w = b.imageConv(&m.stem1, 3, 3, 2, 1, kernels.Identity)
		b.norm(half, half, h, w, &m.norm1, normEps, kernels.GELU)
		x, h, w = b.conv3(half, h, w, &m.stem2, 2, kernels.Identity)
		b.release(half.buffer)
		b.norm(x, x, h, w, &m.norm2, normEps, kernels.Identity)
	}
	b.tap("patch_embed", x, b.batch, h*w, x.ld)
	for i := range m.stages {
		st := &m.stages[i]
		b.maps = append(b.maps, [2]int{h, w})
		var orders [4][]int32
		for k, d := range []kernels.ScanDirection{kernels.RowForward, kernels.ColumnForward, kernels.RowBackward, kernels.ColumnBackward} {
			orders[k] = make([]int32, h*w)
			kernels.ScanOrder(orders[k], h, w, d)
		}
		for j := range st.blocks {
			m.block(b, &st.blocks[j], st, x, h, w, &orders)
			b.tap(blockName(i, j), x, b.batch, h*w, st.dim)
		}
		if i+1 == len(m.stages) {
			break
		}
		old := x
		if m.cfg.Vanilla {
			x, h, w = b.merge(old, h, w, &st.down)
		} else {
			x, h, w = b.conv3(old, h, w, &st.down, 2, kernels.Identity)
			b.norm(x, x, h, w, &st.downNorm, normEps, kernels.Identity)
		}
		b.release(old.buffer)
		b.tap(downsampleName(i), x, b.batch, h*w, x.ld)
	}
	b.classify(x, h, w, m.norm, normEps, m.head)
}

// block plans one block on x, in place.
func (m *vmambaNet) block(b *planner, blk *vmambaBlock, st *vmambaStage, x tokens, h, w int, orders *[4][]int32) {
	p, level, l, e := b.Plan, b.level, h*w, st.inner
	fused, used := b.byRows(h, w), 0
	more := 0 // one token of zeros behind those of the map, where windows reach beyond it
	if blk.local != nil {
		more = 1
	}
	xi, v, proj := b.tokens(l, blk.in.n), b.tokens(l+more, e), b.tokens(l+more, ceilDiv(blk.proj.n, lanes)*lanes)
	u := b.between(fused, h, w, st.dim, &used)
	b.chain(fused, h, w, b.normed(u, x, h, w, normEps), b.project(xi, u, h, w, &blk.in, kernels.Identity, nil))
	if !fused {
		b.release(u.buffer)
	}
	b.chain(fused, h, w, b.depthwiseOp(v, xi, 0, e, h, w, &blk.conv, kernels.SiLU), b.project(proj, v, h, w, &blk.proj, kernels.Identity, nil))

	var y tokens
	passes := make([]scanPass, 4)
	for k := range passes {
		s := &blk.scans[k]
		passes[k] = scanPass{s, v, proj, k * s.row(), orders[k]}
	}
	if blk.local != nil {
		y = b.localScans(blk.local, passes, h, w)
	} else {
		y = b.tokens(l, e)
		b.scans(y, e, l, nil, 0, nil, passes...)
	}

	normed := b.normed(y, y, h, w, normEps)
	if m.cfg.Vanilla { // y = LN(y) ⊙ SiLU(z)
		normed = op{run: func(t tile) {
			n := (t.r1 - t.r0) * w
			to, z := p.rows(y, t, w), p.rows(xi, t, w)
			kernels.LayerNorm(level, to, e, to, e, n, e, blk.norm.gamma, blk.norm.beta, normEps)
			for i := range n {
				gate := z[i*2*e+e : (i+1)*2*e]
				kernels.Activate(level, kernels.SiLU, gate, gate)
				kernels.Mul(level, to[i*e:(i+1)*e], to[i*e:(i+1)*e], gate)
			}
		}}
	}
	b.chain(fused, h, w, normed, b.project(x, y, h, w, &blk.out, kernels.Identity, &x))
	b.release(xi.buffer, v.buffer, proj.buffer, y.buffer)
	if !m.cfg.Vanilla {
		b.mlp(x, h, w, &blk.mlp, normEps)
	}
}

// merge plans Swin's patch merging: the four tokens of each 2x2 square, in the
// order of columns, side by side, a LayerNorm (folded into l) and a linear layer.
func (b *planner) merge(x tokens, h, w int, l *linear) (y tokens, oh, ow int) {
	p, level, c := b.Plan, b.level, x.ld
	oh, ow = h/2, w/2
	fused, used := b.byRows(oh, ow), 0
	y = b.tokens(oh*ow, l.n)
	wide := b.between(fused, oh, ow, 4*c, &used)
	b.count(normMACs * oh * ow * 4 * c)
	b.chain(fused, oh, ow, op{run: func(t tile) {
		from, to := p.image(x, t.image), p.rows(wide, t, ow)
		for i := range (t.r1 - t.r0) * ow {
			r, j := 2*(t.r0+i/ow), 2*(i%ow)
			for k := range 4 {
				at := ((r+k%2)*w + j + k/2) * c
				copy(to[(4*i+k)*c:(4*i+k+1)*c], from[at:at+c])
			}
		}
		kernels.LayerNorm(level, to, 4*c, to, 4*c, (t.r1-t.r0)*ow, 4*c, nil, nil, normEps)
	}}, b.project(y, wide, oh, ow, l, kernels.Identity, nil))
	if !fused {
		b.release(wide.buffer)
	}
	return y, oh, ow
}
