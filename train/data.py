"""Tiny ImageNet as tensors: training mosaics and validation JPEGs."""
import csv
import io
import zipfile
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import torch
from PIL import Image

COLUMNS, SIDE = 20, 64  # of a mosaic, and of its tiles
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def tiles(path):
    """The images (500, 64, 64, 3) of one mosaic."""
    a = np.asarray(Image.open(path).convert("RGB"))
    rows = a.shape[0] // SIDE
    return a.reshape(rows, SIDE, COLUMNS, SIDE, 3).swapaxes(1, 2).reshape(-1, SIDE, SIDE, 3)


def training(folder):
    """All training images (N, 64, 64, 3) uint8 and their classes; the class is the number that a mosaic's name begins with."""
    paths = sorted(Path(folder, "train").glob("*.webp"))
    if not paths:
        raise SystemExit(f"{folder}/train holds no .webp mosaics; see train/README.md for the layout")
    with Pool() as pool:
        images = pool.map(tiles, paths, chunksize=2)
    classes = np.concatenate([np.full(len(x), int(p.name.split("_")[0])) for p, x in zip(paths, images)])
    return torch.from_numpy(np.concatenate(images)), torch.from_numpy(classes)


def resized(image, size):
    """The evaluation transform: short side to `size`, bicubic, then the centre crop."""
    w, h = image.size
    if min(w, h) != size:
        w, h = (size, int(size * h / w)) if w <= h else (int(size * w / h), size)
        image = image.resize((w, h), Image.BICUBIC)
    left, top = round((w - size) / 2), round((h - size) / 2)
    return np.asarray(image)[top:top + size, left:left + size]


def labels(folder):
    """WordNet ids and names of the classes, in the order of their index."""
    with open(Path(folder, "classes.tsv"), newline="") as f:
        rows = [r for r in csv.reader(f, delimiter="\t") if r and r[0].isdigit()]
    return [r[1] for r in rows], [r[2] for r in rows]


def validation(folder, sizes=(SIDE,)):
    """Names, classes and, for each size, images (N, size, size, 3) uint8 of val.zip."""
    ids = {w: i for i, w in enumerate(labels(folder)[0])}
    with zipfile.ZipFile(Path(folder, "val.zip")) as z:
        names = sorted(n for n in z.namelist() if n.lower().endswith((".jpeg", ".jpg")))
        images = [Image.open(io.BytesIO(z.read(n))).convert("RGB") for n in names]
    classes = torch.tensor([next(ids[part] for part in n.split("/") if part in ids) for n in names])
    return names, classes, {s: torch.from_numpy(np.stack([resized(i, s) for i in images])) for s in sizes}


def normalised(images):
    """uint8 (B, H, W, 3) -> float (B, 3, H, W), channels last."""
    mean, std = (torch.tensor(v, device=images.device) * 255 for v in (MEAN, STD))
    return ((images.float() - mean) / std).permute(0, 3, 1, 2)
