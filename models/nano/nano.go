// Package nano holds the weights of the shipped model "nano"; README.md beside
// it is its model card.
package nano

import _ "embed"

// Weights is a safetensors file with configuration, labels and preprocessing in
// its metadata.
//
//go:embed nano.safetensors
var Weights []byte
