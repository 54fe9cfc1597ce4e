package block

import (
	"fmt"
	"math"

	"github.com/mila-go/mila/kernels"
)

// channels implements network.
func (m *mila) channels() []featureMap {
	out := make([]featureMap, len(m.stages))
	for i, st := range m.stages {
		out[i] = featureMap{st.dim, st.norm.gamma != nil}
	}
	return out
}

// check implements network. Its bound on the size keeps every index within 31 bits.
func (m *mila) check(batch, h, w int) error {
	cfg := m.cfg
	if cfg.APE && (h != cfg.ImgSize || w != cfg.ImgSize) {
		return fmt.Errorf("block: this model has an absolute position embedding and runs only at its own size %d x %d, not %d x %d; resize the image", cfg.ImgSize, cfg.ImgSize, h, w)
	}
	// An upper bound of what lives together, in each stage and in the stem.
	th, tw, n := ceilDiv(h, 4), ceilDiv(w, 4), float64(batch)
	e := float64(cfg.EmbedDim)
	values := n * float64(th+1) * float64(tw+1) * (16*float64(cfg.InChans) + 5*e)
	for i := range cfg.Depths {
		c := float64(cfg.Dim(i))
		tokens := n * float64(th+th%2) * float64(tw+tw%2)
		state := n * kvParts * c * (c/float64(cfg.NumHeads[i]) + 1)
		values = max(values, tokens*c*12+state, float64(th+tw)*c/2)
		th, tw = ceilDiv(th, 2), ceilDiv(tw, 2)
	}
	if values > math.MaxInt32 {
		return fmt.Errorf("block: %d images of %d x %d need about %.0f GiB of buffers, more than the limit of 8; use a smaller batch or image", batch, h, w, values*4/(1<<30))
	}
	return nil
}

// plan plans a MILA on images of b.h x b.w.
func (m *mila) plan(b *planner) {
	x, th, tw := m.stem(b)
	for i := range m.stages {
		st := &m.stages[i]
		b.maps = append(b.maps, [2]int{th, tw})
		rope := make([]float32, kernels.RoPE2DLen(th, tw, st.dim))
		kernels.RoPE2DTable(rope, th, tw, st.dim, ropeBase)
		for j := range st.blocks {
			b.block(blockName(i, j), &st.blocks[j], st, x, th, tw, rope)
		}
		b.feature(i, st, x, th, tw)
		if st.down != nil {
			x, th, tw = b.downsample(downsampleName(i), st, x, th, tw)
		}
	}
	b.classify(x, th, tw, m.norm, normEps, m.head)
}

// stem plans patch_embed: four 3x3 convolutions and a 1x1, with BatchNorm
// folded, to one token for each 4 x 4 pixels. Convolutions read their zero
// padding from a one-pixel border that the step before writes.
func (m *mila) stem(b *planner) (x tokens, th, tw int) {
	p := b.Plan
	ci, e := m.cfg.InChans, m.cfg.EmbedDim
	c2 := e / 2
	th, tw = ceilDiv(b.h, 4), ceilDiv(b.w, 4)
	h2, w2 := 2*th, 2*tw

	// The maps between have a border of one pixel all around.
	row2 := (w2 + 2) * c2
	half := (h2 + 2) * row2
	inner := row2 + c2 // of the first pixel inside the border
	conv := func(y, x []float32, rowX int, l *linear, cin, stride int, act kernels.Activation, add []float32, r0, r1 int) {
		if r1 == h2 {
			clear(y[(h2+1)*row2:])
		}
		if r0 == 0 {
			clear(y[:row2])
		}
		for r := r0; r < r1; r++ {
			row := y[(r+1)*row2 : (r+2)*row2]
			clear(row[:c2])
			clear(row[row2-c2:])
		}
		at := inner + r0*row2
		ep := kernels.Epilogue{Bias: l.b, Act: act}
		if add != nil {
			ep.Add, ep.LdAdd = add[at:], row2
		}
		kernels.Conv2D(b.level, y[at:], x, l.w, kernels.ConvShape{
			OutH: r1 - r0, OutW: w2, Cin: cin, Cout: c2, KH: 3, KW: 3, Stride: stride, RowX: rowX, RowY: row2}, ep)
	}
	map2 := func(b buffer, i int) []float32 { return p.f(buffer{b.off + i*half, half}) }
	cut := b.bands(h2, w2)
	x1, x2 := b.alloc(b.batch*half), b.alloc(b.batch*half)
	rowIn := (4*tw + 2) * ci
	b.need((2*cut.rows + 1) * rowIn)
	b.step(b.batch*cut.n, func(task, worker int) {
		i, r0, r1 := cut.of(task)
		n := ci * p.h * p.w
		in := p.work(worker)
		kernels.PadNCHW(in, rowIn, 2*r0, 2*r1+1, 1, 1, p.src[i*n:(i+1)*n], ci, p.h, p.w)
		conv(map2(x1, i), in, rowIn, &m.conv1, ci, 2, kernels.ReLU, nil, r0, r1)
	})
	b.step(b.batch*cut.n, func(task, _ int) {
		i, r0, r1 := cut.of(task)
		conv(map2(x2, i), map2(x1, i)[r0*row2:], row2, &m.conv20, c2, 1, kernels.ReLU, nil, r0, r1)
	})
	b.step(b.batch*cut.n, func(task, _ int) {
		i, r0, r1 := cut.of(task)
		y := map2(x1, i) // x1 += conv(x2): the residual, in place
		conv(y, map2(x2, i)[r0*row2:], row2, &m.conv21, c2, 1, kernels.Identity, y, r0, r1)
	})
	b.release(x2)

	x = b.tokens(th*tw, e)
	used := 0
	wide := b.between(true, th, tw, 4*e, &used)
	b.chain(true, th, tw, op{run: func(t tile) {
		y, n := p.rows(wide, t, tw), t.r1-t.r0
		kernels.Conv2D(b.level, y, map2(x1, t.image)[t.r0*2*row2:], m.conv30.w, kernels.ConvShape{
			OutH: n, OutW: tw, Cin: c2, Cout: 4 * e, KH: 3, KW: 3, Stride: 2, RowX: row2, RowY: tw * 4 * e},
			kernels.Epilogue{Bias: m.conv30.b, Act: kernels.ReLU})
		var ep kernels.Epilogue
		if m.ape != nil {
			ep.Add, ep.LdAdd = m.ape[t.r0*tw*e:], e
		}
		m.conv31.apply(b.level, p.rows(x, t, tw), e, y, 4*e, n*tw, 0, e, ep)
	}})
	b.release(x1)
	b.tap("patch_embed", x, b.batch, th*tw, e)
	return x, th, tw
}

// pad floats separate the rows of wide matrices: with a power of two between
// them, the rows of a register tile would share one set of the L1 cache.
const pad = 16

// block plans one MILA block on the tokens x (batch, h*w, dim), in place:
//
//	r = x + cpe1(x);  u = LN1(r);  g = SiLU(act u);  s = in u
//	v = SiLU(dwc(s)); [q | k] = ELU(qk v) + 1
//	y = (readout(q; kv(k, v)) + lepe(v)) * g
//	r = r + out y;    x = r + cpe2(r);  x = x + fc2 GELU(fc1 LN2(x))
func (b *planner) block(name string, blk *milaBlock, st *stage, x tokens, h, w int, rope []float32) {
	p, level := b.Plan, b.level
	c, l := st.dim, h*w
	fused, panel := b.byRows(h, w), kernels.PanelWidth(level)
	dw := func(t tile) kernels.DWShape {
		return kernels.DWShape{H: h, W: w, Ch: t.j1 - t.j0, LdX: c, LdY: c, LdW: c, Stride: 1, Row0: t.r0, Row1: t.r1}
	}
	// normed is y = x + cpe(x) and u = LN(y) without its affine map, for whole rows.
	normed := func(u, y, x tokens, cpe *depthwise) op {
		return op{run: func(t tile) {
			t.j0, t.j1 = 0, c
			kernels.DWConv3x3Residual(level, p.image(y, t.image), p.image(x, t.image), cpe.w9, cpe.b, dw(t))
			kernels.LayerNorm(level, p.rows(u, t, w), c, p.rows(y, t, w), c, (t.r1-t.r0)*w, c, nil, nil, normEps)
		}}
	}

	r, s, g := b.tokens(l, c), b.tokens(l, c), b.tokens(l, c)
	used := 0
	u1 := b.between(fused, h, w, c, &used)
	cp := ceilDiv(c, panel) * panel
	b.chain(fused, h, w, normed(u1, r, x, &blk.cpe1),
		op{2 * cp, panel, func(t tile) { // the panels of act, then those of in
			from, n := p.rows(u1, t, w), (t.r1-t.r0)*w
			if t.j0 < cp {
				blk.act.apply(level, p.rows(g, t, w), c, from, c, n, t.j0, min(c, t.j1), kernels.Epilogue{Act: kernels.SiLU})
			}
			if t.j1 > cp {
				blk.in.apply(level, p.rows(s, t, w), c, from, c, n, max(cp, t.j0)-cp, min(c, t.j1-cp), kernels.Epilogue{})
			}
		}})
	if !fused {
		b.release(u1.buffer)
	}

	// x is free until the second half of the block: v lives there.
	v, qk := x, b.tokens(l, 2*c)
	b.chain(fused, h, w,
		op{c, lanes, func(t tile) {
			kernels.DWConv3x3(level, p.image(v, t.image)[t.j0:], p.image(s, t.image)[t.j0:], blk.dwc.w9[t.j0:], blk.dwc.b[t.j0:], dw(t), kernels.SiLU)
		}},
		op{2 * c, panel, func(t tile) {
			blk.qk.apply(level, p.rows(qk, t, w), 2*c, p.rows(v, t, w), c, (t.r1-t.r0)*w, t.j0, t.j1, kernels.Epilogue{Act: kernels.ELU1})
		}})

	dim := c / st.heads
	shape := kernels.LinAttnShape{H: h, W: w, Heads: st.heads, Dim: dim}
	state, first := b.keyValueState(shape, columnsOf(qk, c), v, rope, true)

	y := s // the input of dwc is no longer needed
	b.chain(fused, h, w,
		op{c, dim, func(t tile) {
			kv, to, shape := p.f(buffer{first.off + t.image*first.n, state}), p.image(y, t.image), shape
			shape.T0, shape.T1, shape.Head0, shape.Head1 = t.r0*w, t.r1*w, t.j0/dim, t.j1/dim
			kernels.LinAttnReadout(level, to, c, p.image(qk, t.image), 2*c, kv[:c*dim], kv[c*dim:], rope, shape, attnEps*float32(l))
			kernels.DWConv3x3AddMul(level, to[t.j0:], p.image(v, t.image)[t.j0:], blk.lepe.w9[t.j0:], blk.lepe.b[t.j0:], to[t.j0:], p.image(g, t.image)[t.j0:], dw(t))
		}},
		op{c, panel, func(t tile) {
			to := p.rows(r, t, w)
			blk.out.apply(level, to, c, p.rows(y, t, w), c, (t.r1-t.r0)*w, t.j0, t.j1, kernels.Epilogue{Add: to, LdAdd: c})
		}})
	b.release(s.buffer, g.buffer, qk.buffer, buffer{first.off, b.batch * first.n})

	used = 0
	u2 := b.between(fused, h, w, c, &used)
	hidden := b.between(fused, h, w, st.hidden+pad, &used)
	b.chain(fused, h, w, normed(u2, x, r, &blk.cpe2),
		op{st.hidden, panel, func(t tile) {
			blk.fc1.apply(level, p.rows(hidden, t, w), hidden.ld, p.rows(u2, t, w), c, (t.r1-t.r0)*w, t.j0, t.j1, kernels.Epilogue{Act: kernels.GELU})
		}},
		op{c, panel, func(t tile) {
			to := p.rows(x, t, w)
			blk.fc2.apply(level, to, c, p.rows(hidden, t, w), hidden.ld, (t.r1-t.r0)*w, t.j0, t.j1, kernels.Epilogue{Add: to, LdAdd: c})
		}})
	if !fused {
		b.release(u2.buffer, hidden.buffer)
	}
	b.release(r.buffer)
	b.tap(name, x, b.batch, l, c)
}

// lanes is where the channels of an elementwise operation may be cut: between
// cache lines.
const lanes = 16

// The key-value state of an image is the sum of those of up to kvParts ranges of
// about kvTokens tokens. The ranges depend on the image size alone, never on the
// number of threads, since they decide the order of summation.
const kvParts, kvTokens = 16, 256

// keyValueState plans the key-value state of every image, size floats: kv, then
// the sum of keys where it is wanted. That of image i begins at
// first.off + i*first.n.
func (b *planner) keyValueState(shape kernels.LinAttnShape, k, v tokens, rope []float32, sums bool) (size int, first buffer) {
	p, level := b.Plan, b.level
	heads, l := shape.Heads, shape.H*shape.W
	_, kd := shape.Key(0)
	perHead := kd * shape.Dim
	size = heads * (perHead + kd)
	parts := min(kvParts, ceilDiv(l, kvTokens))
	kv := b.alloc(b.batch * parts * size)
	first = buffer{kv.off, parts * size}
	of := func(i, part int) (state, sum []float32) {
		s := p.f(buffer{kv.off + (i*parts+part)*size, size})
		if sums {
			sum = s[heads*perHead:]
		}
		return s[:heads*perHead], sum
	}
	b.step(b.batch*parts*heads, func(task, _ int) {
		i, part, head := task/(parts*heads), task/heads%parts, task%heads
		state, sum := of(i, part)
		clear(state[head*perHead : (head+1)*perHead])
		if sums {
			clear(sum[head*kd : (head+1)*kd])
		}
		s := shape
		s.T0, s.T1, s.Head0, s.Head1 = l*part/parts, l*(part+1)/parts, head, head+1
		kernels.LinAttnKV(level, state, sum, p.image(k, i), k.ld, p.image(v, i), v.ld, rope, s)
	})
	if parts > 1 {
		b.step(b.batch*heads, func(task, _ int) {
			i, head := task/heads, task%heads
			state, sum := of(i, 0)
			for part := 1; part < parts; part++ {
				more, moreSum := of(i, part)
				at := state[head*perHead : (head+1)*perHead]
				kernels.Add(level, at, at, more[head*perHead:(head+1)*perHead])
				if sums {
					at := sum[head*kd : (head+1)*kd]
					kernels.Add(level, at, at, moreSum[head*kd:(head+1)*kd])
				}
			}
		})
	}
	return size, first
}

// downsample plans the patch merging after a stage: 1x1 to 8 dim and ReLU,
// depthwise 3x3 of stride 2 and ReLU, 1x1 to 2 dim. Odd maps are first padded
// with zero tokens at the right and bottom, which the first convolution turns
// into ReLU(bias), as in the official dense backbones.
//
// The first two run together on a band of rows and a group of channels at a time:
// the wide map, the largest of the model, never exists as a whole.
func (b *planner) downsample(name string, st *stage, x tokens, h, w int) (y tokens, oh, ow int) {
	p, level, d := b.Plan, b.level, st.down
	c, c8, c2 := st.dim, d.expand.n, d.reduce.n
	if h%2 != 0 || w%2 != 0 {
		h2, w2 := h+h%2, w+w%2
		padded, src := b.tokens(h2*w2, c), x
		h1, w1 := h, w
		b.step(b.batch, func(i, _ int) {
			dst, from := p.image(padded, i), p.image(src, i)
			clear(dst)
			for r := range h1 {
				copy(dst[r*w2*c:], from[r*w1*c:(r+1)*w1*c])
			}
		})
		b.release(x.buffer)
		x, h, w = padded, h2, w2
	}
	oh, ow = h/2, w/2
	small := b.tokens(oh*ow, c8+pad)
	const group = 32
	parts := ceilDiv(c8, group)
	// Bands whose part of the wide map stays in the L2 cache, and enough of them.
	const most = 4096 // tokens
	n := ceilDiv(h, max(2, most/w))
	if tasks := b.batch * parts; tasks < b.threads {
		n = max(n, ceilDiv(b.threads, tasks))
	}
	cut := cutRows(oh, min(n, oh))
	b.need((2*cut.rows + 2) * w * group)
	b.step(b.batch*parts*cut.n, func(task, worker int) {
		i, r0, r1 := cut.of(task / parts)
		j0, j1 := task%parts*group, min(c8, task%parts*group+group)
		ch := j1 - j0
		// The map seems to begin at the even row from; output rows from r0 on read
		// no more than the row before theirs.
		first := min(r0, 1)
		from := 2 * (r0 - first)
		wide := p.work(worker)
		kernels.Gemm(level, wide[first*w*ch:], ch, p.image(x, i)[(from+first)*w*c:], c, d.expand.w[j0*c:], (2*r1-from-first)*w, ch, c,
			kernels.Epilogue{Bias: d.expand.b[j0:], Act: kernels.ReLU})
		kernels.DWConv3x3(level, p.image(small, i)[(r0-first)*ow*small.ld+j0:], wide, d.dw.w9[j0:], d.dw.b[j0:],
			kernels.DWShape{H: 2*r1 - from, W: w, Ch: ch, LdX: ch, LdY: small.ld, LdW: c8, Stride: 2, Row0: first, Row1: first + r1 - r0}, kernels.ReLU)
	})
	b.release(x.buffer)
	y = b.tokens(oh*ow, c2)
	b.chain(b.byRows(oh, ow), oh, ow, op{c2, kernels.PanelWidth(level), func(t tile) {
		d.reduce.apply(level, p.rows(y, t, ow), c2, p.rows(small, t, ow), small.ld, (t.r1-t.r0)*ow, t.j0, t.j1, kernels.Epilogue{})
	}})
	b.release(small.buffer)
	b.tap(name, y, b.batch, oh*ow, c2)
	return y, oh, ow
}

// feature plans the normed NCHW map of a stage, if the checkpoint has its norm.
func (b *planner) feature(i int, st *stage, x tokens, h, w int) {
	if st.norm.gamma == nil {
		return
	}
	p, level, c, l := b.Plan, b.level, st.dim, h*w
	u := b.tokens(l, c)
	b.step(b.batch, func(n, _ int) {
		kernels.LayerNorm(level, p.image(u, n), c, p.image(x, n), c, l, c, st.norm.gamma, st.norm.beta, normEps)
		kernels.NCHW(p.dst.Features[i][n*l*c:(n+1)*l*c], p.image(u, n), l, c)
	})
	b.when(func() bool { return p.dst.Features != nil && p.dst.Features[i] != nil })
	b.release(u.buffer)
}
