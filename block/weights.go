package block

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// Weights is where a model's parameters come from: an opened checkpoint
// (package checkpoint) or [Synthetic].
type Weights interface {
	// Names lists the tensors.
	Names() []string
	// Shape returns a tensor's dimensions, and whether it exists.
	Shape(name string) ([]int, bool)
	// Read fills dst, which has exactly the tensor's number of elements, in row-major order.
	Read(name string, dst []float32) error
}

// has says which optional groups of tensors a checkpoint brings.
type has map[string]bool

// checkWeights compares a checkpoint with what the configuration needs and
// returns the optional groups that are complete. The error names every kind of
// trouble: missing, unexpected and misshapen tensors.
func checkWeights(a Architecture, w Weights) (has, error) {
	return checkTensors(a.String(), a.Tensors(), w, isBuffer)
}

// checkTensors does so for a list of parameters. ignored tells which others a
// checkpoint may hold.
func checkTensors(config string, specs []TensorSpec, w Weights, ignored func(name string) bool) (has, error) {
	want := map[string]bool{}
	groups := has{}
	var missing, shapes, unknown []string
	for _, t := range specs {
		if _, ok := w.Shape(t.Name); ok && t.Optional != "" {
			groups[t.Optional] = true
		}
	}
	for _, t := range specs {
		want[t.Name] = true
		s, ok := w.Shape(t.Name)
		switch {
		case !ok && (t.Optional == "" || groups[t.Optional]):
			missing = append(missing, t.Name)
		case ok && !slices.Equal(s, t.Shape) && !slices.Equal(s, append(slices.Clip(t.Shape), 1, 1)): // linear layers may have been kept as 1x1 convolutions
			shapes = append(shapes, fmt.Sprintf("%s is %v, the configuration needs %v", t.Name, s, t.Shape))
		}
	}
	if groups["head"] && !groups["norm"] {
		missing = append(missing, "norm.weight", "norm.bias")
	}
	for _, name := range w.Names() {
		if !want[name] && !ignored(name) {
			unknown = append(unknown, name)
		}
	}
	var parts []string
	for _, p := range []struct {
		what string
		list []string
	}{{"missing tensors", missing}, {"wrong shapes", shapes}, {"unexpected tensors", unknown}} {
		if len(p.list) > 0 {
			parts = append(parts, fmt.Sprintf("%s (%d): %s", p.what, len(p.list), abbreviate(p.list)))
		}
	}
	if parts != nil {
		return nil, fmt.Errorf("block: the weights do not fit the configuration (%s): %s; is it the right configuration for this file?", config, strings.Join(parts, "; "))
	}
	return groups, nil
}

func abbreviate(list []string) string {
	const most = 6
	if len(list) > most {
		return strings.Join(list[:most], ", ") + fmt.Sprintf(" and %d more", len(list)-most)
	}
	return strings.Join(list, ", ")
}

// Synthetic returns deterministic pseudo-random weights of a model (an
// [Architecture] or a [MambaConfig]), for tests
// and for measuring speed without a checkpoint. Every value follows from the
// tensor's name, its index and the seed (SplitMix64 seeded by FNV-1a), and its
// scale keeps activations of deep models in range.
func Synthetic(of interface{ Tensors() []TensorSpec }, seed uint64) Weights {
	shapes := map[string][]int{}
	for _, t := range of.Tensors() {
		if t.classification() {
			shapes[t.Name] = t.Shape
		}
	}
	return &synthetic{shapes, seed}
}

type synthetic struct {
	shapes map[string][]int
	seed   uint64
}

func (s *synthetic) Names() []string {
	names := make([]string, 0, len(s.shapes))
	for n := range s.shapes {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

func (s *synthetic) Shape(name string) ([]int, bool) {
	shape, ok := s.shapes[name]
	return shape, ok
}

func (s *synthetic) Read(name string, dst []float32) error {
	shape, ok := s.shapes[name]
	if !ok {
		return fmt.Errorf("block: no synthetic tensor %q", name)
	}
	fanIn := 1
	for _, d := range shape[1:] {
		fanIn *= d
	}
	xavier := math.Sqrt(3.0 / float64(fanIn))
	center, a := 0.0, xavier
	switch {
	case strings.HasSuffix(name, "running_var"):
		center, a = 1, 0.5
	case hasAnySuffix(name, "running_mean", ".bias"):
		a = 0.125
	case strings.HasSuffix(name, "pos_embed"):
		a = 0.5
	case len(shape) == 1:
		center, a = 1, 0.25
	case hasAnySuffix(name, "cpe1.weight", "cpe2.weight"):
		a = 0.25 * xavier
	case hasAnySuffix(name, "out_proj.weight", "mlp.fc2.weight"):
		a = 0.5 * xavier
	case hasAnySuffix(name, "conv.2.conv.weight", "conv3.1.conv.weight"):
		a = 2 * xavier
	}
	Generate(dst, name, s.seed, center, a)
	return nil
}

// Generate fills dst with the deterministic values center + a·u, u uniform in
// [-1, 1) on a grid of 2^-23, that name and seed determine: the generator
// behind [Synthetic].
func Generate(dst []float32, name string, seed uint64, center, a float64) {
	g := newGenerator(name, seed)
	for i := range dst {
		v := float64(int64(g.next()>>40)-1<<23) * (a / 8388608.0)
		if center != 0 {
			v = center + float64(v) // the conversion keeps the product from fusing
		}
		dst[i] = float32(v)
	}
}

type generator uint64

func newGenerator(name string, seed uint64) generator {
	h := uint64(0xcbf29ce484222325)
	for i := range len(name) {
		h = (h ^ uint64(name[i])) * 0x100000001b3
	}
	return generator(h + seed*0xD1342543DE82EF95)
}

func (g *generator) next() uint64 {
	*g += 0x9E3779B97F4A7C15
	z := uint64(*g)
	z = (z ^ z>>30) * 0xBF58476D1CE4E5B9
	z = (z ^ z>>27) * 0x94D049BB133111EB
	return z ^ z>>31
}
