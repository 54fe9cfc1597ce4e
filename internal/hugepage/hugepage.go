// Package hugepage allocates large buffers where the system can back them with
// pages of 2 MiB. A product that streams megabytes of weights, or walks rows that
// are kilobytes apart, otherwise waits for page tables: more so in a virtual
// machine, where each look-up takes two.
package hugepage

import "unsafe"

const (
	size  = 2 << 20
	least = 1 << 19 // bytes; below that, a page would mostly be empty
)

// Floats returns n zeroed floats, as make does. From 512 KiB on they begin at a
// multiple of 2 MiB and the system is asked for huge pages, where it knows the
// request (Linux) and allows it; what is not used of the last page may become
// resident too, less than 2 MiB.
func Floats(n int) []float32 {
	if 4*n < least {
		return make([]float32, n)
	}
	all := make([]float32, (4*n+2*size)/size*size/4) // holds n floats rounded up to whole pages, from the first page's start on
	at := uintptr(unsafe.Pointer(&all[0]))
	skip := int(-at % size / 4)
	advise(unsafe.Slice((*byte)(unsafe.Pointer(&all[skip])), (4*n+size-1)/size*size))
	return all[skip : skip+n : skip+n]
}
