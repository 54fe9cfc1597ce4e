//go:build linux && !race

package models_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mila-go/mila/block"
	"github.com/mila-go/mila/checkpoint"
	"github.com/mila-go/mila/models"
)

// TestMemory opens MILA-T from a file in a process of its own and compares what
// stays resident with the weights and the plan's buffers: neither the file nor the
// garbage of loading may stay.
func TestMemory(t *testing.T) {
	const variable = "MILA_TEST_MEMORY"
	if path := os.Getenv(variable); path != "" {
		residentAfterForward(t, path)
		return
	}
	if testing.Short() {
		t.Log("not measured: it needs a file of 100 MB")
		return
	}
	cfg := block.Tiny()
	weights := block.Synthetic(cfg, 1)
	var tensors []checkpoint.Tensor
	for _, name := range weights.Names() {
		shape, _ := weights.Shape(name)
		n := 1
		for _, d := range shape {
			n *= d
		}
		x := make([]float32, n)
		if err := weights.Read(name, x); err != nil {
			t.Fatal(err)
		}
		tensors = append(tensors, checkpoint.Tensor{Name: name, Shape: shape, DType: checkpoint.F32, F32: x})
	}
	path := filepath.Join(t.TempDir(), "t.safetensors")
	if err := checkpoint.SaveSafetensors(path, tensors, nil); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestMemory$", "-test.v")
	cmd.Env = append(os.Environ(), variable+"="+path)
	out, err := cmd.CombinedOutput()
	var resident, arena int64
	if i := strings.Index(string(out), "resident "); err != nil || i < 0 {
		t.Fatalf("%v\n%s", err, out)
	} else if _, err := fmt.Sscanf(string(out[i:]), "resident %d arena %d", &resident, &arena); err != nil {
		t.Fatal(err)
	}
	const slack = 20 << 20
	if limit := 4*int64(cfg.Params()) + arena + slack; resident > limit {
		t.Errorf("%.1f MiB resident, more than the weights, %.1f MiB of buffers and 20 MiB, %.1f MiB", mib(resident), mib(arena), mib(limit))
	} else {
		t.Logf("%.1f MiB resident, of which %.1f MiB are weights and %.1f MiB buffers", mib(resident), mib(4*int64(cfg.Params())), mib(arena))
	}
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }

func residentAfterForward(t *testing.T, path string) {
	m, err := models.Open(path, models.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	cfg := m.Config()
	p, err := m.Plan(1, cfg.ImgSize, cfg.ImgSize)
	if err != nil {
		t.Fatal(err)
	}
	x := make([]float32, cfg.InChans*cfg.ImgSize*cfg.ImgSize)
	if err := p.Forward(context.Background(), &block.Output{Logits: make([]float32, cfg.NumClasses)}, x); err != nil {
		t.Fatal(err)
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	var kib int64
	for _, l := range strings.Split(string(status), "\n") {
		fmt.Sscanf(l, "VmRSS: %d kB", &kib)
	}
	fmt.Printf("resident %d arena %d\n", kib<<10, p.ArenaBytes())
}
