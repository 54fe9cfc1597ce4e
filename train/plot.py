"""Draws the logs of train.py, one after another, as curves.svg: accuracy of the moving average and training loss."""
import argparse
import json
import os

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "mila"
import matplotlib.pyplot as plt


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("logs", nargs="*", default=["logs/nano-64.jsonl", "logs/nano-96.jsonl"])
    p.add_argument("--mark", type=int, default=240, help="the epoch whose weights are shipped")
    p.add_argument("--output", default="curves.svg")
    args = p.parse_args()
    fig, (top, bottom) = plt.subplots(2, 1, figsize=(8, 6), sharex=True)
    colours = {64: "tab:blue", 96: "tab:red"}
    start = 0
    for path in args.logs:
        with open(path) as f:
            log = [json.loads(line) for line in f]
        x = [start + line["epoch"] for line in log]
        bottom.plot(x, [line["loss"] for line in log], color=colours[log[-1]["size"]], label=f"trained at {log[-1]['size']} x {log[-1]['size']}")
        for size, colour in colours.items():
            points = [(start + line["epoch"], 100 * line[f"top1_{size}"]) for line in log if f"top1_{size}" in line]
            top.plot(*zip(*points), "o-", color=colour, markersize=3, label=None if start else f"evaluated at {size} x {size}")
        start = x[-1]
    top.axvline(args.mark, color="grey", linestyle=":", label="shipped")
    top.set_ylabel("top-1 on val.zip, %")
    top.set_ylim(45, 70)
    bottom.set_ylabel("training loss")
    bottom.set_xlabel("epoch")
    for axes in top, bottom:
        axes.grid(alpha=0.3)
        axes.legend(loc="lower center" if axes is top else "upper right")
    fig.tight_layout()
    fig.savefig(args.output, metadata={"Date": None})


if __name__ == "__main__":
    os.chdir(os.path.dirname(os.path.abspath(__file__)))
    main()
