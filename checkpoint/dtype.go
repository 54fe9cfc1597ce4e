package checkpoint

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
)

// DType is the type that a tensor's elements are stored as.
type DType uint8

// The types that can be read. F32 is the zero value, so that a [Tensor] to be
// written is float32 unless it says otherwise.
const (
	F32  DType = iota // IEEE single
	F16               // IEEE half
	BF16              // the upper half of an IEEE single
	F64               // IEEE double
	I64
	I32
	I16
	I8
	U8
	BOOL // one byte, 0 or 1
)

var dtypes = [...]struct {
	name string
	size int
}{{"F32", 4}, {"F16", 2}, {"BF16", 2}, {"F64", 8}, {"I64", 8}, {"I32", 4}, {"I16", 2}, {"I8", 1}, {"U8", 1}, {"BOOL", 1}}

// String returns the name as safetensors spells it.
func (d DType) String() string {
	if int(d) < len(dtypes) {
		return dtypes[d].name
	}
	return fmt.Sprintf("DType(%d)", uint8(d))
}

// Size returns the bytes of one element, 0 for a value that is no type.
func (d DType) Size() int {
	if int(d) < len(dtypes) {
		return dtypes[d].size
	}
	return 0
}

func (d DType) integer() bool { return d >= I64 }

func parseDType(name string) (DType, bool) {
	for i, t := range dtypes {
		if t.name == name {
			return DType(i), true
		}
	}
	return 0, false
}

var le = binary.LittleEndian

// int returns element i of integer data.
func (d DType) int(data []byte, i int) int64 {
	switch d {
	case I64:
		return int64(le.Uint64(data[8*i:]))
	case I32:
		return int64(int32(le.Uint32(data[4*i:])))
	case I16:
		return int64(int16(le.Uint16(data[2*i:])))
	case I8:
		return int64(int8(data[i]))
	case BOOL:
		if data[i] != 0 {
			return 1
		}
		return 0
	}
	return int64(data[i])
}

// float returns element i of data.
func (d DType) float(data []byte, i int) float64 {
	switch d {
	case F32:
		return float64(math.Float32frombits(le.Uint32(data[4*i:])))
	case F16:
		return float64(fromF16(le.Uint16(data[2*i:])))
	case BF16:
		return float64(fromBF16(le.Uint16(data[2*i:])))
	case F64:
		return math.Float64frombits(le.Uint64(data[8*i:]))
	}
	return float64(d.int(data, i))
}

// decode32 converts the first len(dst) elements of data.
func (d DType) decode32(dst []float32, data []byte) {
	data = data[:len(dst)*d.Size()]
	switch d {
	case F32:
		for i := range dst {
			dst[i] = math.Float32frombits(le.Uint32(data[4*i:]))
		}
	case F16:
		for i := range dst {
			dst[i] = fromF16(le.Uint16(data[2*i:]))
		}
	case BF16:
		for i := range dst {
			dst[i] = fromBF16(le.Uint16(data[2*i:]))
		}
	default:
		for i := range dst {
			dst[i] = float32(d.float(data, i))
		}
	}
}

func fromBF16(h uint16) float32 { return math.Float32frombits(uint32(h) << 16) }

// fromF16 widens an IEEE half: 1 sign, 5 exponent (bias 15), 10 fraction bits.
func fromF16(h uint16) float32 {
	sign, exp, frac := uint32(h>>15)<<31, uint32(h>>10&31), uint32(h&1023)
	switch exp {
	case 0: // zero and subnormals: frac * 2^-24, exact
		v := float32(frac) * (1.0 / (1 << 24))
		return math.Float32frombits(sign | math.Float32bits(v))
	case 31:
		return math.Float32frombits(sign | 0x7f800000 | frac<<13)
	}
	return math.Float32frombits(sign | (exp+112)<<23 | frac<<13)
}

// toF16 rounds to the nearest half, ties to even; what is beyond 65504 after
// rounding becomes infinite.
func toF16(f float32) uint16 {
	b := math.Float32bits(f)
	sign, abs := uint16(b>>16&0x8000), b&0x7fffffff
	switch {
	case abs > 0x7f800000: // NaN: keep it quiet, and the top of its payload
		return sign | 0x7e00 | uint16(abs>>13&0x1ff)
	case abs >= 0x47800000: // 65536 and more
		return sign | 0x7c00
	case abs < 0x38800000: // below 2^-14: a subnormal half is a multiple of 2^-24
		v := math.Float32frombits(abs) * (1 << 24)
		return sign | uint16(math.RoundToEven(float64(v)))
	}
	// Round the 13 dropped bits; a carry runs into the exponent as it should.
	abs += 0xfff + abs>>13&1
	return sign | uint16((abs-112<<23)>>13)
}

// maxElements bounds a tensor; nothing larger can be indexed on every platform.
const maxElements = 1<<31 - 1

// shapeLen returns the number of elements. Dimensions beside a zero count too
// against the limit, so that nobody's product of the others overflows.
func shapeLen(shape []int) (int, error) {
	n, zero := 1, false
	for _, d := range shape {
		switch {
		case d < 0:
			return 0, fmt.Errorf("negative dimension in shape %v", slices.Clone(shape))
		case d == 0:
			zero = true
		case n > maxElements/d:
			return 0, fmt.Errorf("shape %v has more than %d elements, the most that is supported", slices.Clone(shape), maxElements)
		default:
			n *= d
		}
	}
	if zero {
		return 0, nil
	}
	return n, nil
}
