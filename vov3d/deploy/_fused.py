"""Convolutions and blocks that models are rewritten to for inference: without norms, and in place where possible."""

import copy
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from vov3d.layers import TOSA, ConvNormAct3d, D2plus1D, SqueezeExcite3d
from vov3d.layers.conv import (
    in_float32,
    is_followed,
    is_wrong_in_bf16,
    keeps_layout,
    refuse_scripting,
    takes_other_forms,
)
from vov3d.layers.conv_forms import is_channels_last
from vov3d.surgery.kinds import is_exactly, is_only

FRAMES_BYTES = 16 << 20
"""Above this size in bytes, a CPU computes a map a few frames at a time, since allocating memory is slow."""

FEW_POSITIONS = 144
"""Up to this number of positions, a quarter of it for larger kernels, a matrix product is faster than oneDNN's
convolution, measured with 64 to 2048 channels."""

# oneDNN's names of the activations that it can fuse with a convolution.
_EPILOGUES = {nn.ReLU: "relu", nn.SiLU: "swish"}
_PLAIN: dict[str | None, Callable[..., torch.Tensor]] = {"relu": F.relu, "swish": F.silu}
ACTIVATIONS = (nn.ReLU, nn.SiLU, nn.Hardswish, nn.ReLU6, nn.LeakyReLU, nn.ELU)
"""Activations that can overwrite their input."""


def to_rows(x: torch.Tensor) -> torch.Tensor:
    """Turns `(B, C, T, H, W)` into `(B, T, H, W, C)`, the order of channels-last memory."""
    return x.permute(0, 2, 3, 4, 1)


def from_rows(x: torch.Tensor) -> torch.Tensor:
    """Turns `(B, T, H, W, C)` into `(B, C, T, H, W)`."""
    return x.permute(0, 4, 1, 2, 3)


def in_place(act: nn.Module) -> nn.Module:
    """Returns an activation that overwrites its input, if its class can; a module may be used elsewhere as well."""
    if is_exactly(act, *ACTIVATIONS):
        act = copy.copy(act)
        act.inplace = True  # type: ignore[assignment]
    return act


@torch.no_grad()
def does_nothing(layer: nn.Module) -> bool:
    """Returns whether a layer, such as stochastic depth in eval mode, gives back what it is given."""
    x = torch.linspace(-1e3, 1e3, 48).view(2, 3, 2, 2, 2)
    try:
        return torch.equal(layer(x.clone()), x)
    except RuntimeError:
        return False


@torch.no_grad()
def _is_framewise(act: nn.Module) -> bool:
    """Returns whether an activation treats each frame alone."""
    x = torch.linspace(-4, 4, 120).view(2, 3, 4, 5, 1)
    try:
        whole, frames = act(x.clone()), [act(frame.clone()) for frame in x.split(1, 2)]
        return torch.allclose(whole, torch.cat(frames, 2), rtol=1e-4, atol=1e-6)
    except RuntimeError:
        return False


@cache
@torch.autocast("cpu", enabled=False)  # the caller's would give the convolutions another precision than is asked for
def has_onednn(device_type: str, dtype: torch.dtype) -> bool:
    """Returns whether oneDNN's fused convolution and activation, which torch.compile uses, runs here and is correct.

    It is not a documented function of PyTorch, so one small convolution is compared.
    """
    if device_type != "cpu" or dtype not in (torch.float32, torch.bfloat16):
        return False
    x, weight = torch.linspace(-2, 2, 32, dtype=dtype).view(1, 2, 4, 4), torch.ones(2, 2, 1, 1, dtype=dtype)
    x = x.contiguous(memory_format=torch.channels_last)
    try:
        if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return False
        activated = _activated(x, weight, None, [1, 1], [0, 0], [1, 1], 1, "swish")
        total = _added(x.clone(), x, weight, None, "none")
        rectified = _rectified_sum(x, weight, None, x)
    except (AttributeError, RuntimeError):
        return False
    wanted = F.conv2d(x.float(), weight.float())
    pairs = [(activated, F.silu(wanted)), (total, wanted + x.float()), (rectified, F.relu(wanted + x.float()))]
    return all(torch.allclose(out.float(), expected, rtol=1e-2, atol=1e-2) for out, expected in pairs)


def _same(x: torch.Tensor) -> torch.Tensor:
    return x


def _is_plain(x: torch.Tensor) -> bool:
    """Returns whether oneDNN's functions cannot be used: in traces and the model's own autocast, for empty inputs."""
    return is_followed() or not x.numel() or torch.is_autocast_enabled("cpu")


def _activated(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    act: str,
) -> torch.Tensor:
    """Convolves by oneDNN with a fused activation (`"none"`, `"relu"`, `"swish"`)."""
    if _is_plain(x):
        convolve: Any = F.conv3d if x.ndim == 5 else F.conv2d
        return _PLAIN.get(act, _same)(convolve(x, weight, bias, stride, padding, dilation, groups))
    return torch.ops.mkldnn._convolution_pointwise(x, weight, bias, padding, stride, dilation, groups, act, [], "")


def _adds_plainly(x: torch.Tensor) -> bool:
    """Returns whether sums need PyTorch's own functions: oneDNN of PyTorch 2.6 to 2.8 adds no maps of one position."""
    return x.shape[-1] * x.shape[-2] == 1 or _is_plain(x)


_1x1: Any = ([0, 0], [1, 1], [1, 1], 1)  # padding, stride, dilation, groups


def _rectified_sum(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, other: torch.Tensor
) -> torch.Tensor:
    """Computes `relu(conv(x) + other)` of a 1x1 convolution in one pass."""
    if _adds_plainly(x):
        return F.relu(F.conv2d(x, weight, bias) + other)
    return torch.ops.mkldnn._convolution_pointwise.binary(x, other, weight, bias, *_1x1, "add", 1.0, "relu", [], "")


def _added(
    total: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, act: str
) -> torch.Tensor:
    """Adds a 1x1 convolution to `total`, in place, and applies the activation in the same pass."""
    if _adds_plainly(x):
        return _PLAIN.get(act, _same)(total + F.conv2d(x, weight, bias))
    unary = None if act == "none" else act
    return torch.ops.mkldnn._convolution_pointwise_.binary(total, x, weight, bias, *_1x1, "add", 1.0, unary, [], "")


def run_channels_last(call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Calls a model with channels-last clips; outputs are contiguous if an input clip was.

    Raises:
        RuntimeError: From the model's own code, such as `.view()` of a map, which needs contiguous memory.
    """
    contiguous = [x for x in tree_leaves((args, kwargs)) if takes_other_forms(x) and not is_channels_last(x)]
    if not contiguous:
        return call(*args, **kwargs)
    args, kwargs = tree_map(partial(_laid_out, format=torch.channels_last_3d), (args, kwargs))
    return tree_map(partial(_laid_out, format=torch.contiguous_format), call(*args, **kwargs))


def _laid_out(x: Any, format: torch.memory_format) -> Any:
    return x.contiguous(memory_format=format) if takes_other_forms(x) else x


def to_frames(x: torch.Tensor) -> torch.Tensor:
    """Turns `(B, C, T, H, W)` into channels-last `(B T, C, H, W)`."""
    return to_rows(x.contiguous(memory_format=torch.channels_last_3d)).flatten(0, 1).permute(0, 3, 1, 2)


def from_frames(x: torch.Tensor, batch: int, frames: int) -> torch.Tensor:
    """Turns channels-last `(B T, C, H, W)` into `(B, C, T, H, W)`."""
    return from_rows(x.permute(0, 2, 3, 1).unflatten(0, (batch, frames)))


_SETTINGS = (
    *("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups"),
    *("padding_mode", "output_padding"),
)


def take_settings(module: Any, conv: Any) -> None:
    """Gives a module the settings of the convolution that it replaces, which the code around it may read."""
    for name in _SETTINGS:
        setattr(module, name, getattr(conv, name))


class Convolution(nn.Module):
    """A `Conv3d` and the activation after it, for inference, fast on channels-last memory.

    Kernels of one frame run as `conv2d` on `(B T, C, H, W)`. With `onednn` the activation is fused into the
    convolution; otherwise 1x1x1 is a matrix product and the activation works in place. The output has the memory
    format of the input.
    """

    def __init__(self, conv: nn.Conv3d, act: nn.Module | None, onednn: bool) -> None:
        super().__init__()
        self.stride: tuple[int, ...]
        self.padding: tuple[int, ...]
        self.dilation: tuple[int, ...]
        self.groups: int
        take_settings(self, conv)
        self.one_frame = conv.kernel_size[0] == 1 and self.padding[0] == 0
        self.is_point = conv.kernel_size == (1, 1, 1) and not any(self.padding)
        self.matmul = not onednn and self.is_point and conv.groups == 1
        self.epilogue = (_EPILOGUES.get(type(act), "none") if act else "none") if onednn else None
        fused = self.epilogue not in (None, "none")
        self.act = nn.Identity() if act is None or fused else in_place(act)
        # The shape stays, since code around may read the kernel. oneDNN rearranges kernels in each call, from this
        # format in less time.
        weight = conv.weight.detach().contiguous(memory_format=torch.channels_last_3d)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if conv.bias is None else nn.Parameter(conv.bias.detach(), requires_grad=False)

    __prepare_scriptable__ = refuse_scripting

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Convolves and activates `(B, C, T, H, W)`, or `(C, T, H, W)`."""
        x = input  # PyTorch's name, which calls by keyword use
        if not takes_other_forms(x) or not x.is_contiguous(memory_format=torch.channels_last_3d):
            # contiguous input gives contiguous output, which .view() takes
            weight = self.weight.contiguous()
            sizes = self.stride, self.padding, self.dilation
            convolve: Any = in_float32 if takes_other_forms(x) and self._is_wrong(x, *sizes) else F.conv3d
            out = convolve(x, weight, self.bias, *sizes, self.groups)
            return self.act(_PLAIN.get(self.epilogue, _same)(out))
        return self.act(self._fast(x))

    def _fast(self, x: torch.Tensor) -> torch.Tensor:
        t, h, w = self.stride
        if self._has_few_positions(x):
            return self._as_product(x)
        if self.matmul:
            return from_rows(F.linear(to_rows(x[:, :, ::t, ::h, ::w]), self.weight.flatten(1), self.bias))
        if not self.one_frame:
            return self._convolve(x, self.weight, self.stride, self.padding, self.dilation)
        x = x[:, :, ::t]
        if self.is_point:
            x, h, w = x[..., ::h, ::w], 1, 1  # the positions that the kernel reads; see vov3d.layers.conv
        frames = self._convolve(to_frames(x), self.weight.squeeze(2), [h, w], self.padding[1:], self.dilation[1:])
        return from_frames(frames, len(x), x.shape[2])

    def _has_few_positions(self, x: torch.Tensor) -> bool:
        """Returns whether so little is computed that oneDNN's rearranging of the kernel takes most of the time."""
        if self.epilogue is None or self.groups > 1 or max(self.dilation) > 1 or x.dtype != torch.float32:
            return False
        count = len(x)
        for size, pad, kernel, stride in zip(
            x.shape[2:], self.padding, self.weight.shape[2:], self.stride, strict=True
        ):
            count *= (size + 2 * pad - kernel) // stride + 1
        if x.is_contiguous() and count > len(x):  # one channel: PyTorch gives a map that .view() takes
            return False
        return 0 < count <= (FEW_POSITIONS if self.is_point else FEW_POSITIONS // 4)

    def _as_product(self, x: torch.Tensor) -> torch.Tensor:
        """Convolves by a matrix product of the patches that the kernel reads."""
        t, h, w = self.padding
        patches = to_rows(F.pad(x, (w, w, h, h, t, t)) if any(self.padding) else x)
        for axis, (kernel, stride) in enumerate(zip(self.weight.shape[2:], self.stride, strict=True), 1):
            patches = patches.unfold(axis, kernel, stride)
        rows = patches.movedim(4, -1).flatten(4).flatten(0, 3)
        out = F.linear(rows, self.weight.movedim(1, -1).flatten(1), self.bias).unflatten(0, patches.shape[:4])
        return from_rows(_PLAIN.get(self.epilogue, _same)(out))

    def _is_wrong(self, x: torch.Tensor, *sizes: Sequence[int]) -> bool:
        return not self.is_point and is_wrong_in_bf16(x, self.weight, *sizes)

    def _convolve(
        self,
        x: torch.Tensor,
        weight: torch.Tensor,
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
    ) -> torch.Tensor:
        if self._is_wrong(x, stride, padding, dilation):
            out = in_float32(x, weight, self.bias, stride, padding, dilation, self.groups)
            return _PLAIN.get(self.epilogue, _same)(out)
        if self.epilogue is None:
            convolve: Any = F.conv3d if x.ndim == 5 else F.conv2d
            return convolve(x, weight, self.bias, stride, padding, dilation, self.groups)
        return _activated(x, weight, self.bias, stride, padding, dilation, self.groups, self.epilogue)


def _is_plain_gate(se: Any) -> bool:
    """Returns whether a layer is squeeze-and-excitation with convolutions and nothing more."""
    return is_exactly(se, SqueezeExcite3d) and is_only(se.fc1, nn.Conv3d) and is_only(se.fc2, nn.Conv3d)


class Gate(nn.Module):
    """`SqueezeExcite3d`, in place on its input."""

    def __init__(self, se: SqueezeExcite3d) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = linear(se.fc1), se.act, linear(se.fc2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scales the channels of `(B, C, T, H, W)`."""
        gate = self.fc2(self.act(self.fc1(pool(x)))).sigmoid_()
        return x.mul_(gate[..., None, None, None])


def linear(conv: nn.Conv3d) -> nn.Linear:
    """Returns a 1x1x1 convolution as a linear layer."""
    linear = nn.Linear(conv.in_channels, conv.out_channels, device="meta")
    linear.weight = nn.Parameter(conv.weight.detach().flatten(1))
    linear.bias = conv.bias  # type: ignore[assignment]
    return linear


@torch.fx.wrap  # a leaf in traced graphs, so that its branches stay
def pool(x: torch.Tensor) -> torch.Tensor:
    """Averages `(B, C, T, H, W)` over the clip to `(B, C)`, summed in float32 or better."""
    rows, voxels = to_rows(x), x.shape[2:].numel()
    if x.dtype == torch.bfloat16:  # a product with ones sums in float32 without a float32 copy
        return (rows.new_ones(1, voxels) @ rows.flatten(1, 3)).squeeze(1).div_(voxels)
    if x.dtype == torch.float32:  # frame by frame, which runs in parallel threads
        return rows.flatten(2, 3).mean(2).mean(1)
    return x.mean((2, 3, 4))


class FrameWise(nn.Sequential):
    """Layers that work on single frames, run on a few frames at a time where their widest map is large."""

    def __init__(self, width: int, *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.width = width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Runs the layers on `(B, C, T, H, W)`; frames are divided on CPUs only."""
        wide = x.element_size() * x.numel() // x.shape[1] * self.width
        parts = -(-wide // FRAMES_BYTES) if x.device.type == "cpu" and not is_followed() else 1
        if parts < 2:
            return super().forward(x)
        frames = to_rows(x.contiguous(memory_format=torch.channels_last_3d)).flatten(0, 1)
        done = [to_rows(super(FrameWise, self).forward(from_rows(part[None])))[0] for part in frames.chunk(parts)]
        return from_rows(torch.cat(done).unflatten(0, (x.shape[0], x.shape[2])))


class RectifiedSum(nn.Module):
    """`relu(conv(x) + other)` of a 1x1x1 `Convolution` by oneDNN, in one pass."""

    def __init__(self, conv: Convolution) -> None:
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias

    def forward(self, x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """Convolves `(B, C, T, H, W)`, adds and rectifies."""
        out = _rectified_sum(to_frames(x), self.weight.squeeze(2), self.bias, to_frames(other))
        return from_frames(out, len(x), x.shape[2])


class ConvolvedParts(nn.Module):
    """A 1x1x1 `Convolution` of a concatenation by oneDNN, summed over its parts so that nothing is copied."""

    def __init__(self, conv: Convolution, widths: list[int]) -> None:
        super().__init__()
        parts = conv.weight.squeeze(2).split(widths, 1)
        self.weights = nn.ParameterList(
            [nn.Parameter(part.contiguous(memory_format=torch.channels_last), requires_grad=False) for part in parts]
        )
        self.bias, self.act = conv.bias, conv.epilogue or "none"

    def forward(self, parts: list[torch.Tensor]) -> torch.Tensor:
        """Convolves maps `(B, C, T, H, W)`."""
        first, *others = map(to_frames, parts)
        total = _activated(first, self.weights[0], self.bias, [1, 1], [0, 0], [1, 1], 1, "none")
        for number, part in enumerate(others, 1):
            total = _added(total, part, self.weights[number], None, self.act if number == len(others) else "none")
        return from_frames(total, len(parts[0]), parts[0].shape[2])


class Bottleneck(nn.Module):
    """`D2plus1D`: gate, activations and the sum work in place."""

    def __init__(self, block: D2plus1D) -> None:
        super().__init__()
        middle = [getattr(block, name) for name in block._middle]
        se: Any = block.se
        se = Gate(se) if _is_plain_gate(se) else se
        layers = (block.conv_pw, block.bn1, block.act1, *middle, block.bn2, se, in_place(block.act2))
        self.branch = nn.Sequential(*layers)
        self.spatial_first = block._middle[0] == "conv_s"
        self.project = nn.Sequential(block.conv_pwl, block.bn3)
        self.shortcut = block.shortcut
        self.act = block.act3
        self.sum: RectifiedSum | None = None

    def fuse(self) -> None:
        """Fuses layers once all are rewritten: expansion and spatial convolution by frames, projection with the sum."""
        layers: list[Any] = list(self.branch)
        expand, norm, act, spatial, *others = layers
        alone = all(type(conv) is Convolution and conv.one_frame and conv.stride[0] == 1 for conv in (expand, spatial))
        if self.spatial_first and alone and is_exactly(norm, nn.Identity) and _is_framewise(act):
            self.branch = nn.Sequential(FrameWise(expand.weight.shape[0], expand, act, spatial), *others)
        conv: Any = self.project[0]
        if self.shortcut is not None and is_exactly(self.act, nn.ReLU) and _is_only_onednn(conv, self.project[1]):
            self.sum = RectifiedSum(conv)

    __prepare_scriptable__ = refuse_scripting

    @keeps_layout
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Runs the block."""
        if self.sum is not None and self.shortcut is not None:
            return self.sum(self.branch(x), self.shortcut(x))
        y = self.project(self.branch(x))
        return self.act(y if self.shortcut is None else y.add_(self.shortcut(x)))


def _is_only_onednn(conv: Any, norm: nn.Module) -> bool:
    """Returns whether a convolution runs by oneDNN without an activation or a norm."""
    return type(conv) is Convolution and conv.epilogue == "none" and is_exactly(norm, nn.Identity)


def _is_point(conv: Any) -> bool:
    """Returns whether a layer is a full 1x1x1 convolution with a bias, strided at most in space, and nothing more."""
    plain = is_only(conv, nn.Conv3d) and conv.bias is not None and conv.groups == 1 and conv.kernel_size == (1, 1, 1)
    return plain and conv.padding in ((0, 0, 0), 0, "valid") and isinstance(conv.stride, (tuple, list))


def is_mergeable(block: Any) -> bool:
    """Returns whether T-OSA's aggregation and shortcut are 1x1x1 convolutions with folded norms and nothing else."""
    shortcut, stride = block.shortcut, 1
    if is_exactly(shortcut, ConvNormAct3d):
        parts = is_exactly(shortcut.bn, nn.Identity) and is_exactly(shortcut.act, nn.Identity)
        plain = parts and _is_point(shortcut.conv)
        stride = shortcut.conv.stride[1] if plain else 1
        plain = plain and tuple(shortcut.conv.stride) == (1, stride, stride)
    else:
        plain = is_exactly(shortcut, nn.Identity)
    fits = stride == 1 or not block.aggregates_input  # else the input comes with two strides
    whole = _is_point(block.conv_agg) and tuple(block.conv_agg.stride) == (1, 1, 1)
    return plain and fits and whole and is_exactly(block.bn_agg, nn.Identity)


class Aggregation(nn.Module):
    """`TOSA` with folded norms: the aggregation and the shortcut, strided or not, are one 1x1x1 convolution."""

    def __init__(self, block: TOSA) -> None:
        super().__init__()
        agg: Any = block.conv_agg
        self.layers, self.act = block.layers, block.act
        weight, bias = agg.weight.detach().double(), agg.bias.detach().double()
        if isinstance(block.shortcut, nn.Identity):
            self.stride = 1
            mix = torch.eye(len(weight), dtype=weight.dtype, device=weight.device)[..., None, None, None]
        else:
            conv: Any = block.shortcut.conv
            self.stride = conv.stride[1]
            mix, bias = conv.weight.detach().double(), bias + conv.bias.detach().double()
        if block.aggregates_input:
            width = mix.shape[1]  # not in place: the weights of a float64 block are no copies
            weight = torch.cat([weight[:, :width] + mix, weight[:, width:]], 1)
        else:
            weight = torch.cat([mix, weight], 1)
        dd: dict[str, Any] = {"device": agg.weight.device, "dtype": agg.weight.dtype}
        self.mix = nn.Conv3d(weight.shape[1], len(weight), 1, **dd)
        self.mix.weight.data.copy_(weight)
        self.mix.bias.data.copy_(bias)  # type: ignore[union-attr]
        self.widths = [mix.shape[1]] + [(weight.shape[1] - mix.shape[1]) // len(self.layers)] * len(self.layers)
        self.sum: ConvolvedParts | None = None

    def fuse(self, add_up: bool) -> None:
        """Fuses the activation into the rewritten aggregation; `add_up` sums parts instead of concatenating them."""
        conv: Any = self.mix
        if _is_only_onednn(conv, nn.Identity()) and is_exactly(self.act, *_EPILOGUES):
            conv.epilogue, self.act = _EPILOGUES[type(self.act)], nn.Identity()
            self.sum = ConvolvedParts(conv, self.widths) if add_up else None

    __prepare_scriptable__ = refuse_scripting

    @keeps_layout
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Runs the block."""
        features = [x[..., :: self.stride, :: self.stride]]
        for layer in self.layers:
            x = layer(x)
            features.append(x)
        return self.act(self.mix(torch.cat(features, 1))) if self.sum is None else self.sum(features)
