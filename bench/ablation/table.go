package main

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/mila-go/mila/bench"
	"gonum.org/v1/gonum/stat/distuv"
)

func (w *row) us() float64 { return bench.Median(w.US) }

// top1 returns the mean over seeds in per cent, or NaN.
func (w *row) top1() float64 {
	sum := 0.0
	for _, s := range w.Seeds {
		sum += 100 * s.Top1
	}
	return sum / float64(len(w.Seeds))
}

// deviation returns the standard deviation of a single run in points of per cent:
// that of seeds around their row's mean, pooled over all rows, as no row has enough
// seeds for one of its own; and its degrees of freedom.
func (r *results) deviation() (s float64, freedom int) {
	sum := 0.0
	for _, w := range r.Rows {
		for _, s := range w.Seeds {
			d := 100*s.Top1 - w.top1()
			sum += d * d
		}
		freedom += max(0, len(w.Seeds)-1)
	}
	return math.Sqrt(sum / float64(freedom)), freedom
}

// margin returns what the difference of the means of m and n seeds must exceed to be
// more than the spread of seeds: its 95 % interval, by Student's distribution.
func (r *results) margin(m, n int) float64 {
	s, freedom := r.deviation()
	if freedom == 0 {
		return math.NaN()
	}
	t := distuv.StudentsT{Sigma: 1, Nu: float64(freedom)}.Quantile(0.975)
	return t * s * math.Sqrt(1/float64(m)+1/float64(n))
}

// margins lists the margin for each pair of numbers of seeds that rows have.
func (r *results) margins() string {
	var counts []int
	for _, w := range r.Rows {
		if n := len(w.Seeds); n > 0 && !slices.Contains(counts, n) {
			counts = append(counts, n)
		}
	}
	slices.Sort(counts)
	var list []string
	for i, m := range counts {
		for _, n := range counts[i:] {
			list = append(list, fmt.Sprintf("%.1f (%d and %d seeds)", r.margin(m, n), m, n))
		}
	}
	return strings.Join(list, ", ")
}

// against compares a difference with that of the paper.
func (r *results) against(w, base *row) (difference float64, verdict string) {
	difference = w.top1() - base.top1()
	theirs := w.Paper.Top1 - base.Paper.Top1
	switch {
	case math.IsNaN(difference):
		return difference, "missing"
	case !(math.Abs(difference) > r.margin(len(w.Seeds), len(base.Seeds))):
		return difference, "within the spread"
	case difference*theirs > 0:
		return difference, "agrees"
	}
	return difference, "**contradicts**"
}

// planned returns how many seeds a row is meant to have.
func planned(name string) int {
	if slices.Contains([]string{"baseline", "forget-gate", "block-sub", "lepe", "cpe", "mila"}, name) {
		return 3
	}
	return 2
}

func (r *results) find(name string) *row {
	return r.Rows[slices.IndexFunc(r.Rows, func(w *row) bool { return w.Name == name })]
}

func (r *results) markdown() string {
	var b strings.Builder
	images, missing := 0, []string{}
	for _, w := range r.Rows {
		for n := range planned(w.Name) {
			if !slices.ContainsFunc(w.Seeds, func(s seed) bool { return s.Seed == n+1 }) {
				missing = append(missing, fmt.Sprintf("%s-%d", w.Name, n+1))
			}
		}
		for _, s := range w.Seeds {
			images = s.Images
		}
	}
	base := r.find("baseline")
	fmt.Fprintf(&b, "# The ablation, trained and run by ourselves\n\nTables 1 and 2 of arXiv 2405.16605 on a small scale: models of 0.6 to 0.8 M parameters, Tiny ImageNet at 64 x 64 (200 classes,\n%d images of validation), all by the same recipe; [how they were trained](../../models/ablation/README.md). Accuracy is that of\n`mila eval`, the mean over seeds and all of them; speed is that of the same weights, one image, one thread, level `%s`, in turn,\non %s, Go %s, %s. The paper's figures are for 28 M parameters on ImageNet at 224 x 224 and for a GPU (RTX 3090).\nWritten by `go run ./bench/ablation`.\n",
		images, r.Level, r.CPU, r.Go, r.Date)
	if len(missing) > 0 {
		fmt.Fprintf(&b, "\n**Incomplete**: of two seeds for each row, and three for those that decide, these were not trained (ROW-SEED): %s.\n", strings.Join(missing, ", "))
	}
	if s, freedom := r.deviation(); freedom > 0 {
		fmt.Fprintf(&b, "\nA seed lies %.2f points (standard deviation, pooled over the rows that have several, %d degrees of freedom) from its row's mean. A\ndifference counts where it exceeds its 95 %% interval (Student), in points: %s;\nbelow that it is \"within the spread\". The interval is that of seeds alone, on the same images.\n", s, freedom, r.margins())
	}
	head := "| | M parameters | M multiply-adds | top-1 %% (seeds) | to baseline | paper: top-1 %% | to baseline | verdict | µs | images/s | to baseline | paper: images/s | to baseline |\n" + strings.Repeat("| --- ", 13) + "|\n"
	for i, table := range [][]bench.Published{bench.Table1, bench.Table2} {
		fmt.Fprintf(&b, "\n## Table %d%s\n"+head, i+1, []string{"", ": position encodings instead of the forget gate"}[i])
		for _, w := range r.Rows {
			own := w.Paper == nil && i == 1
			if w.Paper != nil {
				own = slices.Contains(table, *w.Paper)
			}
			if i == 1 && (w.Name == "baseline" || w.Name == "forget-gate") {
				own = true
			}
			if own {
				b.WriteString(r.line(w, base))
			}
		}
	}
	r.conclusions(&b)
	r.order(&b)
	b.WriteString("\n## The average forget gate\nMean of exp(Δ A) over 200 images and all tokens, channels and key channels, read from the taps of the forward pass in Go; in\nbrackets the first and last deciles over channels and key channels. The paper: about 0.2 in shallow and 0.6 to 0.8 in deep layers.\nBefore training ours is 0.77 in all layers.\n\n| layer | mean |\n| --- | --- |\n")
	for _, g := range r.Gates {
		fmt.Fprintf(&b, "| %s | **%.2f** (%.2f to %.2f) |\n", g.Name, g.Mean, g.P10, g.P90)
	}
	if len(r.Gates) > 0 {
		agrees := func(mean, low, high float64) string {
			if mean >= low && mean <= high {
				return "as in the paper"
			}
			return "unlike the paper"
		}
		first, last := r.Gates[0].Mean, r.Gates[len(r.Gates)-1].Mean
		fmt.Fprintf(&b, "\nThe first layer keeps %.2f of its state from token to token, %s; the last %.2f, %s.\n", first, agrees(first, 0.1, 0.3), last, agrees(last, 0.55, 0.85))
	}
	b.WriteString("\n![accuracy against speed](ablation-speed.png)\n![forget gate by layer](ablation-gates.png)\n")
	return b.String()
}

func (r *results) line(w, base *row) string {
	var seeds []string
	for _, s := range w.Seeds {
		seeds = append(seeds, fmt.Sprintf("%.2f", 100*s.Top1))
	}
	top1, to := "missing", ""
	if len(seeds) > 0 {
		top1, to = fmt.Sprintf("**%.2f** (%s)", w.top1(), strings.Join(seeds, ", ")), fmt.Sprintf("%+.2f", w.top1()-base.top1())
	}
	label := w.Label
	paper, paperTo, verdict, speed, speedTo := "not in these tables", "", "", "", ""
	if w.Paper != nil {
		paper, speed = fmt.Sprintf("%.1f", w.Paper.Top1), fmt.Sprintf("%.0f", w.Paper.GPU)
	}
	if w == base {
		to = ""
	} else if w.Paper != nil {
		_, verdict = r.against(w, base)
		paperTo, speedTo = fmt.Sprintf("%+.1f", w.Paper.Top1-base.Paper.Top1), fmt.Sprintf("%.0f %%", 100*w.Paper.GPU/base.Paper.GPU)
	}
	return fmt.Sprintf("| %s `%s` | %.2f | %.1f | %s | %s | %s | %s | %s | %.0f | %.0f | %.0f %% | %s | %s |\n", label, w.Name, w.M, w.MACs, top1, to, paper, paperTo, verdict,
		w.us(), 1e6/w.us(), 100*base.us()/w.us(), speed, speedTo)
}

// conclusions sets the paper's beside what was found here.
func (r *results) conclusions(b *strings.Builder) {
	rows := map[string][]string{}
	base, forget := r.find("baseline"), r.find("forget-gate")
	for _, w := range r.Rows {
		if w.Paper != nil && w != base {
			_, verdict := r.against(w, base)
			rows[verdict] = append(rows[verdict], w.Name)
		}
	}
	b.WriteString("\n## What holds of the paper's conclusions\nOf the rows' differences from the baseline:\n\n")
	for _, v := range []string{"agrees", "within the spread", "**contradicts**", "missing"} {
		if len(rows[v]) > 0 {
			fmt.Fprintf(b, "- %s: %s\n", v, strings.Join(rows[v], ", "))
		}
	}
	b.WriteString("\n\"Agrees\" is said of the sign alone: the sizes of the differences are others at this scale.\n\nPosition encodings in place of the forget gate:\n\n")
	compare := func(x, y *row) {
		d := x.top1() - y.top1()
		beyond := "within the spread"
		switch margin := r.margin(len(x.Seeds), len(y.Seeds)); {
		case math.IsNaN(d) || math.IsNaN(margin):
			beyond = "missing"
		case math.Abs(d) > margin:
			beyond = "beyond the spread"
		}
		fmt.Fprintf(b, "- %s to %s: %+.2f points (%s) in %.0f %% of its time", x.Name, y.Name, d, beyond, 100*x.us()/y.us())
		if x.Paper != nil && y.Paper != nil {
			fmt.Fprintf(b, "; in the paper %+.1f points in %.0f %%", x.Paper.Top1-y.Paper.Top1, 100*y.Paper.GPU/x.Paper.GPU)
		}
		b.WriteString("\n")
	}
	for _, name := range []string{"ape", "lepe", "cpe", "rope"} {
		compare(r.find(name), forget)
	}
	b.WriteString("\nBlock designs, and all together:\n\n")
	compare(r.find("block-sub"), r.find("block-all"))
	compare(r.find("mila"), r.find("block-sub"))
	compare(r.find("mila"), base)
}

// order says how far the order of the rows is the paper's: for accuracy and for
// speed, Spearman's correlation of the ranks, and every pair of rows that is
// contradicted beyond the spread.
func (r *results) order(b *strings.Builder) {
	var rows []*row
	for _, w := range r.Rows {
		if w.Paper != nil && len(w.Seeds) > 0 {
			rows = append(rows, w)
		}
	}
	ranks := func(value func(w *row) float64) []float64 {
		out := make([]float64, len(rows))
		for i, x := range rows {
			for j, y := range rows {
				if value(y) < value(x) {
					out[i]++
				} else if i != j && value(y) == value(x) {
					out[i] += 0.5
				}
			}
		}
		return out
	}
	fmt.Fprintf(b, "\n## How far the order is the paper's\nRank correlation (Spearman) of the %d rows that both have: accuracy **%.2f**, speed **%.2f**. Pairs of rows whose order of accuracy is\nanother than the paper's, by more than the spread of seeds here and by at least 0.5 points there:\n\n", len(rows),
		correlation(ranks((*row).top1), ranks(func(w *row) float64 { return w.Paper.Top1 })),
		correlation(ranks(func(w *row) float64 { return -w.us() }), ranks(func(w *row) float64 { return w.Paper.GPU })))
	none := true
	for i, x := range rows {
		for _, y := range rows[i+1:] {
			ours, theirs := y.top1()-x.top1(), y.Paper.Top1-x.Paper.Top1
			if ours*theirs < 0 && math.Abs(ours) > r.margin(len(x.Seeds), len(y.Seeds)) && math.Abs(theirs) >= 0.5 {
				fmt.Fprintf(b, "- %s and %s: %+.2f here, %+.1f in the paper\n", x.Name, y.Name, ours, theirs)
				none = false
			}
		}
	}
	if none {
		b.WriteString("- none\n")
	}
}

// correlation is Pearson's.
func correlation(x, y []float64) float64 {
	mean := func(v []float64) (m float64) {
		for _, e := range v {
			m += e / float64(len(v))
		}
		return m
	}
	mx, my := mean(x), mean(y)
	var xy, xx, yy float64
	for i := range x {
		xy += (x[i] - mx) * (y[i] - my)
		xx += (x[i] - mx) * (x[i] - mx)
		yy += (y[i] - my) * (y[i] - my)
	}
	return xy / math.Sqrt(xx*yy)
}
