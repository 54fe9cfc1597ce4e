package block

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// pool runs the tasks of one step after another on a fixed set of workers. The
// caller is worker 0; the others spin briefly between steps, since a step often
// lasts only tens of microseconds and waking a parked goroutine costs about as
// much, and park when nothing comes.
//
// Tasks are assigned by a static partition and write disjoint outputs, so
// results do not depend on the number of workers or on timing.
type pool struct {
	n      int
	busy   sync.Mutex // held by the one Forward that uses the workers
	gen    atomic.Uint32
	left   atomic.Int32
	closed atomic.Bool
	run    func(task, worker int)
	tasks  int
	helper []parking
}

type parking struct {
	parked atomic.Bool
	wake   chan struct{}
	_      [48]byte // keeps the flags of two workers on different cache lines
}

func newPool(n int) *pool {
	p := &pool{n: n, helper: make([]parking, n)}
	for w := 1; w < n; w++ {
		p.helper[w].wake = make(chan struct{}, 1)
		go p.work(w)
	}
	return p
}

// close ends the workers. Nothing may be running.
func (p *pool) close() {
	if !p.closed.Swap(true) {
		p.start()
	}
}

func (p *pool) start() {
	p.gen.Add(1)
	for w := 1; w < p.n; w++ {
		if h := &p.helper[w]; h.parked.CompareAndSwap(true, false) {
			h.wake <- struct{}{}
		}
	}
}

// spins is how often a waiting worker yields before it parks: some 50 µs.
const spins = 500

func (p *pool) work(w int) {
	h := &p.helper[w]
	seen := uint32(0)
	for {
		for i := 0; p.gen.Load() == seen; i++ {
			if i < spins {
				runtime.Gosched()
				continue
			}
			h.parked.Store(true)
			// A step may have begun before the flag was seen: then either this
			// side or start takes the flag back, never both.
			if p.gen.Load() == seen || !h.parked.CompareAndSwap(true, false) {
				<-h.wake
			}
		}
		seen++
		if p.closed.Load() {
			return
		}
		p.share(w)
		p.left.Add(-1)
	}
}

// share runs worker w's part of the step.
func (p *pool) share(w int) {
	for t := p.tasks * w / p.n; t < p.tasks*(w+1)/p.n; t++ {
		p.run(t, w)
	}
}

// do runs run(task, worker) for every task and returns when all are done. With
// owned false, because another Forward holds the workers, the caller does
// everything itself.
func (p *pool) do(owned bool, tasks int, run func(task, worker int)) {
	if !owned || p.n == 1 || tasks <= 1 {
		for t := range tasks {
			run(t, 0)
		}
		return
	}
	p.run, p.tasks = run, tasks
	p.left.Store(int32(p.n - 1))
	p.start()
	p.share(0)
	for p.left.Load() != 0 {
		runtime.Gosched()
	}
	p.run = nil // a parked pool must not keep a model alive
}
