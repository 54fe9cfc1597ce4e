package main

import (
	"encoding/json"
	"path/filepath"
	"testing"

	"github.com/mila-go/mila/block"
	"github.com/mila-go/mila/checkpoint"
	"github.com/mila-go/mila/internal/golden"
)

// saveSynthetic writes the generated weights of a golden model to a file.
func saveSynthetic(t *testing.T, name string) string {
	var s struct {
		Config json.RawMessage
		Seed   uint64 `json:"generator_seed"`
	}
	golden.JSON(t, name, &s)
	cfg, err := block.ParseConfig(s.Config)
	if err != nil {
		t.Fatal(err)
	}
	w := block.Synthetic(cfg, s.Seed)
	var tensors []checkpoint.Tensor
	for _, n := range w.Names() {
		shape, _ := w.Shape(n)
		size := 1
		for _, d := range shape {
			size *= d
		}
		x := make([]float32, size)
		if err := w.Read(n, x); err != nil {
			t.Fatal(err)
		}
		tensors = append(tensors, checkpoint.Tensor{Name: n, Shape: shape, F32: x})
	}
	path := filepath.Join(t.TempDir(), name+".safetensors")
	if err := checkpoint.SaveSafetensors(path, tensors, nil); err != nil {
		t.Fatal(err)
	}
	return path
}
