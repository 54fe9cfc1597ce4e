package ref

// Conv1DShape describes a causal depthwise convolution over L tokens of Ch
// channels with Width taps.
type Conv1DShape struct {
	L, Ch, Width int
	Order        []int32 // as in [ScanShape]
	LdY, LdX     int     // floats between tokens; 0 means Ch
	// Channels to process: [Ch0, Ch1), all where Ch1 is 0. Nothing of other
	// channels is read or written; all slices begin at channel 0 nevertheless.
	Ch0, Ch1 int
}

// Dense returns s with Ch1 and the distances that are 0 filled in.
func (s Conv1DShape) Dense() Conv1DShape {
	for _, at := range []*int{&s.LdY, &s.LdX, &s.Ch1} {
		if *at == 0 {
			*at = s.Ch
		}
	}
	return s
}

// Token returns the token of a step.
func (s Conv1DShape) Token(step int) int { return ScanShape{Order: s.Order}.Token(step) }

// Conv1D computes
//
//	y[t_i, c] = act(bias[c] + Σ_j w[j, c] · x[t_(i-(Width-1)+j), c])
//
// for the tokens t_0, t_1 .. of s.Order, with tap-major weights w. The inputs
// before t_0 are the rows of state, (Width-1, Ch), oldest first; afterwards it
// holds the last Width-1 inputs.
func Conv1D(y, state, x, w, bias []float32, s Conv1DShape, act Activation) {
	s = s.Dense()
	last := make([]float32, s.Width) // the inputs under the taps
	for c := s.Ch0; c < s.Ch1; c++ {
		for j := range s.Width - 1 {
			last[j+1] = state[j*s.Ch+c]
		}
		for step := range s.L {
			t := s.Token(step)
			copy(last, last[1:])
			last[s.Width-1] = x[t*s.LdX+c]
			var sum float64
			for j, v := range last {
				sum += float64(w[j*s.Ch+c]) * float64(v)
			}
			if bias != nil {
				sum += float64(bias[c])
			}
			y[t*s.LdY+c] = float32(act.apply(sum))
		}
		for j := range s.Width - 1 {
			state[j*s.Ch+c] = last[j+1]
		}
	}
}
