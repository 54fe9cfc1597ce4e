package kernels

// extension are instruction sets beyond those of a level, which a kernel of that level
// may ask for. A build without assembly has none.
type extension struct {
	dotProd bool // SDOT and UDOT, four products of bytes added to each 32-bit lane
	i8mm    bool // SMMLA, UMMLA and USMMLA, matrix products of bytes
	bf16    bool // BFDOT, BFMMLA and conversions
}

// Extensions returns the names of the instruction sets beyond the levels' that this CPU
// and its operating system offer to kernels: on arm64 "dotprod", "i8mm" and "bf16". No
// operation depends on one so far.
func Extensions() (names []string) {
	for _, e := range [...]struct {
		name  string
		there bool
	}{{"dotprod", extensions.dotProd}, {"i8mm", extensions.i8mm}, {"bf16", extensions.bf16}} {
		if e.there {
			names = append(names, e.name)
		}
	}
	return names
}
