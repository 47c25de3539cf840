"""The measured parts of docs/results/evidence.md, from the runs that are there."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pages

from comparison.networks import NETWORKS, TABLE3, TABLE4, WHY, cost
from comparison.pictures import draw_errors, draw_tempo
from comparison.plans import PLANS, Found, planned, runs_of, spread, tempo_top1, top1
from comparison.runs import HIGHER_RATES, RATES, SEEDS, STRIDES, Run
from vov3d.synthetic.moving_shapes import CLASSES

Rows = dict[str, list[dict[str, Any]]]
NOTHING = "*No run is done.*"


def done(plan: str, found: Found) -> Rows:
    """Returns the finished runs of each row that has one."""
    rows = {}
    for network in PLANS[plan][0]:
        runs = [found[run.name] for run in runs_of(plan, network, found) if run.name in found]
        if runs:
            rows[network] = runs
    return rows


def parts(found: Found, pictures: Path) -> dict[str, str]:
    """Returns Markdown by the name of its place in the page; draws the pictures into a folder."""
    table3, longer, longest = done("table3", found), done("longer", found), done("longest", found)
    if table3:
        draw_errors(table3, pictures / "errors.png")
        draw_tempo(table3, pictures / "tempo.png")
    if longer:
        draw_tempo(longer, pictures / "tempo_longer.png")
    return {
        "networks": networks(),
        "table3": accuracies(table3, "network", {name: NETWORKS[name].title for name in TABLE3}, "baseline"),
        "rates": rates(found),
        **{part.__name__: part(table3) if table3 else NOTHING for part in (errors, tempo, pairs, classes, kernels)},
        "table4": accuracies(done("table4", found), "bottleneck within T-OSA", TABLE4, "tosa"),
        "why": accuracies(done("why", found), "what differs", WHY, "both"),
        "table5": more(done("table5", found), table3, "16 frames", "8 frames"),
        "longer": more_clips(longer, table3, "48,000 clips", "16,000 clips"),
        "tempo_longer": tempo(longer, "tempo_longer.png") if longer else NOTHING,
        "longest": more_clips(longest, longer, "96,000 clips", "48,000 clips"),
        "missing": missing(found),
        "runs": every(found),
    }


def table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table in Markdown."""
    lines = [" | ".join(row) for row in (heading, ["---"] * len(heading), *rows)]
    return "\n".join(f"| {line} |" for line in lines)


def pm(values: Sequence[float], digits: int = 1) -> str:
    """Returns mean and spread as text, with the number of seeds where some are missing."""
    mean, deviation = spread(values)
    text = f"{mean:.{digits}f}" + ("" if math.isnan(deviation) else f" ± {deviation:.{digits}f}")
    return text + ("" if len(values) == len(SEEDS) else f" ({len(values)} of {len(SEEDS)} seeds)")


def difference(values: Sequence[float], others: Sequence[float]) -> str:
    """Returns the difference of two means with its standard error."""
    (mean, deviation), (other, other_deviation) = spread(values), spread(others)
    error = math.hypot(deviation / math.sqrt(len(values)), other_deviation / math.sqrt(len(others)))
    return f"{mean - other:+.1f}" + ("" if math.isnan(error) else f" ± {error:.1f}")


def networks() -> str:
    """Returns the table of widths and costs."""
    rows = []
    for name, network in NETWORKS.items():
        found = cost(name)
        shape = ["/".join(map(str, sizes)) for sizes in (network.depths, network.mid_chs, network.out_chs)]
        rows.append([network.title, *shape, f"{found.params:,}", f"{found.macs / 1e6:.2f}"])
    heading = ["network", "blocks", "middle channels", "channels", "parameters", "multiply-adds (M)"]
    return table(heading, rows)


def accuracies(rows: Rows, heading: str, titles: Mapping[str, str], reference: str) -> str:
    """Returns the table of accuracies, their differences to a reference, and learning rates."""
    if not rows:
        return NOTHING
    lines = []
    for name, runs in rows.items():
        values = [top1(run) for run in runs]
        other = [top1(run) for run in rows.get(reference, [])]
        against = "" if name == reference or not other else difference(values, other)
        lines.append([titles[name], pm(values), against, f"{runs[0]['rate']:g}"])
    against = f"against {titles[reference]} (± standard error)"
    return table([heading, "top-1, % (mean ± spread)", against, "learning rate"], lines)


def rates(found: Found) -> str:
    """Returns the table of accuracies of seed 0 at each learning rate."""
    tried = sorted(RATES + HIGHER_RATES)
    lines = []
    for name in NETWORKS:
        runs = [found.get(Run(name, rate, SEEDS[0]).name) for rate in tried]
        if any(runs):
            lines.append([NETWORKS[name].title, *(f"{top1(run):.1f}" if run else "" for run in runs)])
    return table(["top-1 of seed 0, %", *(f"{rate:g}" for rate in tried)], lines) if lines else NOTHING


def errors(rows: Rows) -> str:
    """Returns the table of errors at the end of training, below its picture."""
    lines = []
    for runs in rows.values():
        last = [run["curve"][-1] for run in runs]
        train, val = ([100 - point[key] for point in last] for key in ("train_top1", "val_top1"))
        gap = [b - a for a, b in zip(train, val, strict=True)]
        lines.append([runs[0]["title"], pm(train), pm(val), pm(gap)])
    text = table(["at the end", "error on training clips, %", "on validation clips, %", "gap"], lines)
    return f"![Errors on training and validation clips](evidence/errors.png)\n\n{text}"


def tempo(rows: Rows, picture: str = "tempo.png") -> str:
    """Returns the table of accuracies at each stride, below its picture."""
    lines = [
        [runs[0]["title"], *(pm([tempo_top1(run, stride) for run in runs]) for stride in STRIDES)]
        for runs in rows.values()
    ]
    text = table(["top-1 of 18 classes, %, at stride", *map(str, STRIDES)], lines)
    return f"![Accuracy against the temporal stride at test](evidence/{picture})\n\n{text}"


def classes(rows: Rows) -> str:
    """Returns the table of accuracies by class."""
    lines = []
    for i, name in enumerate(CLASSES):
        cells = []
        for runs in rows.values():
            number = np.bincount(np.arange(runs[0]["sizes"]["test"]) % len(CLASSES))[i]
            cells.append(f"{np.mean([100 * run['test_right'][i] / number for run in runs]):.0f}")
        lines.append([name, *cells])
    return table(["right, %", *(runs[0]["title"] for runs in rows.values())], lines)


def pairs(rows: Rows) -> str:
    """Returns the table of accuracies on pairs of classes, and within a pair on the direction of time."""
    lines = []
    for runs in rows.values():
        pair = [100 * sum(run["test_pair_right"]) / run["sizes"]["test"] for run in runs]
        way = [100 * sum(run["test_right"]) / sum(run["test_pair_right"]) for run in runs]
        lines.append([runs[0]["title"], pm([top1(run) for run in runs]), pm(pair), pm(way)])
    return table(["network", "class right, %", "pair of classes right, %", "and if so, which of the two, %"], lines)


def kernels(rows: Rows) -> str:
    """Returns the table of measures of trained kernels and aggregations."""
    lines = []
    for runs in rows.values():
        odd = [pm([100 * run["odd_in_time"][i] for run in runs], 0) for i in range(len(runs[0]["odd_in_time"]))]
        shares = [run["aggregated_shares"] for run in runs]
        read = ", ".join(f"{k}: {100 * np.mean([s[k] for s in shares]):.0f}" for k in shares[0])
        lines.append([runs[0]["title"], *odd, read])
    stages = [f"odd in time, stage {i + 1}, %" for i in range(len(lines[0]) - 2)]
    return table(["network", *stages, "read from features that see so many frames, %"], lines)


def more(rows: Rows, plain: Rows, title: str, plain_title: str) -> str:
    """Returns the table of accuracies with more frames or clips, beside those with fewer."""
    if not rows:
        return NOTHING
    lines = []
    for name, runs in rows.items():
        values, others = [top1(run) for run in runs], [top1(run) for run in plain[name]]
        lines.append([runs[0]["title"], pm(others), pm(values), difference(values, others)])
    return table(["top-1, %", plain_title, title, "difference (± standard error)"], lines)


def more_clips(rows: Rows, plain: Rows, title: str, plain_title: str) -> str:
    """Returns the tables of accuracies after more clips: beside those after fewer, and of pairs of classes."""
    return more(rows, plain, title, plain_title) + ("\n\n" + pairs(rows) if rows else "")


def missing(found: Found) -> str:
    """Returns a list of the planned runs that are not done."""
    lines = []
    for plan, (names, _, _) in PLANS.items():
        for name in names:
            runs = runs_of(plan, name, found)
            total = len(runs) or len(SEEDS)  # none are known before the learning rate is
            lacking = sum(run.name not in found for run in runs) if runs else total
            if lacking:
                lines.append(f"- `{plan}`, {NETWORKS[name].title}: {lacking} of {total} runs")
    return "Not run yet:\n\n" + "\n".join(lines) if lines else "All that was planned was run."


def every(found: Found) -> str:
    """Returns the table of all runs."""
    named: Mapping[str, Any] = {run.name: run for plan in PLANS for run in planned(plan, found)}
    lines = []
    for name, run in found.items():
        if name in named:
            last = run["curve"][-1]
            figures = [f"{v:.1f}" for v in (100 - last["train_top1"], 100 - last["val_top1"], top1(run))]
            lines.append([f"`{name}`", f"{run['passes']:,}", *figures])
    heading = ["run", "clips trained on", "training error, %", "validation error, %", "test top-1, %"]
    return table(heading, lines)


def filled(text: str, found: Found, pictures: Path) -> str:
    """Returns the page with its measured parts replaced.

    Raises:
        ValueError: If the page lacks a place for one of them.
    """
    return pages.filled(text, **parts(found, pictures))
