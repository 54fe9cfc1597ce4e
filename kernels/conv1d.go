package kernels

import (
	"github.com/mila-go/mila/kernels/generic"
	"github.com/mila-go/mila/kernels/ref"
)

// PackConv1D turns weights of a causal depthwise convolution from PyTorch's order
// (ch, 1, width) into the tap-major order (width, ch) of [Conv1D]; it is the same
// at every level.
func PackConv1D(dst, w []float32, ch, width int) {
	const op = "PackConv1D"
	checkDims(op, ch, width)
	checkLen(op, "dst", dst, width*ch)
	checkLen(op, "w", w, width*ch)
	ref.NCHW(dst, w, ch, width)
}

// Conv1DShape describes a causal depthwise convolution over tokens; see the
// fields. Width is 2, 3 or 4.
type Conv1DShape = ref.Conv1DShape

// Conv1D computes a causal depthwise convolution over the tokens t_0, t_1 .. of
// s.Order and then an activation, Identity or SiLU:
//
//	y[t_i, c] = act(bias[c] + Σ_j w[j, c] · x[t_(i-(Width-1)+j), c])
//
// x and y are tokens x channels, w is tap-major (see [PackConv1D]), bias may be
// nil. state is (Width-1, Ch): the inputs before t_0, oldest first, and afterwards
// the last Width-1 inputs. Convolutions of consecutive pieces of a sequence that
// hand the state on equal one convolution, a piece of one token is a step of
// decoding, and L = 0 does nothing. The caller clears the state at the beginning
// of a sequence, which is the zero padding of the model.
//
// y may be x, of the same distance between tokens, if s.Order has no token twice;
// apart from that, y and state must not overlap the inputs or each other.
func Conv1D(l Level, y, state, x, w, bias []float32, s Conv1DShape, act Activation) {
	const op = "Conv1D"
	l = l.resolve(op)
	if s.Width < 2 || s.Width > 4 {
		fail(op, "width %d; only 2, 3 and 4 exist", s.Width)
	}
	if act != Identity && act != SiLU {
		fail(op, "activation %v; only identity and silu exist here", act)
	}
	checkDims(op, s.L)
	checkDims(op, s.Width, s.Ch)
	s = s.Dense()
	if s.Ch0 < 0 || s.Ch0 > s.Ch1 || s.Ch1 > s.Ch {
		fail(op, "channels [%d, %d) are not among the %d", s.Ch0, s.Ch1, s.Ch)
	}
	tokens := checkOrder(op, s.Order, s.L)
	checkDims(op, tokens, s.LdX)
	checkDims(op, tokens, s.LdY)
	checkMatrix(op, "x", x, s.LdX, tokens, s.Ch)
	checkMatrix(op, "y", y, s.LdY, tokens, s.Ch)
	checkLen(op, "state", state, (s.Width-1)*s.Ch)
	checkLen(op, "w", w, s.Width*s.Ch)
	if bias != nil {
		checkLen(op, "bias", bias, s.Ch)
	}
	switch {
	case s.L == 0 || s.Ch0 == s.Ch1:
	case l == Generic:
		generic.Conv1D(y, state, x, w, bias, s, act)
	default:
		conv1dVector(l, y, state, x, w, bias, s, act)
	}
}
