package vision

import (
	"fmt"
	"math"
)

// Preprocess is an evaluation transform: resize the short side, crop the centre,
// scale and normalise. The JSON keys are those of a model's `preprocess`.
type Preprocess struct {
	ResizeShort   int       `json:"resize_short"`  // short side after resizing, in pixels
	Crop          int       `json:"crop"`          // side of the square centre crop
	Interpolation string    `json:"interpolation"` // "bicubic" or "bilinear"
	Mean          []float32 `json:"mean"`          // per channel, of values in 0..1
	Std           []float32 `json:"std"`
}

// ImageNet returns the usual transform for a model trained at size x size
// pixels: short side int(256/224 size), bicubic, ImageNet's mean and standard
// deviation.
func ImageNet(size int) Preprocess {
	return Preprocess{
		ResizeShort: int(256.0 / 224.0 * float64(size)), Crop: size, Interpolation: "bicubic",
		Mean: []float32{0.485, 0.456, 0.406}, Std: []float32{0.229, 0.224, 0.225},
	}
}

// Validate says what is wrong with the transform, if anything.
func (p Preprocess) Validate() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("vision: preprocess: "+format, args...)
	}
	if p.Crop < 1 || p.ResizeShort < p.Crop || p.ResizeShort > 1<<14 {
		return bad("crop %d and resize_short %d; need 1 <= crop <= resize_short <= 16384", p.Crop, p.ResizeShort)
	}
	if _, ok := filters[p.Interpolation]; !ok {
		return bad("interpolation %q is not supported; use bicubic or bilinear", p.Interpolation)
	}
	if len(p.Mean) != len(p.Std) || len(p.Mean) != 1 && len(p.Mean) != 3 {
		return bad("%d means and %d standard deviations; need three of each, or one for a grey model", len(p.Mean), len(p.Std))
	}
	for _, s := range p.Std {
		if !(s > 0) {
			return bad("std %v; must be positive", p.Std)
		}
	}
	return nil
}

// At returns the transform for a crop of another size that shows the same part of an
// image.
func (p Preprocess) At(size int) Preprocess {
	if p.Crop > 0 {
		p.ResizeShort = int(math.Round(float64(p.ResizeShort) * float64(size) / float64(p.Crop)))
	}
	p.Crop = size
	return p
}

// Channels returns the number of channels of the tensor: 3, or 1 for a grey
// model.
func (p Preprocess) Channels() int { return len(p.Mean) }

// Crop8 resizes img so that its short side is ResizeShort, the other side being
// int(ResizeShort * long/short), and returns the centre crop in 8 bits, bit for
// bit as Pillow and torchvision make it. An image whose short side is right
// already is not resampled.
func (p Preprocess) Crop8(img *RGB) (*RGB, error) {
	if err := p.check(img); err != nil {
		return nil, err
	}
	w, h := p.resized(img)
	top, left := centre(h, p.Crop), centre(w, p.Crop)
	return resizeCrop(img, filters[p.Interpolation], w, h, left, top, p.Crop, p.Crop), nil
}

// check says why img cannot be transformed, if so.
func (p Preprocess) check(img *RGB) error {
	if err := p.Validate(); err != nil {
		return err
	}
	if img.W < 1 || img.H < 1 || len(img.Pix) != 3*img.W*img.H {
		return fmt.Errorf("vision: an image of %d x %d with %d bytes of pixels", img.W, img.H, len(img.Pix))
	}
	if w, h := p.resized(img); int64(w)*int64(h) > DefaultMaxPixels {
		return fmt.Errorf("vision: an image of %d x %d becomes %d x %d when its short side is resized to %d, more than %d pixels; crop it first", img.W, img.H, w, h, p.ResizeShort, DefaultMaxPixels)
	}
	return nil
}

// resized returns the size of img with its short side at ResizeShort.
func (p Preprocess) resized(img *RGB) (w, h int) {
	short, long := min(img.W, img.H), max(img.W, img.H)
	if short == p.ResizeShort {
		return img.W, img.H
	}
	l := int(float64(p.ResizeShort) * float64(long) / float64(short))
	if img.W > img.H {
		return l, p.ResizeShort
	}
	return p.ResizeShort, l
}

// centre returns where a crop begins, halves going to even as in Python.
func centre(size, crop int) int { return int(math.RoundToEven(float64(size-crop) / 2)) }

// Rect is a part of an image, in pixels from its left and upper edge.
type Rect struct{ X0, Y0, X1, Y1 float64 }

// Region returns the part of img that the crop shows.
func (p Preprocess) Region(img *RGB) (Rect, error) {
	if err := p.check(img); err != nil {
		return Rect{}, err
	}
	w, h := p.resized(img)
	sx, sy := float64(img.W)/float64(w), float64(img.H)/float64(h)
	left, top := float64(centre(w, p.Crop)), float64(centre(h, p.Crop))
	side := float64(p.Crop)
	return Rect{left * sx, top * sy, (left + side) * sx, (top + side) * sy}, nil
}

// Tensor writes the transformed image to dst, (channels, Crop, Crop) with
// values (x/255 - mean) / std. A model with one mean gets the grey value
// (19595 R + 38470 G + 7471 B + 32768) >> 16, as Pillow computes it.
func (p Preprocess) Tensor(dst []float32, img *RGB) error {
	c, err := p.Crop8(img)
	if err != nil {
		return err
	}
	n := p.Crop * p.Crop
	if len(dst) != p.Channels()*n {
		return fmt.Errorf("vision: the tensor has %d values, %d channels of %d x %d need %d", len(dst), p.Channels(), p.Crop, p.Crop, p.Channels()*n)
	}
	for ch := range p.Channels() {
		// 256 possible inputs: one table a channel.
		var table [256]float32
		for v := range table {
			table[v] = (float32(v)/255 - p.Mean[ch]) / p.Std[ch]
		}
		plane := dst[ch*n : (ch+1)*n]
		for i := range plane {
			px := c.Pix[3*i : 3*i+3]
			v := px[ch]
			if p.Channels() == 1 {
				v = uint8((19595*uint32(px[0]) + 38470*uint32(px[1]) + 7471*uint32(px[2]) + 1<<15) >> 16)
			}
			plane[i] = table[v]
		}
	}
	return nil
}
