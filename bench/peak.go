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
// At level generic an operation is one scalar float32 multiplication and one
// addition, as Go compiles them.
func PeakGFLOPS(l kernels.Level, threads int) float64 {
	const rounds, ops = 7, 1 << 21
	best := 0.0
	for range rounds {
		var wg sync.WaitGroup
		start := time.Now()
		for range threads {
			wg.Go(func() { scalarFMA(ops / 8) })
		}
		wg.Wait()
		best = max(best, 2*ops*float64(threads)/time.Since(start).Seconds()/1e9)
	}
	return best
}

// sink keeps the compiler from dropping the loop.
var sink [64]float32

// scalarFMA does 8 n independent multiply-adds.
//
//go:noinline
func scalarFMA(n int) {
	a, b, c, d, e, f, g, h := float32(1), float32(2), float32(3), float32(4), float32(5), float32(6), float32(7), float32(8)
	x, y := sink[0]*0+0.5, sink[1]*0+0.25
	for range n {
		a = a*x + y
		b = b*x + y
		c = c*x + y
		d = d*x + y
		e = e*x + y
		f = f*x + y
		g = g*x + y
		h = h*x + y
	}
	if a+b+c+d+e+f+g+h == -1 {
		sink[2] = a
	}
}
