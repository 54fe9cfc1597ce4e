package block

import (
	"fmt"

	"github.com/mila-go/mila/kernels"
)

// EfficientVMamba is the configuration of an EfficientVMamba (arXiv 2403.09977)
// for classification, with the parameter names of the official repository. In the
// first two stages each of four scans takes every second token of every second row,
// beside a branch of convolutions,
//
//	u = LN(x);  x = x + G(out (SiLU(z) ⊙ LN(scans(SiLU(dw3x3(in u)))))) + G(conv1x1 GELU(BN(dw3x3 u)))
//
// G weighing channels; the last two are inverted residuals of a MobileNet. Checked
// against an independent implementation in float64; no released weights were at
// hand, so names and shapes follow the published code.
type EfficientVMamba struct {
	EmbedDim   int   // channels of the first stage; stage i has EmbedDim * 2^i
	Depths     []int // blocks in each of the four stages
	StateDim   int   // N
	NumClasses int
	ImgSize    int // the size trained at; any multiple of 32 runs
}

func efficientVMamba(dim, third int) EfficientVMamba {
	return EfficientVMamba{EmbedDim: dim, Depths: []int{2, 2, third, 2}, StateDim: 16, NumClasses: 1000, ImgSize: 224}
}

const (
	efficientScans  = 2 // stages with scans
	efficientExpand = 4 // of an inverted residual
	efficientWays   = 4 // scans, of a quarter of the tokens each
)

// String names the configuration in errors.
func (c EfficientVMamba) String() string {
	return fmt.Sprintf("EfficientVMamba: embed_dim %d, depths %v, d_state %d", c.EmbedDim, c.Depths, c.StateDim)
}

// Validate says what is wrong with the configuration, if anything.
func (c EfficientVMamba) Validate() error {
	if c.EmbedDim < 8 || c.EmbedDim > 1<<13 || c.EmbedDim%8 != 0 || c.StateDim < 1 || c.StateDim > 64 || c.NumClasses < 1 || len(c.Depths) != 4 {
		return fmt.Errorf("block: configuration %v; it needs an embed_dim of a multiple of 8, four stages, d_state from 1 to 64, and classes", c)
	}
	return nil
}

// Image returns the channels of an image and the size trained at.
func (c EfficientVMamba) Image() (chans, size int) { return 3, c.ImgSize }

// Classes returns the number of outputs of the classification head.
func (c EfficientVMamba) Classes() int { return c.NumClasses }

// Tensors returns every parameter under its official name.
func (c EfficientVMamba) Tensors() []TensorSpec { return declared(c) }

// Params returns the number of trainable parameters.
func (c EfficientVMamba) Params() int { return countParams(declared(c)) }

// MACs returns the multiply-adds of one image. A scan counts nine for each state and
// a norm five for each channel, as in the published figures.
func (c EfficientVMamba) MACs(h, w int) int64 { return plannedMACs(c, h, w) }

type efficientNet struct {
	cfg    EfficientVMamba
	stem   linear
	embed  affine
	blocks [efficientScans][]efficientBlock
	mobile [4][]invertedResidual
	down   [3]linear
	norm   affine
	head   linear
}

type efficientBlock struct {
	norm     affine
	in       linear
	conv     depthwise
	proj     [efficientWays]linear
	scans    [efficientWays]scanParams
	outNorm  affine
	out      linear
	branch   depthwise
	pointed  linear
	channels channelGate
}

type invertedResidual struct {
	expand  linear
	dw      depthwise
	reduce  linear
	excite  linear
	project linear
}

func (c EfficientVMamba) network(l *loader, groups has) network {
	m := &efficientNet{cfg: c}
	m.stem, m.embed = l.conv("patch_embed.0", c.EmbedDim, 3, 4, true), l.affine("patch_embed.2", c.EmbedDim)
	for i, depth := range c.Depths {
		d := c.EmbedDim << i
		down := fmt.Sprintf("layers.%d.downsample", i)
		for j := range depth {
			if i < efficientScans {
				m.blocks[i] = append(m.blocks[i], c.block(l, fmt.Sprintf("layers.%d.blocks.%d.", i, j), d))
			} else { // the first of these layers is a permutation
				m.mobile[i] = append(m.mobile[i], l.invertedResidual(fmt.Sprintf("layers.%d.%d.", i, j+1), d))
				down = fmt.Sprintf("layers.%d.%d", i, depth+2)
			}
		}
		if i+1 < len(c.Depths) {
			norm := l.affine(down+".norm", 4*d)
			m.down[i] = l.linear(down+".reduction", 2*d, 4*d, false, &norm)
		}
	}
	m.norm, m.head = l.classifier(groups, "classifier.norm", "classifier.head", c.NumClasses, c.EmbedDim<<3)
	return m
}

func (c EfficientVMamba) block(l *loader, p string, d int) efficientBlock {
	e, n, rank := 2*d, c.StateDim, ceilDiv(d, 16)
	row := rank + 2*n
	b := efficientBlock{norm: l.affine(p+"norm", d)}
	proj := l.vector(p+"op.x_proj_weight", efficientWays, row, e)
	dt, bias := l.vector(p+"op.dt_projs_weight", efficientWays, e, rank), l.vector(p+"op.dt_projs_bias", efficientWays, e)
	logs, skip := l.vector(p+"op.A_logs", efficientWays*e, n), l.vector(p+"op.Ds", efficientWays*e)
	for k := range efficientWays {
		b.proj[k] = linear{n: row, k: e}
		b.scans[k] = scanParams{rank: rank, n: n, dt: linear{n: e, k: rank}}
		if !l.declares {
			b.proj[k].w = l.pack(proj[k*row*e:(k+1)*row*e], row, e)
			s := &b.scans[k]
			s.dt.w, s.dtBias, s.d = l.pack(dt[k*e*rank:(k+1)*e*rank], e, rank), bias[k*e:(k+1)*e], skip[k*e:(k+1)*e]
			s.a = l.scanA(logs[k*e*n:(k+1)*e*n], e, n)
		}
	}
	b.in = l.linear(p+"op.in_proj", 2*e, d, false, nil)
	b.conv = l.depthwise(p+"op.conv2d", e, true)
	b.outNorm = l.affine(p+"op.out_norm", e)
	b.out = l.linear(p+"op.out_proj", d, e, false, nil)
	b.branch = l.depthwiseNorm(p+"conv_branch.0", p+"conv_branch.1", d, true)
	b.pointed = l.conv(p+"conv_branch.3", d, d, 1, true)
	b.channels = l.channelGate(p+"se.", d)
	return b
}

func (l *loader) invertedResidual(p string, d int) invertedResidual {
	e := efficientExpand * d
	return invertedResidual{
		expand:  l.convNorm(p+"conv_pw.0", p+"conv_pw.1", e, d, 1, false),
		dw:      l.depthwiseNorm(p+"conv_dw.0", p+"conv_dw.1", e, false),
		reduce:  l.conv(p+"se.conv_reduce", e/8, e, 1, true),
		excite:  l.conv(p+"se.conv_expand", e, e/8, 1, true),
		project: l.convNorm(p+"conv_pw2.0", p+"conv_pw2.1", d, e, 1, false),
	}
}

func (m *efficientNet) check(batch, h, w int) error {
	return multipleOf(32, m.cfg, m.cfg.EmbedDim, batch, h, w)
}

func (m *efficientNet) channels() []featureMap {
	out := make([]featureMap, len(m.cfg.Depths))
	for i := range out {
		out[i].channels = m.cfg.EmbedDim << i
	}
	return out
}

func (m *efficientNet) plan(b *planner) {
	x, h, w := b.imageConv(&m.stem, 3, 4, 4, 0, kernels.Identity)
	b.norm(x, x, h, w, &m.embed, normEps, kernels.Identity)
	b.tap("patch_embed", x, b.batch, h*w, x.ld)
	for i, depth := range m.cfg.Depths {
		b.maps = append(b.maps, [2]int{h, w})
		for j := range depth {
			if i < efficientScans {
				m.block(b, &m.blocks[i][j], x, h, w)
			} else {
				b.invertedResidual(&m.mobile[i][j], x, h, w)
			}
			b.tap(blockName(i, j), x, b.batch, h*w, x.ld)
		}
		if i+1 < len(m.cfg.Depths) {
			old := x
			x, h, w = b.merge(old, h, w, &m.down[i])
			b.release(old.buffer)
			b.tap(downsampleName(i), x, b.batch, h*w, x.ld)
		}
	}
	b.classify(x, h, w, m.norm, normEps, m.head)
}

// quarters returns for each token of a map of even sides its place when the tokens
// of the four scans are put one scan after another: even rows and columns, by rows;
// odd rows and even columns, by columns; even and odd, by rows; odd and odd, by
// columns.
func quarters(h, w int) []int32 {
	place := make([]int32, h*w)
	for r := range h {
		for c := range w {
			way, at := r%2+2*(c%2), r/2*(w/2)+c/2
			if r%2 == 1 {
				at = c/2*(h/2) + r/2
			}
			place[r*w+c] = int32(way*(h/2)*(w/2) + at)
		}
	}
	return place
}

// block plans one block on x, in place.
func (m *efficientNet) block(b *planner, blk *efficientBlock, x tokens, h, w int) {
	p, level, d, l := b.Plan, b.level, x.ld, h*w
	e, n, quarter := blk.out.k, m.cfg.StateDim, h*w/4
	fused := b.byRows(h, w)
	place := quarters(h, w)
	u, xz := b.tokens(l, d), b.tokens(l, 2*e)
	b.count(normMACs * l * d)
	b.chain(fused, h, w, op{run: func(t tile) {
		kernels.LayerNorm(level, p.rows(u, t, w), d, p.rows(x, t, w), d, (t.r1-t.r0)*w, d, blk.norm.gamma, blk.norm.beta, normEps)
	}}, b.project(xz, u, h, w, &blk.in, kernels.Identity, nil))

	// The tokens of each scan lie together from here on.
	v, own := b.tokens(l, e), b.tokens(l, e)
	b.chain(fused, h, w, b.depthwiseOp(v, xz, 0, e, h, w, &blk.conv, kernels.SiLU), op{run: func(t tile) {
		from, to := p.image(v, t.image), p.image(own, t.image)
		for i := t.r0 * w; i < t.r1*w; i++ {
			copy(to[int(place[i])*e:int(place[i]+1)*e], from[i*e:])
		}
	}})
	row := blk.scans[0].row()
	proj := b.tokens(l, ceilDiv(row, lanes)*lanes)
	parts := ceilDiv(quarter, 256)
	b.count(l * e * row)
	b.step(b.batch*efficientWays*parts, func(task, _ int) {
		i, k, part := task/(efficientWays*parts), task/parts%efficientWays, task%parts
		t0, t1 := k*quarter+quarter*part/parts, k*quarter+quarter*(part+1)/parts
		blk.proj[k].apply(level, p.image(proj, i)[t0*proj.ld:], proj.ld, p.image(own, i)[t0*e:], e, t1-t0, 0, row, kernels.Epilogue{})
	})
	y, chunks := v, ceilDiv(e, scanChunk)
	b.count(l*e*blk.scans[0].rank + 9*l*e*n)
	b.need(quarter*scanChunk + n*scanChunk)
	b.step(b.batch*efficientWays*chunks, func(task, worker int) {
		i, k, chunk := task/(efficientWays*chunks), task/chunks%efficientWays, task%chunks
		c0 := chunk * scanChunk
		ch := min(scanChunk, e-c0)
		scratch, s, first := p.work(worker), &blk.scans[k], k*quarter
		delta, state := scratch[:quarter*ch], scratch[quarter*scanChunk:][:n*ch]
		clear(state)
		from, rows := p.image(own, i)[first*e+c0:], p.image(proj, i)[first*proj.ld:]
		kernels.Gemm(level, delta, ch, rows, proj.ld, s.dt.w[c0*s.rank:], quarter, ch, s.rank, kernels.Epilogue{})
		kernels.Scan(level, p.image(y, i)[first*e+c0:], state, from, delta, s.a[chunk], rows[s.rank:], rows[s.rank+n:],
			kernels.ScanShape{L: quarter, Ch: ch, N: n, LdY: e, LdU: e, LdDelta: ch, LdB: proj.ld, LdC: proj.ld},
			kernels.ScanOptions{DeltaBias: s.dtBias[c0:], Softplus: true, D: s.d[c0:]})
	})

	// Back to the map, normed and gated; and the branch of convolutions.
	gated, scanned := own, b.tokens(l, d)
	b.count(normMACs * l * e)
	b.chain(fused, h, w, op{run: func(t tile) {
		from, to, z := p.image(y, t.image), p.image(gated, t.image), p.image(xz, t.image)
		for i := t.r0 * w; i < t.r1*w; i++ {
			out, gate := to[i*e:(i+1)*e], z[i*2*e+e:(i+1)*2*e]
			kernels.LayerNorm(level, out, e, from[int(place[i])*e:], e, 1, e, blk.outNorm.gamma, blk.outNorm.beta, normEps)
			kernels.Activate(level, kernels.SiLU, gate, gate)
			kernels.Mul(level, out, out, gate)
		}
	}}, b.project(scanned, gated, h, w, &blk.out, kernels.Identity, nil))
	local, branch := b.tokens(l, d), b.tokens(l, d)
	b.chain(fused, h, w, b.depthwiseOp(local, u, 0, d, h, w, &blk.branch, kernels.GELU), b.project(branch, local, h, w, &blk.pointed, kernels.Identity, nil))
	gates := b.tokens(2, d)
	b.need(blk.channels.scratch())
	b.count(2 * blk.channels.macs(l))
	b.step(2*b.batch, func(task, worker int) {
		i, k := task/2, task%2
		from := scanned
		if k == 1 {
			from = branch
		}
		blk.channels.weigh(level, p.image(gates, i)[k*d:(k+1)*d], p.image(from, i), l, p.work(worker))
	})
	b.chain(false, h, w, op{run: func(t tile) {
		to, s, c, gate := p.rows(x, t, w), p.rows(scanned, t, w), p.rows(branch, t, w), p.image(gates, t.image)
		for i := range (t.r1 - t.r0) * w {
			sum, s, c := to[i*d:(i+1)*d], s[i*d:(i+1)*d], c[i*d:(i+1)*d]
			for j := range sum {
				sum[j] += s[j]*gate[j] + c[j]*gate[d+j]
			}
		}
	}})
	b.release(u.buffer, xz.buffer, v.buffer, own.buffer, proj.buffer, scanned.buffer, local.buffer, branch.buffer, gates.buffer)
}

// invertedResidual plans x += project(SE(ReLU(dw3x3(ReLU(expand x))))), SE weighing
// channels by sigmoid(excite ReLU(reduce mean)).
func (b *planner) invertedResidual(m *invertedResidual, x tokens, h, w int) {
	p, level, e, l := b.Plan, b.level, m.expand.n, h*w
	fused := b.byRows(h, w)
	wide, deep, gates := b.tokens(l, e), b.tokens(l, e), b.tokens(1, e)
	b.chain(fused, h, w, b.project(wide, x, h, w, &m.expand, kernels.ReLU, nil))
	b.chain(false, h, w, b.depthwiseOp(deep, wide, 0, e, h, w, &m.dw, kernels.ReLU))
	b.need(e + m.reduce.n)
	b.count(2 * e * m.reduce.n)
	b.step(b.batch, func(i, worker int) {
		scratch, gate := p.work(worker), p.image(gates, i)
		mean, low := scratch[:e], scratch[e:e+m.reduce.n]
		kernels.MeanRows(level, mean, p.image(deep, i), e, l, e)
		m.reduce.apply(level, low, len(low), mean, e, 1, 0, len(low), kernels.Epilogue{Act: kernels.ReLU})
		m.excite.apply(level, gate, e, low, len(low), 1, 0, e, kernels.Epilogue{})
		kernels.Sigmoid(level, gate, gate)
	})
	b.chain(fused, h, w, op{run: func(t tile) {
		rows, gate := p.rows(deep, t, w), p.image(gates, t.image)
		for i := range (t.r1 - t.r0) * w {
			kernels.Mul(level, rows[i*e:(i+1)*e], rows[i*e:(i+1)*e], gate)
		}
	}}, b.project(x, deep, h, w, &m.project, kernels.Identity, &x))
	b.release(wide.buffer, deep.buffer, gates.buffer)
}
