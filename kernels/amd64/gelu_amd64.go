//go:build !purego

package amd64

import "unsafe"

// geluTable is the address of geluBits at a multiple of 64 bytes.
var geluTable = func() *uint32 {
	b := make([]uint32, len(geluBits)+15)
	skip := -uintptr(unsafe.Pointer(&b[0])) % 64 / 4
	copy(b[skip:], geluBits[:])
	return &b[skip]
}()
