//go:build !purego

package kernels

import (
	"github.com/mila-go/mila/kernels/arm64"
	"github.com/mila-go/mila/kernels/generic"
)

// dwconvVector is generic.DWConv3x3 at level NEON: four, two or one rows at stride 1,
// one at stride 2, and of rows so wide that a call would last too long some channels
// at a time. Activations follow while the rows are in the cache.
func dwconvVector(l Level, y, x, w9, bias []float32, s DWShape, d generic.DW) {
	part := max(1, callWork/(2*s.W)/64) * 64
	ow, rows := s.OutW(), 0
	for i := s.Row0; i < s.Row1; i += rows {
		switch left := s.Row1 - i; {
		case s.Stride == 2 || left == 1:
			rows = 1
		case left < 4:
			rows = 2
		default:
			rows = 4
		}
		for c := 0; c < s.Ch; c += part {
			at, n := i*ow*s.LdY+c, min(part, s.Ch-c)
			if from := &x[i*s.Stride*s.W*s.LdX+c]; s.Stride == 1 {
				arm64.DWSlideNEON(&y[at], from, &w9[c], orNil(bias, c), orNil(d.Add, at), orNil(d.Mul, at),
					s.LdX, s.LdY, s.LdW, n, s.W, rows, flag(i > 0), flag(i+rows < s.H), flag(d.Residual))
			} else {
				arm64.DWSlide2NEON(&y[at], from, &w9[c], orNil(bias, c),
					s.W*s.LdX, s.LdX, s.LdY, s.LdW, n, ow, flag(i > 0), flag(2*i+1 < s.H), s.W%2)
			}
			if d.Act != Identity {
				activateVector(l, d.Act, y[at:], s.LdY, y[at:], s.LdY, rows*ow, n)
			}
		}
	}
}

// dwvalidVector is generic.DWValid at level NEON.
func dwvalidVector(l Level, y, x, w, bias []float32, s DWValidShape) {
	most := max(1, callWork/(s.K*s.K*s.Ch))
	for i := range s.OutH {
		for j := 0; j < s.OutW; j += most {
			arm64.DWTapsNEON(&y[(i*s.OutW+j)*s.LdY], &x[i*s.RowX+j*s.LdX], &w[0], orNil(bias, 0),
				s.RowX, s.LdX, s.LdY, s.Ch, s.Ch, min(most, s.OutW-j), s.K)
		}
	}
}
