package kernels

// MultiplyAdds does n rounds of independent float32 multiply-adds in registers at
// level l and returns how many it did. Timing it gives the arithmetic peak of a
// core, which speeds can be stated as shares of. n must be at least 1; a round
// takes some nanoseconds.
//
// At level Generic a multiply-add is a scalar multiplication and an addition, as
// Go compiles them.
func MultiplyAdds(l Level, n int) int {
	l = l.resolve("MultiplyAdds")
	if n < 1 {
		fail("MultiplyAdds", "%d rounds", n)
	}
	if l == Generic {
		scalarMultiplyAdds(n)
		return 12 * n
	}
	return multiplyAddsVector(l, n)
}

// sink keeps the compiler from dropping the loop; it is only read where the loop
// has not run.
var sink float32

// scalarMultiplyAdds has as many chains as hide the latency of a multiplication
// and an addition and still fit amd64's registers.
//
//go:noinline
func scalarMultiplyAdds(n int) {
	x, y := float32(n)*0+0.5, float32(n)*0+0.25
	a, b, c, d, e, f := x, x, x, x, x, x
	g, h, i, j, k, l := y, y, y, y, y, y
	for range n {
		a = a*x + y
		b = b*x + y
		c = c*x + y
		d = d*x + y
		e = e*x + y
		f = f*x + y
		g = g*x + y
		h = h*x + y
		i = i*x + y
		j = j*x + y
		k = k*x + y
		l = l*x + y
	}
	if s := a + b + c + d + e + f + g + h + i + j + k + l; s == -1 {
		sink = s
	}
}
