package main

import (
	"bytes"
	"fmt"
	"image/color"
	"math"
	"os"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
)

var (
	grey   = color.Gray{0xdd}
	blue   = color.RGBA{0x00, 0x72, 0xb2, 0xff}
	orange = color.RGBA{0xd5, 0x5e, 0x00, 0xff}
)

func newPlot(title, x, y string) *plot.Plot {
	plot.DefaultFont = font.Font{Typeface: "Liberation", Variant: "Sans"}
	plotter.DefaultFont = plot.DefaultFont
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = title, x, y
	p.Title.Padding = 6
	for _, a := range []*plot.Axis{&p.X, &p.Y} {
		a.LineStyle.Width, a.Tick.LineStyle.Width = 0, 0
	}
	return p
}

// write draws the figures from top to bottom, each with its share of the height, as a
// PNG file.
func write(path string, width, height vg.Length, dpi int, shares []float64, plots ...*plot.Plot) error {
	img := vgimg.NewWith(vgimg.UseWH(width, height), vgimg.UseDPI(dpi))
	const margin = 6
	whole := draw.Crop(draw.New(img), margin, -margin, margin, -margin)
	left := whole.Max.Y - whole.Min.Y
	from := left
	for i, p := range plots {
		part := left * vg.Length(shares[i])
		p.Draw(draw.Crop(whole, 0, 0, from-part, from-left))
		from -= part
	}
	var b bytes.Buffer
	if _, err := (vgimg.PngCanvas{Canvas: img}).WriteTo(&b); err != nil {
		return err
	}
	return os.WriteFile(path, b.Bytes(), 0o666)
}

// percent marks an axis from 0 to 1.
func percent(axis *plot.Axis) {
	var ticks plot.ConstantTicks
	for x := range 6 {
		ticks = append(ticks, plot.Tick{Value: float64(x) / 5, Label: fmt.Sprintf("%d %%", 20*x)})
	}
	axis.Tick.Marker, axis.Min, axis.Max = ticks, 0, 1
}

// boxes draws filled rectangles.
type boxes []box

type box struct {
	x0, x1, y0, y1 float64
	fill           color.Color
}

func (b boxes) Plot(c draw.Canvas, p *plot.Plot) {
	x, y := p.Transforms(&c)
	for _, r := range b {
		c.FillPolygon(r.fill, []vg.Point{{X: x(r.x0), Y: y(r.y0)}, {X: x(r.x1), Y: y(r.y0)}, {X: x(r.x1), Y: y(r.y1)}, {X: x(r.x0), Y: y(r.y1)}})
	}
}

// calibrationPlot draws how often answers are right by their probability, and how many
// there are of each.
func calibrationPlot(d *details, path string) error {
	p := newPlot(fmt.Sprintf("Calibration of %s: expected calibration error %.3f", d.Model, d.Calibration.ECE), "", "answers that are right")
	g := plotter.NewGrid()
	g.Horizontal.Color, g.Vertical.Color = grey, grey
	diagonal, err := plotter.NewLine(plotter.XYs{{X: 0, Y: 0}, {X: 1, Y: 1}})
	if err != nil {
		return err
	}
	diagonal.Dashes = []vg.Length{3, 2}
	var bars, counts boxes
	var points plotter.XYs
	most := 0.0
	for _, b := range d.Calibration.Bins {
		share := float64(b.Images) / float64(d.Images)
		counts = append(counts, box{b.Low + 0.003, b.High - 0.003, 0, share, blue})
		most = max(most, share)
		if b.Images == 0 {
			continue
		}
		bars = append(bars, box{b.Low + 0.003, b.High - 0.003, 0, b.Accuracy, color.RGBA{0x9c, 0xc6, 0xe0, 0xff}})
		points = append(points, plotter.XY{X: b.Confidence, Y: b.Accuracy})
	}
	dots, err := plotter.NewScatter(points)
	if err != nil {
		return err
	}
	dots.GlyphStyle = draw.GlyphStyle{Color: orange, Radius: 3.5, Shape: draw.CircleGlyph{}}
	p.Add(bars, g, diagonal, dots)
	p.Legend.Add("right answers", dots)
	p.Legend.Add("as it should be", diagonal)
	p.Legend.Top, p.Legend.Left, p.Legend.XOffs, p.Legend.YOffs, p.Legend.Padding = true, true, 8, -4, 3
	percent(&p.X)
	percent(&p.Y)
	q := newPlot("", "probability of the most probable class", "images")
	q.Add(counts)
	percent(&q.X)
	q.Y.Min, q.Y.Max = 0, most*1.05
	q.Y.Tick.Marker = plot.ConstantTicks{{Value: 0, Label: "0 %"}, {Value: most, Label: fmt.Sprintf("%.0f %%", 100*most)}}
	// The axes of both have labels as wide.
	p.Y.Padding, q.Y.Padding = 0, 7
	return write(path, 13*vg.Centimeter, 13*vg.Centimeter, 144, []float64{0.77, 0.23}, p, q)
}

// confusionPlot draws the confusion matrix: a row for each true class.
func confusionPlot(d *details, path string) error {
	order := d.order()
	n := len(order)
	place := make([]int, n)
	labels := make([]string, n)
	for i, class := range order {
		place[class] = i
		labels[n-1-i] = d.Classes[class].Label
	}
	var cells boxes
	for _, c := range d.Confusion {
		x, y := float64(place[c[1]]), float64(n-1-place[c[0]])
		fill := shade(d.Classes[c[0]].share(c[2]))
		cells = append(cells, box{x - 0.5, x + 0.5, y - 0.5, y + 0.5, fill})
	}
	p := newPlot(fmt.Sprintf("What %s takes images of each class (rows) for (columns, in the same order)", d.Model), "", "")
	p.Title.TextStyle.Font.Size = 14
	var lines boxes
	for i := 0; i < n; i += 10 {
		at := float64(i) - 0.5
		lines = append(lines, box{at - 0.03, at + 0.03, -0.5, float64(n) - 0.5, grey}, box{-0.5, float64(n) - 0.5, float64(n-1) - at - 0.03, float64(n-1) - at + 0.03, grey})
	}
	p.Add(lines, cells)
	p.NominalY(labels...)
	p.Y.Tick.Label.Font.Size = 4.3
	p.Y.Tick.LineStyle.Width, p.Y.LineStyle.Width = 0, 0
	p.X.Tick.Marker = plot.ConstantTicks{}
	p.X.Min, p.X.Max, p.Y.Min, p.Y.Max = -0.5, float64(n)-0.5, -0.5, float64(n)-0.5
	for _, share := range []float64{0.04, 0.1, 0.2, 0.4, 0.7, 1} {
		p.Legend.Add(fmt.Sprintf("%.0f %% of the class", 100*share), swatch{shade(share)})
	}
	p.Legend.Top = true
	p.Legend.TextStyle.Font.Size, p.Legend.Padding = 10, 2
	p.Legend.XOffs, p.Legend.YOffs = -8, -8
	return write(path, 900, 880, 144, []float64{1}, p)
}

// shade goes from light blue over dark blue to black. Small shares, of which there are
// many, have most of the scale.
func shade(share float64) color.Color {
	t := math.Sqrt(share)
	mix := func(light, dark float64) uint8 { return uint8(light + (dark-light)*t + 0.5) }
	return color.RGBA{mix(205, 0), mix(225, 10), mix(245, 60), 255}
}

// swatch is the sign of a colour in the legend.
type swatch struct{ fill color.Color }

func (s swatch) Thumbnail(c *draw.Canvas) {
	c.FillPolygon(s.fill, []vg.Point{c.Min, {X: c.Max.X, Y: c.Min.Y}, c.Max, {X: c.Min.X, Y: c.Max.Y}})
}
