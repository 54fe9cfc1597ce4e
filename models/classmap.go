package models

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/mila-go/mila/block"
	"github.com/mila-go/mila/vision"
)

// ClassMapper finds out which places of an image speak for a class.
type ClassMapper struct {
	*Loaded
	view       vision.Preprocess
	plan       *block.Plan
	input      []float32
	maps       []float32 // (rows, cols, classes)
	rows, cols int
}

// fineEnough is the side of the map that classifiers of 224 x 224 pixels have, in
// cells.
const fineEnough = 7

// NewClassMapper prepares maps of images that are transformed to size x size pixels
// instead of the model's own size, in the same proportions. A larger image gives a
// finer map, of a model that sees things larger than those it was trained on. With
// size 0 it is the model's own size, or the multiple of it at which the map has 7 x 7
// cells, where it has fewer and the model takes images of any size. One ClassMapper
// serves one goroutine.
func (l *Loaded) NewClassMapper(size int) (*ClassMapper, error) {
	view := l.Preprocess
	if size != 0 {
		view = view.At(size)
	}
	plan, pixels, err := l.planFor(view, 1)
	if err != nil {
		return nil, err
	}
	last := len(l.Channels()) - 1
	rows, cols := plan.FeatureSize(last)
	if finer := (fineEnough + rows - 1) / rows; size == 0 && finer > 1 {
		larger := view.At(finer * view.Crop)
		if p, n, err := l.planFor(larger, 1); err == nil {
			view, plan, pixels = larger, p, n
			rows, cols = plan.FeatureSize(last)
		}
	}
	maps := make([]float32, rows*cols*l.Architecture().Classes())
	return &ClassMapper{Loaded: l, view: view, plan: plan, input: make([]float32, pixels), maps: maps, rows: rows, cols: cols}, nil
}

// Map returns how much each place of img speaks for class, to be drawn over it. With
// u_t the final norm's output for token t, and W and b the head, the value is
//
//	(W u_t + b)[class] - mean over all classes of (W u_t + b)
//
// The head is applied to the mean over tokens, so the mean of the map is exactly by
// how much the logit of the class is above the average logit, at the map's size.
// The part that is subtracted is the same for all classes, so probabilities do not
// depend on it; with it 0 means that a place speaks for the class no more than for
// any other. What a token knows comes from the whole image, by attention and by
// the convolutions before it: a place can be marked for what stands beside it.
func (m *ClassMapper) Map(ctx context.Context, img *vision.RGB, class int) (vision.Heatmap, error) {
	classes := m.Architecture().Classes()
	h := vision.Heatmap{Photo: img, View: m.view, Rows: m.rows, Cols: m.cols, Values: make([]float32, m.rows*m.cols)}
	if class < 0 || class >= classes {
		return h, fmt.Errorf("models: there is no class %d; the model has %d", class, classes)
	}
	if err := m.view.Tensor(m.input, img); err != nil {
		return h, err
	}
	if err := m.plan.Forward(ctx, &block.Output{ClassMaps: m.maps}, m.input); err != nil {
		return h, err
	}
	for t := range h.Values {
		scores, sum := m.maps[t*classes:(t+1)*classes], 0.0
		for _, v := range scores {
			sum += float64(v)
		}
		h.Values[t] = float32(float64(scores[class]) - sum/float64(classes))
	}
	return h, nil
}

// Class returns the index of a class by its label (of which case does not matter), its
// WordNet id, or its index in digits.
func (l *Loaded) Class(name string) (int, error) {
	n := l.Architecture().Classes()
	for i, id := range l.WordNetIDs {
		if id == name && i < n {
			return i, nil
		}
	}
	found := -1
	for i, label := range l.Labels {
		if !strings.EqualFold(label, name) || i >= n {
			continue
		}
		if found >= 0 {
			return 0, fmt.Errorf("models: classes %d and %d are both called %q; name the class by its index", found, i, name)
		}
		found = i
	}
	if found >= 0 {
		return found, nil
	}
	if i, err := strconv.Atoi(name); err == nil && i >= 0 && i < n {
		return i, nil
	}
	var similar []string
	for _, label := range l.Labels {
		if name != "" && strings.Contains(strings.ToLower(label), strings.ToLower(name)) && len(similar) < 5 {
			similar = append(similar, label)
		}
	}
	if similar != nil {
		return 0, fmt.Errorf("models: there is no class %q; similar are %s", name, strings.Join(similar, ", "))
	}
	if len(l.Labels) == 0 {
		return 0, errors.New("models: this model's classes have no names; use an index from 0 to " + strconv.Itoa(n-1))
	}
	return 0, fmt.Errorf("models: there is no class %q; use a label, a WordNet id or an index from 0 to %d", name, n-1)
}
