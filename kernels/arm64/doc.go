// Package arm64 holds the assembly kernels of the level "neon". What a function
// computes is said by the Go loop at its declaration, its registers at its generator
// in gen/. Nothing is checked here; package kernels is the interface.
package arm64

//go:generate go run ./gen
