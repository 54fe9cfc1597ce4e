// Package generic holds the portable Go micro-kernels of the level "generic",
// for the operations whose definition in package ref is too slow to serve as
// the fallback: the packed matrix product, which is also every dense
// convolution, the depthwise convolution and the linear-attention sums.
//
// Sums are float32. Nothing validates its arguments; package kernels does.
package generic
