package main

import (
	"fmt"
	"image/color"
	"path/filepath"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// paperResults is what the figures need of paper.json.
type paperResults struct {
	CPU, Level, Date       string
	Threads                int
	Figure, Table1, Table2 []paperRow
}

type paperRow struct {
	Label, Group string
	Top1, GPU    float64
	MS           []float64
}

func (r paperRow) ms() float64 {
	x := slices.Sorted(slices.Values(r.MS))
	return (x[(len(x)-1)/2] + x[len(x)/2]) / 2
}

var groups = map[string]color.Color{"MILA": rgb(0xd55e00), "VMamba": rgb(0x0072b2), "LocalVMamba": rgb(0x56b4e9),
	"PlainMamba": rgb(0x009e73), "EfficientVMamba": rgb(0xcc79a7), "Vim": rgb(0x777777)}

// draw draws paper-speed.png and paper-tables.png.
func (r *paperResults) draw(dir string) error {
	gpu, err := r.speed("The paper's figure: RTX 3090", "milliseconds an image, read off", func(w paperRow) float64 { return w.GPU })
	if err != nil {
		return err
	}
	cpu, err := r.speed(fmt.Sprintf("The same models here: %s, %s", r.CPU, plural(r.Threads, "thread")), "milliseconds, one image of 224 x 224", paperRow.ms)
	if err != nil {
		return err
	}
	if err := save(30, 13, filepath.Join(dir, "paper-speed.png"), gpu, cpu); err != nil {
		return err
	}
	tables, err := r.tables()
	if err != nil {
		return err
	}
	return save(26, 11, filepath.Join(dir, "paper-tables.png"), tables)
}

// speed draws accuracy over time, a line for each family of models.
func (r *paperResults) speed(title, axis string, ms func(paperRow) float64) (*plot.Plot, error) {
	p := newPlot(title)
	p.X.Label.Text, p.Y.Label.Text = axis, "top-1 on ImageNet as published, percent"
	g := plotter.NewGrid()
	g.Vertical.Color, g.Horizontal.Color = grid, grid
	p.Add(g)
	p.X.Min, p.Y.Min, p.Y.Max = 0, 77.5, 85.7
	p.X.Tick.Marker, p.Y.Tick.Marker = majorTicks, majorTicks
	var names plotter.XYLabels
	var families []string
	most := 0.0
	for at := 0; at < len(r.Figure); {
		group := r.Figure[at].Group
		var xys plotter.XYs
		for ; at < len(r.Figure) && r.Figure[at].Group == group; at++ {
			w := r.Figure[at]
			if x := ms(w); x > 0 {
				xys = append(xys, plotter.XY{X: x, Y: w.Top1})
				names.XYs, names.Labels = append(names.XYs, plotter.XY{X: x, Y: w.Top1}), append(names.Labels, w.Label)
				families = append(families, group)
				most = max(most, x)
			}
		}
		if xys == nil {
			continue
		}
		line, points, err := plotter.NewLinePoints(xys)
		if err != nil {
			return nil, err
		}
		line.Color, line.Width = groups[group], 1.5
		points.GlyphStyle = draw.GlyphStyle{Color: groups[group], Radius: 4, Shape: draw.CircleGlyph{}}
		p.Add(line, points)
	}
	labels, err := plotter.NewLabels(names)
	if err != nil {
		return nil, err
	}
	for i := range labels.TextStyle {
		s := &labels.TextStyle[i]
		s.Font.Size, s.YAlign = 9, draw.YTop
		switch families[i] { // out of each other's way
		case "MILA":
			s.XAlign, s.YAlign = draw.XRight-0.3, draw.YBottom+0.4
		case "VMamba":
			s.YAlign = draw.YTop + 0.2
		case "EfficientVMamba":
			s.YAlign = draw.YTop - 0.7
		case "LocalVMamba":
			s.XAlign, s.YAlign = 0.18, draw.YTop-0.1
		}
	}
	labels.Offset = vg.Point{X: 4, Y: -3}
	p.Add(labels)
	p.X.Max = most * 1.25 // for the last name
	return p, nil
}

// tables draws, for each row of tables 1 and 2, the throughput in relation to the
// baseline's, there and here.
func (r *paperResults) tables() (*plot.Plot, error) {
	p := newPlot(fmt.Sprintf("Throughput of the tables 1 and 2, percent of the baseline's\nhere: %s, %s, %s, one image; the paper: RTX 3090", r.CPU, plural(r.Threads, "thread"), r.Level))
	h := plotter.NewGrid()
	h.Vertical.Width, h.Horizontal.Color = 0, grid
	p.Add(h)
	base := r.Table1[0]
	var names []string
	var numbers plotter.XYLabels
	rows := slices.Concat(r.Table1, r.Table2)
	for j, side := range []struct {
		label string
		color color.Color
		share func(paperRow) float64
	}{{"paper, GPU", rgb(0xa8c4d6), func(w paperRow) float64 { return w.GPU / base.GPU }}, {"here, CPU", rgb(0xd55e00), func(w paperRow) float64 { return base.ms() / w.ms() }}} {
		bars := &rects{color: side.color}
		for i, w := range rows {
			left, share := float64(i)-0.4+0.4*float64(j), 100*side.share(w)
			bars.rects = append(bars.rects, rect{left + 0.01, left + 0.39, share})
			numbers.XYs, numbers.Labels = append(numbers.XYs, plotter.XY{X: left + 0.2, Y: share}), append(numbers.Labels, fmt.Sprintf("%.0f", share))
		}
		p.Add(bars)
		p.Legend.Add(side.label, bars)
	}
	for _, w := range rows {
		names = append(names, w.Label)
	}
	labels, err := plotter.NewLabels(numbers)
	if err != nil {
		return nil, err
	}
	for i := range labels.TextStyle {
		s := &labels.TextStyle[i]
		s.Font.Size, s.XAlign, s.YAlign = 9, draw.XCenter, draw.YBottom
	}
	labels.Offset.Y = 1.5
	p.Add(labels)
	p.NominalX(names...)
	p.X.Tick.LineStyle.Width, p.X.LineStyle.Width = 0, 0
	p.X.Tick.Label.Rotation, p.X.Tick.Label.XAlign, p.X.Tick.Label.YAlign = 0.5, draw.XRight, draw.YTop
	p.Y.Min, p.Y.Max = 0, p.Y.Max*1.12
	p.Y.Tick.Marker = majorTicks
	p.Legend.Top = true
	return p, nil
}
