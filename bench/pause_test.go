package bench_test

import (
	"context"
	"runtime"
	"runtime/metrics"
	"testing"

	"github.com/mila-go/mila/block"
)

// BenchmarkPause runs garbage collections while a forward pass of MILA-T runs, and
// reports how long they stopped the program: a goroutine inside assembly cannot be
// preempted, so the longest call bounds the time until all have stopped.
func BenchmarkPause(b *testing.B) {
	cfg := block.Tiny()
	m, err := block.New(cfg, block.Synthetic(cfg, 1), block.WithThreads(1))
	if err != nil {
		b.Fatal(err)
	}
	p, err := m.Plan(1, cfg.ImgSize, cfg.ImgSize)
	if err != nil {
		b.Fatal(err)
	}
	stop, done := make(chan struct{}), make(chan error)
	go func() {
		x, out := values(cfg.InChans*cfg.ImgSize*cfg.ImgSize), &block.Output{Logits: make([]float32, cfg.NumClasses)}
		for {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			if err := p.Forward(context.Background(), out, x); err != nil {
				done <- err
				return
			}
		}
	}()
	before := pauses()
	for b.Loop() {
		runtime.GC()
	}
	after := pauses()
	close(stop)
	if err := <-done; err != nil {
		b.Fatal(err)
	}
	total := uint64(0)
	for i := range after.Counts {
		after.Counts[i] -= before.Counts[i]
		total += after.Counts[i]
	}
	// quantile returns the upper edge of the bucket that holds it.
	quantile := func(q float64) float64 {
		seen := uint64(0)
		for i, n := range after.Counts {
			if seen += n; float64(seen) >= q*float64(total) {
				return 1e6 * after.Buckets[i+1]
			}
		}
		return 0
	}
	b.ReportMetric(quantile(0.5), "µs-median")
	b.ReportMetric(quantile(0.99), "µs-p99")
}

// pauses returns a copy of the histogram of stops for garbage collection.
func pauses() metrics.Float64Histogram {
	s := []metrics.Sample{{Name: "/sched/pauses/stopping/gc:seconds"}}
	metrics.Read(s)
	h := s[0].Value.Float64Histogram()
	return metrics.Float64Histogram{Counts: append([]uint64(nil), h.Counts...), Buckets: h.Buckets}
}
