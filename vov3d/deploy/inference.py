"""A trained model rewritten for speed on one device, with the same call and the same numbers.

Batch norms are folded (`vov3d.fold_batchnorm`). Then, for any model: 3D convolutions keep clips channels-last, kernels
of one frame run as 2D convolutions or matrix products, and an activation that alone reads a convolution's output is
part of it. For the blocks of this package: T-OSA's shortcut is part of its aggregation, sums and gates work in place.
Large batches of their models run in pieces. What is not known exactly stays as it is.
"""

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from vov3d.deploy._modules import (
    ACTIVATIONS,
    Aggregation,
    Bottleneck,
    Convolution,
    has_onednn,
    run_channels_last,
)
from vov3d.layers import TOSA, ConvNormAct3d, D2plus1D
from vov3d.models._network import Stage
from vov3d.surgery.folding import fold_batchnorm, pairs
from vov3d.surgery.hooks import check_no_hooks
from vov3d.surgery.kinds import is_only

PIECE_VOXELS = 16 * 224 * 224
"""Frames x height x width that go through a model of this package at once on a CPU (docs/benchmarks.md): more falls
out of the cache."""

# PyTorchVideo's own x * sigmoid(x), which keeps its input for a backward pass.
_SWISH = ("pytorchvideo.layers.swish", "Swish")


def optimize_for_inference(
    model: nn.Module,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    compile: bool | str = False,
) -> nn.Module:
    """Rewrites a model for fast inference on one device in one precision.

    Args:
        model: A model in eval mode: one of this package, also with `features_only`, or any other; it is not changed.
        device: Where it will run; where it is if None.
        dtype: Its precision; the one that it has if None. Inputs are converted, outputs stay in it.
        compile: True compiles `forward` with `torch.compile`, a string is its mode (`"reduce-overhead"` for CUDA
            graphs).

    Returns:
        A module with the calls (`forward`, `forward_features`, `forward_dense`, ...) and the settings
        (`pretrained_cfg`, `num_classes`, `feature_info`, ...) of the model, without gradients.

    Raises:
        ValueError: If the model is in train mode, or a part that would be replaced has hooks.
    """
    training = [name or "the model" for name, module in model.named_modules() if module.training]
    if training:
        raise ValueError(f"{training[0]} is in train mode; call eval() on the model before optimizing it")
    tensor = next(model.parameters(), torch.empty(0))
    device = tensor.device if device is None else torch.device(device)
    dtype = tensor.dtype if dtype is None else dtype
    if not dtype.is_floating_point:
        raise ValueError(f"dtype must be a floating type such as torch.float32 or torch.bfloat16, got {dtype}")
    # The compiler fuses more itself than what it is given fused.
    onednn = not compile and has_onednn(device.type, dtype)
    rewritten = _rewrite(fold_batchnorm(model), onednn, add_up=dtype == torch.float32)  # bf16 would round each sum
    return OptimizedModel(model, rewritten.requires_grad_(False).to(device, dtype), device, dtype, compile)


class OptimizedModel(nn.Module):
    """What `optimize_for_inference` returns: the rewritten model behind the calls and the settings of the original.

    Attributes:
        device: Where it runs.
        dtype: Its precision.
    """

    def __init__(
        self, original: nn.Module, model: nn.Module, device: torch.device, dtype: torch.dtype, compile: bool | str
    ) -> None:
        super().__init__()
        settings = {k: v for k, v in vars(original).items() if not k.startswith("_") and k != "training"}
        self.__dict__.update(copy.deepcopy(settings))
        self.model = model
        self.device, self.dtype = device, dtype
        self._channels_last = True
        self._in_pieces = device.type == "cpu" and any(isinstance(m, Stage) for m in model.modules())
        if compile:
            model.compile(mode=compile if isinstance(compile, str) else None)
        super().train(False)

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Calls the model on `(B, C, T, H, W)`."""
        return self._run(self.model, x, *args, **kwargs)

    def train(self, mode: bool = True) -> "OptimizedModel":
        """Stays in eval mode.

        Raises:
            ValueError: If `mode` is True: folded norms cannot be trained.
        """
        if mode:
            raise ValueError("an optimized model cannot be trained; train the original and optimize it again")
        return self

    def __getattr__(self, name: str) -> Any:
        """Every `forward_*` of the model, run as `forward` is."""
        if name.startswith("forward_") and hasattr(model := self._modules["model"], name):
            return partial(self._run, getattr(model, name))
        return super().__getattr__(name)

    @torch.no_grad()
    def _run(self, call: Callable[..., Any], x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        x, call = x.to(self.device, self.dtype), partial(self._laid_out, call)
        size = max(1, PIECE_VOXELS // max(1, x[0, 0].numel())) if self._in_pieces and x.ndim == 5 and len(x) else len(x)
        if len(x) <= size:
            return call(x, *args, **kwargs)
        return _join([call(piece, *args, **kwargs) for piece in x.split(size)])

    def _laid_out(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Calls on channels-last clips, or as they are once the model's own code could not take that layout."""
        if self._channels_last:
            try:
                return run_channels_last(call, args, kwargs)
            except RuntimeError:
                outputs = call(*args, **kwargs)
                self._channels_last = False
                return outputs
        return call(*args, **kwargs)


def _join(outputs: Sequence[Any]) -> Any:
    """Outputs for pieces of a batch, tensors or sequences of tensors, as those for the batch."""
    if isinstance(outputs[0], torch.Tensor):
        return torch.cat(list(outputs))
    return type(outputs[0])(_join(parts) for parts in zip(*outputs, strict=True))


def _rewrite(model: nn.Module, onednn: bool, add_up: bool) -> nn.Module:
    """Rewrites a folded copy, blocks first and last."""
    _replace(model, _fast_block)
    for owner, first, second in list(pairs(model)):
        conv: Any = owner.get_submodule(first)
        act = owner.get_submodule(second)
        if type(act) in ACTIVATIONS and _is_plain(conv):
            check_no_hooks(first, conv)
            check_no_hooks(second, act)
            owner.set_submodule(first, Convolution(conv, act, onednn))
            owner.set_submodule(second, nn.Identity())
    _replace(model, lambda module: Convolution(module, None, onednn) if _is_plain(module) else None)
    for name, module in list(model.named_modules()):
        if type(module) in (Aggregation, Bottleneck):
            check_no_hooks(f"{name}.act", module.act)
        if type(module) is Bottleneck:
            module.fuse()
        if type(module) is Aggregation:
            module.fuse(add_up)
    return model


def _replace(model: nn.Module, fast_form: Callable[[Any], nn.Module | None]) -> None:
    """Puts fast forms in the places of the modules inside a model that have one."""
    for owner_name, owner in list(model.named_modules()):
        for name, module in list(owner.named_children()):
            fast = fast_form(module)
            if fast is not None:
                check_no_hooks(f"{owner_name}.{name}".lstrip("."), module)
                setattr(owner, name, fast)


def _fast_block(module: nn.Module) -> nn.Module | None:
    """The fast form of a block, if it has one."""
    if type(module) is TOSA and _is_mergeable(module):
        return Aggregation(module)
    if type(module) is D2plus1D:
        return Bottleneck(module)
    if (type(module).__module__, type(module).__qualname__) == _SWISH:
        return nn.SiLU()
    return None


def _is_mergeable(block: Any) -> bool:
    """Whether T-OSA's aggregation and shortcut are convolutions with folded norms and nothing else."""
    shortcut = block.shortcut
    if type(shortcut) is ConvNormAct3d:
        plain = type(shortcut.bn) is type(shortcut.act) is nn.Identity and shortcut.conv.bias is not None
    else:
        plain = type(shortcut) is nn.Identity
    return plain and type(block.bn_agg) is nn.Identity and block.conv_agg.bias is not None


def _is_plain(module: Any) -> bool:
    """Whether a module is a 3D convolution and nothing more."""
    return (
        is_only(module, nn.Conv3d)
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
        and not parametrize.is_parametrized(module)
    )
