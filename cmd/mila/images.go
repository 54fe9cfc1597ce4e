package main

import (
	"context"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/mila-go/mila/models"
	"github.com/schollz/progressbar/v3"
	"github.com/urfave/cli/v3"
	"golang.org/x/term"
)

var extensions = []string{".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp"}

func isImage(name string) bool {
	return slices.Contains(extensions, strings.ToLower(filepath.Ext(name)))
}

// expand turns arguments into image paths: a directory into the images below
// it, a pattern that no shell expanded into its matches. What matches nothing
// stays, so that opening it gives the error.
func expand(args []string) []string {
	var out []string
	for _, a := range args {
		if info, err := os.Stat(a); err == nil && info.IsDir() {
			n := len(out)
			_ = filepath.WalkDir(a, func(path string, d fs.DirEntry, err error) error {
				if err == nil && !d.IsDir() && isImage(path) {
					out = append(out, path)
				}
				return nil
			})
			if len(out) == n {
				out = append(out, a) // opening it says that it is a directory
			}
			continue
		}
		if matches, err := filepath.Glob(a); err == nil && len(matches) > 0 && strings.ContainsAny(a, "*?[") {
			out = append(out, matches...)
			continue
		}
		out = append(out, a)
	}
	return out
}

// workers returns how many images to process side by side and how many threads
// each gets: one image at a time has all threads, many have one each, which
// wastes none at barriers. Results are the same either way.
func workers(images, threads int) (side, each int) {
	if threads == 0 {
		threads = runtime.GOMAXPROCS(0)
	}
	if images < 2*threads {
		return 1, threads
	}
	return threads, 1
}

// newClassifiers returns one classifier for each image processed side by side.
func newClassifiers(m *models.Loaded, side int) (out []*models.Classifier, err error) {
	out = make([]*models.Classifier, side)
	for i := range out {
		if out[i], err = m.NewClassifier(); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// ordered calls work(worker, i) for i in [0, n) on several goroutines and
// emit(i, result) in order. It stops early when ctx ends.
func ordered[T any](ctx context.Context, n, side int, work func(worker, i int) T, emit func(i int, result T)) error {
	results := make([]chan T, n)
	for i := range results {
		results[i] = make(chan T, 1)
	}
	var next = make(chan int)
	var wg sync.WaitGroup
	for w := range side {
		wg.Go(func() {
			for i := range next {
				results[i] <- work(w, i)
			}
		})
	}
	go func() {
		defer close(next)
		for i := range n {
			select {
			case next <- i:
			case <-ctx.Done():
				return
			}
		}
	}()
	defer wg.Wait()
	for i := range n {
		select {
		case r := <-results[i]:
			emit(i, r)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// bar is a progress bar; a nil bar shows nothing.
type bar struct{ *progressbar.ProgressBar }

// progress returns a bar on w if that is a terminal, there is much to do, and not
// --quiet.
func progress(c *cli.Command, w io.Writer, n int, what string) bar {
	f, ok := w.(*os.File)
	if !ok || n < 10 || c.Bool("quiet") || !term.IsTerminal(int(f.Fd())) {
		return bar{}
	}
	return bar{progressbar.NewOptions(n, progressbar.OptionSetWriter(f), progressbar.OptionSetDescription(what),
		progressbar.OptionShowCount(), progressbar.OptionShowIts(), progressbar.OptionSetItsString("images"),
		progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionFullWidth(), progressbar.OptionClearOnFinish())}
}

// above calls print with the bar out of the way, which may share the terminal.
func (b bar) above(print func()) {
	if b.ProgressBar != nil {
		_ = b.Clear()
	}
	print()
}

// add counts n images more, and describes what is going on.
func (b bar) add(n int, what string) {
	if b.ProgressBar != nil {
		b.Describe(what)
		_ = b.Add(n)
	}
}

func (b bar) finish() {
	if b.ProgressBar != nil {
		_ = b.Finish()
	}
}

// printable returns a name as it is, or quoted if a terminal would not just show it:
// names of files come from anywhere.
func printable(name string) string {
	if strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) || r == utf8.RuneError }) {
		return strconv.Quote(name)
	}
	return name
}
