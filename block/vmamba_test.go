package block

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
)

func TestVMamba(t *testing.T) {
	for _, c := range []VMamba{
		{EmbedDim: 40, Depths: []int{1, 2, 1, 1}, StateDim: 1, SSMRatio: 1, NumClasses: 7},
		{EmbedDim: 24, Depths: []int{1, 1, 2, 1}, StateDim: 5, SSMRatio: 1.5, NumClasses: 7, Vanilla: true},
		{EmbedDim: 16, Depths: []int{1, 1, 1, 1}, StateDim: 3, SSMRatio: 2, NumClasses: 7, Vanilla: true,
			Directions: [][]string{{"h", "w7", "v_flip", "w2"}, {"w7_flip", "h_flip", "v", "w2_flip"}, {"w7", "w7_flip", "v", "h"}, {"w7", "w2", "w2_flip", "w7_flip"}}},
	} {
		h, w := 64, 96
		if c.Directions != nil {
			w = 64
		}
		compareNaive(t, c, h, w, func(n naive, x []float64, h, w int) []float64 { return naiveVMamba(n, c, x, h, w) })
	}
}

func naiveVMamba(n naive, c VMamba, x []float64, h, w int) []float64 {
	if c.Vanilla {
		x, h, w = n.conv("patch_embed.0", x, h, w, 3, 4, 0, 1)
		x = n.layerNorm("patch_embed.2", x, c.EmbedDim, normEps)
	} else {
		x, h, w = n.conv("patch_embed.0", x, h, w, 3, 2, 1, 1)
		x = each(n.layerNorm("patch_embed.2", x, c.EmbedDim/2, normEps), gelu)
		x, h, w = n.conv("patch_embed.5", x, h, w, c.EmbedDim/2, 2, 1, 1)
		x = n.layerNorm("patch_embed.7", x, c.EmbedDim, normEps)
	}
	for i, depth := range c.Depths {
		d := c.EmbedDim << i
		for j := range depth {
			p := fmt.Sprintf("layers.%d.blocks.%d.", i, j)
			x = add(x, naiveSS2D(n, c, p, n.layerNorm(p+"norm", x, d, normEps), h, w, d))
			if !c.Vanilla {
				x = add(x, n.mlp(p+"mlp", n.layerNorm(p+"norm2", x, d, normEps), d))
			}
		}
		p := fmt.Sprintf("layers.%d.downsample.", i)
		switch {
		case i == 3:
		case c.Vanilla:
			x, h, w = naiveMerge(n, strings.TrimSuffix(p, "."), x, h, w, d)
		default:
			x, h, w = n.conv(p+"1", x, h, w, d, 2, 1, 1)
			x = n.layerNorm(p+"3", x, 2*d, normEps)
		}
	}
	d := c.EmbedDim << 3
	return n.linear("classifier.head", mean(n.layerNorm("classifier.norm", x, d, normEps), d), d)
}

func naiveSS2D(n naive, c VMamba, p string, x []float64, h, w, d int) []float64 {
	e, states, rank := int(c.SSMRatio*float64(d)), c.StateDim, ceilDiv(d, 16)
	xz := n.linear(p+"op.in_proj", x, d)
	u, z := xz, []float64(nil)
	if c.Vanilla {
		u, z = columns(xz, 2*e, 0, e), each(columns(xz, 2*e, e, 2*e), silu)
	}
	u, _, _ = n.conv(p+"op.conv2d", u, h, w, e, 1, 1, e)
	u = each(u, silu)
	var orders [4][]int
	for i := range h * w {
		orders[0] = append(orders[0], i)
		orders[1] = append(orders[1], i%h*w+i/h)
	}
	for k := range 2 {
		for i := range orders[k] {
			orders[k+2] = append(orders[k+2], orders[k][h*w-1-i])
		}
	}
	if c.Directions != nil {
		index := 0 // of the block, which the name holds
		for fmt.Sprintf("layers.%d.blocks.0.", index) != p {
			index++
		}
		for k := range orders {
			orders[k] = naiveLocal(c.Directions[index][k], h, w)
		}
		// A map with a token of zeros, which has no influence but for its decay.
		u = append(u, make([]float64, e)...)
	}
	y := make([]float64, h*w*e)
	width := rank + 2*states
	for k, order := range orders {
		proj := product(u, n.get(p + "op.x_proj_weight")[k*width*e:(k+1)*width*e], nil, e)
		delta := product(columns(proj, width, 0, rank), n.get(p + "op.dt_projs_weight")[k*e*rank:(k+1)*e*rank], nil, rank)
		a := each(n.get(p + "op.A_logs")[k*e*states:(k+1)*e*states], negExp)
		out := scan(u, delta, n.get(p + "op.dt_projs_bias")[k*e:(k+1)*e], a, columns(proj, width, rank, rank+states), columns(proj, width, rank+states, width),
			n.get(p + "op.Ds")[k*e:(k+1)*e], states, order)[:h*w*e]
		if c.Directions != nil {
			q := p + "op.multi_scan.attn."
			low := each(n.linear(q+"global_reduce", mean(n.layerNorm(q+"norm", out, e, normEps), e), e), gelu)
			gate := n.linear(q+"channel_select", low, len(low))
			for i := range out {
				out[i] /= 1 + math.Exp(-gate[i%e])
			}
		}
		y = add(y, out)
	}
	y = n.layerNorm(p+"op.out_norm", y, e, normEps)
	if z != nil {
		y = mul(y, z)
	}
	return n.linear(p+"op.out_proj", y, e)
}

// naiveLocal is the official padding, cutting into windows and reversing.
func naiveLocal(direction string, h, w int) []int {
	var order []int
	name, flip := strings.CutSuffix(direction, "_flip")
	switch name {
	case "h":
		for t := range h * w {
			order = append(order, t)
		}
	case "v":
		for c := range w {
			for r := range h {
				order = append(order, r*w+c)
			}
		}
	default:
		k := int(name[1] - '0')
		for r0 := 0; r0 < h; r0 += k {
			for c0 := 0; c0 < w; c0 += k {
				for r := r0; r < r0+k; r++ {
					for c := c0; c < c0+k; c++ {
						if r < h && c < w {
							order = append(order, r*w+c)
						} else {
							order = append(order, h*w)
						}
					}
				}
			}
		}
	}
	if flip {
		slices.Reverse(order)
	}
	return order
}
