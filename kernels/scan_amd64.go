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
// outer loop, so that their rows stay in the caches for all channels; the vectors
// of channels prepared once for all states are on the stack.
func scanVector(l Level, y, state, u, delta []float32, a *ScanA, b, c []float32, s ScanShape, o ScanOptions) {
	const panel = ref.ScanLanes
	var work [3 * amd64.ScanTokens * panel]float32
	vector, most := panel, amd64.ScanStatesAVX512
	if l == AVX2 {
		vector, most = 8, amd64.ScanStatesAVX2
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
	softplus, add := flag(o.Softplus), flag(o.Add)
	for step := 0; step < s.L; step += amd64.ScanTokens {
		tokens, token, order := min(amd64.ScanTokens, s.L-step), step, &inOrder[0]
		if s.Order != nil {
			token, order = 0, &s.Order[step]
		}
		for p := s.Panel0; p < s.Panel1; p++ {
			c0, channels, group := s.Panel(p)
			for i := 0; i < channels; i += vector {
				ch, lanes := c0+i, min(vector, channels-i)
				scanIn(l, &work[0], &delta[token*s.LdDelta+ch], s.LdDelta, &u[token*s.LdU+ch], s.LdU, orNil(o.DeltaBias, ch), orNil(o.D, ch), order, tokens, lanes, softplus)
				first := p*s.N*panel + i // of the panel's parameters
				for n := 0; n < s.N; {
					form, states := general, 1
					switch {
					case s.N-n >= most && general == amd64.ScanGeneral:
						states = most
					case s.N-n >= 4:
						states = 4
					}
					if a.powers && general == amd64.ScanGeneral && states > 1 {
						if form = amd64.ScanPowers; n > 0 {
							form = amd64.ScanOn
						}
					}
					row := first + n*panel
					at, from := row, row
					if !s.ConstB {
						at = token*s.LdB + group*s.N + n
					}
					if !s.ConstC {
						from = token*s.LdC + group*s.N + n
					}
					scanStates(l, &state[n*s.Ch+ch], s.Ch, &a.panels[row], &a.panels[first], &b[at], s.LdB, &c[from], s.LdC, &work[0], order, tokens, lanes, states, form)
					n += states
				}
				scanOut(l, &y[token*s.LdY+ch], s.LdY, orNil(o.Z, token*s.LdZ+ch), s.LdZ, &work[0], order, tokens, lanes, add)
			}
		}
	}
}

func scanIn(l Level, work, delta *float32, lddelta int, u *float32, ldu int, bias, d *float32, order *int32, tokens, lanes, softplus int) {
	if l == AVX512 {
		amd64.ScanInAVX512(work, delta, lddelta, u, ldu, bias, d, order, tokens, lanes, softplus)
	} else {
		amd64.ScanInAVX2(work, delta, lddelta, u, ldu, bias, d, order, tokens, lanes, softplus)
	}
}

func scanStates(l Level, state *float32, ld int, a, a0, b *float32, ldb int, c *float32, ldc int, work *float32, order *int32, tokens, lanes, states, form int) {
	if l == AVX512 {
		amd64.ScanAVX512(state, ld, a, a0, b, ldb, c, ldc, work, order, tokens, lanes, states, form)
	} else {
		amd64.ScanAVX2(state, ld, a, a0, b, ldb, c, ldc, work, order, tokens, lanes, states, form)
	}
}

func scanOut(l Level, y *float32, ldy int, z *float32, ldz int, work *float32, order *int32, tokens, lanes, add int) {
	if l == AVX512 {
		amd64.ScanOutAVX512(y, ldy, z, ldz, work, order, tokens, lanes, add)
	} else {
		amd64.ScanOutAVX2(y, ldy, z, ldz, work, order, tokens, lanes, add)
	}
}
