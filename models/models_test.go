package models_test

import (
	"bytes"
	"context"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/mila-go/mila/checkpoint"
	"github.com/mila-go/mila/internal/golden"
	"github.com/mila-go/mila/models"
	"github.com/mila-go/mila/models/nano"
	"github.com/mila-go/mila/vision"
)

func photo(t *testing.T, name string) *vision.RGB {
	img, err := vision.DecodeFile(golden.Path(t, "photos", name), vision.DecodeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// open returns nano and a classifier.
func open(t *testing.T) (*models.Loaded, *models.Classifier) {
	t.Helper()
	m, err := models.Open("nano", models.Options{})
	if err != nil {
		t.Fatal(err)
	}
	c, err := m.NewClassifier()
	if err != nil {
		t.Fatal(err)
	}
	return m, c
}

// TestNano runs the shipped model from image files to logits' probabilities and
// compares with the reference's.
func TestNano(t *testing.T) {
	m, err := models.Open("nano", models.Options{})
	if err != nil {
		t.Fatal(err)
	}
	want := golden.OpenFile(t, golden.Path(t, "nano", "photos.expected.safetensors"))
	var wg sync.WaitGroup
	for _, name := range []string{"chelsea.png", "coffee.png"} {
		c, err := m.NewClassifier()
		if err != nil {
			t.Fatal(err)
		}
		logits, img := want.F32("photo."+name+".logits"), photo(t, name)
		wg.Go(func() {
			probs, err := c.Classify(context.Background(), img)
			if err != nil {
				t.Error(err)
				return
			}
			var sum float64
			for _, v := range logits {
				sum += math.Exp(float64(v))
			}
			for i, v := range logits {
				if d := math.Abs(float64(probs[i]) - math.Exp(float64(v))/sum); d > 1e-5 {
					t.Errorf("%s: class %d is off by %v", name, i, d)
				}
			}
		})
	}
	wg.Wait()
	if len(m.Labels) != 200 || len(m.WordNetIDs) != 200 || m.Preprocess.Crop != 96 {
		t.Errorf("%d labels, %d ids, %+v", len(m.Labels), len(m.WordNetIDs), m.Preprocess)
	}
}

// TestClassMapper checks that the mean of a map is by how much the logit is above the
// average, which the probabilities tell.
func TestClassMapper(t *testing.T) {
	m, c := open(t)
	crop := m.Preprocess.Crop
	own, err := m.NewClassMapper(crop)
	if err != nil {
		t.Fatal(err)
	}
	finer, err := m.NewClassMapper(0)
	if err != nil {
		t.Fatal(err)
	}
	img := photo(t, "chelsea.png")
	probs, err := c.Classify(context.Background(), img)
	if err != nil {
		t.Fatal(err)
	}
	var average float64
	for _, p := range probs {
		average += math.Log(float64(p)) / float64(len(probs))
	}
	tabby, err := m.Class("tabby")
	if err != nil {
		t.Fatal(err)
	}
	for _, class := range []int{tabby, 0, 199} {
		h, err := own.Map(context.Background(), img, class)
		if err != nil {
			t.Fatal(err)
		}
		var mean float64
		for _, v := range h.Values {
			mean += float64(v) / float64(len(h.Values))
		}
		if want := math.Log(float64(probs[class])) - average; math.Abs(mean-want) > 1e-4 {
			t.Errorf("class %d: the map's mean is %v, want %v", class, mean, want)
		}
		if h.View.Crop != crop || len(h.Values) != h.Rows*h.Cols {
			t.Errorf("%d values at %d", len(h.Values), h.View.Crop)
		}
	}
	h, err := finer.Map(context.Background(), img, tabby)
	if err != nil || h.Rows < 7 || h.Cols < 7 || h.View.Crop%crop != 0 || h.View.ResizeShort*crop != h.View.Crop*m.Preprocess.ResizeShort {
		t.Errorf("%d x %d cells of %+v, %v", h.Rows, h.Cols, h.View, err)
	}
	for _, class := range []int{-1, 200} {
		if _, err := own.Map(context.Background(), img, class); err == nil {
			t.Errorf("there is a map of class %d", class)
		}
	}
}

func TestClass(t *testing.T) {
	m, _ := open(t)
	for _, name := range []string{"tabby", "TABBY", "n02123045", "30"} {
		if class, err := m.Class(name); err != nil || class != 30 {
			t.Errorf("%q is class %d, %v", name, class, err)
		}
	}
	for name, want := range map[string]string{"tabb": "similar are tabby", "200": "0 to 199", "-1": "0 to 199", "": "0 to 199"} {
		if class, err := m.Class(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is class %d, %v; want %q", name, class, err, want)
		}
	}
	m.Labels = nil
	if _, err := m.Class("tabby"); err == nil || !strings.Contains(err.Error(), "no names") {
		t.Errorf("a class name without labels: %v", err)
	}
}

// TestBatch classifies in batches, full and not, and one of the images cannot be
// transformed.
func TestBatch(t *testing.T) {
	m, c := open(t)
	b, err := m.NewBatch(3)
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	photos := []*vision.RGB{photo(t, "chelsea.png"), photo(t, "coffee.png"), photo(t, "rocket.jpg")}
	for _, n := range []int{3, 1, 2, 0} {
		for i := range n {
			if err := b.Add(photos[(i+n)%3]); err != nil {
				t.Fatal(err)
			}
		}
		if n < 3 {
			if err := b.Add(&vision.RGB{}); err == nil {
				t.Error("an image without pixels is accepted")
			}
		}
		if b.Len() != n {
			t.Errorf("%d images in the batch, want %d", b.Len(), n)
		}
		got, err := b.Classify(ctx)
		if err != nil || len(got) != 200*n || b.Len() != 0 {
			t.Fatalf("%d probabilities, %d images left, %v", len(got), b.Len(), err)
		}
		for i := range n {
			want, err := c.Classify(ctx, photos[(i+n)%3])
			if err != nil || !slices.Equal(got[200*i:200*(i+1)], want) {
				t.Errorf("image %d of %d is another one in the batch, %v", i, n, err)
			}
		}
	}
	if n, err := m.BatchSize(); err != nil || n != 1 { // nano has 36 tokens in its last stage
		t.Errorf("batches of %d, %v", n, err)
	}
	m.Preprocess = m.Preprocess.At(40) // 3 x 3
	if n, err := m.BatchSize(); err != nil || n != 4 {
		t.Errorf("batches of %d, %v", n, err)
	}
	if _, err := m.NewBatch(0); err == nil {
		t.Error("a batch of nothing is accepted")
	}
}

// rewrite saves nano with some tensors changed.
func rewrite(t *testing.T, change func(x *checkpoint.Tensor) (keep bool), extra ...checkpoint.Tensor) string {
	f, err := checkpoint.Parse(nano.Weights)
	if err != nil {
		t.Fatal(err)
	}
	var out []checkpoint.Tensor
	for _, n := range f.Names() {
		shape, _ := f.Shape(n)
		size := 1
		for _, d := range shape {
			size *= d
		}
		x := checkpoint.Tensor{Name: n, Shape: shape, F32: make([]float32, size), DType: checkpoint.F16}
		if err := f.Read(n, x.F32); err != nil {
			t.Fatal(err)
		}
		if change(&x) {
			out = append(out, x)
		}
	}
	path := filepath.Join(t.TempDir(), "m.safetensors")
	if err := checkpoint.SaveSafetensors(path, append(out, extra...), f.Metadata()); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestHostileCheckpoints(t *testing.T) {
	same := func(*checkpoint.Tensor) bool { return true }
	file := func(data []byte) string {
		path := filepath.Join(t.TempDir(), "m.safetensors")
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	flipped := bytes.Clone(nano.Weights)
	flipped[8] ^= 0x40 // the first brace of the header
	huge := bytes.Clone(nano.Weights)
	huge[6] = 0xff
	for want, path := range map[string]string{
		"truncated":               file(nano.Weights[:len(nano.Weights)/2]),
		"empty":                   file(nil),
		"above the limit":         file(huge),
		"m.safetensors":           file(flipped),
		"missing tensors":         rewrite(t, func(x *checkpoint.Tensor) bool { return x.Name != "head.bias" }),
		"unexpected tensors":      rewrite(t, same, checkpoint.Tensor{Name: "more", Shape: []int{1}, F32: []float32{1}}),
		"wrong shapes":            rewrite(t, func(x *checkpoint.Tensor) bool { x.Shape = append(slices.Clone(x.Shape), 1); return true }),
		`"norm.bias" is I32`:      rewrite(t, func(x *checkpoint.Tensor) bool { return x.Name != "norm.bias" }, checkpoint.Tensor{Name: "norm.bias", DType: checkpoint.I32, Shape: []int{256}, Data: make([]byte, 1024)}),
		"no such file":            "/no/such/file.pth",
		"there is no model \"x\"": "x",
	} {
		if _, err := models.Open(path, models.Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
	if _, err := models.Open(rewrite(t, same), models.Options{}); err != nil {
		t.Errorf("an unchanged copy: %v", err)
	}
	// NaN weights: loading works, the answer is an error and not a class.
	m, err := models.Open(rewrite(t, func(x *checkpoint.Tensor) bool {
		if x.Name == "norm.weight" {
			x.F32[0] = float32(math.NaN())
		}
		return true
	}), models.Options{})
	if err != nil {
		t.Fatal(err)
	}
	c, err := m.NewClassifier()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Classify(context.Background(), photo(t, "coffee.png")); err == nil || !strings.Contains(err.Error(), "not a number") {
		t.Errorf("NaN weights: %v", err)
	}
}

func TestConfigFile(t *testing.T) {
	dir := t.TempDir()
	write := func(text string) string {
		path := filepath.Join(dir, "c.json")
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := `{"config":{"embed_dim":64,"depths":[2,6,4],"num_heads":[2,4,8],"mlp_ratio":3,"num_classes":200,"img_size":128,"labels":["a"]}}`
	m, err := models.Open("nano", models.Options{ConfigPath: write(good)})
	if err != nil || len(m.Labels) != 1 || m.Preprocess.Crop != 128 || m.Preprocess.ResizeShort != 146 {
		t.Errorf("%+v, %v", m, err)
	}
	for _, bad := range []string{"", "[1]", `{"embed_dim":32}`, strings.Replace(good, "[2,6,4]", "[2,6,2]", 1), strings.Replace(good, `["a"]`, `"a"`, 1)} {
		if _, err := models.Open("nano", models.Options{ConfigPath: write(bad)}); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
	if _, err := models.Open("nano", models.Options{ConfigPath: "/no/such.json"}); err == nil {
		t.Error("a missing configuration is accepted")
	}
	if _, err := models.Open("nano", models.Options{State: "ema"}); err == nil {
		t.Error("nano has no EMA")
	}
}
