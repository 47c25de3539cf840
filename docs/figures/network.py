"""Draws `network.png`: VoV3D-M, its T-OSA module and its D(2+1)D bottleneck, with sizes taken from the code.

Run `python docs/figures/network.py` (needs the extra `docs`).
"""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from theme import WIDTH, Theme, save_both

import vov3d

TARGET = Path(__file__).with_suffix(".png")


class Panel:
    """One of the three drawings, in units of a half inch.

    Args:
        ax: Where it is drawn.
        theme: Its colours.
        title: Its title.
        height: Its height; it is 16 units wide.
    """

    def __init__(self, ax: Axes, theme: Theme, title: str, height: float) -> None:
        self.ax, self.theme = ax, theme
        ax.set_xlim(0, 16)
        ax.set_ylim(0, height)
        ax.set_aspect("equal")
        ax.axis("off")
        ax.set_title(title, loc="left", fontsize=10.5, fontweight="bold")

    def box(self, x: float, y: float, text: str, width: float, height: float, color: str, size: float = 8.5) -> None:
        """Draws a rounded box with its centre at (x, y)."""
        corner, shape = (x - width / 2, y - height / 2), "round,pad=0,rounding_size=0.08"
        style: Any = {"facecolor": color, "edgecolor": self.theme.ink, "linewidth": 0.9}
        self.ax.add_patch(FancyBboxPatch(corner, width, height, boxstyle=shape, **style))
        self.ax.text(x, y, text, ha="center", va="center", fontsize=size)

    def arrow(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Draws an arrow."""
        style = {"arrowstyle": "-|>", "color": self.theme.ink, "linewidth": 1.0, "shrinkA": 0, "shrinkB": 0}
        self.ax.annotate("", end, start, arrowprops=style)

    def line(self, *points: tuple[float, float]) -> None:
        """Draws a line through points."""
        self.ax.plot(*zip(*points, strict=True), color=self.theme.ink, linewidth=1)

    def note(self, x: float, y: float, text: str) -> None:
        """Writes small text."""
        self.ax.text(x, y, text, ha="center", va="center", fontsize=8.3, color=self.theme.faint)


def draw_network(ax: Axes, theme: Theme) -> None:
    """Draws stem, stages and head with the shapes of their outputs."""
    panel = Panel(ax, theme, "VoV3D-M: every stage halves height and width; the number of frames stays", 2.9)
    shapes = vov3d.measure_budget("vov3d_m", num_frames=16, size=224).stages
    model: Any = vov3d.VoV3D(device="meta")
    labels = ["stem\n1x3x3,\n5x1x1", *(f"stage {i + 1}\n{len(s.blocks)} T-OSA" for i, s in enumerate(model.stages))]
    centres = [2.9, 5.3, 7.7, 10.1, 12.5]
    panel.note(0.75, 1.7, "clip\n3 x 16\nx 224²")
    for x, label, (_, shape) in zip(centres, labels, shapes, strict=True):
        panel.box(x, 1.7, label, 1.7, 1.3, theme.grey if label.startswith("stem") else theme.blue)
        panel.note(x, 0.55, f"{shape[0]} x {shape[1]} x {shape[2]}²")
    panel.box(14.9, 1.7, f"head\npool, {model.head_hidden_size},\nlogits", 1.9, 1.3, theme.grey)
    edges = [1.5, *(x + 0.85 for x in centres)]
    for start, end in zip(edges, [*(x - 0.85 for x in centres), 13.95], strict=True):
        panel.arrow((start, 1.7), (end, 1.7))


def draw_tosa(ax: Axes, theme: Theme) -> None:
    """Draws bottlenecks in series, all aggregated once, with their temporal receptive fields."""
    panel = Panel(ax, theme, "T-OSA: features of growing extent in time, aggregated once", 4.5)
    fields = vov3d.TOSA(40, 80, 40).temporal_receptive_fields()
    xs = [0.8, 3.0, 5.2, 7.4, 9.6, 11.8]
    panel.box(xs[0], 1.5, "input", 1.1, 0.9, theme.grey)
    for i, x in enumerate(xs[1:]):
        panel.box(x, 1.5, "D(2+1)D" + ("\n+ SE" if i % 2 == 0 else ""), 1.65, 0.9, theme.green)
        panel.arrow((xs[i] + (0.55 if i == 0 else 0.825), 1.5), (x - 0.825, 1.5))
    for x, frames in zip(xs, fields, strict=True):
        panel.note(x, 0.5, f"spans\n{frames} frame{'s' if frames > 1 else ''}")
        panel.arrow((x, 1.95), (x, 2.7))
    panel.box(6.3, 3.05, "concatenate (the input where the stride is 1)", 12.2, 0.7, theme.orange)
    panel.box(13.8, 3.05, "1x1x1\nBN", 1.3, 0.9, theme.grey)
    panel.box(15.4, 3.05, "+", 0.6, 0.6, theme.grey, 11)
    panel.arrow((12.4, 3.05), (13.15, 3.05))
    panel.arrow((14.45, 3.05), (15.1, 3.05))
    panel.line((0.25, 1.5), (0.12, 1.5), (0.12, 3.95), (15.4, 3.95))
    panel.arrow((15.4, 3.95), (15.4, 3.35))
    panel.note(7.6, 4.22, "shortcut")
    panel.arrow((15.4, 2.75), (15.4, 2.25))
    panel.note(15.35, 2.0, "ReLU")


def draw_bottleneck(ax: Axes, theme: Theme) -> None:
    """Draws the pair of depthwise convolutions between two 1x1x1 convolutions."""
    panel = Panel(ax, theme, "D(2+1)D: a depthwise 3D convolution as space, then time", 2.9)
    parts = [
        (1.9, "1x1x1\nBN, ReLU", theme.grey),
        (4.6, "depthwise\n1x3x3\n(stride)", theme.green),
        (7.3, "depthwise\n3x1x1\nBN", theme.green),
        (10.0, "SE\nSiLU", theme.orange),
        (12.7, "1x1x1\nBN", theme.grey),
    ]
    panel.note(0.3, 1.0, "x")
    edges = [0.5, *(x + 1.05 for x, _, _ in parts)]
    for (x, text, color), start in zip(parts, edges, strict=False):
        panel.box(x, 1.0, text, 2.1, 1.3, color)
        panel.arrow((start, 1.0), (x - 1.05, 1.0))
    panel.box(14.6, 1.0, "+", 0.6, 0.6, theme.grey, 11)
    panel.arrow((13.75, 1.0), (14.3, 1.0))
    panel.line((0.3, 1.25), (0.3, 2.2), (14.6, 2.2))
    panel.arrow((14.6, 2.2), (14.6, 1.3))
    panel.note(7.4, 2.48, "shortcut where shapes match")
    panel.arrow((14.6, 0.7), (14.6, 0.35))
    panel.note(14.6, 0.12, "ReLU")


def draw(theme: Theme) -> Figure:
    """Draws the three panels one above the other."""
    figure, axes = plt.subplots(3, 1, figsize=(WIDTH, 6.1), height_ratios=[2.9, 4.5, 2.9], layout="constrained")
    for ax, panel in zip(axes, (draw_network, draw_tosa, draw_bottleneck), strict=True):
        panel(ax, theme)
    return figure


def main() -> None:
    """Draws and writes."""
    save_both(draw, TARGET)


if __name__ == "__main__":
    main()
