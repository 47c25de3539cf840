"""Models on GPUs: each computation runs in the form that is fastest there, measured at its first call.

Convolutions run in the forms of `vov3d/layers/conv_forms.py`. Where Triton is installed, the depthwise convolutions of
a bottleneck, their bias, the sums of squeeze-and-excitation and the activation can be one pass over memory. Models of
this package run on contiguous or on channels-last clips. Where Triton is missing or fails, the other forms remain.
"""

import copy
from collections.abc import Callable, Sequence
from functools import cache, partial
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._pytree import tree_leaves

from vov3d.deploy._fused import Bottleneck, Convolution, FrameWise, Gate, run_channels_last, take_settings
from vov3d.layers.choosing import choose, conditions, convolve, on
from vov3d.layers.conv import refuse_scripting, takes_other_forms
from vov3d.layers.conv_forms import is_channels_last
from vov3d.layers.conv_reference import differs
from vov3d.surgery.kinds import is_exactly

_ACTS = {nn.Identity: "none", nn.ReLU: "relu", nn.SiLU: "silu"}
_TRITON_TYPES = (torch.float32, torch.float16, torch.bfloat16)


@cache
def kernels() -> ModuleType | None:
    """Returns the kernels in Triton, None where it is not installed or cannot be imported."""
    if find_spec("triton") is None:
        return None
    try:
        from vov3d.deploy import _triton
    except Exception:  # a broken installation of Triton fails in many ways
        return None
    return _triton


def use_measured_forms(model: nn.Module) -> nn.Module:
    """Replaces the convolutions and depthwise parts of a rewritten model, in place, and returns it."""
    for owner in list(model.modules()):
        for name, module in list(owner.named_children()):
            if type(module) is Convolution and module.stride[0] == 1:
                setattr(owner, name, ChosenConvolution(module))
    for module in model.modules():
        if type(module) is Bottleneck:
            module.branch = _with_fused_middle(module.branch)
    return model


class ChosenConvolution(nn.Module):
    """A `Convolution` that runs in the form that is set or measured; its output has the clip's memory format."""

    def __init__(self, conv: Convolution) -> None:
        super().__init__()
        self.stride: tuple[int, ...]
        self.padding: tuple[int, ...]
        self.dilation: tuple[int, ...]
        self.groups: int
        take_settings(self, conv)
        self.act = conv.act
        self.weight = nn.Parameter(conv.weight.detach().contiguous(), requires_grad=False)
        self.bias = conv.bias

    __prepare_scriptable__ = refuse_scripting

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Convolves and activates `(B, C, T, H, W)`, or `(C, T, H, W)`."""
        settings = (self.stride, self.padding, self.dilation, self.groups)
        if takes_other_forms(input) and (input.is_contiguous() or is_channels_last(input)):
            return self.act(convolve(input, self.weight, self.bias, *settings))
        return self.act(F.conv3d(input, self.weight, self.bias, *settings))


def _with_fused_middle(branch: nn.Sequential) -> nn.Sequential:
    """Returns the branch of a bottleneck with its depthwise part as one module, if it is a known one."""
    layers: list[Any] = []
    for layer in branch:
        layers += layer if type(layer) is FrameWise else [layer]
    layers = [layer for layer in layers if not is_exactly(layer, nn.Identity)]
    first = next((i for i, layer in enumerate(layers) if _is_depthwise(layer)), None)
    if first is None:
        return nn.Sequential(*layers)
    convs = [layers[first]]
    if len(layers) > first + 1 and _is_pair(layers[first], layers[first + 1]):
        convs.append(layers[first + 1])
    after = first + len(convs)
    gate = layers[after] if len(layers) > after and type(layers[after]) is Gate else None
    after += gate is not None
    act: nn.Module = convs[-1].act
    if is_exactly(act, nn.Identity) and len(layers) > after and is_exactly(layers[after], *_ACTS):
        act, after = layers[after], after + 1
    acts = [conv.act for conv in convs[:-1]] + ([convs[-1].act] if gate is not None else [])
    if not is_exactly(act, *_ACTS) or not all(is_exactly(a, nn.Identity) for a in acts):
        return nn.Sequential(*layers)
    return nn.Sequential(*layers[:first], FusedMiddle(convs, gate, act), *layers[after:])


def _is_depthwise(layer: Any) -> bool:
    """Returns whether a layer is a depthwise convolution that the kernel can run."""
    if type(layer) is not ChosenConvolution:
        return False
    t, *space = layer.weight.shape[2:]
    return (
        layer.groups == len(layer.weight)
        and layer.weight.shape[1] == 1
        and t in (1, 3, 5)
        and space[0] == space[1] in (1, 3, 5)
        and layer.stride[1] == layer.stride[2] in (1, 2)
        and layer.dilation == (1, 1, 1)
        and layer.padding == (t // 2, space[0] // 2, space[1] // 2)
    )


def _is_pair(spatial: Any, temporal: Any) -> bool:
    """Returns whether two layers are a spatial and a temporal depthwise convolution with nothing in between."""
    return (
        _is_depthwise(temporal)
        and spatial.weight.shape[2] == 1
        and spatial.bias is None
        and type(spatial.act) is nn.Identity
        and temporal.weight.shape[3] == 1
        and temporal.stride == (1, 1, 1)
    )


class FusedMiddle(nn.Module):
    """Depthwise convolutions, the gate of squeeze-and-excitation and the activation.

    They run as modules one after the other, or by a kernel in Triton, whichever is faster.
    """

    def __init__(self, convs: Sequence[ChosenConvolution], gate: Gate | None, act: nn.Module) -> None:
        super().__init__()
        self.convs, self.gate = nn.Sequential(*convs), gate
        self.shapes = tuple(tuple(conv.weight.shape) for conv in convs)
        self.act: nn.Module = act if type(convs[-1].act) is nn.Identity else nn.Identity()
        self.name = _ACTS[type(act)]
        self.stride = convs[0].stride[1]

    __prepare_scriptable__ = refuse_scripting

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Runs the layers on `(B, C, T, H, W)`."""
        triton = kernels() if x.is_cuda or RUN_ON_CPU else None
        runs = triton is not None and x.dtype in _TRITON_TYPES and takes_other_forms(x)
        if not runs or torch.compiler.is_compiling() or not (x.is_contiguous() or is_channels_last(x)):
            return self.modules_in_turn(x)
        assert triton is not None
        last = is_channels_last(x)
        like = (x.device, x.dtype, last, self.shapes, self.stride, self.gate is not None, self.name)
        # The modules themselves are the first candidate, and what runs where nothing is measured.
        candidates = _Candidates(self, x, triton.BLOCKS[last])
        with on(x.device):
            name = choose((x.shape, *like), like, lambda: self._case(x, last), candidates, _Check(self, x))
            return self.modules_in_turn(x) if name == "modules" else self.in_one_pass(x, triton.BLOCKS[last][name])

    def _case(self, x: torch.Tensor, last: bool) -> dict[str, Any]:
        layers = {"kernels": [list(s) for s in self.shapes], "stride": self.stride, "activation": self.name}
        clip = {"clip": list(x.shape), "channels_last": last, "dtype": str(x.dtype).removeprefix("torch.")}
        what = {"what": "depthwise part", "triton": getattr(kernels(), "VERSION", None)}
        return conditions(x.device) | what | clip | layers | {"gate": self.gate is not None}

    def modules_in_turn(self, x: torch.Tensor) -> torch.Tensor:
        """Runs the layers one after the other."""
        x = self.convs(x)
        return self.act(x if self.gate is None else self.gate(x))

    def in_one_pass(self, x: torch.Tensor, block: tuple[int, int, int]) -> torch.Tensor:
        """Runs the kernel, and a second pass for the gate if there is one."""
        triton: Any = kernels()
        bias = self.convs[-1].bias
        bias = x.new_zeros(x.shape[1]) if bias is None else bias
        act = "none" if self.gate is not None else self.name
        first: Any = self.convs[0].weight
        spatial, temporal = first[:, 0], None
        if len(self.convs) == 2:
            second: Any = self.convs[1].weight
            spatial, temporal = first[:, 0, 0], second[:, 0, :, 0, 0]
        y, sums = triton.depthwise(x, spatial, temporal, bias, self.stride, act, self.gate is not None, block)
        if self.gate is None:
            return y
        mean = (sums / y.shape[2:].numel()).to(x.dtype)
        gate = self.gate.fc2(self.gate.act(self.gate.fc1(mean))).sigmoid_()
        return triton.gated(y, gate, self.name)


RUN_ON_CPU = False
"""True in tests, where Triton's interpreter runs the kernels on a CPU."""


class _Candidates(dict[str, Callable[[], Sequence[torch.Tensor]]]):
    """The forms of a `FusedMiddle`, on random numbers with the shape of a clip, which are made at the first call."""

    def __init__(self, middle: FusedMiddle, x: torch.Tensor, blocks: dict[str, tuple[int, int, int]]) -> None:
        super().__init__()
        made: list[torch.Tensor] = []

        def clip() -> torch.Tensor:
            if not made:
                made.append(random_like(x))
            return made[0]

        def one_pass(block: tuple[int, int, int]) -> list[torch.Tensor]:
            try:
                return [middle.in_one_pass(clip(), block)]
            except Exception as e:  # without a compiler, Triton raises errors of many classes
                raise RuntimeError(f"Triton failed: {e}") from e

        self["modules"] = lambda: [middle.modules_in_turn(clip())]
        for name, block in blocks.items():
            self[name] = partial(one_pass, block)


class _Check:
    """Compares the first and the last clip of a batch with the modules in float64."""

    def __init__(self, middle: FusedMiddle, x: torch.Tensor) -> None:
        self.middle, self.x, self.expected = middle, x, torch.empty(0)

    def __call__(self, results: Sequence[torch.Tensor]) -> str | None:
        """Returns how the results differ, None if by no more than rounding."""
        y = results[0]
        if not self.expected.numel():
            exact = copy.deepcopy(self.middle).double()
            clips = random_like(self.x)[[0, -1]].double().contiguous()
            layers: Any = exact.convs
            for conv in layers:
                clips = conv.act(F.conv3d(clips, conv.weight, conv.bias, conv.stride, conv.padding, groups=conv.groups))
            self.expected = exact.act(clips if exact.gate is None else exact.gate(clips))
        taps = sum(torch.Size(shape[1:]).numel() for shape in self.middle.shapes)
        tf32 = y.dtype == torch.float32  # the gate's products may be rounded
        return differs(y[[0, -1]], self.expected, y.dtype, taps, tf32)


def random_like(x: torch.Tensor) -> torch.Tensor:
    """Returns the same random numbers at every call, with the shape, precision and memory format of a clip."""
    return torch.empty_like(x).normal_(generator=torch.Generator(x.device).manual_seed(0))


class Layout:
    """The memory format in which a model is called with contiguous clips, measured for each shape of them."""

    def __init__(self) -> None:
        self.model = object()  # the key of this model's choices

    def is_channels_last(self, function: Callable[..., Any], args: Any, kwargs: Any) -> bool:
        """Returns whether a call is faster with channels-last clips."""
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        if torch.jit.is_tracing() or not any(takes_other_forms(x) and x.is_contiguous() for x in tensors):
            return True
        calls: dict[str, Callable[[], Any]] = {
            "channels_last": lambda: tree_leaves(run_channels_last(function, args, kwargs)),
            "as_given": lambda: tree_leaves(function(*args, **kwargs)),
        }
        which = getattr(function, "__name__", type(function).__name__)  # forward_features, ...
        like = (self.model, which, *((x.dtype, x.device) for x in tensors))
        key = (like, *(x.shape for x in tensors))
        with on(tensors[0].device):
            return choose(key, like, None, calls, lambda outputs: None) == "channels_last"
