package ablation_test

import (
	"context"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/mila-go/mila/block"
	"github.com/mila-go/mila/checkpoint"
	"github.com/mila-go/mila/internal/golden"
	"github.com/mila-go/mila/kernels"
	"github.com/mila-go/mila/models"
	"github.com/mila-go/mila/models/ablation"
	"github.com/mila-go/mila/vision"
)

// TestLogits runs every shipped model on a photograph and compares with the logits of
// the PyTorch model that trained it.
func TestLogits(t *testing.T) {
	want := golden.OpenFile(t, golden.Path(t, "ablation", "expected.safetensors"))
	img, err := vision.DecodeFile(golden.Path(t, "photos", "chelsea.png"), vision.DecodeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	x, size := make([]float32, 3*64*64), 0
	levels := kernels.Levels()
	if testing.Short() {
		levels = levels[len(levels)-1:]
	}
	for _, row := range ablation.Rows {
		name := ablation.Prefix + row
		if !slices.Contains(models.Shipped(), name) {
			t.Errorf("%s is not shipped", name)
			continue
		}
		f, err := models.OpenCheckpoint(name, "")
		if err != nil {
			t.Fatal(err)
		}
		for _, tensor := range f.Names() {
			if dt, _ := f.DType(tensor); dt != checkpoint.F16 {
				t.Errorf("%s: %s is %v", name, tensor, dt)
			}
		}
		config, _ := f.Config()
		f.Close()
		if config["row"] != row || config["seed"] == nil {
			t.Errorf("%s: the file is of row %v, seed %v", name, config["row"], config["seed"])
		}
		for _, level := range levels {
			m, err := models.Open(name, models.Options{Level: level})
			if err != nil {
				t.Fatal(err)
			}
			a := m.Architecture()
			if a.Params() > 900_000 {
				t.Errorf("%s has %d parameters", name, a.Params())
			}
			plan, err := m.Plan(1, 64, 64)
			if err != nil {
				t.Fatal(err)
			}
			if err := m.Preprocess.Tensor(x, img); err != nil {
				t.Fatal(err)
			}
			got := make([]float32, a.Classes())
			if err := plan.Forward(context.Background(), &block.Output{Logits: got}, x); err != nil {
				t.Fatal(err)
			}
			golden.Near(t, name+" at "+level.String(), got, want.F32("logits."+row), 2e-5)
			size += 2 * a.Params() / len(levels)
		}
	}
	if size > 25e6 {
		t.Errorf("the weights have %d bytes together", size)
	}
	if n := len(models.Shipped()) - 1; n != len(ablation.Rows) {
		t.Errorf("%d models are shipped and %d rows listed", n, len(ablation.Rows))
	}
}

// TestRecurrence compares the scan with the recurrence that the models were trained
// with.
func TestRecurrence(t *testing.T) {
	want := golden.OpenFile(t, golden.Path(t, "ablation", "expected.safetensors"))
	shape, _ := want.Shape("scan.q")
	tokens, heads, n := shape[0], shape[1], shape[2]
	shape, _ = want.Shape("scan.v")
	d := shape[2]
	q, k, v, delta, a := want.F32("scan.q"), want.F32("scan.k"), want.F32("scan.v"), want.F32("scan.delta"), want.F32("scan.a")
	for _, level := range kernels.Levels() {
		y := make([]float32, len(v))
		for h := range heads {
			state := make([]float32, n*d)
			kernels.Scan(level, y[h*d:], state, v[h*d:], delta[h*d:], kernels.NewScanA(a[h*d*n:(h+1)*d*n], d, n, 1), k[h*n:], q[h*n:],
				kernels.ScanShape{L: tokens, Ch: d, N: n, LdY: heads * d, LdU: heads * d, LdDelta: heads * d, LdB: heads * n, LdC: heads * n}, kernels.ScanOptions{NoInputGate: true})
		}
		golden.Near(t, level.String(), y, want.F32("scan.y"), 1e-5)
	}
}

// TestNotInLibrary makes sure that a program which does not ask for these weights
// does not carry them.
func TestNotInLibrary(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "github.com/mila-go/mila/models", "github.com/mila-go/mila/block").Output()
	if err != nil {
		t.Skipf("the go command is not at hand: %v", err)
	}
	if strings.Contains(string(out), "models/ablation") {
		t.Error("package models pulls the weights of the ablation in")
	}
}
