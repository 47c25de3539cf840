"""Recognises layers by what they compute: a subclass that changes nothing counts as its base class."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from vov3d.layers.conv import FastForm

_METHODS = ("forward", "_conv_forward", "__call__")


def is_only(module: nn.Module, *bases: type[nn.Module]) -> bool:
    """Returns whether a module runs the code of one of some classes on its own tensors, and nothing more."""
    return any(isinstance(module, base) and _adds_nothing(module, base) for base in bases)


def has_own_forward(module: nn.Module) -> bool:
    """Returns whether a module itself, not its class, has a `forward`, as one that was replaced on the instance."""
    return "forward" in vars(module)


def is_exactly(module: object, *kinds: type[nn.Module]) -> bool:
    """Returns whether a module is of one of some classes, and of no subclass, and runs their code."""
    return type(module) in kinds and not has_own_forward(module)  # type: ignore[arg-type]


def _adds_nothing(module: nn.Module, base: type[nn.Module]) -> bool:
    inherited = all(getattr(type(module), name, None) is getattr(base, name, None) for name in _METHODS)
    own = vars(module).get("_conv_forward")
    untouched = not has_own_forward(module) and (own is None or type(own) is FastForm)
    tensors = {"weight", "bias"}
    if issubclass(base, nn.modules.batchnorm._NormBase):
        tensors |= {"running_mean", "running_var", "num_batches_tracked"}
    return inherited and untouched and {*module._parameters, *module._buffers, *module._modules} <= tensors


def is_batch_norm(module: nn.Module) -> bool:
    """Returns whether a module is a batch norm and nothing more."""
    return is_only(module, _BatchNorm, nn.SyncBatchNorm)
