package main

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"strings"
	"text/tabwriter"

	"github.com/klauspost/cpuid/v2"
	"github.com/mila-go/mila/kernels"
	"github.com/urfave/cli/v3"
)

func cpuCommand(stdout io.Writer) *cli.Command {
	return &cli.Command{
		Name:  "cpu",
		Usage: "show what was detected and what each kernel uses",
		Action: func(_ context.Context, c *cli.Command) error {
			if c.Args().Present() {
				return usagef("cpu takes no arguments; what is %q?", c.Args().First())
			}
			return cpu(stdout)
		},
	}
}

func cpu(stdout io.Writer) error {
	level, err := kernels.Default()
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	id := &cpuid.CPU
	fmt.Fprintf(w, "platform\t%s/%s, %s\n", runtime.GOOS, runtime.GOARCH, runtime.Version())
	if id.BrandName != "" {
		fmt.Fprintf(w, "processor\t%s\n", id.BrandName)
	}
	fmt.Fprintf(w, "cores\t%d usable\n", runtime.GOMAXPROCS(0))
	for _, c := range []struct {
		name  string
		bytes int
	}{{"L1 data", id.Cache.L1D}, {"L2", id.Cache.L2}, {"L3", id.Cache.L3}} {
		if c.bytes > 0 {
			fmt.Fprintf(w, "%s\t%d KiB\n", c.name, c.bytes>>10)
		}
	}
	if f := relevant(id.FeatureSet()); len(f) > 0 {
		fmt.Fprintf(w, "features\t%s\n", strings.Join(f, " "))
	}
	var names []string
	for _, l := range kernels.Levels() {
		names = append(names, l.String())
	}
	fmt.Fprintf(w, "levels\t%s\n", strings.Join(names, " "))
	fmt.Fprintf(w, "in use\t%s\n", level)
	if e := kernels.Extensions(); len(e) > 0 {
		fmt.Fprintf(w, "extensions\t%s\n", strings.Join(e, " "))
	}
	fmt.Fprintln(w)
	for _, op := range kernels.Operations(level) {
		fmt.Fprintf(w, "%s\t%s\n", op.Name, op.Implementation)
	}
	return w.Flush()
}

// relevant keeps the instruction sets that numerical kernels care about.
func relevant(all []string) []string {
	var out []string
	for _, f := range all {
		for _, p := range []string{"AVX", "FMA", "AMX", "ASIMD", "SVE", "FP16", "BF16", "F16C"} {
			if strings.HasPrefix(f, p) {
				out = append(out, f)
				break
			}
		}
	}
	return out
}
