package main

import (
	"archive/zip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
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
classes.

Examples:
   mila eval --data val.zip
   mila eval --data imagenet/val --model mila_tiny.pth --json`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "data", Required: true, Usage: "`ZIP` file or directory"},
			modelFlag(), configFlag(), archFlag(), stateFlag(), jsonFlag(), threadsFlag(), isaFlag(),
		},
		Action: func(ctx context.Context, c *cli.Command) error {
			if c.Args().Present() {
				return usagef("eval takes no arguments; what is %q?", c.Args().First())
			}
			opt, err := modelOptions(c)
			if err != nil {
				return err
			}
			return eval(ctx, c, opt, stdout, stderr)
		},
	}
}

type sample struct {
	path   string
	folder string
	class  int
}

// listSamples returns the images of a data set: the class is the folder that
// holds the image, or the one above a folder named "images".
func listSamples(data fs.FS) ([]sample, error) {
	var out []sample
	err := fs.WalkDir(data, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() || !isImage(p) {
			return nil
		}
		dir := path.Dir(p)
		if path.Base(dir) == "images" {
			dir = path.Dir(dir)
		}
		out = append(out, sample{path: p, folder: path.Base(dir)})
		return nil
	})
	return out, err
}

// assign gives each sample its class index.
func assign(samples []sample, m *models.Loaded) error {
	var folders []string
	for _, s := range samples {
		folders = append(folders, s.folder)
	}
	slices.Sort(folders)
	folders = slices.Compact(folders)
	for _, names := range [][]string{m.WordNetIDs, m.Labels} {
		index := map[string]int{}
		for i, n := range names {
			index[n] = i
		}
		all := len(names) > 0
		for i := range samples {
			class, ok := index[samples[i].folder]
			all = all && ok
			samples[i].class = class
		}
		if all {
			return nil
		}
	}
	if len(folders) == m.Architecture().Classes() {
		for i := range samples {
			samples[i].class, _ = slices.BinarySearch(folders, samples[i].folder)
		}
		return nil
	}
	return fmt.Errorf("the %d class folders (%s ...) are neither the model's WordNet ids nor its labels, and not as many as its %d classes; is it the right data set?", len(folders), strings.Join(folders[:min(3, len(folders))], ", "), m.Architecture().Classes())
}

func eval(ctx context.Context, c *cli.Command, opt models.Options, stdout, stderr io.Writer) error {
	name := c.String("data")
	stat, err := os.Stat(name)
	if err != nil {
		return err
	}
	data := os.DirFS(name)
	if !stat.IsDir() {
		z, err := zip.OpenReader(name)
		if err != nil {
			return fmt.Errorf("%s is neither a directory nor a zip file: %w", name, err)
		}
		defer z.Close()
		data = z
	}
	samples, err := listSamples(data)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if len(samples) == 0 {
		return fmt.Errorf("%s holds no images (%s)", name, strings.Join(extensions, ", "))
	}
	side, each := workers(len(samples), opt.Threads)
	opt.Threads = each
	m, err := models.Open(c.String("model"), opt)
	if err != nil {
		return err
	}
	noteEMA(c, stderr, m.State, m.States)
	if err := assign(samples, m); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	classifiers, err := newClassifiers(m, side)
	if err != nil {
		return err
	}
	type result struct {
		rank int // of the true class
		err  error
	}
	one := func(worker, i int) result {
		s := samples[i]
		f, err := data.Open(s.path)
		if err != nil {
			return result{err: err}
		}
		defer f.Close()
		img, err := vision.Decode(f, vision.DecodeOptions{})
		if err != nil {
			return result{err: fmt.Errorf("%s: %w", s.path, err)}
		}
		probs, err := classifiers[worker].Classify(ctx, img)
		if err != nil {
			return result{err: fmt.Errorf("%s: %w", s.path, err)}
		}
		rank := 0
		for class, p := range probs {
			if p > probs[s.class] || p == probs[s.class] && class < s.class {
				rank++
			}
		}
		return result{rank: rank}
	}
	b := progress(stderr, len(samples), "evaluating")
	var top1, top5, failed int
	start := time.Now()
	err = ordered(ctx, len(samples), side, one, func(_ int, r result) {
		b.around(func() {
			switch {
			case r.err != nil:
				failed++
				fmt.Fprintf(stderr, "mila: %v\n", r.err)
			default:
				if r.rank == 0 {
					top1++
				}
				if r.rank < 5 {
					top5++
				}
			}
		})
	})
	b.finish()
	if err != nil {
		return err
	}
	n := len(samples) - failed
	if n == 0 {
		return errReported
	}
	speed := float64(len(samples)) / time.Since(start).Seconds()
	frac := func(k int) float64 { return float64(k) / float64(n) }
	if c.Bool("json") {
		err = json.NewEncoder(stdout).Encode(map[string]any{"top1": frac(top1), "top5": frac(top5), "images": n, "images_per_s": speed})
	} else {
		_, err = fmt.Fprintf(stdout, "top-1 %.2f %%, top-5 %.2f %% of %d images, %.1f images/s\n", 100*frac(top1), 100*frac(top5), n, speed)
	}
	if err == nil && failed > 0 {
		fmt.Fprintf(stderr, "mila: %d images failed and are not counted\n", failed)
		err = errReported
	}
	return err
}
