// Command plot draws what it finds in DIR: peers.json, of bench/peers, as
// peers-models.png and peers-kernels.png, and paper.json, of bench/paper, as
// paper-speed.png and paper-tables.png. It is a module of its own, so that MILA for Go
// does not depend on what it needs.
//
//	go run . DIR
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"image/color"
	"io/fs"
	"math"
	"os"
	"path/filepath"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
)

var grid = rgb(0xdddddd)

func rgb(x uint32) color.RGBA { return color.RGBA{uint8(x >> 16), uint8(x >> 8), uint8(x), 255} }

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: plot DIR")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "plot:", err)
		os.Exit(1)
	}
}

func run(dir string) error {
	drawn := 0
	for name, r := range map[string]interface{ draw(dir string) error }{"peers.json": &peersResults{}, "paper.json": &paperResults{}} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = json.Unmarshal(data, r)
		}
		if err == nil {
			err = r.draw(dir)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		drawn++
	}
	if drawn == 0 {
		return fmt.Errorf("%s has neither peers.json nor paper.json", dir)
	}
	return nil
}

func newPlot(title string) *plot.Plot {
	plot.DefaultFont = font.Font{Typeface: "Liberation", Variant: "Sans"}
	plotter.DefaultFont = plot.DefaultFont
	p := plot.New()
	p.Title.Text = title
	p.Title.TextStyle.Font.Size = 13
	p.Title.Padding = 8
	for _, a := range []*plot.Axis{&p.X, &p.Y} {
		a.Label.TextStyle.Font.Size = 11
		a.Tick.Label.Font.Size = 11
		a.LineStyle.Width = 0
		a.Tick.LineStyle.Width = 0
	}
	p.Legend.TextStyle.Font.Size = 11
	p.Legend.ThumbnailWidth = 14
	p.Legend.Padding = 3
	return p
}

// majorTicks are the multiples of 1, 2 or 5 times a power of ten, four to ten of them.
var majorTicks = plot.TickerFunc(func(low, high float64) (ticks []plot.Tick) {
	step := math.Pow(10, math.Floor(math.Log10((high-low)/4)))
	for _, f := range []float64{5, 2} {
		if (high-low)/(f*step) >= 4 {
			step *= f
			break
		}
	}
	for i := math.Ceil(low / step); i*step <= high; i++ {
		ticks = append(ticks, plot.Tick{Value: i * step, Label: fmt.Sprint(i * step)})
	}
	return ticks
})

// rects draws filled rectangles that stand on 0.
type rects struct {
	rects []rect
	color color.Color
}

type rect struct{ left, right, top float64 }

func (r *rects) Plot(c draw.Canvas, p *plot.Plot) {
	x, y := p.Transforms(&c)
	for _, b := range r.rects {
		c.FillPolygon(r.color, []vg.Point{{X: x(b.left), Y: y(0)}, {X: x(b.right), Y: y(0)}, {X: x(b.right), Y: y(b.top)}, {X: x(b.left), Y: y(b.top)}})
	}
}

func (r *rects) DataRange() (xmin, xmax, ymin, ymax float64) {
	xmin, xmax = math.Inf(1), math.Inf(-1)
	for _, b := range r.rects {
		xmin, xmax, ymax = min(xmin, b.left), max(xmax, b.right), max(ymax, b.top)
	}
	return xmin, xmax, 0, ymax
}

func (r *rects) Thumbnail(c *draw.Canvas) {
	c.FillPolygon(r.color, []vg.Point{c.Min, {X: c.Max.X, Y: c.Min.Y}, c.Max, {X: c.Min.X, Y: c.Max.Y}})
}

// save draws plots side by side, with a margin.
func save(width, height vg.Length, path string, plots ...*plot.Plot) error {
	img := vgimg.NewWith(vgimg.UseWH(width*vg.Centimeter, height*vg.Centimeter), vgimg.UseDPI(144))
	const margin = 8
	for i, p := range plots {
		part := width * vg.Centimeter / vg.Length(len(plots))
		p.Draw(draw.Crop(draw.New(img), part*vg.Length(i)+margin, part*vg.Length(i+1)-width*vg.Centimeter-margin, margin, -margin))
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if _, err := (vgimg.PngCanvas{Canvas: img}).WriteTo(f); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
