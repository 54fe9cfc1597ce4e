// Package kernels computes, on plain float32 slices, the operations that
// linear-attention and state-space vision models are made of: matrix products
// against packed weights with fused epilogues, dense and depthwise
// convolutions, normalisations, rotary position encodings, the key-value state
// of linear attention and its readout, and vector activations.
//
// # Levels
//
// Every function takes as its first argument the instruction-set [Level] to
// run at. [Auto], the zero value, is the best level of this CPU, or the one
// that the environment variable MILA_ISA names. A level that this build or
// this CPU cannot run makes the call panic before it touches memory; use
// [Level.Err] to find out politely, or [Default] for Auto's meaning.
//
// # Conventions
//
// Matrices are row-major; ld is the distance between the starts of two rows in
// elements. Images are NHWC, which makes an image the same thing as a matrix
// of tokens x channels. Shapes and lengths are checked before any memory is
// read, and a mistake of the caller panics with a message that names the
// operation and the argument. No argument needs any alignment. Unless a
// function says otherwise its output must not overlap its inputs; where "y may
// be x" is said, it means exactly the same elements.
//
// Functions are single-threaded and safe for concurrent use on disjoint
// outputs. They allocate nothing. What each operation means is defined, in
// plain Go, in package kernels/ref.
package kernels
