package block_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mila-go/mila/block"
	"github.com/mila-go/mila/kernels"
)

func tiny() block.Config {
	c := block.Tiny()
	c.EmbedDim, c.Depths, c.NumHeads, c.NumClasses, c.ImgSize = 16, []int{1, 1, 2, 1}, []int{1, 2, 2, 4}, 7, 64
	return c
}

func plan(t testing.TB, m *block.Model, batch, h, w int) (*block.Plan, []float32, *block.Output) {
	p, err := m.Plan(batch, h, w)
	if err != nil {
		t.Fatal(err)
	}
	c := m.Config()
	out := &block.Output{Logits: make([]float32, batch*c.NumClasses), Pooled: make([]float32, batch*c.Dim(len(c.Depths)-1))}
	return p, image(batch, c.InChans, h, w, 3), out
}

func build(t testing.TB, c block.Config, opts ...block.Option) *block.Model {
	m, err := block.New(c, block.Synthetic(c, 5), opts...)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestThreadsAndLevels asserts which level runs and that results are
// bit-identical for any number of threads.
func TestThreadsAndLevels(t *testing.T) {
	levels(t, func(t *testing.T, l kernels.Level) {
		for _, size := range [][3]int{{1, 64, 64}, {2, 100, 52}} {
			var want []float32
			for threads := 1; threads <= 8; threads++ {
				m := build(t, tiny(), block.WithLevel(l), block.WithThreads(threads))
				if m.Level() != l || m.Threads() != threads {
					t.Fatalf("asked for %v and %d threads, got %v and %d", l, threads, m.Level(), m.Threads())
				}
				p, x, out := plan(t, m, size[0], size[1], size[2])
				for range 3 {
					if err := p.Forward(context.Background(), out, x); err != nil {
						t.Fatal(err)
					}
					got := slices.Concat(out.Logits, out.Pooled)
					if want == nil {
						want = got
					}
					for i := range want {
						if math.Float32bits(got[i]) != math.Float32bits(want[i]) {
							t.Fatalf("%d threads: value %d is %v, with one thread %v", threads, i, got[i], want[i])
						}
					}
				}
			}
		}
	})
}

// TestBatchEqualsSingle checks that images of a batch do not influence one
// another.
func TestBatchEqualsSingle(t *testing.T) {
	m := build(t, tiny())
	p, x, out := plan(t, m, 3, 40, 56)
	if err := p.Forward(context.Background(), out, x); err != nil {
		t.Fatal(err)
	}
	one, _, single := plan(t, m, 1, 40, 56)
	for i := range 3 {
		n := len(x) / 3
		if err := one.Forward(context.Background(), single, x[i*n:(i+1)*n]); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(single.Logits, out.Logits[7*i:7*i+7]) {
			t.Errorf("image %d: %v alone, %v in the batch", i, single.Logits, out.Logits[7*i:7*i+7])
		}
	}
}

// TestClassMaps compares the maps with the head applied to each token by hand, and
// their means with the logits.
func TestClassMaps(t *testing.T) {
	c := tiny()
	const batch, h, w, rows, cols, dim = 2, 70, 100, 3, 4, 128
	weights := block.Synthetic(c, 5)
	head, bias := make([]float32, 7*dim), make([]float32, 7)
	if err := errors.Join(weights.Read("head.weight", head), weights.Read("head.bias", bias)); err != nil {
		t.Fatal(err)
	}
	for _, threads := range []int{1, 8} {
		p, x, out := plan(t, build(t, c, block.WithThreads(threads)), batch, h, w)
		var norm []float32
		p.Tap = func(name string, _ []int, data []float32) {
			if name == "norm" {
				norm = slices.Clone(data)
			}
		}
		maps := make([]float32, batch*rows*cols*7)
		if err := p.Forward(context.Background(), &block.Output{ClassMaps: maps}, x); err != nil {
			t.Fatal(err)
		}
		if err := p.Forward(context.Background(), out, x); err != nil {
			t.Fatal(err)
		}
		for i := range batch {
			for class := range 7 {
				var mean float64
				for at := i * rows * cols; at < (i+1)*rows*cols; at++ {
					want := float64(bias[class])
					for k, v := range norm[at*dim : (at+1)*dim] {
						want += float64(v) * float64(head[class*dim+k])
					}
					got := float64(maps[at*7+class])
					if math.Abs(got-want) > 1e-5*max(1, math.Abs(want)) {
						t.Fatalf("%d threads: class %d at token %d is %v, want %v", threads, class, at, got, want)
					}
					mean += got / (rows * cols)
				}
				if logit := float64(out.Logits[7*i+class]); math.Abs(mean-logit) > 1e-5*max(1, math.Abs(logit)) {
					t.Errorf("%d threads: the map of class %d has the mean %v, the logit is %v", threads, class, mean, logit)
				}
			}
		}
	}
}

func TestForwardAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Log("not measured under the race detector, which allocates itself")
		return
	}
	levels(t, func(t *testing.T, l kernels.Level) {
		for _, threads := range []int{1, 3} {
			p, x, out := plan(t, build(t, tiny(), block.WithLevel(l), block.WithThreads(threads)), 2, 64, 64)
			if n := testing.AllocsPerRun(5, func() {
				if err := p.Forward(context.Background(), out, x); err != nil {
					t.Fatal(err)
				}
			}); n != 0 {
				t.Errorf("%d threads: %v allocations", threads, n)
			}
		}
	})
}

// TestConcurrentPlans runs several plans of one model at once, while the garbage
// collector runs.
func TestConcurrentPlans(t *testing.T) {
	m := build(t, tiny(), block.WithThreads(2))
	p, x, want := plan(t, m, 1, 64, 64)
	if err := p.Forward(context.Background(), want, x); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 4 {
		p, x, out := plan(t, m, 1, 64, 64)
		wg.Go(func() {
			for range 10 {
				clear(out.Logits)
				if err := p.Forward(context.Background(), out, x); err != nil || !slices.Equal(out.Logits, want.Logits) {
					t.Errorf("%v, %v", out.Logits, err)
					return
				}
			}
		})
	}
	for range 20 {
		runtime.GC()
	}
	wg.Wait()
}

func TestOnePlanRunsOnce(t *testing.T) {
	p, x, out := plan(t, build(t, tiny()), 1, 64, 64)
	var inner error
	p.Tap = func(string, []int, []float32) { inner = p.Forward(context.Background(), out, x) }
	if err := p.Forward(context.Background(), out, x); err != nil {
		t.Fatal(err)
	}
	if inner == nil || !strings.Contains(inner.Error(), "already running") {
		t.Errorf("a Forward inside a Forward: %v", inner)
	}
}

func TestCancellation(t *testing.T) {
	p, x, out := plan(t, build(t, tiny()), 1, 64, 64)
	ctx, cancel := context.WithCancel(context.Background())
	taps := 0
	p.Tap = func(string, []int, []float32) {
		if taps++; taps == 3 {
			cancel()
		}
	}
	if err := p.Forward(ctx, out, x); !errors.Is(err, context.Canceled) || taps != 3 {
		t.Errorf("cancelled after 3 of many results: %v after %d", err, taps)
	}
	p.Tap = nil
	if err := p.Forward(context.Background(), out, x); err != nil {
		t.Errorf("after a cancelled Forward: %v", err)
	}
}

// TestDroppedModelsEndTheirWorkers makes sure that workers do not pile up.
func TestDroppedModelsEndTheirWorkers(t *testing.T) {
	before := runtime.NumGoroutine()
	for range 5 {
		p, x, out := plan(t, build(t, tiny(), block.WithThreads(4)), 1, 32, 32)
		if err := p.Forward(context.Background(), out, x); err != nil {
			t.Fatal(err)
		}
	}
	for range 100 {
		runtime.GC()
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%d goroutines before, %d after the models were dropped", before, runtime.NumGoroutine())
}

// TestSpecialPixels checks that NaN and infinite pixels pass through as such:
// a forward neither panics nor hides them.
func TestSpecialPixels(t *testing.T) {
	m := build(t, tiny())
	for _, v := range []float64{math.NaN(), math.Inf(1), math.Inf(-1), 3e38} {
		p, x, out := plan(t, m, 1, 64, 64)
		x[1234] = float32(v)
		if err := p.Forward(context.Background(), out, x); err != nil {
			t.Fatal(err)
		}
		finite := 0
		for _, y := range out.Logits {
			if f := float64(y); !math.IsNaN(f) && !math.IsInf(f, 0) {
				finite++
			}
		}
		if math.IsNaN(v) && finite != 0 {
			t.Errorf("a NaN pixel left %d finite logits", finite)
		}
	}
}

// broken changes a set of weights.
type broken struct {
	block.Weights
	drop, reshape, extra string
	fail                 bool
}

func (b broken) Names() []string {
	var out []string
	for _, n := range b.Weights.Names() {
		if n != b.drop {
			out = append(out, n)
		}
	}
	if b.extra != "" {
		out = append(out, b.extra)
	}
	return out
}

func (b broken) Shape(name string) ([]int, bool) {
	if name == b.drop {
		return nil, false
	}
	s, ok := b.Weights.Shape(name)
	if name == b.reshape {
		s = append(slices.Clone(s), 1)
	}
	return s, ok
}

func (b broken) Read(name string, dst []float32) error {
	if b.fail {
		return errors.New("the disk is on fire")
	}
	return b.Weights.Read(name, dst)
}

func TestWrongWeights(t *testing.T) {
	c := tiny()
	w := block.Synthetic(c, 1)
	const qk = "layers.2.blocks.1.attn.qk.weight"
	for want, b := range map[string]broken{
		"missing tensors (1): " + qk:                              {Weights: w, drop: qk},
		"missing tensors (1): head.bias":                          {Weights: w, drop: "head.bias"},
		"wrong shapes (1): " + qk + " is [128 64 1]":              {Weights: w, reshape: qk},
		"unexpected tensors (1): layers.9.x":                      {Weights: w, extra: "layers.9.x"},
		"the disk is on fire":                                     {Weights: w, fail: true},
		"missing tensors (1): " + qk + "; unexpected tensors (1)": {Weights: w, drop: qk, extra: "foo"},
	} {
		if _, err := block.New(c, b); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
		if b.fail {
			continue
		}
		if err := block.Steps(context.Background(), c, b, 1, 32, 32, make([]float32, 3*32*32), func(string, []int, []float32) {}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Steps: want %q, got %v", want, err)
		}
	}
	if _, err := block.New(c, broken{Weights: w, extra: "layers.0.blocks.0.attn.rope.rotations"}); err != nil {
		t.Errorf("a rotation table in the checkpoint: %v", err)
	}
}

func TestConfigErrors(t *testing.T) {
	good := `{"embed_dim":16,"depths":[1,1],"num_heads":[1,2]}`
	if c, err := block.ParseConfig([]byte(good)); err != nil || c.MLPRatio != 4 || c.NumClasses != 1000 || !c.QKVBias || c.InChans != 3 {
		t.Errorf("defaults: %+v, %v", c, err)
	}
	for _, bad := range []string{
		``, `[]`, `null`, `{}`, `{"embed_dim":"x"}`, `{"embed_dim":16,"depths":[1,1],"num_heads":[1]}`,
		`{"embed_dim":10,"depths":[1],"num_heads":[1]}`, `{"embed_dim":16,"depths":[0],"num_heads":[1]}`,
		`{"embed_dim":16,"depths":[1],"num_heads":[3]}`, `{"embed_dim":16,"depths":[1],"num_heads":[0]}`,
		`{"embed_dim":16,"depths":[1],"num_heads":[1],"mlp_ratio":-1}`, `{"embed_dim":16,"depths":[1],"num_heads":[1],"mlp_ratio":0.001}`,
		`{"embed_dim":16,"depths":[1],"num_heads":[1],"patch_size":16}`, `{"embed_dim":16,"depths":[1],"num_heads":[1],"in_chans":0}`,
		`{"embed_dim":16,"depths":[1],"num_heads":[1],"architecture":"vit"}`, `{"embed_dim":1000000,"depths":[1],"num_heads":[1]}`,
		`{"embed_dim":16,"depths":[9999999],"num_heads":[1]}`, `{"embed_dim":16,"depths":[1],"num_heads":[1],"num_classes":-1}`,
		`{"MODEL":{"MLLA":{"EMBED_DIM":16}}}`,
	} {
		if c, err := block.ParseConfig([]byte(bad)); err == nil {
			t.Errorf("%s is accepted as %+v", bad, c)
		}
	}
}

func TestWrongSizes(t *testing.T) {
	c := tiny()
	m := build(t, c)
	for _, s := range [][3]int{{0, 64, 64}, {1, 0, 64}, {1, 64, -1}, {1 << 20, 4096, 4096}, {1, 1 << 30, 1 << 30}, {math.MaxInt32, math.MaxInt32, math.MaxInt32}} {
		if _, err := m.Plan(s[0], s[1], s[2]); err == nil {
			t.Errorf("a plan for %v is accepted", s)
		}
	}
	p, x, out := plan(t, m, 1, 64, 64)
	for want, f := range map[string]func() error{
		"the input has": func() error { return p.Forward(context.Background(), out, x[1:]) },
		"no output":     func() error { return p.Forward(context.Background(), nil, x) },
		"Logits has":    func() error { return p.Forward(context.Background(), &block.Output{Logits: x[:3]}, x) },
		"Pooled has":    func() error { return p.Forward(context.Background(), &block.Output{Pooled: x[:3]}, x) },
		"ClassMaps has": func() error { return p.Forward(context.Background(), &block.Output{ClassMaps: x[:3]}, x) },
		"Features has":  func() error { return p.Forward(context.Background(), &block.Output{Features: make([][]float32, 3)}, x) },
		"no norm0": func() error {
			return p.Forward(context.Background(), &block.Output{Features: [][]float32{x, nil, nil, nil}}, x)
		},
	} {
		if err := f(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
	vim := block.Vim{Dim: 16, Depth: 1, StateDim: 4, PatchSize: 8, NumClasses: 7, ImgSize: 64}
	v, err := block.New(vim, block.Synthetic(vim, 1))
	if err != nil {
		t.Fatal(err)
	}
	if p, err := v.Plan(1, 64, 64); err != nil {
		t.Error(err)
	} else if err := p.Forward(context.Background(), &block.Output{ClassMaps: x}, x); err == nil || !strings.Contains(err.Error(), "class token") {
		t.Errorf("class maps of a model with a class token: %v", err)
	}
	ape := c
	ape.APE = true
	if _, err := build(t, ape).Plan(1, 32, 32); err == nil || !strings.Contains(err.Error(), "own size 64 x 64") {
		t.Errorf("an absolute position embedding at another size: %v", err)
	}
	if _, err := block.New(c, block.Synthetic(c, 1), block.WithLevel(kernels.Level(99))); err == nil {
		t.Error("level 99 is accepted")
	}
	if _, err := block.New(c, block.Synthetic(c, 1), block.WithThreads(-1)); err == nil {
		t.Error("-1 threads are accepted")
	}
}

// TestOfficialConfigs checks parameters and MACs against the paper's model.
func TestOfficialConfigs(t *testing.T) {
	for _, tc := range []struct {
		name   string
		cfg    block.Config
		params int
		gmacs  string
	}{{"T", block.Tiny(), 24392200, "4.131"}, {"S", block.Small(), 43_020_000, "7.249"}, {"B", block.Base(), 95_980_000, "16.114"}} {
		if got := tc.cfg.Params(); math.Abs(float64(got-tc.params)) > 5000 {
			t.Errorf("MILA-%s has %d parameters, want %d", tc.name, got, tc.params)
		}
		if got := fmt.Sprintf("%.3f", float64(tc.cfg.MACs(224, 224))/1e9); got != tc.gmacs {
			t.Errorf("MILA-%s has %s GMACs, want %s", tc.name, got, tc.gmacs)
		}
	}
}

func TestMambaAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Log("not measured under the race detector, which allocates itself")
		return
	}
	cfg := block.Mamba130M()
	cfg.VocabSize, cfg.HiddenSize, cfg.Layers = 50, 40, 3
	m, err := block.NewMamba(cfg, block.Synthetic(cfg, 1), block.WithThreads(2))
	if err != nil {
		t.Fatal(err)
	}
	s, logits, token := m.NewStream(), make([]float32, cfg.VocabSize), []int{3}
	if n := testing.AllocsPerRun(10, func() {
		if err := s.Forward(context.Background(), logits, token); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations a token", n)
	}
}
