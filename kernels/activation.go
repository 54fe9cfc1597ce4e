package kernels

import "github.com/mila-go/mila/kernels/ref"

// Activation names an element-wise function.
type Activation = ref.Activation

const (
	Identity = ref.Identity // x
	ReLU     = ref.ReLU     // max(x, 0); NaN stays NaN
	SiLU     = ref.SiLU     // x / (1 + exp(-x))
	GELU     = ref.GELU     // x/2 (1 + erf(x/√2)), the exact form
	ELU1     = ref.ELU1     // ELU(x) + 1: x + 1 for x > 0, exp(x) otherwise
)

func checkSame(op string, y []float32, xs ...[]float32) {
	for _, x := range xs {
		if len(x) != len(y) {
			fail(op, "y has %d elements, an input %d", len(y), len(x))
		}
	}
}

// Activate computes y[i] = a(x[i]). Slices have the same length; y may be x.
func Activate(l Level, a Activation, y, x []float32) {
	l = l.resolve("Activate")
	checkSame("Activate", y, x)
	if a > ELU1 {
		fail("Activate", "unknown activation %d", a)
	}
	if l == Generic {
		ref.Activate(a, y, x)
		return
	}
	activateAll(l, a, y, x)
}

// Exp computes y[i] = exp(x[i]) with at most 2 ulp of error over the whole
// range. Slices have the same length; y may be x.
func Exp(l Level, y, x []float32) {
	l = l.resolve("Exp")
	checkSame("Exp", y, x)
	if l == Generic {
		ref.Exp(y, x)
		return
	}
	activateAll(l, fnExp, y, x)
}

// Erf computes the error function y[i] = 2/√π ∫₀^x[i] exp(-t²) dt. Slices have
// the same length; y may be x.
func Erf(l Level, y, x []float32) {
	l = l.resolve("Erf")
	checkSame("Erf", y, x)
	if l == Generic {
		ref.Erf(y, x)
		return
	}
	activateAll(l, fnErf, y, x)
}

// Sigmoid computes y[i] = 1 / (1 + exp(-x[i])). Slices have the same length; y
// may be x.
func Sigmoid(l Level, y, x []float32) {
	l = l.resolve("Sigmoid")
	checkSame("Sigmoid", y, x)
	if l == Generic {
		ref.Sigmoid(y, x)
		return
	}
	activateAll(l, fnSigmoid, y, x)
}

// Softplus computes y[i] = log(1 + exp(x[i])), which is x[i] above 20. Slices have
// the same length; y may be x.
func Softplus(l Level, y, x []float32) {
	l = l.resolve("Softplus")
	checkSame("Softplus", y, x)
	if l == Generic {
		ref.SoftplusAll(y, x)
		return
	}
	activateAll(l, fnSoftplus, y, x)
}

// Softmax sets each of the dense rows of n elements to
// exp(x - max) / Σ exp(x - max). A row that holds a NaN becomes all NaN. y may
// be x.
func Softmax(l Level, y, x []float32, rows, n int) {
	l.resolve("Softmax")
	checkDims("Softmax", rows, n)
	checkLen("Softmax", "y", y, rows*n)
	checkLen("Softmax", "x", x, rows*n)
	ref.Softmax(y, x, rows, n)
}

// Add computes y[i] = a[i] + b[i]. Slices have the same length; y may be a or b.
func Add(l Level, y, a, b []float32) {
	l = l.resolve("Add")
	checkSame("Add", y, a, b)
	if l == Generic {
		ref.Add(y, a, b)
		return
	}
	binaryVector(l, y, a, b, false)
}

// Mul computes y[i] = a[i] * b[i]. Slices have the same length; y may be a or b.
func Mul(l Level, y, a, b []float32) {
	l = l.resolve("Mul")
	checkSame("Mul", y, a, b)
	if l == Generic {
		ref.Mul(y, a, b)
		return
	}
	binaryVector(l, y, a, b, true)
}
