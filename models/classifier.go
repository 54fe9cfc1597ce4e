package models

import (
	"context"
	"errors"
	"fmt"

	"github.com/mila-go/mila/block"
	"github.com/mila-go/mila/kernels"
	"github.com/mila-go/mila/vision"
)

// Batch classifies several images in one forward pass. That reads the weights once
// for all of them, which pays where an image alone has few tokens, see [Loaded.BatchSize];
// the probabilities are the same.
type Batch struct {
	*Loaded
	plan   *block.Plan
	input  []float32
	logits []float32
	n, max int
}

// NewBatch prepares forward passes of up to max images. One Batch serves one
// goroutine; several of one model can run at the same time.
func (l *Loaded) NewBatch(max int) (*Batch, error) {
	plan, pixels, err := l.planFor(l.Preprocess, max)
	if err != nil {
		return nil, err
	}
	return &Batch{Loaded: l, plan: plan, input: make([]float32, max*pixels), logits: make([]float32, max*l.Architecture().Classes()), max: max}, nil
}

// BatchSize returns how many images to classify in one forward pass for the most
// images a second: as many as give the matrix products of the last stage some rows.
// With 4 tokens there, images in a batch of 8 took a tenth less time than one by one;
// with 36 or 49, a batch gained nothing.
func (l *Loaded) BatchSize() (int, error) {
	const rows = 32
	plan, _, err := l.planFor(l.Preprocess, 1)
	if err != nil {
		return 0, err
	}
	h, w := plan.FeatureSize(len(l.Channels()) - 1)
	return (rows + h*w - 1) / (h * w), nil
}

// planFor plans the classification of images that p makes, of so many values each.
func (l *Loaded) planFor(p vision.Preprocess, batch int) (plan *block.Plan, values int, err error) {
	if !l.HasHead() {
		return nil, 0, errors.New("models: this checkpoint has no classification head; use it for features (mila run --features)")
	}
	if err := p.Validate(); err != nil {
		return nil, 0, err
	}
	chans, _ := l.Architecture().Image()
	if p.Channels() != chans {
		return nil, 0, fmt.Errorf("models: the preprocessing makes %d channels and the model takes %d", p.Channels(), chans)
	}
	plan, err = l.Plan(batch, p.Crop, p.Crop)
	return plan, chans * p.Crop * p.Crop, err
}

// Add puts an image into the next forward pass. An image that cannot be
// transformed is an error and not added. It panics if the batch is full.
func (b *Batch) Add(img *vision.RGB) error {
	if b.n == b.max {
		panic(fmt.Sprintf("models: Batch.Add: the batch of %d images is full", b.max))
	}
	values := len(b.input) / b.max
	if err := b.Preprocess.Tensor(b.input[b.n*values:(b.n+1)*values], img); err != nil {
		return err
	}
	b.n++
	return nil
}

// Len returns how many images have been added since the last Classify.
func (b *Batch) Len() int { return b.n }

// Classify returns the probabilities of the added images one after another, (Len,
// classes), and empties the batch. It is an error if a result is not finite. The
// slice is valid until the next call. A batch that is not full takes as long as a
// full one.
func (b *Batch) Classify(ctx context.Context) ([]float32, error) {
	n := b.n
	b.n = 0
	if n == 0 {
		return nil, nil
	}
	if err := b.plan.Forward(ctx, &block.Output{Logits: b.logits}, b.input); err != nil {
		return nil, err
	}
	classes := len(b.logits) / b.max
	probs := b.logits[:n*classes]
	kernels.Softmax(b.Level(), probs, probs, n, classes)
	for i := range n {
		if p := probs[i*classes]; p != p {
			return nil, errors.New("models: the result is not a number; the weights are damaged or do not fit the configuration")
		}
	}
	return probs, nil
}

// Classifier turns single images into class probabilities.
type Classifier struct {
	*Loaded
	batch *Batch
}

// NewClassifier prepares the classification of single images. One Classifier
// serves one goroutine; several of one model can run at the same time.
func (l *Loaded) NewClassifier() (*Classifier, error) {
	b, err := l.NewBatch(1)
	return &Classifier{l, b}, err
}

// Classify returns the probabilities of img's classes, or an error if a result
// is not finite. The slice is valid until the next call.
func (c *Classifier) Classify(ctx context.Context, img *vision.RGB) ([]float32, error) {
	if err := c.batch.Add(img); err != nil {
		return nil, err
	}
	return c.batch.Classify(ctx)
}
