//go:build !purego

package amd64

// ScanTokens is the most tokens that the scan functions work on at a time, in
// about 10 µs.
const ScanTokens = 128

// The forms of the Scan functions.
const (
	ScanGeneral = iota // b[token·LdB+n], c[token·LdC+n]; decay n is exp2(delta · a[n])
	ScanPowers         // decay n is exp2(delta · a0[0])^(n+1); a is a0
	ScanOn             // decay n is exp2(delta · a[0]) · exp2(delta · a0[0])^n
	ScanB              // as ScanGeneral, with b a panel like a
	ScanC              // as ScanGeneral, with c a panel like a
	ScanBC             // as ScanGeneral, with b and c panels like a
	ScanGated          // ScanIn, ScanGeneral and ScanOut in one, with 16 states, a softplus, a gate; AVX-512 only
)

// ScanCall holds the operands of a scan of up to a vector of channels. Pointers are
// those of the first channel, distances are in bytes; each step i has the token
// t = Order[i]. The generator knows the order of the fields.
type ScanCall struct {
	Tokens, Lanes int // steps; channels, 1 to the vector's
	Order         *int32

	// ScanIn: work[i] = delta[t] + bias, and log(1 + exp()) of it where Softplus is
	// not 0, a vector a step
	Delta    *float32
	LdDelta  int
	Bias     *float32
	Softplus int
	Work     *float32

	// Scan: with rows state[n] of the channels, n < States, panel rows a[n] of 16
	// channels and step[i] = Step[StepOrder[i]]
	//
	//	h[n] = decay(n, step[i])·h[n] + step[i]·u[t]·b[t, n]
	//	sum = Σ_n c[t, n]·h[n] + d·u[t]
	//
	// stored in Sum[SumOrder[i]], or added there where Onto is not 0; D may be nil.
	// States is 1, 4, and for the forms without panels also 16 (AVX-512) or 8
	// (AVX2); the powers have no 1. Plain leaves the factor step[i] out of the input.
	Step         *float32
	LdStep       int
	StepOrder    *int32
	U            *float32
	LdU          int
	D            *float32
	State        *float32
	LdState      int
	A, A0        *float32
	B            *float32
	LdB          int
	C            *float32
	LdC          int
	States, Form int
	Sum          *float32
	LdSum        int
	SumOrder     *int32
	Onto         int

	// ScanOut: y[t] = work[i]·SiLU(z[t]), plus y[t] where Add is not 0; Z may be nil
	Y   *float32
	LdY int
	Z   *float32
	LdZ int
	Add int

	Plain int
}

//go:noescape
func ScanInAVX512(call *ScanCall)

//go:noescape
func ScanAVX512(call *ScanCall)

//go:noescape
func ScanOutAVX512(call *ScanCall)

//go:noescape
func ScanInAVX2(call *ScanCall)

//go:noescape
func ScanAVX2(call *ScanCall)

//go:noescape
func ScanOutAVX2(call *ScanCall)

// Conv1DAVX512 computes for each step i with t = order[i], of up to a vector of
// channels,
//
//	y[t*ldy:] = act(bias + Σ_j w[j*ldw:] * (the input width-1-j steps before))
//
// where the inputs before the first step are the rows state[j*ldstate:], the oldest
// first, which take the last width-1 inputs in the end. bias may be nil; act is SiLU where
// silu is not 0; width is 2 to 4.
//
//go:noescape
func Conv1DAVX512(y *float32, ldy int, x *float32, ldx int, state *float32, ldstate int, w *float32, ldw int, bias *float32, order *int32, tokens, width, lanes, silu int)

// Conv1DAVX2 is [Conv1DAVX512] with 8 channels in a vector.
//
//go:noescape
func Conv1DAVX2(y *float32, ldy int, x *float32, ldx int, state *float32, ldstate int, w *float32, ldw int, bias *float32, order *int32, tokens, width, lanes, silu int)
