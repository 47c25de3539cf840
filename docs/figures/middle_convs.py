"""Draws `middle_convs.png`: the five middle convolutions of a bottleneck (Table 1 of the paper), counted from the code.

Run `python docs/figures/middle_convs.py` (needs the extra `docs`).
"""

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes

matplotlib.use("agg")
import matplotlib.pyplot as plt
import torch
from matplotlib.patches import Polygon
from torch import nn

from vov3d.layers import MIDDLE_CONVS
from vov3d.layers.conv import middle_convs
from vov3d.models.budget import Cost, network_cost

BLUE, GREEN, INK, FAINT = ("#cfe2f8", "#b3d1f2", "#9cc2ec"), ("#d3eed9", "#b5dfbf", "#9ed3ab"), "#22272e", "#57606a"
TITLES = {
    "3d": "3D",
    "r2plus1d": "(2+1)D",
    "dw3d": "depthwise 3D\n(X3D)",
    "d1plus2d": "D(1+2)D",
    "d2plus1d": "D(2+1)D\n(VoV3D)",
}
CHS, FRAMES, SIZE = 80, 16, 28  # the second stage of VoV3D-M
TARGET = Path(__file__).with_suffix(".png")


def draw_kernel(ax: Axes, x: float, y: float, kernel: tuple[int, ...], colors: tuple[str, ...]) -> float:
    """A kernel as t x h x w cubes, time to the back, with its lower left corner at (x, y); returns its width."""
    t, h, w = kernel
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
                for face, color in zip(faces, colors, strict=True):
                    ax.add_patch(Polygon(face, facecolor=color, edgecolor=INK, linewidth=0.7))
    return w + t * dx


def cost(conv: str, stride: int) -> Cost:
    """What a middle convolution costs in the second stage of VoV3D-M, counted on the meta device."""
    network = nn.Sequential(*middle_convs(conv, CHS, (3, 3), stride, device="meta").values())
    return network_cost(network, torch.empty(1, CHS, FRAMES, SIZE * stride, SIZE * stride, device="meta"))


def draw_form(ax: Axes, conv: str) -> None:
    """One form: its kernels in the order in which they run, and what they cost."""
    modules: Any = middle_convs(conv, CHS, (3, 3)).values()
    groups = next(iter(modules)).groups
    widths = [m.kernel_size[2] + m.kernel_size[0] * 0.5 for m in modules]
    x = 3.5 - (sum(widths) + 0.6 * (len(widths) - 1)) / 2
    for module in modules:
        t, k = module.kernel_size[:2]
        x += draw_kernel(ax, x, 3.1 - k / 2 - t * 0.21, module.kernel_size, GREEN if groups > 1 else BLUE) + 0.6
    plain, strided = cost(conv, 1), cost(conv, 2)
    ax.text(3.5, 6.8, TITLES[conv], ha="center", va="center", fontsize=11, fontweight="bold", color=INK)
    lines = [
        "one kernel a channel" if groups > 1 else "every channel to every",
        f"{plain.params:,} parameters",
        f"{plain.macs / 1e6:,.1f} M multiply-adds",
        f"{strided.macs / 1e6:,.1f} M with stride 2",
    ]
    for i, line in enumerate(lines):
        ax.text(3.5, -0.1 - 0.85 * i, line, ha="center", va="center", fontsize=8.5, color=INK if i else FAINT)
    ax.set_xlim(-0.7, 7.7)
    ax.set_ylim(-3.1, 7.4)
    ax.set_aspect("equal")
    ax.axis("off")


def main() -> None:
    """Draws the five side by side."""
    figure, axes = plt.subplots(1, 5, figsize=(12, 4))
    for ax, conv in zip(axes, MIDDLE_CONVS, strict=True):
        draw_form(ax, conv)
    figure.tight_layout(w_pad=0.2)
    figure.savefig(TARGET, dpi=120, facecolor="white", bbox_inches="tight")


if __name__ == "__main__":
    main()
