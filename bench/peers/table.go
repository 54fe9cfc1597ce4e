package main

import (
	"fmt"
	"math"
	"slices"
	"strings"

	perf "github.com/mila-go/mila/bench"
)

// ratio returns the median over the rounds of a contender's time by ours, or 0.
func (w *row) ratio(contender string) float64 {
	if len(w.MS[contender]) != len(w.MS[ours]) {
		return 0
	}
	var x []float64
	for i, ms := range w.MS[contender] {
		x = append(x, ms/w.MS[ours][i])
	}
	return perf.Median(x)
}

// spread returns how far apart the rounds of a row of ours lie, relative to their
// median: the median over all rows and the largest.
func (r *results) spread() (typical, most float64) {
	var x []float64
	for _, w := range r.Rows {
		ms := w.MS[ours]
		x = append(x, (slices.Max(ms)-slices.Min(ms))/perf.Median(ms))
	}
	return perf.Median(x), slices.Max(x)
}

func (r *results) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Measured beside others\n\n%s, %d logical cores, level `%s`, %s. Written by `bench/peers/run`; [what is compared](../peers/README.md).\n\n", r.CPU, r.Cores, r.Level, r.Date)
	for _, c := range contenders {
		if v := r.Versions[c]; v == "" && r.Skipped[c] == "" {
			continue // a form of ours
		} else if why := r.Skipped[c]; why != "" {
			fmt.Fprintf(&b, "- %s: not measured, or not all of it: %s\n", c, why)
		} else {
			fmt.Fprintf(&b, "- %s: %s\n", c, v)
		}
	}
	typical, most := r.spread()
	fmt.Fprintf(&b, "\nThe medians, and in brackets the median over the rounds of the time divided by ours: above 1, ours is faster. "+
		"Our own rounds of a row lie %.0f %% apart (the median of the rows; at most %.0f %%), which says how quiet the machine was.\n", 100*typical, 100*most)
	for _, g := range []struct {
		title, kind string
		perMS       float64
	}{
		{"Whole models, 224 x 224, batch 1, ms", "model", 1},
		{"Linear layer M, N, K, one thread, µs", "gemm", 1e3},
		{"Depthwise 3x3, side, channels, one thread, µs", "dwconv", 1e3},
		{"Linear attention without its projections, side, channels, one thread, µs", "linattn", 1e3},
	} {
		r.table(&b, g.title, g.kind, g.perMS)
	}
	b.WriteString("\n## The same logits\nLargest difference from ours, relative to the largest logit:\n\n")
	for _, m := range models {
		for _, c := range contenders {
			if d, ok := r.LogitsDiff[m.name][c]; ok {
				fmt.Fprintf(&b, "- MILA-%s, %s: %.1e\n", strings.ToUpper(m.name), c, d)
			}
		}
	}
	return b.String()
}

// table writes the rows of one kind, for the contenders that have any.
func (r *results) table(b *strings.Builder, title, kind string, perMS float64) {
	var rows []*row
	present := map[string]bool{}
	for _, w := range r.Rows {
		if strings.HasPrefix(w.Item, kind+"/") {
			rows = append(rows, w)
			for c := range w.MS {
				present[c] = true
			}
		}
	}
	if rows == nil {
		return
	}
	fmt.Fprintf(b, "\n## %s\n| |", title)
	columns := slices.DeleteFunc(slices.Clone(contenders), func(c string) bool { return !present[c] })
	for _, c := range columns {
		fmt.Fprintf(b, " %s |", c)
		if c == ours {
			b.WriteString(" share of peak |")
		}
	}
	b.WriteString("\n|" + strings.Repeat(" --- |", len(columns)+2) + "\n")
	logs := map[string][]float64{}
	for _, w := range rows {
		name := strings.ReplaceAll(strings.TrimPrefix(w.Item, kind+"/"), "/", ", ")
		if kind == "model" {
			name = fmt.Sprintf("MILA-%s, threads: %d", strings.ToUpper(name), w.Threads)
		}
		fmt.Fprintf(b, "| %s |", name)
		for _, c := range columns {
			ratio := w.ratio(c)
			switch {
			case ratio == 0:
				b.WriteString(" |")
			case c == ours:
				ms := perf.Median(w.MS[ours])
				fmt.Fprintf(b, " **%s** | %.0f %% |", digits(ms*perMS), 100*w.GFLOP/(ms*1e-3)/r.PeakGFLOPS[w.Threads])
			default:
				fmt.Fprintf(b, " %s (%.2f) |", digits(perf.Median(w.MS[c])*perMS), ratio)
				logs[c] = append(logs[c], math.Log(ratio))
			}
		}
		b.WriteString("\n")
	}
	b.WriteString("| geometric mean | | |")
	for _, c := range columns[1:] {
		if len(logs[c]) == 0 {
			b.WriteString(" |")
			continue
		}
		sum := 0.0
		for _, l := range logs[c] {
			sum += l
		}
		fmt.Fprintf(b, " (%.2f) |", math.Exp(sum/float64(len(logs[c]))))
	}
	b.WriteString("\n")
}

// digits formats x with three digits or all of its whole ones.
func digits(x float64) string {
	if x >= 1000 {
		return fmt.Sprintf("%.0f", x)
	}
	return fmt.Sprintf("%.3g", x)
}
