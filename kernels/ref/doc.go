// Package ref defines every operation of the module in plain Go.
//
// Each function here is the definition that the documentation of package
// kernels refers to and that every faster version is tested against: loops in
// the order of the formula, products and sums in float64, one rounding to
// float32 at each output. The functions are also the fallback of the level
// "generic" wherever the plain loop is fast enough.
//
// Nothing here validates its arguments: package kernels does that before it
// calls. All matrices are row-major; an "ld" argument is the distance between
// the starts of consecutive rows, in elements. Images are NHWC (channels
// last), which is the same thing as a matrix of tokens x channels.
package ref
