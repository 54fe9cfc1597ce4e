// Package amd64 holds the assembly kernels of the levels "avx2" and "avx512".
// There are none yet: every operation runs at the level "generic".
package amd64
