// Package golden finds and reads the reference numbers that tests compare with:
// testdata/golden of this repository, and, where a checkout has it, the larger
// collection beside the repository from which that was selected.
package golden

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mila-go/mila/checkpoint"
)

// Root returns the directory of the module.
func Root(t testing.TB) string {
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			t.Fatal("no go.mod above the test's directory")
		}
		dir = parent
	}
}

// Path returns a file below testdata.
func Path(t testing.TB, elem ...string) string {
	return filepath.Join(append([]string{Root(t), "testdata"}, elem...)...)
}

// Shared returns a file of the collection beside the repository, and logs and
// returns false where it is absent.
func Shared(t testing.TB, elem ...string) (string, bool) {
	path := filepath.Join(append([]string{filepath.Dir(Root(t)), "shared"}, elem...)...)
	if _, err := os.Stat(path); err != nil {
		t.Logf("not compared: %s is not on this machine", filepath.Join(elem...))
		return "", false
	}
	return path, true
}

// Set is a golden .safetensors file.
type Set struct {
	*checkpoint.File
	t testing.TB
}

// Open opens testdata/golden/NAME.safetensors, or with full the complete set of
// which that is a selection, where it is at hand.
func Open(t testing.TB, name string, full bool) Set {
	path := Path(t, "golden", name+".safetensors")
	if full {
		if p, ok := Shared(t, "golden", name+".safetensors"); ok {
			path = p
		}
	}
	return OpenFile(t, path)
}

// OpenFile opens a .safetensors file.
func OpenFile(t testing.TB, path string) Set {
	f, err := checkpoint.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return Set{f, t}
}

// F32 returns a tensor, or nil if there is none of that name.
func (s Set) F32(name string) []float32 {
	shape, ok := s.Shape(name)
	if !ok {
		return nil
	}
	n := 1
	for _, d := range shape {
		n *= d
	}
	x := make([]float32, n)
	if err := s.Read(name, x); err != nil {
		s.t.Fatal(err)
	}
	return x
}

// Cases returns the parts before the first dot of the tensors' names.
func (s Set) Cases() map[string]bool {
	m := map[string]bool{}
	for _, n := range s.Names() {
		c, _, _ := strings.Cut(n, ".")
		m[c] = true
	}
	return m
}

// JSON decodes testdata/golden/NAME.json.
func JSON(t testing.TB, name string, into any) {
	data, err := os.ReadFile(Path(t, "golden", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, into); err != nil {
		t.Fatalf("%s.json: %v", name, err)
	}
}

// RelToMax returns max|got-want| / max|want|, +Inf for different lengths and NaN
// where one of two values is NaN.
func RelToMax(got, want []float32) float64 {
	if len(got) != len(want) {
		return math.Inf(1)
	}
	var diff, top float64
	for i, w := range want {
		d := math.Abs(float64(got[i]) - float64(w))
		if math.IsNaN(d) {
			return d
		}
		diff, top = max(diff, d), max(top, math.Abs(float64(w)))
	}
	if top == 0 {
		return diff
	}
	return diff / top
}

// Near fails the test unless got is within tol of want, relative to the maximum.
func Near(t testing.TB, what string, got, want []float32, tol float64) {
	t.Helper()
	if d := RelToMax(got, want); !(d <= tol) {
		t.Errorf("%s: differs by %.3g of the maximum, allowed %.3g (%d and %d values)", what, d, tol, len(got), len(want))
	}
}
