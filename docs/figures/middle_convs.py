"""Draws `middle_convs.png`: the five middle convolutions of a bottleneck (Table 1 of the paper), counted from the code.

Run `python docs/figures/middle_convs.py` (needs the extra `docs`).
"""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon
from theme import WIDTH, Theme, save_both, shaded
from torch import nn

from vov3d.layers import MIDDLE_CONVS
from vov3d.layers.conv import middle_convs
from vov3d.models.budget import Budget, budget_of

TITLES = {
    "3d": "3D",
    "r2plus1d": "(2+1)D",
    "dw3d": "depthwise 3D\n(X3D)",
    "d1plus2d": "D(1+2)D",
    "d2plus1d": "D(2+1)D\n(VoV3D)",
}
CHS, FRAMES, SIZE = 80, 16, 28  # the second stage of VoV3D-M
TARGET = Path(__file__).with_suffix(".png")


def draw_kernel(ax: Axes, x: float, y: float, kernel: tuple[int, ...], color: str, ink: str) -> float:
    """Draws a kernel as t x h x w cubes, time to the back, with its lower left corner at (x, y); returns its width."""
    t, h, w = kernel
    colors = [shaded(color, share) for share in (1, 0.88, 0.78)]
    dx, dy = 0.5, 0.42  # how far a step in time goes in the picture
    for back in reversed(range(t)):
        for row in range(h):
            for column in range(w):
                left, low = x + column + back * dx, y + row + back * dy
                faces = [
                    [(left, low), (left + 1, low), (left + 1, low + 1), (left, low + 1)],
                    [(left, low + 1), (left + 1, low + 1), (left + 1 + dx, low + 1 + dy), (left + dx, low + 1 + dy)],
                    [(left + 1, low), (left + 1 + dx, low + dy), (left + 1 + dx, low + 1 + dy), (left + 1, low + 1)],
                ]
                for face, shade in zip(faces, colors, strict=True):
                    ax.add_patch(Polygon(face, facecolor=shade, edgecolor=ink, linewidth=0.7))
    return w + t * dx


def cost(conv: str, stride: int) -> Budget:
    """Returns the cost of a middle convolution in the second stage of VoV3D-M, counted on the meta device."""
    network = nn.Sequential(*middle_convs(conv, CHS, (3, 3), stride, device="meta").values())
    return budget_of(network, torch.empty(1, CHS, FRAMES, SIZE * stride, SIZE * stride, device="meta"))


def draw_form(ax: Axes, theme: Theme, conv: str) -> None:
    """Draws one form: its kernels in the order in which they run, and what they cost."""
    modules: Any = middle_convs(conv, CHS, (3, 3)).values()
    groups = next(iter(modules)).groups
    widths = [m.kernel_size[2] + m.kernel_size[0] * 0.5 for m in modules]
    x = 3.5 - (sum(widths) + 0.6 * (len(widths) - 1)) / 2
    color = theme.green if groups > 1 else theme.blue
    for module in modules:
        t, k = module.kernel_size[:2]
        x += draw_kernel(ax, x, 3.1 - k / 2 - t * 0.21, module.kernel_size, color, theme.ink) + 0.6
    plain, strided = cost(conv, 1), cost(conv, 2)
    ax.text(3.5, 6.8, TITLES[conv], ha="center", va="center", fontsize=11, fontweight="bold")
    lines = [
        "one kernel per channel" if groups > 1 else "mixes the channels",
        f"{plain.params:,} parameters",
        f"{plain.macs / 1e6:,.1f} M multiply-adds",
        f"{strided.macs / 1e6:,.1f} M with stride 2",
    ]
    for i, line in enumerate(lines):
        ax.text(
            3.5, -0.1 - 0.85 * i, line, ha="center", va="center", fontsize=8.5, color=theme.ink if i else theme.faint
        )
    ax.set_xlim(-0.7, 7.7)
    ax.set_ylim(-3.1, 7.4)
    ax.set_aspect("equal")
    ax.axis("off")


def draw(theme: Theme) -> Figure:
    """Draws the five, three of them above two."""
    figure, axes = plt.subplots(2, 3, figsize=(WIDTH, 6.4), layout="constrained")
    for ax, conv in zip(axes.flat, MIDDLE_CONVS, strict=False):
        draw_form(ax, theme, conv)
    axes.flat[-1].axis("off")
    return figure


def main() -> None:
    """Draws and writes."""
    save_both(draw, TARGET)


if __name__ == "__main__":
    main()
