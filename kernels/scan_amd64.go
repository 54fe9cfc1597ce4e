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

// orNil returns the address of x[i], or nil for a slice that is not there.
func orNil(x []float32, i int) *float32 {
	if x == nil {
		return nil
	}
	return &x[i]
}

func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}

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
	call := amd64.ScanCall{LdDelta: size * s.LdDelta, LdStep: size * s.LdDelta, LdU: size * s.LdU, LdState: size * s.Ch,
		LdB: size * s.LdB, LdC: size * s.LdC, LdSum: size * s.LdY, LdY: size * s.LdY, LdZ: size * s.LdZ,
		Softplus: flag(o.Softplus), Add: flag(o.Add)}
	for step := 0; step < s.L; step += amd64.ScanTokens {
		token := step
		call.Tokens, call.Order = min(amd64.ScanTokens, s.L-step), &inOrder[0]
		if s.Order != nil {
			token, call.Order = 0, &s.Order[step]
		}
		for p := s.Panel0; p < s.Panel1; p++ {
			c0, channels, group := s.Panel(p)
			for i := 0; i < channels; i += vector {
				ch, first := c0+i, p*s.N*panel+i // of the panel's parameters
				call.Lanes = min(vector, channels-i)
				call.Delta, call.U = &delta[token*s.LdDelta+ch], &u[token*s.LdU+ch]
				call.Y = &y[token*s.LdY+ch]
				call.Step, call.StepOrder = call.Delta, call.Order
				if in {
					call.Bias, call.Work = orNil(o.DeltaBias, ch), &steps[0]
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
					call.Z, call.Work = orNil(o.Z, token*s.LdZ+ch), &sums[0]
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
	case n >= most && form == amd64.ScanGeneral:
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
