package block

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"

	"github.com/mila-go/mila/kernels"
)

// LinearAttention is the configuration of the models behind the tables 1 and 2 of
// arXiv 2405.16605: Swin-T with linear attention over all tokens in place of its
// windowed softmax attention, and, each on its own or together, the six
// distinctions of Mamba and the position encodings that can stand in for a forget
// gate. The paper published no code for them; what is our choice is said at the
// fields. A block is
//
//	x = x + proj(y(q, k, v; LN x)) ;  x = x + fc2 GELU(fc1 LN x)
//	y_i = q_i S / (q_i Z),  S = Σ_j k_jᵀ (w_j ⊙ v_j),  Z = Σ_j k_jᵀ,  q, k = ELU(·) + 1
//
// Checked against an independent implementation in float64.
type LinearAttention struct {
	EmbedDim   int   `json:"embed_dim"` // channels of the first stage; stage i has EmbedDim * 2^i
	Depths     []int `json:"depths"`
	NumHeads   []int `json:"num_heads"`
	NumClasses int   `json:"num_classes"`
	ImgSize    int   `json:"img_size"` // binding where APE is set

	// InputGate multiplies the values by w = Δ = Softplus(x W1 W2 + b), W1 and W2
	// being of rank C/16 (our choice).
	InputGate bool `json:"input_gate"`
	// ForgetGate makes attention causal, in the order of rows, and lets the state
	// decay: S_i = exp(Δ_i A) ⊙ S_(i-1) + k_iᵀ v_i for A of (C, d), equation 12, and
	// Δ as that of the input gate, which it shares where both are set.
	ForgetGate bool `json:"forget_gate"`
	// Shortcut adds D ⊙ v to y.
	Shortcut bool `json:"shortcut"`
	// NoNormaliser leaves out the division by q Z.
	NoNormaliser bool `json:"no_normaliser"`
	// SingleHead takes one query and key of sharedKey channels for all channels of
	// the values.
	SingleHead bool `json:"single_head"`
	// Block is "", or "all": the block of Mamba, of twice the width, instead of
	// attention and MLP; or "sub": such a block of the same width in place of
	// attention, before an MLP, as in MILA. Its 30.5 M parameters are published as
	// 31 M; we found no choice that is as plain and reaches that.
	Block string `json:"block"`

	// Position encodings: an absolute one added to the input of each block (our
	// choice: the published parameters ask for more than one a stage), LePE (a
	// depthwise 3x3 of the values added to y), CPE (one added to the block's input)
	// and RoPE in two dimensions.
	APE  bool `json:"ape"`
	LePE bool `json:"lepe"`
	CPE  bool `json:"cpe"`
	RoPE bool `json:"rope"`
}

// Widths that the paper does not tell, chosen so that parameters and operations
// round to the published ones.
const (
	sharedKey = 32 // channels of a single head's query and key
	allKeys   = 3  // block "all": keys have allKeys/4 the channels of values
)

// linearAttention is the name of the architecture in checkpoints and in errors.
const linearAttention = "linear attention"

// ArchitectureFromMap reads the configuration that a checkpoint holds: where its
// "architecture" is "linear attention", the keys of [LinearAttention]; else what
// [ConfigFromMap] reads.
func ArchitectureFromMap(m map[string]any) (Architecture, error) {
	inner := m
	if c, ok := m["config"].(map[string]any); ok {
		inner = c
	}
	if inner["architecture"] != linearAttention {
		return ConfigFromMap(m)
	}
	var c LinearAttention
	data, err := json.Marshal(inner)
	if err == nil {
		err = json.Unmarshal(data, &c)
	}
	if err != nil {
		return nil, fmt.Errorf("block: configuration: %w", err)
	}
	return c, c.Validate()
}

// BaselineTiny is the baseline of table 1.
func BaselineTiny() LinearAttention {
	return LinearAttention{EmbedDim: 96, Depths: []int{2, 2, 6, 2}, NumHeads: []int{3, 6, 12, 24}, NumClasses: 1000, ImgSize: 224}
}

// laSwitches are the parts of names such as la-t+forget-gate+lepe.
var laSwitches = []struct {
	name string
	set  func(*LinearAttention)
}{
	{"+input-gate", func(c *LinearAttention) { c.InputGate = true }},
	{"+forget-gate", func(c *LinearAttention) { c.ForgetGate = true }},
	{"+shortcut", func(c *LinearAttention) { c.Shortcut = true }},
	{"-normaliser", func(c *LinearAttention) { c.NoNormaliser = true }},
	{"-multi-head", func(c *LinearAttention) { c.SingleHead = true }},
	{"+block-all", func(c *LinearAttention) { c.Block = "all" }},
	{"+block-sub", func(c *LinearAttention) { c.Block = "sub" }},
	{"+ape", func(c *LinearAttention) { c.APE = true }},
	{"+lepe", func(c *LinearAttention) { c.LePE = true }},
	{"+cpe", func(c *LinearAttention) { c.CPE = true }},
	{"+rope", func(c *LinearAttention) { c.RoPE = true }},
}

// Switched returns c with the switches that a list such as "+forget-gate-normaliser"
// names, and whether it names nothing else.
func (c LinearAttention) Switched(list string) (LinearAttention, bool) {
	for list != "" {
		found := false
		for _, s := range laSwitches {
			rest, ok := strings.CutPrefix(list, s.name)
			if found = ok; ok {
				s.set(&c)
				list = rest
				break
			}
		}
		if !found {
			return c, false
		}
	}
	return c, true
}

// String names the configuration in errors.
func (c LinearAttention) String() string {
	return fmt.Sprintf(linearAttention+": embed_dim %d, depths %v, num_heads %v, input gate %v, forget gate %v, shortcut %v, normaliser %v, single head %v, block %q, APE %v, LePE %v, CPE %v, RoPE %v",
		c.EmbedDim, c.Depths, c.NumHeads, c.InputGate, c.ForgetGate, c.Shortcut, !c.NoNormaliser, c.SingleHead, c.Block, c.APE, c.LePE, c.CPE, c.RoPE)
}

// Validate says what is wrong with the configuration, if anything.
func (c LinearAttention) Validate() error {
	bad := func(what string) error { return fmt.Errorf("block: configuration %v: %s", c, what) }
	switch {
	case c.EmbedDim < 16 || c.EmbedDim > 1<<13 || c.EmbedDim%16 != 0:
		return bad("embed_dim must be a multiple of 16")
	case len(c.Depths) < 1 || len(c.Depths) > 6 || len(c.Depths) != len(c.NumHeads):
		return bad("depths and num_heads must name the same 1 to 6 stages")
	case c.NumClasses < 1:
		return bad("num_classes must be at least 1")
	case c.Block != "" && c.Block != "all" && c.Block != "sub":
		return bad(`block must be "", "all" or "sub"`)
	case c.RoPE && c.ForgetGate:
		return bad("RoPE stands in for the forget gate; they do not go together")
	case c.APE && (c.ImgSize < 32 || c.ImgSize%(4<<(len(c.Depths)-1)) != 0):
		return bad("with APE, img_size must be a multiple of what the stages divide it by")
	}
	for i, h := range c.NumHeads {
		s := c.shape(i)
		if d := c.EmbedDim << i; c.Depths[i] < 1 || h < 1 || d%h != 0 || s.KeyChannels()%4 != 0 || c.inner(i)%s.Heads != 0 || c.Block == "all" && s.Dim*allKeys%4 != 0 {
			return bad(fmt.Sprintf("%d heads do not fit the channels of stage %d", h, i))
		}
		if _, n := s.Key(0); c.ForgetGate && n > 64 {
			return bad("with a forget gate, heads have at most 64 key channels")
		}
	}
	return nil
}

// inner returns the channels of the values in stage i.
func (c LinearAttention) inner(i int) int {
	if c.Block == "all" {
		return 2 * (c.EmbedDim << i)
	}
	return c.EmbedDim << i
}

// shape returns that of stage i's attention, without tokens. Single heads count as
// several that share their keys.
func (c LinearAttention) shape(i int) kernels.LinAttnShape {
	s := kernels.LinAttnShape{Heads: c.NumHeads[i], Dim: c.inner(i) / c.NumHeads[i]}
	switch {
	case c.SingleHead:
		s.SharedKeys, s.KeyDim = true, sharedKey
	case c.Block == "all":
		s.KeyDim = s.Dim * allKeys / 4
	default:
		s.KeyDim = s.Dim
	}
	return s
}

// Image returns the channels of an image and the size trained at.
func (c LinearAttention) Image() (chans, size int) { return 3, c.ImgSize }

// Classes returns the number of outputs of the classification head.
func (c LinearAttention) Classes() int { return c.NumClasses }

// Tensors returns every parameter.
func (c LinearAttention) Tensors() []TensorSpec { return declared(c) }

// Params returns the number of trainable parameters.
func (c LinearAttention) Params() int { return countParams(declared(c)) }

// MACs returns the multiply-adds of one image. A scan counts nine for each state and
// a norm five for each channel, as in the published figures.
func (c LinearAttention) MACs(h, w int) int64 { return plannedMACs(c, h, w) }

type laNet struct {
	cfg    LinearAttention
	stem   linear
	embed  affine
	stages []laStage
	norm   affine
	head   linear
}

type laStage struct {
	dim, inner int
	shape      kernels.LinAttnShape
	blocks     []laBlock
	down       linear
}

type laBlock struct {
	ape        []float32
	cpe        depthwise
	in         linear // queries, keys, values; or, with another block, the values alone
	act, qk    linear // with another block
	conv, lepe depthwise
	gate1      linear // of Δ
	gate2      linear
	a          []*kernels.ScanA // by head
	d          []float32
	out        linear
	mlp        mlp
}

func (c LinearAttention) network(l *loader, groups has) network {
	m := &laNet{cfg: c}
	m.stem, m.embed = l.conv("patch_embed.proj", c.EmbedDim, 3, 4, true), l.affine("patch_embed.norm", c.EmbedDim)
	for i, depth := range c.Depths {
		d := c.EmbedDim << i
		st := laStage{dim: d, inner: c.inner(i), shape: c.shape(i)}
		for j := range depth {
			st.blocks = append(st.blocks, c.block(l, blockName(i, j)+".", i))
		}
		if i+1 < len(c.Depths) {
			norm := l.affine(downsampleName(i)+".norm", 4*d)
			st.down = l.linear(downsampleName(i)+".reduction", 2*d, 4*d, false, &norm)
		}
		m.stages = append(m.stages, st)
	}
	m.norm, m.head = l.classifier(groups, "norm", "head", c.NumClasses, c.EmbedDim<<(len(c.Depths)-1))
	return m
}

func (c LinearAttention) block(l *loader, p string, i int) laBlock {
	d, e, s := c.EmbedDim<<i, c.inner(i), c.shape(i)
	keys := s.KeyChannels()
	var b laBlock
	if c.APE {
		side := c.ImgSize / (4 << i)
		b.ape = l.vector(p+"ape", 1, side*side, d)
	}
	if c.CPE {
		b.cpe = l.depthwise(p+"cpe", d, true)
	}
	norm1 := l.affine(p+"norm1", d)
	gated := d // channels that Δ is computed from
	if c.Block == "" {
		b.in = l.linear(p+"attn.qkv", 2*keys+e, d, true, &norm1)
	} else {
		b.in = l.linear(p+"in_proj", e, d, true, &norm1)
		b.act = l.linear(p+"act_proj", e, d, true, &norm1)
		b.conv = l.depthwise(p+"dwc", e, true)
		b.qk = l.linear(p+"attn.qk", 2*keys, e, true, nil)
		gated = e
	}
	if c.InputGate || c.ForgetGate {
		rank := ceilDiv(d, 16)
		var before *affine
		if c.Block == "" {
			before = &affine{gamma: norm1.gamma, beta: norm1.beta}
		}
		b.gate1 = l.linear(p+"attn.dt1", rank, gated, before != nil, before)
		b.gate2 = l.linear(p+"attn.dt2", e, rank, true, nil)
	}
	if c.ForgetGate {
		_, n := s.Key(0)
		logs := l.vector(p+"attn.A_log", e, n)
		for h := range s.Heads {
			if l.declares {
				break
			}
			a := make([]float32, s.Dim*n)
			for j := range a {
				a[j] = float32(-math.Exp(float64(logs[h*s.Dim*n+j])))
			}
			b.a = append(b.a, kernels.NewScanA(a, s.Dim, n, 1))
		}
	}
	if c.Shortcut {
		b.d = l.vector(p+"attn.D", e)
	}
	if c.LePE {
		b.lepe = l.depthwise(p+"attn.lepe", e, true)
	}
	b.out = l.linear(p+"attn.proj", d, e, true, nil)
	if c.Block != "all" {
		norm2 := l.affine(p+"norm2", d)
		b.mlp = l.mlp(p+"mlp", d, 4*d, &norm2)
	}
	return b
}

func (m *laNet) check(batch, h, w int) error {
	if m.cfg.APE {
		return ownSize(m.cfg, m.cfg.EmbedDim, batch, h, w)
	}
	return multipleOf(4<<(len(m.stages)-1), m.cfg, m.cfg.EmbedDim, batch, h, w)
}

func (m *laNet) channels() []featureMap {
	out := make([]featureMap, len(m.stages))
	for i, st := range m.stages {
		out[i].channels = st.dim
	}
	return out
}

func (m *laNet) plan(b *planner) {
	x, h, w := b.imageConv(&m.stem, 3, 4, 4, 0, kernels.Identity)
	b.norm(x, x, h, w, &m.embed, normEps, kernels.Identity)
	b.tap("patch_embed", x, b.batch, h*w, x.ld)
	for i := range m.stages {
		st := &m.stages[i]
		b.maps = append(b.maps, [2]int{h, w})
		shape := st.shape
		shape.H, shape.W = h, w
		var rope []float32
		if m.cfg.RoPE {
			rope = make([]float32, kernels.RoPE2DLen(h, w, shape.KeyChannels()))
			kernels.RoPE2DTable(rope, h, w, shape.KeyChannels(), ropeBase)
		}
		for j := range st.blocks {
			x = m.block(b, blockName(i, j), &st.blocks[j], st, x, shape, rope)
			b.tap(blockName(i, j), x, b.batch, h*w, st.dim)
		}
		if i+1 < len(m.stages) {
			old := x
			x, h, w = b.merge(old, h, w, &st.down)
			b.release(old.buffer)
			b.tap(downsampleName(i), x, b.batch, h*w, x.ld)
		}
	}
	b.classify(x, h, w, m.norm, normEps, m.head)
}

// block plans one block and returns its result, in x or in place of it. Where there
// are gates, their Δ before its Softplus is tapped as NAME.attn.dt2.
func (m *laNet) block(b *planner, name string, blk *laBlock, st *laStage, x tokens, shape kernels.LinAttnShape, rope []float32) tokens {
	p, level, cfg := b.Plan, b.level, &m.cfg
	h, w := shape.H, shape.W
	c, e, l := st.dim, st.inner, h*w
	keys := shape.KeyChannels()
	fused := b.byRows(h, w)
	from := x // closures must not see that x becomes another
	if cfg.APE {
		b.chain(fused, h, w, op{run: func(t tile) {
			to := p.rows(from, t, w)[:(t.r1-t.r0)*w*c]
			kernels.Add(level, to, to, blk.ape[t.r0*w*c:t.r1*w*c])
		}})
	}
	if cfg.CPE {
		y := b.tokens(l, c)
		b.count(9 * l * c)
		b.chain(false, h, w, op{c, lanes, func(t tile) {
			w9, bias := blk.cpe.from(t.j0)
			kernels.DWConv3x3Residual(level, p.image(y, t.image)[t.j0:], p.image(from, t.image)[t.j0:], w9, bias,
				kernels.DWShape{H: h, W: w, Ch: t.j1 - t.j0, LdX: c, LdY: c, LdW: c, Stride: 1, Row0: t.r0, Row1: t.r1})
		}})
		b.release(from.buffer)
		x = y
	}

	// q, k and v (from column at on), in one matrix or two; and Δ.
	used := 0
	u := b.between(fused, h, w, c, &used)
	var qk, v, g, delta tokens
	at := 0
	gates := cfg.InputGate || cfg.ForgetGate
	low := tokens{}
	if gates {
		delta = b.tokens(l, e)
		low = b.between(fused, h, w, ceilDiv(blk.gate1.n, lanes)*lanes, &used)
	}
	first := []op{b.normed(u, x, h, w, normEps)}
	gate := func(from tokens) []op {
		if !gates {
			return nil
		}
		return []op{b.project(low, from, h, w, &blk.gate1, kernels.Identity, nil), b.project(delta, low, h, w, &blk.gate2, kernels.Identity, nil)}
	}
	if cfg.Block == "" {
		qk = b.tokens(l, 2*keys+e)
		v, at = qk, 2*keys
		b.count(l * c * (2*keys + e))
		panel := kernels.PanelWidth(level)
		b.chain(fused, h, w, append(append(first, op{2*keys + e, panel, func(t tile) {
			// The last rows of the projection are values and take no ELU.
			to, from, n := p.rows(qk, t, w), p.rows(u, t, w), (t.r1-t.r0)*w
			blk.in.apply(level, to, qk.ld, from, u.ld, n, t.j0, t.j1, kernels.Epilogue{})
			for i := range n {
				if row := to[i*qk.ld+t.j0 : i*qk.ld+max(t.j0, min(t.j1, 2*keys))]; len(row) > 0 {
					kernels.Activate(level, kernels.ELU1, row, row)
				}
			}
		}}), gate(u)...)...)
	} else {
		in := b.tokens(l, e)
		g, v, qk = b.tokens(l, e), b.tokens(l, e), b.tokens(l, 2*keys)
		b.chain(fused, h, w, append(first, b.project(g, u, h, w, &blk.act, kernels.SiLU, nil), b.project(in, u, h, w, &blk.in, kernels.Identity, nil))...)
		b.chain(fused, h, w, append([]op{b.depthwiseOp(v, in, 0, e, h, w, &blk.conv, kernels.SiLU), b.project(qk, v, h, w, &blk.qk, kernels.ELU1, nil)}, gate(v)...)...)
		b.release(in.buffer)
	}
	if gates {
		b.tap(name+".attn.dt2", delta, b.batch, l, e)
	}
	if !fused {
		b.release(u.buffer)
		if gates {
			b.release(low.buffer)
		}
	}

	y := b.tokens(l, e)
	if cfg.ForgetGate {
		m.recurrence(b, blk, y, qk, v, at, delta, shape)
	} else {
		m.attention(b, y, qk, v, at, delta, shape, rope)
	}

	// What is added to y, the gate, and the way out.
	lepe := tokens{}
	if cfg.LePE {
		lepe = b.tokens(l, e)
		b.chain(false, h, w, b.depthwiseOp(lepe, columnsOf(v, at), 0, e, h, w, &blk.lepe, kernels.Identity))
	}
	b.chain(fused, h, w, op{run: func(t tile) {
		n := (t.r1 - t.r0) * w
		to, from := p.rows(y, t, w)[:n*e], p.rows(v, t, w)
		if cfg.Shortcut {
			for i := range n {
				row, value := to[i*e:(i+1)*e], from[i*v.ld+at:i*v.ld+at+e]
				for j, d := range blk.d {
					row[j] += d * value[j]
				}
			}
		}
		if cfg.LePE {
			kernels.Add(level, to, to, p.rows(lepe, t, w)[:n*e])
		}
		if cfg.Block != "" {
			kernels.Mul(level, to, to, p.rows(g, t, w)[:n*e])
		}
	}}, b.project(x, y, h, w, &blk.out, kernels.Identity, &x))
	b.release(qk.buffer, y.buffer)
	if cfg.LePE {
		b.release(lepe.buffer)
	}
	if cfg.Block != "" {
		b.release(g.buffer, v.buffer)
	}
	if gates {
		b.release(delta.buffer)
	}
	if cfg.Block != "all" {
		b.mlp(x, h, w, &blk.mlp, normEps)
	}
	return x
}

// attention plans y = q S / (q Z) over all tokens, with values w ⊙ v where there is
// an input gate; delta holds Δ before its Softplus, and then the values.
func (m *laNet) attention(b *planner, y, qk, v tokens, at int, delta tokens, shape kernels.LinAttnShape, rope []float32) {
	p, level, h, w := b.Plan, b.level, shape.H, shape.W
	keys, e := shape.KeyChannels(), y.ld
	l := h * w
	_, kd := shape.Key(0)
	b.count(2 * l * e * kd)
	values := columnsOf(v, at)
	if m.cfg.InputGate {
		b.chain(false, h, w, op{run: func(t tile) {
			to, x := p.rows(delta, t, w), p.rows(v, t, w)
			for i := range (t.r1 - t.r0) * w {
				row := to[i*e : (i+1)*e]
				kernels.Softplus(level, row, row)
				kernels.Mul(level, row, row, x[i*v.ld+at:i*v.ld+at+e])
			}
		}})
		values = delta
	}
	state, first := b.keyValueState(shape, columnsOf(qk, keys), values, rope, !m.cfg.NoNormaliser)
	b.chain(b.byRows(h, w), h, w, op{e, shape.Dim, func(t tile) {
		s := shape
		s.T0, s.T1, s.Head0, s.Head1 = t.r0*w, t.r1*w, t.j0/s.Dim, t.j1/s.Dim
		kv := p.f(buffer{first.off + t.image*first.n, state})
		var sum []float32
		if !m.cfg.NoNormaliser {
			sum = kv[e*kd:]
		}
		kernels.LinAttnReadout(level, p.image(y, t.image), e, p.image(qk, t.image), qk.ld, kv[:e*kd], sum, rope, s, attnEps*float32(l))
	}})
	b.release(buffer{first.off, b.batch * first.n})
}

// recurrence plans the causal form, in the order of rows: the scan's B and C are
// keys and queries, its N the channels of a key. The sum of keys does not decay.
func (m *laNet) recurrence(b *planner, blk *laBlock, y, qk, v tokens, at int, delta tokens, shape kernels.LinAttnShape) {
	p, level := b.Plan, b.level
	keys, e, d := shape.KeyChannels(), y.ld, shape.Dim
	l := shape.H * shape.W
	_, kd := shape.Key(0)
	b.count(9 * l * e * kd)
	b.need(kd*d + kd)
	b.step(b.batch*shape.Heads, func(task, worker int) {
		i, head := task/shape.Heads, task%shape.Heads
		kh, _ := shape.Key(head)
		scratch, c0 := p.work(worker), head*d
		state, sum := scratch[:kd*d], scratch[kd*d:kd*d+kd]
		clear(state)
		q, k := p.image(qk, i)[kh:], p.image(qk, i)[keys+kh:]
		to := p.image(y, i)[c0:]
		kernels.Scan(level, to, state, p.image(v, i)[at+c0:], p.image(delta, i)[c0:], blk.a[head], k, q,
			kernels.ScanShape{L: l, Ch: d, N: kd, LdY: e, LdU: v.ld, LdDelta: e, LdB: qk.ld, LdC: qk.ld}, kernels.ScanOptions{Softplus: true, NoInputGate: !m.cfg.InputGate})
		if m.cfg.NoNormaliser {
			return
		}
		clear(sum)
		for t := range l {
			den := float32(attnEps)
			query := q[t*qk.ld : t*qk.ld+kd]
			for j, x := range k[t*qk.ld : t*qk.ld+kd] {
				sum[j] += x
				den += query[j] * sum[j]
			}
			inv, row := 1/den, to[t*e:t*e+d]
			for j := range row {
				row[j] *= inv
			}
		}
	})
}
