package block

import "github.com/mila-go/mila/kernels"

// Layers that several architectures are made of. Each plans its steps on the
// tokens of all images and counts its multiply-adds. As in the papers' figures,
// those of a norm are five for each channel of a token, and activations none.

const normMACs = 5

// count adds the multiply-adds of one image.
func (b *planner) count(n int) { b.macs += int64(n) }

// imageConv plans the convolution of the input images: tokens of l.n channels, oh
// rows of ow.
func (b *planner) imageConv(l *linear, chans, ks, stride, border int, act kernels.Activation) (y tokens, oh, ow int) {
	p, level := b.Plan, b.level
	oh, ow = (p.h+2*border-ks)/stride+1, (p.w+2*border-ks)/stride+1
	y = b.tokens(oh*ow, l.n)
	cut := b.bands(oh, ow)
	rowIn := (p.w + 2*border) * chans
	b.need(((cut.rows-1)*stride + ks) * rowIn)
	b.count(oh * ow * l.n * l.k)
	b.step(b.batch*cut.n, func(task, worker int) {
		i, r0, r1 := cut.of(task)
		n, in := chans*p.h*p.w, p.work(worker)
		kernels.PadNCHW(in, rowIn, r0*stride, (r1-1)*stride+ks, border, border, p.src[i*n:(i+1)*n], chans, p.h, p.w)
		kernels.Conv2D(level, p.image(y, i)[r0*ow*l.n:], in, l.w, kernels.ConvShape{
			OutH: r1 - r0, OutW: ow, Cin: chans, Cout: l.n, KH: ks, KW: ks, Stride: stride, RowX: rowIn, RowY: ow * l.n},
			kernels.Epilogue{Bias: l.b, Act: act})
	})
	return y, oh, ow
}

// conv3 plans a 3x3 convolution with a border of one zero pixel.
func (b *planner) conv3(x tokens, h, w int, l *linear, stride int, act kernels.Activation) (y tokens, oh, ow int) {
	p, level, c := b.Plan, b.level, x.ld
	oh, ow = (h-1)/stride+1, (w-1)/stride+1
	y = b.tokens(oh*ow, l.n)
	cut := b.bands(oh, ow)
	rowIn := (w + 2) * c
	b.need(((cut.rows-1)*stride + 3) * rowIn)
	b.count(oh * ow * l.n * l.k)
	b.step(b.batch*cut.n, func(task, worker int) {
		i, r0, r1 := cut.of(task)
		in, from := p.work(worker)[:((r1-r0-1)*stride+3)*rowIn], p.image(x, i)
		for r := range len(in) / rowIn {
			row, source := in[r*rowIn:(r+1)*rowIn], r0*stride-1+r
			if source < 0 || source >= h {
				clear(row)
				continue
			}
			clear(row[:c])
			copy(row[c:], from[source*w*c:(source+1)*w*c])
			clear(row[c+w*c:])
		}
		kernels.Conv2D(level, p.image(y, i)[r0*ow*l.n:], in, l.w, kernels.ConvShape{
			OutH: r1 - r0, OutW: ow, Cin: c, Cout: l.n, KH: 3, KW: 3, Stride: stride, RowX: rowIn, RowY: ow * l.n},
			kernels.Epilogue{Bias: l.b, Act: act})
	})
	return y, oh, ow
}

// norm plans y = act(LayerNorm(x)) for every token; y may be x.
func (b *planner) norm(y, x tokens, h, w int, n *affine, eps float32, act kernels.Activation) {
	p, level := b.Plan, b.level
	b.count(normMACs * h * w * x.ld)
	b.chain(false, h, w, op{run: func(t tile) {
		to, rows := p.rows(y, t, w), (t.r1-t.r0)*w
		kernels.LayerNorm(level, to, y.ld, p.rows(x, t, w), x.ld, rows, x.ld, n.gamma, n.beta, eps)
		if act != kernels.Identity {
			kernels.Activate(level, act, to[:rows*y.ld], to[:rows*y.ld])
		}
	}})
}

// project returns the operation y = act(x Wᵀ + b) + add for all rows of a tile,
// where add may be y itself, or nil.
func (b *planner) project(y, x tokens, h, w int, l *linear, act kernels.Activation, add *tokens) op {
	p, level := b.Plan, b.level
	b.count(h * w * l.n * l.k)
	return op{l.n, kernels.PanelWidth(level), func(t tile) {
		ep := kernels.Epilogue{Act: act}
		if add != nil {
			ep.Add, ep.LdAdd = p.rows(*add, t, w), add.ld
		}
		l.apply(level, p.rows(y, t, w), y.ld, p.rows(x, t, w), x.ld, (t.r1-t.r0)*w, t.j0, t.j1, ep)
	}}
}

// normed returns the operation y = LayerNorm(x) without an affine map, which the
// layer after it has folded in.
func (b *planner) normed(y, x tokens, h, w int, eps float32) op {
	p, level := b.Plan, b.level
	b.count(normMACs * h * w * x.ld)
	return op{run: func(t tile) {
		kernels.LayerNorm(level, p.rows(y, t, w), y.ld, p.rows(x, t, w), x.ld, (t.r1-t.r0)*w, x.ld, nil, nil, eps)
	}}
}

// mlp is two linear layers with GELU between, after a LayerNorm that is folded
// into the first.
type mlp struct{ fc1, fc2 linear }

func (l *loader) mlp(name string, dim, hidden int, norm *affine) mlp {
	return mlp{l.linear(name+".fc1", hidden, dim, true, norm), l.linear(name+".fc2", dim, hidden, true, nil)}
}

// mlp plans x += fc2 GELU(fc1 LayerNorm(x)).
func (b *planner) mlp(x tokens, h, w int, m *mlp, eps float32) {
	fused, used := b.byRows(h, w), 0
	u := b.between(fused, h, w, x.ld, &used)
	hidden := b.between(fused, h, w, m.fc1.n+pad, &used)
	b.chain(fused, h, w, b.normed(u, x, h, w, eps),
		b.project(hidden, u, h, w, &m.fc1, kernels.GELU, nil),
		b.project(x, hidden, h, w, &m.fc2, kernels.Identity, &x))
	if !fused {
		b.release(u.buffer, hidden.buffer)
	}
}

// depthwiseOp returns the operation y = act(depthwise 3x3 of x) on c channels,
// those of x from offset on.
func (b *planner) depthwiseOp(y, x tokens, offset, c, h, w int, d *depthwise, act kernels.Activation) op {
	p, level := b.Plan, b.level
	b.count(9 * h * w * c)
	return op{c, lanes, func(t tile) {
		w9, bias := d.from(t.j0)
		kernels.DWConv3x3(level, p.image(y, t.image)[t.j0:], p.image(x, t.image)[offset+t.j0:], w9, bias,
			kernels.DWShape{H: h, W: w, Ch: t.j1 - t.j0, LdX: x.ld, LdY: y.ld, LdW: c, Stride: 1, Row0: t.r0, Row1: t.r1}, act)
	}}
}

// classify plans the final norm, the mean over tokens and the head.
func (b *planner) classify(x tokens, h, w int, norm affine, eps float32, head linear) {
	p, level := b.Plan, b.level
	b.count(normMACs * h * w * x.ld)
	c, l := x.ld, h*w
	u, pooled := b.tokens(l, c), b.tokens(1, c)
	b.chain(false, h, w, op{run: func(t tile) {
		kernels.LayerNorm(level, p.rows(u, t, w), c, p.rows(x, t, w), c, (t.r1-t.r0)*w, c, norm.gamma, norm.beta, eps)
	}})
	b.when(func() bool { return p.pooledWanted() || p.dst.ClassMaps != nil })
	b.tap("norm", u, b.batch, l, c)
	b.pools = true
	if n := head.n; n > 0 {
		b.chain(false, h, w, op{n, kernels.PanelWidth(level), func(t tile) {
			y := p.dst.ClassMaps[(t.image*l+t.r0*w)*n:]
			head.apply(level, y, n, p.rows(u, t, w), c, (t.r1-t.r0)*w, t.j0, t.j1, kernels.Epilogue{})
		}})
		b.when(func() bool { return p.dst.ClassMaps != nil })
	}
	b.step(b.batch, func(i, _ int) {
		kernels.MeanRows(level, p.image(pooled, i), p.image(u, i), c, l, c)
	})
	b.when(b.pooledWanted)
	b.output(pooled, head)
}

// pooledWanted reports whether pooled features are asked for, or what is made of
// them.
func (p *Plan) pooledWanted() bool { return p.dst.Logits != nil || p.dst.Pooled != nil }

// output plans the results that come from pooled features. Without a final norm in
// the checkpoint nobody asks for them.
func (b *planner) output(pooled tokens, head linear) {
	p, level, c := b.Plan, b.level, pooled.ld
	b.step(1, func(int, int) {
		for i := range p.batch {
			if p.dst.Pooled != nil {
				copy(p.dst.Pooled[i*c:], p.image(pooled, i))
			}
		}
	})
	b.when(b.pooledWanted)
	b.tap("pooled", pooled, b.batch, c)
	n := head.n
	if n == 0 {
		return
	}
	b.count(n * c)
	panel := kernels.PanelWidth(level)
	g := grid{cutRows(1, 1), min(b.threads, ceilDiv(n, panel)), n, panel}
	b.step(g.tasks(1), func(task, worker int) {
		t := g.of(task, worker)
		head.apply(level, p.dst.Logits, n, p.f(pooled.buffer), c, b.batch, t.j0, t.j1, kernels.Epilogue{})
	})
	b.when(func() bool { return p.dst.Logits != nil })
}
