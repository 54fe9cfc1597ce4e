"""Writes the runs of ablate.py as safetensors (float16): every finished run as RUNS/ROW-SEED.safetensors, that of --ship
as SHIPPED/ROW.safetensors, and what tests expect of them: the logits that the shipped weights give for a photograph,
and the values of the recurrence behind the forget gate."""
import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import data
import scan
from ablation import ROWS, build
from export import logits, metadata, weights, write


def described(held, folder):
    architecture = {"architecture": "linear attention"}
    if held["row"] == "mila":
        architecture = {"architecture": "mila", "qkv_bias": True, "in_chans": 3}
    return metadata({**architecture, **held["config"], **{k: held[k] for k in ("row", "seed", "epochs")}}, data.SIDE, folder)


def recurrence():
    """Random arguments of the scan, as its kernels take them, and its values."""
    torch.manual_seed(1)
    args = {"q": torch.rand(1, 64, 2, 32) * 2, "k": torch.rand(1, 64, 2, 32) * 2, "v": torch.randn(1, 64, 2, 16),
            "delta": torch.rand(1, 64, 2, 16) * 0.3, "a": -torch.exp(torch.randn(2, 16, 32))}
    y = scan.loop(*(t.double() for t in args.values()))
    return {"scan." + k: np.squeeze(t.numpy().astype(np.float32)) for k, t in {**args, "y": y}.items()}

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", default="ablation", help="folder of the runs that ablate.py wrote")
    p.add_argument("--data", default="data", help="folder with classes.tsv")
    p.add_argument("--runs", type=Path, default="runs", help="folder for the weights of all seeds")
    p.add_argument("--ship", type=int, default=1, help="the seed that is shipped")
    p.add_argument("--shipped", type=Path, help="folder for the weights of that seed")
    p.add_argument("--photo", type=Path, help="image whose logits go to --expected")
    p.add_argument("--expected", type=Path, default="expected.safetensors")
    args = p.parse_args()
    args.runs.mkdir(parents=True, exist_ok=True)
    expected = recurrence()
    if args.photo:
        pixels = data.resized(Image.open(args.photo).convert("RGB"), data.SIDE)
    for row in ROWS:
        for path in sorted(Path(args.out).glob(f"{row}-[0-9]/ema.pt")):
            held = torch.load(path, map_location="cpu")
            file = weights(held), described(held, args.data)
            write(args.runs / f"{row}-{held['seed']}.safetensors", *file)
            if held["seed"] == args.ship and args.shipped:
                write(args.shipped / f"{row}.safetensors", *file)
                if args.photo:
                    model = build(ROWS[row]).eval()
                    model.load_state_dict({k: v.float() for k, v in held["weights"].items()}, strict=False)
                    expected["logits." + row] = logits(model, torch.from_numpy(pixels.copy())[None])[0].numpy()
    if args.photo:
        write(args.expected, expected)

if __name__ == "__main__":
    main()
