// Package amd64 holds the assembly kernels of the levels "avx2" (AVX2 and FMA)
// and "avx512" (AVX-512 F, CD, BW, DQ, VL). The .s files are written by the
// generator in gen; each function's comment is the Go loop that it equals, and
// the generator's comments give the register maps.
//
// Functions take pointers and check nothing: package kernels validates,
// dispatches and bounds the work of one call, since assembly cannot be
// preempted.
package amd64
