"""Accuracies with intervals, confusions, and the pairs of classes in which two models differ."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from reference.evaluation.scores import Row

_Z = 1.959964  # 95% of a normal distribution
_DRAWS = 10_000

Broken = Literal["wrong", "leave-out"]


class Figure(NamedTuple):
    """A share, with the ends of its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Summary:
    """The accuracies of a model on a set.

    Attributes:
        top1: Share of videos whose class has the best score, with its Wilson interval.
        top5: Share of videos whose class is among the best five, the same.
        mean_class: Mean of the top-1 accuracies of the classes, with a bootstrap interval.
        videos: Videos counted.
        classes: Classes that have videos.
        broken: Videos without scores, counted as wrong or left out.
    """

    top1: Figure
    top5: Figure
    mean_class: Figure
    videos: int
    classes: int
    broken: int


def wilson(hits: int, total: int) -> Figure:
    """Returns a share with its Wilson score interval, which holds for small numbers and near 0 and 1 as well.

    Source: Wilson, Probable inference, the law of succession, and statistical inference, JASA 22 (1927).
    """
    share, z2 = hits / total, _Z * _Z
    middle = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = _Z / (1 + z2 / total) * math.sqrt(share * (1 - share) / total + z2 / (4 * total * total))
    return Figure(share, middle - half if hits else 0.0, middle + half if hits < total else 1.0)


def mean_of_classes(hits: np.ndarray, totals: np.ndarray) -> Figure:
    """Returns the mean of the shares of classes, with the 2.5 and 97.5 percentiles of a bootstrap.

    The videos of each class are drawn anew with replacement, 10,000 times; the seed is fixed.

    Args:
        hits: `(C,)`.
        totals: `(C,)`, each at least 1.
    """
    shares = hits / totals
    rng = np.random.default_rng(0)
    means = (rng.binomial(totals, shares, (_DRAWS, len(totals))) / totals).mean(1)
    low, high = np.percentile(means, (2.5, 97.5))
    return Figure(float(shares.mean()), float(low), float(high))


def summarize(rows: Iterable[Row], broken: Broken) -> Summary:
    """Returns the accuracies of a model.

    Raises:
        ValueError: If no video is left.
    """
    rows = list(rows)
    lost = [row for row in rows if row.rank is None]
    counted = rows if broken == "wrong" else [row for row in rows if row.rank is not None]
    if len(lost) == len(rows):
        raise ValueError(
            f"all {len(rows)} videos are broken, the first: {rows[0].error}" if rows else "there are no videos"
        )
    labels = np.array([row.label for row in counted])
    ranks = np.array([math.inf if row.rank is None else row.rank for row in counted])
    totals, hits = np.bincount(labels), np.bincount(labels, weights=ranks == 0)
    there = totals > 0
    return Summary(
        wilson(int((ranks == 0).sum()), len(ranks)),
        wilson(int((ranks < 5).sum()), len(ranks)),
        mean_of_classes(hits[there], totals[there]),
        len(counted),
        int(there.sum()),
        len(lost),
    )


def confusion(rows: Iterable[Row], num_classes: int) -> np.ndarray:
    """Counts videos by class (row) and prediction (column): int64 `(C, C)`; broken videos do not count."""
    counts = np.zeros((num_classes, num_classes), np.int64)
    for row in rows:
        if row.prediction is not None:
            counts[row.label, row.prediction] += 1
    return counts


def confused(counts: np.ndarray, number: int) -> list[tuple[int, int, int]]:
    """Returns the most frequent confusions: class, prediction, count."""
    wrong = counts - np.diag(np.diag(counts))
    best = np.argsort(-wrong, axis=None, kind="stable")[:number]
    pairs = [divmod(int(place), len(counts)) for place in best]
    return [(label, other, int(wrong[label, other])) for label, other in pairs if wrong[label, other]]


class Pair(NamedTuple):
    """Two classes, and the share of their videos that each of two models takes for the other class of the two."""

    first: int
    second: int
    share_a: float
    share_b: float


def differing_pairs(a: np.ndarray, b: np.ndarray, number: int) -> list[Pair]:
    """Returns the pairs of classes in which two models differ most, most first.

    Args:
        a: Confusions `(C, C)` of the first model.
        b: Those of the second, on the same videos.
        number: Most pairs to return; pairs without a difference are left out.
    """
    shares_a, shares_b = _shares(a), _shares(b)
    differences = np.triu(np.abs(shares_a - shares_b), 1)
    best = np.argsort(-differences, axis=None, kind="stable")[:number]
    pairs = [divmod(int(place), len(a)) for place in best]
    return [Pair(i, j, float(shares_a[i, j]), float(shares_b[i, j])) for i, j in pairs if differences[i, j] > 0]


def _shares(counts: np.ndarray) -> np.ndarray:
    """Returns for each pair of classes the share of its videos that are taken for the other class of the pair."""
    totals = counts.sum(1)
    return (counts + counts.T) / np.maximum(totals[:, None] + totals[None, :], 1)
