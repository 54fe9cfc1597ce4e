package block

import (
	"context"
	"fmt"
	"testing"

	"github.com/mila-go/mila/internal/golden"
)

func input(c Config, batch, h, w int) []float32 {
	x := make([]float32, batch*c.InChans*h*w)
	Generate(x, "input.fine", 1, 0, 2)
	return x
}

func small() Config {
	c := official(32, []int{1, 1, 2, 1}, []int{1, 2, 4, 8})
	c.NumClasses, c.ImgSize = 10, 64
	return c
}

// TestPlanEqualsSteps compares the fused plan with the unfused steps at every
// block, at sizes with every kind of padding.
func TestPlanEqualsSteps(t *testing.T) {
	odd := small()
	odd.MLPRatio, odd.QKVBias, odd.InChans, odd.EmbedDim = 2.5, false, 1, 8
	odd.NumHeads = []int{1, 2, 2, 4}
	ape := small()
	ape.APE, ape.ImgSize = true, 32
	for _, tc := range []struct {
		cfg         Config
		batch, h, w int
	}{{small(), 2, 64, 64}, {small(), 1, 33, 65}, {small(), 1, 1, 1}, {odd, 2, 40, 100}, {odd, 1, 7, 260}, {ape, 2, 32, 32}} {
		t.Run(fmt.Sprintf("%dx%dx%d/embed%d", tc.batch, tc.h, tc.w, tc.cfg.EmbedDim), func(t *testing.T) {
			weights, x := Synthetic(tc.cfg, 7), input(tc.cfg, tc.batch, tc.h, tc.w)
			want := map[string][]float32{}
			if err := Steps(context.Background(), tc.cfg, weights, tc.batch, tc.h, tc.w, x, func(name string, shape []int, data []float32) {
				want[name] = append([]float32(nil), data...)
			}); err != nil {
				t.Fatal(err)
			}
			m, err := New(tc.cfg, weights, WithThreads(2))
			if err != nil {
				t.Fatal(err)
			}
			p, err := m.Plan(tc.batch, tc.h, tc.w)
			if err != nil {
				t.Fatal(err)
			}
			compared := 0
			p.Tap = func(name string, shape []int, data []float32) {
				compared++
				if d := golden.RelToMax(data, want[name]); !(d < 5e-6) {
					t.Errorf("%s: plan and steps differ by %.2g of the maximum", name, d)
				}
			}
			logits := make([]float32, tc.batch*tc.cfg.NumClasses)
			if err := p.Forward(context.Background(), &Output{Logits: logits}, x); err != nil {
				t.Fatal(err)
			}
			if d := golden.RelToMax(logits, want["logits"]); !(d < 5e-6) {
				t.Errorf("logits differ by %.2g of the maximum", d)
			}
			if wantTaps := 1 + 5 + 3 + 2; compared != wantTaps {
				t.Errorf("%d results compared, want %d", compared, wantTaps)
			}
		})
	}
}
