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
	const rounds, ops = 7, 12 << 18
	best := 0.0
	for range rounds {
		var wg sync.WaitGroup
		start := time.Now()
		for range threads {
			wg.Go(func() { scalarFMA(ops / 12) })
		}
		wg.Wait()
		best = max(best, 2*ops*float64(threads)/time.Since(start).Seconds()/1e9)
	}
	return best
}

// sink keeps the compiler from dropping the loop.
var sink [64]float32

// scalarFMA does 12 n independent multiply-adds: as many chains as hide the
// latency of a multiplication and an addition and still fit amd64's registers.
//
//go:noinline
func scalarFMA(n int) {
	x, y := sink[0]*0+0.5, sink[1]*0+0.25
	a, b, c, d, e, f := x, x, x, x, x, x
	g, h, i, j, k, l := y, y, y, y, y, y
	for range n {
		a = a*x + y
		b = b*x + y
		c = c*x + y
		d = d*x + y
		e = e*x + y
		f = f*x + y
		g = g*x + y
		h = h*x + y
		i = i*x + y
		j = j*x + y
		k = k*x + y
		l = l*x + y
	}
	if a+b+c+d+e+f+g+h+i+j+k+l == -1 {
		sink[2] = a
	}
}
