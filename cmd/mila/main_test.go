package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mila-go/mila/checkpoint"
	"github.com/mila-go/mila/internal/golden"
)

// mila runs the command with standard input from a file or nothing.
func mila(t *testing.T, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var in io.Reader = strings.NewReader("")
	if stdin != "" {
		f, err := os.Open(stdin)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		in = f
	}
	var out, errs bytes.Buffer
	code = run(context.Background(), append([]string{"mila"}, args...), in, &out, &errs)
	return code, out.String(), errs.String()
}

func lines(t *testing.T, s string) []answer {
	var out []answer
	dec := json.NewDecoder(strings.NewReader(s))
	for dec.More() {
		var a answer
		if err := dec.Decode(&a); err != nil {
			t.Fatal(err)
		}
		out = append(out, a)
	}
	return out
}

func TestClassifyPhotos(t *testing.T) {
	chelsea, coffee := golden.Path(t, "photos", "chelsea.png"), golden.Path(t, "photos", "coffee.png")
	want := map[string]struct {
		label string
		prob  float64
	}{chelsea: {"tabby", 0.679}, coffee: {"espresso", 0.765}, "-": {"tabby", 0.679}}
	for _, threads := range []string{"0", "1", "2"} {
		code, out, errs := mila(t, chelsea, "classify", "--json", "--top", "3", chelsea, "--threads", threads, coffee, "-")
		if code != 0 {
			t.Fatalf("exit %d: %s", code, errs)
		}
		answers := lines(t, out)
		if len(answers) != 3 {
			t.Fatalf("%d answers: %s", len(answers), out)
		}
		for _, a := range answers {
			w := want[a.Image]
			if len(a.Top) != 3 || a.Top[0].Label != w.label || math.Abs(float64(a.Top[0].Prob)-w.prob) > 0.0006 || a.MS == nil {
				t.Errorf("%+v, want %+v", a, w)
			}
		}
	}
	code, out, _ := mila(t, "", "classify", chelsea)
	if code != 0 || !strings.Contains(out, "67.9 %  tabby") {
		t.Errorf("exit %d: %s", code, out)
	}
}

func TestClassifyInputs(t *testing.T) {
	dir := filepath.Dir(golden.Path(t, "photos", "coffee.png"))
	for _, arg := range []string{dir, filepath.Join(dir, "*.*g"), dir + "/c*.png"} {
		code, out, errs := mila(t, "", "classify", "--json", arg)
		if n := len(lines(t, out)); code != 0 || n < 2 {
			t.Errorf("%s: exit %d, %d answers, %s", arg, code, n, errs)
		}
	}
	bad := filepath.Join(t.TempDir(), "bad.png")
	if err := os.WriteFile(bad, []byte("\x89PNG\r\n\x1a\nnonsense"), 0o644); err != nil {
		t.Fatal(err)
	}
	code, out, errs := mila(t, "", "classify", bad, dir+"/coffee.png", "/no/such.jpg")
	if code != 1 || !strings.Contains(out, "espresso") || !strings.Contains(errs, "bad.png: damaged") || !strings.Contains(errs, "/no/such.jpg") {
		t.Errorf("exit %d\n%s\n%s", code, out, errs)
	}
	code, out, _ = mila(t, "", "classify", "--json", bad)
	if a := lines(t, out); code != 1 || len(a) != 1 || a[0].Error == "" || a[0].Image != bad {
		t.Errorf("exit %d: %s", code, out)
	}
	if code, _, errs := mila(t, "", "classify", "--max-pixels", "1000", dir+"/coffee.png"); code != 1 || !strings.Contains(errs, "--max-pixels") {
		t.Errorf("exit %d: %s", code, errs)
	}
}

func TestUsage(t *testing.T) {
	for _, args := range []string{"nonsense", "classify", "classify --nope x", "classify --top 0 x", "classify --threads -1 x", "run", "run --weights x --input y --output z --taps all",
		"info", "info a b", "bench --dtype int8", "bench --isa avx9000", "bench --batch 0", "bench extra", "eval", "eval --data x --json --per-class", "eval --data x --max-pixels 0", "eval --data x y", "classify --class tabby x", "classify --heatmap-size 64 x", "cpu x", "run --weights nano --input x --output y extra", "run --weights nano --input x --output y --state best"} {
		code, _, errs := mila(t, "", strings.Fields(args)...)
		if code != 2 || !strings.Contains(errs, "mila: ") {
			t.Errorf("mila %s: exit %d, %s", args, code, errs)
		}
	}
	for _, args := range []string{"", "help", "--help", "classify --help", "run --help", "info --help", "eval --help", "bench --help", "cpu --help", "--version", "completion bash"} {
		if code, out, errs := mila(t, "", strings.Fields(args)...); code != 0 || len(out) < 10 {
			t.Errorf("mila %s: exit %d, %q, %q", args, code, out, errs)
		}
	}
	for _, args := range []string{"info /no/such.pth", "info unknown", "bench --model /no/such", "classify --model unknown x.png"} {
		if code, _, errs := mila(t, "", strings.Fields(args)...); code != 1 || errs == "" {
			t.Errorf("mila %s: exit %d, %q", args, code, errs)
		}
	}
}

func save(t *testing.T, tensors ...checkpoint.Tensor) string {
	path := filepath.Join(t.TempDir(), "x.safetensors")
	if err := checkpoint.SaveSafetensors(path, tensors, nil); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestRunCheckpoints(t *testing.T) {
	want := golden.Open(t, "ckpt_tiny.out", false)
	x := save(t, checkpoint.Tensor{Name: "input", Shape: []int{2, 3, 32, 32}, F32: want.F32("input")})
	y := filepath.Join(t.TempDir(), "y.safetensors")
	cfg := golden.Path(t, "golden", "ckpt_tiny.json") // a sidecar with the configuration nested
	for _, tc := range []struct{ file, flags, logits, note string }{
		{"ckpt_tiny_train.pth", "", "logits", ""}, {"ckpt_tiny_train_ema.pth", "", "logits", "also holds ema"}, {"ckpt_tiny_train_ema.pth", "--state ema", "logits_ema", ""},
		{"ckpt_tiny_plain.pth", "--config " + cfg, "logits", ""}, {"ckpt_tiny_half.pth", "--threads 2 --config " + cfg, "logits_half", ""}, {"ckpt_tiny_legacy.pth", "--isa generic --dtype f32 --config " + cfg, "logits", ""},
	} {
		args := append([]string{"run", "--weights", golden.Path(t, "golden", tc.file), "--input", x, "--output", y}, strings.Fields(tc.flags)...)
		code, _, errs := mila(t, "", args...)
		if code != 0 || !strings.Contains(errs, tc.note) || tc.note == "" && errs != "" {
			t.Fatalf("%s: exit %d, %q", tc.file, code, errs)
		}
		got := golden.OpenFile(t, y)
		golden.Near(t, tc.file, got.F32("logits"), want.F32(tc.logits), 1e-5)
		if s, _ := got.Shape("pooled"); !slices.Equal(s, []int{2, 64}) {
			t.Errorf("pooled has the shape %v", s)
		}
	}
	code, _, errs := mila(t, "", "run", "--weights", golden.Path(t, "golden", "ckpt_tiny_plain.pth"), "--input", x, "--output", y)
	if code != 1 || !strings.Contains(errs, "--config") {
		t.Errorf("a checkpoint whose heads cannot be inferred: exit %d, %s", code, errs)
	}
	code, _, errs = mila(t, "", "run", "--weights", "nano", "--features", "--input", x, "--output", y)
	if code != 1 || !strings.Contains(errs, "norm0") {
		t.Errorf("features without norms: exit %d, %s", code, errs)
	}
}

// TestRunTaps writes every intermediate result both ways and compares them.
func TestRunTaps(t *testing.T) {
	acts := golden.Open(t, "mila_c32.acts", false)
	shape, _ := acts.Shape("input")
	x := save(t, checkpoint.Tensor{Name: "input", Shape: shape, F32: acts.F32("input")})
	weights := saveSynthetic(t, "mila_c32")
	cfg := golden.Path(t, "golden", "mila_c32.json")
	dir := t.TempDir()
	read := func(taps string) golden.Set {
		y := filepath.Join(dir, taps+".safetensors")
		if code, _, errs := mila(t, "", "run", "--weights", weights, "--config", cfg, "--input", x, "--output", y, "--taps", taps); code != 0 {
			t.Fatalf("exit %d: %s", code, errs)
		}
		return golden.OpenFile(t, y)
	}
	blocks, steps := read("blocks"), read("steps")
	for _, set := range []golden.Set{blocks, steps} {
		for _, name := range acts.Names() {
			want := acts.F32(name)
			isStep := strings.Contains(name, ".steps.")
			if name == "input" || isStep && !steps.Has(name) || isStep && set.File == blocks.File {
				continue
			}
			got := set.F32(name)
			if len(got) < len(want) {
				t.Errorf("%s was not written", name)
				continue
			}
			golden.Near(t, name, got[:len(want)], want, 1e-5)
		}
	}
	for _, name := range acts.Names() {
		if name != "input" && !steps.Has(name) {
			t.Errorf("--taps steps lacks %s", name)
		}
	}
	if s, _ := steps.Shape("layers.0.blocks.0.steps.kv"); len(s) != 4 || s[0] != shape[0] {
		t.Errorf("kv has the shape %v, want the batch in front", s)
	}
}

func TestRunWrongInput(t *testing.T) {
	y := filepath.Join(t.TempDir(), "y.safetensors")
	for want, x := range map[string]checkpoint.Tensor{
		`no tensor "input"`: {Name: "data", Shape: []int{1}, F32: []float32{1}},
		"(N, C, H, W)":      {Name: "input", Shape: []int{4}, F32: make([]float32, 4)},
		"must be F32":       {Name: "input", DType: checkpoint.U8, Shape: []int{1, 3, 1, 1}, Data: make([]byte, 3)},
		"nothing to run":    {Name: "input", Shape: []int{0, 3, 4, 4}, F32: []float32{}},
		"has 2 channels":    {Name: "input", Shape: []int{1, 2, 1, 1}, F32: make([]float32, 2)},
	} {
		code, _, errs := mila(t, "", "run", "--weights", "nano", "--input", save(t, x), "--output", y)
		if code != 1 || !strings.Contains(errs, want) {
			t.Errorf("want %q: exit %d, %s", want, code, errs)
		}
		if _, err := os.Stat(y); err == nil {
			t.Error("an output was written")
		}
	}
}

func TestBenchJSON(t *testing.T) {
	code, out, errs := mila(t, "", "bench", "--model", "nano", "--size", "32", "--duration", "1ms", "--threads", "1", "--json")
	if code != 0 {
		t.Fatal(errs)
	}
	var got map[string]any
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	for _, key := range strings.Fields("model size batch threads dtype isa median_ms p10_ms p90_ms gflops peak_gflops peak_share") {
		if _, ok := got[key]; !ok {
			t.Errorf("no key %s in %s", key, out)
		}
	}
	if len(got) != 12 || got["model"] != "nano" || got["size"] != 32.0 || got["dtype"] != "f32" {
		t.Errorf("%s", out)
	}
}

func TestInfo(t *testing.T) {
	for _, name := range []string{"nano", "t", golden.Path(t, "golden", "ckpt_tiny_train_ema.pth")} {
		code, out, errs := mila(t, "", "info", "--json", name)
		var got struct {
			Parameters int
			MACs       int64
			Tensors    []tensorInfo
		}
		if err := json.Unmarshal([]byte(out), &got); err != nil || code != 0 || got.Parameters == 0 || got.MACs == 0 || len(got.Tensors) < 100 {
			t.Errorf("%s: exit %d, %v, %s", name, code, err, errs)
		}
		if code, out, _ := mila(t, "", "info", name); code != 0 || !strings.Contains(out, "patch_embed.conv1.conv.weight") {
			t.Errorf("%s: exit %d", name, code)
		}
	}
}

func TestCPU(t *testing.T) {
	code, out, _ := mila(t, "", "cpu")
	if code != 0 || !strings.Contains(out, "in use") || !strings.Contains(out, "Gemm") {
		t.Errorf("exit %d: %s", code, out)
	}
}
