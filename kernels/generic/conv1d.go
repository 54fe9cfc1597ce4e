package generic

import "github.com/mila-go/mila/kernels/ref"

// Conv1D is ref.Conv1D in float32, channel by channel.
func Conv1D(y, state, x, w, bias []float32, s ref.Conv1DShape, act ref.Activation) {
	for c := s.Ch0; c < s.Ch1; c++ {
		// The weights and inputs of a narrower convolution are the last ones.
		var taps, last [4]float32
		free := len(taps) - s.Width
		for j := range s.Width {
			taps[free+j] = w[j*s.Ch+c]
		}
		for j := range s.Width - 1 {
			last[free+1+j] = state[j*s.Ch+c]
		}
		var b float32
		if bias != nil {
			b = bias[c]
		}
		for step := range s.L {
			t := s.Token(step)
			last[0], last[1], last[2], last[3] = last[1], last[2], last[3], x[t*s.LdX+c]
			if free > 0 { // a tap of 0 makes NaN of an infinite input
				clear(last[:free])
			}
			y[t*s.LdY+c] = act.Apply(b + taps[0]*last[0] + taps[1]*last[1] + taps[2]*last[2] + taps[3]*last[3])
		}
		for j := range s.Width - 1 {
			state[j*s.Ch+c] = last[free+1+j]
		}
	}
}
