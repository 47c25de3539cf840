"""Losses of the tasks, with class weights or for unbalanced classes where the recipe says so.

single       cross-entropy, `focal`, or `logit_adjusted`
multilabel   binary cross-entropy of each label, or `focal`
multihead    the sum over the heads of what a single one has
regression   squared error of values that are brought to mean 0 and deviation 1, `l1`, or `huber`
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from reference.data.targets import Classes
from vov3d.weights.tasks import Task

__all__ = ["Loss", "Scale", "build_loss", "class_counts", "draw_weights", "one_hot", "scale_of"]

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Outputs `(B, N)` and labels, or shares of classes `(B, N)`, to the loss summed over the clips."""

_NAMES = {
    "single": ("", "focal", "logit_adjusted"),
    "multilabel": ("", "focal"),
    "multihead": ("", "focal", "logit_adjusted"),
    "regression": ("", "l1", "huber"),
}
_POWERS = {"none": 0.0, "sqrt": 0.5, "inverse": 1.0}


class Scale:
    """Mean and deviation of each value of the training videos; a network learns values that are scaled by them.

    Args:
        mean: float32 `(V,)`.
        deviation: float32 `(V,)`.
    """

    def __init__(self, mean: torch.Tensor, deviation: torch.Tensor) -> None:
        self.mean, self.deviation = mean, deviation

    def scaled(self, values: torch.Tensor) -> torch.Tensor:
        """Returns values `(..., V)` with mean 0 and deviation 1."""
        return (values - self.mean.to(values)) / self.deviation.to(values)

    def real(self, scaled: torch.Tensor) -> torch.Tensor:
        """Returns scaled values `(..., V)` in their own units."""
        return scaled * self.deviation.to(scaled) + self.mean.to(scaled)

    @torch.no_grad()
    def put_into(self, layer: Any, back: bool = False) -> None:
        """Changes a linear layer that gives scaled values to one that gives real ones, or back."""
        if not isinstance(layer, torch.nn.Linear):
            raise ValueError(f"a regression needs a linear classifier, and this one is a {type(layer).__name__}")
        mean, deviation = self.mean.to(layer.weight), self.deviation.to(layer.weight)
        if back:
            layer.bias.copy_((layer.bias - mean) / deviation)
            layer.weight.div_(deviation[:, None])
        else:
            weight, bias = self.real_layer(layer.weight, layer.bias)
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)

    def real_layer(self, weight: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns weight and bias of a linear layer that gives real values, of one that gives scaled ones."""
        return weight * self.deviation.to(weight)[:, None], self.real(bias)


def scale_of(labels: np.ndarray) -> Scale:
    """Returns the scale of training values `(N, V)`; one that never changes keeps its size."""
    values = torch.from_numpy(labels).double()
    deviation = values.std(0, correction=0)
    return Scale(values.mean(0).float(), torch.where(deviation > 0, deviation, torch.ones_like(deviation)).float())


def class_counts(task: Task, labels: np.ndarray, classes: Classes) -> list[np.ndarray]:
    """Returns how many videos each class has: int64 `(num_classes,)`, an array for each head."""
    if task.name == "multilabel":
        return [labels.sum(0).astype(np.int64)]
    columns = labels.reshape(len(labels), -1).T
    return [
        np.bincount(column, minlength=len(own))
        for column, own in zip(columns, classes if task.heads else [classes], strict=True)
    ]


def draw_weights(task: Task, labels: np.ndarray, classes: Classes, balance: float) -> np.ndarray | None:
    """Returns how often each video is drawn, relative to others, so that rare classes come more often.

    A class of n videos has a weight of n to the power `-balance`: at 1 all classes come equally often. Of many labels
    and of several heads the rarest class of a video counts.

    Args:
        task: Of the run.
        labels: Of the training videos.
        classes: Names; of several heads for each.
        balance: From 0 to 1.

    Returns:
        float64 `(N,)` that sum to 1; None for a balance of 0.

    Raises:
        ValueError: For values, which have no classes.
    """
    if not balance:
        return None
    if task.name == "regression":
        raise ValueError(f"data.balance={balance:g} has no effect on a regression, which has no classes: set it to 0")
    counts = class_counts(task, labels, classes)
    if task.name == "multilabel":
        own = np.where(labels > 0, np.maximum(counts[0], 1), np.inf).min(1)
        bare = ~np.isfinite(own)  # the videos without a label are a class of their own
        own = np.where(bare, max(bare.sum(), 1), own)
    else:
        columns = labels.reshape(len(labels), -1).T
        own = np.min([count[column] for count, column in zip(counts, columns, strict=True)], axis=0)
    weights = own.astype(np.float64) ** -balance
    return weights / weights.sum()


def one_hot(task: Task, labels: torch.Tensor, outputs: int) -> torch.Tensor:
    """Returns labels as float shares of classes `(B, outputs)`, which can be mixed."""
    if task.name in ("multilabel", "regression"):
        return labels
    if not task.heads:
        return F.one_hot(labels, outputs)
    return torch.cat([F.one_hot(labels[:, i], classes) for i, (_, classes) in enumerate(task.heads)], 1)


def check_loss(task: Task, loss: SimpleNamespace, mix: SimpleNamespace, smoothing: float) -> None:
    """Raises ValueError for a loss that a task does not have, or settings without effect on it."""
    if loss.name not in _NAMES[task.name]:
        known = ", ".join(repr(name) for name in _NAMES[task.name])
        raise ValueError(f"loss.name={loss.name!r} is not for task {task.name!r}, which has {known}")
    if loss.class_weights != "none" and (task.name == "regression" or loss.name == "logit_adjusted"):
        what = "a regression, which has no classes" if task.name == "regression" else "loss.name='logit_adjusted'"
        raise ValueError(f"loss.class_weights={loss.class_weights!r} has no effect on {what}: set it to 'none'")
    if task.name == "regression" and (smoothing or mix.mixup or mix.cutmix):
        name = "train.label_smoothing" if smoothing else "mix.mixup" if mix.mixup else "mix.cutmix"
        raise ValueError(f"{name} is for classes, and this is a regression: set it to 0")


def build_loss(
    task: Task, loss: SimpleNamespace, smoothing: float, labels: np.ndarray, classes: Classes, device: torch.device
) -> Loss:
    """Builds the loss of a task.

    Args:
        task: Of the run.
        loss: The section of the recipe.
        smoothing: Of labels.
        labels: Of the training videos, whose classes are counted.
        classes: Names; of several heads for each.
        device: Where it is computed.
    """
    if task.name == "regression":
        return _regression(loss.name, scale_of(labels))
    counts = class_counts(task, labels, classes)
    if task.name == "multilabel":
        return _binary(loss, smoothing, _positive_weights(counts[0], len(labels), loss.class_weights, device))
    heads = [_softmax_loss(loss, smoothing, count, device) for count in counts]
    if not task.heads:
        return heads[0]

    def summed(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        parts = task.split(targets) if targets.is_floating_point() else targets.unbind(1)
        each = zip(heads, task.split(outputs), parts, strict=True)
        return torch.stack([one(out, part) for one, out, part in each]).sum()

    return summed


def _regression(name: str, scale: Scale) -> Loss:
    known: dict[str, Callable[..., torch.Tensor]] = {"": F.mse_loss, "l1": F.l1_loss, "huber": F.huber_loss}
    compute = known[name]

    def loss(outputs: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        return compute(outputs.float(), scale.scaled(values.float()), reduction="none").mean(1).sum()

    return loss


def _class_weights(counts: np.ndarray, way: str, device: torch.device) -> torch.Tensor | None:
    """Returns a weight for each class, of mean 1 over the training videos; 0 for classes without any."""
    if not _POWERS[way]:
        return None
    weights = np.where(counts > 0, np.maximum(counts, 1.0) ** -_POWERS[way], 0)
    weights *= counts.sum() / (weights * counts).sum()
    return torch.tensor(weights, dtype=torch.float32, device=device)


def _positive_weights(counts: np.ndarray, videos: int, way: str, device: torch.device) -> torch.Tensor | None:
    """Returns the videos without each label per video with it, or the root of that; 1 for labels of no video."""
    if not _POWERS[way]:
        return None
    ratio = np.where(counts > 0, np.maximum(videos - counts, 1) / np.maximum(counts, 1), 1.0)
    return torch.tensor(ratio ** _POWERS[way], dtype=torch.float32, device=device)


def _softmax_loss(loss: SimpleNamespace, smoothing: float, counts: np.ndarray, device: torch.device) -> Loss:
    """Returns the loss of one label: cross-entropy, that of Lin et al. (2017), or that of Menon et al. (2021)."""
    weights = _class_weights(counts, loss.class_weights, device)
    prior = torch.tensor(np.maximum(counts, 1) / counts.sum(), dtype=torch.float32, device=device).log()

    def cross_entropy(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(outputs, labels, weights, reduction="sum", label_smoothing=smoothing)

    def adjusted(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(outputs + loss.tau * prior, labels, reduction="sum", label_smoothing=smoothing)

    def focal(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        log_p = outputs.float().log_softmax(1)
        shares = labels if labels.is_floating_point() else F.one_hot(labels, outputs.shape[1])
        shares = shares.float() * (1 - smoothing) + smoothing / outputs.shape[1]
        each = -shares * (1 - log_p.exp()) ** loss.gamma * log_p
        return (each if weights is None else each * weights).sum()

    return {"": cross_entropy, "focal": focal, "logit_adjusted": adjusted}[loss.name]


def _binary(loss: SimpleNamespace, smoothing: float, positive: torch.Tensor | None) -> Loss:
    """Returns the mean over the labels of their binary cross-entropies, or of the focal loss."""

    def compute(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        outputs, shares = outputs.float(), labels.float() * (1 - smoothing) + smoothing / 2
        if loss.name == "":
            each = F.binary_cross_entropy_with_logits(outputs, shares, pos_weight=positive, reduction="none")
            return each.mean(1).sum()
        p = outputs.sigmoid()
        weight = 1.0 if positive is None else positive
        there = -weight * shares * (1 - p) ** loss.gamma * F.logsigmoid(outputs)
        absent = -(1 - shares) * p**loss.gamma * F.logsigmoid(-outputs)
        return (there + absent).mean(1).sum()

    return compute
