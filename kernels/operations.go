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
	products, heads, rows, functions, scans := blocked, blocked, plain, plain, plain
	if l != Generic {
		fast := l.String() + " assembly"
		products, rows, functions, scans = fast, fast, fast, fast
		heads = fast + " (heads up to 64 channels)"
	}
	return []Operation{
		{"Gemm, Conv2D", products}, {"DWConv3x3, Residual, AddMul, DWValid", products}, {"LinAttnKV, LinAttnReadout", heads},
		{"Scan, Conv1D, Recurrent, Chunked", scans}, {"LayerNorm, RMSNorm, MeanRows, Transpose", rows}, {"Activate, Exp, Erf, Sigmoid, Add, Mul", functions},
		{"RoPE2D, Softmax, ScaleShift", plain},
	}
}
