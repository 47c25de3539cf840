"""Statistics of batch norms: estimated anew, or frozen."""

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def recalibrate(model: nn.Module, clips: Iterable[torch.Tensor]) -> int:
    """Estimates the running statistics of batch norms anew, as plain averages over batches (precise BN).

    After surgery the old statistics no longer describe what the norms see. Everything else, dropout among it, works as
    in evaluation, and no gradient is kept.

    Args:
        model: Any module; its mode stays.
        clips: Batches as the model takes them, as many as there are to spare; some hundred clips do.

    Returns:
        How many batches were seen.

    Raises:
        ValueError: If the model has no batch norm with running statistics, or there are no clips.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    if not norms:
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
                model(clip)
                count += 1
        done = count > 0
    finally:
        for norm, momentum, buffers in zip(norms, momenta, before, strict=True):
            norm.momentum = momentum
            if not done:
                for name, value in buffers.items():
                    getattr(norm, name).copy_(value)
        for module, training in modes.items():
            module.training = training
    if not count:
        raise ValueError("there were no clips to estimate statistics from")
    return count


class _Frozen(_BatchNorm):
    """Stays in eval mode whatever its model does."""

    def train(self, mode: bool = True) -> "_Frozen":
        """Has no effect."""
        return super().train(False)


class FrozenBatchNorm1d(_Frozen, nn.BatchNorm1d):
    """A `BatchNorm1d` that always uses its running statistics."""


class FrozenBatchNorm2d(_Frozen, nn.BatchNorm2d):
    """A `BatchNorm2d` that always uses its running statistics."""


class FrozenBatchNorm3d(_Frozen, nn.BatchNorm3d):
    """A `BatchNorm3d` that always uses its running statistics."""


class FrozenSyncBatchNorm(_Frozen, nn.SyncBatchNorm):
    """A `SyncBatchNorm` that always uses its running statistics."""


_FROZEN: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: FrozenBatchNorm1d,
    nn.BatchNorm2d: FrozenBatchNorm2d,
    nn.BatchNorm3d: FrozenBatchNorm3d,
    nn.SyncBatchNorm: FrozenSyncBatchNorm,
}


def freeze_batchnorm(model: nn.Module) -> nn.Module:
    """Freezes statistics and parameters of all batch norms, in place, also against later calls of `train()`.

    State-dict names stay. (timm's `freeze` leaves 3D norms in train mode.)

    Args:
        model: Any module.

    Returns:
        The model.

    Raises:
        ValueError: If a norm keeps no running statistics, and so has nothing to be frozen.
    """
    norms = [(name, m) for name, m in model.named_modules() if type(m) in _FROZEN]
    bare = [name for name, norm in norms if norm.running_mean is None]
    if bare:
        raise ValueError(f"{', '.join(bare[:5])} keep no running statistics (track_running_stats=False)")
    for _, norm in norms:
        # The same object, so that hooks, optimizers and other owners keep it.
        norm.__class__ = _FROZEN[type(norm)]
        norm.eval().requires_grad_(False)
    return model
