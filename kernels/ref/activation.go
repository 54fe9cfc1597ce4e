package ref

import "math"

// Activation names an element-wise function that a matrix product, a
// convolution or [Activate] applies to its result.
type Activation uint8

const (
	Identity Activation = iota // x
	ReLU                       // max(x, 0); NaN stays NaN
	SiLU                       // x / (1 + exp(-x)), also called Swish
	GELU                       // x Φ(x) = x/2 (1 + erf(x/√2)), the exact form
	ELU1                       // ELU(x) + 1 = x + 1 for x > 0, exp(x) otherwise
)

// String returns the usual lower-case name of a.
func (a Activation) String() string {
	switch a {
	case Identity:
		return "identity"
	case ReLU:
		return "relu"
	case SiLU:
		return "silu"
	case GELU:
		return "gelu"
	case ELU1:
		return "elu+1"
	}
	return "activation(?)"
}

// Apply returns a(x).
func (a Activation) Apply(x float32) float32 { return float32(a.apply(float64(x))) }

func (a Activation) apply(x float64) float64 {
	switch a {
	case ReLU:
		if x <= 0 { // written so that NaN passes
			return 0
		}
		return x
	case SiLU:
		return x / (1 + math.Exp(-x))
	case GELU:
		// erfc keeps the relative precision of the lower tail, where 1+erf cancels.
		return 0.5 * x * math.Erfc(-x*(math.Sqrt2/2))
	case ELU1:
		if x > 0 {
			return x + 1
		}
		return math.Exp(x)
	}
	return x
}

// SoftplusAll sets y[i] = Softplus(x[i]).
func SoftplusAll(y, x []float32) {
	for i, v := range x {
		y[i] = float32(Softplus(float64(v)))
	}
}

// Activate sets y[i] = a(x[i]).
func Activate(a Activation, y, x []float32) {
	for i, v := range x {
		y[i] = a.Apply(v)
	}
}

// Exp sets y[i] = exp(x[i]).
func Exp(y, x []float32) {
	for i, v := range x {
		y[i] = float32(math.Exp(float64(v)))
	}
}

// Erf sets y[i] = erf(x[i]) = 2/√π ∫₀ˣ exp(-t²) dt.
func Erf(y, x []float32) {
	for i, v := range x {
		y[i] = float32(math.Erf(float64(v)))
	}
}

// Sigmoid sets y[i] = 1 / (1 + exp(-x[i])).
func Sigmoid(y, x []float32) {
	for i, v := range x {
		y[i] = float32(1 / (1 + math.Exp(-float64(v))))
	}
}

// Softmax sets each row of n elements to exp(x - max) / Σ exp(x - max).
// A row with a NaN becomes all NaN.
func Softmax(y, x []float32, rows, n int) {
	for r := range rows {
		xr, yr := x[r*n:r*n+n], y[r*n:r*n+n]
		top := math.Inf(-1)
		for _, v := range xr {
			top = math.Max(top, float64(v)) // NaN wins
		}
		var sum float64
		for _, v := range xr {
			sum += math.Exp(float64(v) - top)
		}
		for i, v := range xr {
			yr[i] = float32(math.Exp(float64(v)-top) / sum)
		}
	}
}

// Add sets y[i] = a[i] + b[i].
func Add(y, a, b []float32) {
	for i := range y {
		y[i] = a[i] + b[i]
	}
}

// Mul sets y[i] = a[i] * b[i].
func Mul(y, a, b []float32) {
	for i := range y {
		y[i] = a[i] * b[i]
	}
}
