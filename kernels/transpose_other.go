//go:build !(amd64 || arm64) || purego

package kernels

func transposeVector([]float32, int, []float32, int, int, int) {
	panic("kernels: no assembly in this build")
}
