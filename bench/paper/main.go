// Command paper measures the models that arXiv 2405.16605 compares, all with this
// module, and sets them beside the paper's figures: its speed figure and the
// throughput columns of its tables 1 and 2. It writes paper.json and paper.md.
//
//	go run ./bench/paper [-results DIR] [-rounds N] [-threads N]
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/cpuid/v2"
	"github.com/mila-go/mila/bench"
	"github.com/mila-go/mila/block"
)

// row is a model with what the paper (or, marked, the model's own paper) prints.
type row struct {
	Name  string    `json:"name"` // for mila bench --model
	Label string    `json:"label"`
	Top1  float64   `json:"top1"`          // per cent on ImageNet, as printed
	GPU   float64   `json:"gpu,omitempty"` // figure: ms an image, read off; tables: images/s, on an RTX 3090
	Group string    `json:"group"`         // of points that a figure joins
	MS    []float64 `json:"ms"`            // of each round, one image
	M     float64   `json:"parameters"`    // millions
	G     float64   `json:"multiply_adds"` // thousands of millions
}

var figure = []*row{
	{Name: "t", Label: "MILA-T", Top1: 83.5, GPU: 1.23, Group: "MILA"}, {Name: "s", Label: "MILA-S", Top1: 84.4, GPU: 2.10, Group: "MILA"}, {Name: "b", Label: "MILA-B", Top1: 85.3, GPU: 3.42, Group: "MILA"},
	{Name: "vmamba-t", Label: "VMamba-T", Top1: 82.5, GPU: 1.46, Group: "VMamba"}, {Name: "vmamba-s", Label: "VMamba-S", Top1: 83.6, GPU: 2.24, Group: "VMamba"}, {Name: "vmamba-b", Label: "VMamba-B", Top1: 83.9, GPU: 3.16, Group: "VMamba"},
	{Name: "localvmamba-t", Label: "LocalVMamba-T", Top1: 82.7, GPU: 4.3, Group: "LocalVMamba"}, {Name: "localvmamba-s", Label: "LocalVMamba-S", Top1: 83.7, GPU: 7.6, Group: "LocalVMamba"},
	{Name: "plainmamba-l1", Label: "PlainMamba-L1", Top1: 77.9, Group: "PlainMamba"}, {Name: "plainmamba-l2", Label: "PlainMamba-L2", Top1: 81.6, GPU: 3.37, Group: "PlainMamba"}, {Name: "plainmamba-l3", Label: "PlainMamba-L3", Top1: 82.3, GPU: 5.94, Group: "PlainMamba"},
	{Name: "efficientvmamba-b", Label: "EfficientVMamba-B", Top1: 81.8, GPU: 1.23, Group: "EfficientVMamba"},
	{Name: "vim-s", Label: "Vim-S", Top1: 80.3, Group: "Vim"},
}

var tables = [2][]*row{rows(bench.Table1), rows(bench.Table2)}

func rows(published []bench.Published) []*row {
	var out []*row
	for _, p := range published {
		out = append(out, &row{Name: p.Name, Label: p.Label, Top1: p.Top1, GPU: p.GPU})
	}
	return out
}

func main() {
	dir := flag.String("results", filepath.Join("bench", "results"), "`folder` for paper.json and paper.md")
	rounds := flag.Int("rounds", 5, "how often all models are measured in turn")
	threads := flag.Int("threads", 1, "threads of a forward pass")
	flag.Parse()
	if err := run(*dir, *rounds, *threads); err != nil {
		fmt.Fprintln(os.Stderr, "paper:", err)
		os.Exit(1)
	}
}

// results is what paper.json holds.
type results struct {
	Date    string `json:"date"`
	CPU     string `json:"cpu"`
	Level   string `json:"level"`
	Go      string `json:"go"`
	Threads int    `json:"threads"`
	Figure  []*row `json:"figure"`
	Table1  []*row `json:"table1"`
	Table2  []*row `json:"table2"`
}

func run(dir string, rounds, threads int) error {
	r := results{Date: time.Now().UTC().Format(time.DateOnly), CPU: cpuid.CPU.BrandName, Go: strings.TrimPrefix(runtime.Version(), "go"), Threads: threads,
		Figure: figure, Table1: tables[0], Table2: tables[1]}
	for _, group := range [][]*row{figure, slices.Concat(tables[0], tables[1])} {
		level, err := measure(group, rounds, threads)
		if err != nil {
			return err
		}
		r.Level = level
	}
	data, err := json.MarshalIndent(r, "", "\t")
	if err == nil {
		err = os.MkdirAll(dir, 0o755)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "paper.json"), append(data, '\n'), 0o644)
	}
	if err != nil {
		return err
	}
	text := r.markdown()
	fmt.Print(text)
	return os.WriteFile(filepath.Join(dir, "paper.md"), []byte(text), 0o644)
}

// measure runs the models in turn, forwards and backwards.
func measure(rows []*row, rounds, threads int) (level string, err error) {
	type pass struct {
		plan *block.Plan
		x    []float32
		out  *block.Output
	}
	passes := make([]pass, len(rows))
	for i, r := range rows {
		a, ok := block.Named(r.Name)
		if !ok {
			return "", fmt.Errorf("there is no model %s", r.Name)
		}
		m, err := block.New(a, block.Synthetic(a, 1), block.WithThreads(threads))
		if err != nil {
			return "", err
		}
		level = m.Level().String()
		p, err := m.Plan(1, 224, 224)
		if err != nil {
			return "", err
		}
		x := make([]float32, 3*224*224)
		block.Generate(x, "input", 1, 0, 2)
		passes[i] = pass{p, x, &block.Output{Logits: make([]float32, a.Classes())}}
		r.M, r.G = float64(a.Params())/1e6, float64(a.MACs(224, 224))/1e9
	}
	for round := range rounds {
		for i := range rows {
			if round%2 == 1 {
				i = len(rows) - 1 - i
			}
			fmt.Fprintf(os.Stderr, "\r%-20s round %d of %d ", rows[i].Name, round+1, rounds)
			var times []float64
			for n := range 6 { // the first warms up
				start := time.Now()
				if err := passes[i].plan.Forward(context.Background(), passes[i].out, passes[i].x); err != nil {
					return "", err
				}
				if n > 0 {
					times = append(times, time.Since(start).Seconds()*1e3)
				}
			}
			rows[i].MS = append(rows[i].MS, bench.Median(times))
		}
	}
	fmt.Fprintln(os.Stderr)
	return level, nil
}

func (r *row) median() float64 { return bench.Median(r.MS) }

func (r *results) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# The models of arXiv 2405.16605 on a CPU\n\n%s, level `%s`, threads: %d, one image of 224 x 224, generated weights, Go %s, %s. Written by `go run ./bench/paper`.\n", r.CPU, r.Level, r.Threads, r.Go, r.Date)
	b.WriteString("Accuracy and GPU speed (RTX 3090) are the paper's, accuracy for ImageNet, the figure's times read off its plot;\nparameters and operations (G multiply-adds, nine for each state of a scan) are counted here.\n")
	b.WriteString("\n## The speed figure\n| model | M parameters | G operations | top-1 % | GPU ms | CPU ms | CPU: images/s |\n| --- | --- | --- | --- | --- | --- | --- |\n")
	for _, w := range r.Figure {
		gpu := "not in the figure"
		if w.GPU > 0 {
			gpu = fmt.Sprint(w.GPU)
		}
		fmt.Fprintf(&b, "| %s | %.1f | %.1f | %.1f | %s | **%.1f** | %.1f |\n", w.Label, w.M, w.G, w.Top1, gpu, w.median(), 1e3/w.median())
	}
	b.WriteString("\nWhere the order on the CPU is another than on the GPU:\n\n")
	r.inversions(&b)
	for i, t := range [][]*row{r.Table1, r.Table2} {
		fmt.Fprintf(&b, "\n## Table %d\n| | M parameters | G operations | top-1 %% | GPU: images/s | of the baseline's | CPU ms | CPU: images/s | of the baseline's |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n", i+1)
		base := r.Table1[0]
		for _, w := range t {
			fmt.Fprintf(&b, "| %s | %.1f | %.2f | %.1f | %.0f | %.0f %% | **%.1f** | %.1f | **%.0f %%** |\n", w.Label, w.M, w.G, w.Top1, w.GPU, 100*w.GPU/base.GPU, w.median(), 1e3/w.median(), 100*base.median()/w.median())
		}
	}
	return b.String()
}

// inversions names the pairs of the figure whose order differs by more than a tenth
// on both sides, those with the largest difference first.
func (r *results) inversions(b *strings.Builder) {
	type pair struct {
		text string
		size float64
	}
	var pairs []pair
	for _, x := range r.Figure {
		for _, y := range r.Figure {
			if x.GPU == 0 || y.GPU == 0 {
				continue
			}
			gpu, cpu := y.GPU/x.GPU, x.median()/y.median() // both above 1: x is faster there and slower here
			if gpu > 1.1 && cpu > 1.1 {
				pairs = append(pairs, pair{fmt.Sprintf("- %s is %.1f times as fast as %s on the GPU, and %.1f times as slow here\n", x.Label, gpu, y.Label, cpu), gpu * cpu})
			}
		}
	}
	slices.SortFunc(pairs, func(x, y pair) int { return int(1e6 * (y.size - x.size)) })
	for _, p := range pairs {
		b.WriteString(p.text)
	}
	if pairs == nil {
		b.WriteString("- nowhere by more than a tenth\n")
	}
}
