// Package block composes the operations of package kernels into layers, blocks
// and whole vision models.
//
// A [Model] is a configuration and its weights, folded and packed once for one
// instruction-set level. A [Plan], made by [Model.Plan] for a batch and image
// size, owns every buffer of a forward pass; [Plan.Forward] runs it without
// allocating. Several plans of one model may run at the same time.
//
// The model is MILA (earlier name MLLA), the linear-attention vision model of
// "Demystify Mamba in Vision: A Linear Attention Perspective", arXiv
// 2405.16605, with the parameter names of the official checkpoints. An image
// of any size is accepted: sizes that are multiples of 32 are the official
// classification model, and others follow the rules of the official detection
// and segmentation backbones (see [Model.Plan]).
package block
