// Package ablation carries the trained models of the ablation: small ones, one for
// each distinction between linear attention and Mamba and for each position encoding
// (tables 1 and 2 of arXiv 2405.16605), and a MILA of their size. To import it adds
// them, some 18 MB, to the program, where [models.Open] finds them as ablation/ROW.
// bench/results/ablation.md compares them.
package ablation

import (
	"embed"
	"strings"

	"github.com/mila-go/mila/models"
)

// Prefix is what the names of these models begin with.
const Prefix = "ablation/"

// Rows are the models' names without the prefix, in the order of the paper's tables.
var Rows = []string{"baseline", "input-gate", "forget-gate", "shortcut", "no-normaliser", "single-head", "block-all", "block-sub", "ape", "lepe", "cpe", "rope", "mila"}

const extension = ".safetensors"

//go:embed *.safetensors
var files embed.FS

func init() {
	list, err := files.ReadDir(".")
	if err != nil {
		panic(err) // embedded folders can be read
	}
	for _, f := range list {
		models.Register(Prefix+strings.TrimSuffix(f.Name(), extension), func() ([]byte, error) { return files.ReadFile(f.Name()) })
	}
}
