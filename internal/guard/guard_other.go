//go:build !unix

package guard

import "testing"

// Without page protection the buffers are ordinary ones of exact length.
func pages(_ testing.TB, n int, _ bool) []float32 { return make([]float32, n) }
