//go:build !purego

package kernels

import "github.com/klauspost/cpuid/v2"

// bestOfCPU asks another library than the code under test does.
var bestOfCPU = func() Level {
	switch {
	case cpuid.CPU.Supports(cpuid.AVX512F, cpuid.AVX512CD, cpuid.AVX512BW, cpuid.AVX512DQ, cpuid.AVX512VL):
		return AVX512
	case cpuid.CPU.Supports(cpuid.AVX2, cpuid.FMA3):
		return AVX2
	}
	return Generic
}()
