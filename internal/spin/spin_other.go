//go:build !(amd64 || arm64) || purego

// Package spin helps loops that wait for another thread.
package spin

// Pause does nothing where there is no instruction for it.
func Pause() {}
