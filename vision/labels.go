package vision

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"slices"
	"sort"
	"strings"
)

// Prediction is one class of an answer.
type Prediction struct {
	Index int     `json:"index"`
	Label string  `json:"label"`
	Prob  float32 `json:"prob"`
}

// TopK returns the k most probable classes, best first; ties go to the lower
// index and NaN comes last. Classes beyond the labels are named by their index.
func TopK(probs []float32, labels []string, k int) []Prediction {
	rank := func(p float32) float64 {
		if p != p {
			return math.Inf(-1)
		}
		return float64(p)
	}
	k = max(0, min(k, len(probs)))
	out := make([]Prediction, 0, k+1) // the best of those seen
	for i, p := range probs {
		if len(out) == k && (k == 0 || rank(p) <= rank(out[k-1].Prob)) {
			continue
		}
		at := sort.Search(len(out), func(j int) bool { return rank(out[j].Prob) < rank(p) })
		out = slices.Insert(out, at, Prediction{i, "", p})
		out = out[:min(k, len(out))]
	}
	for i := range out {
		out[i].Label = LabelOf(labels, out[i].Index)
	}
	return out
}

// LabelOf returns the label of a class, or one that tells its index if it has none.
func LabelOf(labels []string, class int) string {
	if class < len(labels) {
		return labels[class]
	}
	return fmt.Sprintf("class %d", class)
}

// LoadLabels reads class names: a JSON list of strings, lines of
// "index TAB wordnet-id TAB names", or one name a line.
func LoadLabels(path string) ([]string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("vision: %w", err)
	}
	text := strings.TrimSpace(string(data))
	if strings.HasPrefix(text, "[") {
		var labels []string
		if err := json.Unmarshal([]byte(text), &labels); err != nil {
			return nil, fmt.Errorf("vision: %s is no JSON list of strings: %w", path, err)
		}
		return labels, nil
	}
	var labels []string
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		if f := strings.Split(line, "\t"); len(f) >= 3 {
			if f[0] == "index" { // a heading
				continue
			}
			line = f[2]
		}
		labels = append(labels, line)
	}
	if len(labels) == 1 && labels[0] == "" {
		return nil, fmt.Errorf("vision: %s holds no labels", path)
	}
	return labels, nil
}
