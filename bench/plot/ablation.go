package main

import (
	"errors"
	"fmt"
	"math"
	"path/filepath"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// ablationResults is what the figures need of ablation.json.
type ablationResults struct {
	Date, CPU, Level string
	Rows             []struct {
		Name  string
		Seeds []struct{ Top1 float64 }
		US    []float64
	}
	Gates []struct {
		Name           string
		Mean, P10, P90 float64
	}
}

// draw draws ablation-speed.png and ablation-gates.png.
func (r *ablationResults) draw(dir string) error {
	p, err := r.speed()
	if err == nil {
		err = save(24, 15, filepath.Join(dir, "ablation-speed.png"), p)
	}
	if err == nil {
		p, err = r.gates()
	}
	if err == nil {
		err = save(20, 10, filepath.Join(dir, "ablation-gates.png"), p)
	}
	return err
}

// speed draws the mean over seeds of each row, and each seed. A row far below the
// others stands at the lower edge, with its accuracy in its name.
func (r *ablationResults) speed() (*plot.Plot, error) {
	p := newPlot(fmt.Sprintf("Top-1 on Tiny ImageNet against speed: the mean of each row's seeds, and each seed\n%s, one thread, %s, %s", r.CPU, r.Level, r.Date))
	p.X.Label.Text, p.Y.Label.Text = "images/s", "top-1 in per cent"
	p.X.Tick.Marker, p.Y.Tick.Marker = majorTicks, majorTicks
	g := plotter.NewGrid()
	g.Vertical.Color, g.Horizontal.Color = grid, grid
	p.Add(g)
	var all []float64
	for _, w := range r.Rows {
		for _, s := range w.Seeds {
			all = append(all, 100*s.Top1)
		}
	}
	if len(all) == 0 {
		return nil, errors.New("no accuracies")
	}
	low := 100.0
	for _, y := range all {
		if y > median(all)/2 {
			low = min(low, y)
		}
	}
	low = math.Floor(low) - 2
	var seeds plotter.XYs
	var labels plotter.XYLabels
	for _, w := range r.Rows {
		if len(w.Seeds) == 0 {
			continue
		}
		at, mean, name := 1e6/median(w.US), 0.0, w.Name
		for _, s := range w.Seeds {
			mean += 100 * s.Top1 / float64(len(w.Seeds))
			if y := 100 * s.Top1; y > low {
				seeds = append(seeds, plotter.XY{X: at, Y: y})
			}
		}
		if mean < low {
			name = fmt.Sprintf("%s: %.1f", name, mean)
		}
		labels.XYs = append(labels.XYs, plotter.XY{X: at, Y: max(low, mean)})
		labels.Labels = append(labels.Labels, name)
	}
	for _, points := range []struct {
		xys    plotter.XYs
		color  uint32
		radius vg.Length
	}{{labels.XYs, 0xd55e00, 4.5}, {seeds, 0x56b4e9, 2}} {
		s, err := plotter.NewScatter(points.xys)
		if err != nil {
			return nil, err
		}
		s.GlyphStyle = draw.GlyphStyle{Color: rgb(points.color), Radius: points.radius, Shape: draw.CircleGlyph{}}
		p.Add(s)
	}
	names, err := plotter.NewLabels(labels)
	if err != nil {
		return nil, err
	}
	for i := range names.TextStyle {
		s := &names.TextStyle[i]
		s.Font.Size, s.XAlign, s.YAlign = 10, draw.XCenter, draw.YBottom
	}
	names.Offset.Y = 6
	p.Add(names)
	p.X.Min, p.X.Max = math.Floor(p.X.Min/100)*100, math.Ceil(p.X.Max/100)*100
	p.Y.Min, p.Y.Max = low, p.Y.Max+1
	return p, nil
}

// gates draws the mean forget gate of each layer and its deciles over channels.
func (r *ablationResults) gates() (*plot.Plot, error) {
	p := newPlot("The average forget gate of each layer, and the deciles over channels and key channels")
	p.Y.Label.Text = "exp(Δ A)"
	p.Y.Min, p.Y.Max = 0, 1
	p.Y.Tick.Marker = majorTicks
	g := plotter.NewGrid()
	g.Vertical.Width = 0
	g.Horizontal.Color = grid
	p.Add(g)
	var means plotter.XYs
	var names []string
	for i, l := range r.Gates {
		x := float64(i)
		line, err := plotter.NewLine(plotter.XYs{{X: x, Y: l.P10}, {X: x, Y: l.P90}})
		if err != nil {
			return nil, err
		}
		line.Color, line.Width = rgb(0x56b4e9), 3
		p.Add(line)
		means = append(means, plotter.XY{X: x, Y: l.Mean})
		var stage, block int
		fmt.Sscanf(l.Name, "layers.%d.blocks.%d", &stage, &block)
		names = append(names, fmt.Sprintf("stage %d\nblock %d", stage+1, block+1))
	}
	s, err := plotter.NewScatter(means)
	if err != nil {
		return nil, err
	}
	s.GlyphStyle = draw.GlyphStyle{Color: rgb(0xd55e00), Radius: 5, Shape: draw.CircleGlyph{}}
	p.Add(s)
	p.NominalX(names...)
	p.X.Tick.LineStyle.Width, p.X.LineStyle.Width = 0, 0
	p.X.Min, p.X.Max = -0.5, float64(len(names))-0.5
	return p, nil
}
