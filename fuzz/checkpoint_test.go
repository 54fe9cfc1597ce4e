package fuzz_test

import (
	"archive/zip"
	"bytes"
	"errors"
	"os"
	"testing"

	"github.com/mila-go/mila/checkpoint"
	"github.com/mila-go/mila/internal/golden"
)

// seed adds files of testdata/golden that are small enough to be mutated well.
func seed(f *testing.F, names ...string) {
	for _, name := range names {
		data, err := os.ReadFile(golden.Path(f, "golden", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
}

// readEverything reads every tensor of an accepted checkpoint in every way that
// its type allows: what Parse accepts must be readable.
func readEverything(t *testing.T, data []byte) {
	for _, state := range []string{"model", "ema"} {
		c, err := checkpoint.Parse(data, checkpoint.WithState(state))
		if err != nil {
			continue
		}
		for _, name := range c.Names() {
			shape, ok := c.Shape(name)
			dt, _ := c.DType(name)
			n := 1
			for _, d := range shape {
				n *= d
			}
			err := c.Read(name, make([]float32, n))
			if dt.Size() == 1 {
				err = errors.Join(err, c.ReadBytes(name, make([]byte, n)))
			}
			if dt >= checkpoint.I64 {
				err = errors.Join(err, c.ReadInt64(name, make([]int64, n)))
			} else if n < 1<<16 {
				err = errors.Join(err, c.ReadFloat64(name, make([]float64, n)))
			}
			if !ok || err != nil {
				t.Errorf("%q %v %v: %v", name, dt, shape, err)
			}
		}
		c.Object()
		c.Config()
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}

// FuzzSafetensors feeds hostile bytes to the reader, and what it accepts back to
// it through the writer.
func FuzzSafetensors(f *testing.F) {
	seed(f, "misc.expected.safetensors")
	f.Add([]byte("\x10\x00\x00\x00\x00\x00\x00\x00{}              "))
	f.Add([]byte("\x48\x00\x00\x00\x00\x00\x00\x00" +
		`{"__metadata__":{"config":"{}"},"a":{"dtype":"U8","shape":[2,1],"data_offsets":[0,2]}}   `[:72] + "\x01\x02"))
	f.Add([]byte("\x37\x00\x00\x00\x00\x00\x00\x00" + `{"a":{"dtype":"U8","shape":[2,1],"data_offsets":[0,2]}}` + "\x01\x02"))
	f.Fuzz(func(t *testing.T, data []byte) {
		readEverything(t, data)
		c, err := checkpoint.Parse(data)
		if err != nil || c.Format() != "safetensors" || len(data) > 1<<16 {
			return
		}
		var tensors []checkpoint.Tensor
		for _, name := range c.Names() {
			dt, _ := c.DType(name)
			shape, _ := c.Shape(name)
			if dt == checkpoint.F32 && name != "" {
				n := 1
				for _, d := range shape {
					n *= d
				}
				x := checkpoint.Tensor{Name: name, Shape: shape, F32: make([]float32, n)}
				if err := c.Read(name, x.F32); err != nil {
					t.Fatal(err)
				}
				tensors = append(tensors, x)
			}
		}
		var b bytes.Buffer
		if err := checkpoint.WriteSafetensors(&b, tensors, c.Metadata()); err != nil {
			t.Fatal(err)
		}
		back, err := checkpoint.Parse(b.Bytes())
		if err != nil {
			t.Fatalf("what was written cannot be read: %v", err)
		}
		if got := len(back.Names()); got != len(tensors) {
			t.Errorf("%d of %d tensors come back", got, len(tensors))
		}
	})
}

// FuzzPth feeds hostile bytes to the reader twice: as a file, and as the pickle
// in an intact archive, which a mutated archive hardly ever reaches.
func FuzzPth(f *testing.F) {
	seed(f, "misc.pth")
	for _, name := range []string{"misc.pth", "ckpt_tiny_train_ema.pth"} {
		z, err := zip.OpenReader(golden.Path(f, "golden", name))
		if err != nil {
			f.Fatal(err)
		}
		defer z.Close()
		for _, e := range z.File {
			if e.FileInfo().Name() != "data.pkl" {
				continue
			}
			r, err := e.Open()
			if err != nil {
				f.Fatal(err)
			}
			var b bytes.Buffer
			if _, err := b.ReadFrom(r); err != nil {
				f.Fatal(err)
			}
			f.Add(b.Bytes())
		}
	}
	// The legacy format: magic, protocol, system, object, storages, one storage.
	f.Add([]byte("\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}.\x80\x02}U\x01wctorch._utils\n_rebuild_tensor_v2\n" +
		"((U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuK\x02tQK\x00K\x02\x85K\x01\x85\x89NtRs.\x80\x02]U\x010a.\x02\x00\x00\x00\x00\x00\x00\x00\x00\x00\x80?\x00\x00\x00@"))
	f.Fuzz(func(t *testing.T, data []byte) {
		readEverything(t, data)
		if len(data) > 1<<16 {
			return
		}
		var b bytes.Buffer
		w := zip.NewWriter(&b)
		for _, e := range []struct {
			name string
			data []byte
		}{{"x/data.pkl", data}, {"x/data/0", make([]byte, 192)}, {"x/data/1", make([]byte, 160)}, {"x/data/2", make([]byte, 40)}} {
			p, err := w.CreateHeader(&zip.FileHeader{Name: e.name, Method: zip.Store})
			if err == nil {
				_, err = p.Write(e.data)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		readEverything(t, b.Bytes())
	})
}
