//go:build !amd64 || purego

package kernels

func scanVector(Level, []float32, []float32, []float32, []float32, *ScanA, []float32, []float32, ScanShape, ScanOptions) {
	panic("kernels: no assembly in this build")
}
