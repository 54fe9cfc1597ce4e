package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/mila-go/mila/block"
	"github.com/mila-go/mila/models"
	"github.com/urfave/cli/v3"
)

// named are the architectures that info and bench know without weights.
var named = map[string]func() block.Config{"t": block.Tiny, "s": block.Small, "b": block.Base}

func infoCommand(stdout io.Writer) *cli.Command {
	return &cli.Command{
		Name:      "info",
		Usage:     "show architecture, parameters, MACs and tensors",
		ArgsUsage: "FILE|NAME",
		Description: `FILE is a checkpoint; NAME is a shipped model (nano) or an architecture (t, s, b).

Examples:
   mila info nano
   mila info --json mila_tiny.pth
   mila info t`,
		Flags: []cli.Flag{configFlag(), stateFlag(), jsonFlag()},
		Action: func(_ context.Context, c *cli.Command) error {
			if c.Args().Len() != 1 {
				return usagef("info takes one FILE or NAME")
			}
			return info(c, stdout)
		},
	}
}

type tensorInfo struct {
	Name  string `json:"name"`
	DType string `json:"dtype"`
	Shape []int  `json:"shape"`
}

func info(c *cli.Command, stdout io.Writer) error {
	name := c.Args().First()
	var cfg block.Config
	var format string
	var states []string
	var tensors []tensorInfo
	if make, ok := named[name]; ok {
		cfg = make()
		format = "architecture without weights"
		for _, t := range cfg.Tensors() {
			if t.Optional == "" || t.Optional == "norm" || t.Optional == "head" {
				tensors = append(tensors, tensorInfo{t.Name, "F32", t.Shape})
			}
		}
	} else {
		opt, err := modelOptions(c)
		if err != nil {
			return err
		}
		f, err := models.OpenCheckpoint(name, opt.State)
		if err != nil {
			return err
		}
		defer f.Close()
		format, states = f.Format(), f.States()
		for _, n := range f.Names() {
			s, _ := f.Shape(n)
			d, _ := f.DType(n)
			tensors = append(tensors, tensorInfo{n, d.String(), append([]int{}, s...)})
		}
		if cfg, _, err = models.Describe(f, opt.ConfigPath); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	size := cfg.ImgSize
	if size == 0 {
		size = 224
	}
	if c.Bool("json") {
		enc := json.NewEncoder(stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(map[string]any{
			"architecture": "mila", "format": format, "states": states, "config": cfg, "parameters": cfg.Params(),
			"macs": cfg.MACs(size, size), "size": size, "tensors": tensors,
		})
	}
	w := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "architecture\tMILA (arXiv 2405.16605)\n")
	fmt.Fprintf(w, "format\t%s\n", format)
	if len(states) > 1 {
		fmt.Fprintf(w, "states\t%v\n", states)
	}
	fmt.Fprintf(w, "embed_dim\t%d\n", cfg.EmbedDim)
	fmt.Fprintf(w, "depths\t%v\n", cfg.Depths)
	fmt.Fprintf(w, "num_heads\t%v\n", cfg.NumHeads)
	fmt.Fprintf(w, "mlp_ratio\t%v\n", cfg.MLPRatio)
	fmt.Fprintf(w, "num_classes\t%d\n", cfg.NumClasses)
	fmt.Fprintf(w, "in_chans\t%d\n", cfg.InChans)
	fmt.Fprintf(w, "parameters\t%.2f M\n", float64(cfg.Params())/1e6)
	fmt.Fprintf(w, "MACs\t%.3f G at %d x %d\n", float64(cfg.MACs(size, size))/1e9, size, size)
	fmt.Fprintf(w, "tensors\t%d\n\n", len(tensors))
	for _, t := range tensors {
		fmt.Fprintf(w, "%s\t%s\t%v\n", t.Name, t.DType, t.Shape)
	}
	return w.Flush()
}
