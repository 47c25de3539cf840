"""Draws `accuracy_latency.png`: published accuracy against the measured time of one view on a CPU.

    python docs/figures/accuracy_latency.py

Times are those that `python docs/measure speed zoo` stored in docs/results/benchmarks/speed.json. Needs the extra
`docs`.
"""

import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter
from theme import WIDTH, Theme, save_both

from vov3d.weights.config import resolve_cfg

TARGET = Path(__file__).with_suffix(".png")
STORED = Path(__file__).parents[1] / "results" / "benchmarks" / "speed.json"
PANELS = {"k400": "Kinetics-400", "ssv2": "Something-Something V2"}
LIFTED = {"x3d_l.k400_f16": 5, "x3d_m.k400_f16": -9}
"""Names that would lie on others, by points up."""
FAMILIES = {"vov3d": ("VoV3D", "o"), "x3d": ("X3D", "s")}


def draw_panel(ax: Axes, theme: Theme, rows: dict[str, Any]) -> None:
    """Draws the models of one data set, with their quartiles."""
    for (family, (title, marker)), colour in zip(FAMILIES.items(), theme.strong, strict=True):
        names = [name for name in rows if name.startswith(f"{family}_")]
        for name in names:
            model, tag = name.split(".")
            top1 = resolve_cfg(model, tag, None).top1 or float("nan")
            x, low, high = (1e3 * rows[name][key] for key in ("median", "q1", "q3"))
            ax.plot([low, high], [top1, top1], color=colour, linewidth=2, alpha=0.5)
            ax.plot(x, top1, marker, color=colour, label=title if name == names[0] else None)
            text = model + (" (PyTorchVideo)" if tag.endswith("_ptv") else "")
            side, right = ("left", 6) if family == "vov3d" else ("right", -6)
            up = LIFTED.get(name, -3)
            ax.annotate(text, (x, top1), xytext=(right, up), textcoords="offset points", fontsize=8, ha=side)
    ax.set_xscale("log")
    low, high = ax.get_xlim()
    ax.set_xlim(low / 2.6, high * 2)
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(ScalarFormatter())
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.tick_params(labelsize=8)
    ax.grid(alpha=0.3)


def draw(theme: Theme) -> Figure:
    """Draws a panel for each data set, one above the other."""
    part = json.loads(STORED.read_text())["zoo"]
    panels = {key: {name: row for name, row in part["rows"].items() if f".{key}_" in name} for key in PANELS}
    panels = {key: rows for key, rows in panels.items() if rows}
    height = 3.3 * len(panels)
    figure, axes = plt.subplots(len(panels), 1, figsize=(WIDTH, height), layout="constrained", squeeze=False)
    for ax, (key, rows) in zip(axes.flat, panels.items(), strict=True):
        draw_panel(ax, theme, rows)
        ax.set_ylabel(f"top-1, %, on\n{PANELS[key]}", fontsize=9)
    axes.flat[0].legend(loc="lower right", fontsize=9)
    machine = part["machine"]
    where = f"{machine['device']}, {machine['threads']} threads"
    axes.flat[-1].set_xlabel(f"ms per view, optimize_for_inference ({where})", fontsize=9)
    return figure


def main() -> None:
    """Draws and writes."""
    save_both(draw, TARGET)


if __name__ == "__main__":
    main()
