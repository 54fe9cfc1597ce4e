//go:build !purego

package kernels

import (
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
	"sync"
)

// inOrder reports whether all cores are of those that [arm64.GemmInOrderNEON] is for.
// A thread may move from one core to another at any time, so on a CPU with large
// cores as well the kernel for those runs everywhere.
var inOrder = sync.OnceValue(func() bool { return allInOrder(os.DirFS("/sys/devices/system/cpu")) })

// allInOrder reads the registers that identify the cores, which Linux shows as files;
// where there are none, they count as large.
func allInOrder(cpus fs.FS) bool {
	files, _ := fs.Glob(cpus, "cpu[0-9]*/regs/identification/midr_el1")
	for _, name := range files {
		text, err := fs.ReadFile(cpus, path.Clean(name))
		if err != nil {
			return false
		}
		midr, err := strconv.ParseUint(strings.TrimSpace(string(text)), 0, 64)
		if err != nil || !smallCore(midr) {
			return false
		}
	}
	return len(files) > 0
}

// smallCore reports whether MIDR_EL1 is that of such a core.
func smallCore(midr uint64) bool {
	const arm, qualcomm = 0x41, 0x51
	implementer, part := midr>>24&0xFF, midr>>4&0xFFF
	switch {
	case implementer == arm:
		return part == 0xD02 || part == 0xD03 || part == 0xD04 || part == 0xD05 // Cortex-A34, A53, A35, A55
	case implementer == qualcomm:
		return part == 0x801 || part == 0x803 || part == 0x805 // Kryo 2xx to 4xx Silver, which are the A53 and the A55
	}
	return false
}
