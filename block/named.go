package block

import (
	"maps"
	"slices"
)

// named are the architectures of the papers, for 224 x 224 and 1000 classes.
var named = map[string]Architecture{
	"t": Tiny(), "s": Small(), "b": Base(),
	"vmamba-t": vmamba(96, 8), "vmamba-s": vmamba(96, 20), "vmamba-b": vmamba(128, 20),
	"vmamba0-t": vanilla(96, 9), "vmamba0-s": vanilla(96, 27), "vmamba0-b": vanilla(128, 27),
}

// Named returns an architecture by the name that the command line uses: t, s and b
// are MILA-T, -S and -B.
func Named(name string) (Architecture, bool) {
	a, ok := named[name]
	return a, ok
}

// Names lists what [Named] knows.
func Names() []string { return slices.Sorted(maps.Keys(named)) }
