// Package bench measures: benchmarks of the kernels at MILA-T's shapes and of
// whole models, at every level of the machine (in its test file, for
//
//	go test ./bench -run '^$' -bench Gemm
//
// ), and the arithmetic peak that speeds are compared with.
//
// Machines are shared and their clocks vary, so a time alone means little:
// quote ratios of things measured alternately in one run, or shares of a peak
// measured in the same run.
package bench
