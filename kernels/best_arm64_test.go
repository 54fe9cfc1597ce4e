//go:build !purego

package kernels

import "github.com/klauspost/cpuid/v2"

// bestOfCPU asks another library than the code under test does.
var bestOfCPU = func() Level {
	if cpuid.CPU.Supports(cpuid.ASIMD) {
		return NEON
	}
	return Generic
}()
