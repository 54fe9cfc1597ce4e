package block

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mila-go/mila/checkpoint"
	"github.com/mila-go/mila/internal/golden"
	"github.com/mila-go/mila/kernels"
)

// renamed gives tensors other names.
type renamed struct {
	Weights
	name func(string) string
}

func (r renamed) Shape(name string) ([]int, bool)       { return r.Weights.Shape(r.name(name)) }
func (r renamed) Read(name string, dst []float32) error { return r.Weights.Read(r.name(name), dst) }

// TestGoldenMambaBlock runs the blocks in two pieces.
func TestGoldenMambaBlock(t *testing.T) {
	set := golden.Open(t, "mamba_block", false)
	var cases map[string]struct {
		Batch, L, Expand int
		DModel           int `json:"d_model"`
		DState           int `json:"d_state"`
		DConv            int `json:"d_conv"`
		DTRank           int `json:"dt_rank"`
		SplitAt          int `json:"split_at"`
	}
	golden.JSON(t, "mamba_block", &cases)
	for id, c := range cases {
		e := c.Expand * c.DModel
		for _, level := range kernels.Levels() {
			l := &loader{w: renamed{set, func(name string) string { return id + ".w." + name }}, level: level}
			m := l.mixer("", c.DModel, e, c.DState, c.DTRank, c.DConv, false, true, nil)
			if l.err != nil {
				t.Fatal(l.err)
			}
			pool := newPool(2)
			x, y := set.F32(id+".x"), make([]float32, c.Batch*c.L*c.DModel)
			var conv, state []float32
			for i := range c.Batch {
				before, h := make([]float32, m.convState()), make([]float32, m.scanState())
				for _, piece := range [][2]int{{0, c.SplitAt}, {c.SplitAt, c.L}} {
					n := piece[1] - piece[0]
					if n <= 0 {
						continue
					}
					b := newPlanner(level, pool, 1, n, 1)
					in, out := b.tokens(n, c.DModel), b.tokens(n, c.DModel)
					b.mixer(&m, out, in, n, false, before, h)
					p := b.finish()
					at := (i*c.L + piece[0]) * c.DModel
					copy(p.f(in.buffer), x[at:])
					if err := p.run(context.Background()); err != nil {
						t.Fatal(err)
					}
					copy(y[at:at+n*c.DModel], p.f(out.buffer))
				}
				// (N, channels) chunk by chunk, to (channels, N); the file's
				// convolution keeps one input more than is needed.
				for ch := range e {
					width := min(scanChunk, e-ch/scanChunk*scanChunk)
					for n := range c.DState {
						state = append(state, h[ch/scanChunk*scanChunk*c.DState+n*width+ch%scanChunk])
					}
					for j := range c.DConv - 1 {
						conv = append(conv, before[j*e+ch])
					}
				}
			}
			pool.close()
			golden.Near(t, fmt.Sprint(level, " ", id, ".y"), y, set.F32(id+".y"), 1e-5)
			golden.Near(t, fmt.Sprint(level, " ", id, ".ssm_state"), state, set.F32(id+".ssm_state"), 1e-5)
			var want []float32
			full := set.F32(id + ".conv_state")
			for i := 0; i < len(full); i += c.DConv {
				want = append(want, full[i+1:i+c.DConv]...)
			}
			golden.Near(t, fmt.Sprint(level, " ", id, ".conv_state"), conv, want, 1e-5)
		}
	}
}

func smallMamba() MambaConfig {
	c := defaultMamba()
	c.VocabSize, c.HiddenSize, c.Layers, c.StateSize = 50, 40, 3, 7
	return c
}

// naiveMamba returns the logits behind the last token.
func naiveMamba(n naive, c MambaConfig, tokens []int) []float64 {
	d, e, states, rank, eps := c.HiddenSize, c.inner(), c.StateSize, c.rank(), c.Epsilon
	table := n.get("backbone.embeddings.weight")
	var x []float64
	order := make([]int, len(tokens))
	for i, t := range tokens {
		x = append(x, table[t*d:(t+1)*d]...)
		order[i] = i
	}
	for i := range c.Layers {
		p := fmt.Sprintf("backbone.layers.%d.", i)
		if c.ModelType == mamba2 {
			x = add(x, naiveMamba2(n, c, p+"mixer.", n.rmsNorm(p+"norm", x, d, eps), order))
			continue
		}
		xz := n.linear(p+"mixer.in_proj", n.rmsNorm(p+"norm", x, d, eps), d)
		u, z := columns(xz, 2*e, 0, e), each(columns(xz, 2*e, e, 2*e), silu)
		u = each(n.causal(p+"mixer.conv1d", u, e, order), silu)
		proj := n.linear(p+"mixer.x_proj", u, e)
		width := rank + 2*states
		delta := product(columns(proj, width, 0, rank), n.get(p+"mixer.dt_proj.weight"), nil, rank)
		y := scan(u, delta, n.get(p+"mixer.dt_proj.bias"), each(n.get(p+"mixer.A_log"), negExp), columns(proj, width, rank, rank+states), columns(proj, width, rank+states, width),
			n.get(p+"mixer.D"), states, order)
		x = add(x, n.linear(p+"mixer.out_proj", mul(y, z), e))
	}
	last := n.rmsNorm("backbone.norm_f", x, d, eps)[(len(tokens)-1)*d:]
	if c.Tied {
		return product(last, table, nil, d)
	}
	return n.linear("lm_head", last, d)
}

func naiveMamba2(n naive, c MambaConfig, p string, u []float64, order []int) []float64 {
	e, keys, states, l := c.inner(), c.Groups*c.StateSize, c.StateSize, len(order)
	width := 2*e + 2*keys + c.Heads
	in := n.linear(p+"in_proj", u, c.HiddenSize)
	z, dt := each(columns(in, width, 0, e), silu), columns(in, width, width-c.Heads, width)
	mixed := each(n.causal(p+"conv1d", columns(in, width, e, 2*e+2*keys), e+2*keys, order), silu)
	x, b, q := columns(mixed, e+2*keys, 0, e), columns(mixed, e+2*keys, e, e+keys), columns(mixed, e+2*keys, e+keys, e+2*keys)
	y := make([]float64, l*e)
	for ch := range e {
		h := ch / c.HeadDim
		at := h / (c.Heads / c.Groups) * states
		state := make([]float64, states)
		for t := range l {
			delta := softplus(dt[t*c.Heads+h] + n.get(p + "dt_bias")[h])
			for i := range states {
				state[i] = math.Exp(delta*negExp(n.get(p + "A_log")[h]))*state[i] + delta*x[t*e+ch]*b[t*keys+at+i]
				y[t*e+ch] += q[t*keys+at+i] * state[i]
			}
			y[t*e+ch] += n.get(p + "D")[h] * x[t*e+ch]
		}
	}
	return n.linear(p+"out_proj", n.rmsNorm(p+"norm", mul(y, z), e, c.Epsilon), e)
}

func (n naive) rmsNorm(name string, x []float64, c int, eps float64) []float64 {
	gamma, y := n.get(name+".weight"), make([]float64, len(x))
	for i := 0; i < len(x); i += c {
		sum := 0.0
		for _, v := range x[i : i+c] {
			sum += v * v / float64(c)
		}
		for j, v := range x[i : i+c] {
			y[i+j] = v / math.Sqrt(sum+eps) * gamma[j]
		}
	}
	return y
}

// causal is a causal depthwise convolution over tokens in an order.
func (n naive) causal(name string, x []float64, e int, order []int) []float64 {
	w, bias := n.get(name+".weight"), make([]float64, e)
	if n.has(name + ".bias") {
		bias = n.get(name + ".bias")
	}
	width := len(w) / e
	y := make([]float64, len(x))
	for i, t := range order {
		for c := range e {
			sum := bias[c]
			for j := range width {
				if at := i - (width - 1) + j; at >= 0 {
					sum += w[c*width+j] * x[order[at]*e+c]
				}
			}
			y[t*e+c] = sum
		}
	}
	return y
}

func TestMambaStream(t *testing.T) {
	untied := smallMamba()
	untied.Tied, untied.Bias, untied.ConvKernel, untied.TimeStep = false, true, 3, 5
	tokens := make([]int, 150)
	for i := range tokens {
		tokens[i] = (i*i + 3) % 50
	}
	second := smallMamba()
	second.ModelType, second.Heads, second.HeadDim, second.Groups, second.StateSize = mamba2, 8, 10, 2, 6
	for _, cfg := range []MambaConfig{smallMamba(), untied, second} {
		weights := Synthetic(cfg, 1)
		var want []float32
		for _, v := range naiveMamba(naive{t, weights, map[string][]float64{}}, cfg, tokens) {
			want = append(want, float32(v))
		}
		for _, level := range kernels.Levels() {
			m, err := NewMamba(cfg, weights, WithLevel(level), WithThreads(2))
			if err != nil {
				t.Fatal(err)
			}
			got := make([]float32, cfg.VocabSize)
			forward := func(s *MambaStream, tokens ...int) {
				t.Helper()
				if err := s.Forward(context.Background(), got, tokens); err != nil {
					t.Fatal(err)
				}
			}
			s := m.NewStream()
			forward(s, tokens...)
			golden.Near(t, fmt.Sprint(level, ": whole"), got, want, 1e-5)
			s.Reset()
			for _, token := range tokens {
				forward(s, token)
			}
			golden.Near(t, fmt.Sprint(level, ": token by token"), got, want, 1e-5)

			// A saved state goes on in another stream.
			s.Reset()
			forward(s, tokens[:77]...)
			saved, err := s.MarshalBinary()
			if err != nil {
				t.Fatal(err)
			}
			other := m.NewStream()
			if err := other.UnmarshalBinary(saved); err != nil {
				t.Fatal(err)
			}
			forward(other, tokens[77:]...)
			golden.Near(t, fmt.Sprint(level, ": restored"), got, want, 1e-5)
			if other.Tokens() != 150 {
				t.Errorf("%d tokens read", other.Tokens())
			}
			if err := other.UnmarshalBinary(saved[:len(saved)-1]); err == nil {
				t.Error("a state that was cut off is accepted")
			}
			if err := other.UnmarshalBinary(bytes.Repeat([]byte{7}, len(saved))); err == nil {
				t.Error("something else is accepted as a state")
			}
		}
	}
}

func TestMambaErrors(t *testing.T) {
	cfg := smallMamba()
	m, err := NewMamba(cfg, Synthetic(cfg, 1), WithThreads(1))
	if err != nil {
		t.Fatal(err)
	}
	s, ctx := m.NewStream(), context.Background()
	for want, err := range map[string]error{
		"no tokens":            s.Forward(ctx, nil, nil),
		"token 50":             s.Forward(ctx, nil, []int{50}),
		"token -1":             s.Forward(ctx, nil, []int{1, -1}),
		"logits has 3 values":  s.Forward(ctx, make([]float32, 3), []int{1}),
		"wrong shapes":         func() error { c := cfg; c.StateSize = 8; _, err := NewMamba(c, Synthetic(cfg, 1)); return err }(),
		"missing tensors":      func() error { c := cfg; c.Layers = 4; _, err := NewMamba(c, Synthetic(cfg, 1)); return err }(),
		"state_size 0":         func() error { _, err := ParseMambaConfig([]byte(`{"state_size": 0}`)); return err }(),
		"Mamba configuration:": func() error { _, err := ParseMambaConfig([]byte(`[]`)); return err }(),
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want an error that tells %q", err, want)
		}
	}
	if s.Tokens() != 0 {
		t.Error("tokens were read before an error")
	}
}

// TestMambaCheckpoint loads what Hugging Face's MambaForCausalLM saves: config.json
// and safetensors, the head's copy of the embeddings among them.
func TestMambaCheckpoint(t *testing.T) {
	cfg, err := ParseMambaConfig([]byte(`{"architectures": ["MambaForCausalLM"], "model_type": "mamba", "hidden_size": 40, "num_hidden_layers": 3, "state_size": 7,
		"vocab_size": 50, "intermediate_size": 80, "expand": 2, "conv_kernel": 4, "time_step_rank": 3, "use_bias": false, "use_conv_bias": true,
		"layer_norm_epsilon": 1e-05, "residual_in_fp32": true, "hidden_act": "silu"}`))
	if err != nil {
		t.Fatal(err)
	}
	weights := Synthetic(cfg, 2)
	var tensors []checkpoint.Tensor
	for _, spec := range cfg.Tensors() {
		x := make([]float32, spec.Len())
		if err := weights.Read(spec.Name, x); err != nil {
			t.Fatal(err)
		}
		tensors = append(tensors, checkpoint.Tensor{Name: spec.Name, Shape: spec.Shape, DType: checkpoint.F32, F32: x})
		if spec.Name == "backbone.embeddings.weight" {
			tensors = append(tensors, checkpoint.Tensor{Name: "lm_head.weight", Shape: spec.Shape, DType: checkpoint.F32, F32: x})
		}
	}
	path := filepath.Join(t.TempDir(), "model.safetensors")
	if err := checkpoint.SaveSafetensors(path, tensors, nil); err != nil {
		t.Fatal(err)
	}
	f, err := checkpoint.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	m, err := NewMamba(cfg, f)
	f.Close()
	os.Remove(path)
	if err != nil {
		t.Fatal(err)
	}
	got, tokens := make([]float32, cfg.VocabSize), []int{3, 1, 4, 1, 5}
	if err := m.NewStream().Forward(context.Background(), got, tokens); err != nil {
		t.Fatal(err)
	}
	var want []float32
	for _, v := range naiveMamba(naive{t, weights, map[string][]float64{}}, cfg, tokens) {
		want = append(want, float32(v))
	}
	golden.Near(t, "logits", got, want, 1e-5)
}

func TestMamba130M(t *testing.T) {
	if n := Mamba130M().Params(); n != 129135360 {
		t.Errorf("%d parameters, the published checkpoint has 129135360", n)
	}
}
