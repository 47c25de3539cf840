"""Tables of the classes, the rarest first, and of tasks beyond one label."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from reference.evaluation.measures import Measured, PerClass, measure, per_class
from reference.evaluation.metrics import Broken
from reference.evaluation.running import Run
from reference.evaluation.scores import Row, read_scores
from vov3d.weights.tasks import Task, head_names

__all__ = ["TaskReport", "class_table", "head_confusions", "rarest"]

_SHOWN = 10  # classes printed


def class_table(counts: np.ndarray, supports: np.ndarray, names: Sequence[str]) -> list[list[Any]]:
    """Returns a table of the classes of one label, the rarest first, those without videos too.

    Args:
        counts: Confusions `(C, C)`, class by what it was taken for, without broken videos.
        supports: Videos of each class `(C,)`, with the broken ones that count.
        names: Of the classes.

    Returns:
        A heading, and a line for each class: its name, videos, how many are right, their share in percent, and what it
        is most often taken for, with how often.
    """
    lines: list[list[Any]] = [["class", "videos", "right", "top1", "taken for", "times"]]
    for index in np.argsort(supports, kind="stable"):
        total, right = int(supports[index]), int(counts[index, index])
        wrong = counts[index].copy()
        wrong[index] = 0
        other = [names[int(wrong.argmax())], int(wrong.max())] if wrong.any() else ["", ""]
        lines.append([names[index], total, right, f"{100 * right / total:.2f}" if total else "", *other])
    return lines


def rarest(table: Sequence[Sequence[Any]]) -> list[str]:
    """Returns the first lines of a table of classes as text, and which have no videos."""
    heading, *lines = table
    empty = [str(line[0]) for line in lines if not line[1]]
    shown = [line for line in lines if line[1]][:_SHOWN]
    width = max((len(str(line[0])) for line in shown), default=5)
    text = [f"  {heading[0]:<{min(width, 50)}}  {'  '.join(f'{cell!s:>8}' for cell in heading[1:4])}"]
    for line in shown:
        text.append(f"  {str(line[0])[:50]:<{min(width, 50)}}  {'  '.join(f'{cell!s:>8}' for cell in line[1:4])}")
    if empty:
        text.append(f"  without videos: {', '.join(empty[:_SHOWN])}" + (" ..." if len(empty) > _SHOWN else ""))
    return text


class TaskReport:
    """The figures of a model of a task beyond one label on a set.

    Attributes:
        figures: Of the set.
        classes: Of each class.
        scores: float64 `(N, num_classes)` of the videos that count.
        labels: Of these.
        lost: The broken videos.
        left_out: Whether these do not count.
    """

    def __init__(self, run: Run, rows: dict[int, Row], task: Task, broken: Broken, threshold: float) -> None:
        """Measures.

        Raises:
            ValueError: If no video is left.
        """
        targets = run.samples.targets
        assert targets is not None
        found = read_scores(run.folder)
        self.lost = [row for row in rows.values() if row.error]
        if len(self.lost) == len(rows):
            raise ValueError(f"all {len(rows)} videos are broken, the first: {self.lost[0].error}")
        self.left_out = broken == "leave-out" or task.name == "regression"
        kept = [index for index in range(len(rows)) if not (rows[index].error and self.left_out)]
        self.labels = targets[kept]
        self.scores = np.zeros((len(kept), run.model.num_classes))
        for place, index in enumerate(kept):
            if not rows[index].error:
                self.scores[place] = found[index]
            elif task.heads:  # no class of its own may win
                starts = np.cumsum([0, *(classes for _, classes in task.heads)])[:-1]
                self.scores[place, targets[index] + starts] = -1
        names = run.samples.classes
        self.figures: list[Measured] = measure(task, self.scores, self.labels, names, threshold)
        self.classes: list[PerClass] = per_class(task, self.scores, self.labels, names, threshold)

    def lines(self) -> list[str]:
        """Returns the figures as they are printed."""
        width = max(20, *(len(one.name) + 2 for one in self.figures))
        lines = [f"{'':{width}}{'value':>9}   95% interval"]
        for name, figure, percent in self.figures:
            value, low, high = (_number(one, percent) for one in figure)
            lines.append(f"{name:<{width}}{value:>9}   {low} to {high}" if low else f"{name:<{width}}{value:>9}")
        lines.append("shares in percent; intervals: Wilson of top-1 and top-5, else bootstrap over the videos")
        if self.lost:
            how = "left out" if self.left_out else "counted as wrong"
            lines += [f"{len(self.lost)} broken videos, {how}:", *(f"  {row.error}" for row in self.lost)]
        return lines

    def table(self) -> list[list[Any]]:
        """Returns a heading, and a line for each class, the rarest first."""
        keys = list(self.classes[0].figures)
        heading = ["class", "videos", *keys]
        rows = [[one.name, one.support, *(_cell(one.figures[key]) for key in keys)] for one in self.classes]
        return [heading, *rows]

    def content(self) -> dict[str, Any]:
        """Returns the figures for a JSON file."""
        figures = {name: [_plain(one) for one in figure] for name, figure, _ in self.figures}
        return {"videos": len(self.labels), "broken": len(self.lost), "figures": figures}


def head_confusions(report: TaskReport, task: Task, names: Sequence[str]) -> list[tuple[str, np.ndarray, list[str]]]:
    """Returns for each head its name, its confusions `(C, C)`, and its class names."""
    found, start = [], 0
    for i, ((head, classes), own) in enumerate(zip(task.heads, head_names(task, names), strict=True)):
        part = report.scores[:, start : start + classes]
        start += classes
        counts = np.zeros((classes, classes), np.int64)
        there = part.min(1) >= 0  # not those of broken videos
        np.add.at(counts, (report.labels[there, i], part[there].argmax(1)), 1)
        found.append((head, counts, own))
    return found


def _number(value: float, percent: bool) -> str:
    if not math.isfinite(value):
        return ""
    return f"{100 * value:.2f}" if percent else f"{value:.4g}"


def _cell(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else ""


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
