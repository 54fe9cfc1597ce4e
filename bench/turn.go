package bench

import (
	"context"
	"time"

	"github.com/mila-go/mila/block"
)

// Pass is a forward pass of one generated image.
type Pass struct {
	plan *block.Plan
	x    []float32
	out  *block.Output
}

// NewPass plans one on an image of size x size.
func NewPass(m *block.Model, size int) (*Pass, error) {
	p, err := m.Plan(1, size, size)
	if err != nil {
		return nil, err
	}
	chans, _ := m.Architecture().Image()
	x := make([]float32, chans*size*size)
	block.Generate(x, "input", 1, 0, 2)
	return &Pass{p, x, &block.Output{Logits: make([]float32, m.Architecture().Classes())}}, nil
}

// InTurn measures passes in turn, forwards and backwards, so that a drift of the
// machine's clock meets all of them alike. For each pass it returns the median
// seconds of every round: of `times` runs, after as many as warm that do not count.
// progress, which may be nil, is told what begins.
func InTurn(passes []*Pass, rounds, warm, times int, progress func(pass, round int)) ([][]float64, error) {
	out := make([][]float64, len(passes))
	for round := range rounds {
		for i := range passes {
			if round%2 == 1 {
				i = len(passes) - 1 - i
			}
			if progress != nil {
				progress(i, round)
			}
			var seconds []float64
			for n := range warm + times {
				start := time.Now()
				if err := passes[i].plan.Forward(context.Background(), passes[i].out, passes[i].x); err != nil {
					return nil, err
				}
				if n >= warm {
					seconds = append(seconds, time.Since(start).Seconds())
				}
			}
			out[i] = append(out[i], Median(seconds))
		}
	}
	return out, nil
}
