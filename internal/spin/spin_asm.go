//go:build (amd64 || arm64) && !purego

// Package spin helps loops that wait for another thread.
package spin

// Pause tells the processor that this thread is waiting: it leaves the core to
// the other hardware thread for a few dozen cycles, and saves power.
//
//go:noescape
func Pause()
