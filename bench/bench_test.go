package bench_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/mila-go/mila/bench"
	milablas "github.com/mila-go/mila/blas"
	"github.com/mila-go/mila/block"
	"github.com/mila-go/mila/internal/hugepage"
	"github.com/mila-go/mila/kernels"
	"github.com/mila-go/mila/models"
	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/gonum"
)

// stage is the shape of one stage of MILA-T at 224 x 224.
type stage struct{ side, dim, heads int }

var stages = []stage{{56, 64, 2}, {28, 128, 4}, {14, 256, 8}, {7, 512, 16}}

// values returns n values in pages as a model's.
func values(n int) []float32 {
	x := hugepage.Floats(n)
	block.Generate(x, "bench", 1, 0.5, 0.5)
	return x
}

// measure runs f at every level of the machine and reports the arithmetic speed
// and its share of the peak at that level.
func measure(b *testing.B, name string, macs int, f func(l kernels.Level)) {
	for _, l := range kernels.Levels() {
		b.Run(fmt.Sprintf("isa=%v/%s", l, name), func(b *testing.B) { report(b, l, macs, func() { f(l) }) })
	}
}

// report runs f, which does so many multiply-adds.
func report(b *testing.B, l kernels.Level, macs int, f func()) {
	seconds, peak := turns(b, l, f)
	speed := 2 * float64(macs) / seconds / 1e9
	b.ReportMetric(speed, "GFLOP/s")
	b.ReportMetric(100*speed/peak, "%peak")
}

// turns runs the loop of a benchmark and measures the peak every other millisecond,
// since clocks and neighbours change a core's speed within a run. It returns the median
// time of a call, and the median peak in GFLOP/s.
func turns(b *testing.B, l kernels.Level, f func()) (seconds, peak float64) {
	f()
	var calls, peaks []float64
	start, n := time.Now(), 0
	turn := func() {
		calls = append(calls, time.Since(start).Seconds()/float64(n))
		peaks = append(peaks, bench.PeakTurn(l, 1))
	}
	for b.Loop() {
		f()
		n++
		if time.Since(start) < time.Millisecond {
			continue
		}
		b.StopTimer()
		turn()
		b.StartTimer()
		start, n = time.Now(), 0
	}
	if n > 0 {
		turn()
	}
	return bench.Median(calls), bench.Median(peaks)
}

// BenchmarkGemm runs the products of a MILA-T block at every stage.
func BenchmarkGemm(b *testing.B) {
	for i, s := range stages {
		m := s.side * s.side
		for _, op := range []struct {
			name string
			n, k int
			act  kernels.Activation
		}{{"in_proj", s.dim, s.dim, kernels.Identity}, {"act_proj", s.dim, s.dim, kernels.SiLU}, {"qk", 2 * s.dim, s.dim, kernels.ELU1},
			{"fc1", 4 * s.dim, s.dim, kernels.GELU}, {"fc1_bare", 4 * s.dim, s.dim, kernels.Identity}, {"fc2", s.dim, 4 * s.dim, kernels.Identity}} {
			const pad = 16 // see kernels/README.md on rows a power of two apart
			x, w, bias, y := values(m*(op.k+pad)), values(op.n*op.k), values(op.n), values(m*op.n)
			packed := map[kernels.Level][]float32{}
			for _, l := range kernels.Levels() {
				packed[l] = hugepage.Floats(kernels.PackedLen(l, op.n, op.k))
				kernels.Pack(l, packed[l], w, op.k, op.n, op.k)
			}
			measure(b, fmt.Sprintf("stage=%d/op=%s", i+1, op.name), m*op.n*op.k, func(l kernels.Level) {
				kernels.Gemm(l, y, op.n, x, op.k+pad, packed[l], m, op.n, op.k, kernels.Epilogue{Bias: bias, Act: op.act})
			})
		}
	}
}

// BenchmarkSgemm runs the same products without a bias as gonum's Sgemm, whose
// weights are not packed beforehand, on package blas and on gonum itself. Gonum's
// takes as many threads as it gets: add -cpu 1.
func BenchmarkSgemm(b *testing.B) {
	for _, of := range []struct {
		name string
		blas.Float32Level3
	}{{"mila", milablas.Implementation{Threads: 1}}, {"gonum", gonum.Implementation{}}} {
		for i, s := range stages {
			m := s.side * s.side
			for _, op := range []struct {
				name string
				n, k int
			}{{"in_proj", s.dim, s.dim}, {"fc1_bare", 4 * s.dim, s.dim}, {"fc2", s.dim, 4 * s.dim}} {
				x, w, y := values(m*op.k), values(op.n*op.k), make([]float32, m*op.n)
				b.Run(fmt.Sprintf("of=%s/stage=%d/op=%s", of.name, i+1, op.name), func(b *testing.B) {
					report(b, kernels.Auto, m*op.n*op.k, func() {
						of.Sgemm(blas.NoTrans, blas.Trans, m, op.n, op.k, 1, x, op.k, w, op.k, 0, y, op.n)
					})
				})
			}
		}
	}
}

// BenchmarkConv2D runs the dense 3x3 convolutions of MILA-T's stem.
func BenchmarkConv2D(b *testing.B) {
	for _, c := range []struct {
		name              string
		out, ci, co, step int
	}{{"conv1", 112, 3, 32, 2}, {"conv2", 112, 32, 32, 1}, {"conv3", 56, 32, 256, 2}} {
		in := (c.out-1)*c.step + 3
		x, w, bias, y := values(in*in*c.ci), values(c.co*c.ci*9), values(c.co), make([]float32, c.out*c.out*c.co)
		packed := map[kernels.Level][]float32{}
		for _, l := range kernels.Levels() {
			packed[l] = make([]float32, kernels.PackedLen(l, c.co, 9*c.ci))
			kernels.PackConv(l, packed[l], w, c.co, c.ci, 3, 3)
		}
		s := kernels.ConvShape{OutH: c.out, OutW: c.out, Cin: c.ci, Cout: c.co, KH: 3, KW: 3, Stride: c.step, RowX: in * c.ci, RowY: c.out * c.co}
		measure(b, "op="+c.name, c.out*c.out*c.co*c.ci*9, func(l kernels.Level) {
			kernels.Conv2D(l, y, x, packed[l], s, kernels.Epilogue{Bias: bias, Act: kernels.ReLU})
		})
	}
}

// BenchmarkDWConv3x3 runs the depthwise forms at every stage; all nine taps
// count, those in the padding too.
func BenchmarkDWConv3x3(b *testing.B) {
	for i, s := range stages {
		n := s.side * s.side * s.dim
		x, w9, bias, add, mul, y := values(n), values(9*s.dim), values(s.dim), values(n), values(n), make([]float32, n)
		for name, f := range map[string]func(l kernels.Level){
			"plain": func(l kernels.Level) {
				kernels.DWConv3x3(l, y, x, w9, bias, kernels.DWShape{H: s.side, W: s.side, Ch: s.dim, Stride: 1, Row0: 0, Row1: s.side}, kernels.Identity)
			},
			"silu": func(l kernels.Level) {
				kernels.DWConv3x3(l, y, x, w9, bias, kernels.DWShape{H: s.side, W: s.side, Ch: s.dim, Stride: 1, Row0: 0, Row1: s.side}, kernels.SiLU)
			},
			"residual": func(l kernels.Level) {
				kernels.DWConv3x3Residual(l, y, x, w9, bias, kernels.DWShape{H: s.side, W: s.side, Ch: s.dim, Stride: 1, Row0: 0, Row1: s.side})
			},
			"add_mul": func(l kernels.Level) {
				kernels.DWConv3x3AddMul(l, y, x, w9, bias, add, mul, kernels.DWShape{H: s.side, W: s.side, Ch: s.dim, Stride: 1, Row0: 0, Row1: s.side})
			},
		} {
			measure(b, fmt.Sprintf("stage=%d/op=%s", i+1, name), 9*n, f)
		}
	}
}

// BenchmarkLinAttn runs the key-value state and the readout, with RoPE, at every
// stage; the two products count.
func BenchmarkLinAttn(b *testing.B) {
	for i, s := range stages {
		n, d := s.side*s.side, s.dim/s.heads
		qk, v, y := values(n*2*s.dim), values(n*s.dim), make([]float32, n*s.dim)
		kv, ksum, rope := make([]float32, s.dim*d), make([]float32, s.dim), make([]float32, kernels.RoPE2DLen(s.side, s.side, s.dim))
		kernels.RoPE2DTable(rope, s.side, s.side, s.dim, 10000)
		shape := kernels.LinAttnShape{H: s.side, W: s.side, Heads: s.heads, Dim: d, T1: n}
		measure(b, fmt.Sprintf("stage=%d", i+1), 2*n*s.dim*d, func(l kernels.Level) {
			clear(kv)
			clear(ksum)
			kernels.LinAttnKV(l, kv, ksum, qk[s.dim:], 2*s.dim, v, s.dim, rope, shape)
			kernels.LinAttnReadout(l, y, s.dim, qk, 2*s.dim, kv, ksum, rope, shape, 1e-3)
		})
	}
}

// BenchmarkLayerNorm runs LayerNorm at every stage, in bytes read and written.
func BenchmarkLayerNorm(b *testing.B) {
	for i, s := range stages {
		rows := s.side * s.side
		x, y := values(rows*s.dim), make([]float32, rows*s.dim)
		for _, l := range kernels.Levels() {
			b.Run(fmt.Sprintf("isa=%v/stage=%d", l, i+1), func(b *testing.B) {
				b.SetBytes(int64(8 * len(x)))
				for b.Loop() {
					kernels.LayerNorm(l, y, s.dim, x, s.dim, rows, s.dim, nil, nil, 1e-5)
				}
			})
		}
	}
}

// BenchmarkModel runs whole forward passes on one thread, with generated weights
// but for nano.
func BenchmarkModel(b *testing.B) {
	run := func(name string, m *block.Model) {
		cfg := m.Config()
		p, err := m.Plan(1, cfg.ImgSize, cfg.ImgSize)
		if err != nil {
			b.Fatal(err)
		}
		x, out := values(cfg.InChans*cfg.ImgSize*cfg.ImgSize), &block.Output{Logits: make([]float32, cfg.NumClasses)}
		b.Run(fmt.Sprintf("isa=%v/model=%s", m.Level(), name), func(b *testing.B) {
			report(b, m.Level(), int(cfg.MACs(cfg.ImgSize, cfg.ImgSize)), func() {
				if err := p.Forward(context.Background(), out, x); err != nil {
					b.Fatal(err)
				}
			})
		})
	}
	for _, l := range kernels.Levels() {
		nano, err := models.Open("nano", models.Options{Level: l, Threads: 1})
		if err != nil {
			b.Fatal(err)
		}
		run("nano", nano.Model)
		for name, cfg := range map[string]block.Config{"t": block.Tiny(), "s": block.Small(), "b": block.Base()} {
			if l == kernels.Generic && name != "t" {
				continue // seconds a pass
			}
			m, err := block.New(cfg, block.Synthetic(cfg, 1), block.WithLevel(l), block.WithThreads(1))
			if err != nil {
				b.Fatal(err)
			}
			run(name, m)
		}
	}
}
