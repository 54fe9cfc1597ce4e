// Package fuzz holds the fuzz targets: every fast kernel against its definition
// in kernels/ref on random shapes, and every parser and decoder against hostile
// bytes. Run one with
//
//	go test ./fuzz -fuzz FuzzGemm -fuzztime 30s
package fuzz
