//go:build !(amd64 || arm64) || purego

package kernels

import "github.com/mila-go/mila/kernels/generic"

// Without assembly the levels above Generic do not exist, and resolve lets no
// call get here.
const hasAVX2, hasAVX512, hasNEON = false, false, false

const maxHeadDim = 0

const (
	fnExp Activation = iota + 32
	fnSigmoid
	fnErf
	fnSoftplus
)

func gemmVector(Level, []float32, int, []float32, generic.Rows, []float32, int, int, *Epilogue) {
	panic("kernels: no assembly in this build")
}

func activateAll(Level, Activation, []float32, []float32) {
	panic("kernels: no assembly in this build")
}

func dwconvVector(Level, []float32, []float32, []float32, []float32, DWShape, generic.DW) {
	panic("kernels: no assembly in this build")
}

func dwvalidVector(Level, []float32, []float32, []float32, []float32, DWValidShape) {
	panic("kernels: no assembly in this build")
}

func meanRowsVector(Level, []float32, []float32, int, int, int) {
	panic("kernels: no assembly in this build")
}

func scaleRowsVector(Level, []float32, int, []float32, int, int, int, []float32) {
	panic("kernels: no assembly in this build")
}

func outerSumVector(Level, []float32, int, []float32, int, []float32, int, int, int, int) {
	panic("kernels: no assembly in this build")
}

func layerNormVector(Level, []float32, int, []float32, int, int, int, []float32, []float32, float32, int) {
	panic("kernels: no assembly in this build")
}

func linAttnKVVector(Level, []float32, []float32, []float32, int, []float32, int, []float32, LinAttnShape) {
	panic("kernels: no assembly in this build")
}

func linAttnReadoutVector(Level, []float32, int, []float32, int, []float32, []float32, []float32, LinAttnShape, float32) {
	panic("kernels: no assembly in this build")
}

func binaryVector(Level, []float32, []float32, []float32, bool) {
	panic("kernels: no assembly in this build")
}

func multiplyAddsVector(Level, int) int { panic("kernels: no assembly in this build") }
