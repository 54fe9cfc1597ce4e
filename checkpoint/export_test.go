package checkpoint

// RoundF16 rounds to half precision and back.
func RoundF16(x float32) float32 { return fromF16(toF16(x)) }

// Halves exposes the conversions.
var ToF16, FromF16, FromBF16 = toF16, fromF16, fromBF16
