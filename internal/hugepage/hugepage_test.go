package hugepage

import (
	"testing"
	"unsafe"
)

func TestFloats(t *testing.T) {
	for _, n := range []int{0, 1, least/4 - 1, least / 4, size / 4, size/4 + 1, 5*size/4 - 1, 3 * size} {
		x := Floats(n)
		if len(x) != n || cap(x) != n {
			t.Fatalf("Floats(%d) has length %d and capacity %d", n, len(x), cap(x))
		}
		if 4*n >= least && uintptr(unsafe.Pointer(&x[0]))%size != 0 {
			t.Errorf("Floats(%d) begins at %p, not at a page of 2 MiB", n, &x[0])
		}
		for i := range x {
			if x[i] != 0 {
				t.Fatalf("Floats(%d)[%d] = %v", n, i, x[i])
			}
			x[i] = 1
		}
	}
}
