// Command mila classifies images, runs MILA checkpoints and measures their
// speed, on any CPU, from one static binary. `mila help` says how.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"

	"github.com/mila-go/mila/kernels"
	"github.com/mila-go/mila/models"
	"github.com/mila-go/mila/vision"
	"github.com/urfave/cli/v3"
)

// Exit statuses.
const (
	exitFailure = 1 // something failed; what could be done was done
	exitUsage   = 2 // the command line is wrong
)

// usageError is a mistake on the command line.
type usageError struct{ error }

func usagef(format string, args ...any) error {
	return usageError{fmt.Errorf(format, args...)}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	os.Exit(run(ctx, os.Args, os.Stdin, os.Stdout, os.Stderr))
}

// run is main with its surroundings as arguments.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	err := app(stdin, stdout, stderr).Run(ctx, args)
	var usage usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &usage):
		fmt.Fprintf(stderr, "mila: %v\nRun 'mila help' or 'mila COMMAND --help' for usage.\n", err)
		return exitUsage
	case errors.Is(err, context.Canceled):
		fmt.Fprintln(stderr, "mila: interrupted")
	case !errors.Is(err, errReported):
		fmt.Fprintf(stderr, "mila: %s\n", strings.TrimPrefix(err.Error(), "mila: "))
	}
	return exitFailure
}

// errReported is a failure whose messages are already on stderr.
var errReported = errors.New("failed")

func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

func app(stdin io.Reader, stdout, stderr io.Writer) *cli.Command {
	root := &cli.Command{
		Name:    "mila",
		Usage:   "linear-attention vision models on the CPU",
		Version: version(),
		Description: `Examples:
   mila classify photo.jpg                     what is in a photo, by the shipped model
   mila classify --json --top 3 photos/ *.png  many images, a JSON object a line
   mila info mila_tiny.pth                     what a checkpoint holds
   mila run --weights mila_tiny.pth --input x.safetensors --output y.safetensors
   mila bench --model t --threads 1            speed of MILA-T on this machine

The environment variable MILA_ISA forces an instruction-set level (see mila cpu).`,
		Reader:                stdin,
		Writer:                stdout,
		ErrWriter:             stderr,
		EnableShellCompletion: true,
		Suggest:               true,
		ExitErrHandler:        func(context.Context, *cli.Command, error) {},
		Commands: []*cli.Command{
			classifyCommand(stdin, stdout, stderr), runCommand(stderr), infoCommand(stdout),
			evalCommand(stdout, stderr), benchCommand(stdout), cpuCommand(stdout),
		},
		Action: func(_ context.Context, c *cli.Command) error {
			if c.Args().Present() {
				return usagef("there is no command %q", c.Args().First())
			}
			return cli.ShowRootCommandHelp(c)
		},
	}
	onUsage := func(_ context.Context, _ *cli.Command, err error, _ bool) error { return usageError{err} }
	root.OnUsageError = onUsage
	for _, c := range root.Commands {
		c.OnUsageError = onUsage
	}
	return root
}

// Flags that several commands have.

func modelFlag() cli.Flag {
	return &cli.StringFlag{Name: "model", Aliases: []string{"m"}, Value: "nano", Usage: "shipped model (" + strings.Join(models.Shipped(), ", ") + ") or `FILE` (.safetensors, .pth)"}
}

func configFlag() cli.Flag {
	return &cli.StringFlag{Name: "config", Usage: "JSON `FILE` with the configuration, instead of the checkpoint's own"}
}

func archFlag() cli.Flag {
	return &cli.StringFlag{Name: "arch", Usage: "the `NAME` of the architecture whose weights the checkpoint holds (see mila info), unless it is a MILA"}
}

func stateFlag() cli.Flag {
	return &cli.StringFlag{Name: "state", Usage: "weights of a training checkpoint: `model` or ema"}
}

func threadsFlag() cli.Flag {
	return &cli.IntFlag{Name: "threads", Aliases: []string{"t"}, Usage: "number of `N` threads; 0 is all cores"}
}

func isaFlag() cli.Flag {
	return &cli.StringFlag{Name: "isa", Usage: "instruction-set `LEVEL` (see mila cpu); default MILA_ISA or the best"}
}

func dtypeFlag() cli.Flag {
	return &cli.StringFlag{Name: "dtype", Value: "f32", Usage: "number `TYPE` to compute in: f32"}
}

func jsonFlag() cli.Flag { return &cli.BoolFlag{Name: "json", Usage: "print JSON"} }

func quietFlag() cli.Flag {
	return &cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "no progress and no notes on standard error, only errors"}
}

func maxPixelsFlag() cli.Flag {
	return &cli.Int64Flag{Name: "max-pixels", Value: vision.DefaultMaxPixels, Usage: "largest image that is decoded"}
}

func checkMaxPixels(c *cli.Command) error {
	if n := c.Int64("max-pixels"); n < 1 {
		return usagef("--max-pixels %d: must be at least 1", n)
	}
	return nil
}

// modelOptions reads the flags above.
func modelOptions(c *cli.Command) (models.Options, error) {
	o := models.Options{Architecture: c.String("arch"), ConfigPath: c.String("config"), State: c.String("state"), Threads: c.Int("threads")}
	if o.Threads < 0 || o.Threads > 1024 {
		return o, usagef("--threads %d: use 1 to 1024, or 0 for all cores", o.Threads)
	}
	if o.State != "" && o.State != "model" && o.State != "ema" {
		return o, usagef("--state %s: use model or ema", o.State)
	}
	if d := c.String("dtype"); d != "" && d != "f32" {
		return o, usagef("--dtype %s is not available in this version; use f32", d)
	}
	if isa := c.String("isa"); isa != "" {
		l, err := kernels.ParseLevel(isa)
		if err == nil {
			err = l.Err()
		}
		if err != nil {
			return o, usagef("--isa %s: %w", isa, err)
		}
		o.Level = l
	}
	return o, nil
}

// note tells what may surprise, unless --quiet.
func note(c *cli.Command, stderr io.Writer, format string, args ...any) {
	if !c.Bool("quiet") {
		fmt.Fprintf(stderr, "mila: note: "+format+"\n", args...)
	}
}

// noteEMA tells that a checkpoint holds weights that were not asked for.
func noteEMA(c *cli.Command, stderr io.Writer, state string, states []string) {
	if c.String("state") == "" && len(states) > 1 {
		note(c, stderr, "this checkpoint also holds %s weights; using %q (choose with --state)", other(states, state), state)
	}
}

func other(states []string, used string) string {
	for _, s := range states {
		if s != used {
			return s
		}
	}
	return ""
}
