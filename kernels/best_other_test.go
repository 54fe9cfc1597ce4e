//go:build !(amd64 || arm64) || purego

package kernels

const bestOfCPU = Generic
