package main

import (
	"image"
	_ "image/jpeg"
	_ "image/png"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mila-go/mila/internal/golden"
)

func picture(t *testing.T, path string) image.Image {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m, _, err := image.Decode(f)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestHeatmap draws the same maps by every way to name the files.
func TestHeatmap(t *testing.T) {
	chelsea, coffee := golden.Path(t, "photos", "chelsea.png"), golden.Path(t, "photos", "coffee.png")
	dir := t.TempDir()
	one := filepath.Join(dir, "one.png")
	code, out, errs := mila(t, "", "classify", "--threads", "1", "--json", "--heatmap", one, chelsea)
	if a := lines(t, out); code != 0 || len(a) != 1 || a[0].Map != one || a[0].Top[0].Label != "tabby" {
		t.Fatalf("exit %d: %s %s", code, out, errs)
	}
	want, err := os.ReadFile(one)
	if err != nil {
		t.Fatal(err)
	}
	if b := picture(t, one).Bounds(); b.Dx() != 512 || b.Dy() < 341+40 { // the photo has 451 x 300
		t.Errorf("the map has %v", b)
	}
	many := filepath.Join(dir, "new", "maps")
	code, out, errs = mila(t, chelsea, "classify", "--threads", "1", "--heatmap", many, "--class", "tabby", chelsea, coffee, "-", chelsea)
	if code != 0 || !strings.Contains(out, "espresso") || strings.Contains(out, "heatmap") {
		t.Fatalf("exit %d: %s %s", code, out, errs)
	}
	for _, name := range []string{"chelsea.png", "stdin.png", "chelsea-2.png"} {
		if got, err := os.ReadFile(filepath.Join(many, name)); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s is another drawing, %v", name, err)
		}
	}
	if got, err := os.ReadFile(filepath.Join(many, "coffee.png")); err != nil || slices.Equal(got, want) {
		t.Errorf("coffee.png is the drawing of another photo, %v", err)
	}
	pattern := filepath.Join(dir, "*.map.jpg")
	if code, _, errs := mila(t, "", "classify", "--threads", "1", "--heatmap", pattern, "--heatmap-size", "64", chelsea, coffee); code != 0 {
		t.Errorf("exit %d: %s", code, errs)
	}
	if b := picture(t, filepath.Join(dir, "chelsea.map.jpg")).Bounds(); b.Dx() != 512 {
		t.Errorf("the map has %v", b)
	}
}

func TestHeatmapErrors(t *testing.T) {
	dir := t.TempDir()
	photo := photo(t, "coffee.png")
	image := filepath.Join(dir, "coffee.png")
	if err := os.WriteFile(image, photo, 0o644); err != nil {
		t.Fatal(err)
	}
	bad := filepath.Join(dir, "bad.png")
	if err := os.WriteFile(bad, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		code int
		want string
		args []string
	}{
		{2, "would overwrite the image", []string{"--heatmap", dir, image}},
		{2, "would overwrite the image", []string{"--heatmap", image, image}},
		{2, "would overwrite the image", []string{"--heatmap", filepath.Join(dir, "*.png"), image}},
		{2, "2 images", []string{"--heatmap", filepath.Join(dir, "x.png"), image, image}},
		{2, "one *", []string{"--heatmap", filepath.Join(dir, "**.png"), image}},
		{2, "one *", []string{"--heatmap", filepath.Join(dir, "*"), image}},
		{2, "needs a name", []string{"--heatmap", "", image}},
		{2, "similar are espresso", []string{"--heatmap", filepath.Join(dir, "x.png"), "--class", "espr", image}},
		{2, "0 to 199", []string{"--heatmap", filepath.Join(dir, "x.png"), "--class", "200", image}},
		{2, "at least 1", []string{"--heatmap", filepath.Join(dir, "x.png"), "--heatmap-size", "-1", image}},
		{1, "16384", []string{"--heatmap", filepath.Join(dir, "x.png"), "--heatmap-size", "20000", image}},
		{1, "empty", []string{"--heatmap", filepath.Join(dir, "maps"), bad, image}},
		{1, "not a directory", []string{"--heatmap", filepath.Join(image, "maps"), image}},
	} {
		code, _, errs := mila(t, "", append([]string{"classify", "--threads", "1"}, tc.args...)...)
		if code != tc.code || !strings.Contains(errs, tc.want) {
			t.Errorf("%v: exit %d, %s; want %d, %s", tc.args, code, errs, tc.code, tc.want)
		}
	}
	if now, err := os.ReadFile(image); err != nil || !slices.Equal(now, photo) {
		t.Error("the image is another one")
	}
	if _, err := os.Stat(filepath.Join(dir, "maps", "coffee.png")); err != nil {
		t.Error("a bad image stopped the others: ", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "x.png")); err == nil {
		t.Error("a map was drawn in spite of an error")
	}
}
