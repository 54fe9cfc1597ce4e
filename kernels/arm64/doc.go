// Package arm64 holds the assembly kernels of the level "neon". There are none
// yet: every operation runs at the level "generic".
package arm64
