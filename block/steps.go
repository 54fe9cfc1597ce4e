package block

import (
	"context"
	"fmt"

	"github.com/mila-go/mila/kernels"
)

// Steps runs a model unfused, one named step after another, and hands every
// intermediate result to tap: patch_embed, layers.I.blocks.J.steps.STEP,
// layers.I.blocks.J, layers.I.downsample, norm, pooled and logits (the last
// three where the checkpoint has them). It is the slow path for looking inside
// a model and for checking the fused [Plan] against: no folding of BatchNorm or
// LayerNorm, no fused epilogues, plain buffers, weights read when they are
// needed. src is NCHW, batch images of h x w; any size is accepted, as by
// [Model.Plan].
//
// STEP is, in order: input, cpe1 (the convolution alone), after_cpe1, norm1,
// act_res, in_proj, dwc_silu, qk_linear, q, k (after ELU+1), q_rope, k_rope, z,
// kv, attn_core, lepe, attn_out, gated, out_proj, after_attn, cpe2, after_cpe2,
// norm2, mlp_gelu, mlp, output. Shapes have the batch in front: z is
// (batch, heads, tokens, 1), kv (batch, heads, dim, dim).
func Steps(ctx context.Context, cfg Config, weights Weights, batch, h, w int, src []float32, tap Tap, opts ...Option) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	o, err := resolve(opts)
	if err != nil {
		return err
	}
	groups, err := checkWeights(cfg, weights)
	if err != nil {
		return err
	}
	if err := (&mila{cfg: cfg}).check(batch, h, w); err != nil {
		return err
	}
	if want := batch * cfg.InChans * h * w; len(src) != want {
		return fmt.Errorf("block: the input has %d values, a batch of %d images of %d x %d x %d needs %d", len(src), batch, cfg.InChans, h, w, want)
	}
	s := &stepper{loader: loader{w: weights, level: o.level}, ctx: ctx, cfg: &cfg, batch: batch, tap: tap}
	x, th, tw := s.stem(src, h, w)
	for i, depth := range cfg.Depths {
		for j := range depth {
			if err := ctx.Err(); err != nil {
				return err
			}
			x = s.block(blockName(i, j), i, x, th, tw)
			if s.err != nil {
				return s.err
			}
		}
		if i+1 < len(cfg.Depths) {
			x, th, tw = s.downsample(i, x, th, tw)
		}
	}
	if groups["norm"] {
		c, l := cfg.Dim(len(cfg.Depths)-1), th*tw
		u := s.layerNorm("norm", x, c)
		tap("norm", []int{batch, l, c}, u)
		pooled := make([]float32, batch*c)
		for i := range batch {
			kernels.MeanRows(s.level, pooled[i*c:(i+1)*c], u[i*l*c:], c, l, c)
		}
		tap("pooled", []int{batch, c}, pooled)
		if groups["head"] {
			tap("logits", []int{batch, cfg.NumClasses}, s.dense("head", pooled, cfg.NumClasses, c, true))
		}
	}
	return s.err
}

type stepper struct {
	loader
	ctx   context.Context
	cfg   *Config
	batch int
	tap   Tap
}

// dense is a linear layer (or 1x1 convolution) on all rows of x.
func (s *stepper) dense(name string, x []float32, n, k int, bias bool) []float32 {
	l := s.linear(name, n, k, bias, nil)
	m := len(x) / k
	y := make([]float32, m*n)
	kernels.Gemm(s.level, y, n, x, k, l.w, m, n, k, kernels.Epilogue{Bias: l.b})
	return y
}

func (s *stepper) layerNorm(name string, x []float32, c int) []float32 {
	a := s.affine(name, c)
	y := make([]float32, len(x))
	kernels.LayerNorm(s.level, y, c, x, c, len(x)/c, c, a.gamma, a.beta, normEps)
	return y
}

func (s *stepper) batchNorm(name string, x []float32, c int) {
	a := s.affine(name, c)
	scale, shift := make([]float64, c), make([]float64, c)
	kernels.FoldBatchNorm(scale, shift, a.gamma, a.beta, s.tensor(name+".running_mean", c), s.tensor(name+".running_var", c), normEps)
	sc, sh := make([]float32, c), make([]float32, c)
	for i := range sc {
		sc[i], sh[i] = float32(scale[i]), float32(shift[i])
	}
	kernels.ScaleShift(s.level, x, x, sc, sh, len(x)/c, c)
}

func (s *stepper) activate(a kernels.Activation, x []float32) []float32 {
	y := make([]float32, len(x))
	kernels.Activate(s.level, a, y, x)
	return y
}

func (s *stepper) add(a, b []float32) []float32 {
	y := make([]float32, len(a))
	kernels.Add(s.level, y, a, b)
	return y
}

// dw is a depthwise convolution with bias of all images.
func (s *stepper) dw(name string, x []float32, h, w, c, stride int) []float32 {
	d := s.depthwise(name, c, true)
	oh, ow := ceilDiv(h, stride), ceilDiv(w, stride)
	y := make([]float32, s.batch*oh*ow*c)
	for i := range s.batch {
		kernels.DWConv3x3(s.level, y[i*oh*ow*c:], x[i*h*w*c:], d.w9, d.b, kernels.DWShape{H: h, W: w, Ch: c, Stride: stride, Row0: 0, Row1: oh}, kernels.Identity)
	}
	return y
}

// padded lays NHWC images of h x w into zeroed ones of ph x pw at (at, at).
func (s *stepper) padded(x []float32, h, w, c, ph, pw, at int) []float32 {
	y := make([]float32, s.batch*ph*pw*c)
	for i := range s.batch {
		for r := range h {
			copy(y[((i*ph+at+r)*pw+at)*c:], x[(i*h+r)*w*c:(i*h+r+1)*w*c])
		}
	}
	return y
}

// conv3 is a 3x3 convolution with padding 1 and then BatchNorm.
func (s *stepper) conv3(name string, x []float32, h, w, ci, co, stride int) []float32 {
	k := 9 * ci
	packed := make([]float32, kernels.PackedLen(s.level, co, k))
	kernels.PackConv(s.level, packed, s.scratch(name+".conv.weight", co*k), co, ci, 3, 3)
	p := s.padded(x, h, w, ci, h+2, w+2, 1)
	oh, ow := ceilDiv(h, stride), ceilDiv(w, stride)
	y := make([]float32, s.batch*oh*ow*co)
	for i := range s.batch {
		kernels.Conv2D(s.level, y[i*oh*ow*co:], p[i*(h+2)*(w+2)*ci:], packed, kernels.ConvShape{
			OutH: oh, OutW: ow, Cin: ci, Cout: co, KH: 3, KW: 3, Stride: stride, RowX: (w + 2) * ci, RowY: ow * co}, kernels.Epilogue{})
	}
	s.batchNorm(name+".norm", y, co)
	return y
}

func (s *stepper) stem(src []float32, h, w int) (x []float32, th, tw int) {
	ci, e := s.cfg.InChans, s.cfg.EmbedDim
	th, tw = ceilDiv(h, 4), ceilDiv(w, 4)
	in := make([]float32, s.batch*16*th*tw*ci)
	for i := range s.batch {
		kernels.PadNCHW(in[i*16*th*tw*ci:(i+1)*16*th*tw*ci], 4*tw*ci, 0, 4*th, 0, 0, src[i*ci*h*w:], ci, h, w)
	}
	x1 := s.activate(kernels.ReLU, s.conv3("patch_embed.conv1", in, 4*th, 4*tw, ci, e/2, 2))
	x2 := s.activate(kernels.ReLU, s.conv3("patch_embed.conv2.0", x1, 2*th, 2*tw, e/2, e/2, 1))
	x3 := s.add(x1, s.conv3("patch_embed.conv2.1", x2, 2*th, 2*tw, e/2, e/2, 1))
	x4 := s.activate(kernels.ReLU, s.conv3("patch_embed.conv3.0", x3, 2*th, 2*tw, e/2, 4*e, 2))
	x = s.dense("patch_embed.conv3.1.conv", x4, e, 4*e, false)
	s.batchNorm("patch_embed.conv3.1.norm", x, e)
	if s.cfg.APE {
		ape := s.tensor("absolute_pos_embed", th*tw*e)
		for i := range s.batch {
			xi := x[i*th*tw*e : (i+1)*th*tw*e]
			kernels.Add(s.level, xi, xi, ape)
		}
	}
	s.tap("patch_embed", []int{s.batch, th * tw, e}, x)
	return x, th, tw
}

func (s *stepper) block(name string, stage int, x []float32, h, w int) []float32 {
	c, heads, l := s.cfg.Dim(stage), s.cfg.NumHeads[stage], h*w
	d, b := c/heads, s.batch
	emit := func(step string, data []float32, shape ...int) []float32 {
		if shape == nil {
			shape = []int{b, l, len(data) / (b * l)}
		}
		s.tap(name+".steps."+step, shape, data)
		return data
	}
	p := name + "."
	emit("input", x)
	cpe1 := emit("cpe1", s.dw(p+"cpe1", x, h, w, c, 1))
	r := emit("after_cpe1", s.add(x, cpe1))
	u := emit("norm1", s.layerNorm(p+"norm1", r, c))
	g := emit("act_res", s.activate(kernels.SiLU, s.dense(p+"act_proj", u, c, c, true)))
	t := emit("in_proj", s.dense(p+"in_proj", u, c, c, true))
	v := emit("dwc_silu", s.activate(kernels.SiLU, s.dw(p+"dwc", t, h, w, c, 1)))

	qk := emit("qk_linear", s.dense(p+"attn.qk", v, 2*c, c, s.cfg.QKVBias))
	q, k := make([]float32, b*l*c), make([]float32, b*l*c)
	for i := range b * l {
		copy(q[i*c:(i+1)*c], qk[i*2*c:])
		copy(k[i*c:(i+1)*c], qk[i*2*c+c:])
	}
	q, k = emit("q", s.activate(kernels.ELU1, q)), emit("k", s.activate(kernels.ELU1, k))
	table := make([]float32, kernels.RoPE2DLen(h, w, c))
	kernels.RoPE2DTable(table, h, w, c, ropeBase)
	qr, kr := make([]float32, len(q)), make([]float32, len(k))
	for i := range b {
		kernels.RoPE2D(s.level, qr[i*l*c:], c, q[i*l*c:], c, table, h, w, c, 0, l)
		kernels.RoPE2D(s.level, kr[i*l*c:], c, k[i*l*c:], c, table, h, w, c, 0, l)
	}
	emit("q_rope", qr)
	emit("k_rope", kr)

	z := make([]float32, b*heads*l)
	kv := make([]float32, b*c*d)
	core := make([]float32, b*l*c)
	zero, mean := make([]float32, c), make([]float32, c)
	shape := kernels.LinAttnShape{H: h, W: w, Heads: heads, Dim: d, T1: l}
	for i := range b {
		kernels.MeanRows(s.level, mean, k[i*l*c:], c, l, c)
		for hd := range heads {
			for tok := range l {
				var dot float64
				for a := range d {
					dot += float64(q[(i*l+tok)*c+hd*d+a]) * float64(mean[hd*d+a])
				}
				z[(i*heads+hd)*l+tok] = float32(1 / (dot + attnEps))
			}
		}
		kvi, unused := kv[i*c*d:(i+1)*c*d], make([]float32, c)
		kernels.LinAttnKV(s.level, kvi, unused, kr[i*l*c:], c, v[i*l*c:], c, nil, shape)
		for j := range kvi {
			kvi[j] /= float32(l)
		}
		// The readout alone: a zero key sum and eps 1 make its normaliser 1.
		kernels.LinAttnReadout(s.level, core[i*l*c:], c, qr[i*l*c:], c, kvi, zero, nil, shape, 1)
		for tok := range l {
			for ch := range c {
				core[(i*l+tok)*c+ch] *= z[(i*heads+ch/d)*l+tok]
			}
		}
	}
	emit("z", z, b, heads, l, 1)
	emit("kv", kv, b, heads, d, d)
	emit("attn_core", core)
	lepe := emit("lepe", s.dw(p+"attn.lepe", v, h, w, c, 1))
	y := emit("attn_out", s.add(core, lepe))
	gated := make([]float32, len(y))
	kernels.Mul(s.level, gated, y, g)
	emit("gated", gated)
	out := emit("out_proj", s.dense(p+"out_proj", gated, c, c, true))
	x = emit("after_attn", s.add(r, out))
	cpe2 := emit("cpe2", s.dw(p+"cpe2", x, h, w, c, 1))
	x = emit("after_cpe2", s.add(x, cpe2))

	hid := s.cfg.hidden(stage)
	u = emit("norm2", s.layerNorm(p+"norm2", x, c))
	gelu := emit("mlp_gelu", s.activate(kernels.GELU, s.dense(p+"mlp.fc1", u, hid, c, true)))
	mlp := emit("mlp", s.dense(p+"mlp.fc2", gelu, c, hid, true))
	x = emit("output", s.add(x, mlp))
	s.tap(name, []int{b, l, c}, x)
	return x
}

func (s *stepper) downsample(stage int, x []float32, h, w int) (y []float32, oh, ow int) {
	c := s.cfg.Dim(stage)
	if h%2 != 0 || w%2 != 0 {
		x = s.padded(x, h, w, c, h+h%2, w+w%2, 0)
		h, w = h+h%2, w+w%2
	}
	p := downsampleName(stage) + ".conv."
	wide := s.activate(kernels.ReLU, s.dense(p+"0.conv", x, 8*c, c, true))
	small := s.activate(kernels.ReLU, s.dw(p+"1.conv", wide, h, w, 8*c, 2))
	y = s.dense(p+"2.conv", small, 2*c, 8*c, true)
	s.batchNorm(p+"2.norm", y, 2*c)
	oh, ow = h/2, w/2
	s.tap(downsampleName(stage), []int{s.batch, oh * ow, 2 * c}, y)
	return y, oh, ow
}
