package block

import (
	"bytes"
	"context"
	"encoding"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"runtime"
	"strings"
	"sync/atomic"

	"github.com/mila-go/mila/kernels"
)

// MambaConfig is the shape of a Mamba or Mamba-2 language model (arXiv 2312.00752,
// 2405.21060), with the keys of the config.json of Hugging Face's MambaForCausalLM
// and Mamba2ForCausalLM.
type MambaConfig struct {
	ModelType  string  `json:"model_type"` // "mamba", or "mamba2"
	VocabSize  int     `json:"vocab_size"`
	HiddenSize int     `json:"hidden_size"`
	StateSize  int     `json:"state_size"` // N
	Layers     int     `json:"num_hidden_layers"`
	Inner      int     `json:"intermediate_size"` // E; 0: Expand * HiddenSize
	Expand     int     `json:"expand"`
	ConvKernel int     `json:"conv_kernel"`
	TimeStep   rank    `json:"time_step_rank"`
	Epsilon    float64 `json:"layer_norm_epsilon"`
	Bias       bool    `json:"use_bias"`      // of in_proj and out_proj
	ConvBias   bool    `json:"use_conv_bias"` // of conv1d
	Tied       bool    `json:"tie_word_embeddings"`

	// Of Mamba-2 alone.
	Heads   int `json:"num_heads"`
	HeadDim int `json:"head_dim"`
	Groups  int `json:"n_groups"` // of heads that share B and C
}

// rank is the rank of the step size's projection: a number, or "auto", which is
// the hidden size / 16 rounded up.
type rank int

func (r *rank) UnmarshalJSON(data []byte) error {
	if string(data) == `"auto"` {
		*r = 0
		return nil
	}
	return json.Unmarshal(data, (*int)(r))
}

// Mamba130M returns the configuration of state-spaces/mamba-130m-hf.
func Mamba130M() MambaConfig {
	c := defaultMamba()
	c.HiddenSize, c.Layers = 768, 24
	return c
}

func defaultMamba() MambaConfig {
	return MambaConfig{ModelType: "mamba", VocabSize: 50280, HiddenSize: 768, StateSize: 16, Layers: 32, Expand: 2, ConvKernel: 4, Epsilon: 1e-5, ConvBias: true, Tied: true}
}

// ParseMambaConfig reads a config.json. Unknown keys are ignored, absent ones have
// Hugging Face's defaults.
func ParseMambaConfig(data []byte) (MambaConfig, error) {
	c := defaultMamba()
	var kind struct {
		ModelType string `json:"model_type"`
	}
	err := json.Unmarshal(data, &kind)
	if kind.ModelType == mamba2 {
		c.HiddenSize, c.Layers, c.StateSize, c.Heads, c.HeadDim, c.Groups, c.Tied = 4096, 64, 128, 128, 64, 8, false
	}
	if err == nil {
		err = json.Unmarshal(data, &c)
	}
	if err != nil {
		return c, fmt.Errorf("block: Mamba configuration: %w", err)
	}
	return c, c.Validate()
}

// Validate says what is wrong with the configuration, if anything.
func (c MambaConfig) Validate() error {
	switch {
	case c.ModelType != "mamba" && c.ModelType != mamba2:
		return fmt.Errorf("block: Mamba configuration: model_type %q; it must be mamba or mamba2", c.ModelType)
	case c.VocabSize < 1 || c.VocabSize > 1<<24, c.HiddenSize < 1 || c.HiddenSize > 1<<14, c.Layers < 1 || c.Layers > 1000:
		return fmt.Errorf("block: Mamba configuration: vocab_size %d, hidden_size %d, num_hidden_layers %d; one is out of range", c.VocabSize, c.HiddenSize, c.Layers)
	case c.StateSize < 1 || c.StateSize > 256 || c.ModelType == "mamba" && c.StateSize > 64:
		return fmt.Errorf("block: Mamba configuration: state_size %d; it must be from 1 to 64 (Mamba-2: 256)", c.StateSize)
	case c.ModelType == mamba2 && (c.Heads < 1 || c.HeadDim < 1 || c.HeadDim > 256 || c.Groups < 1 || c.Heads%c.Groups != 0 || c.Heads*c.HeadDim != c.inner()):
		return fmt.Errorf("block: Mamba configuration: num_heads %d, head_dim %d, n_groups %d do not fit an inner width of %d", c.Heads, c.HeadDim, c.Groups, c.inner())
	case c.ConvKernel < 2 || c.ConvKernel > 4:
		return fmt.Errorf("block: Mamba configuration: conv_kernel %d; it must be from 2 to 4", c.ConvKernel)
	case c.inner() < 1 || c.inner() > 1<<16 || c.rank() < 1 || c.rank() > c.inner():
		return fmt.Errorf("block: Mamba configuration: intermediate_size %d, time_step_rank %d; one is out of range", c.inner(), c.rank())
	}
	return nil
}

func (c MambaConfig) inner() int {
	if c.Inner > 0 {
		return c.Inner
	}
	return c.Expand * c.HiddenSize
}

func (c MambaConfig) rank() int {
	if c.TimeStep > 0 {
		return int(c.TimeStep)
	}
	return ceilDiv(c.HiddenSize, 16)
}

// Tensors returns every parameter under the name that Hugging Face's checkpoints
// give it.
func (c MambaConfig) Tensors() []TensorSpec {
	l := &loader{declares: true}
	c.load(l)
	return l.specs
}

// Params returns the number of parameters.
func (c MambaConfig) Params() int { return countParams(c.Tensors()) }

// MACs returns the multiply-adds of one token, its logits among them. A scan counts
// nine for each state, as in published figures.
func (c MambaConfig) MACs() int64 {
	m := c.load(&loader{declares: true})
	s := &MambaStream{m: m}
	b := &planner{Plan: &Plan{batch: 1}, threads: 1}
	s.plan(b, 1)
	return b.macs
}

// Mamba is a language model made of Mamba blocks, immutable and safe for
// concurrent use by several streams.
type Mamba struct {
	cfg       MambaConfig
	level     kernels.Level
	pool      *pool
	embedding []float32 // (vocabulary, hidden); nil where the head's weights serve
	layers    []layer
	norm      []float32
	head      linear
}

// NewMamba builds a Mamba language model from weights with the names of Hugging
// Face's MambaForCausalLM, read one tensor at a time. Missing, unexpected and
// misshapen tensors are one error that names them.
func NewMamba(cfg MambaConfig, w Weights, opts ...Option) (*Mamba, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	o, err := resolve(opts)
	if err != nil {
		return nil, err
	}
	if _, err := checkTensors(fmt.Sprintf("Mamba: hidden_size %d, %d layers, state_size %d", cfg.HiddenSize, cfg.Layers, cfg.StateSize), cfg.Tensors(), w, cfg.ignored); err != nil {
		return nil, err
	}
	l := newLoader(w, o.level, cfg.Tensors())
	m := cfg.load(l)
	if l.err != nil {
		return nil, l.err
	}
	m.pool = newPool(o.threads)
	runtime.AddCleanup(m, (*pool).close, m.pool)
	return m, nil
}

// ignored reports whether a checkpoint may hold a tensor that is not needed: the
// head's copy of tied embeddings.
func (c MambaConfig) ignored(name string) bool { return c.Tied && name == "lm_head.weight" }

func (c MambaConfig) load(l *loader) *Mamba {
	m := &Mamba{cfg: c, level: l.level}
	const table = "backbone.embeddings"
	if c.Tied {
		m.head = l.linear(table, c.VocabSize, c.HiddenSize, false, nil)
	} else {
		m.embedding = l.vector(table+".weight", c.VocabSize, c.HiddenSize)
	}
	for i := range c.Layers {
		p := fmt.Sprintf("backbone.layers.%d.", i)
		norm := l.vector(p+"norm.weight", c.HiddenSize)
		if c.ModelType == mamba2 {
			m.layers = append(m.layers, l.mixer2(p+"mixer.", &c, norm))
			continue
		}
		x := l.mixer(p+"mixer.", c.HiddenSize, c.inner(), c.StateSize, c.rank(), c.ConvKernel, c.Bias, c.ConvBias, norm)
		m.layers = append(m.layers, &x)
	}
	m.norm = l.vector("backbone.norm_f.weight", c.HiddenSize)
	if !c.Tied {
		m.head = l.linear("lm_head", c.VocabSize, c.HiddenSize, false, nil)
	}
	return m
}

// Config returns the model's configuration.
func (m *Mamba) Config() MambaConfig { return m.cfg }

// Level returns the instruction-set level that the model runs at.
func (m *Mamba) Level() kernels.Level { return m.level }

// Threads returns the number of threads that a stream uses.
func (m *Mamba) Threads() int { return m.pool.n }

// layer is a block of a language model.
type layer interface {
	convState() int // length of the convolution's state
	scanState() int // length of the recurrence's
	// plan plans y += layer(u) for l tokens of one sequence, after those that left
	// the states.
	plan(b *planner, y, u tokens, l int, conv, state []float32)
}

// mixer is a Mamba block: a selective scan between projections, after a causal
// convolution, with a gate.
type mixer struct {
	in linear
	direction
	out linear
}

// direction is what a mixer has for each direction of its sequence.
type direction struct {
	width    int       // of the convolution
	conv     []float32 // tap-major
	convBias []float32
	proj     linear
	scan     scanParams
}

// mixer loads a block of inner width e; norm is the γ of an RMSNorm before it, or
// nil.
func (l *loader) mixer(p string, dim, e, n, rank, width int, bias, convBias bool, norm []float32) mixer {
	var m mixer
	var before *affine
	if norm != nil {
		before = &affine{gamma: norm}
	}
	m.in = l.linear(p+"in_proj", 2*e, dim, bias, before)
	m.direction = l.direction(p, "", e, n, rank, width, convBias)
	m.out = l.linear(p+"out_proj", dim, e, bias, nil)
	return m
}

// direction loads the parameters of a direction, whose names end in suffix.
func (l *loader) direction(p, suffix string, e, n, rank, width int, convBias bool) direction {
	d := direction{width: width}
	logs := l.vector(p+"A"+suffix+"_log", e, n)
	d.scan = scanParams{rank: rank, n: n, a: l.scanA(logs, e, n), d: l.vector(p+"D"+suffix, e)}
	conv := p + "conv1d" + suffix
	l.declare(conv+".weight", e, 1, width)
	if !l.declares {
		d.conv = make([]float32, width*e)
		kernels.PackConv1D(d.conv, l.scratch(conv+".weight", width*e), e, width)
	}
	if convBias {
		d.convBias = l.vector(conv+".bias", e)
	}
	d.proj = l.linear(p+"x_proj"+suffix, rank+2*n, e, false, nil)
	d.scan.dt = l.linear(p+"dt_proj"+suffix, e, rank, true, nil)
	d.scan.dtBias, d.scan.dt.b = d.scan.dt.b, nil // the scan adds it
	return d
}

// convState and scanState are the lengths of a block's states.
func (m *mixer) convState() int { return (m.width - 1) * m.out.k }
func (m *mixer) scanState() int { return m.scan.n * m.out.k }

func (m *mixer) plan(b *planner, y, u tokens, l int, conv, state []float32) {
	b.mixer(m, y, u, l, true, conv, state)
}

// mixer plans y = mixer(u) (+ y with residual) for l tokens of one sequence, after
// those that left the states. Figure 3 of arXiv 2312.00752:
//
//	[x | z] = in u;  x = SiLU(conv(x));  [dt | B | C] = proj x
//	y = out(SiLU(z) ⊙ scan(x; softplus(dtProj dt + bias), A, B, C, D))
//
// The scan's state is kept by chunks of channels, (N, scanChunk) each.
func (b *planner) mixer(m *mixer, y, u tokens, l int, residual bool, conv, state []float32) {
	p, level, e := b.Plan, b.level, m.out.k
	xz, x, proj := b.tokens(l, 2*e), b.tokens(l, e), b.tokens(l, ceilDiv(m.proj.n, lanes)*lanes)
	fused := b.byRows(l, 1)
	b.chain(fused, l, 1, b.project(xz, u, l, 1, &m.in, kernels.Identity, nil))
	chunks := ceilDiv(e, scanChunk)
	b.count(l * e * m.width)
	b.step(chunks, func(chunk, _ int) {
		m.convolve(level, p.f(x.buffer), p.f(xz.buffer), 2*e, conv, l, chunk, nil)
	})
	b.chain(fused, l, 1, b.project(proj, x, l, 1, &m.proj, kernels.Identity, nil))
	b.scans(x, e, l, &xz, e, state, scanPass{scanParams: &m.scan, u: x, proj: proj})
	var add *tokens
	if residual {
		add = &y
	}
	b.chain(fused, l, 1, b.project(y, x, l, 1, &m.out, kernels.Identity, add))
	b.release(xz.buffer, x.buffer, proj.buffer)
}

// convolve computes SiLU(conv(x)) for a chunk of channels.
func (d *direction) convolve(level kernels.Level, y, x []float32, ldx int, state []float32, l, chunk int, order []int32) {
	e := d.proj.k
	kernels.Conv1D(level, y, state, x, d.conv, d.convBias, kernels.Conv1DShape{L: l, Ch: e, Width: d.width, LdX: ldx, Order: order,
		Ch0: chunk * scanChunk, Ch1: min(e, (chunk+1)*scanChunk)}, kernels.SiLU)
}

// MambaStream is one sequence of tokens on its way through a model. It keeps a
// state of constant size, whatever the length of the sequence. A stream serves one
// goroutine at a time.
type MambaStream struct {
	m       *Mamba
	n       uint64 // tokens so far
	state   []float32
	plans   [maxPrefill + 1]*Plan // by log2 of the tokens at a time
	running atomic.Bool

	// The arguments of the running pass.
	tokens []int
	logits []float32
}

// maxPrefill is log2 of the tokens that are run at a time.
const maxPrefill = 7

// NewStream begins a sequence.
func (m *Mamba) NewStream() *MambaStream {
	size := 0
	for i := range m.layers {
		size += m.layers[i].convState() + m.layers[i].scanState()
	}
	return &MambaStream{m: m, state: make([]float32, size)}
}

// Tokens returns how many tokens the stream has read.
func (s *MambaStream) Tokens() uint64 { return s.n }

// Reset begins a new sequence.
func (s *MambaStream) Reset() {
	clear(s.state)
	s.n = 0
}

// Forward reads tokens and fills logits, of VocabSize values, with those for the
// token after the last; nil if they are not wanted. One token at a time is
// decoding, many are a prompt: the result is the same up to rounding. Once each
// power of two up to 128 has been seen as a length nothing is allocated. If ctx
// ends (looked at between pieces of up to 128 tokens) the stream has read the
// pieces before.
func (s *MambaStream) Forward(ctx context.Context, logits []float32, tokens []int) error {
	if !s.running.CompareAndSwap(false, true) {
		return errors.New("block: this stream is already running; make one stream for each sequence")
	}
	defer s.running.Store(false)
	cfg := &s.m.cfg
	if logits != nil && len(logits) != cfg.VocabSize {
		return fmt.Errorf("block: logits has %d values, needs %d", len(logits), cfg.VocabSize)
	}
	if len(tokens) == 0 {
		return errors.New("block: no tokens")
	}
	for _, t := range tokens {
		if t < 0 || t >= cfg.VocabSize {
			return fmt.Errorf("block: token %d is not one of the %d of the vocabulary", t, cfg.VocabSize)
		}
	}
	defer func() { s.tokens, s.logits = nil, nil }()
	for len(tokens) > 0 {
		k := maxPrefill
		for 1<<k > len(tokens) {
			k--
		}
		if s.plans[k] == nil {
			b := newPlanner(s.m.level, s.m.pool, 1, 1, 1<<k)
			s.plan(b, 1<<k)
			s.plans[k] = b.finish()
		}
		s.tokens, s.logits = tokens[:1<<k], nil
		if tokens = tokens[1<<k:]; len(tokens) == 0 {
			s.logits = logits
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := s.plans[k].run(context.Background()); err != nil {
			return err
		}
		s.n += 1 << k
	}
	return nil
}

// plan plans l tokens through all layers.
func (s *MambaStream) plan(b *planner, l int) {
	m, p, level, c := s.m, b.Plan, b.level, s.m.cfg.HiddenSize
	x, u := b.tokens(l, c), b.tokens(l, c)
	b.step(1, func(int, int) {
		for i, t := range s.tokens {
			row := p.f(x.buffer)[i*c : (i+1)*c]
			if m.embedding != nil {
				copy(row, m.embedding[t*c:(t+1)*c])
			} else {
				m.head.row(level, row, t)
			}
		}
	})
	norm := op{run: func(t tile) {
		kernels.RMSNorm(level, p.rows(u, t, 1), c, p.rows(x, t, 1), c, t.r1-t.r0, c, nil, float32(m.cfg.Epsilon))
	}}
	state := s.state
	take := func(n int) (part []float32) {
		if state == nil {
			return nil // only counting
		}
		part, state = state[:n], state[n:]
		return part
	}
	for i := range m.layers {
		layer := m.layers[i]
		b.chain(false, l, 1, norm)
		conv, scan := take(layer.convState()), take(layer.scanState())
		layer.plan(b, x, u, l, conv, scan)
	}
	wanted := func() bool { return s.logits != nil }
	b.step(1, func(int, int) {
		kernels.RMSNorm(level, p.f(u.buffer), c, p.f(x.buffer)[(l-1)*c:], c, 1, c, m.norm, float32(m.cfg.Epsilon))
	})
	b.when(wanted)
	b.count(m.head.n * m.head.k)
	g := grid{cutRows(1, 1), 4 * b.threads, m.head.n, kernels.PanelWidth(level)}
	g.parts = min(g.parts, ceilDiv(g.cols, g.unit))
	b.step(g.tasks(1), func(task, worker int) {
		t := g.of(task, worker)
		m.head.apply(level, s.logits, m.head.n, p.f(u.buffer), c, 1, t.j0, t.j1, kernels.Epilogue{})
	})
	b.when(wanted)
}

// row unpacks a row of the weights.
func (l *linear) row(level kernels.Level, dst []float32, n int) {
	nr := kernels.PanelWidth(level)
	panel := l.w[n/nr*nr*l.k:]
	for i := range dst {
		dst[i] = panel[i*nr+n%nr]
	}
}

var (
	_ encoding.BinaryMarshaler   = (*MambaStream)(nil)
	_ encoding.BinaryUnmarshaler = (*MambaStream)(nil)
)

// stateMagic begins a saved state.
const stateMagic = "milaS6\x00\x01"

func (s *MambaStream) header() []byte {
	c := &s.m.cfg
	b := []byte(stateMagic)
	for _, v := range []int{c.Layers, c.inner(), c.StateSize, c.ConvKernel, c.Heads, len(s.state)} {
		b = binary.LittleEndian.AppendUint32(b, uint32(v))
	}
	return b
}

// MarshalBinary saves the state, for a stream of the same model to go on from.
func (s *MambaStream) MarshalBinary() ([]byte, error) {
	b := binary.LittleEndian.AppendUint64(s.header(), s.n)
	for _, v := range s.state {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
	}
	return b, nil
}

// UnmarshalBinary restores a state that MarshalBinary saved. The stream is
// unchanged if data does not fit the model.
func (s *MambaStream) UnmarshalBinary(data []byte) error {
	head := s.header()
	if !strings.HasPrefix(string(data), stateMagic) {
		return errors.New("block: this is not a saved state of a Mamba stream")
	}
	if !bytes.HasPrefix(data, head) || len(data) != len(head)+8+4*len(s.state) {
		return fmt.Errorf("block: the saved state is of another model, or cut off (%d bytes)", len(data))
	}
	data = data[len(head):]
	s.n = binary.LittleEndian.Uint64(data)
	for i := range s.state {
		s.state[i] = math.Float32frombits(binary.LittleEndian.Uint32(data[8+4*i:]))
	}
	return nil
}
