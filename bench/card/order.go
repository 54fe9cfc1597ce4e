package main

import "slices"

// order returns the classes so that those stand together that the model confuses:
// average-linkage clustering, where two clusters are joined at the ends that are most
// alike. How alike two classes are is the probability that images of one are given
// for the other, which says more than the few images that are mistaken.
func (d *details) order() []int {
	n := len(d.Classes)
	alike := make([][]float64, n)
	for i := range alike {
		alike[i] = make([]float64, n)
	}
	for _, a := range d.Answers {
		for _, p := range a.Top {
			v := p.Prob / float64(d.Classes[a.Class].Images)
			alike[a.Class][p.Index] += v
			alike[p.Index][a.Class] += v
		}
	}
	clusters := make([][]int, n)
	mean := make([][]float64, n) // of clusters
	for i := range clusters {
		clusters[i] = []int{i}
		mean[i] = slices.Clone(alike[i])
	}
	for len(clusters) > 1 {
		a, b := 0, 1
		for i := range clusters {
			for j := i + 1; j < len(clusters); j++ {
				if mean[i][j] > mean[a][b] {
					a, b = i, j
				}
			}
		}
		x, y := clusters[a], clusters[b]
		wx, wy := float64(len(x)), float64(len(y))
		for k := range clusters {
			m := (wx*mean[a][k] + wy*mean[b][k]) / (wx + wy)
			mean[a][k], mean[k][a] = m, m
		}
		mean = slices.Delete(mean, b, b+1)
		for k := range mean {
			mean[k] = slices.Delete(mean[k], b, b+1)
		}
		best := -1.0
		var joined []int
		for turn := range 4 {
			p, q := slices.Clone(x), slices.Clone(y)
			if turn&1 != 0 {
				slices.Reverse(p)
			}
			if turn&2 != 0 {
				slices.Reverse(q)
			}
			if v := alike[p[len(p)-1]][q[0]]; v > best {
				best, joined = v, append(p, q...)
			}
		}
		clusters[a] = joined
		clusters = slices.Delete(clusters, b, b+1)
	}
	return clusters[0]
}
