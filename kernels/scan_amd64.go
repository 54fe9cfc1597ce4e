//go:build !purego

package kernels

import (
	"github.com/mila-go/mila/kernels/amd64"
	"github.com/mila-go/mila/kernels/ref"
)

// inOrder is the order of a block of consecutive tokens.
var inOrder = func() (order [amd64.ScanTokens]int32) {
	for i := range order {
		order[i] = int32(i)
	}
	return order
}()

// noBias is the bias of a delta without.
var noBias [ref.ScanLanes]float32

// scanVector is generic.Scan at level AVX2 or AVX512. Blocks of tokens are the
// outer loop, so that their rows stay in the caches for all channels. A softplus,
// a gate and the sums of more states than the registers hold take a detour through
// vectors on the stack.
func scanVector(l Level, y, state, u, delta []float32, a *ScanA, b, c []float32, s ScanShape, o ScanOptions) {
	const panel, size = ref.ScanLanes, 4
	var steps, sums [amd64.ScanTokens * panel]float32
	vector, most := panel, 16
	if l == AVX2 {
		vector, most = 8, 8
	}
	general := amd64.ScanGeneral
	switch {
	case s.ConstB && s.ConstC:
		general = amd64.ScanBC
	case s.ConstB:
		general = amd64.ScanB
	case s.ConstC:
		general = amd64.ScanC
	}
	in := o.Softplus || o.DeltaBias != nil
	out := o.Z != nil || s.N != scanPart(s.N, most, general)
	if l == AVX512 && o.Softplus && o.Z != nil && s.N == most && general == amd64.ScanGeneral && !a.powers {
		general, in, out = amd64.ScanGated, false, false
	}
	call := amd64.ScanCall{LdDelta: size * s.LdDelta, LdStep: size * s.LdDelta, LdU: size * s.LdU, LdState: size * s.Ch,
		LdB: size * s.LdB, LdC: size * s.LdC, LdSum: size * s.LdY, LdY: size * s.LdY, LdZ: size * s.LdZ,
		Softplus: flag(o.Softplus), Add: flag(o.Add), Plain: flag(o.NoInputGate)}
	blocks := (s.L + amd64.ScanTokens - 1) / amd64.ScanTokens
	for block := range blocks {
		step := block * s.L / blocks
		token := step
		call.Tokens, call.Order = (block+1)*s.L/blocks-step, &inOrder[0]
		if s.Order != nil {
			token, call.Order = 0, &s.Order[step]
		}
		for p := s.Panel0; p < s.Panel1; p++ {
			c0, channels, group := s.Panel(p)
			for i := 0; i < channels; i += vector {
				ch, first := c0+i, p*s.N*panel+i // of the panel's parameters
				call.Lanes = min(vector, channels-i)
				call.Delta, call.U = &delta[token*s.LdDelta+ch], &u[token*s.LdU+ch]
				call.Y, call.Z = &y[token*s.LdY+ch], orNil(o.Z, token*s.LdZ+ch)
				call.Step, call.StepOrder = call.Delta, call.Order
				if call.Bias = &noBias[0]; o.DeltaBias != nil {
					call.Bias = &o.DeltaBias[ch]
				}
				if in {
					call.Work = &steps[0]
					if l == AVX512 {
						amd64.ScanInAVX512(&call)
					} else {
						amd64.ScanInAVX2(&call)
					}
					call.Step, call.LdStep, call.StepOrder = &steps[0], size*vector, &inOrder[0]
				}
				call.Sum, call.SumOrder, call.Onto = call.Y, call.Order, call.Add
				if out {
					call.Sum, call.LdSum, call.SumOrder, call.Onto = &sums[0], size*vector, &inOrder[0], 0
				}
				call.D, call.A0 = orNil(o.D, ch), &a.panels[first]
				for n := 0; n < s.N; n += call.States {
					call.States, call.Form = scanPart(s.N-n, most, general), general
					if a.powers && general == amd64.ScanGeneral && call.States > 1 {
						if call.Form = amd64.ScanPowers; n > 0 {
							call.Form = amd64.ScanOn
						}
					}
					row := first + n*panel
					call.State, call.A = &state[n*s.Ch+ch], &a.panels[row]
					call.B = scanRow(b, s.ConstB, row, token*s.LdB+group*s.N+n)
					call.C = scanRow(c, s.ConstC, row, token*s.LdC+group*s.N+n)
					if l == AVX512 {
						amd64.ScanAVX512(&call)
					} else {
						amd64.ScanAVX2(&call)
					}
					call.D, call.Onto = nil, 1
				}
				if out {
					call.Work = &sums[0]
					if l == AVX512 {
						amd64.ScanOutAVX512(&call)
					} else {
						amd64.ScanOutAVX2(&call)
					}
				}
			}
		}
	}
}

// scanPart returns how many of n states the next pass over the tokens takes.
func scanPart(n, most, form int) int {
	switch {
	case n >= most && (form == amd64.ScanGeneral || form == amd64.ScanGated):
		return most
	case n >= 4:
		return 4
	}
	return 1
}

// scanRow returns the address of the row of a panel, or of an element of a token.
func scanRow(x []float32, panels bool, row, element int) *float32 {
	if panels {
		return &x[row]
	}
	return &x[element]
}

// conv1dVector is generic.Conv1D at level AVX2 or AVX512.
func conv1dVector(l Level, y, state, x, w, bias []float32, s Conv1DShape, act Activation) {
	vector, silu := ref.ScanLanes, flag(act == SiLU)
	if l == AVX2 {
		vector = 8
	}
	for step := 0; step < s.L; step += amd64.ScanTokens {
		tokens, token, order := min(amd64.ScanTokens, s.L-step), step, &inOrder[0]
		if s.Order != nil {
			token, order = 0, &s.Order[step]
		}
		for c := s.Ch0; c < s.Ch1; c += vector {
			lanes := min(vector, s.Ch1-c)
			if l == AVX512 {
				amd64.Conv1DAVX512(&y[token*s.LdY+c], s.LdY, &x[token*s.LdX+c], s.LdX, &state[c], s.Ch, &w[c], s.Ch, orNil(bias, c), order, tokens, s.Width, lanes, silu)
			} else {
				amd64.Conv1DAVX2(&y[token*s.LdY+c], s.LdY, &x[token*s.LdX+c], s.LdX, &state[c], s.Ch, &w[c], s.Ch, orNil(bias, c), order, tokens, s.Width, lanes, silu)
			}
		}
	}
}
