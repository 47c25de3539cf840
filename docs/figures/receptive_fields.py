"""Draws `receptive_fields.png`: the frames that each feature of a T-OSA module sees, after Figure 1 of the paper.

Run `python docs/figures/receptive_fields.py` (needs the extra `docs`).
"""

from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from theme import WIDTH, Theme, save_both

import vov3d

FRAMES = 13
TARGET = Path(__file__).with_suffix(".png")


def draw_row(ax: Axes, theme: Theme, y: float, name: str, seen: int) -> None:
    """Draws one feature: the clip's frames, those that it sees in colour, and its way into the concatenation."""
    middle = FRAMES // 2
    for frame in range(FRAMES):
        color = theme.green if abs(frame - middle) <= seen // 2 else theme.page
        ax.add_patch(Rectangle((frame, y), 0.86, 0.7, facecolor=color, edgecolor=theme.ink, linewidth=0.8))
    ax.text(-0.4, y + 0.35, name, ha="right", va="center", fontsize=9)
    ax.text(
        FRAMES + 0.2, y + 0.35, f"{seen} frame{'s' if seen > 1 else ''}", va="center", fontsize=9, color=theme.faint
    )
    style = {"arrowstyle": "-|>", "color": theme.ink, "linewidth": 1.0}
    ax.annotate("", (FRAMES + 3.2, y + 0.35), (FRAMES + 2.3, y + 0.35), arrowprops=style)


def draw_module(ax: Axes, theme: Theme) -> None:
    """Draws the module whose input is aggregated as well, as it is where nothing is strided."""
    fields = vov3d.TOSA(40, 80, 40).temporal_receptive_fields()
    names = ["input", *(f"D(2+1)D {i}" for i in range(1, len(fields)))]
    top = len(fields)
    for i, (name, seen) in enumerate(zip(names, fields, strict=True)):
        draw_row(ax, theme, top - 1 - i, name, seen)
    ax.add_patch(
        Rectangle((FRAMES + 3.3, 0), 1.1, top - 0.3, facecolor=theme.orange, edgecolor=theme.ink, linewidth=0.9)
    )
    ax.text(FRAMES + 3.85, (top - 0.3) / 2, "concatenate, 1x1x1", rotation=90, ha="center", va="center", fontsize=9)
    ax.text(FRAMES / 2, -0.5, "time", ha="center", va="center", fontsize=9, color=theme.faint)
    ax.annotate("", (FRAMES - 3, -0.5), (FRAMES / 2 + 0.8, -0.5), arrowprops={"arrowstyle": "->", "color": theme.faint})
    ax.set_xlim(-3, FRAMES + 4.6)
    ax.set_ylim(-0.9, top)
    ax.set_aspect("equal")
    ax.axis("off")


def draw(theme: Theme) -> Figure:
    """Draws the module."""
    figure, ax = plt.subplots(figsize=(WIDTH, 3), layout="constrained")
    draw_module(ax, theme)
    return figure


def main() -> None:
    """Draws and writes."""
    save_both(draw, TARGET)


if __name__ == "__main__":
    main()
