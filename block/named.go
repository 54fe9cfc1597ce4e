package block

import (
	"maps"
	"slices"
	"strings"
)

// named are the architectures of the papers, for 224 x 224 and 1000 classes.
var named = map[string]Architecture{
	"t": Tiny(), "s": Small(), "b": Base(),
	"vim-ti": vim(192), "vim-s": vim(384), "vim-b": vim(768),
	"plainmamba-l1": plainMamba(192, 24, 1, 1), "plainmamba-l2": plainMamba(384, 24, 2, 0), "plainmamba-l3": plainMamba(448, 36, 2, 0),
	"vmamba-t": vmamba(96, 8), "vmamba-s": vmamba(96, 20), "vmamba-b": vmamba(128, 20),
	"localvmamba-t": localVMamba(9, localTiny), "localvmamba-s": localVMamba(27, localSmall),
	"efficientvmamba-t": efficientVMamba(48, 4), "efficientvmamba-s": efficientVMamba(64, 4), "efficientvmamba-b": efficientVMamba(96, 9),
	"vmamba0-t": vanilla(96, 9), "vmamba0-s": vanilla(96, 27), "vmamba0-b": vanilla(128, 27),
}

// Named returns an architecture by the name that the command line uses: t, s and b
// are MILA-T, -S and -B, and la-t the baseline of the paper's ablation, to which
// any of the switches that [Names] lists may be appended.
func Named(name string) (Architecture, bool) {
	if list, ok := strings.CutPrefix(name, "la-t"); ok {
		c, ok := BaselineTiny().Switched(list)
		return c, ok
	}
	a, ok := named[name]
	return a, ok
}

// Names lists what [Named] knows, with one switch at most.
func Names() []string {
	names := append(slices.Collect(maps.Keys(named)), "la-t")
	for _, s := range laSwitches {
		names = append(names, "la-t"+s.name)
	}
	slices.Sort(names)
	return names
}
