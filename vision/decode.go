package vision

import (
	"bytes"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/gif"
	"image/jpeg"
	"image/png"
	"io"
	"os"

	"golang.org/x/image/bmp"
	"golang.org/x/image/webp"
)

// RGB is an image of packed 8-bit RGB pixels in rows from the top.
type RGB struct {
	Pix  []uint8 // 3 * W * H
	W, H int
}

// DecodeOptions changes how an image is decoded.
type DecodeOptions struct {
	// MaxPixels is the largest image that is decoded, as a guard against
	// decompression bombs; 0 means DefaultMaxPixels.
	MaxPixels int64
	// HonourEXIF turns the image as its EXIF orientation says. The reference
	// evaluation ignores the orientation, and so does the default.
	HonourEXIF bool
}

// DefaultMaxPixels is the limit that DecodeOptions has without one.
const DefaultMaxPixels = 100_000_000

// maxBytes bounds an encoded image; a raw one of DefaultMaxPixels has 300 MB.
const maxBytes = 1 << 29

type format struct {
	name   string
	magic  func(data []byte) bool
	config func(io.Reader) (image.Config, error)
	decode func(io.Reader) (image.Image, error)
}

func prefix(p string) func([]byte) bool {
	return func(data []byte) bool { return bytes.HasPrefix(data, []byte(p)) }
}

var formats = []format{
	{"JPEG", prefix("\xff\xd8"), jpeg.DecodeConfig, jpeg.Decode},
	{"PNG", prefix("\x89PNG\r\n\x1a\n"), png.DecodeConfig, png.Decode},
	{"GIF", prefix("GIF8"), gif.DecodeConfig, gif.Decode},
	{"WebP", func(d []byte) bool { return len(d) >= 12 && string(d[:4]) == "RIFF" && string(d[8:12]) == "WEBP" }, webp.DecodeConfig, webp.Decode},
	{"BMP", prefix("BM"), bmp.DecodeConfig, bmp.Decode},
}

// DecodeFile is [Decode] of a file; its errors name the file.
func DecodeFile(path string, opt DecodeOptions) (*RGB, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("vision: %w", err)
	}
	defer f.Close()
	img, err := decode(f, opt)
	if err != nil {
		return nil, fmt.Errorf("vision: %s: %w", path, err)
	}
	return img, nil
}

// Decode reads a JPEG (baseline or progressive; RGB, grey or CMYK), PNG, GIF
// (its first frame), WebP or BMP image and converts it to RGB as Pillow's
// convert("RGB") does: alpha is dropped, grey replicated, 16-bit samples lose
// their low byte. The format follows from the content. The dimensions are
// checked against opt.MaxPixels before any pixel is decoded. A truncated or
// damaged image is an error.
func Decode(r io.Reader, opt DecodeOptions) (*RGB, error) {
	img, err := decode(r, opt)
	if err != nil {
		return nil, fmt.Errorf("vision: %w", err)
	}
	return img, nil
}

func decode(r io.Reader, opt DecodeOptions) (img *RGB, err error) {
	data, err := io.ReadAll(io.LimitReader(r, maxBytes+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxBytes {
		return nil, fmt.Errorf("the file has more than %d bytes", maxBytes)
	}
	if len(data) == 0 {
		return nil, errors.New("the file is empty")
	}
	limit := opt.MaxPixels
	if limit <= 0 {
		limit = DefaultMaxPixels
	}
	for _, f := range formats {
		if !f.magic(data) {
			continue
		}
		// A decoder's panic is its bug, but must not end a program that merely
		// met a strange file.
		defer func() {
			if r := recover(); r != nil {
				img, err = nil, fmt.Errorf("damaged %s image: %v", f.name, r)
			}
		}()
		cfg, err := f.config(bytes.NewReader(data))
		if err != nil {
			return nil, fmt.Errorf("damaged or truncated %s image: %w", f.name, err)
		}
		if cfg.Width <= 0 || cfg.Height <= 0 {
			return nil, fmt.Errorf("%s image of %d x %d: there are no pixels", f.name, cfg.Width, cfg.Height)
		}
		if int64(cfg.Width) > limit/int64(cfg.Height) {
			return nil, fmt.Errorf("%s image of %d x %d is larger than the limit of %d pixels; if it is to be trusted raise the limit (MaxPixels, --max-pixels)", f.name, cfg.Width, cfg.Height, limit)
		}
		m, err := f.decode(bytes.NewReader(data))
		if err != nil {
			return nil, fmt.Errorf("damaged or truncated %s image: %w", f.name, err)
		}
		img = convert(m, cfg.Width, cfg.Height, f.name == "WebP")
		if opt.HonourEXIF && f.name == "JPEG" {
			img = orient(img, exifOrientation(data))
		}
		return img, nil
	}
	return nil, errors.New("this is no JPEG, PNG, GIF, WebP or BMP image; convert it to one of these")
}

// convert makes RGB of w x h from a decoded image; a GIF's first frame may
// cover only a part, the rest stays black.
func convert(m image.Image, w, h int, isWebP bool) *RGB {
	out := &RGB{Pix: make([]uint8, 3*w*h), W: w, H: h}
	b := m.Bounds()
	if ycc, ok := m.(*image.YCbCr); ok && b.Dx() == w && b.Dy() == h {
		if isWebP {
			convertVP8(out, ycc)
		} else {
			convertYCbCr(out, ycc)
		}
		return out
	}
	if a, ok := m.(*image.NYCbCrA); ok && b.Dx() == w && b.Dy() == h {
		convertVP8(out, &a.YCbCr) // only WebP has it
		return out
	}
	var palette [][3]uint8
	if p, ok := m.(*image.Paletted); ok {
		for _, c := range p.Palette {
			r, g, bl := rgb(c)
			palette = append(palette, [3]uint8{r, g, bl})
		}
	}
	for y := max(b.Min.Y, 0); y < min(b.Max.Y, h); y++ {
		for x := max(b.Min.X, 0); x < min(b.Max.X, w); x++ {
			at := out.Pix[3*(y*w+x) : 3*(y*w+x)+3]
			switch t := m.(type) {
			case *image.Gray:
				v := t.GrayAt(x, y).Y
				at[0], at[1], at[2] = v, v, v
			case *image.NRGBA:
				copy(at, t.Pix[t.PixOffset(x, y):][:3])
			case *image.RGBA:
				copy(at, t.Pix[t.PixOffset(x, y):][:3])
			case *image.CMYK:
				p := t.Pix[t.PixOffset(x, y):][:4]
				cmyk(at, p[0], p[1], p[2], p[3])
			case *image.Paletted:
				if i := int(t.ColorIndexAt(x, y)); i < len(palette) {
					copy(at, palette[i][:])
				}
			default:
				at[0], at[1], at[2] = rgb(m.At(x, y))
			}
		}
	}
	return out
}

// rgb returns a colour without its alpha, which is dropped, not applied.
func rgb(c color.Color) (r, g, b uint8) {
	switch t := c.(type) {
	case color.NRGBA64:
		return uint8(t.R >> 8), uint8(t.G >> 8), uint8(t.B >> 8)
	case color.RGBA64:
		return uint8(t.R >> 8), uint8(t.G >> 8), uint8(t.B >> 8)
	case color.RGBA:
		return t.R, t.G, t.B
	}
	n := color.NRGBAModel.Convert(c).(color.NRGBA)
	return n.R, n.G, n.B
}

// cmyk is Pillow's conversion: each ink takes its share of what black leaves.
func cmyk(rgb []uint8, c, m, y, k uint8) {
	left := 255 - int(k)
	for i, ink := range [3]uint8{c, m, y} {
		t := int(ink)*left + 128
		rgb[i] = clip8(left - (t>>8+t)>>8)
	}
}

func clip8(v int) uint8 {
	if uint(v) <= 255 {
		return uint8(v)
	}
	if v < 0 {
		return 0
	}
	return 255
}
