package blas

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/mila-go/mila/block"
	"github.com/mila-go/mila/internal/golden"
	"github.com/mila-go/mila/kernels"
	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/blas32"
	"gonum.org/v1/gonum/blas/gonum"
)

func values(n int, seed uint64) []float32 {
	x := make([]float32, n)
	block.Generate(x, "blas", seed, 0, 1)
	return x
}

// matrix returns a rows x cols matrix with NaN between its rows.
func matrix(t blas.Transpose, rows, cols, gap int, seed uint64) (x []float32, ld int) {
	if t != blas.NoTrans {
		rows, cols = cols, rows
	}
	ld = max(1, cols+gap)
	x = values(rows*ld, seed)
	for i := range x {
		if i%ld >= cols {
			x[i] = float32(math.NaN())
		}
	}
	return x, ld
}

func everywhere(t *testing.T, f func(t *testing.T, g Implementation)) {
	for _, l := range kernels.Levels() {
		for _, threads := range []int{1, 3} {
			t.Run(fmt.Sprintf("%v/threads=%d", l, threads), func(t *testing.T) { f(t, Implementation{Level: l, Threads: threads}) })
		}
	}
}

var transposes = []blas.Transpose{blas.NoTrans, blas.Trans, blas.ConjTrans}

// TestSgemm compares with gonum's own, on either side of every block's and panel's edge.
func TestSgemm(t *testing.T) {
	sizes := [][3]int{{1, 1, 1}, {3, 40, 50}, {2, 40, 50}, {4, 16, 64}, {20, 7, 60}, {20, 8, 60}, {5, 17, 63}, {14, 32, 33}, {15, 31, 100}, {64, 64, 64}, {5, 20, 1024},
		{130, 65, 20}, {127, 257, 15}, {20, 30, 513}, {150, 100, 100}, {1024, 4, 8}, {0, 5, 5}, {5, 0, 5}, {5, 5, 0}}
	everywhere(t, func(t *testing.T, g Implementation) {
		for i, s := range sizes {
			m, n, k := s[0], s[1], s[2]
			for _, tA := range transposes {
				for _, tB := range transposes {
					for j, alpha := range []float32{1, 0, -0.5} {
						gap := (i + j) % 3
						a, lda := matrix(tA, m, k, gap, 1)
						b, ldb := matrix(tB, k, n, 2*gap, 2)
						for _, beta := range []float32{0, 1, -0.5} {
							got, ldc := matrix(blas.NoTrans, m, n, 3*gap, 3)
							if beta == 0 {
								fill(got, float32(math.NaN())) // must not be read
							}
							want := slices.Clone(got)
							gonum.Implementation{}.Sgemm(tA, tB, m, n, k, alpha, a, lda, b, ldb, beta, want, ldc)
							g.Sgemm(tA, tB, m, n, k, alpha, a, lda, b, ldb, beta, got, ldc)
							for i := range got { // what lies between rows must still be NaN
								if i%ldc >= n && math.IsNaN(float64(got[i])) {
									got[i], want[i] = 0, 0
								}
							}
							golden.Near(t, fmt.Sprintf("%v %c%c alpha %v beta %v", s, tA, tB, alpha, beta), got, want, 1e-5)
						}
					}
				}
			}
		}
	})
}

func fill(x []float32, v float32) {
	for i := range x {
		x[i] = v
	}
}

// TestThreads asserts that results do not depend on the number of threads.
func TestThreads(t *testing.T) {
	for _, s := range [][3]int{{300, 200, 300}, {200, 300, 300}, {40, 500, 600}} {
		m, n, k := s[0], s[1], s[2]
		a, b, want := values(m*k, 1), values(k*n, 2), make([]float32, m*n)
		Implementation{Threads: 1}.Sgemm(blas.NoTrans, blas.NoTrans, m, n, k, 1, a, k, b, n, 0, want, n)
		for threads := 2; threads < 9; threads++ {
			got := make([]float32, m*n)
			Implementation{Threads: threads}.Sgemm(blas.NoTrans, blas.NoTrans, m, n, k, 1, a, k, b, n, 0, got, n)
			if !slices.Equal(got, want) {
				t.Errorf("%v: %d threads give another result", s, threads)
			}
		}
	}
}

// TestSpecialValues asserts that NaN and infinities spread over their row and
// column and no further, and that alpha = 0 keeps them out.
func TestSpecialValues(t *testing.T) {
	everywhere(t, func(t *testing.T, g Implementation) {
		if g.Level == kernels.Generic {
			return // gonum skips zeros
		}
		const m, n, k = 20, 40, 30
		for _, special := range []float64{math.NaN(), math.Inf(1)} {
			a, b, c := values(m*k, 1), values(k*n, 2), values(m*n, 3)
			a[3*k+4], b[5*n+6] = float32(special), float32(special)
			before := slices.Clone(c)
			g.Sgemm(blas.NoTrans, blas.NoTrans, m, n, k, 0, a, k, b, n, 1, c, n)
			if !slices.Equal(c, before) {
				t.Error("alpha = 0, beta = 1 changed C")
			}
			g.Sgemm(blas.NoTrans, blas.NoTrans, m, n, k, 1, a, k, b, n, 1, c, n)
			for i, v := range c {
				finite := !math.IsNaN(float64(v)) && !math.IsInf(float64(v), 0)
				if want := i/n != 3 && i%n != 6; finite != want {
					t.Fatalf("%v: element (%d, %d) is %v", special, i/n, i%n, v)
				}
			}
		}
	})
}

// TestPanics asserts gonum's messages.
func TestPanics(t *testing.T) {
	message := func(f func()) (r any) {
		defer func() { r = recover() }()
		f()
		return nil
	}
	x := make([]float32, 100)
	for _, c := range []struct {
		tA, tB        blas.Transpose
		m, n, k       int
		la, lb, lc    int
		lda, ldb, ldc int
	}{
		{'x', blas.NoTrans, 10, 10, 10, 100, 100, 100, 10, 10, 10},
		{blas.NoTrans, 'x', 10, 10, 10, 100, 100, 100, 10, 10, 10},
		{blas.NoTrans, blas.NoTrans, -1, 10, 10, 100, 100, 100, 10, 10, 10},
		{blas.NoTrans, blas.NoTrans, 10, -1, 10, 100, 100, 100, 10, 10, 10},
		{blas.NoTrans, blas.NoTrans, 10, 10, -1, 100, 100, 100, 10, 10, 10},
		{blas.NoTrans, blas.NoTrans, 10, 10, 10, 100, 100, 100, 9, 10, 10},
		{blas.Trans, blas.Trans, 10, 10, 10, 100, 100, 100, 10, 9, 10},
		{blas.NoTrans, blas.NoTrans, 10, 10, 10, 100, 100, 100, 10, 10, 9},
		{blas.NoTrans, blas.NoTrans, 10, 10, 10, 99, 100, 100, 10, 10, 10},
		{blas.Trans, blas.Trans, 10, 10, 10, 100, 99, 100, 10, 10, 10},
		{blas.NoTrans, blas.NoTrans, 10, 10, 10, 100, 100, 99, 10, 10, 10},
	} {
		call := func(g blas.Float32Level3) any {
			return message(func() { g.Sgemm(c.tA, c.tB, c.m, c.n, c.k, 1, x[:c.la], c.lda, x[:c.lb], c.ldb, 1, x[:c.lc], c.ldc) })
		}
		if got, want := call(Implementation{}), call(gonum.Implementation{}); got != want || got == nil {
			t.Errorf("%+v: panics with %v, gonum with %v", c, got, want)
		}
	}
}

func TestUse(t *testing.T) {
	defer blas32.Use(blas32.Implementation())
	blas32.Use(Implementation{})
	const n = 50
	m := func(seed uint64) blas32.General {
		return blas32.General{Rows: n, Cols: n, Stride: n, Data: values(n*n, seed)}
	}
	got, want := m(3), m(3)
	blas32.Gemm(blas.NoTrans, blas.Trans, 2, m(1), m(2), 0, got)
	gonum.Implementation{}.Sgemm(blas.NoTrans, blas.Trans, n, n, n, 2, m(1).Data, n, m(2).Data, n, 0, want.Data, n)
	golden.Near(t, "blas32.Gemm", got.Data, want.Data, 1e-5)
}

func TestAllocatesNothing(t *testing.T) {
	if l, err := kernels.Default(); err != nil || l == kernels.Generic {
		t.Skip("gonum's own allocates: ", l, err)
	}
	a, b, c := values(200*300, 1), values(300*100, 2), make([]float32, 200*100)
	g := Implementation{Threads: 1}
	if n := testing.AllocsPerRun(100, func() {
		g.Sgemm(blas.NoTrans, blas.NoTrans, 200, 100, 300, 2, a, 300, b, 100, 1, c, 100)
	}); n >= 1 { // the garbage collector may empty the pool
		t.Errorf("%v allocations", n)
	}
}

// BenchmarkSgemm runs on one thread beside gonum's own, which takes all of
// GOMAXPROCS: use -cpu 1.
func BenchmarkSgemm(b *testing.B) {
	for _, s := range [][3]int{{1, 512, 512}, {2, 512, 512}, {3, 512, 512}, {4, 512, 512}, {6, 512, 512}, {8, 512, 512}, {4, 4, 4}, {8, 8, 8}, {12, 12, 12}, {4, 64, 64}, {64, 4, 64}, {512, 4, 512}, {512, 1, 512}, {512, 2, 512}, {64, 64, 4}, {64, 64, 1}, {512, 512, 1}, {512, 512, 2}, {16, 16, 16}, {32, 32, 32}, {64, 64, 64},
		{196, 256, 256}, {3136, 256, 64}, {49, 512, 2048}, {1000, 1000, 1000}, {1024, 1024, 1024}} {
		m, n, k := s[0], s[1], s[2]
		x, y, c := values(m*k, 1), values(k*n, 2), make([]float32, m*n)
		for name, g := range map[string]blas.Float32Level3{"mila": Implementation{Threads: 1}, "gonum": gonum.Implementation{}} {
			for _, tA := range transposes[:2] {
				for _, tB := range transposes[:2] {
					lda, ldb := k, n
					if tA != blas.NoTrans {
						lda = m
					}
					if tB != blas.NoTrans {
						ldb = k
					}
					b.Run(fmt.Sprintf("m=%d/n=%d/k=%d/op=%c%c/of=%s", m, n, k, tA, tB, name), func(b *testing.B) {
						for b.Loop() {
							g.Sgemm(tA, tB, m, n, k, 1, x, lda, y, ldb, 0, c, n)
						}
						b.ReportMetric(2e-9*float64(m*n*k)*float64(b.N)/b.Elapsed().Seconds(), "GFLOP/s")
					})
				}
			}
		}
	}
}
