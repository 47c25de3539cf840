"""Pictures of docs/results/evidence.md: the colour shows T-OSA or X3D, a dashed line unfactorized kernels."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from comparison.networks import NETWORKS
from comparison.plans import spread, tempo_top1
from comparison.runs import STRIDES, TRAIN_STRIDE

Rows = Mapping[str, Sequence[Mapping[str, Any]]]
"""Runs of each network, one a seed."""

TOSA, X3D = "#d9663d", "#3d6fd9"


def _style(name: str) -> dict[str, Any]:
    network = NETWORKS[name]
    return dict(
        color=TOSA if network.has_tosa else X3D,
        linestyle="-" if network.conv == "d2plus1d" else "--",
        marker="o" if network.has_tosa else "s",
        markersize=5,
        label=network.title,
    )


def _draw(ax: Axes, name: str, x: Sequence[float], values: Sequence[Sequence[float]]) -> None:
    """Draws means over seeds with their spread, moved sideways by network; `values` are by seed."""
    columns = list(zip(*values, strict=True))
    mean, deviation = zip(*map(spread, columns), strict=True)
    aside = (list(NETWORKS).index(name) - 1.5) * 0.015 * (max(x) - min(x))
    x = [value + aside for value in x]
    ax.errorbar(x, mean, yerr=None if len(values) < 2 else deviation, capsize=2, linewidth=1.6, **_style(name))


def draw_errors(rows: Rows, target: Path) -> None:
    """Draws Figure 4: error on clips of the training set and on others during training."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), dpi=130, sharey=True, layout="constrained")
    for ax, key, title in zip(axes, ("train_top1", "val_top1"), ("training clips", "validation clips"), strict=True):
        for name, runs in rows.items():
            passes = [point["passes"] / 1000 for point in runs[0]["curve"]]
            _draw(ax, name, passes, [[100 - point[key] for point in run["curve"]] for run in runs])
        ax.set_title(title, fontsize=11)
        ax.set_xlabel("clips trained on, thousands")
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("top-1 error, %")
    axes[0].legend(fontsize=9, handlelength=3)
    _save(figure, target)


def draw_tempo(rows: Rows, target: Path) -> None:
    """Draws Figure 5: accuracy against the temporal stride at test."""
    figure, ax = plt.subplots(figsize=(6.4, 4), dpi=130, layout="constrained")
    for name, runs in rows.items():
        _draw(ax, name, STRIDES, [[tempo_top1(run, stride) for stride in STRIDES] for run in runs])
    ax.axvline(TRAIN_STRIDE, color="0.6", linewidth=1, zorder=0)
    ax.annotate("trained at", (TRAIN_STRIDE, 0.95), (4, 0), ("data", "axes fraction"), "offset points", fontsize=9)
    ax.set_xlabel("temporal stride at test, frames")
    ax.set_ylabel("top-1 of 18 classes, %")
    ax.set_xticks(STRIDES)
    ax.grid(alpha=0.3)
    ax.legend(fontsize=9, handlelength=3)
    _save(figure, target)


def _save(figure: Any, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, facecolor="white")
    plt.close(figure)
