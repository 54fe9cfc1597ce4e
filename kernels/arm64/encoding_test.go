package arm64

import (
	"bufio"
	"encoding/binary"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/arch/arm64/arm64asm"
)

// TestEncodings decodes every instruction that is written as a word and compares it
// with the comment beside it.
func TestEncodings(t *testing.T) {
	files, err := filepath.Glob("*_arm64.s")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	decoded := 0
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(f)
		for n := 1; lines.Scan(); n++ {
			code, found := strings.CutPrefix(strings.TrimSpace(lines.Text()), "WORD $0x")
			if !found {
				continue
			}
			word, comment, _ := strings.Cut(code, " // ")
			v, err := strconv.ParseUint(word, 16, 32)
			if err != nil {
				t.Fatalf("%s:%d: %v", name, n, err)
			}
			inst, err := arm64asm.Decode(binary.LittleEndian.AppendUint32(nil, uint32(v)))
			if err != nil {
				t.Fatalf("%s:%d: %s: %v", name, n, comment, err)
			}
			if got := strings.ToUpper(inst.String()); got != strings.ToUpper(comment) {
				t.Errorf("%s:%d: %s is %s", name, n, comment, got)
			}
			decoded++
		}
		f.Close()
	}
	if decoded < 100 {
		t.Errorf("%d instructions decoded", decoded)
	}
}
