package vision

import (
	"fmt"
	"math"
)

// filter is a resampling kernel, zero beyond its support.
type filter struct {
	support float64
	weight  func(x float64) float64
}

var filters = map[string]filter{
	"bicubic": {2, func(x float64) float64 {
		const a = -0.5
		switch x = math.Abs(x); {
		case x < 1:
			return float64((float64((a+2)*x)-(a+3))*x)*x + 1
		case x < 2:
			return (float64((float64((x-5)*x)+8)*x) - 4) * a
		}
		return 0
	}},
	"bilinear": {1, func(x float64) float64 { return max(0, 1-math.Abs(x)) }},
}

// precision is the number of fraction bits of the coefficients.
const precision = 22

// taps are the coefficients of one output position: in[from+i] * coef[i].
type taps struct {
	from int
	coef []int32
}

// coefficients returns the taps of output positions [lo, hi) when in samples
// become out. Reduction widens the kernel by the scale, so that every input
// counts (antialiasing).
func coefficients(f filter, in, out, lo, hi int) []taps {
	scale := float64(in) / float64(out)
	wide := max(scale, 1)
	support := f.support * wide
	result := make([]taps, hi-lo)
	weights := make([]float64, 0, 2*int(math.Ceil(support))+1)
	for o := range result {
		center := (float64(lo+o) + 0.5) * scale
		from := max(int(center-support+0.5), 0)
		to := min(int(center+support+0.5), in)
		weights = weights[:0]
		var sum float64
		for x := from; x < to; x++ {
			w := f.weight((float64(x) - center + 0.5) * (1 / wide))
			weights = append(weights, w)
			sum += w
		}
		t := taps{from, make([]int32, len(weights))}
		for i, w := range weights {
			if sum != 0 {
				w /= sum
			}
			t.coef[i] = int32(math.Round(w * (1 << precision)))
		}
		result[o] = t
	}
	return result
}

// Resize resamples img to w x h with Pillow's antialiased bicubic filter
// (a = -0.5), bit for bit: 22-bit fixed-point coefficients, first along rows
// and then along columns with the intermediate rounded and clipped to 8 bits.
func Resize(img *RGB, w, h int) (*RGB, error) {
	if w < 1 || h < 1 || int64(w)*int64(h) > DefaultMaxPixels {
		return nil, fmt.Errorf("vision: an image of %d x %d cannot be made; each side must be at least 1 and the area at most %d pixels", w, h, DefaultMaxPixels)
	}
	return resizeCrop(img, filters["bicubic"], w, h, 0, 0, w, h), nil
}

// resizeCrop returns the part of cw x ch at (left, top) of img resized to w x h,
// computing only what that part needs.
func resizeCrop(img *RGB, f filter, w, h, left, top, cw, ch int) *RGB {
	// Rows of the source that the vertical pass needs.
	r0, r1 := top, top+ch
	var vertical []taps
	if h != img.H {
		vertical = coefficients(f, img.H, h, top, top+ch)
		last := vertical[len(vertical)-1]
		r0, r1 = vertical[0].from, last.from+len(last.coef)
	}
	mid := &RGB{W: cw, H: r1 - r0}
	if w == img.W {
		mid.Pix = make([]uint8, 3*cw*mid.H)
		for y := range mid.H {
			copy(mid.Pix[3*y*cw:3*(y+1)*cw], img.Pix[3*((r0+y)*img.W+left):])
		}
	} else {
		mid.Pix = make([]uint8, 3*cw*mid.H)
		horizontal := coefficients(f, img.W, w, left, left+cw)
		for y := range mid.H {
			src := img.Pix[3*(r0+y)*img.W : 3*(r0+y+1)*img.W]
			dst := mid.Pix[3*y*cw : 3*(y+1)*cw]
			for x, t := range horizontal {
				r, g, b := int32(1<<(precision-1)), int32(1<<(precision-1)), int32(1<<(precision-1))
				p := src[3*t.from : 3*(t.from+len(t.coef))]
				for _, k := range t.coef {
					if len(p) < 3 { // never; removes the bounds checks
						break
					}
					r += int32(p[0]) * k
					g += int32(p[1]) * k
					b += int32(p[2]) * k
					p = p[3:]
				}
				dst[3*x], dst[3*x+1], dst[3*x+2] = clip8(int(r>>precision)), clip8(int(g>>precision)), clip8(int(b>>precision))
			}
		}
	}
	if vertical == nil {
		return mid
	}
	out := &RGB{Pix: make([]uint8, 3*cw*ch), W: cw, H: ch}
	acc := make([]int32, 3*cw)
	for y, t := range vertical {
		for i := range acc {
			acc[i] = 1 << (precision - 1)
		}
		for j, k := range t.coef {
			row := mid.Pix[3*cw*(t.from-r0+j):]
			row = row[:len(acc)]
			for i, v := range row {
				acc[i] += int32(v) * k
			}
		}
		dst := out.Pix[3*cw*y : 3*cw*(y+1)]
		for i, v := range acc {
			dst[i] = clip8(int(v >> precision))
		}
	}
	return out
}
