"""Compares three ways to put D(2+1)D into X3D: built in, factorized from trained weights, and fine-tuned after that.

    python docs/measure factorized_x3d

trains on moving shapes a nano X3D with whole 3x3x3 kernels and, on the same clips, one built with D(2+1)D. It
factorizes the first by `vov3d.factorize`, with statistics of norms estimated anew and a short fine-tune, and measures
accuracy, parameters, multiply-adds and time of a forward pass. It writes
docs/results/benchmarks/factorized_x3d.json and the table of docs/guides/blocks.md.
"""

import argparse
import copy
import json
import math
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pages import DOCS, STORED, fill
from reference.training.building import build_optimizer
from torch import nn

import vov3d
from vov3d.benchmark import machine, measure
from vov3d.models.budget import budget_of
from vov3d.synthetic.moving_shapes import CLASSES, make_set

RESULTS, PAGE = STORED / "factorized_x3d.json", DOCS / "guides" / "blocks.md"

NANO: dict[str, Any] = dict(
    stem_chs=12,
    mid_chs=(27, 54, 108),
    out_chs=(12, 24, 48),
    depths=(2, 3, 3),
    head_chs=128,
    hidden_chs=256,
    output_stride=16,
    drop_rate=0.0,
    num_classes=len(CLASSES),
)
FRAMES, SIZE, BATCH = 8, 32, 32
MUON = SimpleNamespace(
    name="muon",
    lr=1e-2,
    weight_decay=0.02,
    exempt_norms=True,
    decay_biases=False,
    layer_decay=1,
    args={"momentum": 0.95, "nesterov": True, "fallback_list": ["*.conv_s*", "*.conv_t.*", "*.conv_st*", "head.fc.*"]},
)

Clips = tuple[torch.Tensor, torch.Tensor]


def clips_of(number: int, seed: int) -> Clips:
    """Returns normalised clips `(N, 3, T, S, S)` and labels."""
    clips, labels = make_set(number, seed, FRAMES, SIZE)
    return torch.from_numpy(clips).permute(0, 4, 1, 2, 3).float().div_(255).sub_(0.45).div_(0.225), torch.from_numpy(
        labels
    )


def train(model: nn.Module, clips: Clips, passes: int, share: float = 1.0) -> None:
    """Trains by Muon with 5% of warm-up and half a cosine over `passes` clips; `share` scales the learning rate."""
    x, y = clips
    optimizer = build_optimizer(model, MUON, share)
    steps = passes // BATCH
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, 20 * (step + 1) / steps) * (1 + math.cos(math.pi * step / steps)) / 2
    )
    order = torch.from_numpy(np.random.default_rng(0).permutation(np.arange(steps * BATCH) % len(x)))
    model.train()
    for batch in order.split(BATCH):
        loss = F.cross_entropy(model(x[batch]), y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


@torch.inference_mode()
def accuracy(model: nn.Module, clips: Clips) -> float:
    """Returns top-1 in percent."""
    model.eval()
    said = torch.cat([model(x).argmax(1) for x in clips[0].split(100)])
    return round(100 * (said == clips[1]).float().mean().item(), 2)


def networks(train_set: Clips, passes: int) -> dict[str, tuple[nn.Module, int]]:
    """Returns the networks by name, with the number of clips that each was trained on."""
    torch.manual_seed(0)
    whole = vov3d.create_model("x3d_m", **NANO)
    built = vov3d.create_model("x3d_m", conv="d2plus1d", **NANO)
    for model in (whole, built):
        train(model, train_set, passes)
    found: dict[str, tuple[nn.Module, int]] = {"3x3x3, trained": (whole, passes)}
    for rank in (1, 2):
        split = copy.deepcopy(whole)
        print(vov3d.factorize(split, rank=rank))
        found[f"factorized, rank {rank}"] = (split, passes)
        split = copy.deepcopy(split)
        vov3d.recalibrate(split, train_set[0][:1600].split(BATCH))
        found[f"factorized, rank {rank}, recalibrated"] = (split, passes)
        if rank == 1:
            split, tuned = copy.deepcopy(split), passes // 8
            train(split, train_set, tuned, share=0.25)
            found["factorized, rank 1, fine-tuned"] = (split, passes + tuned)
    return found | {"built with conv='d2plus1d', trained": (built, passes)}


def report(found: dict[str, tuple[nn.Module, int]], test: Clips) -> dict[str, Any]:
    """Measures accuracy, cost and time of each network; the times are interleaved."""
    cpu, clip = torch.device("cpu"), torch.randn(8, 3, FRAMES, SIZE, SIZE)
    for model, _ in found.values():
        model.eval()
    times = measure({n: partial(torch.no_grad()(m), clip) for n, (m, _) in found.items()}, cpu, 21, warmup=3)
    rows = {}
    for name, (model, passes) in found.items():
        cost = budget_of(model, clip[:1])
        row = {"top1": accuracy(model, test), "passes": passes, "params": cost.params, "macs": cost.macs}
        rows[name] = row | {"ms": 1e3 * times[name].median}
    return {"machine": machine(cpu), "clips": len(test[1]), "rows": rows}


def table(stored: dict[str, Any]) -> str:
    """Returns a table in Markdown."""
    lines = ["| X3D, nano | top-1, % | clips trained on | parameters | multiply-adds (M) | ms for 8 clips |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for name, row in stored["rows"].items():
        figures = (
            f"{row['top1']:.1f} | {row['passes']:,} | {row['params']:,} | {row['macs'] / 1e6:.1f} | {row['ms']:.1f}"
        )
        lines.append(f"| {name} | {figures} |")
    return "\n".join(lines)


def main() -> None:
    """Trains, measures, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=8000, help="training clips (default: 8000)")
    parser.add_argument("--passes", type=int, default=24000, help="clips that each network is trained on (24000)")
    args = parser.parse_args()
    stored = report(networks(clips_of(args.clips, 0), args.passes), clips_of(2000, 1))
    RESULTS.write_text(json.dumps(stored, indent=2) + "\n")
    fill(PAGE, factorized=table(stored))
    print(table(stored))


if __name__ == "__main__":
    main()
