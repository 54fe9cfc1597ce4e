package ref

// Epilogue is what a matrix product or convolution does to each element of its
// result before the only store:
//
//	y = Act(acc + Bias) * Mul + Add
//
// where acc is the bare product. A nil slice leaves its term out.
type Epilogue struct {
	Bias  []float32 // one per output column (channel)
	Act   Activation
	Mul   []float32 // gate: a matrix of the output's shape
	LdMul int       // elements between its rows
	Add   []float32 // residual: a matrix of the output's shape
	LdAdd int
}

// Finish returns the epilogue's value for the element at (row, col) whose bare
// product is acc, all in float64.
func (e *Epilogue) Finish(acc float64, row, col int) float32 {
	if e.Bias != nil {
		acc += float64(e.Bias[col])
	}
	acc = e.Act.apply(acc)
	if e.Mul != nil {
		acc *= float64(e.Mul[row*e.LdMul+col])
	}
	if e.Add != nil {
		acc += float64(e.Add[row*e.LdAdd+col])
	}
	return float32(acc)
}

// Gemm computes Y = epilogue(X Wᵀ) for X (m x k), W (n x k) and Y (m x n).
func Gemm(y []float32, ldy int, x []float32, ldx int, w []float32, ldw int, m, n, k int, e Epilogue) {
	for i := range m {
		for j := range n {
			var acc float64
			xr, wr := x[i*ldx:i*ldx+k], w[j*ldw:j*ldw+k]
			for p, v := range xr {
				acc += float64(v) * float64(wr[p])
			}
			y[i*ldy+j] = e.Finish(acc, i, j)
		}
	}
}

// ConvShape describes a valid (unpadded) 2-D convolution of one NHWC image.
// Pixels are contiguous (Cin or Cout floats); rows of pixels may be further
// apart than their width, which is how a caller supplies zero padding: it lays
// the image into a larger zeroed one.
type ConvShape struct {
	OutH, OutW int // output pixels
	Cin, Cout  int
	KH, KW     int // kernel
	Stride     int
	RowX       int // floats between input rows, at least ((OutW-1)*Stride+KW)*Cin
	RowY       int // floats between output rows, at least OutW*Cout
}

// Conv2D computes, for every output pixel (i, j) and channel o,
//
//	y[i,j,o] = epilogue( Σ_{r,s,c} x[i·Stride+r, j·Stride+s, c] · w[o,c,r,s] )
//
// with w in the order (Cout, Cin, KH, KW). The epilogue's Mul and Add have the
// pixel layout of y, LdMul and LdAdd floats between their image rows.
func Conv2D(y, x, w []float32, s ConvShape, e Epilogue) {
	for i := range s.OutH {
		for j := range s.OutW {
			for o := range s.Cout {
				var acc float64
				for c := range s.Cin {
					for r := range s.KH {
						for t := range s.KW {
							acc += float64(x[(i*s.Stride+r)*s.RowX+(j*s.Stride+t)*s.Cin+c]) *
								float64(w[((o*s.Cin+c)*s.KH+r)*s.KW+t])
						}
					}
				}
				// Bias is indexed by channel, Mul and Add by position in the row.
				f := Epilogue{Act: e.Act, Mul: e.Mul, LdMul: e.LdMul, Add: e.Add, LdAdd: e.LdAdd}
				if e.Bias != nil {
					acc += float64(e.Bias[o])
				}
				y[i*s.RowY+j*s.Cout+o] = f.Finish(acc, i, j*s.Cout+o)
			}
		}
	}
}
