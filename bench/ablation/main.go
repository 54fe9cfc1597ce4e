// Command ablation measures the trained models of the ablation, all with this
// module, and sets them beside tables 1 and 2 of arXiv 2405.16605: their accuracy by
// mila eval, their speed in turn, and the average forget gate of each layer. It
// writes ablation.json and ablation.md.
//
//	go run ./bench/ablation [--data val.zip [--runs DIR]] [--results DIR] [--rounds N]
//
// DIR holds the weights of further seeds, ROW-SEED.safetensors; without it, the shipped
// ones are evaluated, one seed a row. Seeds that are not at hand, and without --data all
// accuracies and the gates, stay as ablation.json has them; speed is measured anew.
package main

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/cpuid/v2"
	"github.com/mila-go/mila/bench"
	"github.com/mila-go/mila/block"
	"github.com/mila-go/mila/checkpoint"
	"github.com/mila-go/mila/models"
	"github.com/mila-go/mila/models/ablation"
	"github.com/mila-go/mila/vision"
)

// published names the rows of the paper's tables.
var published = map[string]string{
	"baseline": "la-t", "input-gate": "la-t+input-gate", "forget-gate": "la-t+forget-gate", "shortcut": "la-t+shortcut",
	"no-normaliser": "la-t-normaliser", "single-head": "la-t-multi-head", "block-all": "la-t+block-all", "block-sub": "la-t+block-sub",
	"ape": "la-t+ape", "lepe": "la-t+lepe", "cpe": "la-t+cpe", "rope": "la-t+rope",
}

// results is what ablation.json holds.
type results struct {
	Date  string  `json:"date"` // of the speeds
	CPU   string  `json:"cpu"`
	Level string  `json:"level"`
	Go    string  `json:"go"`
	Rows  []*row  `json:"rows"`
	Gates []layer `json:"gates"`
}

// row is one model of the ablation, in the order of the paper's tables.
type row struct {
	Name  string           `json:"name"`
	Label string           `json:"label"`
	M     float64          `json:"parameters"`    // millions
	MACs  float64          `json:"multiply_adds"` // millions
	Seeds []seed           `json:"seeds"`
	US    []float64        `json:"us"`              // of each round, one image
	Paper *bench.Published `json:"paper,omitempty"` // none for MILA, which is in neither table
}

// seed is the accuracy of one training run, as mila eval prints it.
type seed struct {
	Seed   int     `json:"seed"`
	Top1   float64 `json:"top1"`
	Top5   float64 `json:"top5"`
	Images int     `json:"images"`
}

// layer is the forget gate exp(Δ A) of one layer: its mean over images, tokens,
// channels and key channels, and the deciles of its distribution over channels and
// key channels after the mean over images and tokens.
type layer struct {
	Name string  `json:"name"`
	Mean float64 `json:"mean"`
	P10  float64 `json:"p10"`
	P90  float64 `json:"p90"`
}

func main() {
	dir := flag.String("results", filepath.Join("bench", "results"), "`folder` for ablation.json and ablation.md")
	data := flag.String("data", "", "`data set` for accuracy and gates, as mila eval takes it; a zip file")
	runs := flag.String("runs", "", "`folder` of ROW-SEED.safetensors to evaluate instead of the shipped weights")
	rounds := flag.Int("rounds", 25, "how often all models are measured in turn")
	flag.Parse()
	if err := run(*dir, *data, *runs, *rounds); err != nil {
		fmt.Fprintln(os.Stderr, "ablation:", err)
		os.Exit(1)
	}
}

func run(dir, data, runs string, rounds int) error {
	r := results{Date: time.Now().UTC().Format(time.DateOnly), CPU: cpuid.CPU.BrandName, Go: strings.TrimPrefix(runtime.Version(), "go")}
	path := filepath.Join(dir, "ablation.json")
	var old results
	if text, err := os.ReadFile(path); err == nil {
		if err := json.Unmarshal(text, &old); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, name := range ablation.Rows {
		w := &row{Name: name, Label: "MILA"}
		for _, t := range [][]bench.Published{bench.Table1, bench.Table2} {
			if i := slices.IndexFunc(t, func(p bench.Published) bool { return p.Name == published[name] }); i >= 0 {
				w.Label, w.Paper = t[i].Label, &t[i]
			}
		}
		if i := slices.IndexFunc(old.Rows, func(x *row) bool { return x.Name == name }); i >= 0 {
			w.Seeds = old.Rows[i].Seeds
		}
		r.Rows = append(r.Rows, w)
	}
	r.Gates = old.Gates
	if data != "" {
		if err := r.evaluate(data, runs); err != nil {
			return err
		}
		if err := r.gates(data); err != nil {
			return err
		}
	}
	if err := r.measure(rounds); err != nil {
		return err
	}
	return bench.WriteResults(dir, "ablation", r, r.markdown())
}

// evaluate runs mila eval on the weights of every seed.
func (r *results) evaluate(data, runs string) error {
	dir, err := os.MkdirTemp("", "ablation")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	mila := filepath.Join(dir, "mila")
	if out, err := exec.Command("go", "build", "-o", mila, "github.com/mila-go/mila/cmd/mila").CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	for _, w := range r.Rows {
		weights := []string{ablation.Prefix + w.Name}
		if runs != "" {
			if weights, err = filepath.Glob(filepath.Join(runs, w.Name+"-[0-9].safetensors")); err != nil {
				return err
			}
		}
		for _, path := range weights {
			fmt.Fprintln(os.Stderr, "evaluating", path)
			f, err := models.OpenCheckpoint(path, "")
			if err != nil {
				return err
			}
			config, _ := f.Config()
			f.Close()
			number, ok := config["seed"].(float64)
			if !ok {
				return fmt.Errorf("%s does not say from which seed it was trained", path)
			}
			var stderr bytes.Buffer
			cmd := exec.Command(mila, "eval", "--json", "--data", data, "--model", path)
			cmd.Stderr = &stderr
			out, err := cmd.Output()
			if err != nil {
				return fmt.Errorf("mila eval --model %s: %w\n%s", path, err, stderr.Bytes())
			}
			s := seed{Seed: int(number)}
			if err := json.Unmarshal(out, &s); err != nil {
				return fmt.Errorf("mila eval --model %s: %w", path, err)
			}
			w.Seeds = append(slices.DeleteFunc(w.Seeds, func(x seed) bool { return x.Seed == s.Seed }), s)
		}
		slices.SortFunc(w.Seeds, func(x, y seed) int { return x.Seed - y.Seed })
	}
	return nil
}

// gates averages the forget gate of each layer over the first images of a data set.
func (r *results) gates(data string) error {
	const images = 200
	name := ablation.Prefix + "forget-gate"
	m, err := models.Open(name, models.Options{})
	if err != nil {
		return err
	}
	f, err := models.OpenCheckpoint(name, "")
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := zip.OpenReader(data)
	if err != nil {
		return err
	}
	defer z.Close()
	size := m.Preprocess.Crop
	plan, err := m.Plan(1, size, size)
	if err != nil {
		return err
	}
	sums := map[string][]float64{} // by layer, channel and key channel
	var order []string
	plan.Tap = func(tap string, shape []int, delta []float32) {
		layer, ok := strings.CutSuffix(tap, ".attn.dt2")
		if !ok {
			return
		}
		if sums[layer] == nil {
			order = append(order, layer)
		}
		if err := addGates(sums, layer, f, delta, shape[2]); err != nil {
			panic(err) // the model was built from the same tensor
		}
	}
	x, logits, n := make([]float32, 3*size*size), make([]float32, m.Architecture().Classes()), 0
	step := max(1, len(z.File)/images) // the files are sorted by class
	for i := 0; i < len(z.File) && n < images; i += step {
		if !strings.HasSuffix(strings.ToLower(z.File[i].Name), ".jpeg") {
			continue
		}
		file, err := z.File[i].Open()
		if err != nil {
			return err
		}
		img, err := vision.Decode(file, vision.DecodeOptions{})
		file.Close()
		if err == nil {
			err = m.Preprocess.Tensor(x, img)
		}
		if err == nil {
			err = plan.Forward(context.Background(), &block.Output{Logits: logits}, x)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", z.File[i].Name, err)
		}
		n++
	}
	if n == 0 {
		return fmt.Errorf("%s holds no .JPEG files", data)
	}
	r.Gates = nil
	for _, name := range order {
		g, mean := sums[name], 0.0
		for i := range g {
			g[i] /= float64(n)
			mean += g[i] / float64(len(g))
		}
		slices.Sort(g)
		r.Gates = append(r.Gates, layer{name, mean, g[len(g)/10], g[len(g)*9/10]})
	}
	return nil
}

// addGates adds to the layer's sums the mean over tokens of exp(Softplus(delta) A),
// for delta of tokens x channels.
func addGates(sums map[string][]float64, layer string, f *checkpoint.File, delta []float32, channels int) error {
	shape, _ := f.Shape(layer + ".attn.A_log")
	keys := shape[1]
	logs := make([]float32, channels*keys)
	if err := f.Read(layer+".attn.A_log", logs); err != nil {
		return err
	}
	if sums[layer] == nil {
		sums[layer] = make([]float64, channels*keys)
	}
	tokens := len(delta) / channels
	for c := range channels {
		for t := range tokens {
			step := math.Log1p(math.Exp(float64(delta[t*channels+c])))
			for k := range keys {
				sums[layer][c*keys+k] += math.Exp(-step*math.Exp(float64(logs[c*keys+k]))) / float64(tokens)
			}
		}
	}
	return nil
}

// measure runs the models in turn on one thread.
func (r *results) measure(rounds int) error {
	var passes []*bench.Pass
	for _, w := range r.Rows {
		m, err := models.Open(ablation.Prefix+w.Name, models.Options{Threads: 1})
		if err != nil {
			return err
		}
		r.Level = m.Level().String()
		a := m.Architecture()
		_, size := a.Image()
		p, err := bench.NewPass(m.Model, size)
		if err != nil {
			return err
		}
		passes = append(passes, p)
		w.M, w.MACs = float64(a.Params())/1e6, float64(a.MACs(size, size))/1e6
	}
	times, err := bench.InTurn(passes, rounds, 4, 20, nil)
	if err != nil {
		return err
	}
	for i, w := range r.Rows {
		for _, t := range times[i] {
			w.US = append(w.US, t*1e6)
		}
	}
	return nil
}
