package block

import (
	"fmt"
	"math"
	"testing"
)

func TestEfficientVMamba(t *testing.T) {
	c := EfficientVMamba{EmbedDim: 16, Depths: []int{1, 2, 1, 1}, StateDim: 3, NumClasses: 7}
	compareNaive(t, c, 32, 64, func(n naive, x []float64, h, w int) []float64 { return naiveEfficient(n, c, x, h, w) })
}

func sigmoid(x float64) float64 { return 1 / (1 + math.Exp(-x)) }

// weighed multiplies the channels of x by their weights.
func weighed(x, gate []float64) []float64 {
	y := make([]float64, len(x))
	for i, v := range x {
		y[i] = v * sigmoid(gate[i%len(gate)])
	}
	return y
}

func naiveEfficient(n naive, c EfficientVMamba, x []float64, h, w int) []float64 {
	x, h, w = n.conv("patch_embed.0", x, h, w, 3, 4, 0, 1)
	x = n.layerNorm("patch_embed.2", x, c.EmbedDim, normEps)
	d := 0
	for i, depth := range c.Depths {
		d = c.EmbedDim << i
		down := fmt.Sprintf("layers.%d.downsample", i)
		for j := range depth {
			if i < 2 {
				p := fmt.Sprintf("layers.%d.blocks.%d.", i, j)
				u := n.layerNorm(p+"norm", x, d, normEps)
				branch, _, _ := n.conv(p+"conv_branch.0", u, h, w, d, 1, 1, d)
				branch = each(n.batchNorm(p+"conv_branch.1", branch), gelu)
				branch, _, _ = n.conv(p+"conv_branch.3", branch, h, w, d, 1, 0, 1)
				for _, y := range [][]float64{naiveES2D(n, c, p+"op.", u, h, w, d), branch} {
					low := each(n.linear(p+"se.global_reduce", mean(n.layerNorm(p+"se.norm", y, d, normEps), d), d), gelu)
					x = add(x, weighed(y, n.linear(p+"se.channel_select", low, len(low))))
				}
				continue
			}
			p := fmt.Sprintf("layers.%d.%d.", i, j+1)
			down = fmt.Sprintf("layers.%d.%d", i, depth+2)
			y, _, _ := n.conv(p+"conv_pw.0", x, h, w, d, 1, 0, 1)
			y = each(n.batchNorm(p+"conv_pw.1", y), relu)
			y, _, _ = n.conv(p+"conv_dw.0", y, h, w, 4*d, 1, 1, 4*d)
			y = each(n.batchNorm(p+"conv_dw.1", y), relu)
			low, _, _ := n.conv(p+"se.conv_reduce", mean(y, 4*d), 1, 1, 4*d, 1, 0, 1)
			gate, _, _ := n.conv(p+"se.conv_expand", each(low, relu), 1, 1, d/2, 1, 0, 1)
			y, _, _ = n.conv(p+"conv_pw2.0", weighed(y, gate), h, w, 4*d, 1, 0, 1)
			x = add(x, n.batchNorm(p+"conv_pw2.1", y))
		}
		if i < 3 {
			x, h, w = naiveMerge(n, down, x, h, w, d)
		}
	}
	return n.linear("classifier.head", mean(n.layerNorm("classifier.norm", x, d, normEps), d), d)
}

func naiveES2D(n naive, c EfficientVMamba, p string, x []float64, h, w, d int) []float64 {
	e, states, rank := 2*d, c.StateDim, ceilDiv(d, 16)
	xz := n.linear(p+"in_proj", x, d)
	u, z := columns(xz, 2*e, 0, e), each(columns(xz, 2*e, e, 2*e), silu)
	u, _, _ = n.conv(p+"conv2d", u, h, w, e, 1, 1, e)
	u = each(u, silu)
	var orders [4][]int
	for r := 0; r < h; r += 2 {
		for s := 0; s < w; s += 2 {
			orders[0] = append(orders[0], r*w+s)
			orders[2] = append(orders[2], r*w+s+1)
		}
	}
	for s := 0; s < w; s += 2 {
		for r := 0; r < h; r += 2 {
			orders[1] = append(orders[1], (r+1)*w+s)
			orders[3] = append(orders[3], (r+1)*w+s+1)
		}
	}
	y := make([]float64, h*w*e)
	width := rank + 2*states
	for k, order := range orders {
		proj := product(u, n.get(p + "x_proj_weight")[k*width*e:(k+1)*width*e], nil, e)
		delta := product(columns(proj, width, 0, rank), n.get(p + "dt_projs_weight")[k*e*rank:(k+1)*e*rank], nil, rank)
		y = add(y, scan(u, delta, n.get(p + "dt_projs_bias")[k*e:(k+1)*e], each(n.get(p + "A_logs")[k*e*states:(k+1)*e*states], negExp),
			columns(proj, width, rank, rank+states), columns(proj, width, rank+states, width), n.get(p + "Ds")[k*e:(k+1)*e], states, order))
	}
	return n.linear(p+"out_proj", mul(n.layerNorm(p+"out_norm", y, e, normEps), z), e)
}
