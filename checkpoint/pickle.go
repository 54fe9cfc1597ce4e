package checkpoint

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
)

// Object stands for an instance of a Python class that this package does not
// know: its class, what it was built from and its state, none of it executed.
type Object struct {
	Class string // module and name, as "yacs.config.CfgNode"
	Args  []any
	State any   // of __setstate__
	Items *dict // of a dict subclass
	List  []any // of a list subclass
}

// Values on the machine's stack, beside nil, bool, int64, float64, string,
// []byte, *big.Int and *Object.
type (
	dict struct {
		keys, values []any
		index        map[string]int // of string keys
	}
	list    struct{ items []any }
	tuple   []any
	class   string // a global: module.name
	storage struct {
		dtype DType
		data  []byte
		err   error // why it cannot be used
	}
	tensorValue struct {
		v   *view
		err error
	}
)

func (d *dict) set(k, v any) {
	if s, ok := k.(string); ok {
		if i, ok := d.index[s]; ok {
			d.values[i] = v
			return
		}
		if d.index == nil {
			d.index = map[string]int{}
		}
		d.index[s] = len(d.keys)
	}
	d.keys, d.values = append(d.keys, k), append(d.values, v)
}

func (d *dict) get(k string) (any, bool) {
	if d == nil {
		return nil, false
	}
	if i, ok := d.index[k]; ok {
		return d.values[i], true
	}
	return nil, false
}

var errPickle = errors.New("the pickle is damaged")

// machine interprets a pickle of protocols 0 to 5. Every value that it makes
// costs bytes of input, so memory stays within a small multiple of the file.
type machine struct {
	in      []byte
	at      int
	stack   []any
	marks   []int
	memo    map[uint32]any
	persist func(id any) (any, error)
}

// run interprets one pickle from m.in[m.at:] and leaves m.at behind it.
func (m *machine) run() (value any, err error) {
	defer func() {
		// Stack underflows and the like end here, as one error.
		if r := recover(); r != nil {
			if e, ok := r.(pickleError); ok {
				err = e.error
			} else if _, ok := r.(error); ok {
				err = errPickle
			} else {
				panic(r)
			}
		}
	}()
	m.stack, m.marks, m.memo = nil, nil, map[uint32]any{}
	for {
		if op := m.take(1)[0]; op == '.' {
			return m.pop(), nil
		} else {
			m.step(op)
		}
	}
}

type pickleError struct{ error }

func (m *machine) fail(format string, args ...any) {
	panic(pickleError{fmt.Errorf("the pickle is damaged at byte %d: "+format, append([]any{m.at}, args...)...)})
}

func (m *machine) take(n int) []byte {
	if n < 0 || n > len(m.in)-m.at {
		m.fail("%d bytes are wanted where %d are left", n, len(m.in)-m.at)
	}
	m.at += n
	return m.in[m.at-n : m.at]
}

func (m *machine) take8() []byte {
	n := le.Uint64(m.take(8))
	if n > uint64(len(m.in)) {
		m.fail("%d bytes are wanted where %d are left", n, len(m.in)-m.at)
	}
	return m.take(int(n))
}

func (m *machine) take4() []byte {
	n := le.Uint32(m.take(4))
	if uint64(n) > uint64(len(m.in)) {
		m.fail("%d bytes are wanted where %d are left", n, len(m.in)-m.at)
	}
	return m.take(int(n))
}

func (m *machine) line() string {
	i := bytes.IndexByte(m.in[m.at:], '\n')
	if i < 0 {
		m.fail("a line does not end")
	}
	s := string(m.take(i))
	m.at++
	return s
}

func (m *machine) push(v any) { m.stack = append(m.stack, v) }

func (m *machine) floor() int {
	if len(m.marks) == 0 {
		return 0
	}
	return m.marks[len(m.marks)-1]
}

func (m *machine) pop() any {
	if len(m.stack) <= m.floor() {
		m.fail("the stack is empty")
	}
	v := m.stack[len(m.stack)-1]
	m.stack = m.stack[:len(m.stack)-1]
	return v
}

func (m *machine) top() any {
	v := m.pop()
	m.push(v)
	return v
}

// popMark returns a copy of what was pushed since the last mark.
func (m *machine) popMark() []any {
	if len(m.marks) == 0 {
		m.fail("there is no mark")
	}
	from := m.floor()
	m.marks = m.marks[:len(m.marks)-1]
	items := append([]any(nil), m.stack[from:]...)
	m.stack = m.stack[:from]
	return items
}

func (m *machine) remember(i uint32) { m.memo[i] = m.top() }

func (m *machine) recall(i uint32) {
	v, ok := m.memo[i]
	if !ok {
		m.fail("nothing was stored under %d", i)
	}
	m.push(v)
}

func (m *machine) number(s string) uint32 {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		m.fail("%q is no index", s)
	}
	return uint32(n)
}

func (m *machine) long(b []byte) any {
	if len(b) > 1024 {
		m.fail("an integer of %d bytes", len(b))
	}
	be := make([]byte, len(b))
	for i, v := range b {
		be[len(b)-1-i] = v
	}
	n := new(big.Int).SetBytes(be)
	if len(b) > 0 && b[len(b)-1]&0x80 != 0 {
		n.Sub(n, new(big.Int).Lsh(big.NewInt(1), uint(8*len(b))))
	}
	return narrow(n)
}

func narrow(n *big.Int) any {
	if n.IsInt64() {
		return n.Int64()
	}
	return n
}

func (m *machine) decimal(s string) any {
	n, ok := new(big.Int).SetString(strings.TrimSuffix(s, "L"), 10)
	if !ok || len(s) > 4096 {
		m.fail("%.20q is no integer", s)
	}
	return narrow(n)
}

func (m *machine) step(op byte) {
	switch op {
	case 0x80: // PROTO
		m.take(1)
	case 0x95: // FRAME: only groups what follows
		m.take(8)
	case '(':
		m.marks = append(m.marks, len(m.stack))
	case '0': // POP
		if len(m.stack) > 0 && len(m.stack) == m.floor() {
			m.popMark()
		} else {
			m.pop()
		}
	case '1':
		m.popMark()
	case '2':
		m.push(m.top())
	case 'N':
		m.push(nil)
	case 0x88:
		m.push(true)
	case 0x89:
		m.push(false)
	case 'I':
		switch s := m.line(); s {
		case "00":
			m.push(false)
		case "01":
			m.push(true)
		default:
			m.push(m.decimal(s))
		}
	case 'J':
		m.push(int64(int32(le.Uint32(m.take(4)))))
	case 'K':
		m.push(int64(m.take(1)[0]))
	case 'M':
		m.push(int64(le.Uint16(m.take(2))))
	case 'L':
		m.push(m.decimal(m.line()))
	case 0x8a: // LONG1
		m.push(m.long(m.take(int(m.take(1)[0]))))
	case 0x8b: // LONG4
		m.push(m.long(m.take4()))
	case 'F':
		f, err := strconv.ParseFloat(m.line(), 64)
		if err != nil {
			m.fail("%v", err)
		}
		m.push(f)
	case 'G': // big-endian
		var bits uint64
		for _, b := range m.take(8) {
			bits = bits<<8 | uint64(b)
		}
		m.push(math.Float64frombits(bits))
	case 'S':
		s := m.line()
		if len(s) < 2 || s[0] != s[len(s)-1] {
			m.fail("a string without quotes")
		}
		m.push(s[1 : len(s)-1])
	case 'V':
		m.push(m.line())
	case 'T', 'X': // BINSTRING, BINUNICODE
		m.push(string(m.take4()))
	case 'U', 0x8c: // SHORT_BINSTRING, SHORT_BINUNICODE
		m.push(string(m.take(int(m.take(1)[0]))))
	case 0x8d: // BINUNICODE8
		m.push(string(m.take8()))
	case 'B':
		m.push(m.take4())
	case 'C':
		m.push(m.take(int(m.take(1)[0])))
	case 0x8e, 0x96: // BINBYTES8, BYTEARRAY8
		m.push(m.take8())
	case ']':
		m.push(&list{})
	case 'l':
		m.push(&list{m.popMark()})
	case 'a':
		v := m.pop()
		m.extend(m.top(), []any{v})
	case 'e':
		items := m.popMark()
		m.extend(m.top(), items)
	case ')':
		m.push(tuple(nil))
	case 't':
		m.push(tuple(m.popMark()))
	case 0x85, 0x86, 0x87: // TUPLE1, 2, 3
		t := make(tuple, op-0x84)
		for i := len(t) - 1; i >= 0; i-- {
			t[i] = m.pop()
		}
		m.push(t)
	case '}':
		m.push(&dict{})
	case 'd':
		items := m.popMark()
		d := &dict{}
		m.setItems(d, items)
		m.push(d)
	case 's':
		v, k := m.pop(), m.pop()
		m.setItems(m.top(), []any{k, v})
	case 'u':
		items := m.popMark()
		m.setItems(m.top(), items)
	case 0x8f: // EMPTY_SET
		m.push(&list{})
	case 0x90: // ADDITEMS
		items := m.popMark()
		m.extend(m.top(), items)
	case 0x91: // FROZENSET
		m.push(&list{m.popMark()})
	case 'c':
		module := m.line()
		m.push(class(module + "." + m.line()))
	case 0x93: // STACK_GLOBAL
		name, ok1 := m.pop().(string)
		module, ok2 := m.pop().(string)
		if !ok1 || !ok2 {
			m.fail("a class name that is no string")
		}
		m.push(class(module + "." + name))
	case 'R', 0x81: // REDUCE, NEWOBJ
		args, ok := m.pop().(tuple)
		c, ok2 := m.pop().(class)
		if !ok || !ok2 {
			m.fail("a call of what is no class")
		}
		m.push(m.build(c, args))
	case 0x92: // NEWOBJ_EX
		kw := m.pop()
		args, ok := m.pop().(tuple)
		c, ok2 := m.pop().(class)
		if !ok || !ok2 {
			m.fail("a call of what is no class")
		}
		m.push(&Object{Class: string(c), Args: append(append([]any(nil), args...), kw)})
	case 'i':
		module := m.line()
		c := class(module + "." + m.line())
		m.push(m.build(c, m.popMark()))
	case 'o':
		items := m.popMark()
		if len(items) == 0 {
			m.fail("an object without a class")
		}
		c, ok := items[0].(class)
		if !ok {
			m.fail("a call of what is no class")
		}
		m.push(m.build(c, items[1:]))
	case 'b': // BUILD
		state := m.pop()
		if o, ok := m.top().(*Object); ok {
			o.State = state
		}
	case 'P':
		m.pushPersistent(m.line())
	case 'Q':
		m.pushPersistent(m.pop())
	case 'g':
		m.recall(m.number(m.line()))
	case 'h':
		m.recall(uint32(m.take(1)[0]))
	case 'j':
		m.recall(le.Uint32(m.take(4)))
	case 'p':
		m.remember(m.number(m.line()))
	case 'q':
		m.remember(uint32(m.take(1)[0]))
	case 'r':
		m.remember(le.Uint32(m.take(4)))
	case 0x94: // MEMOIZE
		m.remember(uint32(len(m.memo)))
	default:
		m.fail("opcode 0x%02x is not one that a checkpoint needs", op)
	}
}

func (m *machine) extend(to any, items []any) {
	switch t := to.(type) {
	case *list:
		t.items = append(t.items, items...)
	case *Object:
		t.List = append(t.List, items...)
	default:
		m.fail("an append to what is no list")
	}
}

func (m *machine) setItems(to any, items []any) {
	if o, ok := to.(*Object); ok {
		if o.Items == nil {
			o.Items = &dict{}
		}
		to = o.Items
	}
	d, ok := to.(*dict)
	if !ok || len(items)%2 != 0 {
		m.fail("items set on what is no dictionary")
	}
	for i := 0; i < len(items); i += 2 {
		d.set(items[i], items[i+1])
	}
}

func (m *machine) pushPersistent(id any) {
	v, err := m.persist(id)
	if err != nil {
		panic(pickleError{err})
	}
	m.push(v)
}

// build makes the result of calling a class: the few that tensors and
// containers consist of, and an inert Object for every other.
func (m *machine) build(c class, args tuple) any {
	switch c {
	case "collections.OrderedDict", "builtins.dict", "__builtin__.dict":
		d := &dict{}
		if len(args) == 1 { // a list of pairs, as Python 2 wrote it
			if l, ok := args[0].(*list); ok {
				for _, item := range l.items {
					switch pair := item.(type) {
					case tuple:
						m.setItems(d, pair)
					case *list:
						m.setItems(d, pair.items)
					}
				}
			}
		}
		return d
	case "builtins.set", "__builtin__.set":
		return &list{}
	case "torch.Size":
		if len(args) == 1 {
			if t, ok := args[0].(tuple); ok {
				return t
			}
		}
	case "_codecs.encode": // how protocol 2 writes bytes
		if len(args) == 2 && args[1] == "latin1" {
			if s, ok := args[0].(string); ok {
				var b []byte
				for _, r := range s {
					b = append(b, byte(r))
				}
				return b
			}
		}
	case "torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3":
		return rebuildTensor(c, args)
	case "torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state":
		if len(args) > 0 {
			return args[0]
		}
	case "copyreg._reconstructor", "copy_reg._reconstructor":
		if len(args) == 3 {
			if inner, ok := args[0].(class); ok {
				o := &Object{Class: string(inner)}
				if d, ok := args[2].(*dict); ok {
					o.Items = d
				}
				return o
			}
		}
	}
	return &Object{Class: string(c), Args: args}
}

// rebuildTensor makes the view (storage, offset, shape, strides, ...).
func rebuildTensor(c class, args tuple) any {
	bad := func(format string, a ...any) any { return &tensorValue{err: fmt.Errorf(format, a...)} }
	if len(args) < 4 {
		return bad("%s has %d arguments", c, len(args))
	}
	s, ok := args[0].(*storage)
	if !ok {
		return bad("its storage is missing")
	}
	offset, ok1 := args[1].(int64)
	shape, ok2 := ints(args[2])
	strides, ok3 := ints(args[3])
	if !ok1 || !ok2 || !ok3 || offset < 0 || offset > maxElements {
		return bad("offset, shape or strides are no usable integers")
	}
	if s.err != nil {
		return &tensorValue{err: s.err}
	}
	dt := s.dtype
	if strings.HasSuffix(string(c), "_v3") { // an untyped storage with the type as an argument
		if len(args) < 7 {
			return bad("%s has %d arguments", c, len(args))
		}
		name, _ := args[6].(class)
		if dt, ok = torchDTypes[string(name)]; !ok {
			return bad("its type %s is not supported", name)
		}
	}
	v, err := newView(dt, shape, int(offset), strides, s.data)
	return &tensorValue{v, err}
}

func ints(x any) ([]int, bool) {
	t, ok := x.(tuple)
	if !ok || len(t) > 64 {
		return nil, false
	}
	out := make([]int, len(t))
	for i, e := range t {
		n, ok := e.(int64)
		if !ok || n > maxElements || n < -maxElements {
			return nil, false
		}
		out[i] = int(n)
	}
	return out, true
}

var torchDTypes = map[string]DType{
	"torch.FloatStorage": F32, "torch.float32": F32, "torch.HalfStorage": F16, "torch.float16": F16,
	"torch.BFloat16Storage": BF16, "torch.bfloat16": BF16, "torch.DoubleStorage": F64, "torch.float64": F64,
	"torch.LongStorage": I64, "torch.int64": I64, "torch.IntStorage": I32, "torch.int32": I32,
	"torch.ShortStorage": I16, "torch.int16": I16, "torch.CharStorage": I8, "torch.int8": I8,
	"torch.ByteStorage": U8, "torch.uint8": U8, "torch.BoolStorage": BOOL, "torch.bool": BOOL,
	"torch.storage.UntypedStorage": U8, "torch.UntypedStorage": U8,
}
