//go:build linux || darwin

package checkpoint_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/mila-go/mila/checkpoint"
)

// TestOpenWithoutMaps: some file systems map nothing; their files are read.
func TestOpenWithoutMaps(t *testing.T) {
	const path = "/sys/kernel/mm/transparent_hugepage/enabled" // text
	if _, err := os.Stat(path); err != nil {
		t.Logf("not tried: %v", err)
		return
	}
	if _, err := checkpoint.Open(path); err == nil || !strings.Contains(err.Error(), "neither a safetensors file nor") {
		t.Errorf("%v", err)
	}
}

// TestOpenDoesNotWait: opening a pipe without a writer would block for ever.
func TestOpenDoesNotWait(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Logf("not tried: %v", err)
		return
	}
	if _, err := checkpoint.Open(path); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("%v", err)
	}
}
