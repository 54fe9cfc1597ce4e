package bench_test

import (
	"fmt"
	"testing"

	"github.com/mila-go/mila/kernels"
)

// BenchmarkRecurrence runs linear attention's recurrences, eight heads of 64
// channels, token by token and in chunks. The share of the peak counts the
// multiply-adds that a form executes: masked halves of panels are left out, and so is
// what is not a product of matrices.
func BenchmarkRecurrence(b *testing.B) {
	const heads, d = 8, 64
	for _, steps := range []int{1, 2, 4, 8, 16, 64, 1024} {
		n := steps * heads * d
		q, k, v, o := values(n), values(n), values(n), make([]float32, n)
		state := make([]float32, heads*d*d)
		gates, keyGates, beta := values(steps*heads), values(n), values(steps*heads)
		for _, x := range [][]float32{gates, keyGates} {
			for i := range x {
				x[i] = -x[i] * x[i] / 8
			}
		}
		for i := range k {
			k[i] /= d
		}
		shape := kernels.RecurrenceShape{L: steps, Heads: heads, KeyDim: d, Dim: d, Scale: 0.125}
		work := make([]float32, kernels.ChunkedLen(d, d))
		for _, kind := range []struct {
			name string
			opt  kernels.RecurrenceOptions
		}{{"causal", kernels.RecurrenceOptions{}}, {"normalised", kernels.RecurrenceOptions{Sum: make([]float32, heads*d), Eps: 1}}, {"gated", kernels.RecurrenceOptions{HeadGate: gates}},
			{"gla", kernels.RecurrenceOptions{KeyGate: keyGates}}, {"delta", kernels.RecurrenceOptions{Beta: beta}}, {"gdelta", kernels.RecurrenceOptions{HeadGate: gates, Beta: beta}}} {
			outer := 2
			if kind.opt.Beta != nil {
				outer = 3
			}
			measure(b, fmt.Sprintf("form=recurrent/kind=%s/L=%d", kind.name, steps), heads*steps*outer*d*d, func(l kernels.Level) {
				kernels.Recurrent(l, o, state, q, k, v, shape, kind.opt)
			})
			macs, chunk := 0, 32 // tokens, as Chunked takes them
			if kind.opt.KeyGate != nil {
				chunk = 64
			}
			for t := 0; t < steps; t += chunk {
				n := min(chunk, steps-t)
				half := 0 // pairs of tokens in panels of 32
				for j := 0; j < n; j += 32 {
					half += min(n, j+32) * min(32, n-j)
				}
				macs += 2*half*d + 2*n*d*d
				if kind.opt.Beta != nil {
					macs += half*d + n*(n-1)/2*d + n*d*d
				}
			}
			measure(b, fmt.Sprintf("form=chunked/kind=%s/L=%d", kind.name, steps), heads*macs, func(l kernels.Level) {
				kernels.Chunked(l, o, state, q, k, v, shape, kind.opt, work)
			})
		}
	}
}
