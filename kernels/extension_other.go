//go:build !arm64 || purego

package kernels

var extensions extension
