//go:build race

package block_test

// raceEnabled keeps the large models out of the race detector's tenfold cost.
const raceEnabled = true
