package kernels

// Operation says which code computes an operation at a level.
type Operation struct {
	Name           string // of the function in this package
	Implementation string
}

// Operations returns what each operation runs at level l.
func Operations(l Level) []Operation {
	l = l.resolve("Operations")
	const blocked, plain = "portable Go, register-blocked", "portable Go"
	fast, heads := blocked, blocked
	rows, functions := plain, plain
	if l != Generic {
		fast = l.String() + " assembly"
		heads = fast + " (heads up to 64 channels)"
		rows, functions = fast, fast
	}
	return []Operation{
		{"Gemm", fast}, {"Conv2D", fast}, {"DWConv3x3, Residual, AddMul, DWValid", fast},
		{"LinAttnKV, LinAttnReadout", heads}, {"Scan, Conv1D", rows}, {"LayerNorm, RMSNorm, MeanRows, Add, Mul", rows}, {"Activate, Exp, Erf, Sigmoid, Softplus", functions},
		{"Transpose, Pack", fast},
		{"RoPE2D", plain}, {"Softmax", plain}, {"ScaleShift", plain},
	}
}
