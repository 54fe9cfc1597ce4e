package block

import (
	"fmt"
	"runtime"
	"strconv"

	"github.com/mila-go/mila/internal/hugepage"
	"github.com/mila-go/mila/kernels"
)

// Numerical constants of the reference model.
const (
	normEps  = 1e-5  // LayerNorm and BatchNorm
	attnEps  = 1e-6  // added to the attention normaliser q·mean(k)
	ropeBase = 10000 // frequency base of RoPE
)

// Model is an architecture with its weights folded (BatchNorm into convolutions,
// LayerNorm's affine into the linear layers after it) and packed for one
// instruction-set level. It is immutable and safe for concurrent use.
type Model struct {
	arch   Architecture
	net    network
	level  kernels.Level
	pool   *pool
	groups has
}

// mila is the network of a [Config].
type mila struct {
	cfg Config

	conv1, conv20, conv21, conv30 linear // stem; k = 9 * input channels
	conv31                        linear
	ape                           []float32
	stages                        []stage
	norm                          affine
	head                          linear
}

type stage struct {
	dim, heads, hidden int
	blocks             []milaBlock
	down               *downsample // nil after the last stage
	norm               affine      // of the feature map; nil slices where absent
}

type milaBlock struct {
	cpe1, dwc, lepe, cpe2      depthwise
	act, in, qk, out, fc1, fc2 linear
}

type downsample struct {
	expand linear // dim -> 8 dim
	dw     depthwise
	reduce linear // 8 dim -> 2 dim
}

// linear is a packed weight matrix (n x k) and its bias.
type linear struct {
	w, b []float32
	n, k int
}

// apply computes channels [j0, j1) of y = act(x Wᵀ + b), then the rest of the
// epilogue, for rows tokens. j0 is a multiple of the panel's width; y, ep.Mul and
// ep.Add begin at channel 0.
func (l *linear) apply(level kernels.Level, y []float32, ldy int, x []float32, ldx, rows, j0, j1 int, ep kernels.Epilogue) {
	if l.b != nil {
		ep.Bias = l.b[j0:]
	}
	if ep.Add != nil {
		ep.Add = ep.Add[j0:]
	}
	kernels.Gemm(level, y[j0:], ldy, x, ldx, l.w[j0*l.k:], rows, j1-j0, l.k, ep)
}

type depthwise struct{ w9, b []float32 }

// from returns the weights and the bias of channels from j0 on.
func (d *depthwise) from(j0 int) (w9, bias []float32) {
	if d.b != nil {
		bias = d.b[j0:]
	}
	return d.w9[j0:], bias
}

type affine struct{ gamma, beta []float32 }

// Option changes how [New] builds a model.
type Option func(*options)

type options struct {
	level   kernels.Level
	threads int
}

// WithLevel makes the model run at the given instruction-set level instead of
// the best one.
func WithLevel(l kernels.Level) Option { return func(o *options) { o.level = l } }

// WithThreads sets how many threads a Forward uses; the default, 0, is
// GOMAXPROCS. Results are bit-identical for every number.
func WithThreads(n int) Option { return func(o *options) { o.threads = n } }

func resolve(opts []Option) (options, error) {
	var o options
	for _, f := range opts {
		f(&o)
	}
	if err := o.level.Err(); err != nil {
		return o, err
	}
	if o.level == kernels.Auto {
		o.level, _ = kernels.Default()
	}
	if o.threads < 0 || o.threads > 1024 {
		return o, fmt.Errorf("block: %d threads; use 1 to 1024, or 0 for all", o.threads)
	}
	if o.threads == 0 {
		o.threads = runtime.GOMAXPROCS(0)
	}
	return o, nil
}

// New builds a model from an architecture, for instance a [Config], and weights
// with official parameter names. Weights are read one tensor at a time and kept
// only in packed form. Missing, unexpected and misshapen tensors are one error that
// names them; rotation tables and batch counters in a checkpoint are ignored.
// Checkpoints without a classification head (norm, head) or without the norms of
// feature maps (norm0 ..) are accepted; the outputs that need them are then not
// available.
func New(a Architecture, w Weights, opts ...Option) (*Model, error) {
	if err := a.Validate(); err != nil {
		return nil, err
	}
	o, err := resolve(opts)
	if err != nil {
		return nil, err
	}
	groups, err := checkWeights(a, w)
	if err != nil {
		return nil, err
	}
	l := newLoader(w, o.level, a.Tensors())
	m := &Model{arch: a, net: a.network(l, groups), level: o.level, pool: newPool(o.threads), groups: groups}
	if l.err != nil {
		m.pool.close()
		return nil, l.err
	}
	// Workers know only the pool, so a dropped model is collected and ends them.
	runtime.AddCleanup(m, (*pool).close, m.pool)
	return m, nil
}

// network reads a MILA.
func (cfg Config) network(l *loader, groups has) network {
	m := &mila{cfg: cfg}
	e := cfg.EmbedDim
	m.conv1 = l.convBN("patch_embed.conv1", e/2, cfg.InChans, 3)
	m.conv20 = l.convBN("patch_embed.conv2.0", e/2, e/2, 3)
	m.conv21 = l.convBN("patch_embed.conv2.1", e/2, e/2, 3)
	m.conv30 = l.convBN("patch_embed.conv3.0", 4*e, e/2, 3)
	m.conv31 = l.convBN("patch_embed.conv3.1", e, 4*e, 1)
	if cfg.APE {
		m.ape = l.tensor("absolute_pos_embed", cfg.ImgSize/4*(cfg.ImgSize/4)*e)
	}
	for i, depth := range cfg.Depths {
		d := cfg.Dim(i)
		st := stage{dim: d, heads: cfg.NumHeads[i], hidden: cfg.hidden(i)}
		for j := range depth {
			p := blockName(i, j) + "."
			n1, n2 := l.affine(p+"norm1", d), l.affine(p+"norm2", d)
			st.blocks = append(st.blocks, milaBlock{
				cpe1: l.depthwise(p+"cpe1", d, true),
				dwc:  l.depthwise(p+"dwc", d, true),
				lepe: l.depthwise(p+"attn.lepe", d, true),
				cpe2: l.depthwise(p+"cpe2", d, true),
				act:  l.linear(p+"act_proj", d, d, true, &n1),
				in:   l.linear(p+"in_proj", d, d, true, &n1),
				qk:   l.linear(p+"attn.qk", 2*d, d, cfg.QKVBias, nil),
				out:  l.linear(p+"out_proj", d, d, true, nil),
				fc1:  l.linear(p+"mlp.fc1", st.hidden, d, true, &n2),
				fc2:  l.linear(p+"mlp.fc2", d, st.hidden, true, nil),
			})
		}
		if i+1 < len(cfg.Depths) {
			p := downsampleName(i) + ".conv."
			st.down = &downsample{
				expand: l.linear(p+"0.conv", 8*d, d, true, nil),
				dw:     l.depthwise(p+"1.conv", 8*d, true),
				reduce: l.convBN(p+"2", 2*d, 8*d, 1),
			}
		}
		if name := "norm" + strconv.Itoa(i); groups[name] {
			st.norm = l.affine(name, d)
		}
		m.stages = append(m.stages, st)
	}
	last := cfg.Dim(len(cfg.Depths) - 1)
	if groups["norm"] {
		m.norm = l.affine("norm", last)
	}
	if groups["head"] {
		m.head = l.linear("head", cfg.NumClasses, last, true, nil)
	}
	return m
}

// Architecture returns the model's configuration.
func (m *Model) Architecture() Architecture { return m.arch }

// Config returns the configuration of a MILA; the zero value for others.
func (m *Model) Config() Config {
	cfg, _ := m.arch.(Config)
	return cfg
}

// Level returns the instruction-set level that the model runs at.
func (m *Model) Level() kernels.Level { return m.level }

// Threads returns the number of threads that a Forward uses.
func (m *Model) Threads() int { return m.pool.n }

// HasHead reports whether the checkpoint brought the classification head.
func (m *Model) HasHead() bool { return m.groups["head"] }

// HasPooled reports whether the checkpoint brought the final norm, which pooled
// features need.
func (m *Model) HasPooled() bool { return m.groups["norm"] }

// Channels returns those of each stage; the last is also the length of pooled
// features.
func (m *Model) Channels() []int {
	var out []int
	for _, f := range m.net.channels() {
		out = append(out, f.channels)
	}
	return out
}

// MissingFeatureNorms returns the names of the feature-map norms that the
// checkpoint lacks; feature maps are available if there are none.
func (m *Model) MissingFeatureNorms() []string {
	var out []string
	for i, f := range m.net.channels() {
		if !f.normed {
			out = append(out, "norm"+strconv.Itoa(i))
		}
	}
	return out
}

// loader reads, folds and packs parameters. It remembers the first error, so
// that the code above reads as a list.
//
// A loader that declares reads nothing: it collects the parameters that it is asked
// for, and returns them without values.
type loader struct {
	w     Weights
	level kernels.Level
	raw   []float32 // reused for weights, which live on only in packed form
	slab  []float32 // for parameters, what is left of it
	err   error

	declares bool
	specs    []TensorSpec
	group    string // of the parameters that follow; see TensorSpec
}

// newLoader returns a loader that has room for parameters. They lie in the order in
// which they are loaded, which is about that of their use: a forward pass streams
// through all of them.
func newLoader(w Weights, level kernels.Level, specs []TensorSpec) *loader {
	total, most, panel := 0, 0, kernels.PanelWidth(level)
	for _, t := range specs {
		n := 1
		for _, d := range t.Shape {
			n *= d
		}
		most = max(most, n)
		if len(t.Shape) > 1 {
			n = n / t.Shape[0] * (t.Shape[0] + panel - 1) // at most what packing adds
		}
		total += n + lanes
	}
	return &loader{w: w, level: level, slab: hugepage.Floats(total), raw: hugepage.Floats(most)}
}

// floats returns n zeroed floats at a multiple of a cache line.
func (l *loader) floats(n int) []float32 {
	padded := (n + lanes - 1) / lanes * lanes
	if len(l.slab) < padded {
		return make([]float32, n) // derived from more than one parameter, say
	}
	x := l.slab[:n:n]
	l.slab = l.slab[padded:]
	return x
}

func (l *loader) read(name string, dst []float32) {
	if l.err == nil {
		if err := l.w.Read(name, dst); err != nil {
			l.err = fmt.Errorf("block: %w", err)
		}
	}
}

// declare notes a parameter, where the loader declares.
func (l *loader) declare(name string, shape ...int) {
	if l.declares {
		l.specs = append(l.specs, TensorSpec{name, shape, l.group})
	}
}

// vector reads a parameter that is used as it is.
func (l *loader) vector(name string, shape ...int) []float32 {
	l.declare(name, shape...)
	n := 1
	for _, d := range shape {
		n *= d
	}
	return l.tensor(name, n)
}

func (l *loader) tensor(name string, n int) []float32 {
	if l.declares {
		return nil
	}
	x := l.floats(n)
	l.read(name, x)
	return x
}

func (l *loader) scratch(name string, n int) []float32 {
	if cap(l.raw) < n {
		l.raw = make([]float32, n)
	}
	l.read(name, l.raw[:n])
	return l.raw[:n]
}

func (l *loader) affine(name string, n int) affine {
	return affine{l.vector(name+".weight", n), l.vector(name+".bias", n)}
}

// depthwise loads a depthwise 3x3 convolution.
func (l *loader) depthwise(name string, ch int, bias bool) depthwise {
	l.declare(name+".weight", ch, 1, 3, 3)
	var d depthwise
	if bias {
		d.b = l.vector(name+".bias", ch)
	}
	if !l.declares {
		d.w9 = l.floats(9 * ch)
		kernels.PackDW3x3(d.w9, l.scratch(name+".weight", 9*ch), ch)
	}
	return d
}

func (l *loader) pack(w []float32, n, k int) []float32 {
	packed := l.floats(kernels.PackedLen(l.level, n, k))
	kernels.Pack(l.level, packed, w, k, n, k)
	return packed
}

// linear loads a linear layer (or 1x1 convolution). The affine map of a
// LayerNorm before it is folded in: W (γ⊙u + β) + b = (W diag γ) u + (W β + b).
func (l *loader) linear(name string, n, k int, bias bool, norm *affine) linear {
	l.declare(name+".weight", n, k)
	var b []float32
	if bias {
		b = l.vector(name+".bias", n)
	}
	if l.declares {
		return linear{n: n, k: k}
	}
	w := l.scratch(name+".weight", n*k)
	if norm != nil {
		if b == nil && norm.beta != nil {
			b = make([]float32, n)
		}
		foldNorm(w, b, n, norm)
	}
	return linear{w: l.pack(w, n, k), b: b, n: n, k: k}
}

// foldNorm multiplies the columns of w, n rows, by the norm's γ and adds W β to b,
// where the norm has a β.
func foldNorm(w, b []float32, n int, norm *affine) {
	k := len(norm.gamma)
	for j := range n {
		row, acc := w[j*k:(j+1)*k], 0.0
		for p, v := range row {
			if norm.beta != nil {
				acc += float64(v) * float64(norm.beta[p])
			}
			row[p] = float32(float64(v) * float64(norm.gamma[p]))
		}
		if norm.beta != nil {
			b[j] = float32(float64(b[j]) + acc)
		}
	}
}

// conv loads a dense convolution of ks x ks.
func (l *loader) conv(name string, co, ci, ks int, bias bool) linear {
	l.declare(name+".weight", co, ci, ks, ks)
	c := linear{n: co, k: ci * ks * ks}
	if bias {
		c.b = l.vector(name+".bias", co)
	}
	if !l.declares {
		c.w = l.floats(kernels.PackedLen(l.level, co, c.k))
		kernels.PackConv(l.level, c.w, l.scratch(name+".weight", co*c.k), co, ci, ks, ks)
	}
	return c
}

// classifier loads the final norm and the head, which a checkpoint may lack.
func (l *loader) classifier(groups has, norm, head string, classes, dim int) (n affine, h linear) {
	if l.group = "norm"; groups["norm"] {
		n = l.affine(norm, dim)
	}
	if l.group = "head"; groups["head"] {
		h = l.linear(head, classes, dim, true, nil)
	}
	l.group = ""
	return n, h
}

// batchNorm loads a BatchNorm as a scale and a shift.
func (l *loader) batchNorm(name string, ch int) (scale, shift []float64) {
	norm := l.affine(name, ch)
	mean, variance := l.vector(name+".running_mean", ch), l.vector(name+".running_var", ch)
	if l.declares {
		return nil, nil
	}
	scale, shift = make([]float64, ch), make([]float64, ch)
	kernels.FoldBatchNorm(scale, shift, norm.gamma, norm.beta, mean, variance, normEps)
	return scale, shift
}

// scaled multiplies each of the rows of w by its scale and returns bias·scale +
// shift; bias may be nil.
func scaled(w, bias []float32, scale, shift []float64) []float32 {
	k, b := len(w)/len(scale), make([]float32, len(scale))
	for o, s := range scale {
		for p, v := range w[o*k : (o+1)*k] {
			w[o*k+p] = float32(float64(v) * s)
		}
		b[o] = float32(shift[o])
		if bias != nil {
			b[o] = float32(float64(bias[o])*s + shift[o])
		}
	}
	return b
}

// convNorm loads a dense convolution with the BatchNorm after it.
func (l *loader) convNorm(conv, norm string, co, ci, ks int, bias bool) linear {
	c := linear{n: co, k: ci * ks * ks}
	l.declare(conv+".weight", co, ci, ks, ks)
	var b []float32
	if bias {
		b = l.vector(conv+".bias", co)
	}
	scale, shift := l.batchNorm(norm, co)
	if l.declares {
		return c
	}
	w := l.scratch(conv+".weight", co*c.k)
	c.b = scaled(w, b, scale, shift)
	c.w = l.floats(kernels.PackedLen(l.level, co, c.k))
	kernels.PackConv(l.level, c.w, w, co, ci, ks, ks)
	return c
}

// depthwiseNorm loads a depthwise 3x3 convolution with the BatchNorm after it.
func (l *loader) depthwiseNorm(conv, norm string, ch int, bias bool) depthwise {
	l.declare(conv+".weight", ch, 1, 3, 3)
	var b []float32
	if bias {
		b = l.vector(conv+".bias", ch)
	}
	scale, shift := l.batchNorm(norm, ch)
	if l.declares {
		return depthwise{}
	}
	w := l.scratch(conv+".weight", 9*ch)
	d := depthwise{w9: l.floats(9 * ch), b: scaled(w, b, scale, shift)}
	kernels.PackDW3x3(d.w9, w, ch)
	return d
}

// convBN loads a convolution and folds the BatchNorm after it in. The official
// model gives only the 1x1 convolutions of downsampling a bias of their own.
func (l *loader) convBN(name string, co, ci, ks int) linear {
	_, bias := l.w.Shape(name + ".conv.bias")
	return l.convNorm(name+".conv", name+".norm", co, ci, ks, bias)
}
