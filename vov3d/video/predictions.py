"""Predictions for a video: labels with scores, values, or a label of each of several heads."""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import product
from numbers import Real
from typing import Any

import torch

from vov3d.layers.checks import is_count
from vov3d.weights.tasks import Task, head_names

__all__ = ["Combination", "Prediction", "Predictions", "Value"]

THRESHOLD = 0.5
"""Least score of a predicted label of a multilabel network."""

_USUAL = 5  # classes that are named
_MOST_COMBINATIONS = 100_000


@dataclass(frozen=True)
class Prediction:
    """A class with its score.

    Attributes:
        index: the class, from 0.
        label: its name.
        score: the class's probability, averaged over the views, from 0 to 1.
    """

    index: int
    label: str
    score: float

    @property
    def text(self) -> str:
        """The score as text."""
        return f"{100 * self.score:.1f}%"


@dataclass(frozen=True)
class Value(Prediction):
    """A value of a regression.

    Args:
        index: the value's position, from 0.
        label: its name, which may hold its unit.
        score: the value itself, the mean over the views.
    """

    @property
    def text(self) -> str:
        """The value as text, with four digits."""
        return f"{self.score:.4g}"


@dataclass(frozen=True)
class Combination(Prediction):
    """A class of each head, such as a verb and a noun.

    The label joins the names of the classes; the score is the product of their scores. The index numbers all
    combinations: for two heads it is the first class times the second head's number of classes, plus the second class.

    Attributes:
        parts: the heads' names, each with the prediction of its class.
    """

    parts: tuple[tuple[str, Prediction], ...] = ()


class Predictions(list[Prediction]):
    """The best classes of a video, best first, or its values: prints one per line, and as a table in a notebook.

    Attributes:
        frames: uint8 `(T, 3, S, S)`, the frames that they are based on, which a notebook shows as a strip; None in the
            predictions for a list of videos, whose frames would fill the memory, and after pickling.
    """

    frames: torch.Tensor | None = None

    def __getstate__(self) -> None:
        """Leaves the frames out of pickles and copies, which hold the predictions alone."""

    def __str__(self) -> str:
        return "\n".join(line(p) for p in self)

    def _repr_html_(self) -> str:
        return f"{html_strip(self.frames)}{self.table()}"

    def table(self) -> str:
        """Returns the predictions as a table in HTML, with labels escaped."""
        cells = (f"<tr><td>{p.text}</td><td>{escape(p.label)}</td><td>{p.index}</td></tr>" for p in self)
        head = "value" if any(isinstance(p, Value) for p in self) else "score"
        return f"<table><tr><th>{head}</th><th>label</th><th>class</th></tr>{''.join(cells)}</table>"


def as_dict(prediction: Prediction) -> dict[str, Any]:
    """Returns a prediction for JSON, with `value` in place of `score` for a regression, and each head's class."""
    score = "value" if isinstance(prediction, Value) else "score"
    entry = {"label": prediction.label, "index": prediction.index, score: prediction.score}
    if isinstance(prediction, Combination):
        entry["heads"] = {head: as_dict(part) for head, part in prediction.parts}
    return entry


def html_strip(frames: torch.Tensor | None) -> str:
    """Returns frames `(T, 3, S, S)` as a small picture in HTML, empty for None."""
    if frames is None:
        return ""
    from vov3d.video.picture import inlined, small_strip  # needs Pillow

    return inlined(small_strip(frames), f"{len(frames)} frames of the video")


def line(prediction: Prediction) -> str:
    """Returns a prediction as a line of text, as `vov3d predict` prints it."""
    if isinstance(prediction, Value):
        return f"{prediction.text:>10}  {prediction.label}"
    text = f"{prediction.text:>6}  {prediction.label}"
    if not isinstance(prediction, Combination):
        return text
    parts = ", ".join(f"{head} {part.text}" for head, part in prediction.parts)
    return f"{text}  ({parts})"


def check_topk(topk: int | None) -> None:
    """Raises ValueError for anything but a whole number of classes of at least 1, or None."""
    if topk is not None and not is_count(topk):
        raise ValueError(f"topk is {topk!r}: it must be a whole number of at least 1")


def check_threshold(task: Task, threshold: float | Sequence[float] | None, labels: int) -> torch.Tensor | None:
    """Returns the least score of each label, float32 `(labels,)`; None for a task without thresholds.

    Args:
        task: The network's task.
        threshold: One for all labels, or one for each; 0.5 if None.
        labels: Number of labels.

    Raises:
        ValueError: for a threshold outside 0 to 1, another number of thresholds than labels, or a threshold for a task
            on which it has no effect.
    """
    if task.name != "multilabel":
        if threshold is not None:
            raise ValueError(
                f"threshold={threshold} has no effect on task {task.name!r}, it is for 'multilabel'; leave it out"
            )
        return None
    given: Any = THRESHOLD if threshold is None else threshold
    given = given.tolist() if hasattr(given, "tolist") else given  # of an array: those of a curve, or one number
    found = list(given) if isinstance(given, Sequence) else [given]
    if len(found) not in (1, labels) or not all(isinstance(one, Real) and 0 <= float(one) <= 1 for one in found):
        raise ValueError(f"threshold is {threshold}: give one from 0 to 1, or one for each of the {labels} labels")
    return torch.tensor(found, dtype=torch.float32).expand(labels)


def predictions_of(
    task: Task, scores: torch.Tensor, names: Sequence[str], topk: int | None, threshold: torch.Tensor | None = None
) -> Predictions:
    """Returns the predictions that follow from the scores of a video, by the task.

    Args:
        task: The network's task.
        scores: `(num_classes,)`, the mean over the views.
        names: Names of the outputs.
        topk: Number of classes to return. If None, 5; for many labels, all that reach the threshold. Values are all
            returned, in their order.
        threshold: Of `check_threshold`.
    """
    if task.name == "regression":
        pairs = enumerate(zip(names, scores.tolist(), strict=True))
        return Predictions(Value(i, name, score) for i, (name, score) in pairs)
    if task.heads:
        return _combinations(task, scores, names, topk or _USUAL)
    named = len(names)
    if threshold is not None:
        named = int((scores >= threshold).sum())
        ranked = torch.where(scores >= threshold, scores, scores - 2)  # those that are named first
    else:
        ranked, topk = scores, topk or _USUAL
    indices = _best(ranked, min(topk or named, named))
    chosen = zip(indices.tolist(), scores[indices].tolist(), strict=True)
    return Predictions(Prediction(index, names[index], score) for index, score in chosen)


def _best(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Returns the indices of the highest scores; of equal ones the first, whatever the count, unlike `torch.topk`."""
    return scores.sort(descending=True, stable=True).indices[:count]


def _combinations(task: Task, scores: torch.Tensor, names: Sequence[str], topk: int) -> Predictions:
    """Returns the best combinations of a class of each head, which consist of each head's best classes."""
    parts = task.split(scores[None])
    per_head = max(int(_MOST_COMBINATIONS ** (1 / len(parts))), 1)
    best = []
    for part, own in zip(parts, head_names(task, names), strict=True):
        indices = _best(part[0], min(topk, per_head, len(own)))
        pairs = zip(indices.tolist(), part[0][indices].tolist(), strict=True)
        best.append([Prediction(index, own[index], score) for index, score in pairs])
    rows = ((math.prod(p.score for p in row), row) for row in product(*best))
    chosen = heapq.nlargest(topk, rows, key=lambda pair: pair[0])
    return Predictions(_combined(task, score, row) for score, row in chosen)


def _combined(task: Task, score: float, row: tuple[Prediction, ...]) -> Combination:
    index = 0
    for (_, classes), part in zip(task.heads, row, strict=True):
        index = index * classes + part.index
    heads = tuple((name, part) for (name, _), part in zip(task.heads, row, strict=True))
    return Combination(index, " ".join(part.label for part in row), score, heads)
