//go:build linux || darwin

package checkpoint_test

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/mila-go/mila/checkpoint"
)

// TestOpenDoesNotWait: opening a pipe without a writer would block for ever.
func TestOpenDoesNotWait(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Skip(err)
	}
	if _, err := checkpoint.Open(path); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("%v", err)
	}
}
