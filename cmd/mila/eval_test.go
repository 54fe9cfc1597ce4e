package main

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/json"
	"image"
	"image/png"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mila-go/mila/internal/golden"
	"github.com/mila-go/mila/models"
	"github.com/mila-go/mila/models/nano"
	"github.com/mila-go/mila/vision"
)

func photo(t *testing.T, name string) []byte {
	data, err := os.ReadFile(golden.Path(t, "photos", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// folder writes files, of which empty ones whose name ends in / are folders.
func folder(t *testing.T, files map[string][]byte) string {
	dir := t.TempDir()
	for name, data := range files {
		full := filepath.Join(dir, filepath.FromSlash(name))
		parent := filepath.Dir(full)
		if strings.HasSuffix(name, "/") {
			parent = full
		}
		if err := os.MkdirAll(parent, 0o755); err != nil {
			t.Fatal(err)
		}
		if parent == full {
			continue
		}
		if err := os.WriteFile(full, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// zipped writes files to a zip file. add may add more entries.
func zipped(t *testing.T, files map[string][]byte, add func(w *zip.Writer) error) string {
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for name, data := range files {
		f, err := w.Create(name)
		if err == nil {
			_, err = f.Write(data)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if add != nil {
		if err := add(w); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "set.zip")
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// pattern is a PNG image of some pattern.
func pattern(t *testing.T, w, h, kind int) []byte {
	m := image.NewNRGBA(image.Rect(0, 0, w, h))
	for p := range m.Pix {
		m.Pix[p] = byte(p * kind / 5)
	}
	var b bytes.Buffer
	if err := png.Encode(&b, m); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func summaryOf(t *testing.T, out string) (s summary) {
	t.Helper()
	dec := json.NewDecoder(strings.NewReader(out))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&s); err != nil {
		t.Fatalf("%v in %q", err, out)
	}
	return s
}

// TestEval evaluates the shipped photos, as a folder and as a zip, by WordNet id and
// by label.
func TestEval(t *testing.T) {
	chelsea, coffee := photo(t, "chelsea.png"), photo(t, "coffee.png")
	for _, folders := range [][2]string{{"n02123045", "n07920052"}, {"tabby", "espresso"}} {
		files := map[string][]byte{folders[0] + "/a.png": chelsea, folders[1] + "/images/b.png": coffee, folders[0] + "/c.png": coffee}
		for _, data := range []string{folder(t, files), zipped(t, files, nil)} {
			code, out, errs := mila(t, "", "eval", "--data", data, "--json", "--quiet")
			if code != 0 || errs != "" {
				t.Fatalf("exit %d: %s", code, errs)
			}
			got := summaryOf(t, out)
			if math.Abs(got.Top1-2.0/3) > 1e-9 || got.Images != 3 || got.ImagesPerS <= 0 || got.Top5 < got.Top1 {
				t.Errorf("%s", out)
			}
			if folders[0] == "tabby" {
				continue
			}
			if code, out, errs := mila(t, "", "eval", "--data", data, "--per-class"); code != 0 || !strings.Contains(errs, "without images: 198 of 200") ||
				!strings.Contains(out, "top-1 66.67 %") || !strings.Contains(out, "tabby     2       50 %   50 %   espresso (50 %)") || strings.Contains(out, "goldfish") {
				t.Errorf("exit %d, %s, %s", code, out, errs)
			}
		}
	}
}

// TestEvalManyEqualsOne checks that neither the batches nor the threads change a
// result.
func TestEvalManyEqualsOne(t *testing.T) {
	files := map[string][]byte{}
	for i := range 37 {
		files[[]string{"tabby/", "espresso/"}[i%2]+string(rune('A'+i))+".png"] = pattern(t, 64+i, 80, i+3)
	}
	files["tabby/K.png"] = []byte("broken in the middle of a batch")
	dir := folder(t, files)
	m, err := models.Open("nano", models.Options{})
	if err != nil {
		t.Fatal(err)
	}
	c, err := m.NewClassifier()
	if err != nil {
		t.Fatal(err)
	}
	for _, threads := range []string{"1", "2", "5"} {
		path := filepath.Join(t.TempDir(), "d.json")
		code, out, errs := mila(t, "", "eval", "--data", dir, "--threads", threads, "--json", "--details", path)
		if code != 1 || !strings.Contains(errs, "tabby/K.png: ") || !strings.Contains(errs, "1 of 37 images") {
			t.Fatalf("exit %d: %s", code, errs)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var d details
		if err := json.Unmarshal(data, &d); err != nil {
			t.Fatal(err)
		}
		if d.summary != summaryOf(t, out) || d.Images != 36 || len(d.Answers) != 36 || len(d.Failures) != 1 || d.Failures[0].Image != "tabby/K.png" {
			t.Fatalf("%d answers, %v, %s", len(d.Answers), d.Failures, out)
		}
		var top1, top5, called int
		var nll, ece float64
		confusion := map[[2]int]int{}
		for _, a := range d.Answers {
			img, err := vision.Decode(bytes.NewReader(files[a.Image]), vision.DecodeOptions{})
			if err != nil {
				t.Fatal(err)
			}
			probs, err := c.Classify(t.Context(), img)
			if err != nil {
				t.Fatal(err)
			}
			want := vision.TopK(probs, nil, 200)
			rank := slices.IndexFunc(want, func(p vision.Prediction) bool { return p.Index == a.Class })
			if a.Rank != rank || a.Prob != probs[a.Class] || len(a.Top) != 5 || m.Labels[a.Class] != filepath.Dir(a.Image) {
				t.Errorf("%+v, want rank %d and probability %v", a, rank, probs[a.Class])
			}
			for k, p := range a.Top {
				if p.Index != want[k].Index || p.Prob != want[k].Prob {
					t.Errorf("%s: place %d is %+v, want %+v", a.Image, k, p, want[k])
				}
			}
			if rank == 0 {
				top1++
			}
			if rank < 5 {
				top5++
			}
			nll -= math.Log(float64(a.Prob)) / 36
			confusion[[2]int{a.Class, want[0].Index}]++
		}
		if d.Top1 != float64(top1)/36 || d.Top5 != float64(top5)/36 || math.Abs(d.NLL-nll) > 1e-6 {
			t.Errorf("top1 %v, top5 %v, nll %v; want %d, %d, %v", d.Top1, d.Top5, d.NLL, top1, top5, nll)
		}
		for _, c := range d.Confusion {
			if confusion[[2]int{c[0], c[1]}] != c[2] {
				t.Errorf("confusion %v, want %v", d.Confusion, confusion)
			}
		}
		binned := 0
		for _, b := range d.Calibration.Bins {
			binned += b.Images
			ece += math.Abs(b.Accuracy-b.Confidence) * float64(b.Images) / 36
		}
		for _, c := range d.Classes {
			called += c.Called
		}
		if len(d.Confusion) != len(confusion) || binned != 36 || called != 36 || math.Abs(ece-d.Calibration.ECE) > 1e-12 || len(d.Calibration.Bins) != 15 {
			t.Errorf("%d confusions, %d in bins, ECE %v, want %v", len(d.Confusion), binned, d.Calibration.ECE, ece)
		}
	}
}

// TestTies ranks classes of the same probability by their index.
func TestTies(t *testing.T) {
	for class, rank := range []int{1, 0, 2, 3} {
		o := outcome{sample: sample{class: class}}
		if o.judge([]float32{0.2, 0.4, 0.2, 0.2}); o.rank != rank || o.top[rank].Index != class {
			t.Errorf("class %d has the rank %d, want %d; %v", class, o.rank, rank, o.top)
		}
	}
}

// TestCalibration has two bins, of which one is right half of the time and the other
// always.
func TestCalibration(t *testing.T) {
	m, err := models.Open("nano", models.Options{})
	if err != nil {
		t.Fatal(err)
	}
	e := newEvaluation(m, false)
	for i := range 8 {
		o := outcome{sample: sample{class: 7}, top: []vision.Prediction{{Index: 7, Prob: 0.9}}, truth: 0.9}
		if i < 4 {
			o.top[0].Prob = 1
			if i < 2 {
				o.top[0].Index, o.rank = 3, 1
			}
		}
		e.add(o)
	}
	bins, ece := e.calibration()
	if b := bins[14]; b.Images != 4 || b.Confidence != 1 || b.Accuracy != 0.5 {
		t.Errorf("%+v", b)
	}
	if b := bins[13]; b.Images != 4 || math.Abs(b.Confidence-0.9) > 1e-6 || b.Accuracy != 1 || b.Low >= 0.9 || b.High <= 0.9 {
		t.Errorf("%+v", b)
	}
	if want := (0.5 + 0.1) / 2; math.Abs(ece-want) > 1e-6 {
		t.Errorf("ECE %v, want %v", ece, want)
	}
}

// TestEvalFolders opens data sets that are not as they should be.
func TestEvalFolders(t *testing.T) {
	small := pattern(t, 20, 30, 7)
	in := func(names ...string) map[string][]byte {
		files := map[string][]byte{}
		for _, n := range names {
			files[n] = small
			if strings.HasSuffix(n, "/") {
				files[n] = nil
			}
		}
		return files
	}
	for _, tc := range []struct {
		code  int
		want  string
		files map[string][]byte
	}{
		{1, "no images", in("espresso/")},
		{1, "WordNet", in("unknown/x.png")},
		{1, "1 of the 2 class folders are no classes of the model, neither by WordNet id nor by label: unknown;", in("espresso/x.png", "unknown/x.png")},
		{1, "x.png is in no class folder", in("x.png", "espresso/x.png")},
		{1, "x.png is in no class folder", in("images/x.png")},
		{1, "is there twice, as train/espresso and val/espresso", in("train/espresso/x.png", "val/espresso/x.png")},
		{1, "none of the 1 images could be read", map[string][]byte{"espresso/x.png": []byte("nonsense")}},
		{1, `"espresso/\x1b[31m.png": `, map[string][]byte{"espresso/x.png": small, "espresso/\x1b[31m.png": nil}},
		{0, "folders without images: 2 (lost+found, tabby)", in("espresso/x.png", "lost+found/", "tabby/")},
		{0, "", in("a/b/espresso/x.png", "a/b/tabby/images/x.png", "a/b/tabby/.x.png", ".git/x.png", "__MACOSX/espresso/x.png")},
	} {
		for kind, data := range map[string]string{"folder": folder(t, tc.files), "zip": zipped(t, tc.files, nil)} {
			code, out, errs := mila(t, "", "eval", "--threads", "1", "--json", "--data", data)
			if code != tc.code || !strings.Contains(errs, tc.want) {
				t.Errorf("%s with %v: exit %d, %s; want %d, %s", kind, slices.Sorted(maps.Keys(tc.files)), code, errs, tc.code, tc.want)
			}
			if code == 0 && summaryOf(t, out).Images > 2 {
				t.Errorf("%s: hidden files are evaluated: %s", kind, out)
			}
		}
	}
	set := folder(t, in("espresso/x.png"))
	if code, out, errs := mila(t, "", "eval", "--data", set, "--details", filepath.Join(set, "no", "such.json")); code != 1 || !strings.Contains(errs, "such.json") || out != "" {
		t.Errorf("exit %d, %s, %s", code, out, errs)
	}
	if code, _, errs := mila(t, "", "eval", "--data", "/no/such"); code != 1 || !strings.Contains(errs, "/no/such") {
		t.Errorf("exit %d, %s", code, errs)
	}
	if code, _, errs := mila(t, "", "eval", "--data", golden.Path(t, "photos", "coffee.png")); code != 1 || !strings.Contains(errs, "neither a directory nor a zip file") {
		t.Errorf("exit %d, %s", code, errs)
	}
}

// TestEvalStops ends an evaluation by a model that is damaged, and by an interrupt.
func TestEvalStops(t *testing.T) {
	set := folder(t, map[string][]byte{"espresso/x.png": pattern(t, 20, 30, 7), "tabby/x.png": nil})
	weights := slices.Clone(nano.Weights)
	for i := len(weights) / 2 &^ 1; i < len(weights); i++ {
		weights[i] = 0x7f * byte(i&1) // NaN, in float16
	}
	damaged := filepath.Join(t.TempDir(), "m.safetensors")
	if err := os.WriteFile(damaged, weights, 0o644); err != nil {
		t.Fatal(err)
	}
	if code, out, errs := mila(t, "", "eval", "--json", "--data", set, "--model", damaged); code != 1 || out != "" || !strings.Contains(errs, "the weights are damaged") {
		t.Errorf("exit %d, %s, %s", code, out, errs)
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	var out, errs bytes.Buffer
	if code := run(ctx, []string{"mila", "eval", "--data", set}, strings.NewReader(""), &out, &errs); code != 1 || out.Len() > 0 || !strings.Contains(errs.String(), "mila: interrupted\n") {
		t.Errorf("exit %d, %s, %s", code, &out, &errs)
	}
}

// TestEvalInOrder takes folders in the order of the classes, in which an empty one
// has its place.
func TestEvalInOrder(t *testing.T) {
	chelsea, coffee := photo(t, "chelsea.png"), photo(t, "coffee.png")
	files := map[string][]byte{}
	for i := range 200 {
		files[string([]rune{'c', rune('0' + i/100), rune('0' + i/10%10), rune('0' + i%10)})+"/"] = nil
	}
	files["c030/x.png"], files["c193/x.png"] = chelsea, coffee
	code, out, errs := mila(t, "", "eval", "--json", "--data", folder(t, files))
	if code != 0 || !strings.Contains(errs, "in order, c000 for the first") || summaryOf(t, out).Top1 != 1 {
		t.Errorf("exit %d, %s, %s", code, out, errs)
	}
}

// TestEvalLinks follows symbolic links, also those that go round in a circle.
func TestEvalLinks(t *testing.T) {
	dir := folder(t, map[string][]byte{"real/x.png": photo(t, "coffee.png"), "set/tabby/": nil})
	if err := os.Symlink(filepath.Join(dir, "real"), filepath.Join(dir, "set", "espresso")); err != nil {
		t.Skip("no symbolic links: ", err)
	}
	set := filepath.Join(dir, "set")
	if code, out, errs := mila(t, "", "eval", "--json", "--data", set); code != 0 || summaryOf(t, out).Top1 != 1 {
		t.Errorf("exit %d, %s", code, errs)
	}
	if err := os.Symlink("/no/such/file", filepath.Join(set, "tabby", "x.png")); err != nil {
		t.Fatal(err)
	}
	if code, out, errs := mila(t, "", "eval", "--json", "--data", set); code != 1 || !strings.Contains(errs, "tabby/x.png: ") || summaryOf(t, out).Images != 1 {
		t.Errorf("exit %d, %s", code, errs)
	}
	if err := os.Symlink(set, filepath.Join(set, "tabby", "again")); err != nil {
		t.Fatal(err)
	}
	if code, _, errs := mila(t, "", "eval", "--data", set); code != 1 || !strings.Contains(errs, "circle") {
		t.Errorf("exit %d, %s", code, errs)
	}
}

// TestEvalZip has entries that are not what a zip file should hold.
func TestEvalZip(t *testing.T) {
	coffee := photo(t, "coffee.png")
	data := zipped(t, map[string][]byte{"espresso/a.png": coffee, "../../espresso/up.png": coffee, "/espresso/x/../abs.png": coffee, `espresso\back.png`: coffee, "/": nil, "espresso/empty.png": nil}, func(w *zip.Writer) error {
		for _, h := range []*zip.FileHeader{{Name: "espresso/a.png"}, {Name: "espresso/encrypted.png", Flags: 1}, {Name: "espresso/link.png"}, {Name: "espresso/odd.png", Method: zip.Store, CRC32: 1, UncompressedSize64: 10, CompressedSize64: 10}} {
			if strings.HasSuffix(h.Name, "link.png") {
				h.SetMode(fs.ModeSymlink | 0o777)
			}
			f, err := w.CreateRaw(h)
			if err == nil && h.CompressedSize64 > 0 {
				_, err = f.Write([]byte("0123456789"))
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	code, out, errs := mila(t, "", "eval", "--json", "--data", data)
	if s := summaryOf(t, out); code != 1 || s.Images != 4 || s.Top1 != 1 {
		t.Errorf("exit %d, %s, %s", code, out, errs)
	}
	for _, want := range []string{"encrypted.png: this entry of the zip file is encrypted", "link.png: this is not a regular file", "odd.png: ", "empty.png: ", "5 of 9 images"} {
		if !strings.Contains(errs, want) {
			t.Errorf("no %q in %s", want, errs)
		}
	}
}

// TestAmbiguousLabels has two classes of one label, which names neither.
func TestAmbiguousLabels(t *testing.T) {
	m, err := models.Open("nano", models.Options{})
	if err != nil {
		t.Fatal(err)
	}
	m.Labels, m.WordNetIDs = []string{"crane", "crane", "tabby"}, nil
	d := &dataset{folders: []string{"crane", "tabby"}, samples: []sample{{path: "crane/x.png"}, {path: "tabby/x.png"}}}
	if _, err := d.assign(m); err == nil || !strings.Contains(err.Error(), "crane") {
		t.Errorf("%v", err)
	}
	if _, err := m.Class("crane"); err == nil || !strings.Contains(err.Error(), "both called") {
		t.Errorf("%v", err)
	}
}
