package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/mila-go/mila/models"
	"github.com/mila-go/mila/vision"
	"github.com/urfave/cli/v3"
)

func evalCommand(stdout, stderr io.Writer) *cli.Command {
	return &cli.Command{
		Name:  "eval",
		Usage: "measure accuracy on a data set with a folder for each class",
		Description: `Folders are matched with classes by WordNet id, else by label, else by order if there are as many folders as
classes. Images that cannot be read are named and not counted.

--details writes a JSON object with the accuracy of each class, the confusion matrix, the calibration of the
probabilities, and the answer for each image.

Examples:
   mila eval --data val.zip
   mila eval --data val.zip --per-class
   mila eval --data imagenet/val --model mila_tiny.pth --json --details details.json

Exit status: 0, 1 if anything failed (the images that could be read are still evaluated), 2 for a wrong command line.`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "data", Required: true, Usage: "`ZIP` file or directory"},
			modelFlag(), configFlag(), archFlag(), stateFlag(), jsonFlag(),
			&cli.BoolFlag{Name: "per-class", Usage: "print a table of the classes, best first"},
			&cli.StringFlag{Name: "details", Usage: "write all results to the JSON `FILE`"},
			maxPixelsFlag(), quietFlag(), threadsFlag(), isaFlag(),
		},
		Action: func(ctx context.Context, c *cli.Command) error {
			if c.Args().Present() {
				return usagef("eval takes no arguments; what is %q?", c.Args().First())
			}
			if c.Bool("json") && c.Bool("per-class") {
				return usagef("--per-class prints a table and --json a JSON object; use --details FILE for the classes in JSON")
			}
			if err := checkMaxPixels(c); err != nil {
				return err
			}
			opt, err := modelOptions(c)
			if err != nil {
				return err
			}
			return eval(ctx, c, opt, stdout, stderr)
		},
	}
}

func eval(ctx context.Context, c *cli.Command, opt models.Options, stdout, stderr io.Writer) error {
	data, err := openDataset(c.String("data"))
	if err != nil {
		return err
	}
	defer data.Close()
	samples := data.samples
	side, each := workers(len(samples), opt.Threads)
	opt.Threads = each
	m, err := models.Open(c.String("model"), opt)
	if err != nil {
		return err
	}
	noteEMA(c, stderr, m.State, m.States)
	notes, err := data.assign(m)
	if err != nil {
		return fmt.Errorf("%s: %w", c.String("data"), err)
	}
	for _, n := range notes {
		note(c, stderr, "%s", n)
	}
	// Each worker decodes and classifies a few images at a time, so that all threads
	// are busy with both.
	per, err := m.BatchSize()
	if err != nil {
		return err
	}
	per = max(1, min(per, len(samples)/(2*side)))
	batches := make([]*models.Batch, side)
	for i := range batches {
		if batches[i], err = m.NewBatch(per); err != nil {
			return err
		}
	}
	var details *os.File
	if path := c.String("details"); c.IsSet("details") { // better now than after the work
		if details, err = os.Create(path); err != nil {
			return err
		}
		defer details.Close()
	}
	classes := m.Architecture().Classes()
	decode := func(s sample) (*vision.RGB, error) {
		f, err := s.open()
		if err != nil {
			return nil, err
		}
		defer f.Close()
		return vision.Decode(f, vision.DecodeOptions{MaxPixels: c.Int64("max-pixels")})
	}
	type result struct {
		outcomes []outcome
		err      error
	}
	some := func(worker, i int) (r result) {
		b, group := batches[worker], samples[i*per:min(len(samples), (i+1)*per)]
		var read []int
		for k, s := range group {
			r.outcomes = append(r.outcomes, outcome{sample: s})
			img, err := decode(s)
			if err == nil {
				err = b.Add(img)
			}
			if err != nil {
				r.outcomes[k].err = err
			} else {
				read = append(read, k)
			}
		}
		probs, err := b.Classify(ctx)
		if err != nil {
			return result{err: err}
		}
		for n, k := range read {
			r.outcomes[k].judge(probs[n*classes : (n+1)*classes])
		}
		return r
	}
	e := newEvaluation(m, details != nil)
	b := progress(c, stderr, len(samples), "evaluating")
	start := time.Now()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var failed error // of the model; it ends the evaluation
	err = ordered(ctx, (len(samples)+per-1)/per, side, some, func(_ int, r result) {
		if r.err != nil {
			failed = cmp.Or(failed, r.err)
			stop()
			return
		}
		for _, o := range r.outcomes {
			if o.err != nil {
				b.above(func() { fmt.Fprintf(stderr, "mila: %s: %v\n", printable(o.path), o.err) })
			}
			e.add(o)
		}
		b.add(len(r.outcomes), fmt.Sprintf("top-1 %5.2f %%", 100*e.share(e.top1)))
	})
	b.finish()
	if err = cmp.Or(failed, err); err != nil {
		return err
	}
	e.speed = float64(len(samples)) / time.Since(start).Seconds()
	if e.images == 0 {
		return fmt.Errorf("%s: none of the %d images could be read", c.String("data"), len(samples))
	}
	if details != nil {
		if err := errors.Join(e.write(details, c.String("model"), c.String("data")), details.Close()); err != nil {
			return err
		}
	}
	switch {
	case c.Bool("json"):
		err = json.NewEncoder(stdout).Encode(e.summary())
	default:
		_, err = fmt.Fprintf(stdout, "top-1 %.2f %%, top-5 %.2f %% of %d images, %.1f images/s\n", 100*e.share(e.top1), 100*e.share(e.top5), e.images, e.speed)
		if err == nil && c.Bool("per-class") {
			err = e.table(stdout)
		}
	}
	if n := len(e.failures); err == nil && n > 0 {
		fmt.Fprintf(stderr, "mila: %d of %d images could not be read and are not counted\n", n, len(samples))
		err = errReported
	}
	return err
}
