package main

import (
	"math"
	"strings"
	"testing"

	"github.com/mila-go/mila/bench"
)

// TestSpread compares with a calculation by hand: two rows of two seeds that lie 1 and
// 2 points apart have a pooled variance of (0.5 + 2)/2 with two degrees of freedom,
// whose Student quantile is 4.303.
func TestSpread(t *testing.T) {
	at := func(name string, paper float64, top1 ...float64) *row {
		w := &row{Name: name, Paper: &bench.Published{Top1: paper}}
		for i, v := range top1 {
			w.Seeds = append(w.Seeds, seed{Seed: i + 1, Top1: v})
		}
		return w
	}
	base := at("baseline", 70, 0.30, 0.31)
	r := results{Rows: []*row{base, at("up", 71, 0.50, 0.52), at("near", 71, 0.31), at("down", 71, 0.10), at("none", 71)}}
	s, freedom := r.deviation()
	if math.Abs(s-math.Sqrt(1.25)) > 1e-9 || freedom != 2 {
		t.Errorf("deviation %v, %d degrees of freedom", s, freedom)
	}
	if m := r.margin(2, 1); math.Abs(m-4.303*s*math.Sqrt(1.5)) > 1e-3 {
		t.Errorf("margin %v", m)
	}
	if m := r.margins(); !strings.Contains(m, "5.9 (1 and 2 seeds), 4.8 (2 and 2 seeds)") {
		t.Errorf("margins %q", m)
	}
	for i, want := range []string{"agrees", "within", "contradicts", "missing"} {
		if _, verdict := r.against(r.Rows[i+1], base); !strings.Contains(verdict, want) {
			t.Errorf("%s: %s, want %s", r.Rows[i+1].Name, verdict, want)
		}
	}
	if c := correlation([]float64{1, 2, 3}, []float64{2, 4, 6}); math.Abs(c-1) > 1e-9 {
		t.Errorf("correlation %v", c)
	}
}
