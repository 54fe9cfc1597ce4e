package checkpoint

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strconv"
	"strings"
)

// storageID is the persistent id of a tensor's storage:
// ("storage", type, key, location, number of elements[, view]).
type storageID struct {
	dtype DType
	known bool
	class class
	key   string
	n     int64
	view  tuple // legacy: (key, offset, size) of a storage that is part of this one
}

func parseStorageID(id any) (storageID, error) {
	t, ok := id.(tuple)
	if !ok || len(t) < 5 || t[0] != "storage" {
		return storageID{}, errors.New("a persistent id that is no storage")
	}
	var s storageID
	var ok1, ok2, ok3 bool
	s.class, ok1 = t[1].(class)
	s.key, ok2 = t[2].(string)
	s.n, ok3 = t[4].(int64)
	if !ok1 || !ok2 || !ok3 || s.n < 0 {
		return s, errors.New("a storage without type, key or size")
	}
	s.dtype, s.known = torchDTypes[string(s.class)]
	if len(t) > 5 {
		s.view, _ = t[5].(tuple)
	}
	return s, nil
}

// cut makes the storage of n elements at the start of data.
func (s *storageID) cut(data []byte) *storage {
	if !s.known {
		return &storage{err: fmt.Errorf("its type %s is not supported", s.class)}
	}
	if size := int64(s.dtype.Size()); s.n > int64(len(data))/size {
		return &storage{err: fmt.Errorf("its storage %q should have %d elements of %v but has %d bytes; the file is truncated, download it again", s.key, s.n, s.dtype, len(data))}
	}
	return &storage{dtype: s.dtype, data: data[:int(s.n)*s.dtype.Size()]}
}

// parseZip reads the format of torch.save since PyTorch 1.6: a zip archive of
// NAME/data.pkl and uncompressed NAME/data/KEY.
func (f *File) parseZip(o *options) error {
	z, err := zip.NewReader(bytes.NewReader(f.data), int64(len(f.data)))
	if err != nil {
		return fmt.Errorf("%w; the file is damaged or truncated, download it again", err)
	}
	entries := map[string]*zip.File{}
	var prefix string
	found := 0
	for _, e := range z.File {
		entries[e.Name] = e
		if p, ok := strings.CutSuffix(e.Name, "data.pkl"); ok && (p == "" || strings.HasSuffix(p, "/")) {
			prefix = p
			found++
		}
	}
	if found != 1 {
		return fmt.Errorf("the zip archive has %d data.pkl entries, not one; it was not written by torch.save (a TorchScript archive is not a checkpoint)", found)
	}
	content := func(e *zip.File) ([]byte, error) {
		if e.Method != zip.Store {
			return nil, fmt.Errorf("%s is compressed, which torch.save never does; save the checkpoint again", e.Name)
		}
		at, err := e.DataOffset()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", e.Name, err)
		}
		if at < 0 || at > int64(len(f.data)) || e.UncompressedSize64 > uint64(int64(len(f.data))-at) {
			return nil, fmt.Errorf("%s lies beyond the end of the file; the file is truncated, download it again", e.Name)
		}
		return f.data[at : at+int64(e.UncompressedSize64)], nil
	}
	if e := entries[prefix+"byteorder"]; e != nil {
		if b, err := content(e); err != nil || strings.TrimSpace(string(b)) != "little" {
			return fmt.Errorf("its byte order is %.20q, only little is supported", b)
		}
	}
	pickle, err := content(entries[prefix+"data.pkl"])
	if err != nil {
		return err
	}
	if int64(len(pickle)) > o.maxHeader {
		return fmt.Errorf("data.pkl has %d bytes, above the limit of %d", len(pickle), o.maxHeader)
	}
	storages := map[string]*storage{}
	m := machine{in: pickle, persist: func(id any) (any, error) {
		s, err := parseStorageID(id)
		if err != nil {
			return nil, err
		}
		if known := storages[s.key]; known != nil {
			return known, nil
		}
		e := entries[prefix+"data/"+s.key]
		if e == nil {
			return nil, fmt.Errorf("the storage %q is missing from the archive", s.key)
		}
		data, err := content(e)
		if err != nil {
			return nil, err
		}
		storages[s.key] = s.cut(data)
		return storages[s.key], nil
	}}
	if f.object, err = m.run(); err != nil {
		return err
	}
	return f.choose(o)
}

// parseLegacy reads the format of torch.save before PyTorch 1.6: pickles of a
// magic number, a protocol number, system information, the object and the list
// of storage keys, then each storage as a count and its elements.
func (f *File) parseLegacy(o *options) error {
	// The object comes before its storages, whose places are known only when
	// their sizes have been seen: a first pass finds them, a second builds.
	data := map[string][]byte{}
	sizes := map[string]storageID{}
	first := true
	storages := map[string]*storage{}
	m := machine{persist: func(id any) (any, error) {
		s, err := parseStorageID(id)
		if err != nil {
			return nil, err
		}
		if first {
			sizes[s.key] = s
			return &storage{}, nil
		}
		root := storages[s.key]
		if root == nil {
			root = s.cut(data[s.key])
			storages[s.key] = root
		}
		if s.view == nil || root.err != nil {
			return root, nil
		}
		if len(s.view) != 3 {
			return nil, errPickle
		}
		at, ok1 := s.view[1].(int64)
		n, ok2 := s.view[2].(int64)
		if have := int64(len(root.data) / root.dtype.Size()); !ok1 || !ok2 || at < 0 || n < 0 || at > have || n > have-at {
			return nil, errors.New("a view of a storage lies outside of it")
		}
		size := root.dtype.Size()
		return &storage{dtype: root.dtype, data: root.data[int(at)*size : int(at+n)*size]}, nil
	}}
	m.in = f.data
	if int64(len(m.in)) > o.maxHeader && o.maxHeader > 0 {
		// Only the pickles in front are interpreted; the limit bounds each take.
		m.in = f.data[:o.maxHeader]
	}
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
		return fmt.Errorf("legacy protocol %v; only 1001 is known", protocol)
	}
	info, err := m.run()
	if err != nil {
		return err
	}
	if d, ok := info.(*dict); ok {
		if little, ok := d.get("little_endian"); ok && little != true {
			return errors.New("it was saved on a big-endian machine, which is not supported; save it again on another")
		}
	}
	object := m.at
	if _, err = m.run(); err != nil {
		return err
	}
	keys, err := m.run()
	if err != nil {
		return err
	}
	l, ok := keys.(*list)
	if !ok {
		return errPickle
	}
	rest := f.data[m.at:]
	for _, k := range l.items {
		key, ok := k.(string)
		s, known := sizes[key]
		if !ok || !known || !s.known {
			return fmt.Errorf("the storage %v has no known type", k)
		}
		if len(rest) < 8 {
			return fmt.Errorf("the storage %q is missing; the file is truncated, download it again", key)
		}
		n := le.Uint64(rest)
		rest = rest[8:]
		if n > uint64(len(rest)/s.dtype.Size()) {
			return fmt.Errorf("the storage %q should have %d elements of %v but %d bytes are left; the file is truncated, download it again", key, n, s.dtype, len(rest))
		}
		bytes := int(n) * s.dtype.Size()
		data[key], rest = rest[:bytes], rest[bytes:]
	}
	first = false
	m.at = object
	if f.object, err = m.run(); err != nil {
		return err
	}
	return f.choose(o)
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
func (f *File) choose(o *options) error {
	root := items(f.object)
	states := map[string]*dict{}
	for _, k := range stateKeys {
		if v, ok := root.get(k.key); ok && states[k.state] == nil && countTensors(items(v)) > 0 {
			states[k.state] = items(v)
		}
	}
	if len(states) == 0 && countTensors(root) > 0 {
		states["model"] = root
	}
	want := o.state
	if want == "" {
		want = "model"
	}
	for _, k := range []string{"model", "ema"} {
		if states[k] != nil {
			f.states = append(f.states, k)
		}
	}
	if len(states) == 0 {
		f.states = []string{"model"}
	}
	if states[want] == nil {
		if len(states) > 0 || want != "model" {
			return f.noState(want)
		}
		f.state = want
		budget := len(f.data)
		return f.collect("", f.object, 0, &budget)
	}
	f.state = want
	d := states[want]
	prefix := "module."
	for i, k := range d.keys {
		if _, ok := d.values[i].(*tensorValue); ok && !strings.HasPrefix(k.(string), prefix) {
			prefix = ""
			break
		}
	}
	for i, k := range d.keys {
		if t, ok := d.values[i].(*tensorValue); ok {
			if err := f.add(strings.TrimPrefix(k.(string), prefix), t); err != nil {
				return err
			}
		}
	}
	return nil
}

func (f *File) add(name string, t *tensorValue) error {
	if t.err != nil {
		return fmt.Errorf("tensor %q: %w", name, t.err)
	}
	if f.tensors[name] != nil {
		return fmt.Errorf("tensor %q appears twice", name)
	}
	f.tensors[name] = t.v
	f.names = append(f.names, name)
	return nil
}

// collect adds every tensor below x under its dotted path.
func (f *File) collect(path string, x any, depth int, budget *int) error {
	if *budget--; depth > 32 || *budget < 0 {
		return errors.New("the object is nested too deeply or shares too much")
	}
	child := func(key string, v any) error {
		if path != "" {
			key = path + "." + key
		}
		return f.collect(key, v, depth+1, budget)
	}
	if t, ok := x.(*tensorValue); ok {
		return f.add(path, t)
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
	case *Object:
		return t.Items
	}
	return nil
}

func elements(x any) []any {
	switch t := x.(type) {
	case *list:
		return t.items
	case tuple:
		return t
	}
	return nil
}

// countTensors returns how many values of d, under string keys, are tensors.
func countTensors(d *dict) int {
	n := 0
	if d != nil {
		for i, v := range d.values {
			if _, ok := v.(*tensorValue); ok {
				if _, ok := d.keys[i].(string); ok {
					n++
				}
			}
		}
	}
	return n
}

func keyString(k any) string {
	if s, ok := k.(string); ok {
		return s
	}
	return fmt.Sprint(plainScalar(k))
}

// Object returns what a .pth file holds beside tensors, as plain Go values:
// map[string]any for dictionaries and their subclasses, []any, string, bool,
// int64, float64, *big.Int, []byte and nil. Tensors become their name's shape
// ([]int); other Python objects become a map of their class and state. It
// returns nil for safetensors.
func (f *File) Object() any {
	budget := 1 << 20
	return plain(f.object, 0, &budget)
}

func plain(x any, depth int, budget *int) any {
	if *budget--; depth > 64 || *budget < 0 {
		return "..."
	}
	if o, ok := x.(*Object); ok && o.Items == nil {
		m := map[string]any{"__class__": o.Class}
		if o.State != nil {
			m["__state__"] = plain(o.State, depth+1, budget)
		}
		if len(o.List) > 0 {
			m["__items__"] = plain(tuple(o.List), depth+1, budget)
		}
		if len(o.Args) > 0 {
			m["__args__"] = plain(tuple(o.Args), depth+1, budget)
		}
		return m
	}
	if d := items(x); d != nil {
		m := make(map[string]any, len(d.keys))
		for i, k := range d.keys {
			m[keyString(k)] = plain(d.values[i], depth+1, budget)
		}
		return m
	}
	switch t := x.(type) {
	case *list, tuple:
		src := elements(t)
		out := make([]any, len(src))
		for i, v := range src {
			out[i] = plain(v, depth+1, budget)
		}
		return out
	}
	return plainScalar(x)
}

func plainScalar(x any) any {
	switch t := x.(type) {
	case nil, bool, int64, float64, string, []byte, *big.Int:
		return t
	case class:
		return string(t)
	case *tensorValue:
		if t.v != nil {
			return append([]int{}, t.v.shape...)
		}
	}
	return fmt.Sprintf("%T", x)
}

// Config returns the configuration in the file, if there is one: the JSON object
// under the metadata key "config" of a safetensors file, or the `config` entry
// of a training checkpoint, whose nested nodes (yacs CfgNode or plain
// dictionaries) become map[string]any.
func (f *File) Config() (map[string]any, bool) {
	if s, ok := f.meta["config"]; ok {
		var m map[string]any
		if json.Unmarshal([]byte(s), &m) == nil && m != nil {
			return m, true
		}
		return nil, false
	}
	v, ok := items(f.object).get("config")
	if !ok {
		return nil, false
	}
	budget := 1 << 20
	m, ok := plain(v, 0, &budget).(map[string]any)
	return m, ok
}
