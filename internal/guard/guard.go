// Package guard gives tests float32 buffers that end, or begin, exactly at an
// inaccessible page, so that a kernel that reads or writes one element too far
// faults instead of passing unnoticed.
package guard

import (
	"math"
	"testing"
)

// Both calls f twice: with buffers that end at an inaccessible page, and with
// buffers that begin at one. alloc returns n floats filled with NaN.
func Both(t testing.TB, f func(t testing.TB, alloc func(n int) []float32)) {
	for _, atEnd := range []bool{true, false} {
		f(t, func(n int) []float32 {
			x := pages(t, n, atEnd)
			for i := range x {
				x[i] = float32(math.NaN())
			}
			return x
		})
	}
}
