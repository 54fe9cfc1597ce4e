package kernels

// Operation says which code computes an operation at a level.
type Operation struct {
	Name           string // of the function in this package
	Implementation string
}

// Operations returns what each operation runs at level l.
func Operations(l Level) []Operation {
	l.resolve("Operations")
	const tuned, plain = "portable Go, register-blocked", "portable Go"
	return []Operation{
		{"Gemm", tuned}, {"Conv2D", tuned}, {"DWConv3x3, Residual, AddMul", tuned},
		{"LinAttnKV, LinAttnReadout", tuned}, {"RoPE2D", plain}, {"LayerNorm", plain}, {"MeanRows", plain},
		{"Activate, Exp, Erf, Sigmoid", plain}, {"Softmax", plain}, {"ScaleShift, Add, Mul", plain},
	}
}
