//go:build !purego && !windows

package kernels

import (
	"runtime"

	"github.com/klauspost/cpuid/v2"
	"golang.org/x/sys/cpu"
)

// extensions as Linux's hardware capabilities and Darwin's sysctl give them; bf16 is
// not among what x/sys knows. All Apple silicon that runs macOS has dotprod, but
// systems before macOS 12 do not say so.
var extensions = extension{
	dotProd: cpu.ARM64.HasASIMDDP || runtime.GOOS == "darwin",
	i8mm:    cpu.ARM64.HasI8MM,
	bf16:    cpuid.CPU.Supports(cpuid.BF16),
}
