"""Draws `network.png`: VoV3D-M, its T-OSA module and its D(2+1)D bottleneck, with sizes taken from the code.

Run `python docs/figures/network.py` (needs the extra `docs`).
"""

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes

matplotlib.use("agg")
import matplotlib.pyplot as plt
from matplotlib.patches import FancyBboxPatch

import vov3d

BLUE, GREEN, ORANGE, GREY = "#cfe2f8", "#d3eed9", "#fbe0c3", "#ececec"
INK = "#22272e"
TARGET = Path(__file__).with_suffix(".png")


def box(ax: Axes, x: float, y: float, text: str, width: float, height: float, color: str, size: float = 9) -> None:
    """A rounded box with its centre at (x, y)."""
    shape = FancyBboxPatch(
        (x - width / 2, y - height / 2),
        width,
        height,
        boxstyle="round,pad=0,rounding_size=0.08",
        facecolor=color,
        edgecolor=INK,
        linewidth=0.9,
    )
    ax.add_patch(shape)
    ax.text(x, y, text, ha="center", va="center", fontsize=size, color=INK)


def arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], bend: float = 0.0) -> None:
    """An arrow, bent by `bend` of its length."""
    style = {"arrowstyle": "-|>", "color": INK, "linewidth": 1.0, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", end, start, arrowprops={**style, "connectionstyle": f"arc3,rad={bend}"})


def note(ax: Axes, x: float, y: float, text: str, size: float = 8, align: Any = "center") -> None:
    """Small text."""
    ax.text(x, y, text, ha=align, va="center", fontsize=size, color="#57606a")


def panel(ax: Axes, title: str, width: float, height: float) -> None:
    """An empty panel with a title."""
    ax.set_xlim(0, width)
    ax.set_ylim(0, height)
    ax.set_aspect("equal")
    ax.axis("off")
    ax.set_title(title, loc="left", fontsize=12, fontweight="bold", color=INK)


def draw_network(ax: Axes) -> None:
    """Stem, stages and head with the shapes of their outputs."""
    panel(ax, "VoV3D-M: time keeps its length, every stage halves height and width", 16, 2.6)
    shapes = vov3d.measure_budget("vov3d_m", num_frames=16, size=224).stages
    model: Any = vov3d.VoV3D(device="meta")
    labels = ["stem\n1x3x3, 5x1x1", *(f"stage {i + 1}\n{len(s.blocks)} T-OSA" for i, s in enumerate(model.stages))]
    centres = [2.9, 5.3, 7.7, 10.1, 12.5]
    note(ax, 0.75, 1.6, "clip\n3 x 16 x 224²", 9)
    for x, label, (_, shape) in zip(centres, labels, shapes, strict=True):
        box(ax, x, 1.6, label, 1.7, 1.0, GREY if label.startswith("stem") else BLUE)
        note(ax, x, 0.65, f"{shape[0]} x {shape[1]} x {shape[2]}²", 9)
    box(ax, 14.9, 1.6, f"head\npool, {model.head_hidden_size}, logits", 1.9, 1.0, GREY)
    edges = [1.5, *(x + 0.85 for x in centres)]
    for start, end in zip(edges, [*(x - 0.85 for x in centres), 13.95], strict=True):
        arrow(ax, (start, 1.6), (end, 1.6))


def draw_tosa(ax: Axes) -> None:
    """Bottlenecks in series, all aggregated once, with their temporal receptive fields."""
    panel(ax, "T-OSA: growing temporal receptive fields, aggregated once (the input where stride is 1)", 16, 4.3)
    fields = vov3d.TOSA(40, 80, 40).temporal_receptive_fields()
    xs = [0.8, 3.0, 5.2, 7.4, 9.6, 11.8]
    box(ax, xs[0], 1.4, "input", 1.1, 0.8, GREY)
    for i, x in enumerate(xs[1:]):
        box(ax, x, 1.4, "D(2+1)D" + (" + SE" if i % 2 == 0 else ""), 1.65, 0.8, GREEN, 8.5)
        arrow(ax, (xs[i] + (0.55 if i == 0 else 0.825), 1.4), (x - 0.825, 1.4))
    for x, frames in zip(xs, fields, strict=True):
        note(ax, x, 0.65, f"sees {frames} frame{'s' if frames > 1 else ''}")
        arrow(ax, (x, 1.8), (x, 2.6))
    box(ax, 6.3, 2.95, "concatenate", 12.2, 0.7, ORANGE)
    box(ax, 13.8, 2.95, "1x1x1, BN", 1.5, 0.7, GREY)
    box(ax, 15.4, 2.95, "+", 0.6, 0.6, GREY, 12)
    arrow(ax, (12.4, 2.95), (13.05, 2.95))
    arrow(ax, (14.55, 2.95), (15.1, 2.95))
    ax.plot([0.12, 0.12, 15.4], [1.4, 3.85, 3.85], color=INK, linewidth=1)
    ax.plot([0.12, 0.25], [1.4, 1.4], color=INK, linewidth=1)
    arrow(ax, (15.4, 3.85), (15.4, 3.25))
    note(ax, 7.6, 4.08, "shortcut")
    arrow(ax, (15.4, 2.65), (15.4, 2.2))
    note(ax, 15.4, 2.0, "ReLU", 9)


def draw_bottleneck(ax: Axes) -> None:
    """The pair of depthwise convolutions between two 1x1x1 convolutions."""
    panel(ax, "D(2+1)D: a depthwise 3D convolution as space, then time", 16, 2.7)
    parts = [
        (1.9, "1x1x1\nBN, ReLU", GREY),
        (4.6, "1x3x3 depthwise\n(stride here)", GREEN),
        (7.3, "3x1x1 depthwise\nBN", GREEN),
        (10.0, "SE\nSiLU", ORANGE),
        (12.7, "1x1x1\nBN", GREY),
    ]
    note(ax, 0.3, 1.0, "x", 11)
    edges = [0.5, *(x + 1.05 for x, _, _ in parts)]
    for (x, text, color), start in zip(parts, edges, strict=False):
        box(ax, x, 1.0, text, 2.1, 1.0, color)
        arrow(ax, (start, 1.0), (x - 1.05, 1.0))
    box(ax, 14.6, 1.0, "+", 0.6, 0.6, GREY, 12)
    arrow(ax, (13.75, 1.0), (14.3, 1.0))
    arrow(ax, (14.9, 1.0), (15.35, 1.0))
    note(ax, 15.7, 1.0, "ReLU", 9)
    ax.plot([0.3, 0.3, 14.6], [1.25, 2.1, 2.1], color=INK, linewidth=1)
    arrow(ax, (14.6, 2.1), (14.6, 1.3))
    note(ax, 7.4, 2.35, "shortcut where shapes match")


def main() -> None:
    """Draws the three panels one above the other."""
    figure, axes = plt.subplots(3, 1, figsize=(11, 7.2), height_ratios=[2.6, 4.3, 2.7])
    for ax, draw in zip(axes, (draw_network, draw_tosa, draw_bottleneck), strict=True):
        draw(ax)
    figure.tight_layout(h_pad=1.2)
    figure.savefig(TARGET, dpi=130, facecolor="white")


if __name__ == "__main__":
    main()
