// Package bench measures: the benchmarks of every kernel and model (in its test
// files, for go test -bench) and the arithmetic peak that speeds are compared
// with.
//
// Machines are shared and their clocks vary, so a time alone means little:
// quote ratios of things measured alternately in one run, or shares of a peak
// measured in the same run.
package bench
