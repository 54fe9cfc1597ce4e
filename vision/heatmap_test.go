package vision_test

import (
	"image"
	"math"
	"strings"
	"testing"

	"github.com/mila-go/mila/vision"
)

// TestRegion takes a photo whose colours tell where they are, and looks where the
// crop's corners come from.
func TestRegion(t *testing.T) {
	for _, size := range [][2]int{{250, 130}, {130, 250}, {200, 200}, {90, 64}, {64, 64}, {70, 97}} {
		img := &vision.RGB{W: size[0], H: size[1], Pix: make([]byte, 3*size[0]*size[1])}
		for y := range img.H {
			for x := range img.W {
				img.Pix[3*(y*img.W+x)], img.Pix[3*(y*img.W+x)+1] = byte(x), byte(y)
			}
		}
		p := vision.ImageNet(64)
		for _, short := range []int{64, 73} {
			p.ResizeShort = short
			crop, err := p.Crop8(img)
			if err != nil {
				t.Fatal(err)
			}
			r, err := p.Region(img)
			if err != nil {
				t.Fatal(err)
			}
			for _, at := range [][2]int{{5, 5}, {58, 5}, {5, 58}, {58, 58}, {32, 20}} {
				px := crop.Pix[3*(at[1]*64+at[0]):]
				x := r.X0 + (float64(at[0])+0.5)/64*(r.X1-r.X0) - 0.5
				y := r.Y0 + (float64(at[1])+0.5)/64*(r.Y1-r.Y0) - 0.5
				if math.Abs(x-float64(px[0])) > 1 || math.Abs(y-float64(px[1])) > 1 {
					t.Errorf("%v, short side %d: pixel %v of the crop is (%d, %d) of the photo; the region %+v says (%.1f, %.1f)", size, short, at, px[0], px[1], r, x, y)
				}
			}
		}
	}
}

// heat is a heat map on a grey photo, 0 but for one cell.
func heat(w, h, rows, cols, hot int) vision.Heatmap {
	m := vision.Heatmap{Photo: &vision.RGB{W: w, H: h, Pix: make([]byte, 3*w*h)}, View: vision.ImageNet(64), Rows: rows, Cols: cols, Values: make([]float32, rows*cols), Title: "t", Unit: "u"}
	for i := range m.Photo.Pix {
		m.Photo.Pix[i] = 128
	}
	m.View.ResizeShort = 64
	m.Values[hot] = 3
	return m
}

// TestHeatmap looks for the hot cell at its place on the photo, for no colour beside
// it, and for darkness outside the crop.
func TestHeatmap(t *testing.T) {
	for _, tc := range []struct{ w, h, scaledW, scaledH int }{{600, 400, 600, 400}, {400, 600, 400, 600}, {1536, 2048, 768, 1024}, {60, 40, 512, 341}} {
		const rows, cols = 4, 5
		for _, hot := range []int{0, 7, 19} {
			m := heat(tc.w, tc.h, rows, cols, hot)
			out, err := m.Draw()
			if err != nil {
				t.Fatal(err)
			}
			b := out.Bounds()
			if b.Dx() != max(tc.scaledW, 400) || b.Dy() <= tc.scaledH+40 {
				t.Fatalf("%d x %d: the drawing has %v", tc.w, tc.h, b)
			}
			left := (b.Dx() - tc.scaledW) / 2
			side := float64(min(tc.scaledW, tc.scaledH))
			x0, y0 := (float64(tc.scaledW)-side)/2, (float64(tc.scaledH)-side)/2
			colour := func(x, y float64) int { // 0 for grey
				c := out.NRGBAAt(left+int(x), int(y))
				return int(max(c.R, c.G, c.B)) - int(min(c.R, c.G, c.B))
			}
			for cell := range rows * cols {
				x := x0 + (float64(cell%cols)+0.5)*side/cols
				y := y0 + (float64(cell/cols)+0.5)*side/rows
				if c := colour(x, y); (c > 100) != (cell == hot) || cell != hot && c > 2 {
					t.Errorf("%d x %d, cell %d is hot: cell %d has a colourfulness of %d", tc.w, tc.h, hot, cell, c)
				}
			}
			for _, at := range [][2]float64{{1, 1}, {float64(tc.scaledW) - 2, float64(tc.scaledH) - 2}} {
				if c := out.NRGBAAt(left+int(at[0]), int(at[1])); c.R > 45 || colour(at[0], at[1]) != 0 {
					t.Errorf("%d x %d: outside the crop is %v", tc.w, tc.h, c)
				}
			}
		}
	}
}

// TestHeatmapInterpolates checks the undershoot of cubic convolution, which is the same
// on both sides of a hot cell.
func TestHeatmapInterpolates(t *testing.T) {
	m := heat(700, 700, 7, 7, 24)
	for i := range m.Values {
		m.Values[i]++
	}
	out, err := m.Draw()
	if err != nil {
		t.Fatal(err)
	}
	at := func(x, y int) int { return int(out.NRGBAAt(x, y).R) - int(out.NRGBAAt(x, y).G) }
	base := at(50, 50)
	if base < 10 {
		t.Errorf("a cell of a quarter of the maximum has the colour %d", base)
	}
	for _, d := range []int{60, 140, 155} {
		left, right, up, down := at(350-d, 350), at(349+d, 350), at(350, 350-d), at(350, 349+d)
		if left != right || left != up || left != down || (d > 100) != (left < base) {
			t.Errorf("%d pixels from the hot cell: %d, %d, %d, %d beside %d", d, left, right, up, down, base)
		}
	}
}

// TestHeatmapLegend checks that title and unit can be seen, and that nothing is
// written beyond the edge.
func TestHeatmapLegend(t *testing.T) {
	draw := func(title, unit string, hot float32) *image.NRGBA {
		m := heat(300, 200, 2, 2, 0)
		m.Title, m.Unit, m.Values[0] = title, unit, hot
		out, err := m.Draw()
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	dark := func(m *image.NRGBA, x0, x1 int) (n int) {
		for y := m.Rect.Dy() - 55; y < m.Rect.Dy(); y++ {
			for x := x0; x < x1; x++ {
				if m.NRGBAAt(x, y).R < 128 && m.NRGBAAt(x, y).G < 128 {
					n++
				}
			}
		}
		return n
	}
	short, long := draw("cat", "u", 3), draw(strings.Repeat("cat ", 100), strings.Repeat("logits ", 100), 3)
	w := short.Rect.Dx()
	if s, l := dark(short, 0, w), dark(long, 0, w); s < 50 || l < 2*s {
		t.Errorf("%d and %d dark pixels in the legend", s, l)
	}
	if n := dark(long, w-2, w); n > 0 {
		t.Error("the legend is cut off at the edge")
	}
	// A place that speaks against the class is like one that says nothing.
	against := draw("cat", "u", -3)
	for y := range 300 {
		for x := range w {
			if c := against.NRGBAAt(x, y); c.R != c.G || c.G != c.B {
				t.Fatalf("a negative value has the colour %v at %d, %d", c, x, y)
			}
		}
	}
}

func TestHeatmapErrors(t *testing.T) {
	for want, change := range map[string]func(m *vision.Heatmap){
		"with 19 values":     func(m *vision.Heatmap) { m.Values = m.Values[1:] },
		"0 x 0":              func(m *vision.Heatmap) { m.Rows, m.Cols, m.Values = 0, 0, nil },
		"NaN":                func(m *vision.Heatmap) { m.Values[3] = float32(math.NaN()) },
		"+Inf":               func(m *vision.Heatmap) { m.Values[3] = float32(math.Inf(1)) },
		"need 1 <= crop":     func(m *vision.Heatmap) { m.View.Crop = 0 },
		"bytes of pixels":    func(m *vision.Heatmap) { m.Photo.Pix = m.Photo.Pix[1:] },
		"more than 10000000": func(m *vision.Heatmap) { m.Photo = &vision.RGB{W: 2_000_000, H: 1, Pix: make([]byte, 6_000_000)} },
	} {
		m := heat(30, 20, 4, 5, 0)
		change(&m)
		if _, err := m.Draw(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
	m := heat(20_000, 1, 1, 1, 0) // the crop is less than a pixel of the drawing
	if _, err := m.Draw(); err != nil {
		t.Error(err)
	}
}
