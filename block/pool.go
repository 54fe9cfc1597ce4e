package block

import (
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/mila-go/mila/internal/spin"
)

// pool runs the tasks of one step after another on a fixed set of workers. The
// caller is worker 0; the others look for the next step for a while, since a step
// often lasts only tens of microseconds and waking a parked goroutine costs about
// as much, and park when nothing comes.
//
// Each worker begins with its own share of the tasks, the same one in every step
// of as many tasks, so that it finds its data in its caches, and then helps those
// that are behind: threads may be of different speed, or held up. Tasks write
// disjoint outputs, so results do not depend on who runs them.
type pool struct {
	n      int
	busy   sync.Mutex // held by the one Forward that uses the workers
	closed atomic.Bool
	helper []helper // by worker; that of the caller has no goroutine

	// What workers look at between steps shares no cache line with what they
	// write. run and tasks are set before gen.
	_     [line]byte
	gen   atomic.Uint32
	tasks int
	run   func(task, worker int)
	_     [line]byte
}

// line is what processors fetch at a time: two cache lines of 64 bytes, or one of
// 128.
const line = 128

// helper is the state of one worker.
type helper struct {
	// share is how many tasks of the worker's share are taken, below the step that
	// they belong to: gen<<32 | taken.
	share  atomic.Uint64
	done   atomic.Uint32 // the last step that the worker has finished
	parked atomic.Bool
	wake   chan struct{}
	_      [line - 24]byte
}

func newPool(n int) *pool {
	p := &pool{n: n, helper: make([]helper, n)}
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
		if h := &p.helper[w]; h.parked.Load() && h.parked.CompareAndSwap(true, false) {
			h.wake <- struct{}{}
		}
	}
}

// A waiting thread looks looks times before it lets other goroutines run, and a
// worker does so spins times before it parks: some 100 µs in all. Yielding at every
// look would make the threads contend for the scheduler's locks.
const looks, spins = 30, 100

func pause(look int) {
	if look%looks == 0 {
		runtime.Gosched()
	} else {
		spin.Pause()
	}
}

func (p *pool) work(w int) {
	h := &p.helper[w]
	seen := uint32(0)
	for {
		for i := 1; p.gen.Load() == seen; i++ {
			if i < looks*spins {
				pause(i)
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
		p.share(w, seen)
		h.done.Store(seen)
	}
}

// share runs tasks of step gen: those of worker w, then those that others have
// not begun.
func (p *pool) share(w int, gen uint32) {
	for i := range p.n {
		of := (w + i) % p.n
		first, end := p.tasks*of/p.n, p.tasks*(of+1)/p.n
		for {
			taken := p.helper[of].take(gen, end-first)
			if taken < 0 {
				break
			}
			p.run(first+taken, w)
		}
	}
}

// take returns the next of n tasks in h's share of step gen, or -1.
func (h *helper) take(gen uint32, n int) int {
	for {
		old := h.share.Load()
		taken := int(uint32(old))
		if uint32(old>>32) != gen {
			taken = 0
		}
		if taken == n {
			return -1
		}
		if h.share.CompareAndSwap(old, uint64(gen)<<32|uint64(taken+1)) {
			return taken
		}
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
	p.start()
	gen := p.gen.Load()
	p.share(0, gen)
	for w := 1; w < p.n; w++ {
		for i := 1; p.helper[w].done.Load() != gen; i++ {
			pause(i)
		}
	}
	p.run = nil // a parked pool must not keep a model alive
}
