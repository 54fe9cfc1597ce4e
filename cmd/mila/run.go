package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/mila-go/mila/block"
	"github.com/mila-go/mila/checkpoint"
	"github.com/mila-go/mila/models"
	"github.com/urfave/cli/v3"
)

func runCommand(stderr io.Writer) *cli.Command {
	return &cli.Command{
		Name:  "run",
		Usage: "run a checkpoint on a tensor of images",
		Description: `X.safetensors holds the tensor "input", (N, C, H, W) in float32, of any height and width. Y.safetensors gets
"logits" and "pooled" (where the checkpoint has a head), with --features the maps "feat0" .. "feat3", and with
--taps the intermediate results: "blocks" what the fused plan computed after the stem, each block and each
downsample; "steps" every single step of the same weights run unfused.

Examples:
   mila run --weights mila_tiny.pth --input x.safetensors --output y.safetensors
   mila run --weights backbone.pth --config tiny.json --features --input x.safetensors --output y.safetensors
   mila run --weights mila_tiny.pth --state ema --taps steps --input x.safetensors --output y.safetensors`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "weights", Aliases: []string{"w"}, Required: true, Usage: "checkpoint `FILE` (.safetensors or .pth) or shipped model"},
			configFlag(), archFlag(), stateFlag(),
			&cli.StringFlag{Name: "input", Aliases: []string{"i"}, Required: true, Usage: "`FILE` with the tensor input"},
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Required: true, Usage: "`FILE` to write"},
			&cli.BoolFlag{Name: "features", Usage: "write the feature maps feat0 .. feat3"},
			&cli.StringFlag{Name: "taps", Usage: "write intermediate results: `blocks` or steps"},
			isaFlag(), dtypeFlag(), threadsFlag(),
		},
		Action: func(ctx context.Context, c *cli.Command) error {
			if c.Args().Present() {
				return usagef("run takes no arguments; what is %q?", c.Args().First())
			}
			if t := c.String("taps"); t != "" && t != "blocks" && t != "steps" {
				return usagef("--taps %s: use blocks or steps", t)
			}
			opt, err := modelOptions(c)
			if err != nil {
				return err
			}
			return runModel(ctx, c, opt, stderr)
		},
	}
}

// readInput reads the tensor "input".
func readInput(path string) (x []float32, shape []int, err error) {
	f, err := checkpoint.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	shape, ok := f.Shape("input")
	if !ok {
		return nil, nil, fmt.Errorf("%s: there is no tensor \"input\"; it has %s", path, strings.Join(f.Names(), ", "))
	}
	if dt, _ := f.DType("input"); dt != checkpoint.F32 {
		return nil, nil, fmt.Errorf("%s: the tensor \"input\" is %v; it must be F32", path, dt)
	}
	if len(shape) != 4 {
		return nil, nil, fmt.Errorf("%s: the tensor \"input\" has the shape %v; it must be (N, C, H, W)", path, shape)
	}
	n := shape[0] * shape[1] * shape[2] * shape[3]
	if n == 0 {
		return nil, nil, fmt.Errorf("%s: the tensor \"input\" has the shape %v: there is nothing to run", path, shape)
	}
	x = make([]float32, n)
	return x, shape, f.Read("input", x)
}

func runModel(ctx context.Context, c *cli.Command, opt models.Options, stderr io.Writer) error {
	x, shape, err := readInput(c.String("input"))
	if err != nil {
		return err
	}
	batch, h, w := shape[0], shape[2], shape[3]
	f, err := models.OpenCheckpoint(c.String("weights"), opt.State)
	if err != nil {
		return err
	}
	defer f.Close()
	cfg, _, err := models.Describe(f, opt)
	if err != nil {
		return fmt.Errorf("%s: %w", c.String("weights"), err)
	}
	noteEMA(c, stderr, f.State(), f.States())
	if chans, _ := cfg.Image(); shape[1] != chans {
		return fmt.Errorf("%s: the tensor \"input\" has %d channels, the model takes %d", c.String("input"), shape[1], chans)
	}

	var out []checkpoint.Tensor
	add := func(name string, shape []int, data []float32) {
		out = append(out, checkpoint.Tensor{Name: name, Shape: shape, F32: data})
	}
	tap := func(name string, shape []int, data []float32) { add(name, shape, append([]float32{}, data...)) }
	steps := c.String("taps") == "steps"
	if steps {
		mila, ok := cfg.(block.Config)
		if !ok {
			return usagef("--taps steps shows the steps of a MILA; %s is another model, use --taps blocks", opt.Architecture)
		}
		if err := block.Steps(ctx, mila, f, batch, h, w, x, tap, block.WithLevel(opt.Level)); err != nil {
			return err
		}
	}
	if !steps || c.Bool("features") {
		m, err := block.New(cfg, f, block.WithLevel(opt.Level), block.WithThreads(opt.Threads))
		if err != nil {
			return fmt.Errorf("%s: %w", c.String("weights"), err)
		}
		p, err := m.Plan(batch, h, w)
		if err != nil {
			return err
		}
		var dst block.Output
		channels := m.Channels()
		if !steps {
			if m.HasHead() {
				dst.Logits = make([]float32, batch*cfg.Classes())
				add("logits", []int{batch, cfg.Classes()}, dst.Logits)
			}
			if m.HasPooled() {
				last := channels[len(channels)-1]
				dst.Pooled = make([]float32, batch*last)
				if c.String("taps") == "" { // else the tap of that name is written
					add("pooled", []int{batch, last}, dst.Pooled)
				}
			}
		}
		if c.Bool("features") {
			if missing := m.MissingFeatureNorms(); missing != nil {
				return fmt.Errorf("%s has no %s, which feature maps need; --features takes the weights of a detection or segmentation backbone", c.String("weights"), strings.Join(missing, ", "))
			}
			for i, ch := range channels {
				fh, fw := p.FeatureSize(i)
				s := []int{batch, ch, fh, fw}
				data := make([]float32, s[0]*s[1]*s[2]*s[3])
				dst.Features = append(dst.Features, data)
				add("feat"+strconv.Itoa(i), s, data)
			}
		}
		if c.String("taps") == "blocks" {
			p.Tap = tap
		}
		if err := p.Forward(ctx, &dst, x); err != nil {
			return err
		}
	}
	if len(out) == 0 {
		return fmt.Errorf("%s has no head and no final norm, so there is nothing to write; ask for --features or --taps", c.String("weights"))
	}
	return checkpoint.SaveSafetensors(c.String("output"), out, map[string]string{"format": "pt"})
}
