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
// that are behind: threads may be of different speed, or held up. A step is over
// when its tasks are done, whoever did them: a worker that has not even noticed it
// holds nobody up. Tasks write disjoint outputs, so results do not depend on who
// runs them.
type pool struct {
	n      int
	busy   sync.Mutex // held by the one Forward that uses the workers
	closed atomic.Bool
	run    func(task, worker int) // set before step, read by who has taken a task

	// What all wait for, on cache lines that nothing else is written to.
	_    [line]byte
	step atomic.Uint64 // number<<32 | tasks
	_    [line - 8]byte
	done atomic.Int32 // tasks of the step that are done
	_    [line - 4]byte

	helper []helper // by worker; that of the caller has no goroutine
}

// line is what processors fetch at a time: two cache lines of 64 bytes, or one of
// 128.
const line = 128

// helper is the state of one worker.
type helper struct {
	// share is how many tasks of the worker's share are taken, below the number of
	// the step that they belong to: number<<32 | taken.
	share  atomic.Uint64
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
		p.start(0)
	}
}

// start begins a step.
func (p *pool) start(tasks int) (step uint64) {
	step = (p.step.Load()>>32+1)<<32 | uint64(tasks)
	p.step.Store(step)
	for w := 1; w < p.n; w++ {
		if h := &p.helper[w]; h.parked.Load() && h.parked.CompareAndSwap(true, false) {
			h.wake <- struct{}{}
		}
	}
	return step
}

// A waiting thread looks looks times, some 30 to 90 µs, before it lets other
// goroutines run, and a worker does so spins times before it parks. Who yields takes
// the scheduler's lock, for which many threads would queue up while the next step
// waits for them.
const looks, spins = 2000, 4

func pause(look int) {
	if look%looks == 0 {
		runtime.Gosched()
	} else {
		spin.Pause()
	}
}

func (p *pool) work(w int) {
	h := &p.helper[w]
	seen := uint64(0)
	for {
		step := p.step.Load()
		for i := 1; step == seen; i++ {
			if i < looks*spins {
				pause(i)
			} else {
				h.parked.Store(true)
				// A step may have begun before the flag was seen: then either this
				// side or start takes the flag back, never both.
				if p.step.Load() == seen || !h.parked.CompareAndSwap(true, false) {
					<-h.wake
				}
			}
			step = p.step.Load()
		}
		seen = step
		if p.closed.Load() {
			return
		}
		p.share(w, step)
	}
}

// share runs tasks of a step: those of worker w, then those that others have not
// begun, unless the step is over meanwhile.
func (p *pool) share(w int, step uint64) {
	number, tasks := uint32(step>>32), int(uint32(step))
	for i := range p.n {
		of := (w + i) % p.n
		first, end := tasks*of/p.n, tasks*(of+1)/p.n
		did := int32(0)
		for {
			taken := p.helper[of].take(number, end-first)
			if taken < 0 {
				break
			}
			p.run(first+taken, w)
			did++
		}
		if did > 0 {
			p.done.Add(did)
		}
		if p.step.Load() != step {
			return
		}
	}
}

// take returns the next of n tasks in h's share of a step, or -1. Of a step that is
// over there is none: its tasks are taken, or h has gone on to a later one.
func (h *helper) take(number uint32, n int) int {
	for {
		old := h.share.Load()
		taken := int(uint32(old))
		if of := uint32(old >> 32); of != number {
			if int32(of-number) > 0 {
				return -1
			}
			taken = 0
		}
		if taken == n {
			return -1
		}
		if h.share.CompareAndSwap(old, uint64(number)<<32|uint64(taken+1)) {
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
	p.run = run
	p.done.Store(0)
	p.share(0, p.start(tasks))
	for i := 1; p.done.Load() != int32(tasks); i++ {
		pause(i)
	}
	p.run = nil // a parked pool must not keep a model alive
}
