package bench_test

import (
	"fmt"
	"testing"

	"github.com/mila-go/mila/kernels"
)

// BenchmarkScan runs the selective scan, with softplus, D and the gate, in decays
// (one a token, channel and state) a second.
func BenchmarkScan(b *testing.B) {
	for _, ch := range []int{384, 768, 1536} {
		for _, steps := range []int{196, 1024, 3136} {
			for _, n := range []int{16, 1} {
				u, delta, z, y := values(steps*ch), values(steps*ch), values(steps*ch), make([]float32, steps*ch)
				bc, bias, d, state := values(steps*2*n), values(ch), values(ch), make([]float32, n*ch)
				m := make([]float32, ch*n)
				for i := range m {
					m[i] = -float32(i%n + 1)
				}
				a := kernels.NewScanA(m, ch, n, 1)
				for i := range delta {
					delta[i] = delta[i]*4 - 5 // softplus gives 0.002 to 0.1
				}
				s := kernels.ScanShape{L: steps, Ch: ch, N: n, LdB: 2 * n, LdC: 2 * n}
				for _, l := range kernels.Levels() {
					for name, a := range map[string]*kernels.ScanA{"general": a.General(), "powers": a} {
						if n == 1 && name == "powers" || l == kernels.Generic && (ch > 384 || steps > 196) {
							continue
						}
						b.Run(fmt.Sprintf("isa=%v/ch=%d/tokens=%d/states=%d/op=%s", l, ch, steps, n, name), func(b *testing.B) {
							for b.Loop() {
								kernels.Scan(l, y, state, u, delta, a, bc, bc[n:], s, kernels.ScanOptions{DeltaBias: bias, Softplus: true, D: d, Z: z})
							}
							b.ReportMetric(float64(steps*ch*n)*float64(b.N)/b.Elapsed().Seconds()/1e9, "Gdecays/s")
						})
					}
				}
			}
		}
	}
}
