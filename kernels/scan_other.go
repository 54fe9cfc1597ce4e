//go:build !(amd64 || arm64) || purego

package kernels

func scanVector(Level, []float32, []float32, []float32, []float32, *ScanA, []float32, []float32, ScanShape, ScanOptions) {
	panic("kernels: no assembly in this build")
}

func conv1dVector(Level, []float32, []float32, []float32, []float32, []float32, Conv1DShape, Activation) {
	panic("kernels: no assembly in this build")
}
