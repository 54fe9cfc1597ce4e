"""Trains the rows of the ablation, several at a time on one GPU; see README.md for the commands.

Every worker keeps the images on the GPU and takes one run after another from the queue: all rows with the first seed,
then with the second, then the rows that decide with a third. A run is a folder ROW-SEED with log.jsonl and, at its end,
ema.pt (float16 weights). Runs that --seconds interrupts go on when the command is given again, finished ones are left
alone, and the last line of the output names what is missing."""
import argparse
import dataclasses
import json
import math
import os
import time
import traceback
from pathlib import Path

import numpy as np
import torch
import torch.multiprocessing as mp

import augment
import data
import train
from ablation import ROWS, build

DECIDING = ("baseline", "forget-gate", "block-sub", "lepe", "cpe", "mila")
SIZE = data.SIDE


def queue(seeds, third=DECIDING):
    """(row, seed) in the order of training."""
    return [(row, seed) for seed in range(1, seeds + 1) for row in ROWS if seed < 3 or row in third]


def name(run):
    return "{}-{}".format(*run)


class Trainer(train.Trainer):
    """Captures the augmentation of a batch as well, so that a step is one launch: several processes share a GPU best
    if none of them waits for its processor."""

    def __init__(self, model, args, images, classes):
        super().__init__(model, args)
        self.images, self.classes = images, classes
        self.pick = torch.zeros(args.batch, dtype=torch.long, device=images.device)
        gates = {id(p) for n, p in model.named_parameters() if n.endswith("A_log")}
        # As in Mamba: decay would pull the gates towards exp(-delta).
        self.decayed *= torch.cat([torch.full((p.numel(),), float(id(p) not in gates), device=p.device) for p in self.params])

    def step(self, *_):
        a = self.args
        super().step(*augment.batch(self.images[self.pick], self.classes[self.pick], self.model.config.num_classes, SIZE,
                                    a.smallest, a.mix, a.smoothing))

    def run(self, pick):
        self.pick.copy_(pick)
        if self.graph is None:
            self.step()
        else:
            self.graph.replay()


def one(row, seed, args, images, classes, val, deadline):
    """Trains one run and returns whether it is finished."""
    out = Path(args.out, name((row, seed)))
    out.mkdir(parents=True, exist_ok=True)
    state, device = out / "state.pt", images.device
    torch.manual_seed(seed)
    model = build(ROWS[row]).to(device).train()
    if args.compile:
        torch._dynamo.reset()  # what earlier runs of this worker compiled counts towards its limit
        torch._dynamo.config.recompile_limit = 64
        for part in [model.patch_embed] + [m for stage in model.layers for m in (*stage.blocks, stage.downsample)]:
            part.compile(dynamic=False)
    t = Trainer(model, args, images, classes)
    epoch = 0
    if state.exists():
        held = torch.load(state, map_location=device)
        epoch = held.pop("epoch")
        for k, v in held.items():
            t.state[k].copy_(v)
    else:
        (out / "log.jsonl").unlink(missing_ok=True)
    t.capture(SIZE, model.config.num_classes)
    per_epoch = len(images) // args.batch
    total, warm_up = per_epoch * args.epochs, round(per_epoch * args.warm_up)
    while epoch < args.epochs:
        if time.time() > deadline:
            train.save(str(state), {"epoch": epoch, **t.state})
            return False
        began = time.time()
        torch.manual_seed(seed * 100003 + epoch)
        t.loss.zero_()
        order = torch.randperm(len(images), device=device)
        for i in range(per_epoch):
            lr = t.set_step(epoch * per_epoch + i, total, warm_up)
            t.run(order[i * args.batch:(i + 1) * args.batch])
        loss = t.loss.item() / per_epoch
        epoch += 1
        if not math.isfinite(loss):
            raise RuntimeError(f"{row}-{seed}: the loss is not finite in epoch {epoch}")
        line = {"epoch": epoch, "lr": lr, "loss": loss, "seconds": time.time() - began}
        if epoch % args.eval_every == 0 or epoch == args.epochs:
            with t.averaged():
                line["top1"], line["top5"] = t.evaluate(*val)
                if epoch == args.epochs:
                    train.save(str(out / "ema.pt"), {"row": row, "seed": seed, "epochs": epoch, "config": dataclasses.asdict(ROWS[row]), "weights": {
                        k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}})
        with open(out / "log.jsonl", "a") as log:
            log.write(json.dumps({k: round(v, 6) for k, v in line.items()}) + "\n")
    state.unlink(missing_ok=True)
    print(f"{row}-{seed}: top-1 {100 * line['top1']:.2f} %, {line['seconds']:.2f} s for the last epoch", flush=True)
    return True


def work(runs, args, deadline):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    if device.type == "cpu":
        torch.set_num_threads(1)
    held = {k: torch.from_numpy(np.load(Path(args.out, k + ".npy"))) for k in ("images", "classes", "val", "val_classes")}
    images, classes = held["images"].to(device), held["classes"].to(device)
    while time.time() < deadline and (run := runs.get()) is not None:
        try:
            one(*run, args, images, classes, (held["val"], held["val_classes"]), deadline)
        except Exception:
            traceback.print_exc()
            if device.type == "cuda":
                torch.cuda.synchronize()  # a device error is this process's end: the others take the runs that wait


def prepare(args):
    """Decodes the images once, for all workers of this and later calls."""
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    if (out / "val.npy").exists():
        return
    images, classes = data.training(args.data)
    if args.limit:
        keep = torch.randperm(len(images))[:args.limit]
        images, classes = images[keep], classes[keep]
    _, val_classes, val = data.validation(args.data)
    for name, x in (("images", images), ("classes", classes), ("val_classes", val_classes), ("val", val[SIZE])):
        np.save(out / f"{name}.npy", x.numpy())


def finished(args, run):
    return Path(args.out, name(run), "ema.pt").exists()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", default="data", help="folder with train/, val.zip and classes.tsv")
    p.add_argument("--out", default="ablation", help="folder of the runs")
    p.add_argument("--seeds", type=int, default=3, help="the third is for " + ", ".join(DECIDING))
    p.add_argument("--only", type=lambda s: s.split(","), help="only these runs, ROW or ROW-SEED, such as mila,rope-2")
    p.add_argument("--workers", type=int, default=9, help="runs at a time")
    p.add_argument("--seconds", type=float, default=math.inf, help="interrupt the runs after that time; call again to go on")
    p.add_argument("--epochs", type=int, default=38)
    p.add_argument("--batch", type=int, default=512)
    p.add_argument("--lr", type=float, default=2e-3)
    p.add_argument("--warm-up", type=float, default=3, help="epochs")
    p.add_argument("--weight-decay", type=float, default=0.05)
    p.add_argument("--clip", type=float, default=1.0, help="largest norm of the gradient")
    p.add_argument("--smoothing", type=float, default=0.1)
    p.add_argument("--mix", type=float, default=0.0, help="share of images under CutMix or mixup")
    p.add_argument("--smallest", type=float, default=0.35, help="smallest share of the area that a crop keeps")
    p.add_argument("--ema", type=float, default=0.999)
    p.add_argument("--eval-every", type=int, default=10)
    p.add_argument("--compile", action="store_true", help="compile the blocks with torch.compile")
    p.add_argument("--limit", type=int, help="use that many training images only (to try things)")
    args = p.parse_args()
    deadline = time.time() + args.seconds
    prepare(args)
    runs = [r for r in queue(args.seeds) if not args.only or r[0] in args.only or name(r) in args.only]
    todo = [r for r in runs if not finished(args, r)]
    todo.sort(key=lambda r: not Path(args.out, name(r), "state.pt").exists())  # first those already begun
    context = mp.get_context("spawn")
    waiting = context.SimpleQueue()
    for r in todo + [None] * args.workers:
        waiting.put(r)
    workers = [context.Process(target=work, args=(waiting, args, deadline)) for _ in range(min(args.workers, len(todo)))]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    missing = [name(r) for r in runs if not finished(args, r)]
    print("missing: " + (", ".join(missing) or "none"), flush=True)


if __name__ == "__main__":
    main()
