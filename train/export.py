"""Writes trained weights as safetensors (float16, official parameter names) with configuration, labels, WordNet ids and
preprocessing in the metadata, and the logits that these weights give for photographs, as expectations of tests."""
import argparse
import json
import struct
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import data
from mila import MILA, Config

NAMES = {np.float16: "F16", np.float32: "F32", np.uint8: "U8"}


def write(path, tensors, metadata=None):
    """Writes arrays in the safetensors format, by name, with the header padded to a multiple of eight bytes."""
    header, at = {"__metadata__": metadata} if metadata else {}, 0
    for name, a in sorted(tensors.items()):
        header[name] = {"dtype": NAMES[a.dtype.type], "shape": a.shape, "data_offsets": [at, at + a.nbytes]}
        at += a.nbytes
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(head)) + head)
        for _, a in sorted(tensors.items()):
            f.write(np.ascontiguousarray(a).tobytes())


def logits(model, images):
    """Of uint8 images (N, H, W, 3)."""
    with torch.no_grad():
        return torch.cat([model(data.normalised(x)) for x in images.split(100)])


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--weights", default="run/ema.pt")
    p.add_argument("--data", default="data", help="folder with val.zip and classes.tsv")
    p.add_argument("--size", type=int, default=96, help="side of the input that the metadata name")
    p.add_argument("--output", default="nano.safetensors")
    p.add_argument("--photos", type=Path, nargs="*", default=[], help="images whose pixels and logits go to --expected")
    p.add_argument("--expected", default="photos.expected.safetensors")
    p.add_argument("--eval-sizes", type=int, nargs="*", default=[], help="also print the accuracy on val.zip at these sizes")
    args = p.parse_args()

    held = torch.load(args.weights, map_location="cpu")
    config = Config(**held["config"])
    weights = {k: v.numpy() for k, v in held["weights"].items() if not k.endswith("num_batches_tracked")}
    wnids, labels = data.labels(args.data)
    write(args.output, weights, {"config": json.dumps({
        "architecture": "mila", "embed_dim": config.embed_dim, "depths": config.depths, "num_heads": config.num_heads,
        "num_classes": config.num_classes, "img_size": args.size, "mlp_ratio": config.mlp_ratio, "qkv_bias": True, "in_chans": 3,
        "preprocess": {"resize_short": args.size, "crop": args.size, "interpolation": "bicubic", "mean": data.MEAN, "std": data.STD},
        "labels": [l.split(",")[0] for l in labels], "wnids": wnids}, separators=(",", ":"))})

    model = MILA(config).eval()
    model.load_state_dict({k: v.float() for k, v in held["weights"].items()}, strict=False)
    if args.photos:
        expected = {}
        for path in args.photos:
            pixels = data.resized(Image.open(path).convert("RGB"), args.size)
            expected[f"photo.{path.name}.pixels_u8"] = pixels
            expected[f"photo.{path.name}.logits"] = logits(model, torch.from_numpy(pixels.copy())[None])[0].numpy()
        write(args.expected, expected)
    if args.eval_sizes:
        _, classes, images = data.validation(args.data, args.eval_sizes)
        for size, x in images.items():
            top = logits(model, x).topk(5).indices == classes[:, None]
            print(f"{size} x {size}: top-1 {100 * top[:, 0].float().mean():.2f} %, top-5 {100 * top.any(1).float().mean():.2f} %")


if __name__ == "__main__":
    main()
