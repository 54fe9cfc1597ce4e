package kernels

import (
	"os"
	"strings"
	"testing"
)

// TestExtensions asserts what an emulated CPU has, where the run says so.
func TestExtensions(t *testing.T) {
	want, given := os.LookupEnv("MILA_TEST_EXTENSIONS")
	got := strings.Join(Extensions(), " ")
	if t.Logf("extensions: %q", got); given && got != want {
		t.Errorf("extensions %q, want %q", got, want)
	}
}
