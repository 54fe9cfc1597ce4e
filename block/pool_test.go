package block

import (
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"testing"
	"time"
)

// TestPool runs steps of few and many tasks, quick and slow ones, with and without
// pauses in which workers park: every task must run once, within its step, by a
// worker that runs no other at that time.
func TestPool(t *testing.T) {
	for _, n := range []int{1, 2, 3, 8} {
		p := newPool(n)
		rng := rand.New(rand.NewPCG(1, uint64(n)))
		busy := make([]atomic.Bool, n)
		for step := range 3000 {
			tasks := rng.IntN(3 * n)
			ran := make([]atomic.Int32, tasks)
			slow := rng.IntN(8) == 0
			var left atomic.Int32
			left.Store(int32(tasks))
			p.do(true, tasks, func(task, worker int) {
				if busy[worker].Swap(true) {
					t.Errorf("%d threads, step %d: worker %d runs two tasks at a time", n, step, worker)
				}
				if slow && task == tasks/2 {
					runtime.Gosched()
				}
				ran[task].Add(1)
				left.Add(-1)
				busy[worker].Store(false)
			})
			if left.Load() != 0 {
				t.Fatalf("%d threads, step %d: %d of %d tasks are left", n, step, left.Load(), tasks)
			}
			for task := range ran {
				if c := ran[task].Load(); c != 1 {
					t.Fatalf("%d threads, step %d: task %d ran %d times", n, step, task, c)
				}
			}
			if step%500 == 0 {
				time.Sleep(2 * time.Millisecond)
			}
		}
		p.close()
	}
}
