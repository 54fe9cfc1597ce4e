package block

import (
	"fmt"
	"slices"

	"github.com/mila-go/mila/kernels"
)

// PlainMamba is the configuration of a PlainMamba (arXiv 2403.17695) for
// classification, with the parameter names of the official repository: tokens of
// one resolution, scanned along four continuous paths that turn at the borders.
//
//	[x | z] = in LN(t);  x = SiLU(dw7x7(x));  [dt | B | C] = proj x
//	t = t + out (SiLU(z) ⊙ Σ_o scan_o(x))
//
// All paths share δ, A, B, C and D, but for a vector that tells B the direction of
// the path's step. As in the official code, path o brings the x of its tokens in
// its order while δ, B and C stay in the order of rows, and the bias of δ's projection
// counts twice, since both the projection and the scan add it. Checked against an
// independent implementation in float64; no released weights were at hand, so names,
// shapes and the order of operations follow the published code.
type PlainMamba struct {
	Dim        int // channels of a token
	Depth      int
	StateDim   int // N
	StemConvs  int // 3x3 convolutions between the first and the patches
	LocalConvs int // so many layers from the first on end in a depthwise convolution
	NumClasses int
	ImgSize    int // the only size that runs: the position embedding is absolute
}

func plainMamba(dim, depth, stem, local int) PlainMamba {
	return PlainMamba{Dim: dim, Depth: depth, StateDim: 16, StemConvs: stem, LocalConvs: local, NumClasses: 1000, ImgSize: 224}
}

const (
	plainStem   = 64 // channels of the first convolutions
	plainExpand = 2
	plainPatch  = 8 // at half the resolution
	plainTaps   = 7
	plainPaths  = 4
)

// String names the configuration in errors.
func (c PlainMamba) String() string {
	return fmt.Sprintf("PlainMamba: embed_dims %d, num_layers %d, d_state %d, num_convs_patch_embed %d", c.Dim, c.Depth, c.StateDim, c.StemConvs)
}

// Validate says what is wrong with the configuration, if anything.
func (c PlainMamba) Validate() error {
	if c.Dim < 1 || c.Dim > 1<<13 || c.Depth < 1 || c.Depth > 1000 || c.StateDim < 1 || c.StateDim > 64 || c.StemConvs < 0 || c.StemConvs > 8 || c.NumClasses < 1 || c.ImgSize < 16 || c.ImgSize%16 != 0 || c.ImgSize > 1<<12 {
		return fmt.Errorf("block: configuration %v, img_size %d: a value is out of range, or img_size is no multiple of 16", c, c.ImgSize)
	}
	return nil
}

// Image returns the channels of an image and its size.
func (c PlainMamba) Image() (chans, size int) { return 3, c.ImgSize }

// Classes returns the number of outputs of the classification head.
func (c PlainMamba) Classes() int { return c.NumClasses }

// Tensors returns every parameter under its official name.
func (c PlainMamba) Tensors() []TensorSpec { return declared(c) }

// Params returns the number of trainable parameters.
func (c PlainMamba) Params() int { return countParams(declared(c)) }

// MACs returns the multiply-adds of one image. A scan counts nine for each state and
// a norm five for each channel, as in the published figures.
func (c PlainMamba) MACs(h, w int) int64 { return plannedMACs(c, h, w) }

type plainNet struct {
	cfg      PlainMamba
	stem     linear
	convs    []linear
	patch    linear
	position []float32
	layers   []plainLayer
	norm     affine
	head     linear
}

type plainLayer struct {
	in        linear
	conv      []float32 // tap-major, by chunks of channels
	convBias  []float32
	proj      linear
	scan      scanParams
	direction []float32 // (start, right, left, up, down) x N
	out       linear
	local     *depthwise
}

func (c PlainMamba) network(l *loader, groups has) network {
	const p = "backbone."
	m := &plainNet{cfg: c}
	m.stem = l.convNorm(p+"patch_embed.stem.0", p+"patch_embed.stem.1", plainStem, 3, 7, false)
	for i := range c.StemConvs {
		m.convs = append(m.convs, l.convNorm(fmt.Sprintf("%spatch_embed.convs.%d", p, 3*i), fmt.Sprintf("%spatch_embed.convs.%d", p, 3*i+1), plainStem, plainStem, 3, false))
	}
	m.patch = l.conv(p+"patch_embed.projection", c.Dim, plainStem, plainPatch, true)
	side := c.ImgSize / 16
	m.position = l.vector(p+"pos_embed", 1, side*side, c.Dim)
	for i := range c.Depth {
		m.layers = append(m.layers, c.layer(l, fmt.Sprintf("%slayers.%d.", p, i), i < c.LocalConvs))
	}
	m.norm, m.head = l.classifier(groups, p+"ln1", "head.fc", c.NumClasses, c.Dim)
	return m
}

func (c PlainMamba) layer(l *loader, p string, local bool) plainLayer {
	e, n, rank := plainExpand*c.Dim, c.StateDim, ceilDiv(c.Dim, 16)
	norm := l.affine(p+"norm", c.Dim)
	var y plainLayer
	if local {
		d := l.depthwiseNorm(p+"dw.0", p+"dw.1", c.Dim, false)
		y.local = &d
	}
	p += "mamba."
	y.in = l.linear(p+"in_proj", 2*e, c.Dim, true, &norm)
	l.declare(p+"conv2d.weight", e, 1, plainTaps, plainTaps)
	if !l.declares {
		const taps = plainTaps * plainTaps
		y.conv = make([]float32, taps*e)
		w := l.scratch(p+"conv2d.weight", taps*e)
		for c0 := 0; c0 < e; c0 += scanChunk {
			kernels.PackDW(y.conv[taps*c0:], w[taps*c0:], min(scanChunk, e-c0), plainTaps)
		}
	}
	y.convBias = l.vector(p+"conv2d.bias", e)
	y.proj = l.linear(p+"x_proj", rank+2*n, e, false, nil)
	logs := l.vector(p+"A_log", e, n)
	y.scan = scanParams{rank: rank, n: n, a: l.scanA(logs, e, n), d: l.vector(p+"D", e)}
	y.scan.dt = l.linear(p+"dt_proj", e, rank, true, nil)
	y.scan.dtBias = slices.Clone(y.scan.dt.b)
	for i := range y.scan.dtBias {
		y.scan.dtBias[i] *= 2
	}
	y.scan.dt.b = nil // it is added with δ
	y.direction = l.vector(p+"direction_Bs", plainPaths+1, n)
	y.out = l.linear(p+"out_proj", c.Dim, e, true, nil)
	return y
}

func (m *plainNet) check(batch, h, w int) error { return ownSize(m.cfg, m.cfg.Dim, batch, h, w) }

func (m *plainNet) channels() []featureMap { return []featureMap{{channels: m.cfg.Dim}} }

// plainPath is one of the paths: its tokens, and for each the direction of the step
// to it, 0 start, 1 right, 2 left, 3 up, 4 down.
type plainPath struct {
	order     []int32
	direction []int8
}

// paths returns the four: along rows from the top left; along rows backwards, from
// the end of the first; and both along columns.
func paths(h, w int) [plainPaths]plainPath {
	var out [plainPaths]plainPath
	for k := range out {
		columns, back := k >= 2, k%2 == 1
		lines, length := h, w
		if columns {
			lines, length = w, h
		}
		p := &out[k]
		for i := range lines {
			for j := range length {
				line, at := i, j
				if back {
					line = lines - 1 - i
				}
				// Odd lines run backwards; a path back begins where its last line ends.
				if line%2 == 1 != back {
					at = length - 1 - j
				}
				r, c := line, at
				if columns {
					r, c = at, line
				}
				d := int8(0)
				if n := len(p.order); n > 0 {
					pr, pc := int(p.order[n-1])/w, int(p.order[n-1])%w
					switch {
					case c > pc:
						d = 1
					case c < pc:
						d = 2
					case r < pr:
						d = 3
					default:
						d = 4
					}
				}
				p.order, p.direction = append(p.order, int32(r*w+c)), append(p.direction, d)
			}
		}
	}
	return out
}

func (m *plainNet) plan(b *planner) {
	p, level, c := b.Plan, b.level, m.cfg.Dim
	x, h, w := b.imageConv(&m.stem, 3, 7, 2, 3, kernels.ReLU)
	for i := range m.convs {
		y, _, _ := b.conv3(x, h, w, &m.convs[i], 1, kernels.ReLU)
		b.release(x.buffer)
		x = y
	}
	half, halfW := x, w
	h, w = h/plainPatch, w/plainPatch
	l := h * w
	x = b.tokens(l, c)
	to := x
	b.count(l * c * m.patch.k)
	b.chain(false, h, w, op{run: func(t tile) {
		kernels.Conv2D(level, p.rows(to, t, w), p.image(half, t.image)[t.r0*plainPatch*halfW*plainStem:], m.patch.w, kernels.ConvShape{
			OutH: t.r1 - t.r0, OutW: w, Cin: plainStem, Cout: c, KH: plainPatch, KW: plainPatch, Stride: plainPatch, RowX: halfW * plainStem, RowY: w * c},
			kernels.Epilogue{Bias: m.patch.b, Add: m.position[t.r0*w*c:], LdAdd: w * c})
	}})
	b.release(half.buffer)
	b.maps = append(b.maps, [2]int{h, w})
	b.tap("patch_embed", x, b.batch, l, c)
	route := paths(h, w)
	for i := range m.layers {
		x = m.layer(b, &m.layers[i], x, h, w, &route)
		b.tap(fmt.Sprintf("layers.%d", i), x, b.batch, l, c)
	}
	b.classify(x, h, w, m.norm, 1e-6, m.head)
}

// layer plans one layer and returns its result, in x or in place of it.
func (m *plainNet) layer(b *planner, layer *plainLayer, x tokens, h, w int, route *[plainPaths]plainPath) tokens {
	p, level, e, n, l := b.Plan, b.level, layer.out.k, m.cfg.StateDim, h*w
	fused, used := b.byRows(h, w), 0
	xz, v := b.tokens(l, 2*e), b.tokens(l, e)
	u := b.between(fused, h, w, x.ld, &used)
	b.chain(fused, h, w, b.normed(u, x, h, w, normEps), b.project(xz, u, h, w, &layer.in, kernels.Identity, nil))
	if !fused {
		b.release(u.buffer)
	}

	const border = plainTaps / 2
	chunks, wide := ceilDiv(e, scanChunk), w+2*border
	b.count(l * e * plainTaps * plainTaps)
	b.need((h + 2*border) * wide * scanChunk)
	b.step(b.batch*chunks, func(task, worker int) {
		i, c0 := task/chunks, task%chunks*scanChunk
		ch := min(scanChunk, e-c0)
		in, from := p.work(worker)[:(h+2*border)*wide*ch], p.image(xz, i)
		clear(in)
		for t := range l {
			at := ((t/w+border)*wide + t%w + border) * ch
			copy(in[at:at+ch], from[t*xz.ld+c0:])
		}
		kernels.DWValid(level, p.image(v, i)[c0:], in, layer.conv[plainTaps*plainTaps*c0:], layer.convBias[c0:],
			kernels.DWValidShape{OutH: h, OutW: w, Ch: ch, K: plainTaps, LdX: ch, LdY: e, RowX: wide * ch})
	})
	proj := b.tokens(l, ceilDiv(layer.proj.n, lanes)*lanes)
	b.chain(fused, h, w, op{run: func(t tile) {
		rows := p.rows(v, t, w)[:(t.r1-t.r0)*w*e]
		kernels.Activate(level, kernels.SiLU, rows, rows)
	}}, b.project(proj, v, h, w, &layer.proj, kernels.Identity, nil))

	// Each path's B and C, which come in the order of rows, at the tokens that it visits.
	bc := b.tokens(l, plainPaths*2*n)
	b.chain(false, h, w, op{run: func(t tile) {
		from, to := p.rows(proj, t, w), p.image(bc, t.image)
		for i := range (t.r1 - t.r0) * w {
			row := from[i*proj.ld+layer.scan.rank:][:2*n]
			for k := range route {
				step := t.r0*w + i
				at := to[(int(route[k].order[step])*plainPaths+k)*2*n:][:2*n]
				copy(at, row)
				d := int(route[k].direction[step])
				for j, v := range layer.direction[d*n : (d+1)*n] {
					at[j] += v
				}
			}
		}
	}})
	y := b.tokens(l, e)
	b.count(l*e*layer.scan.rank + plainPaths*9*l*e*n)
	b.need(2*l*scanChunk + n*scanChunk)
	b.step(b.batch*chunks, func(task, worker int) {
		i, chunk := task/chunks, task%chunks
		c0 := chunk * scanChunk
		ch := min(scanChunk, e-c0)
		scratch := p.work(worker)
		delta, own, state := scratch[:l*ch], scratch[l*scanChunk:][:l*ch], scratch[2*l*scanChunk:][:n*ch]
		s := &layer.scan
		kernels.Gemm(level, delta, ch, p.image(proj, i), proj.ld, s.dt.w[c0*s.rank:], l, ch, s.rank, kernels.Epilogue{Bias: s.dtBias[c0:]})
		kernels.Softplus(level, delta, delta)
		for k := range route {
			order, rows := route[k].order, p.image(bc, i)[k*2*n:]
			for step, t := range order {
				copy(own[int(t)*ch:(int(t)+1)*ch], delta[step*ch:])
			}
			clear(state)
			kernels.Scan(level, p.image(y, i)[c0:], state, p.image(v, i)[c0:], own, s.a[chunk], rows, rows[n:],
				kernels.ScanShape{L: l, Ch: ch, N: n, Order: order, LdY: e, LdU: e, LdDelta: ch, LdB: bc.ld, LdC: bc.ld}, kernels.ScanOptions{D: s.d[c0:], Add: k > 0})
		}
	})
	b.chain(fused, h, w, op{run: func(t tile) { // y ⊙ SiLU(z)
		to, from := p.rows(y, t, w), p.rows(xz, t, w)
		for i := range (t.r1 - t.r0) * w {
			gate := from[i*2*e+e : (i+1)*2*e]
			kernels.Activate(level, kernels.SiLU, gate, gate)
			kernels.Mul(level, to[i*e:(i+1)*e], to[i*e:(i+1)*e], gate)
		}
	}}, b.project(x, y, h, w, &layer.out, kernels.Identity, &x))
	b.release(xz.buffer, v.buffer, proj.buffer, bc.buffer, y.buffer)
	if layer.local == nil {
		return x
	}
	next := b.tokens(l, x.ld)
	b.chain(false, h, w, b.depthwiseOp(next, x, 0, x.ld, h, w, layer.local, kernels.GELU))
	b.release(x.buffer)
	return next
}
