package bench_test

import (
	"fmt"
	"testing"

	"github.com/klauspost/cpuid/v2"
	"github.com/mila-go/mila/kernels"
)

// pipes is how many operations of the pipes that multiply a decay takes, which bounds
// the scan: without and with the shortcut of powers. Intel's cores have two that do all
// arithmetic on 512 bits.
func pipes(l kernels.Level) (general, powers float64) {
	switch {
	case l == kernels.AVX512 && cpuid.CPU.VendorID == cpuid.Intel:
		return 12, 4.7
	case l == kernels.AVX512:
		return 9, 4.4
	}
	return 10, 4.9
}

// BenchmarkScan runs the selective scan in decays (one a token, channel and state)
// a second: alone, and with the softplus of delta, D and the gate. The share of the
// bound leaves out what these take.
func BenchmarkScan(b *testing.B) {
	for _, ch := range []int{32, 384, 1536} {
		for _, steps := range []int{196, 1024, 3136} {
			for _, n := range []int{16, 1} {
				u, delta, z, y := values(steps*ch), values(steps*ch), values(steps*ch), make([]float32, steps*ch)
				bc, bias, d, state := values(steps*2*n), values(ch), values(ch), make([]float32, n*ch)
				m := make([]float32, ch*n)
				for i := range m {
					m[i] = -float32(i%n + 1)
				}
				for i := range delta {
					delta[i] = 0.05 * (1 + delta[i])
				}
				a := kernels.NewScanA(m, ch, n, 1)
				s := kernels.ScanShape{L: steps, Ch: ch, N: n, LdB: 2 * n, LdC: 2 * n}
				fused := kernels.ScanOptions{DeltaBias: bias, Softplus: true, D: d, Z: z}
				for _, l := range kernels.Levels() {
					if l == kernels.Generic && (ch > 384 || steps > 196) {
						continue
					}
					run := func(op string, a *kernels.ScanA, o kernels.ScanOptions) {
						b.Run(fmt.Sprintf("isa=%v/ch=%d/tokens=%d/states=%d/op=%s", l, ch, steps, n, op), func(b *testing.B) {
							seconds, peak := turns(b, l, func() { kernels.Scan(l, y, state, u, delta, a, bc, bc[n:], s, o) })
							speed := float64(steps*ch*n) / seconds / 1e9
							b.ReportMetric(speed, "Gdecays/s")
							if operations, powers := pipes(l); l != kernels.Generic {
								if a.Powers() {
									operations = powers
								}
								b.ReportMetric(100*speed*operations/(peak/2), "%bound")
							}
						})
					}
					run("general", a.General(), kernels.ScanOptions{})
					run("general_fused", a.General(), fused)
					if a.Powers() {
						run("powers", a, kernels.ScanOptions{})
						run("powers_fused", a, fused)
					}
				}
			}
		}
	}
}

// BenchmarkConv1D runs the causal convolution with SiLU, in bytes read and written.
func BenchmarkConv1D(b *testing.B) {
	for _, ch := range []int{384, 768, 1536} {
		for _, steps := range []int{196, 3136} {
			x, y, w, bias, state := values(steps*ch), make([]float32, steps*ch), values(4*ch), values(ch), make([]float32, 3*ch)
			for _, l := range kernels.Levels() {
				b.Run(fmt.Sprintf("isa=%v/ch=%d/tokens=%d", l, ch, steps), func(b *testing.B) {
					b.SetBytes(int64(8 * len(x)))
					for b.Loop() {
						kernels.Conv1D(l, y, state, x, w, bias, kernels.Conv1DShape{L: steps, Ch: ch, Width: 4}, kernels.SiLU)
					}
				})
			}
		}
	}
}
