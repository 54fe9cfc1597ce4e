package vision

import (
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"math"

	"golang.org/x/image/font"
	"golang.org/x/image/font/gofont/goregular"
	"golang.org/x/image/font/opentype"
	"golang.org/x/image/math/fixed"
)

// Heatmap is a grid of values over the part of a photo that a model saw.
type Heatmap struct {
	Photo      *RGB
	View       Preprocess // the transform whose crop the grid covers evenly
	Values     []float32  // Rows * Cols, in rows from the top
	Rows, Cols int
	Title      string // of the legend, for instance the class
	Unit       string // of the values
}

// Photos are drawn so that their long side is within these, and the legend has room.
const minSide, maxSide, legendWidth = 512, 1024, 400

// Draw draws the values over the photo, with a legend below. The photo is grey,
// since colour is the scale: from none at 0 and below over violet and red to yellow
// at the largest value; between the centres of the grid's cells values are
// interpolated by cubic convolution. What the model did not see, outside the centre
// crop, is darkened.
func (h Heatmap) Draw() (*image.NRGBA, error) {
	if h.Rows < 1 || h.Cols < 1 || len(h.Values) != h.Rows*h.Cols {
		return nil, fmt.Errorf("vision: a heat map of %d x %d with %d values", h.Rows, h.Cols, len(h.Values))
	}
	for _, v := range h.Values {
		if f := float64(v); math.IsNaN(f) || math.IsInf(f, 0) {
			return nil, fmt.Errorf("vision: a value of the heat map is %v", v)
		}
	}
	region, err := h.View.Region(h.Photo)
	if err != nil {
		return nil, err
	}
	long := max(h.Photo.W, h.Photo.H)
	scale := float64(min(max(long, minSide), maxSide)) / float64(long)
	w, ht := max(1, int(math.Round(float64(h.Photo.W)*scale))), max(1, int(math.Round(float64(h.Photo.H)*scale)))
	photo := h.Photo
	if w != photo.W || ht != photo.H {
		if photo, err = Resize(photo, w, ht); err != nil {
			return nil, err
		}
	}
	sx, sy := float64(w)/float64(h.Photo.W), float64(ht)/float64(h.Photo.H)
	x0, x1, y0, y1 := region.X0*sx, region.X1*sx, region.Y0*sy, region.Y1*sy

	legend := newLegend(max(w, legendWidth))
	out := image.NewNRGBA(image.Rect(0, 0, legend.width, ht+legend.height))
	draw.Draw(out, out.Rect, image.White, image.Point{}, draw.Src)
	left := (legend.width - w) / 2
	most := float32(0)
	for _, v := range h.Values {
		most = max(most, v)
	}
	columns, rows := cells(w, x0, x1, h.Cols), cells(ht, y0, y1, h.Rows)
	row := make([]float64, h.Cols) // of values, as shares of the largest
	for y, cy := range rows {
		clear(row)
		for i, weight := range cy.weight {
			for c, v := range h.Values[cy.at[i]*h.Cols : (cy.at[i]+1)*h.Cols] {
				if most > 0 {
					row[c] += weight * float64(v/most)
				}
			}
		}
		for x, cx := range columns {
			px := photo.Pix[3*(y*w+x):][:3]
			grey := (0.299*float64(px[0]) + 0.587*float64(px[1]) + 0.114*float64(px[2])) / 255
			at := out.Pix[out.PixOffset(left+x, y):][:4]
			if !cx.inside || !cy.inside {
				for c := range 3 {
					at[c] = uint8(255*grey*0.3 + 0.5)
				}
				continue
			}
			var heat float64
			for i, weight := range cx.weight {
				heat += weight * row[cx.at[i]]
			}
			heat = min(max(heat, 0), 1)
			for c, tint := range heatColor(heat) {
				at[c] = uint8(255*blend(grey, tint, heat) + 0.5)
			}
		}
	}
	legend.draw(out, ht, h.Title, h.Unit, most)
	return out, nil
}

// blend colours a grey pixel. Its own brightness stays visible in what is hot, and
// the colour in what is dark.
func blend(grey, tint, heat float64) float64 {
	alpha := 0.8 * heat * (2 - heat)
	return (1-alpha)*grey + alpha*tint*(0.6+0.4*grey)
}

// heatColor is the scale, from violet to yellow and ever brighter, so that it can be
// read without seeing colours.
func heatColor(v float64) [3]float64 {
	stops := [...][3]float64{{0.15, 0.05, 0.35}, {0.45, 0.08, 0.50}, {0.78, 0.16, 0.35}, {0.95, 0.40, 0.08}, {1, 0.68, 0.05}, {1, 0.95, 0.25}}
	at := v * float64(len(stops)-1)
	i := min(int(at), len(stops)-2)
	f := at - float64(i)
	var out [3]float64
	for c := range out {
		out[c] = stops[i][c]*(1-f) + stops[i+1][c]*f
	}
	return out
}

// cell says which values of a row of cells a pixel is interpolated from.
type cell struct {
	inside bool
	at     [4]int
	weight [4]float64
}

// cells returns those of n pixels, where count cells lie between from and to.
func cells(n int, from, to float64, count int) []cell {
	out := make([]cell, n)
	for p := range out {
		center := float64(p) + 0.5
		if center < from || center >= to {
			continue
		}
		u := (center-from)/(to-from)*float64(count) - 0.5
		first := math.Floor(u)
		c := cell{inside: true}
		for i := range c.at {
			k := int(first) - 1 + i
			c.at[i] = min(max(k, 0), count-1)
			c.weight[i] = filters["bicubic"].weight(u - float64(k))
		}
		out[p] = c
	}
	return out
}

type legend struct {
	width, height, pad int
	size               float64 // of the letters, in pixels
}

func newLegend(width int) legend {
	size := float64(width) / 34
	return legend{width: width, height: int(4 * size), pad: int(size / 2), size: size}
}

// draw draws the legend into img below row top.
func (l legend) draw(img *image.NRGBA, top int, title, unit string, most float32) {
	f, err := opentype.Parse(goregular.TTF)
	if err != nil {
		panic(err) // the font is part of the program
	}
	face, err := opentype.NewFace(f, &opentype.FaceOptions{Size: l.size, DPI: 72, Hinting: font.HintingFull})
	if err != nil {
		panic(err)
	}
	defer face.Close()
	d := font.Drawer{Dst: img, Src: image.Black, Face: face}
	text := func(x int, line float64, s string) int {
		for room := fixed.I(l.width - x); d.MeasureString(s) > room && s != ""; {
			r := []rune(s)
			if s = string(r[:max(0, len(r)-2)]); s != "" {
				s += "…"
			}
		}
		d.Dot = fixed.P(x, top+int(line*l.size))
		d.DrawString(s)
		return d.Dot.X.Ceil()
	}
	text(l.pad, 1.4, title)
	x := text(l.pad, 3.2, "0") + l.pad
	end := x + l.width*3/10
	for at := x; at < end; at++ {
		heat := float64(at-x) / float64(end-x-1)
		var c color.NRGBA
		tint := heatColor(heat)
		for i, to := range []*uint8{&c.R, &c.G, &c.B} {
			*to = uint8(255*blend(0.6, tint[i], heat) + 0.5)
		}
		c.A = 255
		draw.Draw(img, image.Rect(at, top+int(2.3*l.size), at+1, top+int(3.3*l.size)), image.NewUniform(c), image.Point{}, draw.Src)
	}
	text(end+l.pad, 3.2, fmt.Sprintf("%.1f %s", most, unit))
}
