"""Mean average precision of segments at several overlaps in time, as ActivityNet's evaluation defines it.

Segments of a class are gone through from the highest score on, over all videos. One is right if a true segment of that
class in its video, not found before, overlaps it by the threshold or more in intersection over union; of several, the
one that overlaps most is found. Precision is interpolated: at each recall the highest that is reached from there on.
Classes that the truth does not hold do not count.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

Array = np.ndarray

TIOUS = (0.3, 0.4, 0.5, 0.6, 0.7)
"""Overlaps that are measured."""


class Truth(NamedTuple):
    """A segment that is true.

    Attributes:
        video: Name of the video.
        start: In seconds.
        end: In seconds.
        label: Name of the class.
    """

    video: str
    start: float
    end: float
    label: str


class Found(NamedTuple):
    """A segment that was found.

    Attributes:
        video: Name of the video.
        start: In seconds.
        end: In seconds.
        label: Name of the class.
        score: The higher, the surer.
    """

    video: str
    start: float
    end: float
    label: str
    score: float


@dataclass(frozen=True)
class Report:
    """Average precision of each class and overlap.

    Attributes:
        tious: The overlaps.
        precision: Average precision of each class at each overlap.
    """

    tious: tuple[float, ...]
    precision: dict[str, Array]

    @property
    def by_tiou(self) -> list[float]:
        """The mean over the classes at each overlap."""
        return np.mean(list(self.precision.values()), 0).tolist()

    @property
    def mean(self) -> float:
        """The mean over the overlaps, which papers print as the average mAP."""
        return float(np.mean(self.by_tiou))


def overlaps(segments: Array, others: Array) -> Array:
    """Returns intersection over union of segments `(N, 2)` and `(M, 2)`, as `(N, M)`; of two empty ones it is 0."""
    low = np.maximum(segments[:, None, 0], others[None, :, 0])
    high = np.minimum(segments[:, None, 1], others[None, :, 1])
    shared = (high - low).clip(0)
    union = (segments[:, 1] - segments[:, 0])[:, None] + (others[:, 1] - others[:, 0])[None] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def measure(truth: Sequence[Truth], found: Iterable[Found], tious: Sequence[float] = TIOUS) -> Report:
    """Measures the average precision of every class that the truth holds.

    Args:
        truth: What is true.
        found: What was found; segments of equal score count in this order. In a video without truth they are wrong.
        tious: The overlaps.

    Raises:
        ValueError: If nothing is true.
    """
    if not truth:
        raise ValueError("there is no true segment, so nothing can be measured")
    by_label: dict[str, list[Found]] = defaultdict(list)
    for segment in found:
        by_label[segment.label].append(segment)
    right: dict[str, list[Truth]] = defaultdict(list)
    for one in truth:
        right[one.label].append(one)
    values = {label: _precision(right[label], by_label[label], tious) for label in sorted(right)}
    return Report(tuple(tious), values)


def _precision(truth: list[Truth], found: list[Found], tious: Sequence[float]) -> Array:
    """Returns the average precision of one class at each overlap."""
    of_video: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for one in truth:
        of_video[one.video].append((one.start, one.end))
    taken = {video: np.zeros((len(tious), len(spans)), bool) for video, spans in of_video.items()}
    ranked = sorted(found, key=lambda segment: -segment.score)
    right = np.zeros((len(tious), len(ranked)))
    for rank, segment in enumerate(ranked):
        if segment.video not in of_video:
            continue
        shares = overlaps(np.array([[segment.start, segment.end]]), np.array(of_video[segment.video], float))[0]
        order = np.argsort(-shares, kind="stable")
        for level, tiou in enumerate(tious):
            free = [one for one in order if shares[one] >= tiou and not taken[segment.video][level, one]]
            if free:
                taken[segment.video][level, free[0]] = right[level, rank] = 1
    hits = right.cumsum(1)
    precision, recall = hits / np.arange(1, len(ranked) + 1), hits / len(truth)
    return np.array([_area(p, r) for p, r in zip(precision, recall, strict=True)])


def _area(precision: Array, recall: Array) -> float:
    """Returns the area under the interpolated curve."""
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall, prepend=0.0) * best).sum())
