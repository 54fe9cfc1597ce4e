//go:build !purego

package arm64

// OuterSumNEON adds outer products of keys and values, at least one token:
//
//	for t := range tokens {
//		for a := range rows {
//			for b := range cols {
//				kv[a*ldkv+b] += k[t*ldk+a] * v[t*ldv+b]
//			}
//		}
//	}
//
//go:noescape
func OuterSumNEON(kv *float32, ldkv int, k *float32, ldk int, v *float32, ldv, tokens, rows, cols int)

// RotateNEON rotates the pairs of n channels (n even and positive) of at least
// one token of a grid w tokens wide, the first of them in the given column:
//
//	for t := range tokens {
//		for p := 0; p < n; p += 2 {
//			a, b, cos, sin := x[t*ldx+p], x[t*ldx+p+1], table[p], table[p+1]
//			y[t*ldy+p] = (a*cos - b*sin) * scale[t]
//			y[t*ldy+p+1] = (b*cos + a*sin) * scale[t]
//			sum[p] += a
//			sum[p+1] += b
//		}
//		table = table[step:]
//		if column++; column == w {
//			column, table = 0, table[wrap:]
//		}
//	}
//
// scale and sum may be nil; step and wrap may be negative.
//
//go:noescape
func RotateNEON(y *float32, ldy int, x *float32, ldx int, table *float32, step, wrap, column, w, tokens, n int, scale, sum *float32)

// InverseNEON computes y[t] = 1 / (eps + Σ x[t*ldx+a] s[a]) over a < n for at
// least one token.
//
//go:noescape
func InverseNEON(y, x *float32, ldx int, s *float32, tokens, n int, eps float32)
