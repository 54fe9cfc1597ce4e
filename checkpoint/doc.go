// Package checkpoint reads model weights from .safetensors files and PyTorch
// .pth files (zip and legacy format) into named tensors, and writes
// .safetensors.
//
// A [File] maps the file into memory and decodes a tensor only when [File.Read]
// copies it, converted to float32, into the caller's slice: loading a model
// needs no second copy of its weights.
//
// # Hostile files
//
// Nothing in a file is ever executed or looked up. A .pth file is a Python
// pickle; it is interpreted by a small machine that knows containers, numbers,
// strings and tensors, and turns an instance of any other class into an inert
// record of its class, arguments and state. Sizes, offsets, strides and counts
// are checked against the file before anything is allocated or read, and the
// work is bounded:
//
//   - a safetensors header or a pickle has at most 100 MB ([WithMaxHeader]
//     changes that), a pickle at most four million opcodes, a tensor's name at
//     most 4096 bytes;
//   - a tensor has at most 32 dimensions and 2^31-1 elements; one that repeats
//     its storage (stride 0 or overlapping strides), so that it has more elements
//     than bytes stand behind it, at most 4 million;
//   - the tensors of a .pth file together are at most 16 times as large as the
//     file (tied weights share their storage), or 64 MB if that is more, counted as float32.
//
// A mapped file that shrinks while it is used, or whose disk fails, makes
// [Open] or the method that reads it return an error; it does not end the process.
// Bit errors inside the numbers go unnoticed: neither format has a checksum that
// could be relied upon (torch.save can leave the one of the zip format out).
//
// # Why not an existing pickle reader
//
// The pickle machine is our own because github.com/nlpodyssey/gopickle v0.2.0
// trusts its input. Observed with that version: BINBYTES8 or FRAME with a length
// of 40 GiB in a file of a dozen bytes allocates before it reads, and the
// process dies of "out of memory", which no recover catches; BINBYTES and LONG4
// do the same up to 4 and 2 GB; LONG1 without bytes, SETITEMS with an odd number
// of items and a length of 2^62 panic; GET of an entry that was never stored
// yields nil without an error. Its PyTorch layer copies every tensor, of every
// state in the file, onto the heap, where this package keeps views of the
// mapped file.
//
// Errors name the file, the tensor and, where there is one, the remedy.
package checkpoint
