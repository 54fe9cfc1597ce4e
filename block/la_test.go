package block

import (
	"context"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/mila-go/mila/internal/golden"
	"github.com/mila-go/mila/kernels"
)

// TestLinearAttention compares the baseline, each switch alone, and some together
// with an independent implementation.
func TestLinearAttention(t *testing.T) {
	base := LinearAttention{EmbedDim: 32, Depths: []int{1, 2}, NumHeads: []int{2, 4}, NumClasses: 7, ImgSize: 32}
	lists := []string{"", "+input-gate+forget-gate-multi-head-normaliser+shortcut", "+input-gate+forget-gate", "+block-all+lepe+rope+input-gate", "+block-sub+cpe+lepe+rope",
		"+block-sub+forget-gate+input-gate-normaliser-multi-head+shortcut", "+shortcut+lepe+cpe"}
	for _, s := range laSwitches {
		lists = append(lists, s.name)
	}
	for _, list := range lists {
		c, ok := base.Switched(list)
		if !ok {
			t.Fatalf("%s is not understood", list)
		}
		w := 64
		if c.APE {
			w = 32
		}
		t.Run(list, func(t *testing.T) {
			compareNaive(t, c, 32, w, func(n naive, x []float64, h, w int) []float64 { return naiveLA(n, c, x, h, w) })
		})
	}
	if _, ok := base.Switched("+forget-gates"); ok {
		t.Error("an unknown switch is accepted")
	}
}

// TestGoldenPlainBlock runs the reference's transformer blocks, whose parameters of the
// attention have no prefix of their own.
func TestGoldenPlainBlock(t *testing.T) {
	set := golden.Open(t, "linattn", false)
	var cases map[string]struct {
		Kind           string
		B, N, C, Heads int
	}
	golden.JSON(t, "linattn", &cases)
	compared := 0
	for id, c := range cases {
		if c.Kind != "plain_block" {
			continue
		}
		compared++
		cfg := LinearAttention{EmbedDim: c.C, Depths: []int{1}, NumHeads: []int{c.Heads}}
		h := int(math.Sqrt(float64(c.N)))
		shape := cfg.shape(0)
		shape.H, shape.W = h, c.N/h
		for _, level := range kernels.Levels() {
			l := &loader{w: renamed{set, func(name string) string { return id + ".w." + strings.Replace(name, "attn.", "", 1) }}, level: level}
			blk := cfg.block(l, "", 0)
			if l.err != nil {
				t.Fatal(l.err)
			}
			pool := newPool(2)
			b := newPlanner(level, pool, c.B, shape.H, shape.W)
			x := b.tokens(c.N, c.C)
			y := (&laNet{cfg: cfg}).block(b, &blk, &laStage{dim: c.C, inner: c.C}, x, shape, nil)
			p := b.finish()
			copy(p.f(x.buffer), set.F32(id+".x"))
			if err := p.run(context.Background()); err != nil {
				t.Fatal(err)
			}
			pool.close()
			golden.Near(t, fmt.Sprint(level, " ", id, ".y"), p.f(y.buffer), set.F32(id+".y"), 1e-5)
		}
	}
	if compared != 2 {
		t.Errorf("%d blocks compared", compared)
	}
}

func naiveLA(n naive, c LinearAttention, x []float64, h, w int) []float64 {
	x, h, w = n.conv("patch_embed.proj", x, h, w, 3, 4, 0, 1)
	x = n.layerNorm("patch_embed.norm", x, c.EmbedDim, normEps)
	d := c.EmbedDim
	for i, depth := range c.Depths {
		d = c.EmbedDim << i
		for j := range depth {
			p := blockName(i, j) + "."
			if c.APE {
				x = add(x, n.get(p+"ape"))
			}
			if c.CPE {
				y, _, _ := n.conv(p+"cpe", x, h, w, d, 1, 1, d)
				x = add(x, y)
			}
			x = add(x, naiveLABlock(n, c, p, n.layerNorm(p+"norm1", x, d, normEps), h, w, d, c.NumHeads[i]))
			if c.Block != "all" {
				x = add(x, n.mlp(p+"mlp", n.layerNorm(p+"norm2", x, d, normEps), d))
			}
		}
		if i+1 < len(c.Depths) {
			p := downsampleName(i)
			x, h, w = naiveMerge(n, p, x, h, w, d)
		}
	}
	return n.linear("head", mean(n.layerNorm("norm", x, d, normEps), d), d)
}

func naiveMerge(n naive, p string, x []float64, h, w, d int) ([]float64, int, int) {
	var merged []float64
	for r := 0; r < h; r += 2 {
		for s := 0; s < w; s += 2 {
			for _, at := range [][2]int{{r, s}, {r + 1, s}, {r, s + 1}, {r + 1, s + 1}} {
				t := at[0]*w + at[1]
				merged = append(merged, x[t*d:(t+1)*d]...)
			}
		}
	}
	return n.linear(p+".reduction", n.layerNorm(p+".norm", merged, 4*d, normEps), 4*d), h / 2, w / 2
}

func elu1(x float64) float64 { return math.Exp(math.Min(x, 0)) + math.Max(x, 0) }

func softplus(x float64) float64 { return math.Log1p(math.Exp(x)) }

func naiveLABlock(n naive, c LinearAttention, p string, u []float64, h, w, d, heads int) []float64 {
	l, e := h*w, d
	if c.Block == "all" {
		e = 2 * d
	}
	dv := e / heads
	dk, keys := dv, 0
	switch {
	case c.SingleHead:
		dk, keys = 32, 32
	case c.Block == "all":
		dk = dv * 3 / 4
	}
	if keys == 0 {
		keys = heads * dk
	}
	var q, k, v, gate []float64
	gated := u
	if c.Block == "" {
		qkv := n.linear(p+"attn.qkv", u, d)
		width := 2*keys + e
		q, k, v = columns(qkv, width, 0, keys), columns(qkv, width, keys, 2*keys), columns(qkv, width, 2*keys, width)
	} else {
		gate = each(n.linear(p+"act_proj", u, d), silu)
		v, _, _ = n.conv(p+"dwc", n.linear(p+"in_proj", u, d), h, w, e, 1, 1, e)
		v = each(v, silu)
		qk := n.linear(p+"attn.qk", v, e)
		q, k = columns(qk, 2*keys, 0, keys), columns(qk, 2*keys, keys, 2*keys)
		gated = v
	}
	q, k = each(q, elu1), each(k, elu1)
	var delta []float64
	if c.InputGate || c.ForgetGate {
		low := n.linear(p+"attn.dt1", gated, len(gated)/l)
		delta = each(n.linear(p+"attn.dt2", low, len(low)/l), softplus)
	}
	values := v
	if c.InputGate {
		values = mul(v, delta)
	}
	rq, rk := q, k
	if c.RoPE {
		rq, rk = rotated(q, h, w, keys), rotated(k, h, w, keys)
	}
	y := make([]float64, l*e)
	for head := range heads {
		at := head * dk
		if c.SingleHead {
			at = 0
		}
		for ch := head * dv; ch < (head+1)*dv; ch++ {
			state, sum := make([]float64, dk), make([]float64, dk)
			step := func(t int) {
				for a := range dk {
					g := 1.0
					if c.ForgetGate {
						g = math.Exp(delta[t*e+ch] * negExp(n.get(p + "attn.A_log")[ch*dk+a]))
					}
					state[a] = g*state[a] + rk[t*keys+at+a]*values[t*e+ch]
					sum[a] += k[t*keys+at+a]
				}
			}
			read := func(t int, eps float64) {
				num, den := 0.0, eps
				for a := range dk {
					num += rq[t*keys+at+a] * state[a]
					den += q[t*keys+at+a] * sum[a]
				}
				if c.NoNormaliser {
					den = 1
				}
				y[t*e+ch] = num / den
			}
			if c.ForgetGate {
				for t := range l {
					step(t)
					read(t, attnEps)
				}
				continue
			}
			for t := range l {
				step(t)
			}
			for t := range l {
				read(t, attnEps*float64(l))
			}
		}
	}
	if c.Shortcut {
		skip := n.get(p + "attn.D")
		for i := range y {
			y[i] += skip[i%e] * v[i]
		}
	}
	if c.LePE {
		position, _, _ := n.conv(p+"attn.lepe", v, h, w, e, 1, 1, e)
		y = add(y, position)
	}
	if gate != nil {
		y = mul(y, gate)
	}
	return n.linear(p+"attn.proj", y, e)
}

// rotated is RoPE in two dimensions, by the kernels' table.
func rotated(x []float64, h, w, c int) []float64 {
	table := make([]float32, kernels.RoPE2DLen(h, w, c))
	kernels.RoPE2DTable(table, h, w, c, ropeBase)
	in, out := make([]float32, len(x)), make([]float32, len(x))
	for i, v := range x {
		in[i] = float32(v)
	}
	kernels.RoPE2D(kernels.Generic, out, c, in, c, table, h, w, c, 0, h*w)
	return widen(out)
}

// TestPublishedCounts compares parameters and multiply-adds with the papers'.
func TestPublishedCounts(t *testing.T) {
	for _, c := range []struct {
		name         string
		params, macs string // millions, thousands of millions
	}{
		{"la-t", "28", "4.5"}, {"la-t+input-gate", "29", "4.5"}, {"la-t+forget-gate", "29", "4.8"}, {"la-t+shortcut", "28", "4.5"},
		{"la-t-normaliser", "28", "4.5"}, {"la-t-multi-head", "24", "3.9"}, {"la-t+block-all", "28", "4.7"}, {"la-t+block-sub", "30", "4.8"}, /* published as 31 */
		{"la-t+ape", "30", "4.5"}, {"la-t+lepe", "28", "4.5"}, {"la-t+cpe", "28", "4.5"}, {"la-t+rope", "28", "4.5"},
		{"vim-ti", "7", ""}, {"vim-s", "26", ""}, {"vim-b", "98", ""}, // counted in another way
		{"plainmamba-l1", "8", "3.0"}, {"plainmamba-l2", "26", "8.1"}, {"plainmamba-l3", "51", "14.4"}, // published without the head: 7, 25, 50
		{"localvmamba-t", "26", "5.7"}, {"localvmamba-s", "50", "11.4"},
		{"efficientvmamba-t", "6", "0.8"}, {"efficientvmamba-s", "11", "1.3"}, {"efficientvmamba-b", "34", "4.0"}, // published, cut off: 33
		{"vmamba-t", "30", "4.9"}, {"vmamba0-t", "23", "5.6"},
	} {
		a, ok := Named(c.name)
		if !ok {
			t.Fatalf("%s is unknown", c.name)
		}
		params, macs := fmt.Sprintf("%.0f", float64(a.Params())/1e6), fmt.Sprintf("%.1f", float64(a.MACs(224, 224))/1e9)
		if params != c.params || c.macs != "" && macs != c.macs {
			t.Errorf("%s: %s M parameters and %s G multiply-adds (%.3f, %.3f), published %s and %s", c.name, params, macs, float64(a.Params())/1e6, float64(a.MACs(224, 224))/1e9, c.params, c.macs)
		}
	}
}
