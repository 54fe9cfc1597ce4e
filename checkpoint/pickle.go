package checkpoint

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"
)

// Values on the machine's stack, beside nil, bool, int64, float64, string,
// []byte (which points into the file) and *big.Int.
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
		err error // why it cannot be used
	}
	// object stands for an instance of a Python class that this package does not
	// know: its class, what it was built from and its state, none of it executed.
	object struct {
		class string
		args  tuple
		state any   // of __setstate__
		items *dict // of a dict subclass
		list  []any // of a list subclass
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

const opLong1 = 0x8a

// Limits of a pickle; doc.go gives the first to the reader.
const (
	maxOps    = 1 << 22
	maxLong   = 1024 // bytes of an integer
	maxDigits = 2048 // of an integer in text
)

// machine interprets a pickle of protocols 0 to 5. Memory stays proportional to
// the input: an opcode makes a value of bounded size or one of input bytes, and
// the few that copy what the memo may name many times draw on credit.
type machine struct {
	in      []byte
	cut     bool // in ends at a limit, not with the file
	at      int
	ops     int
	credit  int64 // bytes that copies may still take
	stack   []any
	marks   []int
	memo    []any // absent entries are notStored
	persist func(id any) (any, error)
}

type notStored struct{}

func newMachine(in []byte, persist func(id any) (any, error)) *machine {
	return &machine{in: in, persist: persist, credit: 1<<16 + 8*int64(len(in))}
}

// run interprets one pickle from m.in[m.at:] and leaves m.at behind it.
func (m *machine) run() (value any, err error) {
	defer func() {
		if r := recover(); r != nil {
			e, ok := r.(pickleError)
			if !ok {
				panic(r)
			}
			err = e.error
		}
	}()
	m.stack, m.marks, m.memo, m.ops = nil, nil, nil, 0
	for {
		if m.ops++; m.ops > maxOps {
			m.fail("more than %d opcodes", maxOps)
		}
		op := m.take(1)[0]
		if op == '.' {
			return m.pop(), nil
		}
		m.step(op)
	}
}

// pay charges a copy whose size the input does not bound.
func (m *machine) pay(bytes int) {
	if m.credit -= int64(bytes); m.credit < 0 {
		m.fail("it repeats its parts too often")
	}
}

// pickleError is what fail panics with, for run to return.
type pickleError struct{ error }

func (m *machine) fail(format string, args ...any) {
	panic(pickleError{fmt.Errorf("the pickle is damaged at byte %d: "+format, append([]any{m.at}, args...)...)})
}

// short fails for want of n bytes.
func (m *machine) short(n uint64) {
	if m.cut {
		panic(pickleError{fmt.Errorf("the pickle does not end within %d bytes, the limit; the file is damaged, or raise the limit", len(m.in))})
	}
	m.fail("%d bytes are wanted where %d are left", n, len(m.in)-m.at)
}

func (m *machine) take(n int) []byte {
	if n < 0 || n > len(m.in)-m.at {
		m.short(uint64(n))
	}
	m.at += n
	return m.in[m.at-n : m.at]
}

func (m *machine) take8() []byte {
	n := le.Uint64(m.take(8))
	if n > uint64(len(m.in)) {
		m.short(n)
	}
	return m.take(int(n))
}

func (m *machine) take4() []byte {
	n := le.Uint32(m.take(4))
	if uint64(n) > uint64(len(m.in)) {
		m.short(uint64(n))
	}
	return m.take(int(n))
}

func (m *machine) line() string {
	i := bytes.IndexByte(m.in[m.at:], '\n')
	if i < 0 && m.cut {
		m.short(1)
	}
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

// remember stores the top of the stack. Picklers number entries in sequence; an
// index beyond the bytes that were read has no honest use.
func (m *machine) remember(i uint32) {
	if uint64(i) > uint64(min(m.at, maxOps)) {
		m.fail("the memo index %d is out of sequence", i)
	}
	for int(i) >= len(m.memo) {
		m.memo = append(m.memo, notStored{})
	}
	m.memo[i] = m.top()
}

func (m *machine) recall(i uint32) {
	if uint64(i) < uint64(len(m.memo)) {
		if v := m.memo[i]; v != (notStored{}) {
			m.push(v)
			return
		}
	}
	m.fail("nothing was stored under %d", i)
}

func (m *machine) number(s string) uint32 {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		m.fail("%.20q is no index", s)
	}
	return uint32(n)
}

func (m *machine) long(b []byte) any {
	if len(b) > maxLong {
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
	if len(s) > maxDigits { // parsing takes more than linear time
		m.fail("an integer of %d digits", len(s))
	}
	n, ok := new(big.Int).SetString(strings.TrimSuffix(s, "L"), 10)
	if !ok {
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
	case '(': // MARK
		m.marks = append(m.marks, len(m.stack))
	case '0': // POP
		if len(m.stack) > 0 && len(m.stack) == m.floor() {
			m.popMark()
		} else {
			m.pop()
		}
	case '1': // POP_MARK
		m.popMark()
	case '2': // DUP
		m.push(m.top())
	case 'N': // NONE
		m.push(nil)
	case 0x88: // NEWTRUE
		m.push(true)
	case 0x89: // NEWFALSE
		m.push(false)
	case 'I': // INT
		switch s := m.line(); s {
		case "00":
			m.push(false)
		case "01":
			m.push(true)
		default:
			m.push(m.decimal(s))
		}
	case 'J': // BININT
		m.push(int64(int32(le.Uint32(m.take(4)))))
	case 'K': // BININT1
		m.push(int64(m.take(1)[0]))
	case 'M': // BININT2
		m.push(int64(le.Uint16(m.take(2))))
	case 'L': // LONG
		m.push(m.decimal(m.line()))
	case opLong1:
		m.push(m.long(m.take(int(m.take(1)[0]))))
	case 0x8b: // LONG4
		m.push(m.long(m.take4()))
	case 'F': // FLOAT
		s := m.line()
		f, err := strconv.ParseFloat(s, 64)
		if err != nil {
			m.fail("%.20q is no float64", s)
		}
		m.push(f)
	case 'G': // BINFLOAT, big-endian
		var bits uint64
		for _, b := range m.take(8) {
			bits = bits<<8 | uint64(b)
		}
		m.push(math.Float64frombits(bits))
	case 'S': // STRING
		s := m.line()
		if len(s) < 2 || s[0] != s[len(s)-1] {
			m.fail("a string without quotes")
		}
		m.push(s[1 : len(s)-1])
	case 'V': // UNICODE
		m.push(m.line())
	case 'T', 'X': // BINSTRING, BINUNICODE
		m.push(string(m.take4()))
	case 'U', 0x8c: // SHORT_BINSTRING, SHORT_BINUNICODE
		m.push(string(m.take(int(m.take(1)[0]))))
	case 0x8d: // BINUNICODE8
		m.push(string(m.take8()))
	case 'B': // BINBYTES
		m.push(m.take4())
	case 'C': // SHORT_BINBYTES
		m.push(m.take(int(m.take(1)[0])))
	case 0x8e, 0x96: // BINBYTES8, BYTEARRAY8
		m.push(m.take8())
	case ']': // EMPTY_LIST
		m.push(&list{})
	case 'l': // LIST
		m.push(&list{m.popMark()})
	case 'a': // APPEND
		v := m.pop()
		m.extend(m.top(), []any{v})
	case 'e': // APPENDS
		items := m.popMark()
		m.extend(m.top(), items)
	case ')': // EMPTY_TUPLE
		m.push(tuple(nil))
	case 't': // TUPLE
		m.push(tuple(m.popMark()))
	case 0x85, 0x86, 0x87: // TUPLE1, 2, 3
		t := make(tuple, op-0x84)
		for i := len(t) - 1; i >= 0; i-- {
			t[i] = m.pop()
		}
		m.push(t)
	case '}': // EMPTY_DICT
		m.push(&dict{})
	case 'd': // DICT
		items := m.popMark()
		d := &dict{}
		m.setItems(d, items)
		m.push(d)
	case 's': // SETITEM
		v, k := m.pop(), m.pop()
		m.setItems(m.top(), []any{k, v})
	case 'u': // SETITEMS
		items := m.popMark()
		m.setItems(m.top(), items)
	case 0x8f: // EMPTY_SET
		m.push(&list{})
	case 0x90: // ADDITEMS
		items := m.popMark()
		m.extend(m.top(), items)
	case 0x91: // FROZENSET
		m.push(&list{m.popMark()})
	case 'c': // GLOBAL
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
		args, callee := m.popTuple(), m.pop()
		m.push(m.call(callee, args))
	case 0x92: // NEWOBJ_EX
		kw, args, callee := m.pop(), m.popTuple(), m.pop()
		m.push(&object{class: className(callee), args: tuple{args, kw}})
	case 'i': // INST
		module := m.line()
		c := class(module + "." + m.line())
		m.push(m.call(c, m.popMark()))
	case 'o': // OBJ
		items := m.popMark()
		if len(items) == 0 {
			m.fail("an object without a class")
		}
		m.push(m.call(items[0], items[1:]))
	case 'b': // BUILD
		state := m.pop()
		// The state of an OrderedDict or tensor holds nothing that is read here.
		if o, ok := m.top().(*object); ok {
			o.state = state
		}
	case 'P': // PERSID
		m.pushPersistent(m.line())
	case 'Q': // BINPERSID
		m.pushPersistent(m.pop())
	case 'g': // GET
		m.recall(m.number(m.line()))
	case 'h': // BINGET
		m.recall(uint32(m.take(1)[0]))
	case 'j': // LONG_BINGET
		m.recall(le.Uint32(m.take(4)))
	case 'p': // PUT
		m.remember(m.number(m.line()))
	case 'q': // BINPUT
		m.remember(uint32(m.take(1)[0]))
	case 'r': // LONG_BINPUT
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
	case *object:
		t.list = append(t.list, items...)
	default:
		m.fail("an append to what is no list")
	}
}

func (m *machine) setItems(to any, items []any) {
	if o, ok := to.(*object); ok {
		if o.items == nil {
			o.items = &dict{}
		}
		to = o.items
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

func (m *machine) popTuple() tuple {
	t, ok := m.pop().(tuple)
	if !ok {
		m.fail("a call without arguments")
	}
	return t
}

func className(callee any) string {
	switch c := callee.(type) {
	case class:
		return string(c)
	case *object: // the result of a call that was not made
		return "call of " + c.class[:min(len(c.class), 64)]
	}
	return "unknown"
}

// call makes the result of calling a class or function: the few that tensors and
// containers consist of, and an inert object for every other.
func (m *machine) call(callee any, args tuple) any {
	c, _ := callee.(class)
	switch c {
	case "collections.OrderedDict", "builtins.dict", "__builtin__.dict":
		d := &dict{}
		if len(args) == 1 { // a list of pairs, as Python 2 wrote it
			pairs := elements(args[0])
			m.pay(64 * len(pairs))
			for _, p := range pairs {
				pair := elements(p)
				if len(pair) != 2 {
					m.fail("a dictionary of what are no pairs")
				}
				d.set(pair[0], pair[1])
			}
		}
		return d
	case "builtins.set", "__builtin__.set", "builtins.frozenset", "__builtin__.frozenset":
		if len(args) == 1 {
			src := elements(args[0])
			m.pay(16 * len(src))
			return &list{slices.Clone(src)}
		}
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
				m.pay(len(s))
				b := make([]byte, 0, len(s))
				for _, r := range s {
					if r > 255 {
						m.fail("bytes with the character %q", r)
					}
					b = append(b, byte(r))
				}
				return b
			}
		}
	case "torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3":
		return m.rebuildTensor(c, args)
	case "torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state":
		if len(args) > 0 {
			return args[0]
		}
	case "torch._tensor._rebuild_from_type_v2": // (function, type, arguments, state)
		if len(args) == 4 {
			inner, ok1 := args[0].(class)
			innerArgs, ok2 := args[2].(tuple)
			// Only this one, so that calls cannot nest.
			if ok1 && ok2 && inner == "torch._utils._rebuild_tensor_v2" {
				return m.rebuildTensor(inner, innerArgs)
			}
		}
	case "copyreg._reconstructor", "copy_reg._reconstructor": // (class, base, value of base)
		if len(args) == 3 {
			o := &object{class: className(args[0])}
			o.items, _ = args[2].(*dict)
			return o
		}
	}
	return &object{class: className(callee), args: args}
}

// rebuildTensor makes the view (storage, offset, shape, strides, requires_grad,
// hooks, [dtype,] metadata). Whatever is wrong with it matters only if somebody
// asks for the tensor, so that it is kept in the value.
func (m *machine) rebuildTensor(c class, args tuple) any {
	bad := func(format string, a ...any) any { return &tensorValue{err: fmt.Errorf(format, a...)} }
	if len(args) < 4 {
		return bad("%s has %d arguments; the file is damaged", c, len(args))
	}
	s, ok := args[0].(*storage)
	if !ok {
		return bad("its storage is missing; the file is damaged")
	}
	if s.err != nil {
		return &tensorValue{err: s.err}
	}
	offset, ok1 := args[1].(int64)
	shape, ok2 := ints(args[2])
	strides, ok3 := ints(args[3])
	m.pay(256 + 24*len(shape))
	if !ok1 || !ok2 || !ok3 || offset < 0 || offset > maxElements {
		return bad("offset, shape or strides are no usable integers; the file is damaged")
	}
	dt, more := s.dtype, args[4:]
	if c == "torch._utils._rebuild_tensor_v3" { // an untyped storage
		if len(args) < 7 {
			return bad("%s has %d arguments; the file is damaged", c, len(args))
		}
		name, _ := args[6].(class)
		if dt, ok = torchDTypes[string(name)]; !ok {
			return bad("its type %.50q is not supported; convert it", string(name))
		}
		more = append(slices.Clone(args[4:6]), args[7:]...)
	}
	if len(more) > 2 { // marks a tensor whose values are to be negated or conjugated
		if d, ok := more[2].(*dict); !ok || len(d.keys) > 0 {
			if more[2] != nil {
				return bad("its extra metadata is not supported; save a plain copy")
			}
		}
	}
	v, err := newView(dt, shape, int(offset), strides, s.data)
	return &tensorValue{v, err}
}

// ints returns x if it is a tuple of integers that can be dimensions.
func ints(x any) ([]int, bool) {
	t, ok := x.(tuple)
	if !ok || len(t) > maxDims {
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

// torchDTypes is every storage class and type that is known.
var torchDTypes = map[string]DType{
	"torch.FloatStorage": F32, "torch.float32": F32, "torch.HalfStorage": F16, "torch.float16": F16,
	"torch.BFloat16Storage": BF16, "torch.bfloat16": BF16, "torch.DoubleStorage": F64, "torch.float64": F64,
	"torch.LongStorage": I64, "torch.int64": I64, "torch.IntStorage": I32, "torch.int32": I32,
	"torch.ShortStorage": I16, "torch.int16": I16, "torch.CharStorage": I8, "torch.int8": I8,
	"torch.ByteStorage": U8, "torch.uint8": U8, "torch.BoolStorage": BOOL, "torch.bool": BOOL,
	"torch.storage.UntypedStorage": U8, "torch.UntypedStorage": U8,
}
