"""Convolutions on clips `(B, C, T, H, W)`.

The middle convolution of a bottleneck comes in the five forms that the VoV3D paper compares (Tables 1 and 4).
With C channels in and out, temporal kernel t, spatial kernel k, spatial stride s and an input of T x H x W:

========== =================================== ================ =============================================
`conv=`  form                                parameters       multiply-adds
========== =================================== ================ =============================================
3d         t x k x k                           t k^2 C^2        t k^2 C^2 T H W / s^2
r2plus1d   1 x k x k, then t x 1 x 1           (k^2 + t) C^2    (k^2 + t) C^2 T H W / s^2
dw3d       depthwise t x k x k                 t k^2 C          t k^2 C T H W / s^2
d1plus2d   depthwise t x 1 x 1, then 1 x k x k (k^2 + t) C      (k^2 / s^2 + t) C T H W         (equation 1)
d2plus1d   depthwise 1 x k x k, then t x 1 x 1 (k^2 + t) C      (k^2 + t) C T H W / s^2         (equation 2)
========== =================================== ================ =============================================

The spatial convolution has the stride; it is the first of two in `d2plus1d` and the second in
`d1plus2d`. The pairs have neither norm nor activation between them, so that they factorize one kernel;
`r2plus1d` keeps C channels between its two, not the wider middle of R(2+1)D that restores the parameters of (a).
"""

import functools
import weakref
from collections.abc import Callable, Iterable, Sequence
from numbers import Integral
from typing import Any

import torch
import torch.fx
import torch.nn.functional as F
from torch import nn

from vov3d.layers._shifted import (
    has_no_forward_derivatives,
    is_strided_in_16_bits,
    shifted_sum,
    type_in_autocast,
)
from vov3d.layers.checks import check_counts
from vov3d.layers.choosing import MEASURED
from vov3d.layers.choosing import convolve as chosen
from vov3d.layers.conv_forms import is_channels_last, over_frames, over_lines
from vov3d.layers.norm_act import LayerType, create_act, create_norm

MIDDLE_CONVS = ("3d", "r2plus1d", "dw3d", "d1plus2d", "d2plus1d")
"""The five forms of a bottleneck's middle convolution, in the order (a) to (e) of Table 1."""


# New in torch 2.7; before, compiled networks keep conv3d as well.
_is_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)
_PLAIN = (torch.Tensor, nn.Parameter)
_functorch_level = getattr(torch._C._functorch, "maybe_current_level", lambda: None)


# --- memory format ---------------------------------------------------------------------------------------------------


def is_followed() -> bool:
    """Returns whether an exporter, TorchScript's tracer or `torch.func` traces the computation; these get `conv3d`."""
    if torch.compiler.is_compiling():
        return _is_exporting()
    return torch.jit.is_tracing() or _functorch_level() is not None


def takes_other_forms(x: Any) -> bool:
    """Returns whether convolutions of `x`, a batch of clips that is not empty, may run in other forms than `conv3d`."""
    plain = type(x) in _PLAIN and x.ndim == 5 and x.numel() > 0
    return plain and not is_followed()


def _gains(x: Any) -> bool:
    """Returns whether a clip is faster channels-last, as on CPUs."""
    return takes_other_forms(x) and x.device.type == "cpu"


def channels_last(x: torch.Tensor) -> torch.Tensor:
    """Converts a clip `(B, C, T, H, W)` to channels-last memory if that is faster."""
    return x.contiguous(memory_format=torch.channels_last_3d) if _gains(x) else x


def as_given(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Converts a map to the memory format of the clip `x`: contiguous clips give maps that `.view()` takes."""
    return y.contiguous() if _gains(x) and not is_channels_last(x) else y


def keeps_layout(forward: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Decorates `forward` of a block: clips are channels-last inside, and outputs have the input's memory format."""

    @functools.wraps(forward)
    def run(self: nn.Module, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return as_given(forward(self, channels_last(x), *args, **kwargs), x)

    return run


torch.fx.wrap("channels_last")  # symbolic tracing cannot follow their branches
torch.fx.wrap("as_given")


def refuse_scripting(self: nn.Module) -> nn.Module:
    """Raises an error in `torch.jit.script`, which calls it as a module's `__prepare_scriptable__`.

    Raises:
        RuntimeError: Always; says what to do instead.
    """
    raise RuntimeError(
        f"{type(self).__name__} cannot be scripted by TorchScript: write a file with vov3d.export(model, 'model.pt2'),"
        " or call torch.jit.trace(model.eval(), clip)"
    )


# --- fast convolutions ------------------------------------------------------------------------------------------------


def _views_are_faster(x: torch.Tensor, weight: torch.Tensor, groups: int) -> bool:
    """Returns whether `conv2d` is faster than `conv3d` on a CPU, measured with torch 2.14 on two AVX2 cores.

    It is in the backward pass on most shapes of these networks, but not for 1x1x1. A full convolution of a single
    clip may not use oneDNN as `conv3d`, and then loses the memory format. Otherwise `conv3d` is at least as fast.
    """
    if groups == 1 and x.shape[0] == 1:
        return True
    return weight[0, 0].numel() > 1 and _trains(x, weight)


def _is_whole(weight: torch.Tensor, groups: int) -> bool:
    """Returns whether a kernel spans space and time and is not depthwise; such a one has no form but `conv3d`."""
    depthwise = weight.shape[1] == 1 and groups == len(weight)
    return weight.shape[2] > 1 and weight[0, 0, 0].numel() > 1 and not depthwise


def _is_chosen(x: torch.Tensor, weight: torch.Tensor, groups: int) -> bool:
    """Returns whether the form of a convolution is chosen by measuring, as on GPUs."""
    dense = x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last_3d)
    return dense and takes_other_forms(x) and not _is_whole(weight, groups)


def _trains(x: torch.Tensor, weight: torch.Tensor) -> bool:
    return torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)


def _convolve(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> torch.Tensor:
    """Convolves a channels-last clip, with stride 1 in time, in the fastest form."""
    is_point = weight[0, 0, 0].numel() == 1 and not any(padding[1:])
    if is_point and max(stride) > 1:
        # The positions that the kernel reads. oneDNN's gradient of a strided 1 x 1 kernel writes past its memory.
        x = x[..., :: stride[1], :: stride[2]].contiguous(memory_format=torch.channels_last_3d)
        stride = (1, 1, 1)
    if is_point and not torch.compiler.is_compiling() and torch.get_num_threads() == 1:
        # With one thread, PyTorch uses oneDNN for 1 x 1 kernels only if dilated, which has no effect on one point.
        dilation = (dilation[0], 2, 2)
    if not _is_whole(weight, groups) and _views_are_faster(x, weight, groups):
        if is_point and weight.shape[2] > 1:
            return over_lines(x, weight, bias, stride, padding, dilation, groups)
        reach = dilation[0] * (weight.shape[2] - 1)
        gains = reach > 0 or is_strided_in_16_bits(type_in_autocast(x), weight, stride, groups)
        if gains and _has_own_backward(x, weight, reach, padding):
            return shifted_sum(x, weight, bias, stride, padding, dilation, groups)
        if (weight.shape[2] % 2 and 2 * padding[0] == reach) or (padding[0] == 0 and reach < x.shape[2]):
            return over_frames(x, weight, bias, stride, padding, dilation, groups)
    return F.conv3d(x, weight, bias, stride, padding, dilation, groups)


def is_wrong_in_bf16(
    x: torch.Tensor, weight: torch.Tensor, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> bool:
    """Returns whether oneDNN reads memory that nobody wrote, in bf16 (torch 2.14).

    It does, channels-last or not, but for depthwise kernels: in `conv2d` and `conv3d` for outputs one column wide of
    strided kernels, and in `conv3d` for a clip of one frame if the kernel spans space and time.
    """
    if x.device.type != "cpu" or type_in_autocast(x) != torch.bfloat16 or weight[0, 0].numel() == 1:
        return False
    room = x.shape[-1] + 2 * padding[-1] - dilation[-1] * (weight.shape[-1] - 1)  # places of the kernel in a row
    whole = weight.ndim == 5 and weight.shape[2] > 1 and weight[0, 0, 0].numel() > 1
    return 1 < stride[-1] >= room or (whole and x.shape[2] == 1)


def in_float32(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *sizes: Any) -> torch.Tensor:
    """Convolves frames `(B, C, H, W)` or clips in float32, from operands rounded to bf16, and returns bf16."""
    convolve: Any = F.conv3d if x.ndim == 5 else F.conv2d
    with torch.autocast(x.device.type, enabled=False):
        x, weight = (values.bfloat16().float() for values in (x, weight))
        bias = None if bias is None else bias.bfloat16().float()
        return convolve(x, weight, bias, *sizes).bfloat16()


def _has_own_backward(x: torch.Tensor, weight: torch.Tensor, reach: int, padding: tuple[int, ...]) -> bool:
    """Returns whether a kernel, which keeps the length, may run by our own backward pass."""
    keeps_length = weight.shape[2] % 2 == 1 and 2 * padding[0] == reach
    plain = not torch.compiler.is_compiling() and has_no_forward_derivatives() and type(weight) in _PLAIN
    return keeps_length and plain and not x.is_complex()


def _has_own_sizes(conv: Any) -> bool:
    """Returns whether stride, padding and dilation have a number for each axis, not one number or a name for all."""
    return all(
        isinstance(sizes, (tuple, list)) and len(sizes) == 3  # torch.compile of PyTorch 2.6 knows no unions
        for sizes in (conv.stride, conv.padding, conv.dilation)
    )


class FastForm:
    """The computation of an `nn.Conv3d`.

    On CPUs clips are channels-last, where `conv3d` is several times faster. Merging frames into the batch, or rows with
    columns, gives views of the same memory, so that the convolution can also run as `conv2d`, whose backward pass is
    several times faster again. On GPUs the fastest form is measured (`vov3d/layers/choosing.py`).

    It replaces `_conv_forward` of a convolution. The class stays `nn.Conv3d`, since tools that count operations, fuse
    norms or quantize go by exact type. Hooks, copies and pickles work as for any module.
    """

    def __init__(self, conv: nn.Conv3d) -> None:
        self._conv = weakref.ref(conv)  # no cycle: a network that is deleted frees its memory at once

    def __getstate__(self) -> dict[str, Any]:
        return {"conv": self._conv()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def __call__(self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """Convolves `(B, C, T, H, W)`."""
        conv: Any = self._conv()
        if conv is None:
            raise RuntimeError(
                "this convolution is a shallow copy of one that is gone, and its settings went with it; copy it with"
                " copy.deepcopy"
            )
        if type(conv)._conv_forward is not nn.Conv3d._conv_forward:  # a class that was assigned later has its own
            return type(conv)._conv_forward(conv, input, weight, bias)
        plain = conv.padding_mode != "zeros" or not _has_own_sizes(conv) or conv.stride[0] != 1
        gains = not plain and _gains(input)
        if gains and is_wrong_in_bf16(input, weight, conv.stride, conv.padding, conv.dilation):
            return in_float32(input, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)
        if not gains or not input.is_contiguous(memory_format=torch.channels_last_3d):
            if plain or input.device.type not in MEASURED or not _is_chosen(input, weight, conv.groups):
                return nn.Conv3d._conv_forward(conv, input, weight, bias)
            return chosen(input, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)
        return _convolve(input, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)


def fast(conv: nn.Conv3d) -> nn.Conv3d:
    """Sets a convolution to run in its fast form and returns it."""
    conv._conv_forward = FastForm(conv)  # type: ignore[method-assign]
    return conv


def conv3d(
    in_chs: int, out_chs: int, kernel: tuple[int, int], stride: int = 1, groups: int = 1, **dd: Any
) -> nn.Conv3d:
    """Builds a bias-free convolution that keeps the length and divides height and width by `stride` (rounded up).

    Args:
        in_chs: Channels of the input.
        out_chs: Channels of the output.
        kernel: Temporal and spatial kernel size, both odd.
        stride: Spatial stride; time is never strided.
        groups: Groups of channels; `in_chs` makes it depthwise.
        **dd: `device` and `dtype`.

    Raises:
        ValueError: If a kernel size is even, as no padding would keep the size, or a size or the stride is no number.
    """
    t, k = kernel
    sizes: dict[str, Any] = {"temporal_kernel_size": t, "kernel_size": k, "stride": stride}
    for name, value in sizes.items():
        if not isinstance(value, Integral) or value < 1:
            raise ValueError(
                f"{name} must be one whole number of at least 1, got {value!r}: stride and kernel_size are those of"
                " height and width, temporal_kernel_size that of time, which is never strided"
            )
    if t % 2 == 0 or k % 2 == 0:
        raise ValueError(f"kernel sizes must be odd, got {t} in time and {k} in space")
    pad = (t // 2, k // 2, k // 2)
    conv = nn.Conv3d(in_chs, out_chs, (t, k, k), (1, stride, stride), pad, groups=groups, bias=False, **dd)
    return fast(conv)


def middle_convs(conv: str, chs: int, kernel: tuple[int, int], stride: int = 1, **dd: Any) -> dict[str, nn.Conv3d]:
    """Builds the middle convolution of a bottleneck, as modules in the order in which they run.

    Args:
        conv: One of `MIDDLE_CONVS`.
        chs: Channels in and out.
        kernel: Temporal and spatial kernel size.
        stride: Spatial stride.
        **dd: `device` and `dtype`.

    Returns:
        `{"conv_st": ...}` for the whole kernels, `conv_s` (1 x k x k) and `conv_t` (t x 1 x 1) for the pairs.

    Raises:
        ValueError: If `conv` is not one of the five.
    """
    if conv not in MIDDLE_CONVS:
        raise ValueError(f"conv={conv!r} is not known; use one of {', '.join(MIDDLE_CONVS)}")
    groups = 1 if conv in ("3d", "r2plus1d") else chs
    if conv in ("3d", "dw3d"):
        return {"conv_st": conv3d(chs, chs, kernel, stride, groups, **dd)}
    pair = {
        "conv_s": conv3d(chs, chs, (1, kernel[1]), stride, groups, **dd),
        "conv_t": conv3d(chs, chs, (kernel[0], 1), 1, groups, **dd),
    }
    return pair if conv != "d1plus2d" else dict(reversed(pair.items()))


def stride_to_dilation(blocks: Iterable[nn.Module], dilation: int) -> int:
    """Replaces the spatial stride of blocks in series by dilation of the convolutions after it, in place.

    Parameters are unchanged. At the positions of the strided map, outputs are the same as before.

    Args:
        blocks: Blocks whose first spatial convolution, and the parallel shortcut, are strided.
        dilation: Product of the strides removed before these blocks: the dilation up to and including the strided
            convolution.

    Returns:
        The dilation after them.
    """
    for conv in (m for block in blocks for m in block.modules() if isinstance(m, nn.Conv3d)):
        k, stride = conv.kernel_size[1], conv.stride[1]
        conv.stride = (1, 1, 1)
        if k > 1:  # kernels of one point have nothing to dilate
            conv.dilation = (1, dilation, dilation)
            conv.padding = (int(conv.padding[0]), dilation * (k // 2), dilation * (k // 2))
            dilation *= stride
    return dilation


class ConvNormAct3d(nn.Module):
    """Convolution, norm and activation as separate submodules `conv`, `bn`, `act`.

    timm's fused norm-and-activation layers do not take clips and lose the activation in a SyncBN conversion.

    Args:
        in_chs: Channels of the input.
        out_chs: Channels of the output.
        kernel_size: Spatial kernel size, odd.
        temporal_kernel_size: Temporal kernel size, odd.
        stride: Spatial stride; time is never strided.
        groups: Groups of channels.
        norm_layer: Norm, a name or a class.
        act_layer: Activation, a timm name or a class; None for none.
        device: Device of the parameters.
        dtype: Floating type of the parameters.

    Shape:
        `(B, in_chs, T, H, W)` to `(B, out_chs, T, ceil(H / stride), ceil(W / stride))`.

    Raises:
        ValueError: If channels, groups or a kernel size are not allowed, or a layer is unknown.
    """

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        kernel_size: int = 1,
        temporal_kernel_size: int = 1,
        stride: int = 1,
        groups: int = 1,
        norm_layer: LayerType = "batchnorm3d",
        act_layer: LayerType | None = "relu",
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        check_counts(in_chs=in_chs, out_chs=out_chs, groups=groups)
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.conv = conv3d(in_chs, out_chs, (temporal_kernel_size, kernel_size), stride, groups, **dd)
        self.bn = create_norm(norm_layer, out_chs, **dd)
        self.act = create_act(act_layer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolves, normalises, activates."""
        return self.act(self.bn(self.conv(x)))
