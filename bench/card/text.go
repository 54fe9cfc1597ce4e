package main

import (
	"cmp"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"
)

// section is the part of the card between the comments.
func section(d *details, photos []photo) string {
	var s strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&s, format, args...) }
	n := float64(d.Images)
	p("## Evaluation\n")
	p("`mila eval`, %d images that were not trained on:\n\n", d.Images)
	p("| | |\n| --- | --- |\n")
	p("| top-1 | %.2f %% (±%.1f: the 95 %% interval of so many images) |\n", 100*d.Top1, 196*math.Sqrt(d.Top1*(1-d.Top1)/n))
	p("| top-5 | %.2f %% |\n", 100*d.Top5)
	p("| negative log-likelihood | %.3f |\n", d.NLL)
	p("| expected calibration error | %.3f (15 bins) |\n\n", d.Calibration.ECE)

	classes := slices.DeleteFunc(slices.Clone(d.Classes), func(c class) bool { return c.Images == 0 })
	slices.SortStableFunc(classes, func(a, b class) int {
		return cmp.Or(cmp.Compare(b.share(b.Top1), a.share(a.Top1)), cmp.Compare(b.share(b.Top5), a.share(a.Top5)))
	})
	const ends = 10
	most := d.mistakes()
	table := func(title string, list []class) {
		p("| %s | top-1 | top-5 | most often taken for |\n| --- | --- | --- | --- |\n", title)
		for _, c := range list {
			p("| %s | %.0f %% | %.0f %% | %s |\n", c.Label, 100*c.share(c.Top1), 100*c.share(c.Top5), most[c.Index])
		}
		p("\n")
	}
	p("### Classes\nThe median class has %.0f %% top-1. With some %d images a class, its figure is uncertain by about ±%.0f.\n\n",
		100*classes[len(classes)/2].share(classes[len(classes)/2].Top1), d.Images/len(classes), 196*math.Sqrt(d.Top1*(1-d.Top1)/(n/float64(len(classes)))))
	table("best", classes[:min(ends, len(classes))])
	worst := classes[max(0, len(classes)-ends):]
	slices.Reverse(worst)
	table("worst", worst)

	p("### Confusion\n![confusion matrix](confusion.png)\n\n")
	p("Classes stand beside those that they are confused with. The pairs most often confused, in images of the first class taken\nfor the second and the other way round:\n\n")
	p("| pair | first for second | second for first |\n| --- | --- | --- |\n")
	for _, pair := range d.pairs(12) {
		p("| %s, %s | %d of %d | %d of %d |\n", d.Classes[pair.a].Label, d.Classes[pair.b].Label, pair.ab, d.Classes[pair.a].Images, pair.ba, d.Classes[pair.b].Images)
	}
	over := 0.0
	for _, b := range d.Calibration.Bins {
		over += (b.Confidence - b.Accuracy) * float64(b.Images) / n
	}
	verdict := fmt.Sprintf("%.0f points too high: it is overconfident", 100*over)
	if over < 0 {
		verdict = fmt.Sprintf("%.0f points too low: it is underconfident", -100*over)
	}
	if math.Abs(over) < 0.005 {
		verdict = "right"
	}
	p("\n### Calibration\n![calibration](calibration.png)\n\nOn average the probability of the answer is %s.\n", verdict)

	if len(photos) > 0 {
		p("\n### Examples\n`mila classify --heatmap` of photos that have nothing to do with the data. Colour shows which places speak for the first\nanswer; what the model does not see is dark.\n\n| | |\n| --- | --- |\n")
		for _, ph := range photos {
			var top []string
			for _, t := range ph.Top[:min(3, len(ph.Top))] {
				top = append(top, fmt.Sprintf("%.1f %% %s", 100*t.Prob, t.Label))
			}
			p("| <img src=\"%s\" width=\"360\"> | %s |\n", filepath.ToSlash(ph.Heatmap), strings.Join(top, "<br>"))
		}
	}
	return s.String()
}

// mistakes tells for each class what its images are most often taken for, if it is not
// just one of them.
func (d *details) mistakes() map[int]string {
	most, out := map[int]int{}, map[int]string{}
	for _, c := range d.Confusion {
		if c[0] != c[1] && c[2] > max(1, most[c[0]]) {
			most[c[0]] = c[2]
			out[c[0]] = fmt.Sprintf("%s (%.0f %%)", d.Classes[c[1]].Label, 100*d.Classes[c[0]].share(c[2]))
		}
	}
	return out
}

type pair struct{ a, b, ab, ba int }

// pairs returns the n pairs of classes that are confused most often.
func (d *details) pairs(n int) []pair {
	byClasses := map[[2]int]*pair{}
	for _, c := range d.Confusion {
		a, b := min(c[0], c[1]), max(c[0], c[1])
		if a == b {
			continue
		}
		p := byClasses[[2]int{a, b}]
		if p == nil {
			p = &pair{a: a, b: b}
			byClasses[[2]int{a, b}] = p
		}
		if c[0] == a {
			p.ab = c[2]
		} else {
			p.ba = c[2]
		}
	}
	var out []pair
	for _, p := range byClasses {
		out = append(out, *p)
	}
	slices.SortFunc(out, func(x, y pair) int {
		return cmp.Or(cmp.Compare(y.ab+y.ba, x.ab+x.ba), cmp.Compare(x.a, y.a), cmp.Compare(x.b, y.b))
	})
	return out[:min(n, len(out))]
}
