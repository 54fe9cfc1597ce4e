package block

import (
	"context"
	"math"
	"testing"

	"github.com/mila-go/mila/internal/golden"
	"github.com/mila-go/mila/kernels"
)

// naive computes in float64, straight from the definitions and from the parameters
// as they are in a checkpoint. Maps are tokens x channels.
type naive struct {
	t     *testing.T
	w     Weights
	cache map[string][]float64
}

func (n naive) get(name string) []float64 {
	if x, ok := n.cache[name]; ok {
		return x
	}
	shape, ok := n.w.Shape(name)
	if !ok {
		n.t.Fatalf("no parameter %s", name)
	}
	size := 1
	for _, d := range shape {
		size *= d
	}
	x := make([]float32, size)
	if err := n.w.Read(name, x); err != nil {
		n.t.Fatal(err)
	}
	n.cache[name] = widen(x)
	return n.cache[name]
}

func (n naive) has(name string) bool { _, ok := n.w.Shape(name); return ok }

func widen(x []float32) []float64 {
	out := make([]float64, len(x))
	for i, v := range x {
		out[i] = float64(v)
	}
	return out
}

// linear is x Wᵀ + b for rows of k values.
func (n naive) linear(name string, x []float64, k int) []float64 {
	var b []float64
	if n.has(name + ".bias") {
		b = n.get(name + ".bias")
	}
	return product(x, n.get(name+".weight"), b, k)
}

func product(x, w, b []float64, k int) []float64 {
	rows, out := len(x)/k, len(w)/k
	y := make([]float64, rows*out)
	for i := range rows {
		for j := range out {
			sum := 0.0
			if b != nil {
				sum = b[j]
			}
			for p := range k {
				sum += x[i*k+p] * w[j*k+p]
			}
			y[i*out+j] = sum
		}
	}
	return y
}

func (n naive) layerNorm(name string, x []float64, c int, eps float64) []float64 {
	gamma, beta := n.get(name+".weight"), n.get(name+".bias")
	y := make([]float64, len(x))
	for i := 0; i < len(x); i += c {
		mean, variance := 0.0, 0.0
		for _, v := range x[i : i+c] {
			mean += v / float64(c)
		}
		for _, v := range x[i : i+c] {
			variance += (v - mean) * (v - mean) / float64(c)
		}
		for j, v := range x[i : i+c] {
			y[i+j] = (v-mean)/math.Sqrt(variance+eps)*gamma[j] + beta[j]
		}
	}
	return y
}

// conv is a convolution of an h x w map of ci channels with any stride, padding and
// number of groups.
func (n naive) conv(name string, x []float64, h, w, ci, stride, padding, groups int) (y []float64, oh, ow int) {
	shape, _ := n.w.Shape(name + ".weight")
	co, per, kh, kw := shape[0], shape[1], shape[2], shape[3]
	weight := n.get(name + ".weight")
	bias := make([]float64, co)
	if n.has(name + ".bias") {
		bias = n.get(name + ".bias")
	}
	oh, ow = (h+2*padding-kh)/stride+1, (w+2*padding-kw)/stride+1
	y = make([]float64, oh*ow*co)
	for i := range oh {
		for j := range ow {
			for o := range co {
				sum := bias[o]
				for c := range per {
					from := o/(co/groups)*per + c
					for a := range kh {
						for b := range kw {
							r, s := i*stride-padding+a, j*stride-padding+b
							if r >= 0 && r < h && s >= 0 && s < w {
								sum += x[(r*w+s)*ci+from] * weight[((o*per+c)*kh+a)*kw+b]
							}
						}
					}
				}
				y[(i*ow+j)*co+o] = sum
			}
		}
	}
	return y, oh, ow
}

// scan is the selective scan over tokens in an order: u and delta are l x e, b and
// c l x n, a e x n, d e. delta gets its bias and softplus here.
func scan(u, delta, bias, a, b, c, d []float64, n int, order []int) []float64 {
	e := len(d)
	y, state := make([]float64, len(u)), make([]float64, e*n)
	for _, t := range order {
		for ch := range e {
			dt := math.Log1p(math.Exp(delta[t*e+ch] + bias[ch]))
			sum := d[ch] * u[t*e+ch]
			for i := range n {
				h := &state[ch*n+i]
				*h = math.Exp(dt*a[ch*n+i])**h + dt*b[t*n+i]*u[t*e+ch]
				sum += c[t*n+i] * *h
			}
			y[t*e+ch] = sum
		}
	}
	return y
}

// columns returns columns [j0, j1) of a matrix.
func columns(x []float64, c, j0, j1 int) []float64 {
	var y []float64
	for i := 0; i < len(x); i += c {
		y = append(y, x[i+j0:i+j1]...)
	}
	return y
}

func each(x []float64, f func(float64) float64) []float64 {
	y := make([]float64, len(x))
	for i, v := range x {
		y[i] = f(v)
	}
	return y
}

func silu(x float64) float64 { return x / (1 + math.Exp(-x)) }
func gelu(x float64) float64 { return x * 0.5 * math.Erfc(-x/math.Sqrt2) }

func add(a, b []float64) []float64 {
	y := make([]float64, len(a))
	for i := range y {
		y[i] = a[i] + b[i]
	}
	return y
}

func mul(a, b []float64) []float64 {
	y := make([]float64, len(a))
	for i := range y {
		y[i] = a[i] * b[i]
	}
	return y
}

func negExp(x float64) float64 { return -math.Exp(x) }

// mean is that of each of c channels over all tokens.
func mean(x []float64, c int) []float64 {
	y := make([]float64, c)
	for i, v := range x {
		y[i%c] += v / float64(len(x)/c)
	}
	return y
}

// mlp is fc2 GELU(fc1 x).
func (n naive) mlp(name string, x []float64, c int) []float64 {
	hidden := each(n.linear(name+".fc1", x, c), gelu)
	return n.linear(name+".fc2", hidden, len(hidden)/(len(x)/c))
}

// image turns an NCHW image into tokens x channels.
func nhwc(x []float32, chans, h, w int) []float64 {
	y := make([]float64, len(x))
	for c := range chans {
		for i := range h * w {
			y[i*chans+c] = float64(x[c*h*w+i])
		}
	}
	return y
}

// compareNaive runs an architecture with generated weights at every level, on a
// batch of two images with two threads, and compares the logits with those of an
// independent implementation.
func compareNaive(t *testing.T, a Architecture, h, w int, forward func(n naive, x []float64, h, w int) []float64) {
	t.Helper()
	weights := Synthetic(a, 3)
	chans, _ := a.Image()
	const batch = 2
	x := make([]float32, batch*chans*h*w)
	Generate(x, "input", 5, 0, 2)
	var want []float32
	for i := range batch {
		for _, v := range forward(naive{t, weights, map[string][]float64{}}, nhwc(x[i*chans*h*w:(i+1)*chans*h*w], chans, h, w), h, w) {
			want = append(want, float32(v))
		}
	}
	levels, workers := kernels.Levels(), []int{1, 2}
	if testing.Short() {
		levels, workers = levels[len(levels)-1:], workers[1:]
	}
	for _, level := range levels {
		for _, threads := range workers {
			m, err := New(a, weights, WithLevel(level), WithThreads(threads))
			if err != nil {
				t.Fatal(err)
			}
			p, err := m.Plan(batch, h, w)
			if err != nil {
				t.Fatal(err)
			}
			got := make([]float32, batch*a.Classes())
			if err := p.Forward(context.Background(), &Output{Logits: got}, x); err != nil {
				t.Fatal(err)
			}
			if d := golden.RelToMax(got, want); !(d < 2e-5) {
				t.Errorf("%v, %v, %d threads: logits differ by %.2g of the maximum", a, level, threads, d)
			}
		}
	}
}
