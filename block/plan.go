package block

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/mila-go/mila/internal/hugepage"
	"github.com/mila-go/mila/kernels"
)

// Output receives the results of a forward pass. Nil slices are not wanted and
// what only they need is not computed.
type Output struct {
	Logits   []float32   // (batch, NumClasses)
	Pooled   []float32   // (batch, channels of the last stage): mean over tokens of the final norm
	Features [][]float32 // one per stage, (batch, Dim(i), h_i, w_i): normed maps before each downsample

	// ClassMaps is (batch, h, w, NumClasses), h and w being those of the last stage's
	// tokens: the head applied to each token's final norm, W LN(x_t) + b. The head
	// follows a mean over tokens and is linear, so the mean of a class's map is its
	// logit: the map says how much each place of the image adds to it. These are the
	// class activation maps of arXiv 1512.04150. A model that classifies by a class
	// token has none.
	ClassMaps []float32
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
	pool        *pool
	batch, h, w int
	outputs     []featureMap
	pools       bool     // the head follows a mean over tokens
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
	if batch < 1 || h < 1 || w < 1 {
		return nil, fmt.Errorf("block: a batch of %d images of %d x %d; each must be at least 1", batch, h, w)
	}
	if err := m.net.check(batch, h, w); err != nil {
		return nil, err
	}
	b := newPlanner(m.level, m.pool, batch, h, w)
	b.model, b.outputs = m, m.net.channels()
	m.net.plan(b)
	return b.finish(), nil
}

func newPlanner(level kernels.Level, pool *pool, batch, h, w int) *planner {
	return &planner{Plan: &Plan{pool: pool, batch: batch, h: h, w: w}, level: level, threads: pool.n}
}

// finish allocates the buffers.
func (b *planner) finish() *Plan {
	p := b.Plan
	p.arena = hugepage.Floats(b.arenaLen)
	p.scratch = hugepage.Floats(p.perWorker * b.threads)
	return p
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
	return p.run(ctx)
}

// run runs the steps, on the pool's workers unless others are using them.
func (p *Plan) run(ctx context.Context) error {
	pl := p.pool
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
	chans, _ := m.arch.Image()
	if want := p.batch * chans * p.h * p.w; len(src) != want {
		return fmt.Errorf("block: the input has %d values, a batch of %d images of %d x %d x %d needs %d", len(src), p.batch, chans, p.h, p.w, want)
	}
	maps := p.outputs
	if dst == nil {
		return errors.New("block: no output was given")
	}
	if dst.Logits != nil {
		if !m.HasHead() {
			return errors.New("block: the checkpoint has no classification head (head.weight), so there are no logits; ask for pooled or feature maps")
		}
		if want := p.batch * m.arch.Classes(); len(dst.Logits) != want {
			return fmt.Errorf("block: Logits has %d values, needs %d", len(dst.Logits), want)
		}
	}
	if dst.Pooled != nil {
		if !m.HasPooled() {
			return errors.New("block: the checkpoint has no final norm (norm.weight), so there is no pooled output; ask for feature maps")
		}
		if want := p.batch * maps[len(maps)-1].channels; len(dst.Pooled) != want {
			return fmt.Errorf("block: Pooled has %d values, needs %d", len(dst.Pooled), want)
		}
	}
	if dst.ClassMaps != nil {
		switch {
		case !m.HasHead() || !m.HasPooled():
			return errors.New("block: the checkpoint has no classification head and final norm (head.weight, norm.weight), so there are no class maps")
		case !p.pools:
			return fmt.Errorf("block: %v classifies by one class token and not by a mean over tokens, so it has no class maps", m.arch)
		}
		last := p.maps[len(p.maps)-1]
		if want := p.batch * last[0] * last[1] * m.arch.Classes(); len(dst.ClassMaps) != want {
			return fmt.Errorf("block: ClassMaps has %d values, needs %d", len(dst.ClassMaps), want)
		}
	}
	if dst.Features != nil {
		if len(dst.Features) != len(maps) {
			return fmt.Errorf("block: Features has %d maps, the model %d stages", len(dst.Features), len(maps))
		}
		for i, f := range dst.Features {
			if f == nil {
				continue
			}
			if !maps[i].normed {
				return fmt.Errorf("block: the checkpoint has no norm%d, which feature map %d needs; use the weights of a detection or segmentation backbone", i, i)
			}
			if want := p.batch * maps[i].channels * p.maps[i][0] * p.maps[i][1]; len(f) != want {
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
	level    kernels.Level
	threads  int
	macs     int64    // of all that is planned
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

// tap names the last step's result.
func (b *planner) tap(name string, x tokens, shape ...int) {
	s := &b.steps[len(b.steps)-1]
	n := 1
	for _, d := range shape {
		n *= d
	}
	s.tap, s.shape, s.out = name, shape, buffer{x.off, n}
}

// when makes the last step depend on a condition.
func (b *planner) when(wanted func() bool) { b.steps[len(b.steps)-1].when = wanted }

// need makes sure that each worker has n floats of scratch.
func (b *planner) need(n int) { b.perWorker = max(b.perWorker, (n+15)/16*16) }

func (p *Plan) work(worker int) []float32 {
	return p.scratch[worker*p.perWorker : (worker+1)*p.perWorker]
}
