"""Nano networks of equal cost: widths are chosen so that parameters and multiply-adds agree to 5%."""

import functools
import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch

import vov3d
from comparison.ablations import FullWidth, LastAlone, StartedAtZero
from vov3d.models.budget import Budget, budget_of
from vov3d.synthetic.moving_shapes import CLASSES

SIZE = 32  # pixels


@dataclass(frozen=True)
class Network:
    """A network to compare.

    Attributes:
        title: Its row in a table.
        model: The variant whose sizes are overridden.
        conv: Middle convolution of its bottlenecks.
        mid_chs: Middle channels, per stage.
        out_chs: Channels of each stage.
        depths: Blocks of each stage.
        more: Other arguments of the model.
        tosa: Takes the place of T-OSA.
        training: Keys of the recipe that differ.
    """

    title: str
    model: str
    conv: str
    mid_chs: tuple[int, ...]
    out_chs: tuple[int, ...]
    depths: tuple[int, ...]
    more: Mapping[str, Any] = field(default_factory=dict)
    tosa: type[vov3d.TOSA] = vov3d.TOSA
    training: Mapping[str, str] = field(default_factory=dict)

    @property
    def args(self) -> dict[str, Any]:
        """Arguments of `vov3d.create_model`, but for classes and dropout."""
        own = dict(conv=self.conv, mid_chs=self.mid_chs, out_chs=self.out_chs, depths=self.depths)
        return own | dict(self.more) | dict(stem_chs=12, head_chs=128, hidden_chs=256, output_stride=16)

    @property
    def keys(self) -> dict[str, str]:
        """Keys of a recipe that train this network by Muon; see `fallback`."""
        texts = {key: v if isinstance(v, str) else json.dumps(v) for key, v in self.args.items()}
        args = {f"model.args.{key}": text for key, text in texts.items()}
        own = {"model.name": self.model, "optimizer.args.fallback_list": json.dumps(fallback(self.conv))}
        return args | own | dict(self.training)

    def building(self) -> AbstractContextManager[Any]:
        """Lets VoV3D be built of `tosa` within the context."""
        return patch("vov3d.models.vov3d.TOSA", self.tosa)

    @property
    def has_tosa(self) -> bool:
        """True for networks that aggregate features."""
        return self.model.startswith("vov3d")


def fallback(conv: str) -> list[str]:
    """Returns the weights that AdamW updates: depthwise kernels, the stem and the classifier are no matrices."""
    stem = ["stem.conv_s.weight", "stem.conv_t.weight", "head.fc.weight"]
    depthwise = ["*.conv_s.weight", "*.conv_t.weight", "*.conv_st.weight", "head.fc.weight"]
    return stem if conv in ("3d", "r2plus1d") else depthwise


def _tosa(title: str, conv: str, *mid_chs: int, depths: tuple[int, ...] = (1, 1, 2), **rest: Any) -> Network:
    return Network(title, "vov3d_m", conv, mid_chs, (16, 32, 64), depths, **rest)


NETWORKS: Mapping[str, Network] = {
    "baseline": Network("X3D: depthwise 3D", "x3d_m", "dw3d", (34, 68, 135), (15, 30, 60), (2, 4, 7)),
    "tosa": _tosa("T-OSA alone", "dw3d", 20, 42, 90),
    "d2plus1d": Network("D(2+1)D alone", "x3d_m", "d2plus1d", (40, 76, 142), (16, 32, 64), (2, 4, 7)),
    "both": _tosa("T-OSA and D(2+1)D: VoV3D", "d2plus1d", 24, 48, 96),  # vov3d_n
    "tosa_3d": _tosa("T-OSA with 3D", "3d", 6, 12, 22),
    "tosa_r2plus1d": _tosa("T-OSA with (2+1)D", "r2plus1d", 8, 18, 32),
    "tosa_d1plus2d": _tosa("T-OSA with D(1+2)D", "d1plus2d", 24, 48, 96),
    "last": _tosa("VoV3D without aggregation", "d2plus1d", 26, 54, 108, tosa=LastAlone),
    "full": _tosa("VoV3D, outputs of full width", "d2plus1d", 18, 32, 68, tosa=FullWidth),
    "short": _tosa("VoV3D, 10 blocks of 2", "d2plus1d", 22, 44, 90, depths=(2, 3, 5), more={"num_blocks": 2}),
    "shallow": _tosa("VoV3D, 4 blocks of 3", "d2plus1d", 34, 66, 130, more={"num_blocks": 3}),
    "inner": _tosa("VoV3D, bottlenecks started at zero", "d2plus1d", 24, 48, 96, tosa=StartedAtZero),
    "unstarted": _tosa("VoV3D, no norm started at zero", "d2plus1d", 24, 48, 96, more={"zero_init_last": False}),
    "warmed": _tosa(
        "VoV3D, no norm started at zero, warm-up of a pass",
        "d2plus1d",
        *(24, 48, 96),
        more={"zero_init_last": False},
        training={"schedule.warmup_epochs": "1"},
    ),
    "all_se": _tosa("VoV3D, SE in all bottlenecks", "d2plus1d", 24, 48, 94, more={"se_every_other": False}),
}
"""All networks by name. Depths and heads are equal within a family, but for `short` and `shallow`; widths make up for
what a kernel costs."""

TABLE3 = ("baseline", "tosa", "d2plus1d", "both")
WHY = {
    "both": "T-OSA and D(2+1)D, as it is",
    "last": "no aggregation: the last bottleneck alone is read",
    "full": "bottlenecks output all of their channels, not half",
    "short": "ten blocks of two bottlenecks, not four of five",
    "shallow": "four blocks of three bottlenecks, which are wider",
    "inner": "bottlenecks start as their shortcuts, too",
    "unstarted": "no norm starts at zero",
    "warmed": "no norm starts at zero, and a warm-up of a pass",
    "all_se": "squeeze-and-excitation in all bottlenecks",
    "d2plus1d": "D(2+1)D alone",
}
"""Choices of T-OSA that are undone, one at a time."""
TABLE4 = {
    "tosa_3d": "3D",
    "tosa_r2plus1d": "(2+1)D",
    "tosa": "depthwise 3D",
    "tosa_d1plus2d": "D(1+2)D",
    "both": "D(2+1)D",
}


@functools.cache
def cost(name: str, num_frames: int = 8, size: int = SIZE) -> Budget:
    """Returns parameters and multiply-adds of a clip, counted on the meta device."""
    network = NETWORKS[name]
    with network.building():
        model = vov3d.create_model(network.model, num_classes=len(CLASSES), device="meta", **network.args)
    return budget_of(model.eval(), torch.empty(1, 3, num_frames, size, size, device="meta"))
