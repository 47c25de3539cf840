"""Rewrites a trained model for speed on one device, with the same calls and the same outputs.

Batch norms are folded (`vov3d.fold_batchnorm`). Then, for any model: 3D convolutions keep clips channels-last, kernels
of one frame run as 2D convolutions or matrix products, and an activation that is the only reader of a convolution is
fused into it. For the blocks of this package: T-OSA's shortcut is merged into its aggregation, sums and gates work in
place. Large batches of their models run in pieces. On GPUs the forms are measured (`_gpu.py`). Modules that are not
exactly of a known kind stay unchanged.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from vov3d.deploy._fused import (
    ACTIVATIONS,
    Aggregation,
    Bottleneck,
    Convolution,
    does_nothing,
    has_onednn,
    is_mergeable,
    run_channels_last,
)
from vov3d.deploy._gpu import Layout, use_measured_forms
from vov3d.deploy._streaming import StreamingNetwork
from vov3d.layers import TOSA, D2plus1D
from vov3d.layers.choosing import MEASURED
from vov3d.models.family import family_of
from vov3d.surgery.folding import fold_batchnorm, pairs
from vov3d.surgery.hooks import check_no_hooks, has_hooks
from vov3d.surgery.kinds import has_own_forward, is_exactly, is_only
from vov3d.surgery.placing import check_is_module, held_elsewhere
from vov3d.surgery.tracing import with_own_state

PIECE_BYTES = 2 * 4 * 16 * 224 * 224
"""Bytes of a channel that go through a model of this package at once on a CPU: two clips of 16 x 224 x 224 in float32,
four in bf16. One clip keeps two threads less busy; maps of more leave the cache (docs/results/benchmarks.md)."""

_AGAIN = "call vov3d.optimize_for_inference on the original again, with the device= and dtype= that it needs"
_EXPORT = "call vov3d.export, torch.jit.trace or torch.export.export with the original"

# New in torch 2.7.
_is_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)

# PyTorchVideo's x * sigmoid(x), which keeps its input for a backward pass.
_SWISH = ("pytorchvideo.layers.swish", "Swish")


def optimize_for_inference(
    model: nn.Module,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    compile: bool | str = False,
    backend: str = "torch",
) -> nn.Module:
    """Rewrites a model for fast inference on one device in one precision.

    Another backend than PyTorch computes it from a file in memory, on the CPU, for clips of any size. It is converted
    and compared with the model first, as by `export`, which takes seconds. It has the calls `forward` and
    `forward_dense`, can be copied and pickled, and uses the threads that its runtime chooses.

    Args:
        model: A model in eval mode: one of this package, also with `features_only`, or any other; it is not changed.
        device: The device to run on; the model's if None.
        dtype: The precision; the model's if None. Floating-point inputs are converted to it, others stay as they are,
            as do complex weights; outputs have it, under `torch.autocast` too.
        compile: True compiles `forward` with `torch.compile`; a string is the mode (`"reduce-overhead"` for CUDA
            graphs).
        backend: `"torch"`; `"openvino"` or `"onnxruntime"` for models made by `create_model`, whole or with
            `features_only`; `"auto"` takes OpenVINO if it is installed and takes the model, device and precision, else
            PyTorch.

    Returns:
        A module with the calls (`forward`, `forward_features`, `forward_dense`, ...) and the settings
        (`pretrained_cfg`, `num_classes`, `feature_info`, ...) of the model, without gradients. Its inputs and outputs
        are those of the model, tensors in lists and dictionaries too. Device and precision cannot be changed later.

    Raises:
        ValueError: If the model is in train mode, optimized already or wrapped for several processes, a part that
            would be replaced has hooks, or the backend is unknown or does not support the model or the settings.
        ImportError: If the backend is not installed; names the extra.
        ExportError: If the backend's outputs differ from the model's by more than the bound of `export`.
    """
    from vov3d.deploy import _runtimes  # which exports, and so knows optimized models

    if backend not in _runtimes.BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(map(repr, _runtimes.BACKENDS))}, got {backend!r}")
    if isinstance(model, OptimizedModel | _runtimes.RuntimeModel):
        raise ValueError(f"the model is optimized already; to change it, {_AGAIN}")
    if isinstance(compiled := getattr(model, "_orig_mod", None), nn.Module):
        raise ValueError(
            f"the model is compiled: give its {type(compiled).__name__}, model._orig_mod, and compile=True"
        )
    check_is_module(model)
    training = [name or "the model" for name, module in model.named_modules() if module.training]
    if training:
        raise ValueError(f"{training[0]} is in train mode; call eval() on the model before optimizing it")
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise ValueError(f"dtype must be a floating type such as torch.float32 or torch.bfloat16, got {dtype!r}")
    tensors = [*model.parameters(), *model.buffers()] or [torch.empty(0)]
    floats = [t for t in tensors if t.is_floating_point()]
    device = (floats or tensors)[0].device if device is None else torch.device(device)
    if dtype is None and len({t.dtype for t in floats}) == 1:  # a model of mixed precision stays so
        dtype = floats[0].dtype
    if backend == "auto" and not compile:
        if (made := _runtimes.runtime_model_or_none(model, device, dtype)) is not None:
            return made
    elif backend not in ("torch", "auto"):
        return _runtimes.runtime_model(model, backend, device, dtype, compile)
    # torch.compile fuses more if it is given separate operations.
    onednn = not compile and dtype is not None and has_onednn(device.type, dtype)
    rewritten = _rewrite(fold_batchnorm(model), onednn, add_up=dtype == torch.float32)  # bf16 would round each sum
    layout, per_clip = None, _is_per_clip(model)
    if device.type in MEASURED and not compile:  # compilers get plain operations
        rewritten = use_measured_forms(rewritten)
        layout = Layout() if per_clip else None  # measuring calls a model often: others may have a state
    rewritten.requires_grad_(False)._apply(lambda t: t.to(device, dtype if t.is_floating_point() else None))
    return OptimizedModel(rewritten, device, dtype, compile, device.type == "cpu" and per_clip, layout)


def _is_per_clip(model: nn.Module) -> bool:
    """Returns whether a model is one of this package whose layers all treat the clips of a batch separately."""
    features_only = type(model).__module__.startswith("timm.models._features") and hasattr(model, "model_args")
    return (family_of(model) is not None or features_only) and all(
        type(m).__module__.partition(".")[0] in ("torch", "timm", "vov3d")
        and not has_own_forward(m)
        and not has_hooks(m)
        and not (isinstance(m, _BatchNorm) and m.running_mean is None)
        for m in model.modules()
    )


class OptimizedModel(nn.Module):
    """A model rewritten by `optimize_for_inference`, with the calls and the settings of the original.

    Attributes:
        device: Where it runs.
        dtype: Its precision; None if the original's parts have several.
        backend: `"torch"`.
    """

    backend = "torch"

    def __init__(
        self,
        model: nn.Module,
        device: torch.device,
        dtype: torch.dtype | None,
        compile: bool | str,
        in_pieces: bool,
        layout: Layout | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.device, self.dtype = device, dtype
        self._channels_last = True
        self._shapes: set[tuple[torch.Size, ...]] = set()
        self._layout = layout
        self._in_pieces = in_pieces
        if compile:
            model.compile(mode=compile if isinstance(compile, str) else None)
        super().train(False)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the model with its own arguments, usually clips `(B, C, T, H, W)`."""
        return self._run(self.model, *args, **kwargs)

    def train(self, mode: bool = True) -> "OptimizedModel":
        """Stays in eval mode, also as a part of a model in train mode.

        Raises:
            ValueError: If it is itself set to train mode: folded norms cannot be trained.
        """
        # The parent's train() calls this too.
        if mode and sys._getframe(1).f_code is not nn.Module.train.__code__:
            raise ValueError(f"an optimized model cannot be trained; train the original, then {_AGAIN}")
        return self

    def requires_grad_(self, requires_grad: bool = True) -> "OptimizedModel":
        """Raises ValueError for True: no gradients are kept."""
        if requires_grad:
            raise ValueError(f"an optimized model has no gradients; train the original, then {_AGAIN}")
        return self

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Loads its own tensors.

        Raises:
            ValueError: If the tensors are others, such as those of the original.
        """
        if state_dict.keys() != self.state_dict().keys():
            raise ValueError(f"an optimized model has other tensors than the original; load them there, then {_AGAIN}")
        return super().load_state_dict(state_dict, strict, assign)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> "OptimizedModel":
        """Refuses changes of device and precision by `to()`, `half()`, `cuda()` and the like, also of a parent."""
        tensors = [*self.parameters(), *self.buffers()]
        for dtype in {t.dtype for t in tensors if t.is_floating_point() or t.is_complex()}:
            old = torch.empty(0, dtype=dtype, device=self.device)
            new = fn(old)
            if (new.dtype, new.device) != (old.dtype, old.device):
                raise ValueError(
                    f"a model optimized for {old.dtype} on {old.device} cannot become one of {new.dtype} on"
                    f" {new.device}; {_AGAIN}"
                )
        return super()._apply(fn, recurse)

    def __prepare_scriptable__(self) -> None:
        """Raises an error in `torch.jit.script`."""
        raise ValueError(f"an optimized model cannot be scripted; {_EXPORT}")

    def __getattr__(self, name: str) -> Any:
        """Returns a `forward_*` of the model, run as `forward` is, a setting, or a stream's functions of states."""
        model = self.__dict__.get("_modules", {}).get("model")
        if model is None or name.startswith("_") or name in self._modules or not hasattr(model, name):
            return super().__getattr__(name)
        value = getattr(model, name)
        if name.startswith("forward_"):
            return partial(self._run, value)
        if name in ("initial_state", "reset") and isinstance(model, StreamingNetwork):
            return value
        if callable(value) and not isinstance(value, nn.Module) and name != "get_classifier":
            raise AttributeError(f"an optimized model has no {name}; use the original's, then {_AGAIN}")
        return value

    @torch.no_grad()
    def _run(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self.dtype is None or not torch.is_autocast_enabled(self.device.type):
            return self._in_pieces_of_the_batch(call, *args, **kwargs)
        with torch.autocast(self.device.type, enabled=False):  # the precision was chosen already
            return self._in_pieces_of_the_batch(call, *args, **kwargs)

    def _in_pieces_of_the_batch(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        args, kwargs = tree_map(self._placed, (args, kwargs))
        call = partial(self._laid_out, call)
        clips = args[0] if self._in_pieces and len(tensors) == 1 and args else None
        if not isinstance(clips, torch.Tensor) or clips.ndim != 5 or torch.jit.is_tracing() or _is_exporting():
            return call(*args, **kwargs)
        size = max(1, PIECE_BYTES // max(1, clips.element_size() * clips.shape[2:].numel()))
        if len(clips) <= size:
            return call(*args, **kwargs)
        return _join([call(piece, *args[1:], **kwargs) for piece in clips.split(size)])

    def _placed(self, leaf: Any) -> Any:
        """Moves an input to the model's device, in its precision if it is a floating-point tensor."""
        if not isinstance(leaf, torch.Tensor):
            return leaf
        return leaf.to(self.device, self.dtype if leaf.is_floating_point() else None)

    def _laid_out(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Calls with channels-last clips, or with clips as given once the model's own code failed on that layout."""
        if self._channels_last and (self._layout is None or self._layout.is_channels_last(call, args, kwargs)):
            before = self._before_first_call(args, kwargs)
            try:
                return run_channels_last(call, args, kwargs)
            except RuntimeError:
                if before is not None:
                    vars(self.model).update(vars(before))
                outputs = call(*args, **kwargs)
                self._channels_last = False
                return outputs
        return call(*args, **kwargs)

    def _before_first_call(self, args: Any, kwargs: Any) -> nn.Module | None:
        """Returns a copy of a model that may keep a state, which a call that fails may have changed.

        Shapes that went through before are not expected to fail.
        """
        if self._in_pieces or self._layout is not None or torch.compiler.is_compiling():
            return None
        shapes = tuple(x.shape for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor))
        if shapes in self._shapes:
            return None
        self._shapes.add(shapes)
        return with_own_state(self.model)


def _join(outputs: Sequence[Any]) -> Any:
    """Concatenates outputs for pieces of a batch, tensors in any structure."""
    leaves, structure = tree_flatten(outputs[0])
    parts = [leaves, *(tree_leaves(output) for output in outputs[1:])]
    return tree_unflatten([torch.cat(same) for same in zip(*parts, strict=True)], structure)


def _rewrite(model: nn.Module, onednn: bool, add_up: bool) -> nn.Module:
    """Rewrites a folded copy: blocks, then convolutions, then fuses inside the blocks."""
    held = held_elsewhere(model)  # called there too: only what is registered gets another device or precision
    _replace(model, _fast_block, held)
    plain = any(map(_is_plain, model.modules()))  # a stream has none, and takes a trace of each of its layers
    for owner, first, second in list(pairs(model)) if plain else ():
        conv: Any = owner.get_submodule(first)
        act = owner.get_submodule(second)
        if is_exactly(act, *ACTIVATIONS) and _is_plain(conv):
            check_no_hooks(first, conv)
            check_no_hooks(second, act)
            owner.set_submodule(first, Convolution(conv, act, onednn))
            owner.set_submodule(second, nn.Identity())
    _replace(model, lambda module: Convolution(module, None, onednn) if _is_plain(module) else None, held)
    for name, module in list(model.named_modules()):
        if type(module) in (Aggregation, Bottleneck):
            check_no_hooks(f"{name}.act", module.act)
        if type(module) is Bottleneck:
            module.fuse()
        if type(module) is Aggregation:
            module.fuse(add_up)
    return model


def _replace(model: nn.Module, fast_form: Callable[[Any], nn.Module | None], held: set[nn.Module]) -> None:
    """Replaces the modules inside a model that have a fast form, but for those that its code holds apart as well."""
    for owner_name, owner in list(model.named_modules()):
        for name, module in list(owner.named_children()):
            fast = None if module in held else fast_form(module)
            if fast is not None:
                check_no_hooks(f"{owner_name}.{name}".lstrip("."), module)
                setattr(owner, name, fast)


def _fast_block(module: Any) -> nn.Module | None:
    """Returns the fast form of a block, if it has one."""
    if is_exactly(module, TOSA, D2plus1D) and not does_nothing(module.drop_path):
        return None
    if is_exactly(module, TOSA) and is_mergeable(module):
        return Aggregation(module)
    if is_exactly(module, D2plus1D):
        return Bottleneck(module)
    if (type(module).__module__, type(module).__qualname__) == _SWISH and not has_own_forward(module):
        return nn.SiLU()
    return None


def _is_plain(module: Any) -> bool:
    """Returns whether a module is a 3D convolution and nothing more."""
    return (
        is_only(module, nn.Conv3d)
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
        and not module.weight.is_complex()
        and not parametrize.is_parametrized(module)
    )
