package kernels_test

import (
	"fmt"
	"math"
	"testing"

	"github.com/mila-go/mila/internal/golden"
	"github.com/mila-go/mila/internal/guard"
	"github.com/mila-go/mila/kernels"
	"github.com/mila-go/mila/kernels/ref"
)

// forms are the ways to compute a recurrence that has not both a normaliser and gates of
// key channels.
var forms = map[string]func(l kernels.Level, o, state, q, k, v []float32, s kernels.RecurrenceShape, opt kernels.RecurrenceOptions){
	"recurrent": kernels.Recurrent,
	"chunked": func(l kernels.Level, o, state, q, k, v []float32, s kernels.RecurrenceShape, opt kernels.RecurrenceOptions) {
		if opt.KeyGate != nil && opt.Sum != nil {
			kernels.Recurrent(l, o, state, q, k, v, s, opt)
			return
		}
		kernels.Chunked(l, o, state, q, k, v, s, opt, make([]float32, kernels.ChunkedLen(s.KeyDim, s.Dim)))
	},
}

// TestGoldenRecurrences runs the causal cases, each in two pieces of its sequence.
func TestGoldenRecurrences(t *testing.T) {
	goldenCases(t, "linattn", "", func(t *testing.T, l kernels.Level, s golden.Set, id string, c sizes) {
		kind, _ := c["kind"].(string)
		switch kind {
		case "causal", "retention", "sgla", "gla", "delta", "gdelta":
		default:
			return
		}
		b, steps, heads, kd, d := c.int("B"), c.int("T"), c.int("H"), c.int("K"), c.int("V")
		q, k, v, gate, beta := s.F32(id+".q"), s.F32(id+".k"), s.F32(id+".v"), s.F32(id+".log_gate"), s.F32(id+".beta")
		for name, form := range forms {
			o, state, sum := make([]float32, len(v)), s.F32(id+".initial_state"), s.F32(id+".initial_z")
			if state == nil {
				state = make([]float32, b*heads*kd*d)
			}
			if normalised, _ := c["normalize"].(bool); normalised && sum == nil {
				sum = make([]float32, b*heads*kd)
			}
			for i := range b {
				for _, piece := range [][2]int{{0, steps * 2 / 3}, {steps * 2 / 3, steps}} {
					n := piece[1] - piece[0]
					at := func(x []float32) []float32 {
						if x == nil {
							return nil
						}
						image := part(x, i, b)
						return image[piece[0]*len(image)/steps:]
					}
					shape := kernels.RecurrenceShape{L: n, Heads: heads, KeyDim: kd, Dim: d, Scale: float32(c["scale"].(float64))}
					opt := kernels.RecurrenceOptions{Beta: at(beta), Eps: 1e-10}
					if kind == "gla" {
						opt.KeyGate = at(gate)
					} else {
						opt.HeadGate = at(gate)
					}
					if sum != nil {
						opt.Sum = part(sum, i, b)
					}
					form(l, at(o), part(state, i, b), at(q), at(k), at(v), shape, opt)
				}
			}
			golden.Near(t, fmt.Sprint(l, " ", name, " ", id, ".o"), o, s.F32(id+".o"), 2e-5)
			golden.Near(t, fmt.Sprint(l, " ", name, " ", id, ".final_state"), state, s.F32(id+".final_state"), 1e-5)
			if sum != nil {
				golden.Near(t, fmt.Sprint(l, " ", name, " ", id, ".final_z"), sum, s.F32(id+".final_z"), 1e-5)
			}
		}
	})
}

// TestGoldenSix runs the paper's unified recurrence with its switches as a selective
// scan whose B and C are keys and queries.
func TestGoldenSix(t *testing.T) {
	goldenCases(t, "linattn", "six.", func(t *testing.T, l kernels.Level, s golden.Set, id string, c sizes) {
		steps, heads, kd := c.int("L"), c.int("H"), c.int("d")
		ch := heads * c.int("e")
		q, k, groups := s.F32("six.q"), s.F32("six.k"), heads
		if c.int("single_head") != 0 {
			q, k, groups = s.F32("six.q1"), s.F32("six.k1"), 1
		}
		open := make([]float32, ch*kd) // exp(0) = 1
		decay := open
		if c.int("forget_gate") != 0 {
			decay = transposed(s.F32("six.A"), kd, ch)
		}
		shape := kernels.ScanShape{L: steps, Ch: ch, N: kd, Groups: groups}
		y, state := make([]float32, steps*ch), make([]float32, kd*ch)
		kernels.Scan(l, y, state, s.F32("six.v"), s.F32("six.delta"), kernels.NewScanA(decay, ch, kd, groups), k, q, shape, kernels.ScanOptions{NoInputGate: c.int("input_gate") == 0})
		if c.int("no_norm") == 0 {
			// The sum of keys, gated for each value channel or not at all.
			sums, z, ones := make([]float32, steps*ch), make([]float32, kd*ch), make([]float32, steps*ch)
			for i := range ones {
				ones[i] = 1
			}
			if c.int("gated_z") == 0 {
				decay = open
			}
			kernels.Scan(l, sums, z, ones, s.F32("six.delta"), kernels.NewScanA(decay, ch, kd, groups), k, q, shape, kernels.ScanOptions{NoInputGate: true})
			for i := range y {
				y[i] /= sums[i]
			}
		}
		if c.int("shortcut") != 0 {
			for i, x := range s.F32("six.x") {
				y[i] += s.F32("six.D")[i%ch] * x
			}
		}
		golden.Near(t, fmt.Sprint(l, " ", id, ".y"), y, s.F32(id+".y"), 1e-5)
		// (d, H, e), the file's are (H, d, e).
		var final []float32
		for h := range heads {
			for n := range kd {
				final = append(final, state[n*ch+h*ch/heads:n*ch+(h+1)*ch/heads]...)
			}
		}
		golden.Near(t, fmt.Sprint(l, " ", id, ".S"), final, s.F32(id+".S"), 1e-5)
	})
}

func TestGoldenSSD(t *testing.T) {
	goldenCases(t, "ssd", "", func(t *testing.T, l kernels.Level, s golden.Set, id string, c sizes) {
		b, steps, heads, d, groups, n := c.int("batch"), c.int("L"), c.int("heads"), c.int("headdim"), c.int("groups"), c.int("N")
		x, dt := s.F32(id+".x"), s.F32(id+".dt")
		y := make([]float32, len(x))
		state := make([]float32, b*heads*n*d)
		if initial := s.F32(id + ".initial_state"); initial != nil {
			state = transposed(initial, d, n)
		}
		for i := range b {
			for _, piece := range [][2]int{{0, steps / 2}, {steps / 2, steps}} {
				at := func(x []float32) []float32 {
					if x == nil {
						return nil
					}
					image := part(x, i, b)
					return image[piece[0]*len(image)/steps:]
				}
				shape := kernels.RecurrenceShape{L: piece[1] - piece[0], Heads: heads, KeyDim: n, Dim: d, Groups: groups}
				o := kernels.SSDOptions{DeltaBias: s.F32(id + ".dt_bias"), Softplus: c.int("dt_softplus") != 0, D: s.F32(id + ".D"), Z: at(s.F32(id + ".z"))}
				kernels.SSD(l, at(y), part(state, i, b), at(x), at(dt), s.F32(id+".A"), at(s.F32(id+".B")), at(s.F32(id+".C")), shape, o, make([]float32, kernels.SSDLen(shape)))
			}
		}
		golden.Near(t, fmt.Sprint(l, " ", id, ".y"), y, s.F32(id+".y"), 2e-5)
		golden.Near(t, fmt.Sprint(l, " ", id, ".final_state"), transposed(state, n, d), s.F32(id+".final_state"), 1e-5)
	})
}

// TestRecurrences compares both forms with their definition, on guarded buffers.
func TestRecurrences(t *testing.T) {
	eachLevel(t, func(e *testEnv) {
		for _, s := range []kernels.RecurrenceShape{
			{L: 0, Heads: 1, KeyDim: 4, Dim: 4}, {L: 1, Heads: 2, KeyDim: 5, Dim: 3}, {L: 31, Heads: 2, KeyDim: 16, Dim: 32, Scale: 0.25}, {L: 63, Heads: 2, KeyDim: 16, Dim: 32, Scale: 0.25}, {L: 65, Heads: 4, KeyDim: 33, Dim: 17, Groups: 2},
			{L: 130, Heads: 1, KeyDim: 64, Dim: 64, Scale: 0.125}, {L: 70, Heads: 3, KeyDim: 8, Dim: 40, Head0: 1, Head1: 2},
		} {
			for kind := range 16 {
				e.recurrence(s, kind&1 != 0, kind&2 != 0, kind&4 != 0, kind&8 != 0)
			}
		}
	})
}

func (e *testEnv) recurrence(s kernels.RecurrenceShape, gated, normalised, delta, keyed bool) {
	full := s.Dense()
	s.LdQ, s.LdV, s.LdO = full.LdQ+3, full.LdV+1, full.LdO+2
	span := func(ld, n int) int { return max(0, (s.L-1)*ld+n) }
	q, k, v := e.positive(span(s.LdQ, full.LdQ)), e.positive(s.L*full.LdK), e.random(span(s.LdV, full.LdV))
	for i := range k { // keys of length at most 1 keep the delta rule stable
		k[i] /= float32(s.KeyDim)
	}
	opt := kernels.RecurrenceOptions{Eps: 1e-3}
	if gated {
		opt.HeadGate = e.positive(s.L * s.Heads)
		for i := range opt.HeadGate {
			opt.HeadGate[i] = -opt.HeadGate[i] * float32(i%7*i%7)
		}
	}
	if delta {
		opt.Beta = e.positive(s.L * s.Heads)
	}
	if keyed {
		opt.KeyGate = e.positive(s.L * s.Heads * s.KeyDim)
		for i := range opt.KeyGate { // mostly long chunks, and some gates that are nearly shut
			if opt.KeyGate[i] *= -0.2; i%1001 == 1000 {
				opt.KeyGate[i] = -100
			}
		}
	}
	start, z := e.random(s.Heads*s.KeyDim*s.Dim), e.positive(s.Heads*s.KeyDim)
	for name, form := range forms {
		o, state, sum := e.random(span(s.LdO, full.LdO)), copyOf(start), copyOf(z)
		want, wstate, wsum := copyOf(o), copyOf(start), copyOf(z)
		wopt := opt
		if normalised {
			opt.Sum, wopt.Sum = sum, wsum
		}
		ref.Recurrence(want, wstate, q, k, v, s, wopt)
		form(e.level, o, state, q, k, v, s, opt)
		what := fmt.Sprintf("%s %+v gated %v normalised %v delta %v keyed %v", name, s, gated, normalised, delta, keyed)
		e.near(what+" o", o, want, 1e-5)
		e.near(what+" state", state, wstate, 1e-5)
		e.near(what+" sum", sum, wsum, 1e-5)
	}
}

// TestRecurrenceSpecialValues asserts that strong gates give neither NaN nor
// infinities and that a NaN reaches only what depends on it.
func TestRecurrenceSpecialValues(t *testing.T) {
	const steps, d = 100, 16
	for _, l := range kernels.Levels() {
		for name, form := range forms {
			x, gate := make([]float32, steps*d), make([]float32, steps)
			for i := range x {
				x[i] = 1
			}
			for i := range gate {
				gate[i] = []float32{0, -1e4, -1e30, float32(math.Inf(-1))}[i%4]
			}
			s := kernels.RecurrenceShape{L: steps, Heads: 1, KeyDim: d, Dim: d}
			o := make([]float32, steps*d)
			form(l, o, make([]float32, d*d), x, x, x, s, kernels.RecurrenceOptions{HeadGate: gate})
			for i, v := range o {
				if !(v >= 0 && v <= 2*d) {
					t.Fatalf("%v %s: o[%d] = %v", l, name, i, v)
				}
			}
			v := append([]float32(nil), x...)
			v[50*d+3] = float32(math.NaN())
			form(l, o, make([]float32, d*d), x, x, v, s, kernels.RecurrenceOptions{})
			for i, y := range o {
				if got, want := math.IsNaN(float64(y)), i%d == 3 && i/d >= 50; got != want && (want || i%d != 3 || name == "recurrent") {
					t.Fatalf("%v %s: o[%d, %d] = %v", l, name, i/d, i%d, y)
				}
			}
		}
	}
}

// TestRecurrenceGates runs gates above 0, in whose steps the state grows, and asserts
// what becomes of a NaN among gates.
func TestRecurrenceGates(t *testing.T) {
	eachLevel(t, func(e *testEnv) {
		s := kernels.RecurrenceShape{L: 90, Heads: 2, KeyDim: 9, Dim: 11}
		q, k, v := e.random(s.L*s.Heads*s.KeyDim), e.random(s.L*s.Heads*s.KeyDim), e.random(s.L*s.Heads*s.Dim)
		head, key := e.random(s.L*s.Heads), e.random(s.L*s.Heads*s.KeyDim)
		for name, form := range forms {
			for kind, opt := range map[string]kernels.RecurrenceOptions{"heads": {HeadGate: head}, "keys": {KeyGate: key}, "both": {HeadGate: head, KeyGate: key}} {
				for _, more := range []float32{0.3, 5, 100} {
					gates := opt
					for _, x := range []*[]float32{&gates.HeadGate, &gates.KeyGate} {
						if *x != nil {
							*x = copyOf(*x)
							for i := range *x { // mostly above 0
								(*x)[i] = (*x)[i]*0.1 + more/float32(s.L)
							}
							(*x)[len(*x)/2] = more
						}
					}
					o, state := make([]float32, s.L*s.Heads*s.Dim), make([]float32, s.Heads*s.KeyDim*s.Dim)
					want, wstate := copyOf(o), copyOf(state)
					form(e.level, o, state, q, k, v, s, gates)
					ref.Recurrence(want, wstate, q, k, v, s, gates)
					what := fmt.Sprintf("%s, gates of %s up to %v", name, kind, more)
					if more == 100 { // beyond float32 in the end, of the definition's sums too
						for i, x := range wstate {
							if g := float64(state[i]); math.Abs(float64(x)) > 1e38 && !(math.Abs(g) > 1e37 || math.IsNaN(g)) {
								e.t.Fatalf("%v %s: state %d is %v, want %v", e.level, what, i, g, x)
							}
						}
						continue
					}
					e.near(what+" o", o, want, 5e-5)
					e.near(what+" state", state, wstate, 5e-5)
				}
				bad := opt // a NaN in head 1 at token 40
				for x, at := range map[*[]float32]int{&bad.HeadGate: 40*s.Heads + 1, &bad.KeyGate: (40*s.Heads + 1) * s.KeyDim} {
					if *x != nil {
						*x = copyOf(*x)
						(*x)[at] = float32(math.NaN())
					}
				}
				o, state := make([]float32, s.L*s.Heads*s.Dim), make([]float32, s.Heads*s.KeyDim*s.Dim)
				form(e.level, o, state, q, k, v, s, bad)
				for i, x := range o {
					if nan := math.IsNaN(float64(x)); i/s.Dim%2 == 0 && nan || i/s.Dim%2 == 1 && i/s.Dim/2 >= 40 && !nan {
						e.t.Fatalf("%v %s: gates of %s with a NaN: o of token %d, head %d is %v", e.level, name, kind, i/s.Dim/2, i/s.Dim%2, x)
					}
				}
			}
		}
	})
}

// TestRecurrenceShapesAreChecked calls the operations with wrong shapes; each must
// panic with a message that names the operation and the argument, before it writes.
func TestRecurrenceShapesAreChecked(t *testing.T) {
	x := make([]float32, 64)
	work := make([]float32, kernels.ChunkedLen(4, 4)+4)
	run := func(op func(l kernels.Level, o, state, q, k, v []float32, s kernels.RecurrenceShape, opt kernels.RecurrenceOptions), state []float32, f func(s *kernels.RecurrenceShape, opt *kernels.RecurrenceOptions)) func() {
		return func() {
			s, opt := kernels.RecurrenceShape{L: 2, Heads: 2, KeyDim: 4, Dim: 4}, kernels.RecurrenceOptions{}
			f(&s, &opt)
			op(kernels.Auto, x, state, x, x, x, s, opt)
		}
	}
	chunked := func(work []float32) func(l kernels.Level, o, state, q, k, v []float32, s kernels.RecurrenceShape, opt kernels.RecurrenceOptions) {
		return func(l kernels.Level, o, state, q, k, v []float32, s kernels.RecurrenceShape, opt kernels.RecurrenceOptions) {
			kernels.Chunked(l, o, state, q, k, v, s, opt, work)
		}
	}
	type shape = kernels.RecurrenceShape
	type options = kernels.RecurrenceOptions
	ssd := func(state []float32, f func(s *shape, o *kernels.SSDOptions)) func() {
		return func() {
			s, o := shape{L: 2, Heads: 2, KeyDim: 4, Dim: 4}, kernels.SSDOptions{}
			f(&s, &o)
			kernels.SSD(kernels.Auto, x, state, x, x, x, x, x, s, o, work)
		}
	}
	guard.Refused(t, x, map[string]func(){
		"Recurrent: state has 31":   run(kernels.Recurrent, x[:31], func(*shape, *options) {}),
		"Chunked: state has 31":     run(chunked(work), x[:31], func(*shape, *options) {}),
		"Chunked: work":             run(chunked(work[:9]), x, func(*shape, *options) {}),
		"Chunked: gates of key":     run(chunked(work), x, func(s *shape, o *options) { o.KeyGate, o.Sum = x, x }),
		"Recurrent: heads of 257":   run(kernels.Recurrent, x, func(s *shape, _ *options) { s.KeyDim = 257 }),
		"Recurrent: 2 heads do":     run(kernels.Recurrent, x, func(s *shape, _ *options) { s.Groups = 3 }),
		"Recurrent: heads [0, 3)":   run(kernels.Recurrent, x, func(s *shape, _ *options) { s.Head1 = 3 }),
		"Recurrent: negative":       run(kernels.Recurrent, x, func(s *shape, _ *options) { s.L = -1 }),
		"Recurrent: q has":          run(kernels.Recurrent, x, func(s *shape, _ *options) { s.L = 9 }),
		"Recurrent: HeadGate has 3": run(kernels.Recurrent, x, func(_ *shape, o *options) { o.HeadGate = x[:3] }),
		"Recurrent: KeyGate has 15": run(kernels.Recurrent, x, func(_ *shape, o *options) { o.KeyGate = x[:15] }),
		"Recurrent: Beta has 3":     run(kernels.Recurrent, x, func(_ *shape, o *options) { o.Beta = x[:3] }),
		"Recurrent: Sum has 7":      run(kernels.Recurrent, x, func(_ *shape, o *options) { o.Sum = x[:7] }),
		"Recurrent: rows of v":      run(kernels.Recurrent, x, func(s *shape, _ *options) { s.LdV = 7 }),
		"SSD: Z has 15":             ssd(x, func(_ *shape, o *kernels.SSDOptions) { o.Z = x[:15] }),
		"SSD: DeltaBias has 1":      ssd(x, func(_ *shape, o *kernels.SSDOptions) { o.DeltaBias = x[:1] }),
		"SSD: state has 31":         ssd(x[:31], func(*shape, *kernels.SSDOptions) {}),
		"SSD: work": func() {
			kernels.SSD(kernels.Auto, x, x, x, x, x, x, x, shape{L: 2, Heads: 2, KeyDim: 4, Dim: 4}, kernels.SSDOptions{}, work[:9])
		},
	})
	// L = 0 does nothing.
	kernels.SSD(kernels.Auto, nil, x, nil, nil, x, nil, nil, shape{Heads: 2, KeyDim: 4, Dim: 4}, kernels.SSDOptions{}, work)
	kernels.Chunked(kernels.Auto, nil, x, nil, nil, nil, shape{Heads: 2, KeyDim: 4, Dim: 4}, options{}, work)
}

func TestRecurrenceAllocatesNothing(t *testing.T) {
	const steps, heads, d = 70, 2, 20
	x, gates, state, o := make([]float32, steps*heads*d), make([]float32, steps*heads), make([]float32, heads*d*d), make([]float32, steps*heads*d)
	s := kernels.RecurrenceShape{L: steps, Heads: heads, KeyDim: d, Dim: d}
	work, more := make([]float32, kernels.ChunkedLen(d, d)), make([]float32, kernels.SSDLen(s))
	for _, l := range kernels.Levels() {
		if allocs := testing.AllocsPerRun(5, func() {
			for _, opt := range [...]kernels.RecurrenceOptions{{HeadGate: gates, Beta: gates}, {KeyGate: x, Beta: gates}, {Sum: x[:heads*d], Eps: 1}} {
				kernels.Recurrent(l, o, state, x, x, x, s, opt)
				kernels.Chunked(l, o, state, x, x, x, s, opt, work)
			}
			kernels.SSD(l, o, state, x, gates, gates, x, x, s, kernels.SSDOptions{Softplus: true, Z: x}, more)
		}); allocs != 0 {
			t.Errorf("%v: %v allocations", l, allocs)
		}
	}
}
