// Command card writes the evaluation of a model into its card: tables and figures of
// what `mila eval --details` and `mila classify --json --heatmap` found. See run. It is
// a module of its own, so that MILA for Go does not depend on what the figures need.
//
//	card DETAILS.json PREDICTIONS.jsonl DIR
//
// DIR holds README.md, of which the part between two comments is replaced, and gets
// confusion.png and calibration.png.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// details is what is needed of the JSON that mila eval --details writes.
type details struct {
	Model       string
	Top1, Top5  float64
	Images      int
	Failures    []struct{ Image string }
	NLL         float64
	Calibration struct {
		ECE  float64
		Bins []bin
	}
	Classes   []class
	Confusion [][3]int // true class, most probable class, images
	Answers   []struct {
		Class int
		Top   []prediction
	}
}

type bin struct {
	Low, High            float64
	Images               int
	Confidence, Accuracy float64
}

type class struct {
	Index              int
	Label              string
	Images, Top1, Top5 int
}

func (c class) share(n int) float64 { return float64(n) / float64(max(1, c.Images)) }

type prediction struct {
	Index int
	Label string
	Prob  float64
}

// photo is a line of mila classify --json --heatmap.
type photo struct {
	Image, Heatmap, Error string
	Top                   []prediction
}

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: card DETAILS.json PREDICTIONS.jsonl DIR")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, "card:", err)
		os.Exit(1)
	}
}

func run(detailsPath, predictionsPath, dir string) error {
	data, err := os.ReadFile(detailsPath)
	if err != nil {
		return err
	}
	var d details
	if err := json.Unmarshal(data, &d); err != nil {
		return fmt.Errorf("%s: %w", detailsPath, err)
	}
	if d.Images == 0 || len(d.Classes) == 0 {
		return fmt.Errorf("%s holds no evaluation", detailsPath)
	}
	f, err := os.Open(predictionsPath)
	if err != nil {
		return err
	}
	defer f.Close()
	var photos []photo
	for dec := json.NewDecoder(f); dec.More(); {
		var p photo
		if err := dec.Decode(&p); err != nil {
			return fmt.Errorf("%s: %w", predictionsPath, err)
		}
		if p.Error != "" {
			return fmt.Errorf("%s: %s", p.Image, p.Error)
		}
		if p.Heatmap, err = filepath.Rel(dir, p.Heatmap); err != nil {
			return err
		}
		photos = append(photos, p)
	}
	if err := confusionPlot(&d, filepath.Join(dir, "confusion.png")); err != nil {
		return err
	}
	if err := calibrationPlot(&d, filepath.Join(dir, "calibration.png")); err != nil {
		return err
	}
	return insert(filepath.Join(dir, "README.md"), section(&d, photos))
}

// The part of a card that this command writes stands between these lines.
const begin, end = "<!-- bench/card writes what follows -->", "<!-- bench/card ends here -->"

// insert replaces that part of a card.
func insert(path, text string) error {
	card, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(card), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		return fmt.Errorf("%s lacks the lines %q and %q, between which the evaluation belongs", path, begin, end)
	}
	return os.WriteFile(path, []byte(before+begin+"\n"+text+end+after), 0o666)
}
