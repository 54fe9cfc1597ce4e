//go:build !purego

#include "textflag.h"

// func Pause()
//
// ISB waits longer than YIELD, which most cores ignore.
TEXT ·Pause(SB), NOSPLIT, $0-0
	ISB $15
	RET
