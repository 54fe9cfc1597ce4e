"""Trains a MILA on Tiny ImageNet; see README.md for the commands.

All images live on the GPU and are augmented there; the whole training step (forward, backward, AdamW, moving
average) is one CUDA graph, since a model this small is otherwise bound by kernel launches. Parameters are views of
one flat vector, so that the optimiser is a handful of operations. An epoch's random numbers follow from the seed and
its number, so a run that was stopped goes on as if it had not been."""
import argparse
import contextlib
import dataclasses
import json
import math
import os
import time

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # the same sums from run to run

import torch
import torch.nn.functional as F

import augment
import data
from mila import MILA, Config


def flatten(tensors):
    """One vector that holds the tensors, which become views of it."""
    flat = torch.cat([t.detach().reshape(-1) for t in tensors])
    for t, part in zip(tensors, flat.split([t.numel() for t in tensors])):
        t.data = part.view(t.shape)
    return flat


class Trainer:
    def __init__(self, model, args):
        self.model, self.args = model, args
        self.params = list(model.parameters())
        buffers = [b for n, b in model.named_buffers() if n.endswith(("running_mean", "running_var"))]
        p, b = flatten(self.params), flatten(buffers)
        self.decayed = torch.cat([torch.full((w.numel(),), float(w.dim() > 1), device=w.device) for w in self.params])
        # Everything that changes from step to step: weights, moments, running statistics, their moving averages.
        self.state = {"p": p, "m": torch.zeros_like(p), "v": torch.zeros_like(p), "b": b, "ema_p": p.clone(), "ema_b": b.clone()}
        self.lr, self.bias1, self.bias2, self.decay = torch.zeros(4, device=p.device)
        self.loss = torch.zeros((), device=p.device)  # summed over an epoch
        self.graph = None

    def set_step(self, step, total, warm_up):
        a = self.args
        if step < warm_up:
            lr = a.lr * (step + 1) / warm_up
        else:
            lr = a.lr * (0.5 + 0.5 * math.cos(math.pi * (step - warm_up) / (total - warm_up)))
        self.lr.fill_(lr + 1e-6)
        self.bias1.fill_(1 - 0.9 ** (step + 1))
        self.bias2.fill_(1 - 0.999 ** (step + 1))
        self.decay.fill_(1 - min(a.ema, (1 + step) / (10 + step)))
        return lr

    def step(self, x, y):
        s, dev = self.state, x.device.type
        with torch.autocast(dev, torch.bfloat16, enabled=dev == "cuda"):
            logits = self.model(x)
        loss = -(y * F.log_softmax(logits.float(), -1)).sum(-1).mean()
        g = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, self.params)])
        with torch.no_grad():
            g *= (self.args.clip / (g.norm() + 1e-6)).clamp(max=1)
            s["m"].lerp_(g, 0.1)
            s["v"].lerp_(g * g, 0.001)
            s["p"].mul_(1 - self.lr * self.args.weight_decay * self.decayed)
            s["p"].sub_(self.lr * (s["m"] / self.bias1) / ((s["v"] / self.bias2).sqrt() + 1e-8))
            for name in "p", "b":
                s["ema_" + name].add_((s[name] - s["ema_" + name]) * self.decay)
            self.loss += loss.detach()

    def capture(self, size, classes):
        """Captures a step on images of size x size; the state is left as it was."""
        n, dev = self.args.batch, self.lr.device
        self.x = torch.zeros(n, 3, size, size, device=dev).to(memory_format=torch.channels_last)
        self.y = torch.full((n, classes), 1 / classes, device=dev)
        self.graph = None
        if dev.type != "cuda":
            return
        saved = {k: v.clone() for k, v in self.state.items()}
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            for _ in range(3):
                self.step(self.x, self.y)
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.step(self.x, self.y)
        for k, v in self.state.items():
            v.copy_(saved[k])

    def run(self, x, y):
        self.x.copy_(x)
        self.y.copy_(y)
        if self.graph is None:
            self.step(self.x, self.y)
        else:
            self.graph.replay()

    @contextlib.contextmanager
    def averaged(self):
        """The model holds the moving average, which is what is evaluated and shipped, as long as this is open."""
        held = {k: self.state[k].clone() for k in ("p", "b")}
        for k in held:
            self.state[k].copy_(self.state["ema_" + k])
        yield
        for k, v in held.items():
            self.state[k].copy_(v)

    @torch.no_grad()
    def evaluate(self, images, classes):
        """Top-1 and top-5 on images of uint8."""
        self.model.eval()
        if self.args.compile:
            torch.compiler.set_stance("force_eager")
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        top = torch.cat([self.model(data.normalised(x.to(self.lr.device))).topk(5).indices for x in images.split(500)])
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        if self.args.compile:
            torch.compiler.set_stance("default")
        self.model.train()
        hit = top.cpu() == classes[:, None]
        return hit[:, 0].float().mean().item(), hit.any(1).float().mean().item()


def save(path, content):
    """Replaces the file at once, so that a stop never leaves half of it."""
    torch.save(content, path + ".part")
    os.replace(path + ".part", path)


def phases(text):
    """'64:100,96:20' -> the image size of every epoch."""
    return [int(s) for s, n in (part.split(":") for part in text.split(",")) for _ in range(int(n))]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", default="data", help="folder with train/, val.zip and classes.tsv")
    p.add_argument("--out", default="run", help="folder for ema.pt (float16 weights) and log.jsonl")
    p.add_argument("--state", default="state.pt", help="file of the state; if it exists the run goes on from it")
    p.add_argument("--epochs", type=phases, default=phases("64:10"), help="SIZE:EPOCHS,... one phase after another")
    p.add_argument("--init", help="ema.pt of an earlier run to begin with")
    p.add_argument("--until", type=int, help="stop after this epoch of the schedule")
    p.add_argument("--seconds", type=float, default=math.inf, help="stop after the first epoch that ends later; start again to go on")
    p.add_argument("--batch", type=int, default=1024)
    p.add_argument("--lr", type=float, default=2e-3)
    p.add_argument("--warm-up", type=float, default=5, help="epochs")
    p.add_argument("--weight-decay", type=float, default=0.05)
    p.add_argument("--clip", type=float, default=1.0, help="largest norm of the gradient")
    p.add_argument("--drop-path", type=float, default=0.1)
    p.add_argument("--smoothing", type=float, default=0.1)
    p.add_argument("--mix", type=float, default=0.8, help="share of images under CutMix or mixup")
    p.add_argument("--plain", type=int, default=0, help="last epochs without CutMix and mixup")
    p.add_argument("--smallest", type=float, default=0.35, help="smallest share of the area that a crop keeps")
    p.add_argument("--ema", type=float, default=0.999)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--eval-every", type=int, default=10)
    p.add_argument("--eval-sizes", type=lambda s: [int(v) for v in s.split(",")], default=[64])
    p.add_argument("--compile", action="store_true", help="compile the parts of the model with torch.compile")
    p.add_argument("--limit", type=int, help="use that many training images only (to try things)")
    args = p.parse_args()
    start = time.time()

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.deterministic = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.manual_seed(args.seed)
    images, classes = data.training(args.data)
    if args.limit:
        keep = torch.randperm(len(images))[:args.limit]
        images, classes = images[keep], classes[keep]
    images, classes = images.to(device), classes.to(device)
    _, val_classes, val = data.validation(args.data, args.eval_sizes)
    config = Config(num_classes=len(data.labels(args.data)[0]))
    model = MILA(config, args.drop_path).to(device).train()
    if args.init:
        model.load_state_dict(torch.load(args.init, map_location=device)["weights"])
    if args.compile:
        torch._dynamo.config.recompile_limit = 64  # one for each kind of block, image size and mode
        for part in [model.patch_embed] + [m for stage in model.layers for m in (*stage.blocks, stage.downsample)]:
            part.compile(dynamic=False)
    trainer = Trainer(model, args)
    epoch = 0
    if os.path.exists(args.state):
        held = torch.load(args.state, map_location=device)
        epoch = held.pop("epoch")
        for k, v in held.items():
            trainer.state[k].copy_(v)
    os.makedirs(args.out, exist_ok=True)
    per_epoch = len(images) // args.batch
    total, warm_up = per_epoch * len(args.epochs), round(per_epoch * args.warm_up)
    print(f"{sum(p.numel() for p in trainer.params)} parameters, {len(images)} images, {len(val_classes)} for validation,"
          f" {len(args.epochs)} epochs of {per_epoch} steps, ready after {time.time() - start:.1f} s", flush=True)

    size = None
    until = args.until or len(args.epochs)
    while epoch < until and time.time() - start < args.seconds:
        if size != args.epochs[epoch]:
            size = args.epochs[epoch]
            trainer.capture(size, config.num_classes)
            print(f"step at {size} x {size} ready after {time.time() - start:.1f} s", flush=True)
        began = time.time()
        torch.manual_seed(args.seed * 100003 + epoch)
        trainer.loss.zero_()
        p_mix = args.mix if epoch < len(args.epochs) - args.plain else 0
        order = torch.randperm(len(images), device=device)
        for i in range(per_epoch):
            pick = order[i * args.batch:(i + 1) * args.batch]
            lr = trainer.set_step(epoch * per_epoch + i, total, warm_up)
            trainer.run(*augment.batch(images[pick], classes[pick], config.num_classes, size, args.smallest, p_mix, args.smoothing))
        epoch += 1
        line = {"epoch": epoch, "size": size, "lr": lr, "loss": trainer.loss.item() / per_epoch, "seconds": time.time() - began}
        if epoch % args.eval_every == 0 or epoch == until:
            with trainer.averaged():
                for s in args.eval_sizes:
                    line[f"top1_{s}"], line[f"top5_{s}"] = trainer.evaluate(val[s], val_classes)
                save(os.path.join(args.out, "ema.pt"), {"config": dataclasses.asdict(config), "weights": {
                    k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}})
        line = json.dumps({k: round(v, 6) for k, v in line.items()})
        print(line, flush=True)
        with open(os.path.join(args.out, "log.jsonl"), "a") as log:
            log.write(line + "\n")
        if not math.isfinite(trainer.loss.item()):
            raise SystemExit("the loss is not finite; lower --lr")
    save(args.state, {"epoch": epoch, **trainer.state})
    print(f"{epoch} of {until} epochs done after {time.time() - start:.1f} s", flush=True)


if __name__ == "__main__":
    main()
