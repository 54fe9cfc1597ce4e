package block

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync/atomic"

	"github.com/mila-go/mila/kernels"
)

// Output receives the results of a forward pass. Nil slices are not wanted and
// what only they need is not computed.
type Output struct {
	Logits   []float32   // (batch, NumClasses)
	Pooled   []float32   // (batch, channels of the last stage): mean over tokens of the final norm
	Features [][]float32 // one per stage, (batch, Dim(i), h_i, w_i): normed maps before each downsample
}

// Tap receives intermediate results: the name that golden files and --taps use,
// the shape with the batch in front, and the values, which are valid only
// during the call.
type Tap func(name string, shape []int, data []float32)

// Plan runs a model on batches of one size. It owns all buffers, so a Forward
// allocates nothing. One plan runs one Forward at a time; make a plan per
// goroutine to run several.
type Plan struct {
	// Tap, if not nil, is called after patch_embed, every layers.I.blocks.J and
	// layers.I.downsample, norm and pooled (where those are computed).
	Tap Tap

	model       *Model
	batch, h, w int
	maps        [][2]int // rows and columns of each stage's tokens
	steps       []step
	arena       []float32
	scratch     []float32 // one part per worker
	perWorker   int
	running     atomic.Bool

	// The arguments of the running Forward, for the steps.
	src []float32
	dst *Output
}

// step is one part of the forward pass: independent tasks that the pool runs,
// with a barrier behind.
type step struct {
	tasks int
	run   func(task, worker int)
	when  func() bool // nil: always
	tap   string      // name of the result, if it is one
	shape []int
	out   buffer
}

// buffer is a range of the arena.
type buffer struct{ off, n int }

func (p *Plan) f(b buffer) []float32 { return p.arena[b.off : b.off+b.n : b.off+b.n] }

// Plan prepares forward passes of batch images of h x w pixels, InChans
// channels each. Any size is accepted, by the rules of the official dense
// backbones: the image is padded with zeros at the right and bottom to a
// multiple of 4, and each stage's tokens to even height and width before its
// downsample. Sizes that are multiples of 32 need no padding and are the
// official classification model. A model with an absolute position embedding
// runs at its own size only.
func (m *Model) Plan(batch, h, w int) (*Plan, error) {
	if err := checkSize(&m.cfg, batch, h, w); err != nil {
		return nil, err
	}
	b := &planner{Plan: &Plan{model: m, batch: batch, h: h, w: w}}
	x, th, tw := b.stem()
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
	b.classify(x, th*tw)
	p := b.Plan
	p.arena = make([]float32, b.arenaLen)
	p.scratch = make([]float32, p.perWorker*m.pool.n)
	return p, nil
}

// checkSize says what is wrong with a batch of images for a model, if anything.
// Its bound on the size keeps every index within 31 bits.
func checkSize(cfg *Config, batch, h, w int) error {
	if batch < 1 || h < 1 || w < 1 {
		return fmt.Errorf("block: a batch of %d images of %d x %d; each must be at least 1", batch, h, w)
	}
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

// FeatureSize returns the rows and columns of stage i's feature map.
func (p *Plan) FeatureSize(i int) (h, w int) { return p.maps[i][0], p.maps[i][1] }

// ArenaBytes returns the size of the plan's buffers.
func (p *Plan) ArenaBytes() int64 { return 4 * int64(len(p.arena)+len(p.scratch)) }

// Forward runs the model on src, batch images in NCHW order, and fills what is
// not nil in dst. It returns an error if a slice has the wrong length, if the
// checkpoint lacks what an output needs, or if ctx ends (looked at between
// blocks; dst is then undefined). It allocates nothing. NaN and infinite pixels
// give NaN outputs.
func (p *Plan) Forward(ctx context.Context, dst *Output, src []float32) error {
	if !p.running.CompareAndSwap(false, true) {
		return errors.New("block: this plan is already running; make one plan for each goroutine")
	}
	defer p.running.Store(false)
	if err := p.check(dst, src); err != nil {
		return err
	}
	p.src, p.dst = src, dst
	defer p.release()
	pl := p.model.pool
	owned := pl.n > 1 && pl.busy.TryLock()
	if owned {
		defer pl.busy.Unlock()
	}
	for i := range p.steps {
		s := &p.steps[i]
		if s.when != nil && !s.when() {
			continue
		}
		pl.do(owned, s.tasks, s.run)
		if s.tap == "" {
			continue
		}
		if p.Tap != nil {
			p.Tap(s.tap, s.shape, p.f(s.out))
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

func (p *Plan) release() { p.src, p.dst = nil, nil }

func (p *Plan) check(dst *Output, src []float32) error {
	m := p.model
	if want := p.batch * m.cfg.InChans * p.h * p.w; len(src) != want {
		return fmt.Errorf("block: the input has %d values, a batch of %d images of %d x %d x %d needs %d", len(src), p.batch, m.cfg.InChans, p.h, p.w, want)
	}
	if dst == nil {
		return errors.New("block: no output was given")
	}
	if dst.Logits != nil {
		if !m.HasHead() {
			return errors.New("block: the checkpoint has no classification head (head.weight), so there are no logits; ask for pooled or feature maps")
		}
		if want := p.batch * m.cfg.NumClasses; len(dst.Logits) != want {
			return fmt.Errorf("block: Logits has %d values, needs %d", len(dst.Logits), want)
		}
	}
	if dst.Pooled != nil {
		if !m.HasPooled() {
			return errors.New("block: the checkpoint has no final norm (norm.weight), so there is no pooled output; ask for feature maps")
		}
		if want := p.batch * m.cfg.Dim(len(m.stages)-1); len(dst.Pooled) != want {
			return fmt.Errorf("block: Pooled has %d values, needs %d", len(dst.Pooled), want)
		}
	}
	if dst.Features != nil {
		if len(dst.Features) != len(m.stages) {
			return fmt.Errorf("block: Features has %d maps, the model %d stages", len(dst.Features), len(m.stages))
		}
		for i, f := range dst.Features {
			if f == nil {
				continue
			}
			if m.stages[i].norm.gamma == nil {
				return fmt.Errorf("block: the checkpoint has no norm%d, which feature map %d needs; use the weights of a detection or segmentation backbone", i, i)
			}
			if want := p.batch * m.cfg.Dim(i) * p.maps[i][0] * p.maps[i][1]; len(f) != want {
				return fmt.Errorf("block: Features[%d] has %d values, needs %d", i, len(f), want)
			}
		}
	}
	return nil
}

// planner builds a plan: it hands out arena space by liveness (allocate before
// the step that writes, free after the last that reads) and appends steps.
type planner struct {
	*Plan
	free     []buffer // sorted by offset, never adjacent
	arenaLen int
}

// alloc returns n floats that no living buffer overlaps: the first gap that
// fits, or the end of the arena. Starts are multiples of a cache line.
func (b *planner) alloc(n int) buffer {
	const line = 16
	n = (n + line - 1) / line * line
	for i, g := range b.free {
		if g.n >= n {
			if g.n == n {
				b.free = append(b.free[:i], b.free[i+1:]...)
			} else {
				b.free[i] = buffer{g.off + n, g.n - n}
			}
			return buffer{g.off, n}
		}
	}
	// Grow the gap at the end, if there is one.
	off := b.arenaLen
	if k := len(b.free) - 1; k >= 0 && b.free[k].off+b.free[k].n == b.arenaLen {
		off = b.free[k].off
		b.free = b.free[:k]
	}
	b.arenaLen = off + n
	return buffer{off, n}
}

func (b *planner) release(bufs ...buffer) {
	for _, x := range bufs {
		i := 0
		for i < len(b.free) && b.free[i].off < x.off {
			i++
		}
		b.free = append(b.free[:i], append([]buffer{x}, b.free[i:]...)...)
		if i+1 < len(b.free) && b.free[i].off+b.free[i].n == b.free[i+1].off {
			b.free[i].n += b.free[i+1].n
			b.free = append(b.free[:i+1], b.free[i+2:]...)
		}
		if i > 0 && b.free[i-1].off+b.free[i-1].n == b.free[i].off {
			b.free[i-1].n += b.free[i].n
			b.free = append(b.free[:i], b.free[i+1:]...)
		}
	}
}

func (b *planner) step(tasks int, run func(task, worker int)) {
	b.steps = append(b.steps, step{tasks: tasks, run: run})
}

// tap names the last step's result: the first rows x c values of each image in x.
func (b *planner) tap(name string, x buffer, shape ...int) {
	s := &b.steps[len(b.steps)-1]
	n := 1
	for _, d := range shape {
		n *= d
	}
	s.tap, s.shape, s.out = name, shape, buffer{x.off, n}
}

// need makes sure that each worker has n floats of scratch.
func (b *planner) need(n int) { b.perWorker = max(b.perWorker, (n+15)/16*16) }

func (p *Plan) work(worker int) []float32 {
	return p.scratch[worker*p.perWorker : (worker+1)*p.perWorker]
}

// bands cuts h rows of w tokens into n bands of nearly equal height for tasks:
// small enough for the L2 cache, and as many as balance the threads. Nothing that
// a band computes depends on where it begins.
type bands struct{ h, n, rows int } // rows is the height of the highest

func (b *planner) bands(h, w int) bands {
	const most = 512 // tokens
	threads := b.model.pool.n
	n := ceilDiv(h, max(1, most/w))
	if tasks := b.batch * n; tasks < 4*threads && tasks%threads != 0 {
		n = ceilDiv(ceilDiv(tasks, threads)*threads, b.batch)
	}
	n = min(n, h)
	return bands{h, n, ceilDiv(h, n)}
}

// of returns the image and the rows of a task.
func (t bands) of(task int) (image, r0, r1 int) {
	image, band := task/t.n, task%t.n
	return image, t.h * band / t.n, t.h * (band + 1) / t.n
}

// stem plans patch_embed: four 3x3 convolutions and a 1x1, with BatchNorm
// folded, to one token for each 4 x 4 pixels. Convolutions read their zero
// padding from a one-pixel border that the step before writes.
func (b *planner) stem() (x buffer, th, tw int) {
	p, m := b.Plan, b.model
	ci, e := m.cfg.InChans, m.cfg.EmbedDim
	c2 := e / 2
	th, tw = ceilDiv(b.h, 4), ceilDiv(b.w, 4)
	h2, w2 := 2*th, 2*tw

	rowIn := (4*tw + 2) * ci
	image := (4*th + 2) * rowIn
	in := b.alloc(b.batch * image)
	b.step(b.batch, func(i, _ int) {
		n := ci * p.h * p.w
		kernels.PadNCHW(p.f(in)[i*image:(i+1)*image], rowIn, 4*th+2, 1, 1, p.src[i*n:(i+1)*n], ci, p.h, p.w)
	})

	row2 := (w2 + 2) * c2
	half := (h2 + 2) * row2
	inner := row2 + c2 // of the first pixel inside the border
	cut := b.bands(h2, w2)
	conv := func(y, x []float32, rowX int, l *linear, cin, stride int, act kernels.Activation, add []float32, r0, r1 int) {
		if r1 == cut.h {
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
		kernels.Conv2D(m.level, y[at:], x[r0*stride*rowX:], l.w, kernels.ConvShape{
			OutH: r1 - r0, OutW: w2, Cin: cin, Cout: c2, KH: 3, KW: 3, Stride: stride, RowX: rowX, RowY: row2}, ep)
	}
	x1 := b.alloc(b.batch * half)
	b.step(b.batch*cut.n, func(task, _ int) {
		i, r0, r1 := cut.of(task)
		conv(p.f(x1)[i*half:(i+1)*half], p.f(in)[i*image:(i+1)*image], rowIn, &m.conv1, ci, 2, kernels.ReLU, nil, r0, r1)
	})
	b.release(in)
	x2 := b.alloc(b.batch * half)
	b.step(b.batch*cut.n, func(task, _ int) {
		i, r0, r1 := cut.of(task)
		conv(p.f(x2)[i*half:(i+1)*half], p.f(x1)[i*half:(i+1)*half], row2, &m.conv20, c2, 1, kernels.ReLU, nil, r0, r1)
	})
	b.step(b.batch*cut.n, func(task, _ int) {
		i, r0, r1 := cut.of(task)
		y := p.f(x1)[i*half : (i+1)*half] // x1 += conv(x2): the residual, in place
		conv(y, p.f(x2)[i*half:(i+1)*half], row2, &m.conv21, c2, 1, kernels.Identity, y, r0, r1)
	})
	b.release(x2)

	x = b.alloc(b.batch * th * tw * e)
	cut4 := b.bands(th, tw)
	b.need(cut4.rows * tw * 4 * e)
	b.step(b.batch*cut4.n, func(task, worker int) {
		i, r0, r1 := cut4.of(task)
		wide := p.work(worker)
		kernels.Conv2D(m.level, wide, p.f(x1)[i*half+r0*2*row2:(i+1)*half], m.conv30.w, kernels.ConvShape{
			OutH: r1 - r0, OutW: tw, Cin: c2, Cout: 4 * e, KH: 3, KW: 3, Stride: 2, RowX: row2, RowY: tw * 4 * e},
			kernels.Epilogue{Bias: m.conv30.b, Act: kernels.ReLU})
		ep := kernels.Epilogue{Bias: m.conv31.b}
		if m.ape != nil {
			ep.Add, ep.LdAdd = m.ape[r0*tw*e:], e
		}
		y := p.f(x)[(i*th+r0)*tw*e:]
		kernels.Gemm(m.level, y, e, wide, 4*e, m.conv31.w, (r1-r0)*tw, e, 4*e, ep)
	})
	b.release(x1)
	b.tap("patch_embed", x, b.batch, th*tw, e)
	return x, th, tw
}

// kvParts is into how many token ranges one image's key-value state is split at
// most. The split depends on the image size alone, never on the number of
// threads, since it decides the order of summation.
const kvParts = 16

// pad floats separate the rows of the MLP's hidden matrix: with a power of two
// between them, the rows of a register tile would share one set of the L1 cache.
const pad = 16

// block plans one MILA block on the tokens x (batch, h*w, dim), in place:
//
//	r = x + cpe1(x);  u = LN1(r);  g = SiLU(act u);  t = in u
//	v = SiLU(dwc(t)); [q | k] = ELU(qk v) + 1
//	y = (readout(q; kv(k, v)) + lepe(v)) * g
//	r = r + out y;    x = r + cpe2(r);  x = x + fc2 GELU(fc1 LN2(x))
func (b *planner) block(name string, blk *milaBlock, st *stage, x buffer, h, w int, rope []float32) {
	p, level := b.Plan, b.model.level
	c, l := st.dim, h*w
	cut := b.bands(h, w)
	total := b.batch * l * c
	r, t, g := b.alloc(total), b.alloc(total), b.alloc(total)
	image := func(b buffer, i int) []float32 { return p.f(b)[i*l*c : (i+1)*l*c] }

	most := cut.rows * w // tokens in a band
	b.need(most * (c + st.hidden + pad))
	b.step(b.batch*cut.n, func(task, worker int) {
		i, r0, r1 := cut.of(task)
		t0, n := r0*w*c, (r1-r0)*w
		ri := image(r, i)
		kernels.DWConv3x3Residual(level, ri, image(x, i), blk.cpe1.w9, blk.cpe1.b, kernels.DWShape{H: h, W: w, Ch: c, Stride: 1, Row0: r0, Row1: r1})
		u := p.work(worker)[:n*c]
		kernels.LayerNorm(level, u, c, ri[t0:], c, n, c, nil, nil, normEps)
		kernels.Gemm(level, image(g, i)[t0:], c, u, c, blk.act.w, n, c, c, kernels.Epilogue{Bias: blk.act.b, Act: kernels.SiLU})
		kernels.Gemm(level, image(t, i)[t0:], c, u, c, blk.in.w, n, c, c, kernels.Epilogue{Bias: blk.in.b})
	})

	// x is free until the second half of the block: v lives there.
	v, qk := x, b.alloc(2*total)
	b.step(b.batch*cut.n, func(task, _ int) {
		i, r0, r1 := cut.of(task)
		t0, n := r0*w, (r1-r0)*w
		vi := image(v, i)
		kernels.DWConv3x3(level, vi, image(t, i), blk.dwc.w9, blk.dwc.b, kernels.DWShape{H: h, W: w, Ch: c, Stride: 1, Row0: r0, Row1: r1}, kernels.SiLU)
		kernels.Gemm(level, p.f(qk)[(i*l+t0)*2*c:], 2*c, vi[t0*c:], c, blk.qk.w, n, 2*c, c, kernels.Epilogue{Bias: blk.qk.b, Act: kernels.ELU1})
	})

	parts := min(kvParts, ceilDiv(l, 64))
	dim := c / st.heads
	state := c*dim + c // kv, then the sum of keys
	kv := b.alloc(b.batch * parts * state)
	b.step(b.batch*parts, func(task, _ int) {
		i, part := task/parts, task%parts
		s := p.f(kv)[task*state : (task+1)*state]
		clear(s)
		kernels.LinAttnKV(level, s[:c*dim], s[c*dim:], p.f(qk)[i*l*2*c+c:], 2*c, image(v, i), c, rope,
			kernels.LinAttnShape{H: h, W: w, Heads: st.heads, Dim: dim, T0: l * part / parts, T1: l * (part + 1) / parts})
	})
	if parts > 1 {
		b.step(b.batch, func(i, _ int) {
			s := p.f(kv)[i*parts*state : (i+1)*parts*state]
			for part := 1; part < parts; part++ {
				kernels.Add(level, s[:state], s[:state], s[part*state:(part+1)*state])
			}
		})
	}

	y := t // the input of dwc is no longer needed
	b.step(b.batch*cut.n, func(task, _ int) {
		i, r0, r1 := cut.of(task)
		t0, n := r0*w, (r1-r0)*w
		s := p.f(kv)[i*parts*state:]
		yi, ri := image(y, i), image(r, i)
		kernels.LinAttnReadout(level, yi, c, p.f(qk)[i*l*2*c:], 2*c, s[:c*dim], s[c*dim:state], rope,
			kernels.LinAttnShape{H: h, W: w, Heads: st.heads, Dim: dim, T0: t0, T1: t0 + n}, attnEps*float32(l))
		kernels.DWConv3x3AddMul(level, yi, image(v, i), blk.lepe.w9, blk.lepe.b, yi, image(g, i), kernels.DWShape{H: h, W: w, Ch: c, Stride: 1, Row0: r0, Row1: r1})
		rb := ri[t0*c:]
		kernels.Gemm(level, rb, c, yi[t0*c:], c, blk.out.w, n, c, c, kernels.Epilogue{Bias: blk.out.b, Add: rb, LdAdd: c})
	})
	b.release(t, g, qk, kv)

	b.step(b.batch*cut.n, func(task, worker int) {
		i, r0, r1 := cut.of(task)
		t0, n := r0*w*c, (r1-r0)*w
		xi := image(x, i)
		kernels.DWConv3x3Residual(level, xi, image(r, i), blk.cpe2.w9, blk.cpe2.b, kernels.DWShape{H: h, W: w, Ch: c, Stride: 1, Row0: r0, Row1: r1})
		u, hid, ldh := p.work(worker)[:n*c], p.work(worker)[n*c:], st.hidden+pad
		xb := xi[t0:]
		kernels.LayerNorm(level, u, c, xb, c, n, c, nil, nil, normEps)
		kernels.Gemm(level, hid, ldh, u, c, blk.fc1.w, n, st.hidden, c, kernels.Epilogue{Bias: blk.fc1.b, Act: kernels.GELU})
		kernels.Gemm(level, xb, c, hid, ldh, blk.fc2.w, n, c, st.hidden, kernels.Epilogue{Bias: blk.fc2.b, Add: xb, LdAdd: c})
	})
	b.release(r)
	b.tap(name, x, b.batch, l, c)
}

// downsample plans the patch merging after a stage: 1x1 to 8 dim and ReLU,
// depthwise 3x3 of stride 2 and ReLU, 1x1 to 2 dim. Odd maps are first padded
// with zero tokens at the right and bottom, which the first convolution turns
// into ReLU(bias), as in the official dense backbones.
func (b *planner) downsample(name string, st *stage, x buffer, h, w int) (y buffer, oh, ow int) {
	p, level, d := b.Plan, b.model.level, st.down
	c, c8, c2 := st.dim, d.expand.n, d.reduce.n
	if h%2 != 0 || w%2 != 0 {
		h2, w2 := h+h%2, w+w%2
		padded, src := b.alloc(b.batch*h2*w2*c), x
		h1, w1 := h, w
		b.step(b.batch, func(i, _ int) {
			dst, from := p.f(padded)[i*h2*w2*c:(i+1)*h2*w2*c], p.f(src)[i*h1*w1*c:]
			clear(dst)
			for r := range h1 {
				copy(dst[r*w2*c:], from[r*w1*c:(r+1)*w1*c])
			}
		})
		b.release(x)
		x, h, w = padded, h2, w2
	}
	oh, ow = h/2, w/2
	wide := b.alloc(b.batch * h * w * c8)
	cut := b.bands(h, w)
	b.step(b.batch*cut.n, func(task, _ int) {
		i, r0, r1 := cut.of(task)
		at := (i*h + r0) * w
		kernels.Gemm(level, p.f(wide)[at*c8:], c8, p.f(x)[at*c:], c, d.expand.w, (r1-r0)*w, c8, c, kernels.Epilogue{Bias: d.expand.b, Act: kernels.ReLU})
	})
	b.release(x)
	small := b.alloc(b.batch * oh * ow * c8)
	y = b.alloc(b.batch * oh * ow * c2)
	cutOut := b.bands(oh, ow)
	b.step(b.batch*cutOut.n, func(task, _ int) {
		i, r0, r1 := cutOut.of(task)
		s := p.f(small)[i*oh*ow*c8 : (i+1)*oh*ow*c8]
		kernels.DWConv3x3(level, s, p.f(wide)[i*h*w*c8:(i+1)*h*w*c8], d.dw.w9, d.dw.b, kernels.DWShape{H: h, W: w, Ch: c8, Stride: 2, Row0: r0, Row1: r1}, kernels.ReLU)
		kernels.Gemm(level, p.f(y)[(i*oh+r0)*ow*c2:], c2, s[r0*ow*c8:], c8, d.reduce.w, (r1-r0)*ow, c2, c8, kernels.Epilogue{Bias: d.reduce.b})
	})
	b.release(wide, small)
	b.tap(name, y, b.batch, oh*ow, c2)
	return y, oh, ow
}

// feature plans the normed NCHW map of a stage, if the checkpoint has its norm.
func (b *planner) feature(i int, st *stage, x buffer, h, w int) {
	if st.norm.gamma == nil {
		return
	}
	p, level, c, l := b.Plan, b.model.level, st.dim, h*w
	u := b.alloc(b.batch * l * c)
	b.step(b.batch, func(n, _ int) {
		un := p.f(u)[n*l*c : (n+1)*l*c]
		kernels.LayerNorm(level, un, c, p.f(x)[n*l*c:], c, l, c, st.norm.gamma, st.norm.beta, normEps)
		kernels.NCHW(p.dst.Features[i][n*l*c:(n+1)*l*c], un, l, c)
	})
	b.steps[len(b.steps)-1].when = func() bool { return p.dst.Features != nil && p.dst.Features[i] != nil }
	b.release(u)
}

// classify plans the final norm, the mean over tokens and the head.
func (b *planner) classify(x buffer, l int) {
	p, m := b.Plan, b.model
	if !m.HasPooled() {
		return
	}
	c := m.cfg.Dim(len(m.stages) - 1)
	wanted := func() bool { return p.dst.Logits != nil || p.dst.Pooled != nil }
	u, pooled := b.alloc(b.batch*l*c), b.alloc(b.batch*c)
	b.step(b.batch, func(i, _ int) {
		kernels.LayerNorm(m.level, p.f(u)[i*l*c:], c, p.f(x)[i*l*c:], c, l, c, m.norm.gamma, m.norm.beta, normEps)
	})
	b.tap("norm", u, b.batch, l, c)
	b.steps[len(b.steps)-1].when = wanted
	b.step(b.batch, func(i, _ int) {
		mean := p.f(pooled)[i*c : (i+1)*c]
		kernels.MeanRows(m.level, mean, p.f(u)[i*l*c:], c, l, c)
		if p.dst.Pooled != nil {
			copy(p.dst.Pooled[i*c:], mean)
		}
	})
	b.tap("pooled", pooled, b.batch, c)
	b.steps[len(b.steps)-1].when = wanted
	if !m.HasHead() {
		return
	}
	n := m.cfg.NumClasses
	b.step(1, func(int, int) {
		kernels.Gemm(m.level, p.dst.Logits, n, p.f(pooled), c, m.head.w, b.batch, n, c, kernels.Epilogue{Bias: m.head.b})
	})
	b.steps[len(b.steps)-1].when = func() bool { return p.dst.Logits != nil }
}
