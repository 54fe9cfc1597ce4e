package vision_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"image"
	"image/color"
	"image/color/palette"
	"image/gif"
	"image/jpeg"
	"image/png"
	"io/fs"
	"math"
	"os"
	"strings"
	"testing"

	"github.com/mila-go/mila/internal/golden"
	"github.com/mila-go/mila/vision"
	"golang.org/x/image/bmp"
)

func picture(w, h int) *image.NRGBA {
	m := image.NewNRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			m.Set(x, y, color.NRGBA{uint8(7 * x), uint8(11 * y), uint8(x * y), uint8(100 + x)})
		}
	}
	return m
}

func encoded(t testing.TB, f func(b *bytes.Buffer) error) []byte {
	var b bytes.Buffer
	if err := f(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func samples(t testing.TB, w, h int) map[string][]byte {
	m := picture(w, h)
	return map[string][]byte{
		"png":  encoded(t, func(b *bytes.Buffer) error { return png.Encode(b, m) }),
		"jpeg": encoded(t, func(b *bytes.Buffer) error { return jpeg.Encode(b, m, nil) }),
		"gif":  encoded(t, func(b *bytes.Buffer) error { return gif.Encode(b, m, &gif.Options{NumColors: 256}) }),
		"bmp":  encoded(t, func(b *bytes.Buffer) error { return bmp.Encode(b, m) }),
	}
}

func decode(data []byte, opt vision.DecodeOptions) (*vision.RGB, error) {
	return vision.Decode(bytes.NewReader(data), opt)
}

func TestFormats(t *testing.T) {
	for name, data := range samples(t, 19, 13) {
		img, err := decode(data, vision.DecodeOptions{})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if img.W != 19 || img.H != 13 {
			t.Fatalf("%s: %d x %d", name, img.W, img.H)
		}
		if name == "png" { // alpha is dropped, not applied
			if got := [3]uint8(img.Pix[3*(5*19+10):]); got != [3]uint8{70, 55, 50} {
				t.Errorf("png pixel is %v", got)
			}
		}
	}
	sixteen := image.NewNRGBA64(image.Rect(0, 0, 1, 1))
	sixteen.Set(0, 0, color.NRGBA64{0x1234, 0x5678, 0x9abc, 0x8000})
	grey := image.NewGray(image.Rect(0, 0, 1, 1))
	grey.Pix[0] = 77
	pal := image.NewPaletted(image.Rect(0, 0, 1, 1), palette.WebSafe)
	pal.Pix[0] = 40
	r, g, b, _ := palette.WebSafe[40].RGBA()
	for i, c := range []struct {
		m    image.Image
		want [3]uint8
	}{{sixteen, [3]uint8{0x12, 0x56, 0x9a}}, {grey, [3]uint8{77, 77, 77}}, {pal, [3]uint8{uint8(r >> 8), uint8(g >> 8), uint8(b >> 8)}}} {
		img, err := decode(encoded(t, func(b *bytes.Buffer) error { return png.Encode(b, c.m) }), vision.DecodeOptions{})
		if err != nil || [3]uint8(img.Pix) != c.want {
			t.Errorf("png %d: %v, %v, want %v", i, img, err, c.want)
		}
	}
}

// TestExif checks every orientation against its definition, on a picture whose
// corners are told apart, and that the default ignores it.
func TestExif(t *testing.T) {
	// Stored corners: red, green / blue, white in 8 x 8 blocks, which JPEG keeps clear.
	m := image.NewNRGBA(image.Rect(0, 0, 32, 16))
	for y := range 16 {
		for x := range 32 {
			c := []color.NRGBA{{255, 0, 0, 255}, {0, 255, 0, 255}, {0, 0, 255, 255}, {255, 255, 255, 255}}[y/8*2+x/16]
			m.Set(x, y, c)
		}
	}
	plain := encoded(t, func(b *bytes.Buffer) error { return jpeg.Encode(b, m, &jpeg.Options{Quality: 100}) })
	// Top-left corner as it should be seen, and whether the sides swap.
	want := map[int]string{1: "red", 2: "green", 3: "white", 4: "blue", 5: "red", 6: "blue", 7: "white", 8: "green"}
	for o := 1; o <= 8; o++ {
		for _, order := range []binary.AppendByteOrder{binary.LittleEndian, binary.BigEndian} {
			tiff := []byte("II")
			if order.(binary.ByteOrder) == binary.ByteOrder(binary.BigEndian) {
				tiff = []byte("MM")
			}
			tiff = order.AppendUint32(order.AppendUint16(tiff, 42), 8)
			tiff = order.AppendUint16(tiff, 1)
			tiff = order.AppendUint32(order.AppendUint16(order.AppendUint16(tiff, 0x0112), 3), 1)
			tiff = append(order.AppendUint16(tiff, uint16(o)), 0, 0)
			seg := append([]byte("Exif\x00\x00"), tiff...)
			app1 := append(binary.BigEndian.AppendUint16([]byte{0xff, 0xe1}, uint16(len(seg)+2)), seg...)
			data := append(append(append([]byte{}, plain[:2]...), app1...), plain[2:]...)
			img, err := decode(data, vision.DecodeOptions{HonourEXIF: true})
			if err != nil {
				t.Fatal(err)
			}
			if (o >= 5) != (img.W == 16) {
				t.Errorf("orientation %d: %d x %d", o, img.W, img.H)
			}
			name := "red"
			switch p := img.Pix; {
			case p[0] > 128 && p[1] > 128:
				name = "white"
			case p[1] > 128:
				name = "green"
			case p[2] > 128:
				name = "blue"
			}
			if name != want[o] {
				t.Errorf("orientation %d: the first pixel is %s, want %s", o, name, want[o])
			}
			if img, err := decode(data, vision.DecodeOptions{}); err != nil || img.W != 32 {
				t.Errorf("the default honours EXIF: %v", err)
			}
			for cut := range data[:len(app1)+2] { // damaged EXIF must only be ignored
				bad := append([]byte{}, data...)
				bad[cut] ^= 0xff
				_, _ = decode(bad, vision.DecodeOptions{HonourEXIF: true})
			}
		}
	}
}

func TestDamagedImages(t *testing.T) {
	for name, data := range samples(t, 40, 30) {
		for cut := range data {
			if name == "gif" && cut >= len(data)-2 || name == "png" && cut >= len(data)-12 {
				continue // the trailer carries no pixels
			}
			if _, err := decode(data[:cut], vision.DecodeOptions{}); err == nil {
				t.Errorf("%s truncated to %d of %d bytes is accepted", name, cut, len(data))
				break
			}
		}
		for i := range data {
			bad := append([]byte{}, data...)
			bad[i] ^= 1 << (i % 8)
			if img, err := decode(bad, vision.DecodeOptions{MaxPixels: 1 << 16}); err == nil && len(img.Pix) != 3*img.W*img.H {
				t.Errorf("%s with bit flipped at %d: inconsistent image", name, i)
			}
		}
		if _, err := decode(data, vision.DecodeOptions{MaxPixels: 40*30 - 1}); err == nil || !strings.Contains(err.Error(), "MaxPixels") {
			t.Errorf("%s above the limit: %v", name, err)
		}
		if _, err := decode(data, vision.DecodeOptions{MaxPixels: 40 * 30}); err != nil {
			t.Errorf("%s at the limit: %v", name, err)
		}
	}
	for _, bad := range []string{"", "hello", "\xff\xd8", "BM", "GIF89a"} {
		if _, err := decode([]byte(bad), vision.DecodeOptions{}); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
	// A header that claims 60000 x 60000 pixels must be refused unread.
	bomb := append([]byte{}, samples(t, 8, 8)["png"]...)
	binary.BigEndian.PutUint32(bomb[16:], 60000)
	binary.BigEndian.PutUint32(bomb[20:], 60000)
	// A wrong checksum would be refused anyway: patch it in.
	binary.BigEndian.PutUint32(bomb[29:], crc32.ChecksumIEEE(bomb[12:29]))
	if _, err := decode(bomb, vision.DecodeOptions{}); err == nil || !strings.Contains(err.Error(), "limit") {
		t.Errorf("a decompression bomb: %v", err)
	}
	if _, err := vision.DecodeFile("/does/not/exist.png", vision.DecodeOptions{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
}

func TestExtremeSizes(t *testing.T) {
	p := vision.ImageNet(32)
	dst := make([]float32, 3*32*32)
	for _, s := range [][2]int{{1, 1}, {1, 500}, {500, 1}, {32, 32}, {31, 37}, {2000, 3}} {
		img := &vision.RGB{Pix: bytes.Repeat([]byte{10, 200, 30}, s[0]*s[1]), W: s[0], H: s[1]}
		if err := p.Tensor(dst, img); err != nil {
			t.Fatalf("%v: %v", s, err)
		}
		for i, v := range dst { // a constant image stays constant
			ch := i / (32 * 32)
			want := (float32([]int{10, 200, 30}[ch])/255 - p.Mean[ch]) / p.Std[ch]
			if math.Abs(float64(v-want)) > 0.03 {
				t.Fatalf("%v: value %d is %v, want %v", s, i, v, want)
			}
		}
	}
	long := &vision.RGB{Pix: make([]byte, 3*100000), W: 100000, H: 1}
	if _, err := vision.ImageNet(384).Crop8(long); err == nil || !strings.Contains(err.Error(), "crop it first") {
		t.Errorf("an absurd aspect ratio: %v", err)
	}
	if _, err := p.Crop8(&vision.RGB{}); err == nil {
		t.Error("an image without pixels is accepted")
	}
	if err := p.Tensor(dst[1:], &vision.RGB{Pix: make([]byte, 3), W: 1, H: 1}); err == nil {
		t.Error("a destination of the wrong length is accepted")
	}
	for _, bad := range []vision.Preprocess{{}, {ResizeShort: 10, Crop: 20, Interpolation: "bicubic", Mean: p.Mean, Std: p.Std}, {ResizeShort: 10, Crop: 10, Interpolation: "lanczos", Mean: p.Mean, Std: p.Std}, {ResizeShort: 10, Crop: 10, Interpolation: "bicubic", Mean: p.Mean, Std: p.Std[:2]}} {
		if bad.Validate() == nil {
			t.Errorf("%+v is accepted", bad)
		}
	}
	grey := vision.Preprocess{ResizeShort: 8, Crop: 8, Interpolation: "bilinear", Mean: []float32{0}, Std: []float32{1}}
	one := make([]float32, 64)
	if err := grey.Tensor(one, &vision.RGB{Pix: bytes.Repeat([]byte{255, 0, 0}, 64), W: 8, H: 8}); err != nil || one[5] != float32(76)/255 {
		t.Errorf("grey of red is %v, %v", one[5], err)
	}
}

func TestHostilePhotoFile(t *testing.T) {
	data, err := os.ReadFile(golden.Path(t, "photos", "rocket.jpg"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := decode(data[:len(data)/2], vision.DecodeOptions{}); err == nil || !strings.Contains(err.Error(), "truncated") {
		t.Errorf("half a photo: %v", err)
	}
}
