package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// six classes, of which the even ones look alike, and the odd ones.
func six() *details {
	d := &details{Model: "m", Top1: 0.5, Top5: 1, Images: 60}
	for i := range 6 {
		d.Classes = append(d.Classes, class{Index: i, Label: string(rune('a' + i)), Images: 10, Top1: 5 + i/2, Top5: 10})
		d.Confusion = append(d.Confusion, [3]int{i, i, 5 + i/2})
		for j := i % 2; j < 6; j += 2 {
			p := prediction{Index: j, Prob: 0.3}
			d.Answers = append(d.Answers, struct {
				Class int
				Top   []prediction
			}{i, []prediction{p}})
		}
	}
	d.Confusion = append(d.Confusion, [3]int{0, 2, 3}, [3]int{2, 0, 1}, [3]int{1, 5, 2}, [3]int{0, 4, 2})
	d.Calibration.Bins = []bin{{0, 0.5, 30, 0.4, 0.5}, {0.5, 1, 30, 0.9, 0.6}}
	return d
}

func TestOrder(t *testing.T) {
	got := six().order()
	if all := slices.Sorted(slices.Values(got)); !slices.Equal(all, []int{0, 1, 2, 3, 4, 5}) {
		t.Fatalf("order %v", got)
	}
	for i := range 5 {
		if i != 2 && got[i]%2 != got[i+1]%2 {
			t.Errorf("order %v: classes that are alike do not stand together", got)
		}
	}
}

func TestPairs(t *testing.T) {
	d := six()
	if got, want := d.pairs(2), []pair{{0, 2, 3, 1}, {0, 4, 2, 0}}; !slices.Equal(got, want) {
		t.Errorf("pairs %v, want %v", got, want)
	}
	if got := d.mistakes(); got[0] != "c (30 %)" || got[2] != "" || got[3] != "" {
		t.Errorf("mistakes %v", got)
	}
}

// TestRun writes a card twice, which must not change it again.
func TestRun(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
		return path
	}
	details := write("d.json", `{"model":"m","top1":0.5,"top5":1,"images":4,"calibration":{"ece":0.1,"bins":[{"low":0,"high":1,"images":4,"confidence":0.4,"accuracy":0.5}]},
"classes":[{"index":0,"label":"a","images":2,"top1":2,"top5":2},{"index":1,"label":"b","images":2,"top1":0,"top5":2}],"confusion":[[0,0,2],[1,0,2]],
"answers":[{"class":0,"top":[{"index":0,"prob":0.9}]},{"class":1,"top":[{"index":0,"prob":0.9}]}]}`)
	photos := write("p.jsonl", `{"image":"x.png","heatmap":"`+filepath.ToSlash(filepath.Join(dir, "maps", "x.jpg"))+`","top":[{"index":0,"label":"a","prob":0.7}]}`)
	if err := run(details, photos, dir); err == nil {
		t.Error("a folder without a card is accepted")
	}
	card := write("README.md", "# Card\n"+begin+"\nold\n"+end+"\nrest\n")
	var last string
	for range 2 {
		if err := run(details, photos, dir); err != nil {
			t.Fatal(err)
		}
		now, err := os.ReadFile(card)
		if err != nil {
			t.Fatal(err)
		}
		text := string(now)
		for _, want := range []string{"# Card\n", end + "\nrest\n", "| b | 0 % | 100 % | a (100 %) |", `src="maps/x.jpg"`, "70.0 % a", "10 points too low"} {
			if !strings.Contains(text, want) {
				t.Errorf("no %q in %s", want, text)
			}
		}
		if strings.Contains(text, "old") || last != "" && text != last {
			t.Errorf("the card is now %s", text)
		}
		last = text
	}
	for _, name := range []string{"confusion.png", "calibration.png"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Size() < 1000 {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := run(details, write("p.jsonl", `{"image":"x.png","error":"damaged"}`), dir); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("%v", err)
	}
	write("README.md", "no marks")
	if err := run(details, write("p.jsonl", ""), dir); err == nil || !strings.Contains(err.Error(), "lacks") {
		t.Errorf("%v", err)
	}
}
