package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	"github.com/mila-go/mila/models"
	"github.com/mila-go/mila/vision"
	"github.com/urfave/cli/v3"
)

func classifyCommand(stdin io.Reader, stdout, stderr io.Writer) *cli.Command {
	return &cli.Command{
		Name:      "classify",
		Usage:     "say what is in images",
		ArgsUsage: "IMAGE...",
		Description: `IMAGE is a file (JPEG, PNG, GIF, WebP, BMP), a directory, a pattern, or - for standard input.

Examples:
   mila classify photo.jpg
   mila classify --json --top 1 photos/ 'more/*.png'
   curl -s https://example.org/cat.jpg | mila classify -
   mila classify --model mila_tiny.pth --labels imagenet.txt photo.jpg
   mila classify --heatmap map.png photo.jpg
   mila classify --heatmap maps --class 'Egyptian cat' photos/

Exit status: 0, 1 if any image failed (the others are still answered), 2 for a wrong command line.`,
		Flags: append([]cli.Flag{
			modelFlag(), configFlag(), archFlag(), stateFlag(),
			&cli.IntFlag{Name: "top", Value: 5, Usage: "number of classes to show"},
			&cli.StringFlag{Name: "labels", Usage: "`FILE` of class names, instead of the checkpoint's own"},
			&cli.BoolFlag{Name: "exif", Usage: "turn photos as their EXIF orientation says (the reference evaluation does not)"},
			maxPixelsFlag(), jsonFlag(), quietFlag(), threadsFlag(), isaFlag(),
		}, heatmapFlags()...),
		Action: func(ctx context.Context, c *cli.Command) error {
			if !c.Args().Present() {
				return usagef("classify needs at least one IMAGE")
			}
			if c.Int("top") < 1 {
				return usagef("--top %d: must be at least 1", c.Int("top"))
			}
			if err := checkMaxPixels(c); err != nil {
				return err
			}
			opt, err := modelOptions(c)
			if err != nil {
				return err
			}
			images := expand(c.Args().Slice())
			side, each := workers(len(images), opt.Threads)
			opt.Threads = each
			m, err := models.Open(c.String("model"), opt)
			if err != nil {
				return err
			}
			noteEMA(c, stderr, m.State, m.States)
			if path := c.String("labels"); path != "" {
				if m.Labels, err = vision.LoadLabels(path); err != nil {
					return err
				}
			}
			return classify(ctx, c, m, images, side, stdin, stdout, stderr)
		},
	}
}

// answer is the JSON of one image; its keys are fixed.
type answer struct {
	Image string              `json:"image"`
	Top   []vision.Prediction `json:"top,omitempty"`
	MS    *float64            `json:"ms,omitempty"`
	Map   string              `json:"heatmap,omitempty"` // only where one was asked for
	Error string              `json:"error,omitempty"`
}

func classify(ctx context.Context, c *cli.Command, m *models.Loaded, images []string, side int, stdin io.Reader, stdout, stderr io.Writer) error {
	classifiers, err := newClassifiers(m, side)
	if err != nil {
		return err
	}
	maps, err := newHeatmaps(c, m, images, side)
	if err != nil {
		return err
	}
	opt := vision.DecodeOptions{MaxPixels: c.Int64("max-pixels"), HonourEXIF: c.Bool("exif")}
	one := func(worker, i int) answer {
		a := answer{Image: images[i]}
		start := time.Now()
		var img *vision.RGB
		var err error
		if images[i] == "-" {
			img, err = vision.Decode(stdin, opt)
		} else {
			img, err = vision.DecodeFile(images[i], opt)
		}
		var probs []float32
		if err == nil {
			probs, err = classifiers[worker].Classify(ctx, img)
		}
		ms := math.Round(time.Since(start).Seconds()*1e6) / 1e3
		if err == nil && maps != nil {
			a.Map = maps.paths[i]
			err = maps.draw(ctx, worker, i, img, probs, m.Labels)
		}
		if err != nil {
			return answer{Image: images[i], Error: err.Error()}
		}
		a.Top = vision.TopK(probs, m.Labels, c.Int("top"))
		a.MS = &ms
		return a
	}
	b := progress(c, stderr, len(images), "classifying")
	failed := false
	err = ordered(ctx, len(images), side, one, func(i int, a answer) {
		failed = failed || a.Error != ""
		b.above(func() { report(a, c.Bool("json"), stdout, stderr) })
		b.add(1, "classifying")
	})
	b.finish()
	if err != nil {
		return err
	}
	if failed {
		return errReported
	}
	return nil
}

func report(a answer, asJSON bool, stdout, stderr io.Writer) {
	switch {
	case asJSON:
		line, err := json.Marshal(a)
		if err != nil { // only a probability that is no number, which Classify refuses
			panic(err)
		}
		fmt.Fprintf(stdout, "%s\n", line)
	case a.Error != "":
		fmt.Fprintf(stderr, "mila: %s\n", printable(strings.TrimPrefix(a.Error, "vision: ")))
	default:
		fmt.Fprintln(stdout, a.Image)
		for _, p := range a.Top {
			fmt.Fprintf(stdout, "  %5.1f %%  %s\n", 100*p.Prob, p.Label)
		}
	}
}
