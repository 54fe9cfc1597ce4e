package hugepage

import "syscall"

// advise asks for huge pages behind b. It is a hint: whether and when the kernel
// follows it is in /sys/kernel/mm/transparent_hugepage, and an error changes nothing.
func advise(b []byte) { _ = syscall.Madvise(b, syscall.MADV_HUGEPAGE) }
