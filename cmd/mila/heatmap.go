package main

import (
	"context"
	"errors"
	"fmt"
	"image/jpeg"
	"image/png"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/mila-go/mila/models"
	"github.com/mila-go/mila/vision"
	"github.com/urfave/cli/v3"
)

func heatmapFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "heatmap", Usage: "draw which places of the image speak for the class to `OUT`: a .png or .jpg file, with several images a folder or a pattern such as 'maps/*.jpg'"},
		&cli.StringFlag{Name: "class", Usage: "the `CLASS` to draw, by label, WordNet id or index, instead of each image's most probable one"},
		&cli.IntFlag{Name: "heatmap-size", Usage: "draw what the model sees of the image at `N` x N pixels: larger is finer, but less like what it was trained on; default its own size, or a multiple that makes 7 x 7 cells"},
	}
}

// heatmaps draws class maps.
type heatmaps struct {
	paths   []string // by image
	mappers []*models.ClassMapper
	class   int // -1: the most probable
}

// newHeatmaps reads the flags; it returns nil if no heat map is asked for.
func newHeatmaps(c *cli.Command, m *models.Loaded, images []string, side int) (*heatmaps, error) {
	out, size := c.String("heatmap"), c.Int("heatmap-size")
	if !c.IsSet("heatmap") {
		if c.IsSet("class") || c.IsSet("heatmap-size") {
			return nil, usagef("--class and --heatmap-size say how to draw a heat map; add --heatmap OUT")
		}
		return nil, nil
	}
	if size < 0 {
		return nil, usagef("--heatmap-size %d: must be at least 1", size)
	}
	h := &heatmaps{class: -1}
	var err error
	if name := c.String("class"); c.IsSet("class") {
		if h.class, err = m.Class(name); err != nil {
			return nil, usageError{fmt.Errorf("--class: %w", err)}
		}
	}
	if h.paths, err = heatmapPaths(out, images); err != nil {
		return nil, err
	}
	for range side {
		mapper, err := m.NewClassMapper(size)
		if err != nil {
			return nil, err
		}
		h.mappers = append(h.mappers, mapper)
	}
	return h, nil
}

var drawn = []string{".png", ".jpg", ".jpeg"}

// heatmapPaths returns where the drawing of each image goes, never twice to the same
// file and never over an image. Folders are made.
func heatmapPaths(out string, images []string) ([]string, error) {
	folder, base := filepath.Split(out)
	ext := strings.ToLower(filepath.Ext(out))
	isFile := slices.Contains(drawn, ext)
	switch {
	case out == "":
		return nil, usagef("--heatmap needs a name to write to")
	case strings.Contains(folder, "*") || strings.Count(base, "*") > 1 || strings.Contains(base, "*") && !isFile:
		return nil, usagef("--heatmap %s: a pattern has one *, in the name of a .png or .jpg file", out)
	case strings.Contains(base, "*"):
	case isFile:
		if len(images) > 1 {
			return nil, usagef("--heatmap %s is one file and there are %d images; give a folder, or a pattern such as '%s'", out, len(images), folder+"*"+ext)
		}
	default:
		folder, base = out, "*.png"
	}
	if folder != "" {
		if err := os.MkdirAll(folder, 0o777); err != nil {
			return nil, fmt.Errorf("--heatmap: %w", err)
		}
	}
	taken := map[string]bool{}
	paths := make([]string, len(images))
	for i, name := range images {
		stem := "stdin"
		if name != "-" {
			stem = strings.TrimSuffix(filepath.Base(name), filepath.Ext(name))
		}
		for n := 1; paths[i] == "" || taken[paths[i]]; n++ {
			s := stem
			if n > 1 {
				s += "-" + strconv.Itoa(n)
			}
			paths[i] = filepath.Join(folder, strings.Replace(base, "*", s, 1))
		}
		taken[paths[i]] = true
	}
	for _, p := range paths {
		target, err := os.Stat(p)
		if err != nil {
			continue
		}
		for _, name := range images {
			if source, err := os.Stat(name); err == nil && os.SameFile(source, target) {
				return nil, usagef("--heatmap %s would overwrite the image %s", out, name)
			}
		}
	}
	return paths, nil
}

// draw draws the map of image i, whose most probable classes are top.
func (h *heatmaps) draw(ctx context.Context, worker, i int, img *vision.RGB, probs []float32, labels []string) error {
	ranking := vision.TopK(probs, labels, len(probs))
	shown := ranking[max(0, slices.IndexFunc(ranking, func(p vision.Prediction) bool { return p.Index == h.class }))]
	m, err := h.mappers[worker].Map(ctx, img, shown.Index)
	if err != nil {
		return err
	}
	m.Title = fmt.Sprintf("%s, %.1f %% (map at %d x %d pixels)", shown.Label, 100*shown.Prob, m.View.Crop, m.View.Crop)
	m.Unit = "logits above the average class"
	drawing, err := m.Draw()
	if err != nil {
		return err
	}
	path := h.paths[i]
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if strings.EqualFold(filepath.Ext(path), ".png") {
		err = png.Encode(f, drawing)
	} else {
		err = jpeg.Encode(f, drawing, &jpeg.Options{Quality: 85})
	}
	if err = errors.Join(err, f.Close()); err != nil {
		os.Remove(path)
	}
	return err
}
