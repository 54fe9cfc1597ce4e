// Command paper measures the models that arXiv 2405.16605 compares, all with this
// module, and sets them beside the paper's figures: its speed figure and the
// throughput columns of its tables 1 and 2. It writes paper.json and paper.md;
// bench/plot draws the figures in it.
//
//	go run ./bench/paper [-results DIR] [-rounds N] [-threads N] [-add]
//	cd bench/plot && go run . ../results
package main

import (
	"encoding/json"
	"errors"
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
	"github.com/mila-go/mila/kernels"
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
	add := flag.Bool("add", false, "add the rounds to those of paper.json, which must be of the same machine and settings")
	flag.Parse()
	if err := run(*dir, *rounds, *threads, *add); err != nil {
		fmt.Fprintln(os.Stderr, "paper:", err)
		os.Exit(1)
	}
}

// results is what paper.json holds.
type results struct {
	Date    string `json:"date"`
	CPU     string `json:"cpu"`
	Cores   int    `json:"cores"`
	Level   string `json:"level"`
	Go      string `json:"go"`
	Threads int    `json:"threads"`
	Figure  []*row `json:"figure"`
	Table1  []*row `json:"table1"`
	Table2  []*row `json:"table2"`
}

func run(dir string, rounds, threads int, add bool) error {
	level, err := kernels.Default()
	if err != nil {
		return err
	}
	r := results{Date: time.Now().UTC().Format(time.DateOnly), CPU: cpuid.CPU.BrandName, Cores: runtime.NumCPU(), Level: level.String(), Go: strings.TrimPrefix(runtime.Version(), "go"), Threads: threads,
		Figure: figure, Table1: tables[0], Table2: tables[1]}
	path := filepath.Join(dir, "paper.json")
	if add {
		if err := r.add(path); err != nil {
			return err
		}
	}
	if rounds == 0 && !add {
		return errors.New("no rounds, and none of an earlier run to add to")
	}
	for _, group := range [][]*row{figure, slices.Concat(tables[0], tables[1])} {
		if err := measure(group, rounds, threads); err != nil {
			return err
		}
	}
	return bench.WriteResults(dir, "paper", r, r.markdown())
}

// add takes over the rounds of an earlier run.
func (r *results) add(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var old results
	if err := json.Unmarshal(data, &old); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if old.CPU != r.CPU || old.Cores != r.Cores || old.Level != r.Level || old.Go != r.Go || old.Threads != r.Threads {
		return fmt.Errorf("%s is of %s, %d cores, level %s, Go %s, %d threads; this run would be of %s, %d cores, level %s, Go %s, %d threads",
			path, old.CPU, old.Cores, old.Level, old.Go, old.Threads, r.CPU, r.Cores, r.Level, r.Go, r.Threads)
	}
	rows := slices.Concat(r.Figure, r.Table1, r.Table2)
	for _, o := range slices.Concat(old.Figure, old.Table1, old.Table2) {
		i := slices.IndexFunc(rows, func(w *row) bool { return w.Name == o.Name })
		if i < 0 {
			return fmt.Errorf("%s has a model %s, which is not measured any more", path, o.Name)
		}
		rows[i].MS = o.MS
	}
	return nil
}

// measure runs the models in turn.
func measure(rows []*row, rounds, threads int) error {
	var passes []*bench.Pass
	for _, r := range rows {
		a, ok := block.Named(r.Name)
		if !ok {
			return fmt.Errorf("there is no model %s", r.Name)
		}
		m, err := block.New(a, block.Synthetic(a, 1), block.WithThreads(threads))
		if err != nil {
			return err
		}
		p, err := bench.NewPass(m, 224)
		if err != nil {
			return err
		}
		passes = append(passes, p)
		r.M, r.G = float64(a.Params())/1e6, float64(a.MACs(224, 224))/1e9
	}
	times, err := bench.InTurn(passes, rounds, 1, 5, func(i, round int) {
		fmt.Fprintf(os.Stderr, "\r%-20s round %d of %d ", rows[i].Name, round+1, rounds)
	})
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr)
	for i, r := range rows {
		for _, t := range times[i] {
			r.MS = append(r.MS, t*1e3)
		}
	}
	return nil
}

func (r *row) median() float64 { return bench.Median(r.MS) }

func (r *results) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# The models of arXiv 2405.16605 on a CPU\n\n%s, %d cores, level `%s`, threads: %d, one image of 224 x 224, generated weights, Go %s, %s.\n", r.CPU, r.Cores, r.Level, r.Threads, r.Go, r.Date)
	fmt.Fprintf(&b, "All models of a table were measured in turn, %d rounds of the median of five passes; medians of the rounds are given, and how far\nthe rounds lie apart. Written by `go run ./bench/paper`; figures by `bench/plot`.\n", len(r.Figure[0].MS))
	b.WriteString("Accuracy and GPU speed (RTX 3090) are the paper's, accuracy for ImageNet, the figure's times read off its plot;\nparameters and operations (G multiply-adds, nine for each state of a scan) are counted here.\n")
	b.WriteString("\n## The speed figure\n![Accuracy over the time of one image, on the paper's GPU and here](paper-speed.png)\n\n| model | M parameters | G operations | top-1 % | GPU ms | CPU ms | rounds | CPU: images/s |\n| --- | --- | --- | --- | --- | --- | --- | --- |\n")
	for _, w := range r.Figure {
		gpu := "not in the figure"
		if w.GPU > 0 {
			gpu = fmt.Sprint(w.GPU)
		}
		fmt.Fprintf(&b, "| %s | %.1f | %.1f | %.1f | %s | **%.1f** | %.1f to %.1f | %.1f |\n", w.Label, w.M, w.G, w.Top1, gpu, w.median(), slices.Min(w.MS), slices.Max(w.MS), 1e3/w.median())
	}
	b.WriteString("\nThe paper does not state the batch of its GPU times. On a GPU, rearranging tokens for the directions of a scan means copying\nthem; here directions are orders in which the kernel visits the tokens, and times mostly follow the number of operations.\nWhere the order here is another than on the GPU, by more than a tenth there and here:\n\n")
	inversions(&b, r.Figure, 1.1, func(w *row) float64 { return w.GPU })
	for i, t := range [][]*row{r.Table1, r.Table2} {
		fmt.Fprintf(&b, "\n## Table %d\n", i+1)
		if i == 0 {
			b.WriteString("![Throughput of the rows of tables 1 and 2, the baseline being 100 %](paper-tables.png)\n\n")
		}
		b.WriteString("| | M parameters | G operations | top-1 % | GPU: images/s | of the baseline's | CPU ms | rounds | CPU: images/s | of the baseline's |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n")
		base := r.Table1[0]
		for _, w := range t {
			fmt.Fprintf(&b, "| %s | %.1f | %.2f | %.1f | %.0f | %.0f %% | **%.1f** | %.1f to %.1f | %.1f | **%.0f %%** |\n", w.Label, w.M, w.G, w.Top1, w.GPU, 100*w.GPU/base.GPU, w.median(), slices.Min(w.MS), slices.Max(w.MS), 1e3/w.median(), 100*base.median()/w.median())
		}
	}
	b.WriteString("\nWhere the order of the rows of both tables here is another than on the GPU, by more than a twentieth there and here:\n\n")
	inversions(&b, slices.Concat(r.Table1, r.Table2), 1.05, func(w *row) float64 { return 1 / w.GPU })
	return b.String()
}

// inversions names, for each row, those that are slower than it on the GPU, and faster
// here, by more than a factor both times.
func inversions(b *strings.Builder, rows []*row, factor float64, gpu func(*row) float64) {
	some := false
	for _, x := range rows {
		var names []string
		for _, y := range rows {
			if x.GPU == 0 || y.GPU == 0 {
				continue
			}
			there, here := gpu(y)/gpu(x), x.median()/y.median()
			if there > factor && here > factor {
				names = append(names, fmt.Sprintf("%s (%.2f times as fast there, %.2f times as slow here)", y.Label, there, here))
			}
		}
		if names != nil {
			fmt.Fprintf(b, "- %s is faster there and slower here than %s\n", x.Label, strings.Join(names, ", "))
			some = true
		}
	}
	if !some {
		b.WriteString("- nowhere\n")
	}
}
