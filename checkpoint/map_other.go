//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package checkpoint

import "os"

// Maps says whether [Open] maps files instead of reading them.
const Maps = false

// mapFile reads the file, where there is no portable way to map it.
func mapFile(path string) ([]byte, func() error, error) {
	data, err := os.ReadFile(path)
	return data, func() error { return nil }, err
}
