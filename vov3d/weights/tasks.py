"""Meaning of a network's outputs: one label, many labels, values, or a label of each of several heads.

The task is a property of the weights' configuration (`task` and `heads` of `VideoPretrainedCfg`). This module is the
only place that interprets it: it turns outputs into scores and decisions. Code that reads a network's outputs uses
`task_of`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

TASKS = ("single", "multilabel", "regression", "multihead")
"""One label per video (the default), any number of labels, values, and a label of each of several heads."""

SCORES = ("probabilities", "values")
"""Names of the results of `Task.scores`, as outputs of exported files."""

_MOST_HEADS = 8


@dataclass(frozen=True)
class Task:
    """Meaning of a network's outputs.

    Attributes:
        name: One of `TASKS`.
        heads: Names and numbers of classes of the heads, in the order of the outputs; for `"multihead"` only.
    """

    name: str = "single"
    heads: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        if self.name not in TASKS:
            raise ValueError(f"task is {self.name!r}: {', '.join(map(repr, TASKS))} are known")
        if (self.name == "multihead") != bool(self.heads):
            raise ValueError(
                "task='multihead' needs heads, such as heads={'verb': 97, 'noun': 300}"
                if self.name == "multihead"
                else f"heads={dict(self.heads)} have no effect on task={self.name!r}; they are for 'multihead'"
            )

    @property
    def single(self) -> bool:
        """True for one label a video."""
        return self.name == "single"

    @property
    def scored(self) -> str:
        """Name of the result of `scores`, one of `SCORES`."""
        return "values" if self.name == "regression" else "probabilities"

    def scores(self, outputs: torch.Tensor, temperature: float = 1.0, dim: int = 1) -> torch.Tensor:
        """Turns the outputs of a network into scores, which may be averaged over views and positions.

        Args:
            outputs: Outputs of the classifier.
            temperature: Divisor of logits; values are not divided.
            dim: Dimension of the outputs.

        Returns:
            A tensor of the same shape: the softmax for one label, the sigmoid for many, the softmax of each head for
            several heads, and the outputs as they are for values.
        """
        if self.name == "regression":
            return outputs
        logits = outputs / temperature
        if self.name == "multilabel":
            return logits.sigmoid()
        if self.name == "multihead":
            parts = logits.split([classes for _, classes in self.heads], dim)
            return torch.cat([part.softmax(dim) for part in parts], dim)
        return logits.softmax(dim)

    def decided(self, outputs: torch.Tensor) -> torch.Tensor:
        """Returns the decisions of outputs `(B, N)`, for a comparison of two networks.

        Returns:
            int64 `(B, D)`: the best class, the best of each head, or for many labels whether each is likelier than
            not; without columns for values.
        """
        if self.name == "regression":
            return outputs.new_empty(len(outputs), 0, dtype=torch.int64)
        if self.name == "multilabel":
            return (outputs > 0).long()
        return torch.stack([part.argmax(1) for part in self.split(outputs)], 1)

    def split(self, outputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Returns the outputs or scores `(B, N)` of each head; of other tasks all in one."""
        return outputs.split([classes for _, classes in self.heads], 1) if self.heads else (outputs,)

    def describe(self, outputs: int) -> str:
        """Describes a number of outputs, such as `"20 classes"` or `"97 verb and 300 noun classes"`."""
        if self.heads:
            return " and ".join(f"{classes} {name}" for name, classes in self.heads) + " classes"
        one, many = {"single": ("class", "classes"), "multilabel": ("label", "labels")}.get(
            self.name, ("value", "values")
        )
        return f"{outputs} {one if outputs == 1 else many}"

    def fields(self) -> dict[str, Any]:
        """Returns the task as fields of a `pretrained_cfg`; none for one label."""
        if self.single:
            return {}
        return {"task": self.name} | ({"heads": dict(self.heads)} if self.heads else {})

    def require(self, what: str, *names: Literal["single", "multilabel", "regression", "multihead"]) -> None:
        """Raises ValueError unless the task is one of those that `what` is for."""
        if self.name not in names:
            raise ValueError(f"{what} is for task {' or '.join(map(repr, names))}, and this one is {self.name!r}")


SINGLE = Task()


def make_task(name: str | None, heads: Mapping[str, int] | None = None) -> Task:
    """Makes a task from its name and its heads.

    Args:
        name: One of `TASKS`; None for one label.
        heads: For `"multihead"`: classes of each head by its name, in the order of the outputs.

    Raises:
        ValueError: If the task is not known, or heads are missing, have no effect, or are malformed.
    """
    found = tuple(heads.items()) if isinstance(heads, Mapping) else ()
    if (heads and not found) or len(found) > _MOST_HEADS or not all(_is_head(*head) for head in found):
        raise ValueError(f"heads is {heads!r:.200}: expected classes by name, such as {{'verb': 97, 'noun': 300}}")
    return Task(name or "single", found)


def _is_head(name: object, classes: object) -> bool:
    return isinstance(name, str) and 0 < len(name) <= 100 and type(classes) is int and classes > 0


def task_of(model: Any) -> Task:
    """Returns the task of a network: that of its weights, as long as it has their classifier, else one label.

    Args:
        model: Any module with `pretrained_cfg` and `num_classes`, also a stream, an optimized or an exported one.

    Raises:
        ValueError: If its configuration names an unknown task.
    """
    cfg: Mapping[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    if cfg.get("task") in (None, "single"):
        return SINGLE
    outputs = getattr(model, "num_classes", None)
    if cfg.get("num_classes", outputs) != outputs:
        return SINGLE
    return checked_heads(make_task(cfg["task"], cfg.get("heads")), outputs)


def set_task(model: Any, task: Task) -> None:
    """Sets the task in a network's configuration, as for a classifier that is trained anew.

    Args:
        model: A module with `pretrained_cfg` and `num_classes`.
        task: The new task.

    Raises:
        ValueError: If the heads have more or fewer classes than the network has outputs.
    """
    checked_heads(task, model.num_classes)
    cfg = model.pretrained_cfg
    for key in ("task", "heads", "temperature"):
        cfg.pop(key, None)
    cfg |= {**task.fields(), "num_classes": model.num_classes}


def checked_heads(task: Task, outputs: int | None) -> Task:
    """Returns a task whose heads have as many classes as a network has outputs.

    Raises:
        ValueError: If they have another number.
    """
    classes = sum(count for _, count in task.heads)
    if task.heads and classes != outputs:
        raise ValueError(f"heads {dict(task.heads)} have {classes} classes together, but the network has {outputs}")
    return task


def head_names(task: Task, names: Sequence[str]) -> list[list[str]]:
    """Returns the class names of each head, from the names of all outputs; of other tasks all in one list."""
    found, start = [], 0
    for _, classes in task.heads or (("", len(names)),):
        found.append(list(names[start : start + classes]))
        start += classes
    return found
