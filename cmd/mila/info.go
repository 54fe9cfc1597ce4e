package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/mila-go/mila/block"
	"github.com/mila-go/mila/models"
	"github.com/urfave/cli/v3"
)

func infoCommand(stdout io.Writer) *cli.Command {
	return &cli.Command{
		Name:      "info",
		Usage:     "show architecture, parameters, MACs and tensors",
		ArgsUsage: "FILE|NAME",
		Description: `FILE is a checkpoint; NAME is a shipped model,
` + strings.Join(models.Shipped(), ", ") + `,
or an architecture without weights:
` + strings.Join(block.Names(), ", ") + `,
and the language model mamba-130m.

Examples:
   mila info nano
   mila info --json mila_tiny.pth
   mila info t
   mila info vmamba-s`,
		Flags: []cli.Flag{configFlag(), archFlag(), stateFlag(), jsonFlag()},
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
	var cfg block.Architecture
	format := "architecture without weights"
	var states []string
	var tensors []tensorInfo
	list := func(specs []block.TensorSpec) {
		for _, t := range specs {
			if t.Optional == "" || t.Optional == "norm" || t.Optional == "head" {
				tensors = append(tensors, tensorInfo{t.Name, "F32", t.Shape})
			}
		}
	}
	if name == languageModel {
		lm := block.Mamba130M()
		list(lm.Tensors())
		return printInfo(c, stdout, "Mamba language model (arXiv 2312.00752)", format, nil, lm, lm.Params(), lm.MACs(), "a token", tensors)
	}
	if a, ok := block.Named(name); ok {
		cfg = a
		list(a.Tensors())
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
		if cfg, _, err = models.Describe(f, opt); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	_, size := cfg.Image()
	if size == 0 {
		size = 224
	}
	return printInfo(c, stdout, cfg.String(), format, states, cfg, cfg.Params(), cfg.MACs(size, size), fmt.Sprintf("%d x %d", size, size), tensors)
}

// languageModel is the one language model that info and bench know.
const languageModel = "mamba-130m"

func printInfo(c *cli.Command, stdout io.Writer, architecture, format string, states []string, config any, params int, macs int64, at string, tensors []tensorInfo) error {
	if c.Bool("json") {
		enc := json.NewEncoder(stdout)
		enc.SetIndent("", "  ")
		kind, _, _ := strings.Cut(architecture, ":")
		return enc.Encode(map[string]any{
			"architecture": strings.ToLower(kind), "format": format, "states": states, "config": config, "parameters": params,
			"macs": macs, "macs_at": at, "tensors": tensors,
		})
	}
	w := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "architecture\t%s\n", architecture)
	fmt.Fprintf(w, "format\t%s\n", format)
	if len(states) > 1 {
		fmt.Fprintf(w, "states\t%v\n", states)
	}
	fmt.Fprintf(w, "parameters\t%.2f M\n", float64(params)/1e6)
	fmt.Fprintf(w, "MACs\t%.3f G at %s\n", float64(macs)/1e9, at)
	fmt.Fprintf(w, "tensors\t%d\n\n", len(tensors))
	for _, t := range tensors {
		fmt.Fprintf(w, "%s\t%s\t%v\n", t.Name, t.DType, t.Shape)
	}
	return w.Flush()
}
