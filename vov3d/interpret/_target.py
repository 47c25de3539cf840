"""Finds the outputs to explain: those of a class, a value, or a class of each head."""

import operator
from collections.abc import Sequence
from difflib import get_close_matches
from typing import SupportsIndex

import torch

from vov3d.video.predictions import Combination, Prediction, Value, predictions_of
from vov3d.weights.tasks import Task, head_names

Wanted = SupportsIndex | str | Sequence[SupportsIndex | str] | None
"""Names and numbers, also of NumPy or PyTorch, such as `logits.argmax()`."""


def find_target(task: Task, scores: torch.Tensor, names: list[str], wanted: Wanted) -> tuple[Prediction, list[int]]:
    """Returns what is explained, and the outputs whose sum it is.

    Args:
        task: The network's task.
        scores: `(num_classes,)`.
        names: Names of all outputs.
        wanted: Of `explain`.

    Raises:
        ValueError: If there is no such output, or several, or a choice is needed.
    """
    if wanted is None:
        return _predicted(task, scores, names)
    if isinstance(wanted, Sequence) and not isinstance(wanted, str):
        return _of_heads(task, scores, names, wanted)
    index = _index(names, wanted)
    kind = Value if task.name == "regression" else Prediction
    return kind(index, names[index], float(scores[index])), [index]


def _predicted(task: Task, scores: torch.Tensor, names: list[str]) -> tuple[Prediction, list[int]]:
    if task.heads:
        return _of_heads(task, scores, names, [int(part.argmax()) for part in task.split(scores[None])])
    if task.name == "regression" and len(names) > 1:
        raise ValueError(f"the model gives {len(names)} values: choose the target among {_listed(names)}")
    index = int(scores.argmax())
    kind = Value if task.name == "regression" else Prediction
    return kind(index, names[index], float(scores[index])), [index]


def _of_heads(
    task: Task, scores: torch.Tensor, names: list[str], wanted: Sequence[SupportsIndex | str]
) -> tuple[Prediction, list[int]]:
    """Returns a class of each head."""
    if not task.heads or len(wanted) != len(task.heads):
        heads = f"{len(task.heads)} heads ({', '.join(name for name, _ in task.heads)})" if task.heads else "one head"
        raise ValueError(f"target has {len(wanted)} parts, but the model has {heads}; give one class for each")
    own, outputs, start = head_names(task, names), [], 0
    for choice, found in zip(wanted, own, strict=True):
        outputs.append(start + _index(found, choice))
        start += len(found)
    alone = torch.full_like(scores, -1.0)
    alone[outputs] = scores[outputs]
    best = predictions_of(task, alone, names, 1)[0]
    assert isinstance(best, Combination)
    return best, outputs


def _index(names: list[str], wanted: SupportsIndex | str) -> int:
    """Returns the index of an output that is named, or numbered from 0."""
    if isinstance(wanted, str):
        found = [i for i, name in enumerate(names) if name == wanted]
        if len(found) == 1:
            return found[0]
        if found:
            raise ValueError(f"target {wanted!r} names outputs {found}; give one of these numbers")
        near = get_close_matches(wanted, names, 3)
        raise ValueError(f"the model has no output {wanted!r}; {f'near: {_listed(near)}' if near else _listed(names)}")
    number = _number(wanted)
    if number is None or not 0 <= number < len(names):
        raise ValueError(f"target is {wanted!r}: give the name of an output, or its number from 0 to {len(names) - 1}")
    return number


def _number(wanted: SupportsIndex) -> int | None:
    """Returns a whole number of Python, NumPy or PyTorch; None for anything else."""
    if isinstance(wanted, bool) or "bool" in str(getattr(wanted, "dtype", "")):
        return None
    try:
        return operator.index(wanted)
    except TypeError:
        return None


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:10])) + (", ..." if len(names) > 10 else "")
