"""The program of each process of a distributed test: python training_process.py DATA FOLDER [KEY=VALUE].

Writes the gradients of the first update, which clips it saw, and the logs of a whole run and of one that was stopped
and resumed.
"""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from reference import train
from reference.data import clips
from torch import nn

from helpers.tiny_training_runs import column, trainer


class Summed(torch.autograd.Function):
    """The sum over all processes, whose gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx, x):
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx, gradient):
        return Summed.forward(ctx, gradient)


class JointNorm(nn.BatchNorm3d):
    """Batch norm over the batches of all processes: the sums that SyncBatchNorm adds up, where it runs on GPUs only."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(x)
        dims = (0, 2, 3, 4)
        count = torch.full((1,), x.numel() / x.shape[1], dtype=x.dtype)
        sums = torch.cat([x.sum(dims), (x * x).sum(dims), count])
        if dist.is_initialized():
            sums = Summed.apply(sums)
        mean, square = sums[:-1].chunk(2)
        mean, square = mean / sums[-1], square / sums[-1]
        shape = (1, -1, 1, 1, 1)
        normal = (x - mean.view(shape)) / (square - mean**2 + self.eps).sqrt().view(shape)
        return normal * self.weight.view(shape) + self.bias.view(shape)


def joint(recipe, names, world, *rest):
    model = build(recipe, names, world, *rest).double()
    for module in model.modules():
        if type(module) is nn.BatchNorm3d:
            module.__class__ = JointNorm
            nn.init.ones_(module.weight)  # also of the last, so that every gradient is other than zero
    return model


build, train.build_model = train.build_model, joint
train.Trainer.finish = lambda self: self.output  # its norms are those of this file, which no folder can hold
data, folder = Path(sys.argv[1]), Path(sys.argv[2])
folder.mkdir(parents=True, exist_ok=True)
more = {key.replace(".", "_", 1): value for key, _, value in (word.partition("=") for word in sys.argv[3:])}

seen: dict[int, list[int]] = {0: [], 1: []}
fetch = clips.MemoryClips.__getitems__


def noted(self, keys):
    for epoch, index in keys:
        seen[epoch].append(index)
    return fetch(self, keys)


clips.MemoryClips.__getitems__ = noted

run = trainer(data, folder / "whole", **more)
step = run.optimizer.step


def keeping(*args):
    if run.step == 0 and run.rank == 0:
        gradients = {name: p.grad.clone() for name, p in run.network.named_parameters()}
        torch.save(gradients, folder / "gradients.pt")
    return step(*args)


run.optimizer.step = keeping
run.run()
(folder / f"seen-{run.rank}.json").write_text(json.dumps(seen))

keys = dict(train_checkpoint_every=2, **more)
run = trainer(data, folder / "run", **keys)
run.train_epoch()  # and no more
run = trainer(data, folder / "run", True, **keys)
assert run.step == 2, run.step
run.run()
if run.rank == 0:
    assert column(folder / "run", "loss") == column(folder / "whole", "loss")
