package kernels

import (
	"os"
	"strings"
	"testing"

	"github.com/mila-go/mila/internal/guard"
)

// TestChosenLevel asserts which level runs: silently taking a slow path is the
// commonest fault of a library like this one.
func TestChosenLevel(t *testing.T) {
	want := bestOfCPU
	// A run on an emulated CPU says which level that one should choose.
	if name := os.Getenv("MILA_TEST_LEVEL"); name != "" {
		var err error
		if want, err = ParseLevel(name); err != nil {
			t.Fatal(err)
		}
	}
	if got := Levels()[len(Levels())-1]; got != want {
		t.Fatalf("the best level of this build and CPU is %v, want %v", got, want)
	}
	if got, err := levelFromEnv(""); got != want || err != nil {
		t.Fatalf("level without %s: %v, %v", EnvISA, got, err)
	}
	if got, err := levelFromEnv("auto"); got != want || err != nil {
		t.Fatalf("level for auto: %v, %v", got, err)
	}
	for _, l := range Levels() {
		if got, err := levelFromEnv(l.String()); got != l || err != nil {
			t.Errorf("%s=%v gives %v, %v", EnvISA, l, got, err)
		}
	}
	for _, name := range []string{"avx1024", "Level(77)", " "} {
		if l, err := levelFromEnv(name); err == nil || !strings.Contains(err.Error(), "generic") {
			t.Errorf("%s=%q gives %v and error %v; want an error that says what is available", EnvISA, name, l, err)
		}
	}
}

func TestImpossibleLevelPanicsBeforeMemory(t *testing.T) {
	defer func() {
		if msg, _ := recover().(string); !strings.Contains(msg, "cannot run") {
			t.Errorf("panic %q", msg)
		}
	}()
	Add(Level(200), nil, nil, nil)
}

// TestShapesAreChecked calls operations with wrong shapes; each must panic with
// a message that names the operation, before it writes anything.
func TestShapesAreChecked(t *testing.T) {
	x := make([]float32, 64)
	guard.Refused(t, x, map[string]func(){
		"Gemm: y":           func() { Gemm(Generic, x[:3], 4, x, 4, x, 1, 4, 4, Epilogue{}) },
		"Gemm: rows of x":   func() { Gemm(Generic, x, 4, x, 3, x, 2, 4, 4, Epilogue{}) },
		"Gemm: w (packed)":  func() { Gemm(Generic, x, 4, x, 4, x[:15], 1, 4, 4, Epilogue{}) },
		"Gemm: bias":        func() { Gemm(Generic, x, 4, x, 4, x, 1, 4, 4, Epilogue{Bias: x[:3]}) },
		"Gemm: mul":         func() { Gemm(Generic, x, 4, x, 4, x, 2, 4, 4, Epilogue{Mul: x[:7], LdMul: 4}) },
		"Gemm: rows of add": func() { Gemm(Generic, x, 4, x, 4, x, 2, 4, 4, Epilogue{Add: x}) },
		"Gemm: unknown":     func() { Gemm(Generic, x, 4, x, 4, x, 1, 4, 4, Epilogue{Act: 99}) },
		"Gemm: negative":    func() { Gemm(Generic, x, 4, x, 4, x, -1, 4, 4, Epilogue{}) },
		"Gemm: dimensions":  func() { Gemm(Generic, x, 4, x, 4, x, 1<<20, 1<<20, 1, Epilogue{}) },
		"Pack: dst":         func() { Pack(Generic, x[:3], x, 4, 1, 4) },
		"PackConv: w":       func() { PackConv(Generic, x, x[:8], 1, 1, 3, 3) },
		"Conv2D: x": func() {
			Conv2D(Generic, x, x[:8], x, ConvShape{OutH: 1, OutW: 1, Cin: 1, Cout: 1, KH: 3, KW: 3, Stride: 1, RowX: 3, RowY: 1}, Epilogue{})
		},
		"Conv2D: kernel": func() {
			Conv2D(Generic, x, x, x, ConvShape{OutH: 1, OutW: 1, Cin: 1, Cout: 1, KH: 3, KW: 3, Stride: 0, RowX: 3, RowY: 1}, Epilogue{})
		},
		"DWConv3x3: stride": func() {
			DWConv3x3(Generic, x, x, x, nil, DWShape{H: 1, W: 1, Ch: 1, Stride: 3, Row0: 0, Row1: 1}, Identity)
		},
		"DWConv3x3: output": func() {
			DWConv3x3(Generic, x, x, x, nil, DWShape{H: 4, W: 4, Ch: 1, Stride: 2, Row0: 0, Row1: 3}, Identity)
		},
		"DWConv3x3: w9": func() {
			DWConv3x3(Generic, x, x, x[:8], nil, DWShape{H: 1, W: 1, Ch: 1, Stride: 1, Row0: 0, Row1: 1}, Identity)
		},
		"AddMul: add": func() {
			DWConv3x3AddMul(Generic, x, x, x, nil, x[:1], x, DWShape{H: 2, W: 1, Ch: 1, Stride: 1, Row0: 0, Row1: 2})
		},
		"LayerNorm: gamma":   func() { LayerNorm(Generic, x, 4, x, 4, 2, 4, x[:3], nil, 1e-5) },
		"MeanRows: the mean": func() { MeanRows(Generic, x, x, 4, 0, 4) },
		"RoPE2DTable: table": func() { RoPE2DTable(x[:7], 2, 2, 4, 10000) },
		"RoPE2DLen: 6 chan":  func() { RoPE2DLen(2, 2, 6) },
		"RoPE2D: tokens":     func() { RoPE2D(Generic, x, 4, x, 4, x, 2, 2, 4, 0, 5) },
		"LinAttnKV: kv": func() {
			LinAttnKV(Generic, x[:3], x, x, 4, x, 4, nil, LinAttnShape{H: 1, W: 1, Heads: 1, Dim: 4, T1: 1})
		},
		"LinAttnReadout: q": func() {
			LinAttnReadout(Generic, x, 4, x[:3], 4, x, x, nil, LinAttnShape{H: 1, W: 1, Heads: 1, Dim: 4, T1: 1}, 0)
		},
		"LinAttnKV: heads": func() {
			LinAttnKV(Generic, x, x, x, 4, x, 4, nil, LinAttnShape{H: 1, W: 1, Heads: 1, Dim: 4, T1: 1, Head1: 2})
		},
		"Softmax: y":             func() { Softmax(Generic, x[:1], x, 1, 2) },
		"Activate: y has":        func() { Activate(Generic, ReLU, x[:1], x[:2]) },
		"PadNCHW: rows [0, 2)":   func() { PadNCHW(x, 3, 0, 2, 1, 2, x, 1, 2, 2) },
		"NCHW: dst":              func() { NCHW(x[:1], x, 2, 2) },
		"Transpose: src":         func() { Transpose(Generic, x, 2, x[:3], 2, 2, 2) },
		"Transpose: rows of dst": func() { Transpose(Generic, x, 1, x, 2, 2, 2) },
		"FoldBatchNorm: mean":    func() { FoldBatchNorm(make([]float64, 2), make([]float64, 2), x[:2], x[:2], x[:1], x[:2], 1e-5) },
	})
}

func TestKernelsAllocateNothing(t *testing.T) {
	x, y := make([]float32, 256), make([]float32, 256)
	s := LinAttnShape{H: 2, W: 2, Heads: 2, Dim: 4, T1: 4}
	rope := make([]float32, RoPE2DLen(2, 2, 8))
	for _, l := range Levels() {
		if n := testing.AllocsPerRun(10, func() {
			Gemm(l, y, 4, x, 4, x, 3, 4, 4, Epilogue{Bias: x, Act: GELU, Mul: x, LdMul: 4, Add: x, LdAdd: 4})
			DWConv3x3(l, y, x, x, x, DWShape{H: 3, W: 3, Ch: 8, Stride: 1, Row0: 0, Row1: 3}, SiLU)
			LinAttnKV(l, y, y[128:], x, 8, x, 8, rope, s)
			LinAttnReadout(l, y, 8, x, 8, x, x, rope, s, 1)
			LayerNorm(l, y, 8, x, 8, 4, 8, x, x, 1e-5)
		}); n != 0 {
			t.Errorf("%v: %v allocations", l, n)
		}
	}
}
