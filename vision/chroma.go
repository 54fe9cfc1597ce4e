package vision

import "image"

// Conversions of the subsampled colour planes of JPEG and WebP, as
// libjpeg-turbo and libwebp do them in their default ("fancy") modes. The
// standard library replicates chroma samples instead, and reads the studio
// range of WebP as full range.

// chromaPlane computes rows of a subsampled chroma plane at full resolution.
type chromaPlane struct {
	pix      []uint8
	stride   int
	cw, ch   int // true size of the plane
	w        int
	hs, vs   int // subsampling factors
	sum      []int
	smoothed bool
}

func newChromaPlane(pix []uint8, stride, w, h, hs, vs int) *chromaPlane {
	p := &chromaPlane{pix: pix, stride: stride, w: w, hs: hs, vs: vs, cw: (w + hs - 1) / hs, ch: (h + vs - 1) / vs}
	// libjpeg smooths 2:1 factors only, and horizontally only planes of more than two columns.
	p.smoothed = (hs == 2 && vs <= 2 && p.cw > 2) || (hs == 1 && vs == 2)
	p.sum = make([]int, p.cw)
	return p
}

func (p *chromaPlane) line(r int) []uint8 {
	r = min(max(r, 0), p.ch-1)
	return p.pix[r*p.stride : r*p.stride+p.cw]
}

// row writes row y of the plane at full resolution to dst.
func (p *chromaPlane) row(dst []uint8, y int) {
	c := p.line(y / p.vs)
	if !p.smoothed {
		for x := range dst {
			dst[x] = c[x/p.hs]
		}
		return
	}
	other := c
	if p.vs == 2 { // the nearer row counts three times the farther
		other = p.line(y/2 + 2*(y&1) - 1)
	}
	switch {
	case p.hs == 1: // 1 x 2
		bias := 1 + y&1
		for x := range dst {
			dst[x] = uint8((3*int(c[x]) + int(other[x]) + bias) >> 2)
		}
	case p.vs == 1: // 2 x 1
		last := p.cw - 1
		for x := range dst {
			i := x / 2
			switch {
			case x == 0 || x == 2*last+1:
				dst[x] = c[i]
			case x&1 == 0:
				dst[x] = uint8((3*int(c[i]) + int(c[i-1]) + 1) >> 2)
			default:
				dst[x] = uint8((3*int(c[i]) + int(c[i+1]) + 2) >> 2)
			}
		}
	default: // 2 x 2
		last := p.cw - 1
		for i := range p.sum {
			p.sum[i] = 3*int(c[i]) + int(other[i])
		}
		for x := range dst {
			i := x / 2
			switch {
			case x == 0:
				dst[x] = uint8((4*p.sum[0] + 8) >> 4)
			case x == 2*last+1:
				dst[x] = uint8((4*p.sum[last] + 7) >> 4)
			case x&1 == 0:
				dst[x] = uint8((3*p.sum[i] + p.sum[i-1] + 8) >> 4)
			default:
				dst[x] = uint8((3*p.sum[i] + p.sum[i+1] + 7) >> 4)
			}
		}
	}
}

func factors(r image.YCbCrSubsampleRatio) (hs, vs int) {
	switch r {
	case image.YCbCrSubsampleRatio422:
		return 2, 1
	case image.YCbCrSubsampleRatio420:
		return 2, 2
	case image.YCbCrSubsampleRatio440:
		return 1, 2
	case image.YCbCrSubsampleRatio411:
		return 4, 1
	case image.YCbCrSubsampleRatio410:
		return 4, 2
	}
	return 1, 1
}

// convertYCbCr is the JPEG conversion: full range, 16-bit fixed point.
func convertYCbCr(out *RGB, m *image.YCbCr) {
	const half = 1 << 15
	hs, vs := factors(m.SubsampleRatio)
	cb := newChromaPlane(m.Cb, m.CStride, out.W, out.H, hs, vs)
	cr := newChromaPlane(m.Cr, m.CStride, out.W, out.H, hs, vs)
	cbRow, crRow := make([]uint8, out.W), make([]uint8, out.W)
	for y := range out.H {
		cb.row(cbRow, y)
		cr.row(crRow, y)
		luma := m.Y[y*m.YStride : y*m.YStride+out.W]
		dst := out.Pix[3*y*out.W:]
		for x, l := range luma {
			u, v, l := int(cbRow[x])-128, int(crRow[x])-128, int(l)
			dst[3*x] = clip8(l + (91881*v+half)>>16)
			dst[3*x+1] = clip8(l + (-22554*u-46802*v+half)>>16)
			dst[3*x+2] = clip8(l + (116130*u+half)>>16)
		}
	}
}

// convertVP8 is the WebP conversion: BT.601 studio range in 14-bit fixed point,
// chroma interpolated with weights 9, 3, 3, 1.
func convertVP8(out *RGB, m *image.YCbCr) {
	cw, ch := (out.W+1)/2, (out.H+1)/2
	interpolate := func(pix []uint8, x, y int) int {
		// The nearest sample, and its neighbours towards this pixel, repeated at edges.
		i, j := x/2, y/2
		jn := min(max(j+2*(y&1)-1, 0), ch-1)
		in := i + 2*(x&1) - 1
		near, vert := int(pix[j*m.CStride+i]), int(pix[jn*m.CStride+i])
		if in < 0 || in >= cw {
			return (3*near + vert + 2) >> 2
		}
		side, diag := int(pix[j*m.CStride+in]), int(pix[jn*m.CStride+in])
		return ((near+3*side+3*vert+diag+8)>>3 + near) >> 1
	}
	for y := range out.H {
		for x := range out.W {
			u, v := interpolate(m.Cb, x, y), interpolate(m.Cr, x, y)
			l := 19077 * int(m.Y[y*m.YStride+x]) >> 8
			at := out.Pix[3*(y*out.W+x):]
			at[0] = clip8((l + 26149*v>>8 - 14234) >> 6)
			at[1] = clip8((l - 6419*u>>8 - 13320*v>>8 + 8708) >> 6)
			at[2] = clip8((l + 33050*u>>8 - 17685) >> 6)
		}
	}
}
