package block

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Config is the shape of a MILA model. The JSON keys are those of the
// safetensors metadata and of --config files.
type Config struct {
	EmbedDim   int     `json:"embed_dim"`   // channels of the first stage; stage i has EmbedDim * 2^i
	Depths     []int   `json:"depths"`      // blocks in each stage
	NumHeads   []int   `json:"num_heads"`   // attention heads in each stage
	NumClasses int     `json:"num_classes"` // outputs of the classification head
	ImgSize    int     `json:"img_size"`    // the size trained at; binding only where APE is set
	MLPRatio   float64 `json:"mlp_ratio"`   // MLP width / channels
	QKVBias    bool    `json:"qkv_bias"`    // the query-key projection has a bias
	InChans    int     `json:"in_chans"`    // image channels
	PatchSize  int     `json:"patch_size"`  // always 4
	APE        bool    `json:"ape"`         // absolute position embedding after the stem
}

// defaults returns the values that a configuration's absent keys have.
func defaults() Config {
	return Config{NumClasses: 1000, ImgSize: 224, MLPRatio: 4, QKVBias: true, InChans: 3, PatchSize: 4}
}

// Tiny, Small and Base return the configurations MILA-T, -S and -B of the
// paper (table 8), for 1000 classes at 224 x 224.
func Tiny() Config { return official(64, []int{2, 4, 8, 4}, []int{2, 4, 8, 16}) }

// Small returns MILA-S; see [Tiny].
func Small() Config { return official(64, []int{3, 6, 21, 6}, []int{2, 4, 8, 16}) }

// Base returns MILA-B; see [Tiny].
func Base() Config { return official(96, []int{3, 6, 21, 6}, []int{3, 6, 12, 24}) }

func official(dim int, depths, heads []int) Config {
	c := defaults()
	c.EmbedDim, c.Depths, c.NumHeads = dim, depths, heads
	return c
}

// ParseConfig reads a configuration from JSON: an object with the keys of
// [Config], or one that holds such an object under "config". Unknown keys are
// ignored, absent ones have the official defaults.
func ParseConfig(data []byte) (Config, error) {
	var m map[string]any
	if err := json.Unmarshal(data, &m); err != nil {
		return Config{}, fmt.Errorf("block: configuration is not a JSON object: %w", err)
	}
	return ConfigFromMap(m)
}

// ConfigFromMap is [ParseConfig] for an object already decoded. It also
// understands the configuration object inside official training checkpoints
// (MODEL.MLLA.EMBED_DIM and so on).
func ConfigFromMap(m map[string]any) (Config, error) {
	if inner, ok := m["config"].(map[string]any); ok {
		m = inner
	}
	if model, ok := m["MODEL"].(map[string]any); ok {
		m = flatten(m, model)
	}
	if arch, ok := m["architecture"].(string); ok && !slices.Contains([]string{"mila", "mlla"}, strings.ToLower(arch)) {
		return Config{}, fmt.Errorf("block: architecture %q is not one this version runs (mila)", arch)
	}
	c := defaults()
	data, err := json.Marshal(m)
	if err == nil {
		err = json.Unmarshal(data, &c)
	}
	if err != nil {
		return Config{}, fmt.Errorf("block: configuration: %w", err)
	}
	return c, c.Validate()
}

// flatten maps the official nested configuration onto our keys.
func flatten(root, model map[string]any) map[string]any {
	out := map[string]any{}
	for _, name := range []string{"MLLA", "MILA"} {
		if sub, ok := model[name].(map[string]any); ok {
			for k, v := range sub {
				out[strings.ToLower(k)] = v
			}
		}
	}
	if v, ok := model["NUM_CLASSES"]; ok {
		out["num_classes"] = v
	}
	if data, ok := root["DATA"].(map[string]any); ok {
		if v, ok := data["IMG_SIZE"]; ok {
			out["img_size"] = v
		}
	}
	return out
}

// Validate says what is wrong with the configuration, if anything.
func (c Config) Validate() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("block: configuration: "+format, args...)
	}
	switch {
	case c.PatchSize != 4:
		return bad("patch_size is %d; the convolutional stem always has 4", c.PatchSize)
	case c.EmbedDim < 4 || c.EmbedDim > 1<<13 || c.EmbedDim%4 != 0:
		return bad("embed_dim is %d; it must be a multiple of 4 (2-D RoPE) from 4 to 8192", c.EmbedDim)
	case len(c.Depths) < 1 || len(c.Depths) > 8:
		return bad("depths %v; there must be 1 to 8 stages", c.Depths)
	case len(c.NumHeads) != len(c.Depths):
		return bad("num_heads %v and depths %v differ in length", c.NumHeads, c.Depths)
	case c.InChans < 1 || c.InChans > 1<<12:
		return bad("in_chans is %d", c.InChans)
	case c.NumClasses < 0 || c.NumClasses > 1<<24:
		return bad("num_classes is %d", c.NumClasses)
	case !(c.MLPRatio > 0 && c.MLPRatio <= 64):
		return bad("mlp_ratio is %v", c.MLPRatio)
	case c.ImgSize < 0 || c.ImgSize > 1<<16:
		return bad("img_size is %d", c.ImgSize)
	case c.APE && c.ImgSize%4 != 0:
		return bad("img_size is %d; with ape it must be a multiple of 4", c.ImgSize)
	}
	for i, d := range c.Depths {
		dim := c.Dim(i)
		if d < 1 || d > 1000 {
			return bad("depths %v; a stage has 1 to 1000 blocks", c.Depths)
		}
		if h := c.NumHeads[i]; h < 1 || dim%h != 0 {
			return bad("stage %d has %d channels, which %d heads do not divide", i, dim, h)
		}
		if c.hidden(i) < 1 {
			return bad("mlp_ratio %v leaves stage %d no hidden channels", c.MLPRatio, i)
		}
	}
	return nil
}

// Dim returns the channels of stage i.
func (c Config) Dim(i int) int { return c.EmbedDim << i }

// hidden returns the MLP width of stage i.
func (c Config) hidden(i int) int { return int(float64(c.Dim(i)) * c.MLPRatio) }

// Tensors returns every parameter of the model under its official name, in the
// order of the forward pass.
func (c Config) Tensors() []TensorSpec {
	var out []TensorSpec
	group := ""
	add := func(name string, shape ...int) { out = append(out, TensorSpec{name, shape, group}) }
	conv := func(name string, co, ci, k int) { add(name+".weight", co, ci, k, k) }
	affine := func(name string, n int) { add(name+".weight", n); add(name+".bias", n) }
	bn := func(name string, n int) {
		affine(name, n)
		add(name+".running_mean", n)
		add(name+".running_var", n)
	}
	linear := func(name string, n, k int, bias bool) {
		add(name+".weight", n, k)
		if bias {
			add(name+".bias", n)
		}
	}
	dw := func(name string, n int) { add(name+".weight", n, 1, 3, 3); add(name+".bias", n) }

	e := c.EmbedDim
	convBN := func(name string, co, ci, k int) { conv(name+".conv", co, ci, k); bn(name+".norm", co) }
	convBN("patch_embed.conv1", e/2, c.InChans, 3)
	convBN("patch_embed.conv2.0", e/2, e/2, 3)
	convBN("patch_embed.conv2.1", e/2, e/2, 3)
	convBN("patch_embed.conv3.0", 4*e, e/2, 3)
	convBN("patch_embed.conv3.1", e, 4*e, 1)
	if c.APE {
		add("absolute_pos_embed", 1, c.ImgSize/4*(c.ImgSize/4), e)
	}
	for i, depth := range c.Depths {
		d, hid := c.Dim(i), c.hidden(i)
		for j := range depth {
			p := blockName(i, j) + "."
			dw(p+"cpe1", d)
			affine(p+"norm1", d)
			linear(p+"in_proj", d, d, true)
			linear(p+"act_proj", d, d, true)
			dw(p+"dwc", d)
			linear(p+"attn.qk", 2*d, d, c.QKVBias)
			dw(p+"attn.lepe", d)
			linear(p+"out_proj", d, d, true)
			dw(p+"cpe2", d)
			affine(p+"norm2", d)
			linear(p+"mlp.fc1", hid, d, true)
			linear(p+"mlp.fc2", d, hid, true)
		}
		if i+1 < len(c.Depths) {
			p := downsampleName(i) + ".conv."
			conv(p+"0.conv", 8*d, d, 1)
			add(p+"0.conv.bias", 8*d)
			dw(p+"1.conv", 8*d)
			conv(p+"2.conv", 2*d, 8*d, 1)
			add(p+"2.conv.bias", 2*d)
			bn(p+"2.norm", 2*d)
		}
	}
	last := c.Dim(len(c.Depths) - 1)
	group = "norm"
	affine("norm", last)
	if c.NumClasses > 0 {
		group = "head"
		linear("head", c.NumClasses, last, true)
	}
	for i := range c.Depths {
		group = "norm" + strconv.Itoa(i)
		affine(group, c.Dim(i))
	}
	return out
}

func blockName(i, j int) string   { return fmt.Sprintf("layers.%d.blocks.%d", i, j) }
func downsampleName(i int) string { return fmt.Sprintf("layers.%d.downsample", i) }
func isBuffer(name string) bool {
	return hasAnySuffix(name, "attn.rope.rotations", "num_batches_tracked")
}
func hasAnySuffix(s string, suffixes ...string) bool {
	return slices.ContainsFunc(suffixes, func(x string) bool { return strings.HasSuffix(s, x) })
}

// Params returns the number of trainable parameters of the classification
// model: BatchNorm's running statistics and the norms of feature maps do not
// count.
func (c Config) Params() int { return countParams(c.Tensors()) }

// Image returns the channels of an image and the size trained at.
func (c Config) Image() (chans, size int) { return c.InChans, c.ImgSize }

// Classes returns the number of outputs of the classification head.
func (c Config) Classes() int { return c.NumClasses }

// String names the configuration in errors.
func (c Config) String() string {
	return fmt.Sprintf("MILA: embed_dim %d, depths %v, mlp_ratio %v, in_chans %d, num_classes %d", c.EmbedDim, c.Depths, c.MLPRatio, c.InChans, c.NumClasses)
}

// MACs returns the multiply-accumulates of one h x w image through the
// classification model: convolutions (padding counted as if it were data),
// linear layers and the two products of linear attention; not norms,
// activations and rotations.
func (c Config) MACs(h, w int) int64 {
	e := int64(c.EmbedDim)
	h4, w4 := ceilDiv(h, 4), ceilDiv(w, 4)
	t2, t4 := int64(4*h4*w4), int64(h4*w4)
	n := t2*9*(int64(c.InChans)*e/2+2*(e/2)*(e/2)) + t4*(9*(e/2)*4*e+4*e*e)
	hh, ww := h4, w4
	for i, depth := range c.Depths {
		d, hid, l := int64(c.Dim(i)), int64(c.hidden(i)), int64(hh*ww)
		hd := d / int64(c.NumHeads[i])
		perToken := 5*d*d + 2*d*hid + 4*9*d + 2*d*hd + d
		n += int64(depth) * l * perToken
		if i+1 < len(c.Depths) {
			hh, ww = ceilDiv(hh, 2), ceilDiv(ww, 2)
			n += int64(4*hh*ww)*d*8*d + int64(hh*ww)*(9*8*d+8*d*2*d)
		}
	}
	return n + int64(c.Dim(len(c.Depths)-1))*int64(c.NumClasses)
}

func ceilDiv(a, b int) int { return (a + b - 1) / b }

// InferConfig works the configuration out from the shapes of official
// parameters. Head counts are in no shape: channels/32, which every official
// model has, is taken where 32 divides the channels.
func InferConfig(w Weights) (Config, error) {
	c := defaults()
	missing := func(name string) (Config, error) {
		return Config{}, fmt.Errorf("block: cannot infer the configuration: tensor %q is missing or has an unexpected shape; is this a MILA (MLLA) checkpoint? (a configuration can be given, for instance with --config)", name)
	}
	shape := func(name string, dims int) []int {
		if s, ok := w.Shape(name); ok && len(s) == dims && !slices.Contains(s, 0) {
			return s
		}
		return nil
	}
	const stem, patch = "patch_embed.conv1.conv.weight", "patch_embed.conv3.1.conv.weight"
	s, p := shape(stem, 4), shape(patch, 4)
	if s == nil {
		return missing(stem)
	}
	if p == nil {
		return missing(patch)
	}
	c.InChans, c.EmbedDim = s[1], p[0]
	for i := 0; i < 8; i++ {
		depth := 0
		for depth <= 1000 && shape(blockName(i, depth)+".in_proj.weight", 2) != nil {
			depth++
		}
		if depth == 0 {
			break
		}
		c.Depths = append(c.Depths, depth)
	}
	if len(c.Depths) == 0 {
		return missing(blockName(0, 0) + ".in_proj.weight")
	}
	fc1 := shape(blockName(0, 0)+".mlp.fc1.weight", 2)
	if fc1 == nil {
		return missing(blockName(0, 0) + ".mlp.fc1.weight")
	}
	// A ratio that gives this width back after truncation, preferably a round one.
	c.MLPRatio = math.Round(float64(fc1[0])/float64(c.EmbedDim)*1e6) / 1e6
	if c.hidden(0) != fc1[0] {
		c.MLPRatio = (float64(fc1[0]) + 0.5) / float64(c.EmbedDim)
	}
	c.QKVBias = shape(blockName(0, 0)+".attn.qk.bias", 1) != nil
	c.NumClasses = 0
	if head := shape("head.weight", 2); head != nil {
		c.NumClasses = head[0]
	}
	if ape := shape("absolute_pos_embed", 3); ape != nil {
		c.APE = true
		c.ImgSize = 4 * int(math.Round(math.Sqrt(float64(ape[1]))))
	}
	for i := range c.Depths {
		if c.Dim(i)%32 != 0 {
			return Config{}, fmt.Errorf("block: cannot infer the number of heads: stage %d has %d channels, and the official channels/32 does not divide; give the configuration (num_heads), for instance with --config", i, c.Dim(i))
		}
		c.NumHeads = append(c.NumHeads, c.Dim(i)/32)
	}
	return c, c.Validate()
}
