//go:build !purego

package kernels_test

import (
	"testing"

	"github.com/mila-go/mila/kernels"
)

// TestGemmKernels runs the tests of products with the kernel that this machine does
// not choose as well.
func TestGemmKernels(t *testing.T) {
	for _, inOrder := range []bool{false, true} {
		restore := kernels.SetInOrder(inOrder)
		t.Run("Gemm", TestGemm)
		t.Run("Conv2D", TestConv2D)
		t.Run("GoldenLinear", TestGoldenLinear)
		t.Run("GoldenConv2D", TestGoldenConv2D)
		restore()
	}
}
