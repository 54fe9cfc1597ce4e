// Package checkpoint reads model weights from .safetensors files and PyTorch
// .pth files (zip and legacy format) into named tensors, and writes
// .safetensors.
//
// A [File] maps the file into memory and decodes a tensor only when [File.Read]
// copies it, converted to float32, into the caller's slice: loading a model
// needs no second copy of its weights.
//
// Nothing in a file is ever executed. A .pth file is a Python pickle; it is
// interpreted by a small machine that knows containers, numbers, strings and
// tensors, and turns every other class into an inert [Object] that keeps its
// state. The machine is our own because github.com/nlpodyssey/gopickle v0.2.0,
// the existing one, allocates what a length field says before it looks at the
// data (its Unpickler.read, reached from FRAME, BINBYTES8, BINUNICODE8 and
// BYTEARRAY8 with a 64-bit length), so that a file of thirty bytes ends the
// process with an out-of-memory error that no recover catches; and its tensors
// are loaded as copies, where this package keeps views of the mapped file.
//
// Sizes, offsets, strides and counts are checked against the file before
// anything is allocated or read. Errors name the file, the tensor and, where
// there is one, the remedy.
package checkpoint
