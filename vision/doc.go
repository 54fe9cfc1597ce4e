// Package vision turns image files into the input tensors of classifiers, and
// probabilities into labels, and draws over a photo what spoke for one.
//
// It reproduces the evaluation pipeline of the PyTorch world, which decodes and
// resizes with Pillow: bicubic resampling is bit-equal to Pillow's (fixed-point
// coefficients, two 8-bit passes), and chroma of JPEG and WebP is upsampled and
// converted as libjpeg-turbo and libwebp do it. What remains between a JPEG
// decoded here and by Pillow comes from the inverse DCT; on the reference
// photographs it is at most 3 levels, and 0.05 on average, after the crop to
// 224 x 224.
package vision
