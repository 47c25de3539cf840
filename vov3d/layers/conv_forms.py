"""The forms in which a convolution of clips can run: one function each, with equal results and other speed.

Each takes the arguments of `torch.nn.functional.conv3d`, for stride 1 in time and padding by zeros, and keeps the
memory format of the clip. They compute, for `(B, C, T, H, W)`:

===================== ================================================================================================
`conv3d`              `F.conv3d`
`conv2d`              frames as clips of a batch, `(B T, C, H, W)`; kernels of t x 1 x 1 on `(B, C, T, H W)`; other
                      kernels with t > 1 as t shifted sums of such convolutions
`conv2d_channels`     depthwise, frames as channels: `(B, C T, H, W)`, a view of contiguous memory
`matmul`              1 x 1 x 1, a matrix product over the channels
`shifted`             depthwise kernels of at most 9 points, the sum of the shifted clips times their weights
`..._channels_first`  the first two in contiguous memory, for channels-last clips
`..._channels_last`   the first two in channels-last memory, for contiguous clips
===================== ================================================================================================

In PyTorch, a depthwise convolution is several times slower in one form than in another, and which one depends on the
device, the precision and the shape (PyTorch issues 34089, 37406, 110885).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange

MAX_SHIFTS = 9
"""Points of the largest kernel that runs as a sum of shifted clips; each is a pass over memory."""

KINDS = ("point", "spatial", "temporal", "whole")
"""Kinds of kernels: 1 x 1 x 1, 1 x k x k, t x 1 x 1, t x k x k."""


class Conv(NamedTuple):
    """Settings of a convolution.

    Attributes:
        kernel: Shape of the weight, `(O, C / groups, t, k, k)`.
        stride: Stride in time, height and width.
        padding: Zeros on both sides of time, height and width.
        dilation: Dilation in time, height and width.
        groups: Groups of channels.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @property
    def kind(self) -> str:
        """One of `KINDS`."""
        t, *space = self.kernel[2:]
        return KINDS[2 * (t > 1) + (max(space) > 1)]

    @property
    def is_depthwise(self) -> bool:
        """True if each output channel reads one input channel of its own."""
        return self.groups == self.kernel[0] and self.kernel[1] == 1

    def lengths(self, sizes: tuple[int, ...]) -> tuple[int, ...]:
        """Returns frames, height and width of the output for those of a clip."""
        steps = zip(sizes, self.kernel[2:], self.stride, self.padding, self.dilation, strict=True)
        return tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in steps)


Function = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None, Conv], torch.Tensor]


class Form(NamedTuple):
    """One form.

    Attributes:
        run: Convolves a clip with weight, bias and settings.
        fits: Returns whether it can run a convolution on clips that are channels-last or not.
    """

    run: Function
    fits: Callable[[Conv, bool], bool]


def is_channels_last(x: torch.Tensor) -> bool:
    """Returns whether a clip is channels-last only; clips of one channel or position are contiguous too."""
    return x.is_contiguous(memory_format=torch.channels_last_3d) and not x.is_contiguous()


def _settings(conv: Conv) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], int]:
    return conv.stride, conv.padding, conv.dilation, conv.groups


def _conv3d(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, conv: Conv) -> torch.Tensor:
    return F.conv3d(x, weight, bias, *_settings(conv))


def _conv2d(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, conv: Conv) -> torch.Tensor:
    convolve = over_lines if _is_line(conv) else over_frames
    return convolve(x, weight, bias, *_settings(conv))


def over_lines(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> torch.Tensor:
    """Convolves over time, with a t x 1 x 1 kernel of stride 1, as `conv2d` on `(B, C, T, H W)`."""
    lines = F.conv2d(x.flatten(3), weight.flatten(3), bias, 1, (padding[0], 0), (dilation[0], 1), groups)
    return lines.unflatten(3, x.shape[3:])


def over_frames(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> torch.Tensor:
    """Runs each frame of the kernel as a `conv2d` on all frames of the clip, and sums the shifted results."""
    frames, out = rearrange(x, "b c t h w -> (b t) c h w"), None
    longer = 2 * padding[0] - (weight.shape[2] - 1) * dilation[0]  # frames that padding adds to the output
    for i, kernel in enumerate(weight.unbind(2)):
        shift = i * dilation[0] - padding[0]
        if -shift - longer < x.shape[2] > shift:
            part = F.conv2d(frames, kernel, None if shift else bias, stride[1:], padding[1:], dilation[1:], groups)
            part = rearrange(part, "(b t) c h w -> b c t h w", b=x.shape[0])
            if shift or longer:  # a negative number crops
                part = F.pad(part, (0, 0, 0, 0, -shift, shift + longer))
            out = part if out is None else out + part
    assert out is not None
    return out


def frames_fit(conv: Conv) -> bool:
    """Returns whether one of the kernel's frames is on each frame of the output: `over_frames` adds the bias there."""
    t, reach = conv.kernel[2], conv.dilation[0] * (conv.kernel[2] - 1)
    return (t % 2 == 1 and 2 * conv.padding[0] == reach) or conv.padding[0] == 0


def _is_line(conv: Conv) -> bool:
    return conv.kind == "temporal" and conv.stride[1:] == (1, 1) and conv.padding[1:] == (0, 0)


def _conv2d_fits(conv: Conv) -> bool:
    return _is_line(conv) or frames_fit(conv)


def _conv2d_channels(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, conv: Conv) -> torch.Tensor:
    frames = x.shape[2]
    kernel = weight[:, :, 0].repeat_interleave(frames, 0)
    added = None if bias is None else bias.repeat_interleave(frames)
    settings = (conv.stride[1:], conv.padding[1:], conv.dilation[1:])
    return F.conv2d(x.flatten(1, 2), kernel, added, *settings, len(kernel)).unflatten(1, x.shape[1:3])


def _matmul(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, conv: Conv) -> torch.Tensor:
    last = is_channels_last(x)
    x = x[..., :: conv.stride[1], :: conv.stride[2]]
    if last:
        return F.linear(x.permute(0, 2, 3, 4, 1), weight.flatten(1), bias).permute(0, 4, 1, 2, 3)
    y = torch.matmul(weight.flatten(1), x.flatten(2))
    return (y if bias is None else y + bias[:, None]).unflatten(2, x.shape[2:])


def _shifted(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, conv: Conv) -> torch.Tensor:
    """Sums the shifted clips times their weights, in float32 at least, so that the sum is rounded once."""
    wide = torch.promote_types(x.dtype, torch.float32)
    points = weight.to(wide).flatten(2).unbind(2)
    lengths = conv.lengths(tuple(x.shape[2:]))
    padded = F.pad(x, [p for p in reversed(conv.padding) for _ in range(2)]) if any(conv.padding) else x
    total = None if bias is None else bias.to(wide)[:, None, None, None]
    for number, point in enumerate(points):
        part = padded
        for axis, at in enumerate(_position(number, conv.kernel[2:])):
            begin, step = at * conv.dilation[axis], conv.stride[axis]
            window: list[slice] = [slice(None)] * 5
            window[2 + axis] = slice(begin, begin + step * (lengths[axis] - 1) + 1, step)
            part = part[tuple(window)]
        scale = point[:, :, None, None]
        total = part * scale if total is None else torch.addcmul(total, part.to(wide), scale)
    assert total is not None
    return total.to(x.dtype)


def _position(number: int, kernel: tuple[int, ...]) -> tuple[int, int, int]:
    frame, rest = divmod(number, kernel[1] * kernel[2])
    return (frame, *divmod(rest, kernel[2]))


def _in_layout(run: Function, layout: torch.memory_format) -> Function:
    def converted(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, conv: Conv) -> torch.Tensor:
        back = torch.channels_last_3d if is_channels_last(x) else torch.contiguous_format
        # The weight stays as it is: cuDNN converts it itself, and grouped convolutions on CPUs compute a wrong gradient
        # of a channels-last weight for a single clip (torch 2.14).
        return run(x.contiguous(memory_format=layout), weight, bias, conv).contiguous(memory_format=back)

    return converted


FORMS: dict[str, Form] = {
    "conv3d": Form(_conv3d, lambda conv, last: True),
    "conv2d": Form(_conv2d, lambda conv, last: _conv2d_fits(conv)),
    "conv2d_channels": Form(
        _conv2d_channels,
        lambda conv, last: not last and conv.is_depthwise and conv.kernel[2] == 1 and not conv.padding[0],
    ),
    "matmul": Form(_matmul, lambda conv, last: conv.kind == "point" and conv.groups == 1 and not any(conv.padding)),
    "shifted": Form(
        _shifted, lambda conv, last: conv.is_depthwise and torch.Size(conv.kernel[2:]).numel() <= MAX_SHIFTS
    ),
    "conv3d_channels_first": Form(_in_layout(_conv3d, torch.contiguous_format), lambda conv, last: last),
    "conv2d_channels_first": Form(
        _in_layout(_conv2d, torch.contiguous_format), lambda conv, last: last and _conv2d_fits(conv)
    ),
    "conv3d_channels_last": Form(_in_layout(_conv3d, torch.channels_last_3d), lambda conv, last: not last),
    "conv2d_channels_last": Form(
        _in_layout(_conv2d, torch.channels_last_3d), lambda conv, last: not last and _conv2d_fits(conv)
    ),
}
"""The forms by name. The first, PyTorch's own call, is what runs where nothing is chosen."""

PLAIN = "conv3d"
"""The form that runs where nothing is chosen."""


def fitting(conv: Conv, last: bool) -> list[str]:
    """Returns the names of the forms that can run a convolution on clips that are channels-last or not."""
    return [name for name, form in FORMS.items() if form.fits(conv, last)]


def run(name: str, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, conv: Conv) -> torch.Tensor:
    """Convolves a clip in one form; the output has the clip's memory format."""
    y = FORMS[name].run(x, weight, bias, conv)
    if x.is_contiguous():
        return y.contiguous()
    return y.contiguous(memory_format=torch.channels_last_3d) if is_channels_last(x) else y
