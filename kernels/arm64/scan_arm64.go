//go:build !purego

package arm64

// ScanTokens is the most tokens that the scan functions work on at a time, in some
// 10 to 50 µs.
const ScanTokens = 64

// The forms of [ScanNEON].
const (
	ScanGeneral = iota // b[token·LdB+n], c[token·LdC+n]; decay n is exp2(steps · a[n])
	ScanFalling        // as ScanGeneral, for steps · a that is nowhere above 127
	ScanPowers         // decay n is steps^(n+1)
	ScanOn             // decay n is steps · powers^n
	ScanB              // as ScanGeneral, with b a panel like a
	ScanC              // as ScanGeneral, with c a panel like a
	ScanBC             // as ScanGeneral, with b and c panels like a
)

// ScanCall holds the operands of a scan of 16 channels, or the first Vectors·4 of
// them. Distances are in bytes; each step i has the token t = Order[i]. The generator
// knows the order of the fields.
type ScanCall struct {
	// Rows of 16: what gives the decays, delta·u, and the sums so far.
	Steps, Powers, Inputs, Sums *float32
	Order                       *int32
	Tokens, Vectors             int
	A                           *float32 // rows of 16 channels, of the first of these states
	B                           *float32 // of token 0 (or of the panel) at the first of these states
	LdB                         int      // between tokens, 0 for a panel
	C                           *float32
	LdC                         int
	State                       *float32 // of the first of these states
	LdState                     int      // between states
	States, Form                int
}

// ScanDecayNEON computes decays[16*i+j] = exp2(steps[16*i+j] * a[j]) for i < tokens,
// at most 2^127.5, and perhaps 0 below 2^-126.
//
//go:noescape
func ScanDecayNEON(decays, steps, a *float32, tokens int)

// ScanNEON advances States states of each channel over the tokens:
//
//	h[n] = decay(n, steps[i])·h[n] + inputs[i]·b[t, n]
//	sums[i] += Σ_n c[t, n]·h[n]
//
// States is 8 (ScanGeneral, ScanFalling), 16 (ScanPowers, ScanOn), 4 (all but
// ScanFalling), or 1 (ScanGeneral and those with panels; then Vectors is 4).
//
//go:noescape
func ScanNEON(call *ScanCall)

// ScanInNEON gathers rows of 16: work[16*i+j] = x[order[i]*ldx+j] + bias[j].
//
//go:noescape
func ScanInNEON(work, x *float32, ldx int, bias *float32, order *int32, tokens int)

// ScanInputNEON makes the inputs of a scan and begins its sums, with t = order[i]:
//
//	inputs[16*i+j] = steps[16*i+j] * u[t*ldu+j] // or u alone where plain is not 0
//	sums[16*i+j] = d[j] * u[t*ldu+j]            // or 0 where d is nil
//
//go:noescape
func ScanInputNEON(inputs, sums, steps, u *float32, ldu int, d *float32, order *int32, tokens, plain int)

// ScanOutNEON stores sums, with t = order[i]:
//
//	y[t*ldy+j] = sums[16*i+j] * gate[16*i+j] // plus y[t*ldy+j] where add is not 0
//
// gate may be nil.
//
//go:noescape
func ScanOutNEON(y *float32, ldy int, sums, gate *float32, order *int32, tokens, add int)

// Conv1DNEON computes for each step i with t = order[i], of four channels,
//
//	y[t*ldy:] = act(bias + Σ_j w[j*ldw:] * (the input width-1-j steps before))
//
// where the inputs before the first step are the rows state[j*ldstate:], the oldest
// first, which take the last width-1 inputs in the end. bias may be nil; act is SiLU
// where silu is not 0; width is 2 to 4.
//
//go:noescape
func Conv1DNEON(y *float32, ldy int, x *float32, ldx int, order *int32, tokens, silu int, state *float32, ldstate int, w *float32, ldw int, bias *float32, width int)

// TransposeNEON transposes rows x cols elements, both multiples of 8:
//
//	for i := range rows {
//		for j := range cols {
//			dst[j*ldd+i] = src[i*lds+j]
//		}
//	}
//
//go:noescape
func TransposeNEON(dst *float32, ldd int, src *float32, lds, rows, cols int)

// ScaleRowsNEON computes y[r*ldy+c] = x[r*ldx+c] * s[r]; y may be x.
//
//go:noescape
func ScaleRowsNEON(y *float32, ldy int, x *float32, ldx, rows, cols int, s *float32)
