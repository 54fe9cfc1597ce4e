package kernels

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
)

// Level is an instruction-set level: which implementation of every operation
// runs. The zero value is Auto.
type Level uint8

const (
	// Auto stands for the level that [Default] returns.
	Auto Level = iota
	// Generic is portable Go, on every platform.
	Generic
	// AVX2 needs AVX2 and FMA (x86-64 since 2013).
	AVX2
	// AVX512 needs AVX-512 F, CD, BW, DQ and VL.
	AVX512
	// NEON needs an arm64 with Advanced SIMD, which all have.
	NEON
)

var levelNames = [...]string{Auto: "auto", Generic: "generic", AVX2: "avx2", AVX512: "avx512", NEON: "neon"}

// EnvISA is the environment variable that overrides the meaning of [Auto]. It
// is read once, at first use.
const EnvISA = "MILA_ISA"

// String returns the level's name as MILA_ISA and command-line flags spell it.
func (l Level) String() string {
	if int(l) < len(levelNames) {
		return levelNames[l]
	}
	return fmt.Sprintf("Level(%d)", uint8(l))
}

// ParseLevel returns the level with the given name, without asking whether
// this machine can run it (see [Level.Err]).
func ParseLevel(name string) (Level, error) {
	if i := slices.Index(levelNames[:], strings.ToLower(name)); i >= 0 {
		return Level(i), nil
	}
	return Auto, fmt.Errorf("kernels: unknown instruction-set level %q; known are %s", name, strings.Join(levelNames[:], ", "))
}

// Levels returns the levels that this build can run on this CPU, slowest
// first. There is always at least Generic.
func Levels() []Level {
	levels := []Level{Generic}
	if hasAVX2 {
		levels = append(levels, AVX2)
	}
	if hasAVX512 {
		levels = append(levels, AVX512)
	}
	if hasNEON {
		levels = append(levels, NEON)
	}
	return levels
}

// Err returns nil if the level can run here, and otherwise an error that says
// what can.
func (l Level) Err() error {
	if l == Auto {
		_, err := Default()
		return err
	}
	return l.supported()
}

// supported is Err for a concrete level.
func (l Level) supported() error {
	switch l {
	case Generic:
		return nil
	case AVX2:
		if hasAVX2 {
			return nil
		}
	case AVX512:
		if hasAVX512 {
			return nil
		}
	case NEON:
		if hasNEON {
			return nil
		}
	}
	return fmt.Errorf("kernels: level %v cannot run on this CPU with this build; %s", l, available())
}

func available() string {
	var names []string
	for _, l := range Levels() {
		names = append(names, l.String())
	}
	return "available: " + strings.Join(names, ", ")
}

// Default returns the level that [Auto] stands for: the one that MILA_ISA
// names, or the best one of [Levels]. A MILA_ISA that is misspelt or asks for
// what this machine lacks is an error, never a silent fallback.
func Default() (Level, error) { return defaultLevel() }

var defaultLevel = sync.OnceValues(func() (Level, error) { return levelFromEnv(os.Getenv(EnvISA)) })

func levelFromEnv(name string) (Level, error) {
	levels := Levels()
	best := levels[len(levels)-1]
	if name == "" {
		return best, nil
	}
	l, err := ParseLevel(name)
	if err == nil && l == Auto {
		return best, nil
	}
	if err == nil {
		err = l.supported()
	}
	if err != nil {
		return Auto, fmt.Errorf("%w (asked for by the environment variable %s=%s; %s)", err, EnvISA, name, available())
	}
	return l, nil
}

// resolve returns the concrete level to run, and panics where there is none.
func (l Level) resolve(op string) Level {
	if l == Auto {
		d, err := defaultLevel()
		if err != nil {
			panic(op + ": " + err.Error())
		}
		return d
	}
	if l != Generic {
		if err := l.supported(); err != nil {
			panic(op + ": " + err.Error())
		}
	}
	return l
}
