//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package checkpoint

import (
	"errors"
	"fmt"
	"math"
	"os"
	"syscall"
)

// Maps says whether [Open] maps files instead of reading them.
const Maps = true

// mapFile maps a file into memory for reading. Pages are read when they are
// touched and can be dropped by the system at any time.
func mapFile(path string) ([]byte, func() error, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	size := info.Size()
	if size == 0 {
		return nil, func() error { return nil }, nil
	}
	if !info.Mode().IsRegular() {
		return nil, nil, fmt.Errorf("%s is not a regular file", path)
	}
	if size > math.MaxInt {
		return nil, nil, fmt.Errorf("%s has %d bytes, more than this platform can address", path, size)
	}
	data, err := syscall.Mmap(int(f.Fd()), 0, int(size), syscall.PROT_READ, syscall.MAP_PRIVATE)
	if err == syscall.ENODEV || errors.Is(err, errors.ErrUnsupported) { // a file system without maps
		data, err = os.ReadFile(path)
		return data, func() error { return nil }, err
	}
	if err != nil {
		return nil, nil, &os.PathError{Op: "mmap", Path: path, Err: err}
	}
	return data, func() error { return syscall.Munmap(data) }, nil
}
