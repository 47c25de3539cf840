"""Runs that a table needs: three learning rates with one seed, then two more seeds with the best rate."""

import json
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from comparison.networks import TABLE3, TABLE4, WHY
from comparison.runs import CHECKS, HIGHER_RATES, RATES, SEEDS, Run
from vov3d.synthetic.moving_shapes import CLASSES

Found = Mapping[str, dict[str, Any]]
"""Results of runs, by their names."""

PLANS: Mapping[str, tuple[Sequence[str], int, int]] = {
    "table3": (TABLE3, 8, 4),
    "table4": (tuple(TABLE4), 8, 4),
    "table5": (("baseline", "both"), 16, 4),
    "longer": (("baseline", "both", "d2plus1d", "tosa"), 8, 12),
    "longest": (("baseline", "both", "d2plus1d", "tosa"), 8, 24),
    "rates": (TABLE3, 8, 4),
    "why": (tuple(WHY), 8, 4),
}
"""Networks, frames and epochs of each table; those of 16 frames and longer training keep the rate of Table 3.
`rates` tries higher ones; `why` undoes choices of VoV3D at its rate."""


def read(results: Path) -> dict[str, dict[str, Any]]:
    """Reads the results of all finished runs.

    Raises:
        ValueError: If a file was not written by a run.
    """
    found = {}
    for path in sorted(results.glob("*.json")):
        try:
            found[path.stem] = json.loads(path.read_text(encoding="utf-8"))
            top1(found[path.stem])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: is not what a run of evidence.py wrote; delete it to run it again") from error
    return found


def top1(run: Mapping[str, Any]) -> float:
    """Returns the accuracy on the test set in percent."""
    return 100 * sum(run["test_right"]) / run["sizes"]["test"]


def tempo_top1(run: Mapping[str, Any], stride: int) -> float:
    """Returns the accuracy in percent at another stride, on the classes that do not depend on tempo."""
    number = np.bincount(np.arange(run["sizes"]["tempo"]) % len(CLASSES), minlength=len(CLASSES))
    right = np.array(run["tempo_right"][str(stride)])
    kept = ["bouncing" not in name for name in CLASSES]
    return 100 * float(right[kept].sum() / number[kept].sum())


def best_rate(network: str, found: Found) -> float | None:
    """Returns the learning rate of `RATES` with the best final validation accuracy, None until all have been tried."""
    tried = [(found.get(Run(network, rate, SEEDS[0]).name), rate) for rate in RATES]
    if any(run is None for run, _ in tried):
        return None
    return max((run["curve"][-1]["val_top1"], rate) for run, rate in tried if run)[1]


def runs_of(plan: str, network: str, found: Found) -> list[Run]:
    """Returns the runs of a row, of which those of `rates` stand alone; none until the learning rate is known."""
    if plan == "rates":
        checks = [run for run in CHECKS if run.network == network]
        return [Run(network, rate, SEEDS[0]) for rate in HIGHER_RATES] + checks
    _, frames, epochs = PLANS[plan]
    rate = best_rate("both" if plan == "why" else network, found)
    return [] if rate is None else [Run(network, rate, seed, frames, epochs) for seed in SEEDS]


def planned(plan: str, found: Found) -> list[Run]:
    """Returns all runs of a plan that are known by now, in the order in which they are done."""
    networks = PLANS[plan][0]
    tuned = ("both",) if plan == "why" else networks
    runs = [Run(network, rate, SEEDS[0]) for rate in RATES for network in tuned]
    rows = [runs_of(plan, network, found) for network in networks]
    later = [run for group in zip_longest(*rows) for run in group if run]
    return list(dict.fromkeys(runs + later))


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Returns mean and standard deviation over seeds."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
