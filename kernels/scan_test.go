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

// transposed returns batches of (rows, cols) matrices as (cols, rows).
func transposed(x []float32, rows, cols int) []float32 {
	if x == nil {
		return nil
	}
	out := make([]float32, len(x))
	for i := 0; i < len(x); i += rows * cols {
		kernels.NCHW(out[i:], x[i:], rows, cols)
	}
	return out
}

// packedScan packs a matrix that does not depend on the token.
func packedScan(x []float32, ch, n, groups int) []float32 {
	out := make([]float32, kernels.PackedScanLen(ch, n, groups))
	kernels.PackScan(out, x, ch, n, groups)
	return out
}

// part returns the i-th of n equal parts of x, or nil of nil.
func part(x []float32, i, n int) []float32 {
	return x[i*len(x)/n : (i+1)*len(x)/n : (i+1)*len(x)/n]
}

func TestGoldenScan(t *testing.T) {
	goldenCases(t, "scan_s6", "", func(t *testing.T, l kernels.Level, s golden.Set, id string, c sizes) {
		batch, ch, n, steps, split := c.int("batch"), c.int("D"), c.int("N"), c.int("L"), c.int("split_at")
		shape := kernels.ScanShape{Ch: ch, N: n}
		var b, cc []float32
		switch bc := c["BC"].(string); bc {
		case "const":
			shape.ConstB, shape.ConstC = true, true
			b, cc = packedScan(s.F32(id+".B"), ch, n, 1), packedScan(s.F32(id+".C"), ch, n, 1)
		case "mixed":
			shape.ConstB = true
			b, cc = packedScan(s.F32(id+".B"), ch, n, 1), transposed(s.F32(id+".C"), n, steps)
		default:
			shape.Groups = 1
			if bc != "var" {
				if _, err := fmt.Sscanf(bc, "grp%d", &shape.Groups); err != nil {
					t.Fatal(err)
				}
			}
			rows := shape.Groups * n
			b, cc = transposed(s.F32(id+".B"), rows, steps), transposed(s.F32(id+".C"), rows, steps)
		}
		matrix := s.F32(id + ".A")
		a := kernels.NewScanA(matrix, ch, n, shape.Groups)
		if want := c["A"] == "s4d" && n > 1; a.Powers() != want {
			t.Errorf("%s: A of kind %v: powers %v", id, c["A"], a.Powers())
		}
		u, delta, z := transposed(s.F32(id+".u"), ch, steps), transposed(s.F32(id+".delta"), ch, steps), transposed(s.F32(id+".z"), ch, steps)
		y, state, middle := make([]float32, batch*steps*ch), make([]float32, batch*n*ch), make([]float32, batch*n*ch)
		for i := range batch {
			o := kernels.ScanOptions{DeltaBias: s.F32(id + ".delta_bias"), Softplus: c.int("delta_softplus") != 0, D: s.F32(id + ".D"), Z: part(z, i, batch)}
			bi, ci, h := b, cc, part(state, i, batch)
			if !shape.ConstB {
				bi = part(b, i, batch)
			}
			if !shape.ConstC {
				ci = part(cc, i, batch)
			}
			// Two pieces of the sequence, the first up to the split.
			for _, piece := range [][2]int{{0, split}, {split, steps}} {
				at := func(x []float32, constant bool) []float32 {
					if constant || x == nil {
						return x
					}
					return x[piece[0]*len(x)/steps:]
				}
				p, q := shape, o
				p.L, q.Z = piece[1]-piece[0], at(o.Z, false)
				kernels.Scan(l, at(part(y, i, batch), false), h, at(part(u, i, batch), false), at(part(delta, i, batch), false), a, at(bi, shape.ConstB), at(ci, shape.ConstC), p, q)
				if piece[1] == split {
					copy(part(middle, i, batch), h)
				}
			}
		}
		golden.Near(t, fmt.Sprint(l, " ", id, ".y"), transposed(y, steps, ch), s.F32(id+".y"), 1e-5)
		golden.Near(t, fmt.Sprint(l, " ", id, ".last_state"), transposed(state, n, ch), s.F32(id+".last_state"), 1e-5)
		if want := s.F32(id + ".state_at_split"); want != nil {
			golden.Near(t, fmt.Sprint(l, " ", id, ".state_at_split"), transposed(middle, n, ch), want, 1e-5)
		}
	})
}

// TestGoldenScanStep decodes token by token. The file's initial states, .state,
// are least-squares solutions of its outputs and final states: the generator of
// the reference numbers had overwritten the original ones.
func TestGoldenScanStep(t *testing.T) {
	s := golden.Open(t, "scan_step", false)
	var cases map[string]sizes
	golden.JSON(t, "scan_step", &cases)
	for id, c := range cases {
		batch, ch, n, steps := c.int("batch"), c.int("D"), c.int("N"), c.int("steps")
		a := kernels.NewScanA(s.F32(id+".A"), ch, n, 1)
		x, dt, z, b, cc := s.F32(id+".x"), s.F32(id+".dt"), s.F32(id+".z"), s.F32(id+".B"), s.F32(id+".C")
		for _, l := range kernels.Levels() {
			state := transposed(s.F32(id+".state"), ch, n)
			y := make([]float32, len(x))
			for step := range steps * batch {
				o := kernels.ScanOptions{DeltaBias: s.F32(id + ".dt_bias"), Softplus: c.int("dt_softplus") != 0, D: s.F32(id + ".D")}
				if z != nil {
					o.Z = z[step*ch:]
				}
				kernels.Scan(l, y[step*ch:], part(state, step%batch, batch), x[step*ch:], dt[step*ch:], a, b[step*n:], cc[step*n:], kernels.ScanShape{L: 1, Ch: ch, N: n}, o)
			}
			golden.Near(t, fmt.Sprint(l, " ", id, ".y"), y, s.F32(id+".y"), 1e-5)
			golden.Near(t, fmt.Sprint(l, " ", id, ".final_state"), transposed(state, n, ch), s.F32(id+".final_state"), 1e-5)
		}
	}
}

func TestGoldenConv1D(t *testing.T) {
	goldenCases(t, "conv1d", "", func(t *testing.T, l kernels.Level, s golden.Set, id string, c sizes) {
		batch, ch, steps, width := c.int("batch"), c.int("D"), c.int("L"), c.int("width")
		act := kernels.Identity
		if c.int("silu") != 0 {
			act = kernels.SiLU
		}
		w := make([]float32, width*ch)
		kernels.PackConv1D(w, s.F32(id+".weight"), ch, width)
		x := transposed(s.F32(id+".x"), ch, steps)
		state := make([]float32, batch*(width-1)*ch)
		copy(state, transposed(s.F32(id+".initial_state"), ch, width-1))
		y := make([]float32, len(x))
		for i := range batch {
			kernels.Conv1D(l, part(y, i, batch), part(state, i, batch), part(x, i, batch), w, s.F32(id+".bias"), kernels.Conv1DShape{L: steps, Ch: ch, Width: width}, act)
		}
		golden.Near(t, fmt.Sprint(l, " ", id, ".y"), transposed(y, steps, ch), s.F32(id+".y"), 2e-6)
		golden.Near(t, fmt.Sprint(l, " ", id, ".final_state"), transposed(state, width-1, ch), s.F32(id+".final_state"), 0)
	})
}

// scanCase is a scan with its operands on guarded buffers.
type scanCase struct {
	shape      kernels.ScanShape
	options    kernels.ScanOptions
	u, delta   []float32
	matrix     []float32 // A
	a          *kernels.ScanA
	b, c       []float32 // as kernels takes them
	refB, refC []float32
	state, y   []float32
}

// newScan fills the operands of a shape. tokens is how many there are, at least as
// many as s.Order reaches. Options say by what they are not nil or false what is
// there.
func (e *testEnv) newScan(s kernels.ScanShape, tokens int, o kernels.ScanOptions, powers bool) *scanCase {
	d := s.Dense()
	span := func(ld, cols int) int {
		if tokens == 0 || cols == 0 {
			return 0
		}
		return (tokens-1)*ld + cols
	}
	k := &scanCase{shape: s, options: o}
	k.u, k.delta = e.random(span(d.LdU, s.Ch)), e.random(span(d.LdDelta, s.Ch))
	for i := range k.delta {
		if !o.Softplus {
			k.delta[i] = 0.2 * (k.delta[i] + 2)
		}
	}
	k.matrix = e.random(s.Ch * s.N)
	for i := range k.matrix {
		k.matrix[i] = -2 * (k.matrix[i] + 2)
		if powers {
			k.matrix[i] = -0.5 * float32(i%s.N+1) * float32(1+i/s.N%3)
		}
	}
	k.a = kernels.NewScanA(k.matrix, s.Ch, s.N, s.Groups)
	if k.a.Powers() != (powers && s.N > 1) {
		e.t.Fatalf("%+v: powers are %v", s, k.a.Powers())
	}
	guarded := func(constant bool, ld int) (packed, plain []float32) {
		if !constant {
			x := e.random(span(ld, d.Groups*s.N))
			return x, x
		}
		plain = e.random(s.Ch * s.N)
		packed = e.alloc(kernels.PackedScanLen(s.Ch, s.N, s.Groups))
		kernels.PackScan(packed, plain, s.Ch, s.N, s.Groups)
		return packed, plain
	}
	k.b, k.refB = guarded(s.ConstB, d.LdB)
	k.c, k.refC = guarded(s.ConstC, d.LdC)
	k.state, k.y = e.random(s.N*s.Ch), e.random(span(d.LdY, s.Ch))
	if o.DeltaBias != nil {
		k.options.DeltaBias = e.random(s.Ch)
		for i := range k.options.DeltaBias {
			if !o.Softplus {
				k.options.DeltaBias[i] = 0.1 * (k.options.DeltaBias[i] + 2)
			}
		}
	}
	if o.D != nil {
		k.options.D = e.random(s.Ch)
	}
	if o.Z != nil {
		k.options.Z = e.random(span(d.LdZ, s.Ch))
	}
	return k
}

// reference returns what ref makes of the case.
func (k *scanCase) reference() (y, state []float32) {
	y, state = copyOf(k.y), copyOf(k.state)
	ref.Scan(y, state, k.u, k.delta, k.matrix, k.refB, k.refC, k.shape, k.options)
	return y, state
}

func (k *scanCase) run(l kernels.Level, y, state []float32, s kernels.ScanShape) {
	kernels.Scan(l, y, state, k.u, k.delta, k.a, k.b, k.c, s, k.options)
}

var there = []float32{}

func TestScan(t *testing.T) {
	eachLevel(t, func(e *testEnv) {
		count := 0
		for _, ch := range []int{1, 7, 8, 15, 16, 17, 48} {
			for _, n := range []int{0, 1, 2, 3, 4, 7, 8, 9, 16, 17, 36, 64} {
				for _, steps := range []int{0, 1, 3, 130} {
					if steps == 130 && (ch == 48 || n > 17) {
						continue
					}
					count++
					s := kernels.ScanShape{L: steps, Ch: ch, N: n, ConstB: count%5 == 0, ConstC: count%7 == 0}
					if ch == 48 || ch == 8 {
						s.Groups = 1 + count%2
						if ch == 48 && count%3 == 0 {
							s.Groups = 2 // of 24 channels: panels of 16 and 8
						}
					}
					if count%2 == 0 {
						s.LdY, s.LdU, s.LdDelta, s.LdZ = ch+1, ch+2, ch, ch+5
						s.LdB, s.LdC = max(s.Groups, 1)*n+3, max(s.Groups, 1)*n
					}
					tokens := steps
					if count%3 == 0 { // backwards, every second token
						s.Order, tokens = make([]int32, steps), 2*steps
						for i := range s.Order {
							s.Order[i] = int32(2*(steps-1-i) + 1)
						}
					}
					o := kernels.ScanOptions{Softplus: count%2 == 1, Add: count%4 == 1, NoInputGate: count%3 == 1}
					if count%3 != 0 {
						o.D = there
					}
					if count%5 < 2 {
						o.Z = there
					}
					if count%4 < 2 {
						o.DeltaBias = there
					}
					k := e.newScan(s, tokens, o, count%4 < 2)
					wantY, wantState := k.reference()
					// In two shares of the channels.
					half := s.Panels() / 2
					for _, share := range [][2]int{{0, half}, {half, s.Panels()}} {
						if s.Panel0, s.Panel1 = share[0], share[1]; s.Panel1 > 0 {
							k.run(e.level, k.y, k.state, s)
						}
					}
					name := fmt.Sprintf("scan %+v %v powers=%v", s, o, k.a.Powers())
					e.scaled(name+" y", k.y, wantY, 1, 1e-5)
					e.scaled(name+" state", k.state, wantState, 1, 1e-5)
				}
			}
		}
	})
}

// TestScanOptions runs the number of states that has fused forms with all combinations
// of options.
func TestScanOptions(t *testing.T) {
	eachLevel(t, func(e *testEnv) {
		for bits := range 128 {
			has := func(i int) bool { return bits>>i&1 != 0 }
			o := kernels.ScanOptions{Softplus: has(0), Add: has(1), NoInputGate: has(2)}
			for i, operand := range []*[]float32{&o.DeltaBias, &o.D, &o.Z} {
				if has(3 + i) {
					*operand = there
				}
			}
			s := kernels.ScanShape{L: 6, Ch: 18, N: 16, LdY: 20, LdU: 19, LdDelta: 21, LdZ: 23, LdB: 40, LdC: 30, Order: make([]int32, 6)}
			kernels.ScanOrder(s.Order, 2, 3, kernels.ColumnBackward)
			k := e.newScan(s, 6, o, has(6))
			wantY, wantState := k.reference()
			k.run(e.level, k.y, k.state, s)
			name := fmt.Sprintf("scan %+v powers=%v", o, has(6))
			e.scaled(name+" y", k.y, wantY, 1, 1e-5)
			e.scaled(name+" state", k.state, wantState, 1, 1e-5)
		}
	})
}

// TestScanPieces compares one scan with the same in pieces, down to single tokens:
// every bit must agree.
func TestScanPieces(t *testing.T) {
	eachLevel(t, func(e *testEnv) {
		for _, n := range []int{1, 5, 16, 24} {
			for _, powers := range []bool{false, true} {
				const steps, ch = 150, 19
				k := e.newScan(kernels.ScanShape{L: steps, Ch: ch, N: n}, steps, kernels.ScanOptions{Softplus: true, D: there, Z: there}, powers)
				y, state := copyOf(k.y), copyOf(k.state)
				k.run(e.level, y, state, k.shape)
				for _, most := range []int{1, 64, 149} {
					py, ps := copyOf(k.y), copyOf(k.state)
					for at := 0; at < steps; at += most {
						s, o := k.shape, k.options
						s.L = min(most, steps-at)
						o.Z = o.Z[at*ch:]
						kernels.Scan(e.level, py[at*ch:], ps, k.u[at*ch:], k.delta[at*ch:], k.a, k.b[at*n:], k.c[at*n:], s, o)
					}
					name := fmt.Sprintf("n=%d powers=%v pieces of %d", n, powers, most)
					e.near(name+" y", py, y, 0)
					e.near(name+" state", ps, state, 0)
				}
			}
		}
	})
}

// TestScanInPlace lets y be each of the inputs that it may be.
func TestScanInPlace(t *testing.T) {
	eachLevel(t, func(e *testEnv) {
		for _, n := range []int{1, 4, 16, 20} {
			for _, gated := range []bool{false, true} {
				o := kernels.ScanOptions{D: there, Softplus: gated}
				if gated {
					o.Z = there
				}
				for _, input := range []string{"u", "delta", "z"} {
					s := kernels.ScanShape{L: 12, Ch: 21, N: n, Order: make([]int32, 12)}
					kernels.ScanOrder(s.Order, 3, 4, kernels.ColumnBackward)
					k := e.newScan(s, 12, o, false)
					want, _ := k.reference()
					y := map[string][]float32{"u": k.u, "delta": k.delta, "z": k.options.Z}[input]
					if y == nil {
						continue
					}
					k.run(e.level, y, k.state, s)
					e.scaled(fmt.Sprintf("n=%d y=%s", n, input), y, want, 1, 1e-5)
				}
			}
		}
	})
}

func TestScanOrder(t *testing.T) {
	for d, want := range map[kernels.ScanDirection]string{
		kernels.RowForward: "[0 1 2 3 4 5]", kernels.RowBackward: "[5 4 3 2 1 0]",
		kernels.ColumnForward: "[0 3 1 4 2 5]", kernels.ColumnBackward: "[5 2 4 1 3 0]",
	} {
		order := make([]int32, 6)
		if kernels.ScanOrder(order, 2, 3, d); fmt.Sprint(order) != want {
			t.Errorf("direction %d of 2 x 3 tokens: %v, want %s", d, order, want)
		}
	}
}

// TestScanDecays asserts the bounds that the documentation states for a decay, which
// is what a state of 1 becomes without input.
func TestScanDecays(t *testing.T) {
	const ch, n = 16, 36
	for _, l := range kernels.Levels() {
		for _, powers := range []bool{false, true} {
			matrix := make([]float32, ch*n)
			for i := range matrix {
				matrix[i] = -float32(i%n+1) * (1 + float32(i/n)/7)
			}
			a := kernels.NewScanA(matrix, ch, n, 1)
			if !a.Powers() {
				t.Fatal("no powers")
			}
			if !powers {
				a = a.General()
			}
			u, delta, y, bc := make([]float32, ch), make([]float32, ch), make([]float32, ch), make([]float32, n)
			worst := 0.0
			for step := 1; step < 4000; step++ {
				for i := range delta {
					delta[i] = float32(math.Exp2(float64(step)/160 - 20))
				}
				state := make([]float32, n*ch)
				for i := range state {
					state[i] = 1
				}
				kernels.Scan(l, y, state, u, delta, a, bc, bc, kernels.ScanShape{L: 1, Ch: ch, N: n}, kernels.ScanOptions{})
				for i, got := range state {
					x := float64(delta[i%ch]) * float64(matrix[i%ch*n+i/ch])
					want, bound := math.Exp(x), 1-x
					if powers {
						bound = float64(i/ch+1) - x
					}
					switch e := math.Abs(float64(got)/want-1) / (0x1p-22 * bound); {
					case want < 0x1p-125: // may count as 0, and underflows to it
						if !(got >= 0 && got < 0x1p-120) || want < 0x1p-151 && got != 0 {
							t.Fatalf("%v powers=%v: exp(%v) is %v", l, powers, x, got)
						}
					case e > 1:
						t.Fatalf("%v powers=%v: exp(%v) of state %d is %v, want %v: %.2f of the bound", l, powers, x, i/ch, got, want, e)
					default:
						worst = max(worst, e)
					}
				}
			}
			t.Logf("%v powers=%v: at most %.2f of the bound", l, powers, worst)
		}
	}
}

// TestScanLong compares 100,000 tokens in pieces, which need no more memory than one,
// with the definition. Decays near 1 make states that remember thousands of tokens.
func TestScanLong(t *testing.T) {
	steps := 100_000
	if testing.Short() {
		steps = 3_000
	}
	const ch, n, piece = 3, 4, 1000
	u, delta, bc, y := make([]float32, piece*ch), make([]float32, piece*ch), make([]float32, piece*n), make([]float32, piece*ch)
	for i := range u {
		u[i], delta[i] = float32(math.Sin(float64(i)))+0.5, 0.001*float32(2+math.Cos(float64(7*i)))
	}
	for i := range bc {
		bc[i] = float32(math.Cos(float64(3*i))) + 0.5
	}
	matrix := []float32{-1, -2, -3, -4, -0.1, -0.2, -0.3, -0.4, -0.1, -5, -0.3, -0.5}
	a := kernels.NewScanA(matrix, ch, n, 1)
	s := kernels.ScanShape{L: piece, Ch: ch, N: n}
	want, wantY := make([]float64, n*ch), 0.0
	for step := range steps {
		t := step % piece
		for c := range ch {
			wantY = 0
			for i := range n {
				dt := float64(delta[t*ch+c])
				h := &want[i*ch+c]
				*h = math.Exp(dt*float64(matrix[c*n+i]))**h + dt*float64(u[t*ch+c])*float64(bc[t*n+i])
				wantY += *h * float64(bc[t*n+i])
			}
		}
	}
	for _, l := range kernels.Levels() {
		state := make([]float32, n*ch)
		run := func() { kernels.Scan(l, y, state, u, delta, a, bc, bc, s, kernels.ScanOptions{}) }
		for range steps / piece {
			run()
		}
		for i, w := range want {
			if g := float64(state[i]); !(math.Abs(g-w) <= 3e-5*math.Abs(w)) {
				t.Errorf("%v: state %d of channel %d is %v, want %v", l, i/ch, i%ch, g, w)
			}
		}
		if g := float64(y[piece*ch-1]); !(math.Abs(g-wantY) <= 3e-5*math.Abs(wantY)) {
			t.Errorf("%v: the last y is %v, want %v", l, g, wantY)
		}
		if allocs := testing.AllocsPerRun(2, run); allocs != 0 {
			t.Errorf("%v: %v allocations", l, allocs)
		}
	}
}

// TestScanSpecialValues checks what is stated for NaN, for deltas out of all bounds
// and for growing states.
func TestScanSpecialValues(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	const steps, ch, n, at = 5, 18, 17, 2 // a NaN enters at token 2, channel 1
	eachLevel(t, func(e *testEnv) {
		for _, what := range []string{"u", "delta", "b", "c", "z", "state"} {
			for _, powers := range []bool{false, true} {
				k := e.newScan(kernels.ScanShape{L: steps, Ch: ch, N: n}, steps, kernels.ScanOptions{Softplus: true, Z: there}, powers)
				switch what {
				case "u":
					k.u[at*ch+1] = nan
				case "delta":
					k.delta[at*ch+1] = nan
				case "b":
					k.b[at*n] = nan
				case "c":
					k.c[at*n] = nan
				case "z":
					k.options.Z[at*ch+1] = nan
				case "state":
					k.state[1] = nan
				}
				wantY, wantState := k.reference()
				k.run(e.level, k.y, k.state, k.shape)
				for i, w := range wantY {
					if math.IsNaN(float64(w)) != math.IsNaN(float64(k.y[i])) {
						e.t.Fatalf("%v: NaN in %s: y of token %d, channel %d is %v, want %v", e.level, what, i/ch, i%ch, k.y[i], w)
					}
				}
				for i, w := range wantState {
					if math.IsNaN(float64(w)) != math.IsNaN(float64(k.state[i])) {
						e.t.Fatalf("%v: NaN in %s: state %d of channel %d is %v, want %v", e.level, what, i/ch, i%ch, k.state[i], w)
					}
				}
			}
		}
		for _, dt := range []float32{1e4, 1e20, math.MaxFloat32, inf} {
			for _, powers := range []bool{false, true} {
				k := e.newScan(kernels.ScanShape{L: 1, Ch: ch, N: n}, 1, kernels.ScanOptions{NoInputGate: true}, powers)
				for i := range k.delta {
					k.delta[i], k.u[i] = dt, 0
				}
				k.run(e.level, k.y, k.state, k.shape)
				for i, h := range k.state {
					if h != 0 && k.matrix[i%ch*n+i/ch] < -0.1 {
						e.t.Fatalf("%v: delta %v leaves state %v", e.level, dt, h)
					}
				}
			}
		}
		// Growth: negative deltas and positive A.
		k := e.newScan(kernels.ScanShape{L: 9, Ch: ch, N: n}, 9, kernels.ScanOptions{}, false)
		for i := range k.delta {
			k.delta[i] = -k.delta[i]
		}
		wantY, wantState := k.reference()
		k.run(e.level, k.y, k.state, k.shape)
		e.near("growing y", k.y, wantY, 5e-5)
		e.near("growing state", k.state, wantState, 5e-5)
		// Growth beyond the range of float32.
		for i := range k.delta {
			k.delta[i] = -1e3
		}
		k.run(e.level, k.y, k.state, k.shape)
		for i, h := range k.state {
			if a := math.Abs(float64(h)); a < 1e30 && k.matrix[i%ch*n+i/ch] < -0.2 {
				e.t.Fatalf("%v: growth beyond all bounds leaves state %v", e.level, h)
			}
		}
	})
}

func TestConv1D(t *testing.T) {
	eachLevel(t, func(e *testEnv) {
		count := 0
		for _, ch := range []int{1, 7, 8, 15, 16, 17, 40} {
			for _, width := range []int{2, 3, 4} {
				for _, steps := range []int{0, 1, 2, 5, 131} {
					count++
					s := kernels.Conv1DShape{L: steps, Ch: ch, Width: width}
					tokens, act := steps, []kernels.Activation{kernels.Identity, kernels.SiLU}[count%2]
					if count%3 == 0 {
						s.LdX, s.LdY = ch+3, ch+1
					}
					if count%4 == 0 {
						s.Order, tokens = make([]int32, steps), 2*steps
						for i := range s.Order {
							s.Order[i] = int32(2*(steps-1-i) + 1)
						}
					}
					d := s.Dense()
					span := func(ld int) int {
						if tokens == 0 {
							return 0
						}
						return (tokens-1)*ld + ch
					}
					x, w, state, y := e.random(span(d.LdX)), e.random(width*ch), e.random((width-1)*ch), e.random(span(d.LdY))
					var bias []float32
					if count%5 != 0 {
						bias = e.random(ch)
					}
					name := fmt.Sprintf("conv1d %+v %v", s, act)
					wantY, wantState, whole := copyOf(y), copyOf(state), copyOf(state)
					ref.Conv1D(wantY, wantState, x, w, bias, s, act)
					kernels.Conv1D(e.level, y, whole, x, w, bias, s, act)
					e.scaled(name+" y", y, wantY, 1, 2e-6)
					e.near(name+" state", whole, wantState, 0)
					if s.Order == nil && steps > 0 && d.LdX == d.LdY { // step by step, in place, the channels in two shares
						again := copyOf(x)
						half := ch / 2
						for step := range steps {
							p := s
							p.L = 1
							for _, share := range [][2]int{{0, half}, {half, ch}} {
								if p.Ch0, p.Ch1 = share[0], share[1]; p.Ch1 > 0 {
									kernels.Conv1D(e.level, again[step*d.LdX:], state, again[step*d.LdX:], w, bias, p, act)
								}
							}
						}
						e.near(name+" step by step", again, y, 0)
						e.near(name+" state step by step", state, whole, 0)
					}
				}
			}
		}
	})
}

// TestScanShapesAreChecked calls the operations with wrong shapes; each must panic
// with a message that names the operation, before it writes anything.
func TestScanShapesAreChecked(t *testing.T) {
	x := make([]float32, 64)
	a := kernels.NewScanA(x[:8], 4, 2, 1)
	s := kernels.ScanShape{L: 2, Ch: 4, N: 2}
	scan := func(f func(s *kernels.ScanShape, o *kernels.ScanOptions), y, state, u, b []float32) func() {
		return func() {
			s, o := s, kernels.ScanOptions{}
			if f != nil {
				f(&s, &o)
			}
			kernels.Scan(kernels.Auto, y, state, u, x, a, b, x, s, o)
		}
	}
	conv := func(f func(s *kernels.Conv1DShape), act kernels.Activation) func() {
		return func() {
			s := kernels.Conv1DShape{L: 2, Ch: 4, Width: 4}
			f(&s)
			kernels.Conv1D(kernels.Auto, x, x[:12], x, x[:16], nil, s, act)
		}
	}
	guard.Refused(t, x, map[string]func(){
		"NewScanA":       func() { kernels.NewScanA(x[:7], 4, 2, 1) },
		"PackedScanLen":  func() { kernels.PackedScanLen(5, 1, 2) },
		"PackScan: dst":  func() { kernels.PackScan(x[:31], x, 4, 2, 1) },
		"ScanOrder":      func() { kernels.ScanOrder(make([]int32, 5), 2, 3, kernels.RowForward) },
		"Scan: y has":    scan(nil, x[:7], x, x, x),
		"Scan: state":    scan(nil, x, x[:7], x, x),
		"Scan: u has":    scan(nil, x, x, x[:7], x),
		"Scan: b has":    scan(nil, x, x, x, x[:3]),
		"Scan: b (pack":  scan(func(s *kernels.ScanShape, o *kernels.ScanOptions) { s.ConstB = true }, x, x, x, x[:31]),
		"Scan: A was":    scan(func(s *kernels.ScanShape, o *kernels.ScanOptions) { s.N = 1 }, x, x, x, x),
		"Scan: panels":   scan(func(s *kernels.ScanShape, o *kernels.ScanOptions) { s.Panel1 = 2 }, x, x, x, x),
		"Scan: Order":    scan(func(s *kernels.ScanShape, o *kernels.ScanOptions) { s.Order = []int32{0, -1} }, x, x, x, x),
		"Scan: negative": scan(func(s *kernels.ScanShape, o *kernels.ScanOptions) { s.L = -1 }, x, x, x, x),
		"Scan: rows of":  scan(func(s *kernels.ScanShape, o *kernels.ScanOptions) { s.LdU = 3 }, x, x, x, x),
		"Scan: D has":    scan(func(s *kernels.ScanShape, o *kernels.ScanOptions) { o.D = x[:3] }, x, x, x, x),
		"Scan: z has":    scan(func(s *kernels.ScanShape, o *kernels.ScanOptions) { o.Z = x[:3] }, x, x, x, x),
		"Scan: DeltaB":   scan(func(s *kernels.ScanShape, o *kernels.ScanOptions) { o.DeltaBias = x[:3] }, x, x, x, x),
		"Scan: u has 64": scan(func(s *kernels.ScanShape, o *kernels.ScanOptions) { s.Order = []int32{0, 16} }, append(x, x...), x, x, x),
		"Conv1D: width":  conv(func(s *kernels.Conv1DShape) { s.Width = 5 }, kernels.SiLU),
		"Conv1D: activ":  conv(func(s *kernels.Conv1DShape) {}, kernels.GELU),
		"Conv1D: x has":  conv(func(s *kernels.Conv1DShape) { s.L = 17 }, kernels.SiLU),
		"Conv1D: state":  conv(func(s *kernels.Conv1DShape) { s.Ch = 5 }, kernels.SiLU),
		"Conv1D: chann":  conv(func(s *kernels.Conv1DShape) { s.Ch1 = 5 }, kernels.SiLU),
		"Conv1D: rows":   conv(func(s *kernels.Conv1DShape) { s.LdY = 3 }, kernels.SiLU),
	})
}

func TestScanAllocatesNothing(t *testing.T) {
	const steps, ch, n = 70, 33, 20
	x, y, state := make([]float32, steps*ch), make([]float32, steps*ch), make([]float32, n*ch)
	order := make([]int32, steps)
	a := kernels.NewScanA(make([]float32, n*ch), ch, n, 1)
	for _, l := range kernels.Levels() {
		if allocs := testing.AllocsPerRun(10, func() {
			kernels.ScanOrder(order, 7, 10, kernels.ColumnForward)
			kernels.Scan(l, y, state, x, x, a, x, x, kernels.ScanShape{L: steps, Ch: ch, N: n, Order: order}, kernels.ScanOptions{DeltaBias: x, Softplus: true, D: x, Z: x})
			kernels.Conv1D(l, y, state, x, x, x, kernels.Conv1DShape{L: steps, Ch: ch, Width: 4, Order: order}, kernels.SiLU)
		}); allocs != 0 {
			t.Errorf("%v: %v allocations", l, allocs)
		}
	}
}
