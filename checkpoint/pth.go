package checkpoint

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
)

// storageID is the persistent id of a tensor's storage:
// ("storage", type, key, location, number of elements[, view]).
type storageID struct {
	class class
	key   string
	n     int64
	view  tuple // legacy: (key, offset, size) of a storage that is part of this one
}

func parseStorageID(id any) (storageID, error) {
	var s storageID
	t, ok := id.(tuple)
	if !ok || len(t) < 5 || t[0] != "storage" {
		return s, errors.New("the pickle refers to something outside that is no storage; the file is damaged")
	}
	var ok1, ok2, ok3 bool
	s.class, ok1 = t[1].(class)
	s.key, ok2 = t[2].(string)
	s.n, ok3 = t[4].(int64)
	if !ok1 || !ok2 || !ok3 || s.n < 0 {
		return s, errors.New("a storage without type, key or size; the file is damaged")
	}
	if len(t) > 5 {
		s.view, _ = t[5].(tuple)
	}
	return s, nil
}

// cut makes the storage of n elements at the start of data. What is wrong with
// it is kept for whoever asks for its tensors.
func (s *storageID) cut(data []byte) *storage {
	dt, ok := torchDTypes[string(s.class)]
	if !ok {
		return &storage{err: fmt.Errorf("its type %.50q is not supported; convert it", string(s.class))}
	}
	if size := int64(dt.Size()); s.n > int64(len(data))/size {
		return &storage{err: fmt.Errorf("its storage %.50q should have %d elements of %v but has %d bytes; the file is truncated, download it again", s.key, s.n, dt, len(data))}
	}
	end := int(s.n) * dt.Size()
	return &storage{dtype: dt, data: data[:end:end]}
}

// parseZip reads the format of torch.save since PyTorch 1.6: a zip archive of
// NAME/data.pkl and uncompressed NAME/data/KEY.
func (f *File) parseZip(o options) error {
	z, err := zip.NewReader(bytes.NewReader(f.data), int64(len(f.data)))
	if err != nil {
		return fmt.Errorf("%w; the file is damaged or truncated, download it again", err)
	}
	entries := make(map[string]*zip.File, len(z.File))
	var prefix string
	found := 0
	for _, e := range z.File {
		if entries[e.Name] != nil {
			return fmt.Errorf("the zip archive has two entries %.80q; the file is damaged", e.Name)
		}
		entries[e.Name] = e
		if p, ok := strings.CutSuffix(e.Name, "data.pkl"); ok && (p == "" || strings.HasSuffix(p, "/")) {
			prefix = p
			found++
		}
	}
	if found != 1 {
		return fmt.Errorf("the zip archive has %d data.pkl entries instead of one; it was not written by torch.save", found)
	}
	if entries[prefix+"constants.pkl"] != nil {
		return errors.New("this is a TorchScript archive; save model.state_dict() with torch.save instead")
	}
	if e := entries[prefix+"byteorder"]; e != nil {
		b, err := f.entry(e)
		if err != nil {
			return err
		}
		if string(bytes.TrimSpace(b)) != "little" {
			return fmt.Errorf("its byte order is %.20q, only little is supported; save it again on another machine", b)
		}
	}
	pickle, err := f.entry(entries[prefix+"data.pkl"])
	if err != nil {
		return err
	}
	if uint64(len(pickle)) > o.maxHeader {
		return fmt.Errorf("data.pkl has %d bytes, above the limit of %d", len(pickle), o.maxHeader)
	}
	type use struct { // a storage can be used as more than one type
		class class
		key   string
		n     int64
	}
	storages := map[use]*storage{}
	m := newMachine(pickle, func(id any) (any, error) {
		s, err := parseStorageID(id)
		if err != nil {
			return nil, err
		}
		u := use{s.class, s.key, s.n}
		if known := storages[u]; known != nil {
			return known, nil
		}
		e := entries[prefix+"data/"+s.key]
		if e == nil {
			return nil, fmt.Errorf("the storage %.50q is missing from the archive; the file is damaged", s.key)
		}
		data, err := f.entry(e)
		if err != nil {
			return nil, err
		}
		storages[u] = s.cut(data)
		return storages[u], nil
	})
	if f.object, err = m.run(); err != nil {
		return err
	}
	return f.choose(o.state)
}

// entry returns the content of an archive's entry, which must be stored as it
// is, where it lies in the file.
func (f *File) entry(e *zip.File) ([]byte, error) {
	if e.Method != zip.Store || e.Flags&1 != 0 || e.CompressedSize64 != e.UncompressedSize64 {
		return nil, fmt.Errorf("the entry %.80q is compressed or encrypted, which torch.save never does; unpack the archive and store it uncompressed, or save the checkpoint again", e.Name)
	}
	at, err := e.DataOffset()
	if err != nil {
		return nil, fmt.Errorf("the entry %.80q: %w; the file is damaged", e.Name, err)
	}
	if have := int64(len(f.data)); at < 0 || at > have || e.UncompressedSize64 > uint64(have-at) {
		return nil, fmt.Errorf("the entry %.80q lies beyond the end of the file; the file is truncated, download it again", e.Name)
	}
	end := at + int64(e.UncompressedSize64)
	return f.data[at:end:end], nil
}

// parseLegacy reads the format of torch.save before PyTorch 1.6: pickles of a
// magic number, a protocol number, system information, the object and the list
// of storage keys, then each storage as a count and its elements.
func (f *File) parseLegacy(o options) error {
	in := f.data[:min(uint64(len(f.data)), o.maxHeader)]
	persist := func(any) (any, error) {
		return nil, errors.New("the pickles in front refer to a storage; the file is damaged")
	}
	m := newMachine(in, func(id any) (any, error) { return persist(id) })
	m.cut = len(in) < len(f.data)
	magic, err := m.run()
	if err != nil {
		return err
	}
	if want, _ := new(big.Int).SetString("1950a86a20f9469cfc6c", 16); !isBig(magic, want) {
		return errors.New("this is a Python pickle but not one of torch.save")
	}
	protocol, err := m.run()
	if err != nil {
		return err
	}
	if protocol != int64(1001) {
		return errors.New("its legacy protocol is not 1001, the only one known; save it with a current PyTorch")
	}
	info, err := m.run()
	if err != nil {
		return err
	}
	if little, ok := items(info).get("little_endian"); ok && little != true {
		return errors.New("it was saved on a big-endian machine, which is not supported; save it again on another")
	}

	// The object comes before its storages, whose places are known only when
	// their types have been seen: a first pass finds these, a second builds.
	classes := map[string]class{}
	persist = func(id any) (any, error) {
		s, err := parseStorageID(id)
		if err != nil {
			return nil, err
		}
		if c, ok := classes[s.key]; ok && c != s.class {
			return nil, fmt.Errorf("the storage %.50q has two types; the file is damaged", s.key)
		}
		classes[s.key] = s.class
		return &storage{err: errPickle}, nil
	}
	object := m.at
	if _, err = m.run(); err != nil {
		return err
	}
	keys, err := m.run()
	if err != nil {
		return err
	}
	if _, ok := keys.(*list); !ok {
		return errors.New("the list of storages is missing; the file is damaged")
	}
	raw := map[string][]byte{}
	rest := f.data[m.at:]
	for _, k := range elements(keys) {
		key, _ := k.(string)
		dt, ok := torchDTypes[string(classes[key])]
		if !ok || raw[key] != nil {
			// Without its type the length is unknown, and so is all that follows.
			return fmt.Errorf("the storage %.50q has no supported type or comes twice; the file is damaged, or convert it", key)
		}
		if len(rest) < 8 {
			return fmt.Errorf("the storage %.50q is missing; the file is truncated, download it again", key)
		}
		n := le.Uint64(rest)
		rest = rest[8:]
		if n > uint64(len(rest)/dt.Size()) {
			return fmt.Errorf("the storage %.50q should have %d elements of %v but %d bytes are left; the file is truncated, download it again", key, n, dt, len(rest))
		}
		end := int(n) * dt.Size()
		raw[key], rest = rest[:end:end], rest[end:]
	}

	storages := map[string]*storage{}
	persist = func(id any) (any, error) {
		s, err := parseStorageID(id)
		if err != nil {
			return nil, err
		}
		root := storages[s.key]
		if root == nil {
			root = s.cut(raw[s.key])
			storages[s.key] = root
		}
		if s.view == nil || root.err != nil {
			return root, nil
		}
		size := root.dtype.Size()
		have := int64(len(root.data) / size)
		var at, n int64
		var ok1, ok2 bool
		if len(s.view) == 3 {
			at, ok1 = s.view[1].(int64)
			n, ok2 = s.view[2].(int64)
		}
		if !ok1 || !ok2 || at < 0 || n < 0 || at > have || n > have-at {
			return nil, fmt.Errorf("a part of the storage %.50q lies outside of it; the file is damaged", s.key)
		}
		return &storage{dtype: root.dtype, data: root.data[int(at)*size : int(at+n)*size]}, nil
	}
	m.at = object
	if f.object, err = m.run(); err != nil {
		return err
	}
	return f.choose(o.state)
}

func isBig(x any, want *big.Int) bool {
	n, ok := x.(*big.Int)
	return ok && n.Cmp(want) == 0
}

// Keys under which checkpoints keep their state dicts, by state.
var stateKeys = []struct{ state, key string }{
	{"model", "model"}, {"model", "state_dict"}, {"model", "model_state_dict"},
	{"ema", "state_dict_ema"}, {"ema", "model_ema"},
}

// choose finds the state dicts in the unpickled object and lists the tensors of
// the one that is wanted. An object without any is searched for tensors, which
// are then named by their path.
func (f *File) choose(want string) error {
	root := items(f.object)
	states := map[string]*dict{}
	for _, k := range stateKeys {
		if v, ok := root.get(k.key); ok && states[k.state] == nil && items(v).hasTensor() {
			states[k.state] = items(v)
		}
	}
	if len(states) == 0 && root.hasTensor() {
		states["model"] = root
	}
	for _, k := range []string{"model", "ema"} {
		if states[k] != nil {
			f.states = append(f.states, k)
		}
	}
	if len(states) == 0 {
		f.states = []string{"model"}
	}
	if !slices.Contains(f.states, want) {
		return f.noState(want)
	}
	f.state = want
	c := collector{f: f, steps: len(f.data), bytes: max(16*int64(len(f.data)), 1<<26), text: 1<<16 + 16*int64(len(f.data))}
	d := states[want]
	if d == nil {
		if err := c.collect(f.object); err != nil {
			return err
		}
		if o, ok := f.object.(*object); ok && o.items == nil && len(f.names) == 0 {
			return fmt.Errorf("it holds a pickled object of the class %.80q, not a state dict; save model.state_dict() instead", o.class)
		}
		return nil
	}
	prefix := "module."
	for name := range d.tensors {
		if len(name) <= len(prefix) || !strings.HasPrefix(name, prefix) {
			prefix = ""
			break
		}
	}
	for name, t := range d.tensors {
		if err := c.add(strings.TrimPrefix(name, prefix), t); err != nil {
			return err
		}
	}
	return nil
}

// tensors yields the values that are tensors, in order, with their keys.
func (d *dict) tensors(yield func(string, *tensorValue) bool) {
	if d == nil {
		return
	}
	for i, v := range d.values {
		if t, ok := v.(*tensorValue); ok {
			if k, ok := d.keys[i].(string); ok && !yield(k, t) {
				return
			}
		}
	}
}

func (d *dict) hasTensor() bool {
	for range d.tensors {
		return true
	}
	return false
}

// collector lists tensors. Its budgets exist because a pickle may name the same
// object any number of times: what is small in the file need not be small when
// it is walked or read.
type collector struct {
	f     *File
	path  []string
	steps int   // objects still to be visited
	bytes int64 // of tensors as float32, all together
	text  int64 // bytes of names
}

func (c *collector) add(name string, t *tensorValue) error {
	if len(name) > maxName {
		return fmt.Errorf("a tensor's name has %d bytes, above the limit of %d", len(name), maxName)
	}
	if t.err != nil {
		return fmt.Errorf("tensor %q: %w", name, t.err)
	}
	if c.f.tensors[name] != nil {
		return fmt.Errorf("tensor %q appears twice; the file is damaged", name)
	}
	c.bytes -= 4 * int64(t.v.n)
	if c.text -= int64(len(name)) + 64; c.bytes < 0 || c.text < 0 {
		return fmt.Errorf("tensor %q: with it the tensors are many times as large as the file, because they share their data; save contiguous copies", name)
	}
	c.f.tensors[name] = t.v
	c.f.names = append(c.f.names, name)
	return nil
}

// collect adds every tensor below x under its dotted path.
func (c *collector) collect(x any) error {
	if c.steps--; len(c.path) > 32 || c.steps < 0 {
		return errors.New("it is no state dict, and nested too deeply to be searched for tensors")
	}
	child := func(key string, v any) error {
		c.path = append(c.path, key)
		err := c.collect(v)
		c.path = c.path[:len(c.path)-1]
		return err
	}
	if t, ok := x.(*tensorValue); ok {
		size := len(c.path)
		for _, key := range c.path {
			size += len(key)
		}
		if size > maxName {
			return fmt.Errorf("a tensor's name has %d bytes, above the limit of %d", size, maxName)
		}
		return c.add(strings.Join(c.path, "."), t)
	}
	if d := items(x); d != nil {
		for i, k := range d.keys {
			if err := child(keyString(k), d.values[i]); err != nil {
				return err
			}
		}
		return nil
	}
	for i, v := range elements(x) {
		if err := child(strconv.Itoa(i), v); err != nil {
			return err
		}
	}
	return nil
}

// items returns the dictionary that x is or derives from, or nil.
func items(x any) *dict {
	switch t := x.(type) {
	case *dict:
		return t
	case *object:
		return t.items
	}
	return nil
}

// elements returns the content of a list or tuple, or nil.
func elements(x any) []any {
	switch t := x.(type) {
	case *list:
		return t.items
	case tuple:
		return t
	}
	return nil
}

// keyString returns a dictionary's key as a string. Tuples, the only other kind
// of key that is not rare, become their elements with commas between.
func keyString(k any) string {
	t, ok := k.(tuple)
	if !ok || len(t) > 8 {
		return scalarString(k)
	}
	parts := make([]string, len(t))
	for i, e := range t {
		parts[i] = scalarString(e)
	}
	return strings.Join(parts, ",")
}

func scalarString(k any) string {
	switch k := k.(type) {
	case string:
		return k
	case []byte:
		return string(k[:min(len(k), 64)])
	case nil, bool, int64, float64:
		return fmt.Sprint(k)
	case *big.Int:
		if k.BitLen() <= 256 {
			return k.String()
		}
	case class:
		return string(k)
	}
	return fmt.Sprintf("%T", k)
}

// Object returns what a .pth file holds as plain Go values: map[string]any for
// dictionaries and their subclasses, []any for lists, tuples and sets, string,
// bool, int64, float64, *big.Int for integers beyond int64, []byte and nil.
// Tensors become their shape ([]int), classes their name; any other Python
// object becomes a map of "__class__", "__args__", "__items__" and "__state__".
// Keys that are not strings are formatted. Below 64 levels, and beyond a million
// values, the string "..." stands for the rest, because a pickle may contain
// itself. Object returns nil for safetensors, and when the file cannot be read
// any more.
func (f *File) Object() any {
	return f.plain(f.object)
}

// plain returns x as plain Go values, nil if the file cannot be read any more.
func (f *File) plain(x any) any {
	var err error // of no interest
	defer onFault(f.name, debug.SetPanicOnFault(true), &err)
	p := plainer{budget: min(1<<20, len(f.data)), bytes: len(f.data)}
	return p.value(x, 0)
}

// plainer converts values within a budget of values and of copied bytes.
type plainer struct{ budget, bytes int }

const elided = "..."

// spend takes n values from the budget, before they are allocated.
func (p *plainer) spend(n int) bool {
	if n > p.budget {
		return false
	}
	p.budget -= n
	return true
}

// copies takes n bytes from the budget.
func (p *plainer) copies(n int) bool {
	if n > p.bytes {
		return false
	}
	p.bytes -= n
	return true
}

func (p *plainer) value(x any, depth int) any {
	if depth > 64 {
		return elided
	}
	if o, ok := x.(*object); ok && o.items == nil {
		if !p.spend(4) {
			return elided
		}
		m := map[string]any{"__class__": o.class}
		if o.state != nil {
			m["__state__"] = p.value(o.state, depth+1)
		}
		if len(o.list) > 0 {
			m["__items__"] = p.value(tuple(o.list), depth+1)
		}
		if len(o.args) > 0 {
			m["__args__"] = p.value(o.args, depth+1)
		}
		return m
	}
	if d := items(x); d != nil {
		if !p.spend(len(d.keys)) {
			return elided
		}
		m := make(map[string]any, len(d.keys))
		for i, k := range d.keys {
			m[keyString(k)] = p.value(d.values[i], depth+1)
		}
		return m
	}
	switch t := x.(type) {
	case *list, tuple:
		src := elements(t)
		if !p.spend(len(src)) {
			return elided
		}
		out := make([]any, len(src))
		for i, v := range src {
			out[i] = p.value(v, depth+1)
		}
		return out
	case nil, bool, int64, float64, string:
		return t
	case *big.Int:
		if !p.copies(t.BitLen() / 8) {
			return elided
		}
		return new(big.Int).Set(t)
	case []byte: // a copy, because it points into the mapping
		if !p.copies(len(t)) {
			return elided
		}
		return bytes.Clone(t)
	case class:
		return string(t)
	case *tensorValue:
		if t.v != nil {
			return append([]int{}, t.v.shape...)
		}
		return t.err.Error()
	}
	return fmt.Sprintf("%T", x)
}

// Config returns the configuration in the file, if there is one: the JSON object
// under the metadata key "config" of a safetensors file (its numbers are
// float64), or the `config` entry of a training checkpoint, whose nested nodes
// (yacs CfgNode, plain dictionaries, an argparse Namespace) become
// map[string]any and whose numbers are int64 or float64.
func (f *File) Config() (map[string]any, bool) {
	if s, ok := f.meta["config"]; ok {
		var m map[string]any
		if json.Unmarshal([]byte(s), &m) != nil || m == nil {
			return nil, false
		}
		return m, true
	}
	v, ok := items(f.object).get("config")
	if !ok {
		return nil, false
	}
	if o, ok := v.(*object); ok && o.items == nil { // attributes are the state
		v = o.state
	}
	m, ok := f.plain(v).(map[string]any)
	return m, ok
}
