package main

import (
	"fmt"
	"image/color"
	"path/filepath"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// peersResults is what the figures need of peers.json.
type peersResults struct {
	Date       string
	CPU        string
	Cores      int
	Level      string
	PeakGFLOPS map[int]float64 `json:"peak_gflops"`
	Rows       []row
}

type row struct {
	Item    string
	Threads int
	GFLOP   float64
	MS      map[string][]float64
}

func (r row) ms(contender string) float64 {
	x := slices.Sorted(slices.Values(r.MS[contender]))
	return (x[(len(x)-1)/2] + x[len(x)/2]) / 2
}

type contender struct {
	name, label string
	color       color.Color
}

// contenders in the order of drawing, with colours that colour-blind readers tell apart.
var contenders = []contender{
	{"mila", "MILA for Go", rgb(0xd55e00)},
	{"onnxruntime", "ONNX Runtime", rgb(0x0072b2)},
	{"pytorch traced", "PyTorch, traced", rgb(0x56b4e9)},
	{"pytorch eager", "PyTorch, eager", rgb(0xa8c4d6)},
	{"openblas", "OpenBLAS", rgb(0x009e73)},
	{"mila sgemm", "MILA for Go, Sgemm", rgb(0xe8a37c)},
	{"gonum", "gonum", rgb(0xcc79a7)},
	{"mila generic", "MILA for Go, no assembly", rgb(0x999999)},
}

// draw draws peers-models.png and peers-kernels.png.
func (r *peersResults) draw(dir string) error {
	var models, kernels []row
	for _, w := range r.Rows {
		if strings.HasPrefix(w.Item, "model/") {
			models = append(models, w)
		} else {
			kernels = append(kernels, w)
		}
	}
	p, err := r.models(models)
	if err != nil {
		return err
	}
	if err := save(26, 11, filepath.Join(dir, "peers-models.png"), p); err != nil {
		return err
	}
	if p, err = r.kernels(kernels); err != nil {
		return err
	}
	return save(26, 17, filepath.Join(dir, "peers-kernels.png"), p)
}

func (r *peersResults) newPlot(title string) *plot.Plot {
	return newPlot(fmt.Sprintf("%s\n%s, %d cores, %s, %s", title, r.CPU, r.Cores, r.Level, r.Date))
}

// models draws a group of bars for each model and number of threads, and in it
// the time that the arithmetic alone would take at the machine's peak.
func (r *peersResults) models(rows []row) (*plot.Plot, error) {
	p := r.newPlot("One image of 224 x 224, fp32: milliseconds, less is better")
	p.Y.Min = 0
	h := plotter.NewGrid()
	h.Vertical.Width = 0
	h.Horizontal.Color = grid
	p.Add(h)

	present := slices.DeleteFunc(slices.Clone(contenders), func(c contender) bool {
		return !slices.ContainsFunc(rows, func(w row) bool { return len(w.MS[c.name]) > 0 })
	})
	const group = 0.84 // of the distance between groups
	width := group / float64(len(present))
	left := func(i, j int) float64 { return float64(i) - group/2 + width*float64(j) }
	var numbers plotter.XYLabels
	for j, c := range present {
		bars := &rects{color: c.color}
		for i, w := range rows {
			if len(w.MS[c.name]) == 0 {
				continue
			}
			ms := w.ms(c.name)
			bars.rects = append(bars.rects, rect{left(i, j) + width*0.04, left(i, j) + width*0.96, ms})
			numbers.XYs = append(numbers.XYs, plotter.XY{X: left(i, j) + width/2, Y: ms})
			numbers.Labels = append(numbers.Labels, fmt.Sprintf("%.0f", ms))
		}
		p.Add(bars)
		p.Legend.Add(c.label, bars)
	}
	var floor *plotter.Line
	var names []string
	for i, w := range rows {
		ms := w.GFLOP / r.PeakGFLOPS[w.Threads] * 1e3
		line, err := plotter.NewLine(plotter.XYs{{X: left(i, 0), Y: ms}, {X: left(i, len(present)), Y: ms}})
		if err != nil {
			return nil, err
		}
		line.Width, line.Dashes = 1, []vg.Length{3, 2}
		p.Add(line)
		floor = line
		names = append(names, fmt.Sprintf("MILA-%s\n%s", strings.ToUpper(strings.TrimPrefix(w.Item, "model/")), plural(w.Threads, "thread")))
	}
	if floor != nil {
		p.Legend.Add("all multiply-adds at the measured peak", floor)
	}
	labels, err := plotter.NewLabels(numbers)
	if err != nil {
		return nil, err
	}
	for i := range labels.TextStyle {
		s := &labels.TextStyle[i]
		s.Font.Size, s.XAlign, s.YAlign = 8, draw.XCenter, draw.YBottom
	}
	labels.Offset.Y = 1.5
	p.Add(labels)
	p.NominalX(names...)
	p.X.Tick.LineStyle.Width, p.X.LineStyle.Width = 0, 0
	p.Y.Max *= 1.05
	p.Y.Tick.Marker = majorTicks
	p.Legend.Top, p.Legend.Left = true, true
	p.Legend.XOffs = 10
	return p, nil
}

// kernels draws a line for each piece of work with a point for each contender, at
// its share of the peak.
func (r *peersResults) kernels(rows []row) (*plot.Plot, error) {
	p := r.newPlot("The parts of MILA-T on one thread: share of the multiply-add peak in percent, more is better")
	v := plotter.NewGrid()
	v.Vertical.Color, v.Horizontal.Color = grid, grid
	p.Add(v)
	slices.Reverse(rows) // the first on top
	var names []string
	for _, w := range rows {
		kind, rest, _ := strings.Cut(w.Item, "/")
		names = append(names, map[string]string{"gemm": "linear layer ", "dwconv": "depthwise 3x3 ", "linattn": "linear attention "}[kind]+strings.ReplaceAll(rest, "/", ", "))
	}
	points := make([]*plotter.Scatter, len(contenders))
	for j, c := range contenders {
		var xys plotter.XYs
		for i, w := range rows {
			if len(w.MS[c.name]) > 0 {
				xys = append(xys, plotter.XY{X: 100 * w.GFLOP / (w.ms(c.name) * 1e-3) / r.PeakGFLOPS[w.Threads], Y: float64(i)})
			}
		}
		if len(xys) == 0 {
			continue
		}
		s, err := plotter.NewScatter(xys)
		if err != nil {
			return nil, err
		}
		s.GlyphStyle = draw.GlyphStyle{Color: c.color, Radius: 4.5, Shape: draw.CircleGlyph{}}
		points[j] = s
		p.Legend.Add(c.label, s)
	}
	for _, s := range slices.Backward(points) { // ours over the others
		if s != nil {
			p.Add(s)
		}
	}
	p.NominalY(names...)
	p.Y.Tick.LineStyle.Width, p.Y.LineStyle.Width = 0, 0
	p.Y.Min, p.Y.Max = -0.7, float64(len(rows))-0.3
	var ticks plot.ConstantTicks
	for x := 0.0; x <= 100; x += 10 {
		ticks = append(ticks, plot.Tick{Value: x, Label: fmt.Sprint(x)})
	}
	p.X.Tick.Marker = ticks
	p.X.Min, p.X.Max = 0, 128 // the legend stands beside
	p.Legend.Top = true
	return p, nil
}

func plural(n int, noun string) string {
	if n > 1 {
		noun += "s"
	}
	return fmt.Sprint(n, " ", noun)
}
