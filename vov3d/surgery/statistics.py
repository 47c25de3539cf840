"""Recalibrates or freezes the statistics of batch norms."""

import warnings
from collections.abc import Iterable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d, SyncBatchNormAct
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.parameter import is_lazy

from vov3d.surgery.kinds import is_batch_norm
from vov3d.surgery.placing import check_is_module


def recalibrate(model: nn.Module, clips: Iterable[torch.Tensor]) -> int:
    """Estimates the running statistics of batch norms again, as plain averages over batches (precise BN).

    After surgery the old statistics no longer describe the inputs of the norms. Everything else, such as dropout, works
    as in evaluation, and no gradient is kept. Frozen norms (`freeze_batchnorm`) are unchanged, and so are norms that do
    not run in evaluation, as those of an auxiliary head.

    Args:
        model: Any module; its mode is kept.
        clips: Batches as the model takes them; a few hundred clips are enough.

    Returns:
        The number of batches; 0, with a warning, if all norms are frozen.

    Raises:
        ValueError: If the model has no batch norm with running statistics, or has not initialised them yet, there are
            no clips, they come with labels, or they give statistics that are not finite. The statistics are then
            unchanged.
    """
    check_is_module(model)
    norms: list[Any] = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    norms = [m for m in norms if not isinstance(m, _StaysFrozen)]
    if any(is_lazy(norm.running_mean) for norm in norms):
        raise ValueError("the batch norms have no statistics yet; run the model once, then recalibrate")
    if not norms:
        if any(isinstance(m, FrozenBatchNorm | _StaysFrozen) for m in model.modules()):
            warnings.warn("all batch norms are frozen: nothing is recalibrated", stacklevel=2)
            return 0
        raise ValueError(f"{type(model).__name__} has no batch norm with running statistics")
    modes = {module: module.training for module in model.modules()}
    momenta = [norm.momentum for norm in norms]
    before = [{k: v.clone() for k, v in norm.named_buffers()} for norm in norms]
    count, done = 0, False
    try:
        model.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.training, norm.momentum = True, None  # None: the average over all batches, not a moving one
        with torch.no_grad():
            for clip in clips:
                _check_clip(clip)
                model(clip)
                count += 1
        broken = not all(norm.running_mean.isfinite().all() and norm.running_var.isfinite().all() for norm in norms)
        done = count > 0 and not broken
    finally:
        for norm, momentum, buffers in zip(norms, momenta, before, strict=True):
            norm.momentum = momentum
            if not done or _is_reset(norm):
                for name, value in buffers.items():
                    getattr(norm, name).copy_(value)
        for module, training in modes.items():
            module.training = training
    if not count:
        raise ValueError("there were no clips to estimate statistics from")
    if broken:
        raise ValueError(
            "the statistics of these clips are not finite, and those of the model are unchanged: look for NaN and "
            "infinity in the clips and the weights"
        )
    return count


def _is_reset(norm: Any) -> bool:
    """Returns whether a norm has the statistics that it starts with, as one that did not run."""
    return not norm.running_mean.any() and bool((norm.running_var == 1).all())


def _check_clip(clip: Any) -> None:
    """Raises ValueError for a batch of clips with labels; several clips, as for two pathways, are allowed."""
    if isinstance(clip, list | tuple) and not all(isinstance(x, torch.Tensor) and x.ndim > 3 for x in clip):
        parts = ", ".join(str(tuple(x.shape)) if isinstance(x, torch.Tensor) else type(x).__name__ for x in clip)
        raise ValueError(
            f"recalibrate takes batches as the model takes them, got a {type(clip).__name__} of {parts}; if a "
            "loader gives labels too, call recalibrate(model, (clips for clips, *_ in loader))"
        )
    if isinstance(clip, dict):
        raise ValueError(
            f"recalibrate takes batches as the model takes them, got a dictionary of {', '.join(map(str, clip))};"
            ' give (batch["video"] for batch in loader), with the key of your clips'
        )


class FrozenBatchNorm(_NormBase):
    """A batch norm that always uses its running statistics; `freeze_batchnorm` turns norms into it, in place.

    PyTorch does not treat it as a `BatchNorm`, so `train()`, `convert_sync_batchnorm`, `update_bn` and `recalibrate`
    leave it frozen. State-dict names are unchanged.

    Attributes:
        for_rows: Whether it was a `BatchNorm1d`.
    """

    for_rows: bool

    def train(self, mode: bool = True) -> "FrozenBatchNorm":
        """Has no effect."""
        return super().train(False)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Normalises `(B, C, ...)`."""
        return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)


class FrozenBatchNormAct(FrozenBatchNorm):
    """timm's `BatchNormAct2d`, frozen: dropout and an activation follow the norm."""

    drop: nn.Module
    act: nn.Module

    def train(self, mode: bool = True) -> "FrozenBatchNormAct":
        """Sets the mode of the dropout only."""
        super().train(False)
        self.drop.train(mode)
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalises `(B, C, ...)` and activates."""
        return self.act(self.drop(super().forward(x)))


class _StaysFrozen(nn.Module):
    """Mixin that keeps norms with their own forward pass in eval mode."""

    def train(self, mode: bool = True) -> Any:
        return super().train(False)

    def __reduce__(self) -> Any:
        return _empty, (type(self).__mro__[2],), self.__dict__  # a class created at run time cannot be found by name


@cache
def _frozen_subclass(kind: Any) -> type[nn.Module]:
    return type(f"Frozen{kind.__name__}", (_StaysFrozen, kind), {})


def _empty(kind: Any) -> nn.Module:
    frozen = _frozen_subclass(kind)
    return frozen.__new__(frozen)


def _freeze(norm: nn.Module) -> None:
    """Freezes one norm by changing its class, so that hooks, optimizers and other owners keep the same object."""
    kind: Any = type(norm)
    with_act = kind.forward in (BatchNormAct2d.forward, SyncBatchNormAct.forward) and {"drop", "act"} == {
        *norm._modules
    }
    if is_batch_norm(norm) or with_act:
        norm.for_rows = isinstance(norm, nn.BatchNorm1d)  # type: ignore[assignment]
        norm.__class__ = FrozenBatchNormAct if with_act else FrozenBatchNorm
    else:
        norm.__class__ = _frozen_subclass(kind)
    norm.eval().requires_grad_(False)


def freeze_batchnorm(model: nn.Module) -> nn.Module:
    """Freezes statistics and parameters of all batch norms, in place, also against later calls of `train()`.

    `torch.nn.SyncBatchNorm.convert_sync_batchnorm` leaves them frozen too. State-dict names are unchanged. Norms with
    their own forward pass, other than timm's with an activation, become a subclass of theirs that stays in eval mode;
    convert those before freezing. (timm's `freeze` leaves 3D norms in train mode.)

    Args:
        model: Any module.

    Returns:
        The model.

    Raises:
        ValueError: If a norm has no running statistics, or has not initialised them yet; nothing is frozen.
    """
    check_is_module(model)
    norms: list[tuple[str, Any]] = [(name, m) for name, m in model.named_modules() if isinstance(m, _BatchNorm)]
    norms = [(name or "the model", m) for name, m in norms if not isinstance(m, _StaysFrozen)]
    without = [name for name, norm in norms if norm.running_mean is None]
    if without:
        raise ValueError(f"{', '.join(without[:5])} keep no running statistics (track_running_stats=False)")
    lazy = [name for name, norm in norms if is_lazy(norm.running_mean)]
    if lazy:
        raise ValueError(f"{', '.join(lazy[:5])} have no statistics yet; run the model once, then freeze")
    for _, norm in norms:
        _freeze(norm)
    return model
