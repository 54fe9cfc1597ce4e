// Package guard gives tests float32 buffers that end, or begin, exactly at an
// inaccessible page, so that a kernel that reads or writes one element too far
// faults instead of passing unnoticed.
package guard

import (
	"math"
	"os"
	"strings"
	"testing"
)

// envGuard=off gives ordinary buffers, for emulators that load masked-out lanes
// (qemu-x86_64 7.2 does for VMASKMOVPS, where hardware must not fault).
const envGuard = "MILA_TEST_GUARD"

// Both calls f twice: with buffers that end at an inaccessible page, and with
// buffers that begin at one. alloc returns n floats filled with NaN.
func Both(t testing.TB, f func(t testing.TB, alloc func(n int) []float32)) {
	for _, atEnd := range []bool{true, false} {
		f(t, func(n int) []float32 {
			x := make([]float32, n)
			if os.Getenv(envGuard) != "off" {
				x = pages(t, n, atEnd)
			}
			for i := range x {
				x[i] = float32(math.NaN())
			}
			return x
		})
	}
}

// Refused runs calls that must panic with a message that contains their name, before
// they write to x, which is all 0.
func Refused(t *testing.T, x []float32, calls map[string]func()) {
	for name, f := range calls {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if msg, _ := recover().(string); !strings.Contains(msg, name) {
					t.Errorf("panic %q, want one that contains %q", msg, name)
				}
				for i, v := range x {
					if v != 0 {
						t.Fatalf("element %d was written before the check", i)
					}
				}
			}()
			f()
		})
	}
}
