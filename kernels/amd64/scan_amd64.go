//go:build !purego

package amd64

// The scan kernels work on up to ScanTokens tokens of a vector of channels, with
// work = [3][ScanTokens]vector holding delta, delta·u and the sum of each token.
// order gives the token of each step; lanes is the number of channels, 1 to the
// vector's. y, u, delta, z, bias, d and state point to the first channel.
const ScanTokens = 64

// The forms of the Scan functions, and the numbers of states that they take:
// ScanStatesAVX512 or ScanStatesAVX2, 4 and, but for the powers, 1.
const (
	ScanGeneral = iota // b[token·ldb+n], c[token·ldc+n]; decay n is exp2(delta · a[n])
	ScanPowers         // decay n is exp2(delta · a0[0])^(n+1); a is a0
	ScanOn             // decay n is exp2(delta · a[0]) · exp2(delta · a0[0])^n
	ScanB              // as ScanGeneral, with b a panel like a
	ScanC              // as ScanGeneral, with c a panel like a
	ScanBC             // as ScanGeneral, with b and c panels like a
)

// ScanStatesAVX512 and ScanStatesAVX2 are the most states of a call.
const ScanStatesAVX512, ScanStatesAVX2 = 16, 8

// ScanInAVX512 prepares the work of each token i, t being order[i]:
//
//	x := delta[t*lddelta:] + bias // nil: 0
//	if softplus != 0 {
//		x = log(1 + exp(x))
//	}
//	work[0][i] = min(max(x, -2^64), 2^64)
//	work[1][i] = x * u[t*ldu:]
//	work[2][i] = d * u[t*ldu:] // nil: 0
//
//go:noescape
func ScanInAVX512(work, delta *float32, lddelta int, u *float32, ldu int, bias, d *float32, order *int32, tokens, lanes, softplus int)

// ScanAVX512 passes over tokens with some states n of the channels, of the rows
// state[n*ld:], with t = order[i] and a[n*16:] for a panel's row:
//
//	h[n] = decay(n, work[0][i])*h[n] + work[1][i]*b[t*ldb+n]
//	work[2][i] += c[t*ldc+n] * h[n]
//
//go:noescape
func ScanAVX512(state *float32, ld int, a, a0, b *float32, ldb int, c *float32, ldc int, work *float32, order *int32, tokens, lanes, states, form int)

// ScanOutAVX512 writes the result, t being order[i]; z may be nil:
//
//	v := work[2][i] * SiLU(z[t*ldz:])
//	if add != 0 {
//		v += y[t*ldy:]
//	}
//	y[t*ldy:] = v
//
//go:noescape
func ScanOutAVX512(y *float32, ldy int, z *float32, ldz int, work *float32, order *int32, tokens, lanes, add int)

// ScanInAVX2 is [ScanInAVX512] with 8 channels in a vector.
//
//go:noescape
func ScanInAVX2(work, delta *float32, lddelta int, u *float32, ldu int, bias, d *float32, order *int32, tokens, lanes, softplus int)

// ScanAVX2 is [ScanAVX512] with 8 channels in a vector.
//
//go:noescape
func ScanAVX2(state *float32, ld int, a, a0, b *float32, ldb int, c *float32, ldc int, work *float32, order *int32, tokens, lanes, states, form int)

// ScanOutAVX2 is [ScanOutAVX512] with 8 channels in a vector.
//
//go:noescape
func ScanOutAVX2(y *float32, ldy int, z *float32, ldz int, work *float32, order *int32, tokens, lanes, add int)
