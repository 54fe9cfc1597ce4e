package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/mila-go/mila/bench"
	"github.com/mila-go/mila/block"
	"github.com/mila-go/mila/models"
	"github.com/urfave/cli/v3"
)

func benchCommand(stdout io.Writer) *cli.Command {
	return &cli.Command{
		Name:  "bench",
		Usage: "measure the speed of a model",
		Description: `Prints the median, 10th and 90th percentile of the time per image, the arithmetic speed (a multiply-add counts as
two operations), and its share of the peak of multiply-adds at the same level, measured in the same run.

Examples:
   mila bench --model t --threads 1
   mila bench --model nano --batch 8 --json
   mila bench --model mila_tiny.pth --size 384
   mila bench --model vmamba-t --threads 1`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "model", Aliases: []string{"m"}, Value: "nano", Usage: "a shipped model, an architecture (with generated weights; see mila info for both), mamba-130m or a checkpoint `FILE`"},
			configFlag(), archFlag(), stateFlag(),
			&cli.IntFlag{Name: "size", Usage: "image height and width; default the model's own"},
			&cli.IntFlag{Name: "batch", Value: 1, Usage: "images in a forward pass"},
			&cli.DurationFlag{Name: "duration", Value: 3 * time.Second, Usage: "how long to measure"},
			threadsFlag(), dtypeFlag(), isaFlag(), jsonFlag(),
		},
		Action: func(ctx context.Context, c *cli.Command) error {
			if c.Args().Present() {
				return usagef("bench takes no arguments; what is %q?", c.Args().First())
			}
			if c.Int("size") < 0 || c.Int("batch") < 1 {
				return usagef("--size %d --batch %d: both must be at least 1", c.Int("size"), c.Int("batch"))
			}
			opt, err := modelOptions(c)
			if err != nil {
				return err
			}
			return benchmark(ctx, c, opt, stdout)
		},
	}
}

// measurement is the JSON of bench; its keys are fixed.
type measurement struct {
	Model      string  `json:"model"`
	Size       int     `json:"size"`
	Batch      int     `json:"batch"`
	Threads    int     `json:"threads"`
	DType      string  `json:"dtype"`
	ISA        string  `json:"isa"`
	MedianMS   float64 `json:"median_ms"`
	P10MS      float64 `json:"p10_ms"`
	P90MS      float64 `json:"p90_ms"`
	GFLOPS     float64 `json:"gflops"`
	PeakGFLOPS float64 `json:"peak_gflops"`
	PeakShare  float64 `json:"peak_share"`
}

func benchmark(ctx context.Context, c *cli.Command, opt models.Options, stdout io.Writer) error {
	name := c.String("model")
	var m *block.Model
	var err error
	if name == languageModel {
		return benchmarkLanguage(ctx, c, opt, stdout)
	}
	if cfg, ok := block.Named(name); ok {
		m, err = block.New(cfg, block.Synthetic(cfg, 1), block.WithLevel(opt.Level), block.WithThreads(opt.Threads))
	} else {
		var l *models.Loaded
		if l, err = models.Open(name, opt); err == nil {
			m = l.Model
		}
	}
	if err != nil {
		return err
	}
	cfg := m.Architecture()
	chans, own := cfg.Image()
	size, batch := c.Int("size"), c.Int("batch")
	if size == 0 {
		if size = own; size == 0 {
			size = 224
		}
	}
	p, err := m.Plan(batch, size, size)
	if err != nil {
		return err
	}
	x := make([]float32, batch*chans*size*size)
	block.Generate(x, "input", 1, 0, 2)
	dst := &block.Output{}
	if m.HasHead() {
		dst.Logits = make([]float32, batch*cfg.Classes())
	} else if channels := m.Channels(); m.HasPooled() {
		dst.Pooled = make([]float32, batch*channels[len(channels)-1])
	}
	// The first pass touches all memory; it does not count.
	if err := p.Forward(ctx, dst, x); err != nil {
		return err
	}
	var times, peaks []float64
	for start := time.Now(); len(times) < 3 || time.Since(start) < c.Duration("duration"); {
		t := time.Now()
		if err := p.Forward(ctx, dst, x); err != nil {
			return err
		}
		times = append(times, time.Since(t).Seconds()*1e3/float64(batch))
		peaks = append(peaks, bench.PeakTurn(m.Level(), m.Threads()))
	}
	slices.Sort(times)
	peak := bench.Median(peaks)
	at := func(q float64) float64 { return times[int(q*float64(len(times)-1)+0.5)] }
	r := measurement{Model: name, Size: size, Batch: batch, Threads: m.Threads(), DType: "f32", ISA: m.Level().String(),
		MedianMS: at(0.5), P10MS: at(0.1), P90MS: at(0.9), PeakGFLOPS: peak}
	r.GFLOPS = 2 * float64(cfg.MACs(size, size)) / (r.MedianMS * 1e6)
	r.PeakShare = r.GFLOPS / peak
	if c.Bool("json") {
		return json.NewEncoder(stdout).Encode(r)
	}
	_, err = fmt.Fprintf(stdout, "%s at %d x %d, batch %d, %d threads, %s, %s: median %.3f ms per image (p10 %.3f, p90 %.3f), %.2f GFLOP/s = %.1f %% of the measured peak of %.1f (%d passes)\n",
		r.Model, size, size, batch, r.Threads, r.DType, r.ISA, r.MedianMS, r.P10MS, r.P90MS, r.GFLOPS, 100*r.PeakShare, peak, len(times))
	return err
}

// languageMeasurement is the JSON of bench for a language model.
type languageMeasurement struct {
	Model     string  `json:"model"`
	Threads   int     `json:"threads"`
	DType     string  `json:"dtype"`
	ISA       string  `json:"isa"`
	DecodeMS  float64 `json:"decode_ms"`           // median of one token
	PromptTPS float64 `json:"prompt_tokens_per_s"` // of pieces of 128 tokens
	GBPerS    float64 `json:"weights_gb_per_s"`    // read while decoding
}

// benchmarkLanguage measures decoding, which reads all weights for each token, and
// prompts, which reuse them.
func benchmarkLanguage(ctx context.Context, c *cli.Command, opt models.Options, stdout io.Writer) error {
	cfg := block.Mamba130M()
	m, err := block.NewMamba(cfg, block.Synthetic(cfg, 1), block.WithLevel(opt.Level), block.WithThreads(opt.Threads))
	if err != nil {
		return err
	}
	logits, s := make([]float32, cfg.VocabSize), m.NewStream()
	median := func(tokens []int) (float64, error) {
		var times []float64
		for start := time.Now(); len(times) < 4 || time.Since(start) < c.Duration("duration")/2; {
			t := time.Now()
			if err := s.Forward(ctx, logits, tokens); err != nil {
				return 0, err
			}
			times = append(times, time.Since(t).Seconds())
		}
		times = times[1:] // the first makes the plan
		slices.Sort(times)
		return times[len(times)/2], nil
	}
	decode, err := median([]int{1})
	if err != nil {
		return err
	}
	prompt, err := median(make([]int, 128))
	if err != nil {
		return err
	}
	r := languageMeasurement{Model: languageModel, Threads: m.Threads(), DType: "f32", ISA: m.Level().String(), DecodeMS: decode * 1e3,
		PromptTPS: 128 / prompt, GBPerS: 4 * float64(cfg.Params()) / decode / 1e9}
	if c.Bool("json") {
		return json.NewEncoder(stdout).Encode(r)
	}
	_, err = fmt.Fprintf(stdout, "%s, %d threads, %s, %s: %.2f ms a token (%.1f GB/s of weights), %.0f tokens/s of a prompt\n", r.Model, r.Threads, r.DType, r.ISA, r.DecodeMS, r.GBPerS, r.PromptTPS)
	return err
}
