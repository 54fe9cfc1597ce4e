package block

import (
	"fmt"
	"testing"
)

func TestVim(t *testing.T) {
	c := Vim{Dim: 40, Depth: 3, StateDim: 5, PatchSize: 8, NumClasses: 7, ImgSize: 40}
	compareNaive(t, c, 40, 40, func(n naive, x []float64, h, w int) []float64 { return naiveVim(n, c, x, h, w) })
}

func naiveVim(n naive, c Vim, x []float64, h, w int) []float64 {
	d, e, states, rank := c.Dim, 2*c.Dim, c.StateDim, ceilDiv(c.Dim, 16)
	patches, _, _ := n.conv("patch_embed.proj", x, h, w, 3, c.PatchSize, 0, 1)
	middle := len(patches) / d / 2
	x = append(append(append([]float64{}, patches[:middle*d]...), n.get("cls_token")...), patches[middle*d:]...)
	x = add(x, n.get("pos_embed"))
	l := len(x) / d
	forward, backward := make([]int, l), make([]int, l)
	for i := range l {
		forward[i], backward[i] = i, l-1-i
	}
	for i := range c.Depth {
		p := fmt.Sprintf("layers.%d.", i)
		xz := n.linear(p+"mixer.in_proj", n.rmsNorm(p+"norm", x, d, normEps), d)
		in, z := columns(xz, 2*e, 0, e), each(columns(xz, 2*e, e, 2*e), silu)
		y := make([]float64, l*e)
		for k, order := range [][]int{forward, backward} {
			s := []string{"", "_b"}[k]
			u := each(n.causal(p+"mixer.conv1d"+s, in, e, order), silu)
			proj := n.linear(p+"mixer.x_proj"+s, u, e)
			width := rank + 2*states
			delta := product(columns(proj, width, 0, rank), n.get(p+"mixer.dt_proj"+s+".weight"), nil, rank)
			y = add(y, mul(z, scan(u, delta, n.get(p+"mixer.dt_proj"+s+".bias"), each(n.get(p+"mixer.A"+s+"_log"), negExp),
				columns(proj, width, rank, rank+states), columns(proj, width, rank+states, width), n.get(p+"mixer.D"+s), states, order)))
		}
		x = add(x, n.linear(p+"mixer.out_proj", each(y, func(v float64) float64 { return v / 2 }), e))
	}
	return n.linear("head", n.rmsNorm("norm_f", x[middle*d:(middle+1)*d], d, normEps), d)
}
