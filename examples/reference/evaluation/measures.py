"""Measures of tasks beyond one label, counted from the scores of all videos.

multilabel   mAP: the mean over the labels of their average precision; F1 at the threshold
regression   MAE and R2 of each value
multihead    top-1 and top-5 of each head, and of all heads together
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from reference.evaluation.metrics import Figure, wilson
from vov3d.weights.tasks import Task

__all__ = [
    "LEADING",
    "Measured",
    "PerClass",
    "average_precision",
    "columns_of",
    "epoch_measures",
    "f1",
    "losses_of",
    "mean_average_precision",
    "measure",
    "per_class",
    "r2",
]

LEADING = {"single": "top1", "multilabel": "map", "regression": "r2", "multihead": "all_top1"}
"""The figure that decides which epoch is best, by task; more is better."""

_DRAWS, _MOST = 200, 100_000_000  # of a bootstrap: draws, and scores that are sorted in all


class Measured(NamedTuple):
    """A figure of a set.

    Attributes:
        name: What it is called.
        figure: Its value, with a 95% interval.
        percent: Whether it is a share.
    """

    name: str
    figure: Figure
    percent: bool = True


@dataclass(frozen=True)
class PerClass:
    """One class, label or value.

    Attributes:
        name: Its name.
        support: Videos that have it.
        figures: What was measured on it, by name; NaN where it has no videos.
    """

    name: str
    support: int
    figures: Mapping[str, float]


def average_precision(scores: np.ndarray, there: np.ndarray) -> float:
    """Returns the area under the steps of precision against recall; NaN where no video has the label.

    Videos of equal scores are one step: their order tells nothing.

    Args:
        scores: `(N,)`.
        there: Bool `(N,)`, which videos have the label.
    """
    positives = int(there.sum())
    if not positives:
        return math.nan
    order = np.argsort(-scores, kind="stable")
    ranked, found = scores[order], np.cumsum(there[order])
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    hits, seen = found[ends], ends + 1
    return float((np.diff(hits, prepend=0) / positives * (hits / seen)).sum())


def mean_average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    """Returns the mean of the average precisions of the labels that videos have; NaN where none has any.

    Args:
        scores: `(N, num_classes)`.
        labels: `(N, num_classes)` of 0 and 1.
    """
    found = [average_precision(scores[:, i], labels[:, i] > 0) for i in np.flatnonzero(labels.any(0))]
    return float(np.mean(found)) if found else math.nan


def f1(named: np.ndarray, labels: np.ndarray) -> float:
    """Returns the F1 score over all labels of all videos, the micro average; 0 where nothing is right.

    Args:
        named: Bool `(N, num_classes)`, what reaches the threshold.
        labels: `(N, num_classes)` of 0 and 1.
    """
    both = int((named & (labels > 0)).sum())
    return 2 * both / max(int(named.sum() + (labels > 0).sum()), 1)


def r2(values: np.ndarray, truth: np.ndarray) -> float:
    """Returns the coefficient of determination of one value; NaN where the truth is the same everywhere.

    Args:
        values: `(N,)`, as the network says.
        truth: `(N,)`.
    """
    spread = float(((truth - truth.mean()) ** 2).sum())
    return 1 - float(((values - truth) ** 2).sum()) / spread if spread > 0 else math.nan


def columns_of(task: Task) -> tuple[str, ...]:
    """Returns the names of what a validation measures, as columns of a log."""
    if task.name == "multilabel":
        return ("map", "f1")
    if task.name == "regression":
        return ("mae", "r2")
    return (*(f"{name}_top1" for name, _ in task.heads), "all_top1") if task.heads else ("top1", "top5")


def losses_of(task: Task, scores: np.ndarray, labels: np.ndarray, deviation: np.ndarray | None = None) -> np.ndarray:
    """Returns the loss of each video, by its averaged scores: float64 `(N,)`.

    Args:
        task: Not one label.
        scores: `(N, num_classes)`.
        labels: As of a `Source`.
        deviation: Of each value, `(V,)`, whose squared errors are relative to it.
    """
    if task.name == "regression":
        return (((scores - labels) / deviation) ** 2).mean(1)
    p = scores.astype(np.float64).clip(1e-12, 1 - 1e-12)
    if task.name == "multilabel":
        return -np.where(labels > 0, np.log(p), np.log1p(-p)).mean(1)
    starts = np.cumsum([0, *(classes for _, classes in task.heads)])[:-1]
    return -np.log(np.take_along_axis(p, labels + starts, 1)).sum(1)


def epoch_measures(task: Task, scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Returns what a validation measures, shares in percent, under the names of `columns_of`.

    Args:
        task: Not one label.
        scores: `(N, num_classes)`.
        labels: As of a `Source`.
    """
    if task.name == "multilabel":
        return {
            "map": 100 * mean_average_precision(scores, labels),
            "f1": 100 * f1(scores >= 0.5, labels),
        }
    if task.name == "regression":
        values = [r2(scores[:, i], labels[:, i]) for i in range(labels.shape[1])]
        known = [value for value in values if math.isfinite(value)]  # the others never change in these videos
        mean = float(np.mean(known)) if known else math.nan
        return {"mae": float(np.abs(scores - labels).mean()), "r2": mean}
    right = _heads_right(task, scores, labels)[0]
    shares = 100 * right.mean(0)
    named = {f"{name}_top1": float(share) for (name, _), share in zip(task.heads, shares, strict=True)}
    return named | {"all_top1": 100 * float(right.all(1).mean())}


def measure(
    task: Task, scores: np.ndarray, labels: np.ndarray, names: Sequence[str], threshold: float
) -> list[Measured]:
    """Returns the figures of a set, with 95% intervals: Wilson's of shares of videos, else of a bootstrap over videos.

    Args:
        task: Not one label.
        scores: `(N, num_classes)`; of broken videos 0.
        labels: As of a `Source`.
        names: Of all outputs.
        threshold: From which a label is named.
    """
    if task.name == "multihead":
        right, near = _heads_right(task, scores, labels)
        total, found = len(labels), []
        for i, (name, classes) in enumerate(task.heads):
            found.append(Measured(f"{name} top-1", wilson(int(right[:, i].sum()), total)))
            if classes > 5:
                found.append(Measured(f"{name} top-5", wilson(int(near[:, i].sum()), total)))
        together = " + ".join(name for name, _ in task.heads)
        return [*found, Measured(f"{together} top-1", wilson(int(right.all(1).sum()), total))]
    if task.name == "multilabel":
        named = scores >= threshold
        return [
            Measured(
                "mAP", _bootstrap(lambda i: mean_average_precision(scores[i], labels[i]), scores.size, len(labels))
            ),
            Measured(f"F1 at {threshold:g}", _bootstrap(lambda i: f1(named[i], labels[i]), len(labels), len(labels))),
        ]
    found, off = [], np.abs(scores - labels)
    for i, name in enumerate(names):
        ours, truth, wrong = scores[:, i], labels[:, i], off[:, i]
        mae = _bootstrap(lambda rows, wrong=wrong: float(wrong[rows].mean()), len(truth), len(truth))
        determined = _bootstrap(lambda rows, a=ours, b=truth: r2(a[rows], b[rows]), len(truth), len(truth))
        found += [Measured(f"MAE {name}", mae, False), Measured(f"R2 {name}", determined, False)]
    return found


def _heads_right(task: Task, scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns which heads of which videos are right, and right in five, bool `(N, heads)` each."""
    right, near, start = [], [], 0
    for i, (_, classes) in enumerate(task.heads):
        part, own = scores[:, start : start + classes], labels[:, i]
        start += classes
        mine = np.take_along_axis(part, own[:, None], 1)
        # of equal scores the first counts as better
        rank = (part > mine).sum(1) + ((part == mine) & (np.arange(classes) < own[:, None])).sum(1)
        right.append(rank == 0)
        near.append(rank < 5)
    return np.stack(right, 1), np.stack(near, 1)


def _bootstrap(figure, cost: int, number: int) -> Figure:
    """Returns a figure of all videos, with its 2.5 and 97.5 percentiles over resampled videos; the seed is fixed."""
    rng = np.random.default_rng(0)
    value = figure(np.arange(number))
    draws = max(min(_DRAWS, _MOST // max(cost, 1)), 20)
    drawn = [figure(rng.integers(0, number, number)) for _ in range(draws)]
    drawn = [one for one in drawn if math.isfinite(one)]
    if not drawn:
        return Figure(value, math.nan, math.nan)
    low, high = np.percentile(drawn, (2.5, 97.5))
    return Figure(value, float(low), float(high))


def per_class(
    task: Task, scores: np.ndarray, labels: np.ndarray, names: Sequence[str], threshold: float
) -> list[PerClass]:
    """Returns each label, value, or class of each head with its videos, the rarest first, those without any too.

    Args:
        task: Not one label.
        scores: `(N, num_classes)`.
        labels: As of a `Source`.
        names: Of all outputs.
        threshold: From which a label is named.
    """
    if task.name == "regression":
        return [
            PerClass(
                name,
                len(labels),
                {
                    "mae": float(np.abs(scores[:, i] - labels[:, i]).mean()),
                    "r2": r2(scores[:, i], labels[:, i]),
                    "mean": float(labels[:, i].mean()),
                    "deviation": float(labels[:, i].std()),
                },
            )
            for i, name in enumerate(names)
        ]
    rows = []
    if task.name == "multilabel":
        named = scores >= threshold
        for i, name in enumerate(names):
            there = labels[:, i] > 0
            both, said, own = int((named[:, i] & there).sum()), int(named[:, i].sum()), int(there.sum())
            figures = {
                "average_precision": average_precision(scores[:, i], there),
                "precision": both / said if said else math.nan,
                "recall": both / own if own else math.nan,
            }
            rows.append(PerClass(name, own, figures))
    else:
        right, start = _heads_right(task, scores, labels)[0], 0
        for i, (head, classes) in enumerate(task.heads):
            for index in range(classes):
                own = labels[:, i] == index
                share = float(right[own, i].mean()) if own.any() else math.nan
                rows.append(PerClass(f"{head}: {names[start + index]}", int(own.sum()), {"top1": share}))
            start += classes
    return sorted(rows, key=lambda row: row.support)
