package bench

import (
	"slices"
	"sync"
	"time"

	"github.com/mila-go/mila/kernels"
)

// PeakTurn measures how many 10^9 multiply-add operations, counted as two each,
// `threads` threads do in a second at level l with operands in registers: the speed
// that nothing at this level can exceed. It takes some 100 µs, so that it can take
// turns with what is measured: clocks depend on what all cores do, and a processor
// that runs a model may run slower than one that has just begun.
//
// See [kernels.MultiplyAdds] for what counts at level generic.
func PeakTurn(l kernels.Level, threads int) float64 {
	const n = 1 << 14 // short calls: assembly cannot be preempted
	speeds := make([]float64, threads)
	var wg sync.WaitGroup
	for i := range speeds {
		wg.Go(func() {
			kernels.MultiplyAdds(l, n) // the first finds the units asleep
			start := time.Now()
			done := kernels.MultiplyAdds(l, n) + kernels.MultiplyAdds(l, n)
			speeds[i] = 2 * float64(done) / time.Since(start).Seconds() / 1e9
		})
	}
	wg.Wait()
	sum := 0.0
	for _, s := range speeds {
		sum += s
	}
	return sum
}

// Median returns the median of x.
func Median(x []float64) float64 {
	x = slices.Sorted(slices.Values(x))
	return (x[(len(x)-1)/2] + x[len(x)/2]) / 2
}
