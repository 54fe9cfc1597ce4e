package bench

import (
	"sync"
	"time"

	"github.com/mila-go/mila/kernels"
)

// PeakGFLOPS measures how many 10^9 multiply-add operations, counted as two
// each, `threads` threads do in a second at level l with operands in registers:
// the speed that nothing at this level can exceed. The best of several rounds
// of a few milliseconds counts.
//
// See [kernels.MultiplyAdds] for what counts at level generic.
func PeakGFLOPS(l kernels.Level, threads int) float64 {
	const rounds, n = 9, 1 << 17
	best := 0.0
	done := make([]int, threads)
	for range rounds {
		var wg sync.WaitGroup
		start := time.Now()
		for i := range threads {
			wg.Go(func() {
				done[i] = 0
				for range 8 { // short calls: assembly cannot be preempted
					done[i] += kernels.MultiplyAdds(l, n)
				}
			})
		}
		wg.Wait()
		seconds := time.Since(start).Seconds()
		total := 0
		for _, d := range done {
			total += d
		}
		best = max(best, 2*float64(total)/seconds/1e9)
	}
	return best
}
