package fuzz_test

import (
	"bytes"
	"image"
	"image/color"
	"image/gif"
	"image/jpeg"
	"image/png"
	"math"
	"testing"

	"github.com/mila-go/mila/vision"
	"golang.org/x/image/bmp"
)

// FuzzDecode decodes any bytes and, where they are an image, makes a tensor: no
// panic, no NaN.
func FuzzDecode(f *testing.F) {
	for _, size := range [][2]int{{1, 1}, {7, 5}, {20, 33}} {
		m := image.NewNRGBA(image.Rect(0, 0, size[0], size[1]))
		for i := range m.Pix {
			m.Pix[i] = byte(37 * i)
		}
		g := image.NewGray(m.Rect)
		g.SetGray(0, 0, color.Gray{200})
		var b [5]bytes.Buffer
		for i, err := range []error{png.Encode(&b[0], m), jpeg.Encode(&b[1], m, nil), gif.Encode(&b[2], m, nil), bmp.Encode(&b[3], m), jpeg.Encode(&b[4], g, nil)} {
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b[i].Bytes())
		}
	}
	f.Add([]byte("RIFF\x1a\x00\x00\x00WEBPVP8L\x0d\x00\x00\x00\x2f\x00\x00\x00\x10\x07\x10\x11\x11\x88\x88\xfe\x07\x00"))
	p := vision.ImageNet(16)
	dst := make([]float32, 3*16*16)
	f.Fuzz(func(t *testing.T, data []byte) {
		img, err := vision.Decode(bytes.NewReader(data), vision.DecodeOptions{MaxPixels: 1 << 18, HonourEXIF: true})
		if err != nil {
			return
		}
		if err := p.Tensor(dst, img); err != nil {
			return
		}
		for i, v := range dst {
			if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
				t.Fatalf("value %d is %v", i, v)
			}
		}
	})
}
