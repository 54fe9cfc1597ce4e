// Command peers measures MILA for Go beside ONNX Runtime, PyTorch and OpenBLAS on
// the same work, alternately in one run. The script run installs the others and
// starts it; README.md says what is compared.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/cpuid/v2"
	perf "github.com/mila-go/mila/bench"
	"github.com/mila-go/mila/block"
	"github.com/mila-go/mila/kernels"
)

// results is what peers.json holds.
type results struct {
	Date       string                        `json:"date"`
	CPU        string                        `json:"cpu"`
	Cores      int                           `json:"cores"` // logical
	Level      string                        `json:"level"`
	Versions   map[string]string             `json:"versions"`    // by contender
	Skipped    map[string]string             `json:"skipped"`     // contender: why it was not measured
	PeakGFLOPS map[int]float64               `json:"peak_gflops"` // by threads
	LogitsDiff map[string]map[string]float64 `json:"logits_diff"` // by model and contender: max |theirs - ours| / max |ours|
	Rows       []*row                        `json:"rows"`
}

// row is one piece of work.
type row struct {
	Item    string               `json:"item"` // model/t, gemm/M/N/K, dwconv/SIDE/C or linattn/SIDE/C
	Threads int                  `json:"threads"`
	GFLOP   float64              `json:"gflop"` // a multiply-add counts as two
	MS      map[string][]float64 `json:"ms"`    // by contender, the median of each round

	bench map[string]string // by contender that package bench measures: its benchmark
}

// ours is the contender that the others are compared with.
const ours = "mila"

// contenders in the order of the tables.
var contenders = []string{ours, "onnxruntime", "pytorch eager", "pytorch traced", "openblas", "mila sgemm", "gonum", "mila generic"}

// model is one of the compared models. The seeds are those of the golden data,
// and of CONFIGS in mila.py.
type model struct {
	name   string
	config func() block.Config
	seed   uint64
}

var models = []model{{"t", block.Tiny, 11}, {"s", block.Small, 12}, {"b", block.Base, 13}}

// kernelRows returns the parts of MILA-T that are compared, at its four stages.
func kernelRows(level kernels.Level) (rows []*row) {
	add := func(item string, macs int, benchmarks map[string]string) {
		rows = append(rows, &row{Item: item, Threads: 1, GFLOP: 2e-9 * float64(macs), MS: map[string][]float64{}, bench: benchmarks})
	}
	levels := func(name, rest string) map[string]string {
		return map[string]string{ours: fmt.Sprintf("%s/isa=%v/%s", name, level, rest), "mila generic": fmt.Sprintf("%s/isa=%v/%s", name, kernels.Generic, rest)}
	}
	type stage struct{ number, side, c int }
	stages := []stage{{1, 56, 64}, {2, 28, 128}, {3, 14, 256}, {4, 7, 512}}
	for _, s := range stages {
		m := s.side * s.side
		for _, op := range []struct {
			name string
			n, k int
		}{{"in_proj", s.c, s.c}, {"fc1_bare", 4 * s.c, s.c}, {"fc2", s.c, 4 * s.c}} {
			rest := fmt.Sprintf("stage=%d/op=%s", s.number, op.name)
			benchmarks := levels("BenchmarkGemm", rest)
			benchmarks["mila sgemm"], benchmarks["gonum"] = "BenchmarkSgemm/of=mila/"+rest, "BenchmarkSgemm/of=gonum/"+rest
			add(fmt.Sprintf("gemm/%d/%d/%d", m, op.n, op.k), m*op.n*op.k, benchmarks)
		}
	}
	for _, s := range stages {
		add(fmt.Sprintf("dwconv/%d/%d", s.side, s.c), 9*s.side*s.side*s.c, levels("BenchmarkDWConv3x3", fmt.Sprintf("stage=%d/op=plain", s.number)))
	}
	for _, s := range stages {
		const head = 32
		add(fmt.Sprintf("linattn/%d/%d", s.side, s.c), 2*s.side*s.side*s.c*head, levels("BenchmarkLinAttn", fmt.Sprintf("stage=%d", s.number)))
	}
	return rows
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "peers:", err)
		os.Exit(1)
	}
}

func run() error {
	quick := flag.Bool("quick", false, "few and short rounds, for a look")
	dir := flag.String("results", filepath.Join("bench", "results"), "`folder` for peers.json and peers.md")
	cache := flag.String("cache", "", "`folder` with mila, bench.test, node_modules and onnx (see the script run)")
	python := flag.String("python", "python3", "a Python that has PyTorch")
	items := flag.Bool("items", false, "print the items, for the export, and exit")
	flag.Parse()
	level, err := kernels.Default()
	if err != nil {
		return err
	}
	parts := kernelRows(level)
	if *items {
		for _, m := range models {
			fmt.Println("model/" + m.name)
		}
		for _, r := range parts {
			fmt.Println(r.Item)
		}
		return nil
	}
	if *cache == "" {
		return errors.New("no --cache; start bench/peers/run instead")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	b := &bench{ctx: ctx, cache: *cache, python: *python, peaks: map[int][]float64{}, results: results{
		Date: time.Now().UTC().Format(time.DateOnly), CPU: cpuid.CPU.BrandName, Cores: runtime.NumCPU(), Level: level.String(),
		Versions: map[string]string{ours: "Go " + strings.TrimPrefix(runtime.Version(), "go")}, Skipped: map[string]string{},
		PeakGFLOPS: map[int]float64{}, LogitsDiff: map[string]map[string]float64{}}}
	version, err := b.output(1, "go", "list", "-m", "-f", "{{.Version}}", "gonum.org/v1/gonum")
	if err != nil {
		return err
	}
	b.Versions["gonum"] = strings.TrimPrefix(strings.TrimSpace(string(version)), "v")
	if b.cpus, err = affinity(); err != nil {
		fmt.Fprintln(os.Stderr, "peers: nothing is pinned to cores:", err)
	}

	rounds, seconds := 5, 1.2
	if *quick {
		rounds, seconds = 2, 0.5
	}
	threads := []int{1}
	for _, n := range []int{2, 8, runtime.NumCPU()} {
		if n <= runtime.NumCPU() && !slices.Contains(threads, n) {
			threads = append(threads, n)
		}
	}
	for _, m := range models {
		cfg := m.config()
		for _, n := range threads {
			r := &row{Item: "model/" + m.name, Threads: n, GFLOP: 2e-9 * float64(cfg.MACs(cfg.ImgSize, cfg.ImgSize)), MS: map[string][]float64{}}
			if err := b.measure([]*row{r}, n, rounds, seconds, &m); err != nil {
				return err
			}
		}
	}
	if err := b.measure(parts, 1, rounds, seconds/10, nil); err != nil {
		return err
	}
	if err := perf.WriteResults(*dir, "peers", &b.results, b.markdown()); err != nil {
		return err
	}
	return b.plot(*dir)
}

// bench runs the contenders and collects the results.
type bench struct {
	ctx           context.Context
	cache, python string
	cpus          []string          // that may be used
	peaks         map[int][]float64 // of every run of ours, by threads
	results
}

// affinity returns the logical CPUs that this process may use.
func affinity() ([]string, error) {
	out, err := exec.Command("taskset", "-cp", strconv.Itoa(os.Getpid())).Output()
	if err != nil {
		return nil, err
	}
	var cpus []string
	for _, span := range strings.Split(strings.TrimSpace(string(out[bytes.LastIndexByte(out, ':')+1:])), ",") {
		first, last, isRange := strings.Cut(span, "-")
		from, err := strconv.Atoi(first)
		to := from
		if isRange && err == nil {
			to, err = strconv.Atoi(last)
		}
		if err != nil {
			return nil, fmt.Errorf("taskset says %q", out)
		}
		for ; from <= to; from++ {
			cpus = append(cpus, strconv.Itoa(from))
		}
	}
	return cpus, nil
}

// command prepares a command on as many CPUs as threads.
func (b *bench) command(threads int, args ...string) *exec.Cmd {
	if len(b.cpus) >= threads {
		args = append([]string{"taskset", "-c", strings.Join(b.cpus[:threads], ",")}, args...)
	}
	return exec.CommandContext(b.ctx, args[0], args[1:]...)
}

// skip notes why a contender cannot be measured.
func (b *bench) skip(contender string, err error) {
	if b.Skipped[contender] == "" {
		fmt.Fprintf(os.Stderr, "peers: without %s: %v\n", contender, err)
		b.Skipped[contender] = err.Error()
	}
}

// worker is a running process that measures one or more contenders on request.
type worker struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	stderr bytes.Buffer
}

// hello is a worker's first line.
type hello struct {
	Versions map[string]string    `json:"versions"`
	Logits   map[string][]float32 `json:"logits"`
}

func (b *bench) start(threads int, args ...string) (*worker, hello, error) {
	if _, err := exec.LookPath(args[0]); err != nil { // which taskset would find out later
		return nil, hello{}, err
	}
	w := &worker{cmd: b.command(threads, args...)}
	w.cmd.Dir = b.cache
	w.cmd.Env = append(os.Environ(), fmt.Sprintf("OMP_NUM_THREADS=%d", threads))
	w.cmd.Stderr = &w.stderr
	var h hello
	in, err := w.cmd.StdinPipe()
	if err != nil {
		return nil, h, err
	}
	out, err := w.cmd.StdoutPipe()
	if err != nil {
		return nil, h, err
	}
	w.in, w.out = in, bufio.NewReader(out)
	if err := w.cmd.Start(); err != nil {
		return nil, h, err
	}
	if err := w.read(&h); err != nil {
		w.close()
		return nil, h, err
	}
	return w, h, nil
}

func (w *worker) close() {
	w.in.Close()
	w.cmd.Wait()
}

// read decodes a line. Where the worker has died, the error is what it said last.
func (w *worker) read(into any) error {
	line, err := w.out.ReadBytes('\n')
	if err == nil {
		return json.Unmarshal(line, into)
	}
	w.close()
	said := strings.Split(strings.TrimSpace(w.stderr.String()), "\n")
	for _, line := range slices.Backward(said) {
		if strings.Contains(line, "rror") { // an exception's name, of Python's or Node's
			return errors.New(strings.TrimSpace(line))
		}
	}
	if last := said[len(said)-1]; last != "" {
		return errors.New(last)
	}
	return err
}

func (w *worker) milliseconds(contender, item string, seconds float64) (float64, error) {
	if _, err := fmt.Fprintln(w.in, contender, item, seconds); err != nil {
		return 0, err
	}
	var answer struct {
		MS    float64
		Error string
	}
	if err := w.read(&answer); err != nil {
		return 0, err
	}
	if answer.Error != "" {
		return 0, errors.New(answer.Error)
	}
	return answer.MS, nil
}

// measure starts the other contenders and measures every row in rounds: all
// contenders in turn on each row, in the opposite order every other round.
func (b *bench) measure(rows []*row, threads, rounds int, seconds float64, m *model) error {
	var names []string
	if m != nil {
		names = []string{"model/" + m.name}
	}
	number := strconv.Itoa(threads)
	source, err := filepath.Abs(filepath.Join("bench", "peers"))
	if err != nil {
		return err
	}
	by := map[string]*worker{}
	for _, process := range []struct {
		contenders []string
		args       []string
	}{
		{contenders[1:2], []string{"node", filepath.Join(source, "ort.mjs"), filepath.Join(b.cache, "onnx"), number}},
		{contenders[2:5], []string{b.python, filepath.Join(source, "pytorch.py"), "serve", number}},
	} {
		w, h, err := b.start(threads, append(process.args, names...)...)
		if err != nil {
			for _, c := range process.contenders {
				b.skip(c, err)
			}
			continue
		}
		defer w.close()
		for _, c := range process.contenders {
			by[c] = w
			if v := h.Versions[c]; v != "" {
				b.Versions[c] = v
			}
			if l := h.Logits[c]; l != nil && m != nil {
				if err := b.compare(m, c, l); err != nil {
					return err
				}
			}
		}
	}
	for round := range rounds {
		for _, r := range rows {
			fmt.Fprintf(os.Stderr, "\r%-22s %d threads, round %d of %d ", r.Item, threads, round+1, rounds)
			order := slices.Clone(contenders)
			if round%2 == 1 {
				slices.Reverse(order)
			}
			for _, c := range order {
				var ms float64
				var err error
				w, isOther := by[c]
				switch {
				case isOther && (c != "openblas" || strings.HasPrefix(r.Item, "gemm/")):
					ms, err = w.milliseconds(c, r.Item, seconds)
				case r.bench[c] != "":
					ms, err = b.benchmark(r.bench[c], seconds)
				case c == ours:
					ms, err = b.ourModel(m, threads, seconds)
				default:
					continue
				}
				if b.ctx.Err() != nil {
					return errors.New("interrupted")
				}
				if err != nil && !isOther {
					return err
				}
				if err != nil {
					b.skip(c, err)
					delete(by, c)
					continue
				}
				r.MS[c] = append(r.MS[c], ms)
			}
		}
	}
	fmt.Fprintln(os.Stderr)
	b.Rows = append(b.Rows, rows...)
	return nil
}

// compare notes how far a contender's logits are from ours, and fails where
// they are not the same but for rounding.
func (b *bench) compare(m *model, contender string, got []float32) error {
	cfg := m.config()
	net, err := block.New(cfg, block.Synthetic(cfg, m.seed))
	if err != nil {
		return err
	}
	p, err := net.Plan(1, cfg.ImgSize, cfg.ImgSize)
	if err != nil {
		return err
	}
	x, want := make([]float32, cfg.InChans*cfg.ImgSize*cfg.ImgSize), make([]float32, cfg.NumClasses)
	block.Generate(x, "input", m.seed, 0, 2)
	if err := p.Forward(b.ctx, &block.Output{Logits: want}, x); err != nil {
		return err
	}
	if len(got) != len(want) {
		return fmt.Errorf("%s gives %d logits", contender, len(got))
	}
	diff, top := 0.0, 0.0
	for i, w := range want {
		diff, top = max(diff, math.Abs(float64(got[i]-w))), max(top, math.Abs(float64(w)))
	}
	if !(diff <= 1e-4*top) {
		return fmt.Errorf("%s computes something else: its logits of model %s differ by %.2g of their maximum", contender, m.name, diff/top)
	}
	if b.LogitsDiff[m.name] == nil {
		b.LogitsDiff[m.name] = map[string]float64{}
	}
	b.LogitsDiff[m.name][contender] = diff / top
	return nil
}

// plot draws the figures, where their module can be built.
func (b *bench) plot(dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(b.ctx, "go", "run", ".", dir)
	cmd.Dir = filepath.Join("bench", "plot")
	if out, err := cmd.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "peers: without figures: %v\n%s", err, out)
	}
	return nil
}

func (b *bench) output(threads int, args ...string) ([]byte, error) {
	out, err := b.command(threads, args...).Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, exit.Stderr)
		}
		return nil, fmt.Errorf("%s: %w", strings.Join(args, " "), err)
	}
	return out, nil
}

func (b *bench) ourModel(m *model, threads int, seconds float64) (float64, error) {
	out, err := b.output(threads, filepath.Join(b.cache, "mila"), "bench", "--json", "--model", m.name,
		"--threads", strconv.Itoa(threads), "--duration", time.Duration(seconds*1e9).String())
	if err != nil {
		return 0, err
	}
	var r struct {
		MS   float64 `json:"median_ms"`
		Peak float64 `json:"peak_gflops"`
	}
	if err := json.Unmarshal(out, &r); err != nil {
		return 0, err
	}
	b.peaks[threads] = append(b.peaks[threads], r.Peak)
	b.PeakGFLOPS[threads] = perf.Median(b.peaks[threads])
	return r.MS, nil
}

// benchmark runs one benchmark of package bench, on one thread.
func (b *bench) benchmark(name string, seconds float64) (float64, error) {
	// go test matches each part between slashes on its own.
	pattern := "^" + strings.ReplaceAll(name, "/", "$/^") + "$"
	out, err := b.output(1, filepath.Join(b.cache, "bench.test"), "-test.run", "^$", "-test.bench", pattern,
		"-test.benchtime", time.Duration(seconds*1e9).String())
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(out))
	i := slices.Index(fields, "ns/op")
	if i < 1 {
		return 0, fmt.Errorf("no benchmark %s", name)
	}
	ns, err := strconv.ParseFloat(fields[i-1], 64)
	return ns / 1e6, err
}
