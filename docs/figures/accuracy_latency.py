"""Draws accuracy_latency.png: published accuracy on Kinetics-400 against the time that a view takes on a CPU.

    python docs/figures/accuracy_latency.py

Times are those that `docs/measure/speed.py zoo` stored in docs/benchmarks/speed.json.
"""

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from vov3d.models._pretrained_cfg import resolve_cfg

TARGET = Path(__file__).with_suffix(".png")
STORED = Path(__file__).parents[1] / "benchmarks" / "speed.json"
FAMILIES = {"vov3d": ("VoV3D", "#d9663d", "o", (7, "left")), "x3d": ("X3D", "#3d6fd9", "s", (-7, "right"))}
"""Title, colour, marker, and on which side of it the name stands."""


def main() -> None:
    """Draws."""
    part = json.loads(STORED.read_text())["zoo"]
    figure, axes = plt.subplots(figsize=(7.2, 4.4), dpi=150, layout="constrained")
    for family, (title, colour, marker, (right, side)) in FAMILIES.items():
        names = [name for name in part["rows"] if name.startswith(f"{family}_")]
        for name in names:
            model, tag = name.split(".")
            times, top1 = part["rows"][name], resolve_cfg(model, tag, None).top1 or float("nan")
            x, low, high = (1e3 * times[key] for key in ("median", "q1", "q3"))
            axes.plot([low, high], [top1, top1], color=colour, linewidth=2, alpha=0.5)
            axes.plot(x, top1, marker, color=colour, label=title if name == names[0] else None)
            up = 4 if tag.endswith("_f16") else -9
            axes.annotate(name, (x, top1), xytext=(right, up), textcoords="offset points", fontsize=8, ha=side)
    machine = part["machine"]
    axes.set_xscale("log")
    axes.set_xlim(axes.get_xlim()[0] / 1.8, axes.get_xlim()[1] * 1.2)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(f"ms a view, optimize_for_inference ({machine['device']}, {machine['threads']} threads)")
    axes.set_ylabel("published top-1 on Kinetics-400, %")
    axes.grid(alpha=0.3, which="both")
    axes.legend(loc="lower right")
    figure.savefig(TARGET)


if __name__ == "__main__":
    main()
