package block

import (
	"fmt"
	"math"
	"slices"
	"testing"
)

func TestPlainMamba(t *testing.T) {
	c := PlainMamba{Dim: 24, Depth: 2, StateDim: 5, StemConvs: 1, LocalConvs: 1, NumClasses: 7, ImgSize: 48}
	compareNaive(t, c, 48, 48, func(n naive, x []float64, h, w int) []float64 { return naivePlain(n, c, x, h, w) })
}

// TestPaths compares with paths drawn by hand.
func TestPaths(t *testing.T) {
	for _, c := range []struct {
		h, w  int
		order [4][]int32
		first [4][]int8 // the first directions
	}{
		{2, 3, [4][]int32{{0, 1, 2, 5, 4, 3}, {3, 4, 5, 2, 1, 0}, {0, 3, 4, 1, 2, 5}, {5, 2, 1, 4, 3, 0}}, [4][]int8{{0, 1, 1, 4, 2}, {0, 1, 1, 3, 2}, {0, 4, 1, 3, 1}, {0, 3, 2, 4, 2}}},
		{3, 2, [4][]int32{{0, 1, 3, 2, 4, 5}, {5, 4, 2, 3, 1, 0}, {0, 2, 4, 5, 3, 1}, {1, 3, 5, 4, 2, 0}}, [4][]int8{{0, 1, 4, 2, 4}, {0, 2, 3, 1, 3}, {0, 4, 4, 1, 3}, {0, 4, 4, 2, 3}}},
	} {
		for k, p := range paths(c.h, c.w) {
			if !slices.Equal(p.order, c.order[k]) || !slices.Equal(p.direction[:5], c.first[k]) {
				t.Errorf("%d x %d, path %d: %v, %v; want %v, %v", c.h, c.w, k, p.order, p.direction, c.order[k], c.first[k])
			}
		}
	}
}

func (n naive) batchNorm(name string, x []float64) []float64 {
	gamma, beta, mean, variance := n.get(name+".weight"), n.get(name+".bias"), n.get(name+".running_mean"), n.get(name+".running_var")
	y := make([]float64, len(x))
	for i, v := range x {
		c := i % len(gamma)
		y[i] = (v-mean[c])/math.Sqrt(variance[c]+normEps)*gamma[c] + beta[c]
	}
	return y
}

func relu(x float64) float64 { return math.Max(x, 0) }

func naivePlain(n naive, c PlainMamba, x []float64, h, w int) []float64 {
	d, e, states, rank := c.Dim, 2*c.Dim, c.StateDim, ceilDiv(c.Dim, 16)
	p := "backbone.patch_embed."
	x, h, w = n.conv(p+"stem.0", x, h, w, 3, 2, 3, 1)
	x = each(n.batchNorm(p+"stem.1", x), relu)
	for i := range c.StemConvs {
		x, _, _ = n.conv(fmt.Sprintf("%sconvs.%d", p, 3*i), x, h, w, 64, 1, 1, 1)
		x = each(n.batchNorm(fmt.Sprintf("%sconvs.%d", p, 3*i+1), x), relu)
	}
	x, h, w = n.conv(p+"projection", x, h, w, 64, 8, 0, 1)
	x = add(x, n.get("backbone.pos_embed"))
	l := h * w
	raster := make([]int, l)
	for i := range raster {
		raster[i] = i
	}
	for i := range c.Depth {
		p := fmt.Sprintf("backbone.layers.%d.", i)
		q := p + "mamba."
		xz := n.linear(q+"in_proj", n.layerNorm(p+"norm", x, d, normEps), d)
		u, z := columns(xz, 2*e, 0, e), each(columns(xz, 2*e, e, 2*e), silu)
		u, _, _ = n.conv(q+"conv2d", u, h, w, e, 1, 3, e)
		u = each(u, silu)
		proj := n.linear(q+"x_proj", u, e)
		width := rank + 2*states
		delta := n.linear(q+"dt_proj", columns(proj, width, 0, rank), rank) // with the bias that scan adds too
		bs, cs := columns(proj, width, rank, rank+states), columns(proj, width, rank+states, width)
		y := make([]float64, l*e)
		for _, route := range paths(h, w) {
			in, b := make([]float64, l*e), make([]float64, l*states)
			for step, t := range route.order {
				copy(in[step*e:(step+1)*e], u[int(t)*e:])
				for j := range states {
					b[step*states+j] = bs[step*states+j] + n.get(q + "direction_Bs")[int(route.direction[step])*states+j]
				}
			}
			out := scan(in, delta, n.get(q+"dt_proj.bias"), each(n.get(q+"A_log"), negExp), b, cs, n.get(q+"D"), states, raster)
			for step, t := range route.order {
				for j := range e {
					y[int(t)*e+j] += out[step*e+j]
				}
			}
		}
		x = add(x, n.linear(q+"out_proj", mul(y, z), e))
		if i < c.LocalConvs {
			x, _, _ = n.conv(p+"dw.0", x, h, w, d, 1, 1, d)
			x = each(n.batchNorm(p+"dw.1", x), gelu)
		}
	}
	return n.linear("head.fc", mean(n.layerNorm("backbone.ln1", x, d, 1e-6), d), d)
}
