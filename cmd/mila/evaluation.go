package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"text/tabwriter"

	"github.com/mila-go/mila/models"
	"github.com/mila-go/mila/vision"
)

// outcome is what became of one image.
type outcome struct {
	sample
	err   error
	top   []vision.Prediction // the five best
	rank  int                 // of the true class, from 0
	truth float32             // probability of the true class
}

// judge takes the probabilities that the model gave. Of classes with the same
// probability the first is the better one.
func (o *outcome) judge(probs []float32) {
	o.truth = probs[o.class]
	for class, p := range probs {
		if p > o.truth || p == o.truth && class < o.class {
			o.rank++
		}
	}
	o.top = vision.TopK(probs, nil, 5)
}

// evaluation adds up outcomes.
type evaluation struct {
	model              *models.Loaded
	images, top1, top5 int
	speed              float64 // images/s
	classes            []classResult
	confusion          map[[2]int]int // true and most probable class: images
	bins               [calibrationBins]calibrationBin
	nll                float64 // sum
	keep               bool    // what is said of each image
	answers            []imageResult
	failures           []imageFailure
}

// classResult is the results of one class.
type classResult struct {
	Index  int    `json:"index"`
	WNID   string `json:"wnid,omitempty"`
	Label  string `json:"label"`
	Images int    `json:"images"`
	Top1   int    `json:"top1"`   // of the images, those of which the class is the most probable
	Top5   int    `json:"top5"`   // and among the five most probable
	Called int    `json:"called"` // images of any class of which this class is the most probable
}

// calibrationBin is the images whose most probable class has a probability within
// [Low, High).
type calibrationBin struct {
	Low        float64 `json:"low"`
	High       float64 `json:"high"`
	Images     int     `json:"images"`
	Confidence float64 `json:"confidence"` // mean probability of the most probable class
	Accuracy   float64 `json:"accuracy"`   // share of images of which it is the true one
}

// calibrationBins is the usual number of bins of the expected calibration error.
const calibrationBins = 15

type imageResult struct {
	Image string       `json:"image"`
	Class int          `json:"class"` // the true one
	Rank  int          `json:"rank"`  // of the true class, from 0
	Prob  float32      `json:"prob"`  // of the true class
	Top   []indexValue `json:"top"`   // the five most probable
}

type indexValue struct {
	Index int     `json:"index"`
	Prob  float32 `json:"prob"`
}

type imageFailure struct {
	Image string `json:"image"`
	Error string `json:"error"`
}

func newEvaluation(m *models.Loaded, keep bool) *evaluation {
	e := &evaluation{model: m, keep: keep, confusion: map[[2]int]int{}, classes: make([]classResult, m.Architecture().Classes())}
	for i := range e.classes {
		c := &e.classes[i]
		c.Index, c.Label = i, vision.LabelOf(m.Labels, i)
		if i < len(m.WordNetIDs) {
			c.WNID = m.WordNetIDs[i]
		}
	}
	return e
}

func (e *evaluation) add(o outcome) {
	if o.err != nil {
		e.failures = append(e.failures, imageFailure{o.path, o.err.Error()})
		return
	}
	e.images++
	class, best := &e.classes[o.class], o.top[0]
	class.Images++
	if o.rank == 0 {
		e.top1++
		class.Top1++
	}
	if o.rank < 5 {
		e.top5++
		class.Top5++
	}
	e.classes[best.Index].Called++
	e.confusion[[2]int{o.class, best.Index}]++
	e.nll -= math.Log(max(float64(o.truth), math.SmallestNonzeroFloat32))
	bin := &e.bins[min(int(float64(best.Prob)*calibrationBins), calibrationBins-1)]
	bin.Images++
	bin.Confidence += float64(best.Prob) // a sum until calibration
	if o.rank == 0 {
		bin.Accuracy++
	}
	if e.keep {
		r := imageResult{Image: o.path, Class: o.class, Rank: o.rank, Prob: o.truth}
		for _, p := range o.top {
			r.Top = append(r.Top, indexValue{p.Index, p.Prob})
		}
		e.answers = append(e.answers, r)
	}
}

// share returns n as a fraction of the images.
func (e *evaluation) share(n int) float64 { return float64(n) / float64(max(1, e.images)) }

// calibration returns the bins and the expected calibration error: the mean over
// images of |accuracy - confidence| of their bin (Guo et al., arXiv 1706.04599).
func (e *evaluation) calibration() (bins []calibrationBin, ece float64) {
	for i, b := range e.bins {
		b.Low, b.High = float64(i)/calibrationBins, float64(i+1)/calibrationBins
		if n := float64(b.Images); n > 0 {
			b.Confidence /= n
			b.Accuracy /= n
			ece += math.Abs(b.Accuracy-b.Confidence) * e.share(b.Images)
		}
		bins = append(bins, b)
	}
	return bins, ece
}

// summary is the JSON of eval; its keys are fixed.
type summary struct {
	Top1       float64 `json:"top1"`
	Top5       float64 `json:"top5"`
	Images     int     `json:"images"`
	ImagesPerS float64 `json:"images_per_s"`
}

func (e *evaluation) summary() summary {
	return summary{e.share(e.top1), e.share(e.top5), e.images, e.speed}
}

// details is the JSON that --details writes.
type details struct {
	Model string `json:"model"`
	Data  string `json:"data"`
	summary
	NLL         float64 `json:"nll"` // mean negative log-likelihood of the true class
	Calibration struct {
		ECE  float64          `json:"ece"`
		Bins []calibrationBin `json:"bins"`
	} `json:"calibration"`
	Classes []classResult `json:"classes"`
	// Confusion is the matrix's entries that are not 0, by rows: true class, most
	// probable class, images.
	Confusion [][3]int       `json:"confusion"`
	Answers   []imageResult  `json:"answers"`
	Failures  []imageFailure `json:"failures"`
}

func (e *evaluation) write(w io.Writer, model, data string) error {
	d := details{Model: model, Data: data, summary: e.summary(), NLL: e.nll / float64(e.images), Classes: e.classes, Answers: e.answers, Failures: e.failures}
	d.Calibration.Bins, d.Calibration.ECE = e.calibration()
	for pair, n := range e.confusion {
		d.Confusion = append(d.Confusion, [3]int{pair[0], pair[1], n})
	}
	slices.SortFunc(d.Confusion, func(a, b [3]int) int { return slices.Compare(a[:], b[:]) })
	return json.NewEncoder(w).Encode(d)
}

// table prints the classes that have images, best first, and with each the class that
// its images are most often taken for.
func (e *evaluation) table(w io.Writer) error {
	type mistake struct{ class, images int }
	taken := make([]mistake, len(e.classes))
	for pair, n := range e.confusion {
		was, called := pair[0], pair[1]
		if t := &taken[was]; was != called && (n > t.images || n == t.images && called < t.class) {
			*t = mistake{called, n}
		}
	}
	classes := slices.DeleteFunc(slices.Clone(e.classes), func(c classResult) bool { return c.Images == 0 })
	share := func(n, of int) float64 { return 100 * float64(n) / float64(of) }
	slices.SortStableFunc(classes, func(a, b classResult) int {
		return cmp.Or(cmp.Compare(share(b.Top1, b.Images), share(a.Top1, a.Images)), cmp.Compare(share(b.Top5, b.Images), share(a.Top5, a.Images)))
	})
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "class\timages\ttop-1\ttop-5\tmost often taken for")
	for _, c := range classes {
		most := ""
		if m := taken[c.Index]; m.images > 0 {
			most = fmt.Sprintf("%s (%.0f %%)", e.classes[m.class].Label, share(m.images, c.Images))
		}
		fmt.Fprintf(t, "%s\t%d\t%.0f %%\t%.0f %%\t%s\n", c.Label, c.Images, share(c.Top1, c.Images), share(c.Top5, c.Images), most)
	}
	return t.Flush()
}
