package main

import (
	"archive/zip"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mila-go/mila/models"
)

// dataset is images in a folder for each class.
type dataset struct {
	samples []sample
	folders []string // names of the class folders, sorted, also of those without images
	io.Closer
}

type sample struct {
	path  string // in the data set
	class int    // set by assign
	open  func() (io.ReadCloser, error)
}

// folder returns the path of the class folder.
func (s *sample) folder() string {
	dir := path.Dir(s.path)
	if path.Base(dir) == images {
		dir = path.Dir(dir)
	}
	return dir
}

// images is the name of a folder that some data sets have in each class folder.
const images = "images"

// openDataset lists the images of a directory or a zip file. An image belongs to the
// folder that holds it, or to the one above a folder named "images". Names that begin
// with a dot, and what macOS adds to zip files, are left out.
func openDataset(name string) (*dataset, error) {
	stat, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	d := &dataset{Closer: io.NopCloser(nil)}
	l := listing{dataset: d, folders: map[string]bool{}}
	if stat.IsDir() {
		err = l.directory(name, ".", 0)
	} else {
		var z *zip.ReadCloser
		if z, err = zip.OpenReader(name); err != nil {
			return nil, fmt.Errorf("%s is neither a directory nor a zip file: %w", name, err)
		}
		d.Closer = z
		l.zip(z.File)
	}
	if err == nil {
		err = l.finish()
	}
	if err != nil {
		d.Close()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return d, nil
}

// listing collects what a data set holds.
type listing struct {
	*dataset
	folders map[string]bool // by path; true if the folder holds folders
}

func hidden(name string) bool { return strings.HasPrefix(name, ".") || name == "__MACOSX" }

// folder notes a folder, after those that it is in.
func (l *listing) folder(p string) {
	if path.Base(p) == images || p == "." {
		return
	}
	if _, ok := l.folders[p]; !ok {
		l.folders[p] = false
	}
	l.folders[path.Dir(p)] = true
}

func (l *listing) image(p string, open func() (io.ReadCloser, error)) {
	l.samples = append(l.samples, sample{path: p, open: open})
}

// refuse stands for an image that cannot be opened.
func refuse(why string) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return nil, errors.New(why) }
}

// directory lists dir below root and follows symbolic links, of which data sets are
// often made.
func (l *listing) directory(root, dir string, depth int) error {
	if depth > 16 {
		return fmt.Errorf("folders are nested too deeply at %s; do symbolic links go round in a circle?", printable(dir))
	}
	entries, err := os.ReadDir(filepath.Join(root, filepath.FromSlash(dir)))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if hidden(e.Name()) {
			continue
		}
		p := path.Join(dir, e.Name())
		full := filepath.Join(root, filepath.FromSlash(p))
		info, err := os.Stat(full)
		switch {
		case err == nil && info.IsDir():
			l.folder(p)
			if err := l.directory(root, p, depth+1); err != nil {
				return err
			}
		case !isImage(p):
		case err == nil && !info.Mode().IsRegular(): // opening a pipe could wait for ever
			l.image(p, refuse("this is not a regular file"))
		default: // opening a broken link tells so
			l.image(p, func() (io.ReadCloser, error) { return os.Open(full) })
		}
	}
	return nil
}

// zip lists the entries of a zip file. Their paths are only names: nothing is written
// anywhere, so it does not matter where they lead.
func (l *listing) zip(files []*zip.File) {
	for _, f := range files {
		p := path.Clean("/" + strings.ReplaceAll(f.Name, `\`, "/"))[1:]
		parts := strings.Split(p, "/")
		if p == "" || slices.ContainsFunc(parts, hidden) {
			continue
		}
		isDir := f.FileInfo().IsDir()
		for i := range parts {
			if i+1 < len(parts) || isDir {
				l.folder(path.Join(parts[:i+1]...))
			}
		}
		const encrypted = 1
		switch {
		case isDir || !isImage(p):
		case f.Flags&encrypted != 0:
			l.image(p, refuse("this entry of the zip file is encrypted"))
		case !f.Mode().IsRegular():
			l.image(p, refuse("this is not a regular file"))
		default:
			l.image(p, f.Open)
		}
	}
}

// finish finds the class folders: those that hold images, or nothing.
func (l *listing) finish() error {
	if len(l.samples) == 0 {
		return fmt.Errorf("there are no images (%s)", strings.Join(extensions, ", "))
	}
	for i := range l.samples {
		dir := l.samples[i].folder()
		if dir == "." {
			return fmt.Errorf("%s is in no class folder; expected is a folder for each class that holds its images", printable(l.samples[i].path))
		}
		l.folders[dir] = false
	}
	paths := map[string]string{}
	for p, holdsFolders := range l.folders {
		if holdsFolders {
			continue
		}
		name := path.Base(p)
		if other, ok := paths[name]; ok {
			return fmt.Errorf("the class folder %s is there twice, as %s and %s; name the folder that holds one of each class", printable(name), printable(min(p, other)), printable(max(p, other)))
		}
		paths[name] = p
		l.dataset.folders = append(l.dataset.folders, name)
	}
	slices.Sort(l.dataset.folders)
	return nil
}

// assign gives each sample its class, and returns what is worth a note.
func (d *dataset) assign(m *models.Loaded) (notes []string, err error) {
	filled := map[string]bool{}
	for i := range d.samples {
		filled[path.Base(d.samples[i].folder())] = true
	}
	var used, empty []string
	for _, f := range d.folders {
		if filled[f] {
			used = append(used, f)
		} else {
			empty = append(empty, f)
		}
	}
	classes := m.Architecture().Classes()
	index := map[string]int{}
	strangers := used
	for _, names := range [][]string{m.WordNetIDs, m.Labels} {
		known, unknown := map[string]int{}, []string(nil)
		for i, n := range names[:min(len(names), classes)] {
			if _, twice := known[n]; twice {
				i = -1 // of two classes with one label neither is known by it
			}
			known[n] = i
		}
		for _, f := range used {
			if i, ok := known[f]; !ok || i < 0 {
				unknown = append(unknown, f)
			}
		}
		if len(unknown) < len(strangers) {
			index, strangers = known, unknown
		}
	}
	switch {
	case len(strangers) == 0:
	case len(strangers) < len(used):
		return nil, fmt.Errorf("%d of the %d class folders are no classes of the model, neither by WordNet id nor by label: %s; leave them out or use the model that knows them", len(strangers), len(used), few(strangers))
	case len(d.folders) != classes:
		return nil, fmt.Errorf("the %d class folders (%s) are neither the model's WordNet ids nor its labels, and not as many as its %d classes; is it the right data set?", len(d.folders), few(d.folders), classes)
	default: // in order, in which an empty folder has its place
		for i, f := range d.folders {
			index[f] = i
		}
		notes = append(notes, fmt.Sprintf("the folders are named like no class of the model and taken for its classes in order, %s for the first", printable(d.folders[0])))
	}
	for i := range d.samples {
		s := &d.samples[i]
		s.class = index[path.Base(s.folder())]
	}
	if len(empty) > 0 {
		notes = append(notes, fmt.Sprintf("folders without images: %d (%s)", len(empty), few(empty)))
	}
	if n := classes - len(used); n > 0 {
		notes = append(notes, fmt.Sprintf("classes of the model without images: %d of %d", n, classes))
	}
	return notes, nil
}

// few names the first of many.
func few(names []string) string {
	const most = 5
	var out []string
	for _, n := range names[:min(most, len(names))] {
		out = append(out, printable(n))
	}
	if len(names) > most {
		out = append(out, "...")
	}
	return strings.Join(out, ", ")
}
