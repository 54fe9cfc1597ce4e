// Package models opens ready-to-run models: the ones that ship with the module,
// by name, and checkpoint files.
//
// It joins what a checkpoint says of itself (configuration, labels,
// preprocessing) with packages block, which runs the model, and vision, which
// makes its input. A program that never calls it does not carry the embedded
// weights.
package models
