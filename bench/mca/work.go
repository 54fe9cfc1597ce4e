package main

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"github.com/mila-go/mila/kernels"
)

// workload is an operation whose instructions in kernels/arm64 are counted: units of
// work, which are four multiply-adds or four decays.
type workload struct {
	name  string
	units int
	run   func()
}

// workloads are operations at the shapes of a stage of MILA-T with 14 x 14 tokens.
var workloads = func() (all []workload) {
	const tokens, ch = 196, 384
	values := func(n int) []float32 {
		x := make([]float32, n)
		for i := range x {
			x[i] = float32(i%23)/16 - 0.5
		}
		return x
	}
	for _, act := range []kernels.Activation{kernels.Identity, kernels.SiLU, kernels.GELU} {
		all = append(all, workload{fmt.Sprintf("product %d x %d x %d, bias, %v", tokens, ch, ch, act), tokens * ch * ch / 4, func() {
			packed := make([]float32, kernels.PackedLen(kernels.Auto, ch, ch))
			kernels.Pack(kernels.Auto, packed, values(ch*ch), ch, ch, ch)
			kernels.Gemm(kernels.Auto, values(tokens*ch), ch, values(tokens*ch), ch, packed, tokens, ch, ch, kernels.Epilogue{Bias: values(ch), Act: act})
		}})
	}
	all = append(all, workload{"depthwise 3x3, 14 x 14 x 384", tokens * ch * 9 / 4, func() {
		s := kernels.DWShape{H: 14, W: 14, Ch: ch, Stride: 1, Row1: 14}
		kernels.DWConv3x3(kernels.Auto, values(tokens*ch), values(16*16*ch), values(9*ch), values(ch), s, kernels.Identity)
	}})
	for _, states := range []int{16, 1} {
		for _, kind := range []string{"general", "powers"} {
			if states == 1 && kind == "powers" {
				continue
			}
			for _, fused := range []bool{false, true} {
				name := fmt.Sprintf("scan of %d tokens, %d channels, %d states, %s", tokens, ch, states, kind)
				if fused {
					name += ", softplus, D and gate"
				}
				all = append(all, workload{name, tokens * ch * states / 4, func() {
					matrix, delta := make([]float32, ch*states), values(tokens*ch)
					for i := range matrix {
						matrix[i] = -float32(i%states + 1)
					}
					o := kernels.ScanOptions{}
					if fused {
						o = kernels.ScanOptions{DeltaBias: values(ch), Softplus: true, D: values(ch), Z: values(tokens * ch)}
					}
					a := kernels.NewScanA(matrix, ch, states, 1)
					if kind == "general" {
						a = a.General()
					}
					bc := values(tokens * states)
					kernels.Scan(kernels.Auto, values(tokens*ch), values(ch*states), values(tokens*ch), delta, a, bc, bc, kernels.ScanShape{L: tokens, Ch: ch, N: states}, o)
				}})
			}
		}
	}
	return append(all, workload{fmt.Sprintf("causal convolution of %d tokens, %d channels, width 4, SiLU", tokens, ch), tokens * ch * 4 / 4, func() {
		kernels.Conv1D(kernels.Auto, values(tokens*ch), values(3*ch), values(tokens*ch), values(4*ch), values(ch), kernels.Conv1DShape{L: tokens, Ch: ch, Width: 4}, kernels.SiLU)
	}})
}()

// executed runs the workloads under qemu with the plugin and writes how many
// instructions each took.
func executed(w *strings.Builder, plugin string) error {
	dir, err := os.MkdirTemp("", "mca-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	binary, log := dir+"/mca", dir+"/log"
	build := exec.Command("go", "build", "-o", binary, "./bench/mca")
	build.Env = append(os.Environ(), "GOARCH=arm64", "GOOS=linux", "CGO_ENABLED=0")
	if _, err := output(build); err != nil {
		return err
	}
	fmt.Fprint(w, "\n## Instructions run\nIn functions of kernels/arm64, counted by a plugin of qemu.\n\n| operation | instructions | of four multiply-adds or decays |\n| --- | --- | --- |\n")
	for i, work := range workloads {
		if _, err := output(exec.Command("qemu-aarch64", "-plugin", plugin+",in=/kernels/arm64.", "-d", "plugin", "-D", log, binary, "-work", strconv.Itoa(i))); err != nil {
			return err
		}
		text, err := os.ReadFile(log)
		if err != nil {
			return err
		}
		total := 0
		for line := range strings.Lines(string(text)) {
			if _, count, found := strings.Cut(strings.TrimSpace(line), " "); found {
				n, err := strconv.Atoi(count)
				if err != nil {
					return err
				}
				total += n
			}
		}
		if total == 0 {
			fmt.Fprintf(w, "| %s | portable Go | |\n", work.name)
			continue
		}
		fmt.Fprintf(w, "| %s | %d | %.2f |\n", work.name, total, float64(total)/float64(work.units))
	}
	return nil
}
