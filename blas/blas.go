// Package blas brings the matrix product of package kernels to programs that
// use gonum's float32 BLAS:
//
//	import (
//		milablas "github.com/mila-go/mila/blas"
//		"gonum.org/v1/gonum/blas/blas32"
//	)
//
//	func init() { blas32.Use(milablas.Implementation{}) }
//
// Everything but Sgemm stays gonum's own. Package gonum/mat computes in float64
// and is not affected.
package blas

import (
	"runtime"
	"sync"

	"github.com/mila-go/mila/kernels"
	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/gonum"
)

// Implementation is gonum's implementation of [blas.Float32] with another Sgemm.
// The zero value is ready to use, by any number of goroutines.
type Implementation struct {
	gonum.Implementation

	// Level is the instruction-set level; the zero value is the machine's best.
	// At [kernels.Generic] gonum's own Sgemm runs, which is faster on amd64.
	Level kernels.Level
	// Threads is how many goroutines a large product may use; 0 stands for
	// GOMAXPROCS. With 1 nothing is allocated. Results do not depend on it.
	Threads int
}

var _ blas.Float32 = Implementation{}

const (
	// A packed block of B, blockK x blockN, stays in the L2 cache together with
	// blockM rows of A. K is cut rarely, as each cut reads and writes C again.
	blockM, blockN, blockK = 126, 256, 512
	// padA keeps copied rows of A from being a multiple of 4096 bytes apart,
	// where they would share one set of the L1 cache.
	padA = 16

	// Below minWork multiply-adds packing costs more than it saves.
	minWork = 1 << 10
	// threadWork is how many multiply-adds are worth a goroutine, some 40 µs.
	threadWork = 1 << 21
)

// Sgemm computes
//
//	C = alpha · op(A) · op(B) + beta · C
//
// for row-major matrices, op(A) being m x k, op(B) k x n and C m x n, as
// [blas.Float32Level3] has it and with the panics of gonum. With beta = 0 C is not read;
// with alpha = 0 neither A nor B is. Unlike gonum's own, which skips zeros of A,
// it lets every NaN and infinity of A and B reach the result. C must not overlap
// A or B.
func (g Implementation) Sgemm(tA, tB blas.Transpose, m, n, k int, alpha float32, a []float32, lda int, b []float32, ldb int, beta float32, c []float32, ldc int) {
	aT, bT := tA != blas.NoTrans, tB != blas.NoTrans
	switch {
	case !fits(tA, m, k, a, lda), !fits(tB, k, n, b, ldb), !fits(blas.NoTrans, m, n, c, ldc):
		// Empty, or a mistake that gonum has a panic for.
		g.Implementation.Sgemm(tA, tB, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc)
		return
	case alpha == 0:
		g.Implementation.Sgemm(tA, tB, m, n, 0, alpha, a, lda, b, ldb, beta, c, ldc)
		return
	}
	level := g.Level
	if level == kernels.Auto {
		var err error
		if level, err = kernels.Default(); err != nil {
			panic("blas: " + err.Error())
		}
	}
	work := float64(m) * float64(n) * float64(k)
	if level == kernels.Generic || work < minWork || skinny(aT, bT, m, n) {
		g.Implementation.Sgemm(tA, tB, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc)
		return
	}
	threads := g.Threads
	if threads <= 0 {
		threads = runtime.GOMAXPROCS(0)
	}
	p := product{level, kernels.PanelWidth(level), aT, bT, m, n, k, alpha, beta, a, b, c, lda, ldb, ldc}
	if threads = int(min(float64(threads), work/threadWork)); threads > 1 {
		p.parallel(threads)
	} else {
		p.part(0, m, 0, n)
	}
}

// skinny reports whether packing B for so few rows of A, or filling up a panel of so
// few columns, costs more than gonum's loops take. Those go along rows of A and B:
// with both transposed there are none, and any way is faster.
func skinny(aT, bT bool, m, n int) bool {
	switch {
	case !bT:
		return m < 3
	case !aT:
		return m < 4 || n < 8
	}
	return false
}

// fits reports whether op(X), rows x cols and not empty, lies within x.
func fits(t blas.Transpose, rows, cols int, x []float32, ld int) bool {
	switch t {
	case blas.NoTrans:
	case blas.Trans, blas.ConjTrans:
		rows, cols = cols, rows
	default:
		return false
	}
	return rows > 0 && cols > 0 && ld >= cols && len(x) >= (rows-1)*ld+cols
}

// product holds the checked arguments of a Sgemm.
type product struct {
	level         kernels.Level
	nr            int // columns in a packed panel
	aT, bT        bool
	m, n, k       int
	alpha, beta   float32
	a, b, c       []float32
	lda, ldb, ldc int
}

// parallel cuts the longer side of C. No element's sum is cut.
func (p product) parallel(threads int) {
	var wg sync.WaitGroup
	for t := range threads {
		if p.m >= p.n {
			wg.Go(func() { p.part(p.m*t/threads, p.m*(t+1)/threads, 0, p.n) })
			continue
		}
		panels := (p.n + p.nr - 1) / p.nr
		wg.Go(func() { p.part(0, p.m, panels*t/threads*p.nr, min(p.n, panels*(t+1)/threads*p.nr)) })
	}
	wg.Wait()
}

// workspace is what one goroutine packs into.
type workspace struct {
	b [blockN * blockK]float32
	a [blockM * (blockK + padA)]float32
}

var workspaces = sync.Pool{New: func() any { return new(workspace) }}

// part computes rows [i0, i1) and columns [j0, j1) of C.
func (p *product) part(i0, i1, j0, j1 int) {
	w := workspaces.Get().(*workspace)
	defer workspaces.Put(w)
	parts := (p.k + blockK - 1) / blockK
	for j := j0; j < j1; j += blockN {
		n := min(blockN, j1-j)
		if p.beta != 0 && p.beta != 1 {
			for i := i0; i < i1; i++ {
				scale(p.c[i*p.ldc+j:i*p.ldc+j+n], p.beta)
			}
		}
		for part := range parts {
			k0 := p.k * part / parts
			k := p.k*(part+1)/parts - k0
			p.packB(w.b[:], k0, k, j, n)
			for i := i0; i < i1; i += blockM {
				m := min(blockM, i1-i)
				x, ldx := p.rowsOfA(w.a[:], i, m, k0, k)
				c := p.c[i*p.ldc+j:]
				var e kernels.Epilogue
				if p.beta != 0 || part > 0 {
					e.Add, e.LdAdd = c, p.ldc
				}
				kernels.Gemm(p.level, c, p.ldc, x, ldx, w.b[:], m, n, k, e)
			}
		}
	}
}

// packB packs alpha times rows [k0, k0+k) and columns [j, j+n) of op(B), as
// [kernels.Pack] does with the transpose.
func (p *product) packB(dst []float32, k0, k, j, n int) {
	nr := p.nr
	if p.bT {
		kernels.Pack(p.level, dst, p.b[j*p.ldb+k0:], p.ldb, n, k)
	} else {
		for r := range k {
			row := p.b[(k0+r)*p.ldb+j : (k0+r)*p.ldb+j+n]
			for q := 0; q < n; q += nr {
				to := dst[q*k+r*nr : q*k+(r+1)*nr]
				clear(to[copy(to, row[q:]):])
			}
		}
	}
	if p.alpha != 1 {
		scale(dst[:(n+nr-1)/nr*nr*k], p.alpha)
	}
}

// rowsOfA returns rows [i, i+m) and columns [k0, k0+k) of op(A): in place, or
// copied to dst where A is transposed or its rows lie badly in the cache.
func (p *product) rowsOfA(dst []float32, i, m, k0, k int) (x []float32, ldx int) {
	const set = 1024 // floats in 4096 bytes
	if !p.aT && p.lda%set != 0 {
		return p.a[i*p.lda+k0:], p.lda
	}
	ldx = k + padA
	if !p.aT {
		for r := range m {
			copy(dst[r*ldx:r*ldx+k], p.a[(i+r)*p.lda+k0:])
		}
		return dst, ldx
	}
	kernels.Transpose(p.level, dst, ldx, p.a[k0*p.lda+i:], p.lda, k, m)
	return dst, ldx
}

func scale(x []float32, by float32) {
	for i := range x {
		x[i] *= by
	}
}
