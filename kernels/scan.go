package kernels

import (
	"math"

	"github.com/mila-go/mila/kernels/generic"
	"github.com/mila-go/mila/kernels/ref"
)

// ScanShape describes a selective scan; see the fields. Workers share a scan by
// panels of channels.
type ScanShape = ref.ScanShape

// ScanOptions are the optional parts of a selective scan; see the fields.
type ScanOptions = ref.ScanOptions

// ScanA is the matrix A of a selective scan, packed by [NewScanA].
type ScanA struct {
	ch, n, groups int
	powers, grows bool
	panels        []float32 // times log2 e
}

// Powers reports whether A[c, n] = (n+1)·A[c, 0] up to 4 units in the last place, as
// Mamba initialises it: A = -1, -2, .. -N. Then A counts as exactly that, one
// exponential a token and channel is enough, and decay n is its n+1-th power by
// products of few powers. The relative error of decay n is at most
// 2^-22·(n+1+|δ·A[c, n]|) instead of 2^-22·(1+|δ·A[c, n]|).
func (a *ScanA) Powers() bool { return a.powers }

// General returns a without the shortcut of [ScanA.Powers].
func (a ScanA) General() *ScanA {
	a.powers = false
	return &a
}

// NewScanA packs the matrix a, (ch, n) as Mamba keeps it (-exp(A_log)), for [Scan]
// with that many channels, states and groups of channels. It is the same at every
// level. Positive elements are allowed: their states grow.
func NewScanA(a []float32, ch, n, groups int) *ScanA {
	const op = "NewScanA"
	checkScanDims(op, ch, n, groups)
	checkLen(op, "a", a, ch*n)
	packed := &ScanA{ch: ch, n: n, groups: max(groups, 1), powers: n > 1, panels: make([]float32, PackedScanLen(ch, n, groups))}
	PackScan(packed.panels, a, ch, n, groups)
	for i, v := range packed.panels {
		packed.panels[i] = float32(float64(v) * math.Log2E)
	}
	for c := range ch {
		row := a[c*n : c*n+n]
		for i, v := range row {
			packed.grows = packed.grows || v > 0
			want := float64(i+1) * float64(row[0])
			if !(math.Abs(float64(v)-want) <= 4*0x1p-23*math.Abs(want)) { // NaN too
				packed.powers = false
			}
		}
	}
	return packed
}

// PackedScanLen returns the length of a packed (ch, n) matrix of [PackScan].
func PackedScanLen(ch, n, groups int) int {
	const op = "PackedScanLen"
	checkScanDims(op, ch, n, groups)
	panels := ScanShape{Ch: ch, Groups: groups}.Panels()
	checkDims(op, panels, ref.ScanLanes, n)
	return panels * ref.ScanLanes * n
}

func checkScanDims(op string, ch, n, groups int) {
	checkDims(op, ch, n)
	if groups < 0 || ch%max(groups, 1) != 0 {
		fail(op, "%d channels do not fall into %d groups", ch, groups)
	}
}

// PackScan packs a (ch, n) matrix into panels of 16 channels of a group,
// panel[n·16 + channel], padded with zeros: the form of matrices B and C that do
// not depend on the token.
func PackScan(dst, src []float32, ch, n, groups int) {
	const op = "PackScan"
	checkLen(op, "dst", dst, PackedScanLen(ch, n, groups))
	checkLen(op, "the matrix", src, ch*n)
	s := ScanShape{Ch: ch, Groups: groups}
	for p := range s.Panels() {
		c0, channels, _ := s.Panel(p)
		panel := dst[p*n*ref.ScanLanes : (p+1)*n*ref.ScanLanes]
		clear(panel)
		for c := range channels {
			for i := range n {
				panel[i*ref.ScanLanes+c] = src[(c0+c)*n+i]
			}
		}
	}
}

// ScanDirection is one of the four sequences in which vision models scan a grid
// of tokens.
type ScanDirection uint8

const (
	RowForward     ScanDirection = iota // row after row, each from the left
	RowBackward                         // RowForward reversed
	ColumnForward                       // column after column, each from above
	ColumnBackward                      // ColumnForward reversed
)

// ScanOrder fills order with the tokens of an h x w grid, token i·w + j being at
// row i and column j, in the sequence d, for the field Order of [ScanShape] and
// [Conv1DShape].
func ScanOrder(order []int32, h, w int, d ScanDirection) {
	const op = "ScanOrder"
	checkDims(op, h, w)
	if len(order) != h*w {
		fail(op, "order has %d elements, %d x %d tokens need %d", len(order), h, w, h*w)
	}
	if d > ColumnBackward {
		fail(op, "unknown direction %d", d)
	}
	for i := range order {
		step, t := i, i
		if d == RowBackward || d == ColumnBackward {
			step = len(order) - 1 - i
		}
		if t = step; d >= ColumnForward {
			t = step%h*w + step/h
		}
		order[i] = int32(t)
	}
}

// checkOrder checks an order and returns how many tokens it reaches.
func checkOrder(op string, order []int32, steps int) (tokens int) {
	if order == nil {
		return steps
	}
	if len(order) < steps {
		fail(op, "Order has %d elements, %d steps need as many", len(order), steps)
	}
	for i, t := range order[:steps] {
		if t < 0 {
			fail(op, "Order has token %d at step %d", t, i)
		}
		tokens = max(tokens, int(t)+1)
	}
	return tokens
}

// Scan runs the selective scan of Mamba (S6). For every channel c of group g and
// every token t in the sequence s.Order,
//
//	δ      = delta[t, c] + DeltaBias[c], then log(1 + exp(δ)) if o.Softplus
//	h[n,c] = exp(δ · A[c, n]) · h[n, c] + δ · u[t, c] · b[t, g, n]  (without δ · where o.NoInputGate)
//	y[t,c] = (Σ_n c[t, g, n] · h[n, c] + D[c] · u[t, c]) · SiLU(z[t, c])
//
// y, u, delta and z are tokens x channels; b and c are tokens x (Groups, N), or
// panels of [PackScan] where s.ConstB or s.ConstC says so. state is h, (N, Ch),
// which is the transpose of what PyTorch code keeps: the state before the first
// step, and afterwards that behind the last. Scans of consecutive pieces of a
// sequence that hand the state on equal one scan, a piece of one token is a step
// of decoding, and L = 0 does nothing. The caller clears the state at the
// beginning of a sequence.
//
// y may be u, delta or z, of the same distance between tokens, if s.Order has no
// token twice; apart from that, y and state must not overlap the inputs or each
// other. Decays below 2^-125 may count as 0; growth beyond the range of float32, by
// positive elements of A or negative δ, ends in infinities or NaN. A NaN makes NaN of
// what depends on it. Algorithm 2 of arXiv 2312.00752; how it is computed:
// kernels/README.md.
func Scan(l Level, y, state, u, delta []float32, a *ScanA, b, c []float32, s ScanShape, o ScanOptions) {
	const op = "Scan"
	l = l.resolve(op)
	checkScanDims(op, s.Ch, s.N, s.Groups)
	checkDims(op, s.L)
	s = s.Dense()
	if a.ch != s.Ch || a.n != s.N || a.groups != s.Groups {
		fail(op, "A was packed for %d channels, %d states and %d groups; the shape has %d, %d and %d", a.ch, a.n, a.groups, s.Ch, s.N, s.Groups)
	}
	if s.Panel0 < 0 || s.Panel0 > s.Panel1 || s.Panel1 > s.Panels() {
		fail(op, "panels [%d, %d) are not among the %d", s.Panel0, s.Panel1, s.Panels())
	}
	tokens := checkOrder(op, s.Order, s.L)
	for _, m := range [...]struct {
		name     string
		x        []float32
		ld, cols int
		there    bool
	}{
		{"y", y, s.LdY, s.Ch, true}, {"u", u, s.LdU, s.Ch, true}, {"delta", delta, s.LdDelta, s.Ch, true},
		{"z", o.Z, s.LdZ, s.Ch, o.Z != nil}, {"b", b, s.LdB, s.Groups * s.N, !s.ConstB}, {"c", c, s.LdC, s.Groups * s.N, !s.ConstC},
	} {
		if m.there {
			checkDims(op, tokens, m.ld)
			checkMatrix(op, m.name, m.x, m.ld, tokens, m.cols)
		}
	}
	if s.ConstB {
		checkLen(op, "b (packed)", b, len(a.panels))
	}
	if s.ConstC {
		checkLen(op, "c (packed)", c, len(a.panels))
	}
	checkLen(op, "state", state, s.N*s.Ch)
	if o.DeltaBias != nil {
		checkLen(op, "DeltaBias", o.DeltaBias, s.Ch)
	}
	if o.D != nil {
		checkLen(op, "D", o.D, s.Ch)
	}
	switch {
	case s.L == 0 || s.Ch == 0:
	case l == Generic || s.N == 0:
		generic.Scan(y, state, u, delta, a.panels, a.powers, b, c, s, o)
	default:
		scanVector(l, y, state, u, delta, a, b, c, s, o)
	}
}
