//go:build !purego

package kernels

import (
	"github.com/mila-go/mila/kernels/arm64"
	"github.com/mila-go/mila/kernels/ref"
)

// consecutive is the order of a block of consecutive tokens.
var consecutive = func() (order [arm64.ScanTokens]int32) {
	for i := range order {
		order[i] = int32(i)
	}
	return order
}()

// noBias is the bias of a delta without, and of a gate.
var noBias [ref.ScanLanes]float32

// scanRows are dense rows of a panel's channels.
type scanRows [arm64.ScanTokens * ref.ScanLanes]float32

// block returns the tokens of a block of steps, counted from the token first.
func block(order []int32, step, steps int) (tokens []int32, first int) {
	n := min(arm64.ScanTokens, steps-step)
	if order == nil {
		return consecutive[:n], step
	}
	return order[step : step+n], 0
}

// panelRows are where the assembly finds the rows of a panel, at the tokens of order.
type panelRows struct {
	x     *float32
	ld    int
	order *int32
}

// panelOf returns the rows of a panel of x at tokens. Assembly has no masks, so a panel
// that is not full is copied to dense first.
func panelOf(x []float32, ld, c0, channels int, tokens []int32, dense *scanRows) panelRows {
	if channels == ref.ScanLanes {
		return panelRows{&x[c0], ld, &tokens[0]}
	}
	for i, t := range tokens {
		copy(dense[i*ref.ScanLanes:(i+1)*ref.ScanLanes], x[int(t)*ld+c0:int(t)*ld+c0+channels])
	}
	return panelRows{&dense[0], ref.ScanLanes, &consecutive[0]}
}

// panelVector returns the address of a panel's elements of x, or nil for a slice that
// is not there.
func panelVector(x []float32, c0, channels int, dense *[ref.ScanLanes]float32) *float32 {
	switch {
	case x == nil:
		return nil
	case channels == ref.ScanLanes:
		return &x[c0]
	}
	copy(dense[:], x[c0:c0+channels])
	return &dense[0]
}

// scanVector is generic.Scan at level NEON. Blocks of tokens are the outer loop, so
// that their rows stay in the caches for all channels.
func scanVector(l Level, y, state, u, delta []float32, a *ScanA, b, c []float32, s ScanShape, o ScanOptions) {
	const panel, size = ref.ScanLanes, 4
	var steps, powers, inputs, sums, dense scanRows
	var states [16 * panel]float32
	var bias, direct [panel]float32
	general := arm64.ScanGeneral
	switch {
	case s.ConstB && s.ConstC:
		general = arm64.ScanBC
	case s.ConstB:
		general = arm64.ScanB
	case s.ConstC:
		general = arm64.ScanC
	case o.Softplus && !a.grows:
		general = arm64.ScanFalling
	}
	call := arm64.ScanCall{Powers: &powers[0], Inputs: &inputs[0], Sums: &sums[0]}
	if !s.ConstB {
		call.LdB = size * s.LdB
	}
	if !s.ConstC {
		call.LdC = size * s.LdC
	}
	for step := 0; step < s.L; step += arm64.ScanTokens {
		tokens, first := block(s.Order, step, s.L)
		n := len(tokens)
		call.Tokens, call.Order = n, &tokens[0]
		for p := s.Panel0; p < s.Panel1; p++ {
			c0, channels, group := s.Panel(p)
			from := panelOf(delta[first*s.LdDelta:], s.LdDelta, c0, channels, tokens, &dense)
			shift := panelVector(o.DeltaBias, c0, channels, &bias)
			if shift == nil {
				shift = &noBias[0]
			}
			arm64.ScanInNEON(&steps[0], from.x, from.ld, shift, from.order, n)
			if o.Softplus {
				arm64.SoftplusNEON(&steps[0], &steps[0], n*panel)
			}
			from = panelOf(u[first*s.LdU:], s.LdU, c0, channels, tokens, &dense)
			arm64.ScanInputNEON(&inputs[0], &sums[0], &steps[0], from.x, from.ld, panelVector(o.D, c0, channels, &direct), from.order, n, flag(o.NoInputGate))

			call.Vectors = (channels + 3) / 4
			for i := 0; i < s.N; i += call.States {
				call.States, call.Form = scanPart(i, s.N, general, a.powers)
				row := (p*s.N + i) * panel
				call.A, call.Steps = &a.panels[row], &steps[0]
				if call.Form == arm64.ScanPowers {
					call.Steps = &powers[0]
				} else if call.Form == arm64.ScanOn {
					call.Steps = &dense[0]
				}
				if call.Steps != &steps[0] {
					arm64.ScanDecayNEON(call.Steps, &steps[0], call.A, n)
				}
				call.B = scanRow(b, s.ConstB, row, first*s.LdB+group*s.N+i)
				call.C = scanRow(c, s.ConstC, row, first*s.LdC+group*s.N+i)
				if channels == panel {
					call.State, call.LdState = &state[i*s.Ch+c0], size*s.Ch
					arm64.ScanNEON(&call)
					continue
				}
				for k := range call.States {
					copy(states[k*panel:], state[(i+k)*s.Ch+c0:][:channels])
				}
				call.State, call.LdState = &states[0], size*panel
				arm64.ScanNEON(&call)
				for k := range call.States {
					copy(state[(i+k)*s.Ch+c0:][:channels], states[k*panel:])
				}
			}

			var gate *float32
			if o.Z != nil {
				from = panelOf(o.Z[first*s.LdZ:], s.LdZ, c0, channels, tokens, &dense)
				gate = &inputs[0]
				arm64.ScanInNEON(gate, from.x, from.ld, &noBias[0], from.order, n)
				arm64.SiluNEON(gate, gate, n*panel)
			}
			out := y[first*s.LdY:]
			to := panelOf(out, s.LdY, c0, channels, tokens, &dense)
			arm64.ScanOutNEON(to.x, to.ld, &sums[0], gate, to.order, n, flag(o.Add))
			if channels < panel {
				for i, t := range tokens {
					copy(out[int(t)*s.LdY+c0:][:channels], dense[i*panel:])
				}
			}
		}
	}
}

// scanPart returns how many of n states, from state i on, the next pass over the tokens
// takes, and in which form.
func scanPart(i, n, general int, powers bool) (states, form int) {
	plain := general == arm64.ScanGeneral || general == arm64.ScanFalling
	if powers && plain && n-i >= 4 {
		if states = 4; n-i >= 16 {
			states = 16
		}
		if i > 0 {
			return states, arm64.ScanOn
		}
		return states, arm64.ScanPowers
	}
	if plain && n-i >= 8 {
		return 8, general
	}
	if general == arm64.ScanFalling {
		general = arm64.ScanGeneral
	}
	if n-i >= 4 {
		return 4, general
	}
	return 1, general
}

// scanRow returns the address of the row of a panel, or of an element of a token.
func scanRow(x []float32, panels bool, row, element int) *float32 {
	if panels {
		return &x[row]
	}
	return &x[element]
}

// conv1dVector is generic.Conv1D at level NEON. The last channels, which do not fill a
// vector, go through copies.
func conv1dVector(l Level, y, state, x, w, bias []float32, s Conv1DShape, act Activation) {
	const lanes = 4
	silu := flag(act == SiLU)
	for step := 0; step < s.L; step += arm64.ScanTokens {
		tokens, first := block(s.Order, step, s.L)
		from, to := x[first*s.LdX:], y[first*s.LdY:]
		full := s.Ch0 + (s.Ch1-s.Ch0)/lanes*lanes
		for c := s.Ch0; c < full; c += lanes {
			arm64.Conv1DNEON(&to[c], s.LdY, &from[c], s.LdX, &tokens[0], len(tokens), silu, &state[c], s.Ch, &w[c], s.Ch, orNil(bias, c), s.Width)
		}
		if full == s.Ch1 {
			continue
		}
		var rows [arm64.ScanTokens * lanes]float32
		var before, taps [4 * lanes]float32
		var shift [lanes]float32
		for i, t := range tokens {
			copy(rows[i*lanes:], from[int(t)*s.LdX+full:int(t)*s.LdX+s.Ch1])
		}
		for j := range s.Width {
			copy(taps[j*lanes:], w[j*s.Ch+full:j*s.Ch+s.Ch1])
		}
		for j := range s.Width - 1 {
			copy(before[j*lanes:], state[j*s.Ch+full:j*s.Ch+s.Ch1])
		}
		if bias != nil {
			copy(shift[:], bias[full:s.Ch1])
		}
		arm64.Conv1DNEON(&rows[0], lanes, &rows[0], lanes, &consecutive[0], len(tokens), silu, &before[0], lanes, &taps[0], lanes, &shift[0], s.Width)
		for i, t := range tokens {
			copy(to[int(t)*s.LdY+full:int(t)*s.LdY+s.Ch1], rows[i*lanes:])
		}
		for j := range s.Width - 1 {
			copy(state[j*s.Ch+full:j*s.Ch+s.Ch1], before[j*lanes:])
		}
	}
}

func scaleRowsCall(l Level, y *float32, ldy int, x *float32, ldx, rows, cols int, s *float32) {
	arm64.ScaleRowsNEON(y, ldy, x, ldx, rows, cols, s)
}

func transposeSquares(dst *float32, ldd int, src *float32, lds, rows, cols int) {
	arm64.TransposeNEON(dst, ldd, src, lds, rows, cols)
}
