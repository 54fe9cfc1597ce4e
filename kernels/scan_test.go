package kernels_test

import (
	"fmt"
	"math"
	"testing"

	"github.com/mila-go/mila/internal/golden"
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

var _ = math.Abs
var _ = ref.Scan
