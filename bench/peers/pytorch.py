"""PyTorch and OpenBLAS as contenders, and the export of ONNX models for another.

  pytorch.py export DIR ITEM...       writes DIR/ITEM.onnx with "-" for "/", and the models' inputs
  pytorch.py serve THREADS [MODEL]    says hello in one line of JSON, then answers lines
                                      "CONTENDER ITEM SECONDS" with {"ms": ...} or {"error": ...}"""
import ctypes
import inspect
import json
import os
import sys
import time

import torch

import mila

sys.stdout.reconfigure(line_buffering=True)


def traced(module, inputs):
    f = torch.jit.optimize_for_inference(torch.jit.freeze(torch.jit.trace(module, inputs)))
    for _ in range(2):  # the first runs specialise
        f(*inputs)
    return lambda: f(*inputs)


def eager(module, inputs):
    """Images in channels_last, which is PyTorch's faster format for these."""
    if any(x.dim() == 4 for x in inputs):
        module = module.to(memory_format=torch.channels_last)
        inputs = [x.contiguous(memory_format=torch.channels_last) for x in inputs]
    return lambda: module(*inputs)


def openblas(item):
    m, n, k = (int(a) for a in item.split("/")[1:])
    x, w, y = torch.rand(m, k), torch.rand(n, k), torch.empty(m, n)
    sgemm, pointer = library().cblas_sgemm, lambda t: ctypes.c_void_p(t.data_ptr())
    one, zero = ctypes.c_float(1), ctypes.c_float(0)
    f = lambda: sgemm(101, 111, 112, m, n, k, one, pointer(x), k, pointer(w), k, zero, pointer(y), n)
    f()
    if not torch.allclose(y, x @ w.T, rtol=1e-4):
        raise RuntimeError("cblas_sgemm gives a wrong result")
    f.keep = x, w, y
    return f


def library():
    return ctypes.CDLL("libopenblas.so.0")


def milliseconds(f, seconds):
    """The median time of f, after a run that does not count."""
    f()
    times, end = [], time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        f()
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2] * 1e3


def serve(threads, models):
    torch.set_num_threads(threads)
    functions = {}

    def function(contender, item):
        if (contender, item) not in functions:
            make = {"pytorch eager": eager, "pytorch traced": traced}.get(contender)
            functions[contender, item] = make(*mila.build(item)) if make else openblas(item)
        return functions[contender, item]

    versions = {"pytorch eager": torch.__version__, "pytorch traced": torch.__version__}
    try:
        config = library().openblas_get_config
        config.restype = ctypes.c_char_p
        versions["openblas"] = config().decode()
    except OSError:
        pass  # what asks for it gets the error
    logits = {c: function(c, item)().flatten().tolist() for item in models for c in ("pytorch eager", "pytorch traced")}
    print(json.dumps({"versions": versions, "logits": logits}))
    for line in sys.stdin:
        contender, item, seconds = line.strip().rsplit(" ", 2)
        try:
            print(json.dumps({"ms": milliseconds(function(contender, item), float(seconds))}))
        except Exception as e:
            print(json.dumps({"error": str(e)}))


def export(folder, items):
    os.makedirs(folder, exist_ok=True)
    # PyTorch 2's newer exporter needs packages that PyTorch does not bring.
    older = {"dynamo": False} if "dynamo" in inspect.signature(torch.onnx.export).parameters else {}
    for item in items:
        path = os.path.join(folder, item.replace("/", "-"))
        module, inputs = mila.build(item)
        torch.onnx.export(module, inputs, path + ".onnx", opset_version=17, **older)
        if item.startswith("model"):
            inputs[0].numpy().tofile(path + ".input")


with torch.no_grad():
    if sys.argv[1] == "export":
        export(sys.argv[2], sys.argv[3:])
    else:
        serve(int(sys.argv[2]), sys.argv[3:])
