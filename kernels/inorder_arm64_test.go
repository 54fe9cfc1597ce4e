//go:build !purego

package kernels

import (
	"testing"
	"testing/fstest"
)

// SetInOrder chooses the product's kernel, and returns what undoes that.
func SetInOrder(on bool) func() {
	old := inOrder
	inOrder = func() bool { return on }
	return func() { inOrder = old }
}

func TestAllInOrder(t *testing.T) {
	const a53, a55, a76, silver, gold = "0x00000000410fd034\n", "0x411fd050\n", "0x414fd0b1\n", "0x51df805e\n", "0x51df804e\n"
	for _, c := range []struct {
		cores []string
		want  bool
	}{
		{nil, false}, {[]string{a53}, true}, {[]string{a53, a53, a55}, true}, {[]string{a55, a76}, false}, {[]string{a76}, false},
		{[]string{silver}, true}, {[]string{silver, gold}, false}, {[]string{a53, "?"}, false}, {[]string{"0x610fd030"}, false},
	} {
		cpus := fstest.MapFS{"cpufreq/policy0": {}, "possible": {Data: []byte("0-3\n")}}
		for i, midr := range c.cores {
			cpus["cpu"+string(rune('0'+i))+"/regs/identification/midr_el1"] = &fstest.MapFile{Data: []byte(midr)}
		}
		if got := allInOrder(cpus); got != c.want {
			t.Errorf("%q: %v", c.cores, got)
		}
	}
}
