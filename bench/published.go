package bench

// Published is a row of tables 1 and 2 of arXiv 2405.16605.
type Published struct {
	Name  string  // of the architecture; see block.Named
	Label string  // in words
	Top1  float64 // per cent on ImageNet
	GPU   float64 // images/s on an RTX 3090
}

// Table1 is the paper's: the baseline, and each distinction of Mamba alone.
var Table1 = []Published{
	{"la-t", "baseline", 77.6, 1152}, {"la-t+input-gate", "+ input gate", 77.8, 1069}, {"la-t+forget-gate", "+ forget gate", 78.4, 743},
	{"la-t+shortcut", "+ shortcut", 77.8, 1066}, {"la-t-normaliser", "- normalisation", 72.4, 1215}, {"la-t-multi-head", "- multi-head", 73.5, 1540},
	{"la-t+block-all", "+ block design all", 79.4, 915}, {"la-t+block-sub", "+ block design sub", 80.9, 1010},
}

// Table2 is the paper's: position encodings in place of the forget gate.
var Table2 = []Published{
	{"la-t+ape", "APE", 80.0, 1132}, {"la-t+lepe", "LePE", 81.6, 1074}, {"la-t+cpe", "CPE", 81.7, 1099}, {"la-t+rope", "RoPE", 80.0, 1113},
}
