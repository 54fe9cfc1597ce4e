package block

import "fmt"

// Architecture is the configuration of one kind of model, for instance a MILA's
// [Config]: what it reads, which parameters it has, and how its forward pass goes.
type Architecture interface {
	// Validate says what is wrong with the configuration, if anything.
	Validate() error
	// Image returns the channels of an image, and the height and width that the
	// model was made for.
	Image() (chans, size int)
	// Classes returns the number of outputs of the classification head.
	Classes() int
	// Tensors returns every parameter under its official name.
	Tensors() []TensorSpec
	// Params returns the number of trainable parameters of the classification model.
	Params() int
	// MACs returns the multiply-accumulates of one image of h x w.
	MACs(h, w int) int64
	// String names the configuration in errors.
	String() string

	// network reads the parameters. groups are the optional ones that the
	// checkpoint has.
	network(l *loader, groups has) network
}

// network is the loaded parameters of a model, packed for one level.
type network interface {
	// check says why images of this size cannot be run, if so.
	check(batch, h, w int) error
	// channels returns those of each stage's feature map, and whether the checkpoint
	// has the norm that the map needs. The last is also the length of pooled features.
	channels() []featureMap
	// plan plans the forward pass on b.batch images of b.h x b.w.
	plan(b *planner)
}

type featureMap struct {
	channels int
	normed   bool
}

// TensorSpec is one parameter of a model.
type TensorSpec struct {
	Name  string
	Shape []int
	// Optional groups parameters that a checkpoint may lack as a whole:
	// "norm" and "head" (classification), "norm0".. (feature maps). "" is required.
	Optional string
}

// Len returns the number of elements.
func (t TensorSpec) Len() int {
	n := 1
	for _, d := range t.Shape {
		n *= d
	}
	return n
}

// classification reports whether the classification model has the parameter.
func (t TensorSpec) classification() bool {
	return t.Optional == "" || t.Optional == "norm" || t.Optional == "head"
}

// countParams counts the trainable elements of the classification model.
func countParams(specs []TensorSpec) int {
	n := 0
	for _, t := range specs {
		if t.classification() && !hasAnySuffix(t.Name, "running_mean", "running_var") {
			n += t.Len()
		}
	}
	return n
}

// declared returns the parameters that an architecture's network function asks
// its loader for, without reading any.
func declared(a Architecture) []TensorSpec {
	l := &loader{declares: true}
	a.network(l, has{"norm": true, "head": true})
	return l.specs
}

// plannedMACs counts those of the planned operations for one image. It needs no
// weights.
func plannedMACs(a Architecture, h, w int) int64 {
	b := &planner{Plan: &Plan{batch: 1, h: h, w: w}, threads: 1}
	a.network(&loader{declares: true}, has{"norm": true, "head": true}).plan(b)
	return b.macs
}

// ownSize accepts only the size that a model was made for.
func ownSize(a Architecture, dim, batch, h, w int) error {
	if _, size := a.Image(); h != size || w != size {
		return fmt.Errorf("block: this model has an absolute position embedding and runs only at its own size %d x %d, not %d x %d; resize the image", size, size, h, w)
	}
	return multipleOf(1, a, dim, batch, h, w)
}

// multipleOf accepts images that the stages of a pyramid divide without a remainder.
func multipleOf(n int, a Architecture, dim, batch, h, w int) error {
	if h%n != 0 || w%n != 0 {
		return fmt.Errorf("block: images of %d x %d; this model (%v) takes multiples of %d: resize or pad the image", h, w, a, n)
	}
	if float64(batch)*float64(h)*float64(w)*float64(dim) > 1<<30 {
		return fmt.Errorf("block: a batch of %d images of %d x %d needs more than 32 GiB; use a smaller batch or image", batch, h, w)
	}
	return nil
}
