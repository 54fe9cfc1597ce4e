package block

// How the work of a step is cut into tasks. Nothing that is computed depends on
// where a cut is: every output is the same sum in the same order, so results are
// bit-identical for any number of threads.

// tile is the part of one image's tokens that one call of an operation computes:
// rows [r0, r1) of the grid of tokens, channels [j0, j1) of the result.
type tile struct {
	image  int
	r0, r1 int
	j0, j1 int
	worker int
}

// op is an operation on the tokens of an image. It can be cut between rows, and
// between multiples of unit of its cols channels; with cols 0 only between rows.
type op struct {
	cols, unit int
	run        func(t tile)
}

// bands cuts h rows of w tokens into n bands of nearly equal height.
type bands struct{ h, n, rows int } // rows is the height of the highest

func cutRows(h, n int) bands { return bands{h, n, ceilDiv(h, n)} }

// of returns the image and the rows of a task.
func (c bands) of(task int) (image, r0, r1 int) {
	image, band := task/c.n, task%c.n
	return image, c.h * band / c.n, c.h * (band + 1) / c.n
}

// manyThreads is how many are rarely of one speed: cores share caches, clocks and
// power, and some do other work. Then work is cut finer than the threads need, so that
// the fast ones help the slow; with few threads that costs more than it brings.
const manyThreads = 8

// least returns how many tokens a band should have at least. With few threads that is
// as many as make reading the weights cheap; with many, one tile of registers, since
// what other cores have written costs more to fetch than weights, which nobody writes.
func (b *planner) least() int {
	if b.threads >= manyThreads {
		return 14
	}
	return 48
}

// bands cuts the rows of all images into bands small enough for the L2 cache, and
// as many as balance the threads.
func (b *planner) bands(h, w int) bands {
	const most = 196 // tokens: 14 or 33 register tiles, whose hidden activations fit too
	threads := b.threads
	n := ceilDiv(h, max(1, most/w))
	if tasks := b.batch * n; tasks < 4*threads {
		if threads >= manyThreads {
			n = max(n, h/ceilDiv(b.least(), w))
		} else if tasks%threads != 0 {
			n = ceilDiv(ceilDiv(tasks, threads)*threads, b.batch)
		}
	}
	return cutRows(h, min(n, h))
}

// byRows reports whether bands of rows alone keep all threads busy and are not too
// low. Then a chain of operations runs band by band, its intermediate results in the
// cache.
func (b *planner) byRows(h, w int) bool {
	const balance = 0.85 // of the threads' time
	threads := b.threads
	if threads == 1 {
		return true
	}
	cut := b.bands(h, w)
	rounds := ceilDiv(b.batch*cut.n, threads)
	return float64(b.batch*h) >= balance*float64(rounds*cut.rows*threads) && cut.rows*w >= b.least()
}

// grid is a cut of rows and channels.
type grid struct {
	rows  bands
	parts int // of the channels
	cols  int
	unit  int
}

func (g grid) tasks(batch int) int { return batch * g.rows.n * g.parts }

// of returns the tile of a task. Neighbouring tasks, which mostly run on the same
// thread, share their columns of the weights.
func (g grid) of(task, worker int) tile {
	units := ceilDiv(g.cols, g.unit)
	perImage := g.rows.n * g.parts
	part := task % perImage / g.rows.n
	t := tile{image: task / perImage, j0: units * part / g.parts * g.unit, j1: min(g.cols, units*(part+1)/g.parts*g.unit), worker: worker}
	_, t.r0, t.r1 = g.rows.of(task % g.rows.n)
	return t
}

// grid returns the cut whose slowest thread is done first. A task is charged its
// tokens x channels, and for reading its weights as much as for some tokens more.
func (b *planner) grid(h, w, cols, unit int) grid {
	const weights = 8
	threads := b.threads
	if threads >= manyThreads {
		threads *= 2
	}
	best, least := grid{}, 0
	for rows := 1; rows <= h; rows++ {
		n := ceilDiv(h, rows)
		if ceilDiv(h, n) != rows {
			continue // the same cut as with fewer rows
		}
		for parts := 1; parts <= ceilDiv(cols, unit); parts++ {
			g := grid{cutRows(h, n), parts, cols, unit}
			rounds := ceilDiv(g.tasks(b.batch), threads)
			cost := rounds * (rows*w + weights) * ceilDiv(ceilDiv(cols, unit), parts) * unit
			if least == 0 || cost < least {
				best, least = g, cost
			}
			if g.tasks(b.batch) >= 4*threads {
				break
			}
		}
	}
	return best
}

// chain plans operations of which each needs, of the ones before, only the rows
// that it computes itself. With fused they run one after another on each band;
// otherwise each is a step with a cut of its own.
func (b *planner) chain(fused bool, h, w int, ops ...op) {
	if fused {
		cut := b.bands(h, w)
		b.step(b.batch*cut.n, func(task, worker int) {
			t := tile{worker: worker}
			t.image, t.r0, t.r1 = cut.of(task)
			for _, o := range ops {
				t.j0, t.j1 = 0, o.cols
				o.run(t)
			}
		})
		return
	}
	for _, o := range ops {
		g := b.grid(h, w, max(1, o.cols), max(1, o.unit))
		b.step(g.tasks(b.batch), func(task, worker int) { o.run(g.of(task, worker)) })
	}
}

// tokens is a matrix of tokens x ld for each image of the batch, or one that
// holds only the rows of the task at hand, in its worker's scratch.
type tokens struct {
	buffer
	ld, image int // image: floats of one; 0 in scratch
	skip      int // columns before the first, which the last image lacks at its end
}

// tokens allocates n tokens of ld channels for each image.
func (b *planner) tokens(n, ld int) tokens {
	return tokens{buffer: b.alloc(b.batch * n * ld), ld: ld, image: n * ld}
}

// between allocates the result of an operation that only the operations after it
// in its chain read. used says how much scratch the chain needs so far.
func (b *planner) between(fused bool, h, w, ld int, used *int) tokens {
	if !fused {
		return b.tokens(h*w, ld)
	}
	m := tokens{buffer: buffer{*used, b.bands(h, w).rows * w * ld}, ld: ld}
	*used += m.n
	b.need(*used)
	return m
}

// image returns all tokens of one image.
func (p *Plan) image(m tokens, i int) []float32 {
	return p.f(buffer{m.off + i*m.image, m.image - m.skip})
}

// rows returns the tokens of t's image from the first of its rows on, for rows of
// w tokens.
func (p *Plan) rows(m tokens, t tile, w int) []float32 {
	if m.image == 0 {
		return p.work(t.worker)[m.off : m.off+m.n]
	}
	return p.image(m, t.image)[t.r0*w*m.ld:]
}

// columnsOf returns x from a column on.
func columnsOf(x tokens, column int) tokens {
	x.off += column
	x.skip += column
	return x
}
