package models

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/mila-go/mila/block"
	"github.com/mila-go/mila/checkpoint"
	"github.com/mila-go/mila/kernels"
	"github.com/mila-go/mila/models/nano"
	"github.com/mila-go/mila/vision"
)

// Options changes how a model is opened. The zero value is the default.
type Options struct {
	Architecture string        // a name that block.Named knows; default a MILA, see ConfigPath
	ConfigPath   string        // a JSON configuration of a MILA that replaces the checkpoint's own
	State        string        // "model" or "ema", for training checkpoints that hold both
	Level        kernels.Level // instruction-set level; Auto is the best
	Threads      int           // threads of a forward pass; 0 is GOMAXPROCS
}

// Shipped returns the names of the models that are part of the module.
func Shipped() []string { return []string{"nano"} }

// Loaded is a model with what its checkpoint says about its use.
type Loaded struct {
	*block.Model
	Labels     []string          // class names, empty if unknown
	WordNetIDs []string          // of the classes, empty if unknown
	Preprocess vision.Preprocess // how images become its input
	States     []string          // the states that the checkpoint has
	State      string            // the one that was used
}

// Open opens a model: the name of a shipped one, or the path of a .safetensors
// or .pth file. The configuration is that of opt.Architecture, else comes from
// opt.ConfigPath, else from the file (safetensors metadata, or the object in a
// training checkpoint), else from the tensors' shapes. The file is unmapped before Open returns: only the packed
// weights stay in memory.
func Open(name string, opt Options) (*Loaded, error) {
	f, err := OpenCheckpoint(name, opt.State)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	cfg, extra, err := Describe(f, opt)
	if err != nil {
		return nil, err
	}
	m, err := block.New(cfg, f, block.WithLevel(opt.Level), block.WithThreads(opt.Threads))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return &Loaded{Model: m, Labels: extra.Labels, WordNetIDs: extra.WordNetIDs, Preprocess: extra.Preprocess, States: f.States(), State: f.State()}, nil
}

// OpenCheckpoint opens the checkpoint of a model by its name or path, without
// building it. The caller closes it.
func OpenCheckpoint(name, state string) (*checkpoint.File, error) {
	if slices.Contains(Shipped(), name) {
		return checkpoint.Parse(nano.Weights, checkpoint.WithState(state))
	}
	f, err := checkpoint.Open(name, checkpoint.WithState(state))
	if errors.Is(err, fs.ErrNotExist) && !strings.ContainsAny(name, "./\\") {
		return nil, fmt.Errorf("models: there is no model %q; shipped are %s, and a path to a .safetensors or .pth file works too", name, strings.Join(Shipped(), ", "))
	}
	return f, err
}

// Extra is what a configuration may say beside the shape of the model.
type Extra struct {
	Labels     []string          `json:"labels"`
	WordNetIDs []string          `json:"wnids"`
	Preprocess vision.Preprocess `json:"preprocess"`
}

// Describe returns the configuration of a checkpoint (see [Open]), and its labels
// and preprocessing (ImageNet's, at the model's size, where it names none).
func Describe(f *checkpoint.File, opt Options) (block.Architecture, Extra, error) {
	var extra Extra
	if err := checkTypes(f); err != nil {
		return nil, extra, err
	}
	if opt.Architecture != "" {
		a, ok := block.Named(opt.Architecture)
		if !ok {
			return nil, extra, fmt.Errorf("models: there is no architecture %q; there are %s", opt.Architecture, strings.Join(block.Names(), ", "))
		}
		_, size := a.Image()
		extra.Preprocess = vision.ImageNet(size)
		return a, extra, nil
	}
	var cfg block.Config
	m, ok := f.Config()
	if opt.ConfigPath != "" {
		data, err := os.ReadFile(opt.ConfigPath)
		if err != nil {
			return cfg, extra, fmt.Errorf("models: %w", err)
		}
		m = nil // decoding into the old map would merge the two
		if err := json.Unmarshal(data, &m); err != nil {
			return cfg, extra, fmt.Errorf("models: %s is not a JSON object: %w", opt.ConfigPath, err)
		}
		ok = true
	}
	var err error
	if ok {
		cfg, err = block.ConfigFromMap(m)
		if inner, nested := m["config"].(map[string]any); nested {
			m = inner
		}
		if data, e := json.Marshal(m); e == nil && err == nil {
			if e := json.Unmarshal(data, &extra); e != nil {
				err = fmt.Errorf("models: labels or preprocess in the configuration: %w", e)
			}
		}
	} else {
		cfg, err = block.InferConfig(f)
	}
	if err != nil {
		return cfg, extra, err
	}
	if extra.Preprocess.Crop == 0 && cfg.ImgSize > 0 {
		extra.Preprocess = vision.ImageNet(cfg.ImgSize)
	}
	return cfg, extra, nil
}

// checkTypes refuses weights that are no floating-point numbers, such as a
// quantised file: read as numbers they would give nonsense without an error.
func checkTypes(f *checkpoint.File) error {
	for _, name := range f.Names() {
		switch dt, _ := f.DType(name); dt {
		case checkpoint.F32, checkpoint.F16, checkpoint.BF16, checkpoint.F64:
		default:
			if !strings.HasSuffix(name, "num_batches_tracked") {
				return fmt.Errorf("models: tensor %q is %v; weights must be F32, F16, BF16 or F64 (a quantised checkpoint must be converted first)", name, dt)
			}
		}
	}
	return nil
}
