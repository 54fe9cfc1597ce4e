package block

import (
	"fmt"
	"slices"

	"github.com/mila-go/mila/kernels"
)

// LocalVMamba (arXiv 2403.09338) is a vanilla [VMamba] whose blocks scan in
// directions of their own, some of them window by window, and weigh the channels
// of each direction's output before they are added:
//
//	y = Σ_k y_k ⊙ sigmoid(W2 GELU(W1 mean_t LN(y_k)))
//
// The lists of directions are those of the official repository's models. Checked
// against an independent implementation in float64; no released weights were at
// hand, so names and shapes follow the published code.
func localVMamba(third int, directions string) VMamba {
	c := vanilla(96, third)
	for block := range slices.Chunk([]byte(directions), 4) {
		var list []string
		for _, letter := range block {
			list = append(list, localLetters[letter])
		}
		c.Directions = append(c.Directions, list)
	}
	return c
}

// localLetters abbreviate directions, upper case meaning reversed: rows,
// columns, windows of 2x2 and of 7x7.
var localLetters = map[byte]string{'h': "h", 'H': "h_flip", 'v': "v", 'V': "v_flip", 't': "w2", 'T': "w2_flip", 's': "w7", 'S': "w7_flip"}

// The directions of the models T and S, four letters for each block.
const (
	localTiny = "hHsS" + "HVtT" + "HVTs" + "HvVt" + "hHVT" + "HVtT" + "hTsS" + "hHvV" + "hVsS" + "HvtS" + "vVtS" + "hHVT" + "VTsS" + "HVTS" + "HvsS"

	localSmall = "hvVS" + "hHvs" + "HvVs" + "HvTs" + "HvTs" + "HVtS" + "HvVs" + "hvVs" + "hvVs" + "hvVS" + "hHvV" + "hvVt" + "vVTs" + "hHvt" + "HvVS" + "hHvV" +
		"hvVS" + "hvVS" + "hHVs" + "HVTs" + "HvVS" + "vVsS" + "hvVS" + "HvVt" + "hvVT" + "hHvs" + "hHsS" + "hVtT" + "hVts" + "hvVS" + "HvTs" + "HVsS" + "hvsS"
)

// LocalScan returns the tokens of an h x w map in the sequence that a direction
// names: "h" along rows, "v" along columns, "w2" and "w7" along the rows of one
// window of 2x2 or 7x7 after another; with "_flip" the sequence is reversed.
// Windows that reach beyond the map have tokens there too, all of the number h·w.
func LocalScan(direction string, h, w int) ([]int32, error) {
	var order []int32
	name, flip := direction, false
	if n := len(name) - len("_flip"); n > 0 && name[n:] == "_flip" {
		name, flip = name[:n], true
	}
	switch name {
	case "h":
		for t := range h * w {
			order = append(order, int32(t))
		}
	case "v":
		for t := range h * w {
			order = append(order, int32(t%h*w+t/h))
		}
	case "w2", "w7":
		window := int(name[1] - '0')
		columns := ceilDiv(w, window)
		for t := range ceilDiv(h, window) * columns * window * window {
			at, in := t/(window*window), t%(window*window)
			r, c := at/columns*window+in/window, at%columns*window+in%window
			if r < h && c < w {
				order = append(order, int32(r*w+c))
			} else {
				order = append(order, int32(h*w))
			}
		}
	default:
		return nil, fmt.Errorf("block: there is no direction %q; there are h, v, w2, w7, and with _flip the same reversed", direction)
	}
	if flip {
		slices.Reverse(order)
	}
	return order, nil
}

func (c VMamba) validateDirections() error {
	if c.Directions == nil {
		return nil
	}
	blocks := 0
	for _, d := range c.Depths {
		blocks += d
	}
	if !c.Vanilla || len(c.Directions) != blocks {
		return fmt.Errorf("block: configuration %v: directions for %d blocks; they need the vanilla form and its %d blocks", c, len(c.Directions), blocks)
	}
	for i, list := range c.Directions {
		if len(list) != 4 {
			return fmt.Errorf("block: configuration %v: block %d has %d directions, not 4", c, i, len(list))
		}
		for _, d := range list {
			if _, err := LocalScan(d, 1, 1); err != nil {
				return err
			}
		}
	}
	return nil
}

// localBlock is what a block of a LocalVMamba has beside that of a VMamba.
type localBlock struct {
	directions []string
	gate       channelGate
}

func (l *loader) localBlock(p string, e int, directions []string) *localBlock {
	return &localBlock{directions, l.channelGate(p, e)}
}

// channelGate weighs the channels of a map x by
//
//	sigmoid(choose GELU(reduce mean_t LN(x)))
type channelGate struct{ reduce, choose linear } // LN is folded into reduce

func (l *loader) channelGate(p string, c int) channelGate {
	norm := l.affine(p+"norm", c)
	return channelGate{l.linear(p+"global_reduce", c/8, c, true, &norm), l.linear(p+"channel_select", c, c/8, true, nil)}
}

// gateRows is how many tokens of a map are normed at a time for its mean.
const gateRows = 64

// scratch is what weigh needs, and macs what it computes.
func (g *channelGate) scratch() int   { return (gateRows + 2) * g.reduce.k }
func (g *channelGate) macs(l int) int { return normMACs*l*g.reduce.k + 2*g.reduce.k*g.reduce.n }

// weigh fills gate with the weights of the channels of x, l tokens.
func (g *channelGate) weigh(level kernels.Level, gate, x []float32, l int, scratch []float32) {
	c := g.reduce.k
	normed, part, mean := scratch[:gateRows*c], scratch[gateRows*c:(gateRows+1)*c], scratch[(gateRows+1)*c:(gateRows+2)*c]
	clear(mean)
	for t := 0; t < l; t += gateRows {
		n := min(gateRows, l-t)
		kernels.LayerNorm(level, normed, c, x[t*c:], c, n, c, nil, nil, normEps)
		kernels.MeanRows(level, part, normed, c, n, c)
		share := float32(n) / float32(l)
		for j, v := range part {
			mean[j] += share * v
		}
	}
	low := part[:g.reduce.n]
	g.reduce.apply(level, low, len(low), mean, c, 1, 0, len(low), kernels.Epilogue{Act: kernels.GELU})
	g.choose.apply(level, gate, c, low, len(low), 1, 0, c, kernels.Epilogue{})
	kernels.Sigmoid(level, gate, gate)
}

// localScans plans the scans in the block's own directions and the weighted sum of
// their results. Inputs have one token more than the map, which is made 0.
func (b *planner) localScans(local *localBlock, passes []scanPass, h, w int) tokens {
	p, level, l, e := b.Plan, b.level, h*w, passes[0].dt.n
	b.step(b.batch, func(i, _ int) {
		for _, x := range []tokens{passes[0].u, passes[0].proj} {
			clear(p.image(x, i)[l*x.ld:])
		}
	})
	var ys []tokens
	for k := range passes {
		s := passes[k]
		s.order, _ = LocalScan(local.directions[k], h, w) // the configuration is valid
		y := b.tokens(l+1, e)
		b.scans(y, e, l+1, nil, 0, nil, s)
		ys = append(ys, y)
	}

	// The weights of channels, from the mean over tokens.
	gates := b.tokens(len(ys), e)
	b.need(local.gate.scratch())
	b.count(len(ys) * local.gate.macs(l))
	b.step(b.batch*len(ys), func(task, worker int) {
		i, k := task/len(ys), task%len(ys)
		local.gate.weigh(level, p.image(gates, i)[k*e:(k+1)*e], p.image(ys[k], i), l, p.work(worker))
	})
	b.need(e)
	b.chain(false, h, w, op{run: func(t tile) {
		gate, more := p.image(gates, t.image), p.work(t.worker)[:e]
		for i := t.r0 * w; i < t.r1*w; i++ {
			sum := p.image(ys[0], t.image)[i*e : (i+1)*e]
			kernels.Mul(level, sum, sum, gate[:e])
			for k := 1; k < len(ys); k++ {
				kernels.Mul(level, more, p.image(ys[k], t.image)[i*e:(i+1)*e], gate[k*e:(k+1)*e])
				kernels.Add(level, sum, sum, more)
			}
		}
	}})
	b.release(gates.buffer)
	for _, y := range ys[1:] {
		b.release(y.buffer)
	}
	return ys[0]
}
