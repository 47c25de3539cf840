"""Draws `receptive_fields.png`: the frames that each feature of a T-OSA module sees, after Figure 1 of the paper.

Run `python docs/figures/receptive_fields.py` (needs the extra `docs`).
"""

from pathlib import Path

import matplotlib
from matplotlib.axes import Axes

matplotlib.use("agg")
import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle

import vov3d

GREY, GREEN, ORANGE, INK, FAINT = "#ececec", "#8fcf9f", "#fbe0c3", "#22272e", "#57606a"
FRAMES = 13
TARGET = Path(__file__).with_suffix(".png")


def draw_row(ax: Axes, y: float, name: str, seen: int) -> None:
    """One feature: the clip's frames, those that it sees in colour, and its way into the concatenation."""
    middle = FRAMES // 2
    for frame in range(FRAMES):
        color = GREEN if abs(frame - middle) <= seen // 2 else GREY
        ax.add_patch(Rectangle((frame, y), 0.86, 0.7, facecolor=color, edgecolor=INK, linewidth=0.8))
    ax.text(-0.4, y + 0.35, name, ha="right", va="center", fontsize=10, color=INK)
    ax.text(FRAMES + 0.2, y + 0.35, f"{seen} frame{'s' if seen > 1 else ''}", va="center", fontsize=10, color=FAINT)
    style = {"arrowstyle": "-|>", "color": INK, "linewidth": 1.0}
    ax.annotate("", (FRAMES + 3.2, y + 0.35), (FRAMES + 2.3, y + 0.35), arrowprops=style)


def draw(ax: Axes) -> None:
    """The module whose input is aggregated as well, as it is where nothing is strided."""
    fields = vov3d.TOSA(40, 80, 40).temporal_receptive_fields()
    names = ["input", *(f"D(2+1)D {i}" for i in range(1, len(fields)))]
    top = len(fields)
    for i, (name, seen) in enumerate(zip(names, fields, strict=True)):
        draw_row(ax, top - 1 - i, name, seen)
    ax.add_patch(Rectangle((FRAMES + 3.3, 0), 1.1, top - 0.3, facecolor=ORANGE, edgecolor=INK, linewidth=0.9))
    ax.text(FRAMES + 3.85, (top - 0.3) / 2, "concatenate, 1x1x1", rotation=90, ha="center", va="center", fontsize=10)
    ax.text(FRAMES / 2, -0.5, "time", ha="center", va="center", fontsize=10, color=FAINT)
    ax.annotate("", (FRAMES - 3, -0.5), (FRAMES / 2 + 0.8, -0.5), arrowprops={"arrowstyle": "->", "color": FAINT})
    ax.set_xlim(-3, FRAMES + 4.6)
    ax.set_ylim(-0.9, top)
    ax.set_aspect("equal")
    ax.axis("off")


def main() -> None:
    """Draws and writes."""
    figure, ax = plt.subplots(figsize=(9, 3.7))
    draw(ax)
    figure.tight_layout()
    figure.savefig(TARGET, dpi=130, facecolor="white", bbox_inches="tight")


if __name__ == "__main__":
    main()
