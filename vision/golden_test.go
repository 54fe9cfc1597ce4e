package vision_test

import (
	"crypto/sha256"
	"encoding/hex"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mila-go/mila/block"
	"github.com/mila-go/mila/internal/golden"
	"github.com/mila-go/mila/vision"
)

func u8(t *testing.T, s golden.Set, name string) *vision.RGB {
	t.Helper()
	shape, ok := s.Shape(name)
	if !ok {
		return nil
	}
	img := &vision.RGB{Pix: make([]byte, shape[0]*shape[1]*3), W: shape[1], H: shape[0]}
	if err := s.ReadBytes(name, img.Pix); err != nil {
		t.Fatal(err)
	}
	return img
}

// difference returns the largest and the mean difference of two images.
func difference(t *testing.T, got, want *vision.RGB) (most int, mean float64) {
	t.Helper()
	if got.W != want.W || got.H != want.H {
		t.Fatalf("%d x %d, want %d x %d", got.W, got.H, want.W, want.H)
	}
	for i, w := range want.Pix {
		d := int(got.Pix[i]) - int(w)
		most = max(most, d, -d)
		mean += math.Abs(float64(d))
	}
	return most, mean / float64(len(want.Pix))
}

func hash(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

// noise regenerates an input of the resampling cases: the top bytes of the
// generator, which are the signed 24-bit values that Generate scales, plus 2^23.
func noise(name string, seed uint64, h, w int, blocks bool) *vision.RGB {
	bytes := func(name string, n int) []byte {
		v, out := make([]float32, n), make([]byte, n)
		block.Generate(v, name, seed, 0, 1<<23)
		for i, s := range v {
			out[i] = byte((int64(s) + 1<<23) >> 16)
		}
		return out
	}
	img := &vision.RGB{Pix: bytes("image."+name, 3*h*w), W: w, H: h}
	if blocks {
		bw := (w + 7) / 8
		b := bytes("block."+name, 3*((h+7)/8)*bw)
		for y := range h {
			for x := range w {
				for c := range 3 {
					at := (y*w+x)*3 + c
					img.Pix[at] = byte((7*int(b[(y/8*bw+x/8)*3+c]) + int(img.Pix[at])) / 8)
				}
			}
		}
	}
	return img
}

func TestResizeEqualsPillow(t *testing.T) {
	var meta struct {
		Cases map[string]struct {
			Height, Width int
			Short         int    `json:"short_side"`
			Seed          uint64 `json:"generator_seed"`
			Resized       [2]int `json:"resized_hw"`
			Hash          string `json:"input_sha256"`
		}
	}
	golden.JSON(t, "resize_noise", &meta)
	s := golden.Open(t, "resize_noise", false)
	for name, c := range meta.Cases {
		odd := strings.HasSuffix(name, "1") || strings.HasSuffix(name, "3") || strings.HasSuffix(name, "5") || strings.HasSuffix(name, "7") || strings.HasSuffix(name, "9")
		img := noise(name, c.Seed, c.Height, c.Width, odd)
		if hash(img.Pix) != c.Hash {
			t.Fatalf("%s: the generated input differs from the documented one", name)
		}
		got, err := vision.Resize(img, c.Resized[1], c.Resized[0])
		if err != nil {
			t.Fatal(err)
		}
		want := u8(t, s, name+".resized_u8")
		if want == nil {
			t.Fatalf("%s: nothing to compare with", name)
		}
		if most, _ := difference(t, got, want); most != 0 {
			t.Errorf("%s: differs by up to %d levels", name, most)
		}
		// The centre crop must be the same pixels, though it is computed without the rest.
		p := vision.ImageNet(c.Short)
		p.ResizeShort, p.Crop = c.Short, c.Short/2
		crop, err := p.Crop8(img)
		if err != nil {
			t.Fatal(err)
		}
		top := int(math.RoundToEven(float64(got.H-p.Crop) / 2))
		left := int(math.RoundToEven(float64(got.W-p.Crop) / 2))
		for y := range p.Crop {
			at := 3 * ((top+y)*got.W + left)
			if string(crop.Pix[3*y*p.Crop:3*(y+1)*p.Crop]) != string(got.Pix[at:at+3*p.Crop]) {
				t.Errorf("%s: row %d of the crop differs from the whole", name, y)
				break
			}
		}
	}
}

// TestShippedPhotos compares what the nano model sees of the shipped photos.
func TestShippedPhotos(t *testing.T) {
	s := golden.OpenFile(t, golden.Path(t, "nano", "photos.expected.safetensors"))
	p := vision.ImageNet(96)
	p.ResizeShort = 96
	for name, allowed := range map[string]int{"chelsea.png": 0, "coffee.png": 0, "rocket.jpg": 3} {
		img, err := vision.DecodeFile(golden.Path(t, "photos", name), vision.DecodeOptions{})
		if err != nil {
			t.Fatal(err)
		}
		got, err := p.Crop8(img)
		if err != nil {
			t.Fatal(err)
		}
		most, mean := difference(t, got, u8(t, s, "photo."+name+".pixels_u8"))
		t.Logf("%s: differs by at most %d, mean %.4f", name, most, mean)
		if most > allowed {
			t.Errorf("%s: differs by %d levels, allowed %d", name, most, allowed)
		}
	}
}

// TestPhotos compares with Pillow on photographs that are not in this
// repository.
func TestPhotos(t *testing.T) {
	path, ok := golden.Shared(t, "golden", "photos.safetensors")
	if !ok {
		return
	}
	s := golden.OpenFile(t, path)
	dir, _ := golden.Shared(t, "photos")
	files, err := filepath.Glob(filepath.Join(dir, "*.jpg"))
	if err != nil || len(files) == 0 {
		t.Fatal("no photos")
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".jpg")
		img, err := vision.DecodeFile(file, vision.DecodeOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if want := u8(t, s, name+".decoded_u8"); want != nil {
			most, mean := difference(t, img, want)
			t.Logf("%s decoded: at most %d, mean %.4f", name, most, mean)
			// From the reference's own pixels the transform must be exact.
			exact, err := vision.ImageNet(224).Crop8(want)
			if err != nil {
				t.Fatal(err)
			}
			if most, _ := difference(t, exact, u8(t, s, name+".crop224_u8")); most != 0 {
				t.Errorf("%s: crop from the reference's pixels differs by %d", name, most)
			}
			if most > 8 {
				t.Errorf("%s: decoded pixels differ by %d", name, most)
			}
		}
		for _, size := range []string{"224", "384"} {
			want := u8(t, s, name+".crop"+size+"_u8")
			if want == nil {
				continue
			}
			p := vision.ImageNet(want.W)
			got, err := p.Crop8(img)
			if err != nil {
				t.Fatal(err)
			}
			most, mean := difference(t, got, want)
			t.Logf("%s crop %s: at most %d, mean %.4f", name, size, most, mean)
			if most > 3 || mean > 0.1 {
				t.Errorf("%s crop %s: differs by %d, mean %.4f", name, size, most, mean)
			}
			if tensor := s.F32(name + ".tensor" + size); tensor != nil {
				x := make([]float32, len(tensor))
				p.ResizeShort = want.W // takes the reference's pixels as they are
				if err := p.Tensor(x, want); err != nil {
					t.Fatal(err)
				}
				golden.Near(t, name+".tensor"+size, x, tensor, 1e-6)
			}
		}
	}
}

func TestLabels(t *testing.T) {
	dir := t.TempDir()
	for content, want := range map[string]string{
		"cat\ndog\n": "cat,dog",
		"index\twnid\tnames\n0\tn01\tcat, kitty\n": "cat, kitty",
		"0\tn1\tcat\n1\tn2\tdog\n":                 "cat,dog",
		`["cat","dog"]`:                            "cat,dog",
	} {
		path := filepath.Join(dir, "labels")
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if got, err := vision.LoadLabels(path); err != nil || strings.Join(got, ",") != want {
			t.Errorf("%q gives %q, %v", content, got, err)
		}
	}
	nan := float32(math.NaN())
	got := vision.TopK([]float32{0.1, nan, 0.5, 0.5}, []string{"a", "b", "c"}, 9)
	var order []int
	for _, p := range got {
		order = append(order, p.Index)
	}
	if len(order) != 4 || order[0] != 2 || order[1] != 3 || order[2] != 0 || order[3] != 1 || got[1].Label != "class 3" {
		t.Errorf("TopK gives %v", got)
	}
}
