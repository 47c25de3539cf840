"""A depthwise t x k x k convolution as a sum of shifted `conv2d`, with its own backward pass.

Autograd's pass over the same sum pads each part with frames of zeros, adds out of place, and under autocast casts the
clip once for each frame of the kernel. Here parts are added in place, and gradients need no padding. Strided kernels of
16 bits, at whose gradients oneDNN fails, have their own.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd import forward_ad

Sizes = tuple[int, ...]


def has_no_forward_derivatives() -> bool:
    """Returns whether no derivatives are computed forward (`torch.autograd.forward_ad`), which `shifted_sum` lacks."""
    return forward_ad._current_level < 0


def type_in_autocast(x: torch.Tensor) -> torch.dtype:
    """Returns the type that a convolution of `x` has, under autocast or not."""
    kind = x.device.type
    if not torch.is_autocast_enabled(kind) or x.dtype == torch.float64:
        return x.dtype
    return torch.get_autocast_dtype(kind)


def in_autocast(x: torch.Tensor) -> torch.Tensor:
    """Casts to the type that convolutions have under autocast."""
    return x.to(type_in_autocast(x))


def is_strided_in_16_bits(dtype: torch.dtype, weight: torch.Tensor, stride: Sizes, groups: int) -> bool:
    """Returns whether oneDNN fails at the gradients: for strided depthwise kernels of 16 bits.

    It is many times slower there for the clip than in float32, and the kernel's gradient holds memory that nobody wrote
    where a map is hardly wider than the stride (torch 2.14).
    """
    return dtype.itemsize == 2 and max(stride) > 1 and weight.shape[:2] == (groups, 1)


def _is_batched(grad: torch.Tensor) -> bool:
    """Returns whether a gradient stands for many: `torch.vmap` and `torch.autograd.grad(is_grads_batched=True)`."""
    return "Batched" in repr(torch._C._dispatch_keys(grad))


def shifted_sum(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    groups: int,
) -> torch.Tensor:
    """Convolves a channels-last clip with a kernel of an odd number of frames, padded so that no frame is lost.

    Args:
        x: Clip `(B, C, T, H, W)`, channels-last.
        weight: Kernel `(C_out, C / groups, t, k, k)`.
        bias: Bias `(C_out)` or None.
        stride: Stride in time, 1, and in space.
        padding: Padding in time and space.
        dilation: Dilation in time and space.
        groups: Groups of channels.
    """
    bias = None if bias is None else in_autocast(bias)
    frames = _ShiftedSum.apply(in_autocast(x), in_autocast(weight), bias, stride, padding, dilation, groups)
    return _clips(frames, len(x))


class _ShiftedSum(torch.autograd.Function):
    """Gives frames `(B T, C, H, W)`: clips would be a view of them, which no activation may change in place."""

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, groups: Any) -> Any:
        ctx.settings = stride, padding, dilation, groups
        ctx.save_for_backward(x, weight)
        with torch.autocast(x.device.type, enabled=False):
            return _forward(x, weight, bias, *ctx.settings)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        x, weight = ctx.saved_tensors
        grad = _clips(grad, len(x))
        nothing = (None,) * 4
        with torch.autocast(x.device.type, enabled=False):
            if torch.is_grad_enabled() or _is_batched(grad):  # create_graph=True, or many gradients at once
                return *_plain_gradients(x, weight, grad, ctx.needs_input_grad[:3], *ctx.settings), *nothing
            wanted = ctx.needs_input_grad[:2]
            strided = is_strided_in_16_bits(x.dtype, weight, ctx.settings[0], ctx.settings[3])
            dx, dw = (_gradients_in_16_bits if strided else _gradients)(x, weight, grad, wanted, *ctx.settings)
            db = grad.sum((0, 2, 3, 4)) if ctx.needs_input_grad[2] else None
        return dx, dw, db, *nothing


def _frames(x: torch.Tensor) -> torch.Tensor:
    """Merges the frames of a channels-last clip into its batch: `(B T, C, H, W)`, a view."""
    return x.permute(0, 2, 3, 4, 1).flatten(0, 1).permute(0, 3, 1, 2)


def _clips(x: torch.Tensor, batch: int) -> torch.Tensor:
    rows = x.permute(0, 2, 3, 1)
    return rows.reshape(batch, -1, *rows.shape[1:]).permute(0, 4, 1, 2, 3)  # unflatten takes no batch of gradients


def _shifts(weight: torch.Tensor, padding: Sizes, dilation: Sizes) -> list[int]:
    """Returns for each frame of the kernel how many frames later it reads the clip."""
    return [i * dilation[0] - padding[0] for i in range(weight.shape[2])]


def _forward(x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, groups: Any) -> torch.Tensor:
    """Convolves a clip; returns frames `(B T, C, H, W)`."""
    frames, length = _frames(x), x.shape[2]
    space = stride[1:], padding[1:], dilation[1:], groups
    total = F.conv2d(frames, weight[:, :, weight.shape[2] // 2], bias, *space)
    out = _clips(total, len(x))
    for kernel, shift in zip(weight.unbind(2), _shifts(weight, padding, dilation), strict=True):
        if shift and abs(shift) < length:
            part = _clips(F.conv2d(frames, kernel, None, *space), len(x))
            first, read = max(0, -shift), max(0, shift)
            out.narrow(2, first, length - abs(shift)).add_(part.narrow(2, read, length - abs(shift)))
    return total


def _gradients(
    x: Any, weight: Any, grad: Any, wanted: Any, stride: Any, padding: Any, dilation: Any, groups: Any
) -> tuple[Any, Any]:
    """Computes the gradients of the clip and the kernel.

    All clips are shifted at once, as one long clip. At the seams, frames of one clip then meet those of the next: their
    part of the clip's gradient is zeroed, and that of the kernel's subtracted.
    """
    grad = grad.contiguous(memory_format=torch.channels_last_3d)
    length = x.shape[2]
    settings = list(stride[1:]), list(padding[1:]), list(dilation[1:]), False, [0, 0], groups
    xs, grads = _frames(x), _frames(grad)

    def backward(grad: Any, x: Any, kernel: Any, wanted: Any) -> Any:
        return torch.ops.aten.convolution_backward(grad, x, kernel, None, *settings, [*wanted, False])[:2]

    kernels, shifts = weight.unbind(2), _shifts(weight, padding, dilation)
    dx, middle = backward(grads, xs, kernels[len(kernels) // 2], wanted)
    dws = [middle] * len(kernels)
    for i, (kernel, shift) in enumerate(zip(kernels, shifts, strict=True)):
        if not shift:
            continue
        if abs(shift) >= length:
            dws[i] = torch.zeros_like(kernel)
            continue
        by, count = abs(shift), len(xs) - abs(shift)
        read, written = max(0, shift), max(0, -shift)
        part, dws[i] = backward(grads.narrow(0, written, count), xs.narrow(0, read, count), kernel, wanted)
        if wanted[0]:
            for seam in range(length, len(xs), length):
                part.narrow(0, seam - by, by).zero_()
            dx.narrow(0, read, count).add_(part)
        if wanted[1] and len(x) > 1:
            ends, starts = (grad, x) if shift > 0 else (x, grad)
            pair = [ends[:-1, :, length - by :], starts[1:, :, :by]]
            first, second = (_frames(p.contiguous(memory_format=torch.channels_last_3d)) for p in pair)
            written_to, read_from = (first, second) if shift > 0 else (second, first)
            dws[i] = dws[i].sub_(backward(written_to, read_from, kernel, (False, True))[1])
    return _clips(dx, len(x)) if wanted[0] else None, torch.stack(dws, 2) if wanted[1] else None


def _gradients_in_16_bits(x: Any, weight: Any, grad: Any, wanted: Any, *settings: Any) -> tuple[Any, Any]:
    """Computes the gradients of the clip and, in float32, of the kernel, where `is_strided_in_16_bits`."""
    dx = _spread_gradient(x, weight, grad, *settings) if wanted[0] else None
    if not wanted[1]:
        return dx, None
    dw = _gradients(x.float(), weight.float(), grad.float(), (False, True), *settings)[1]
    return dx, dw.to(weight.dtype)


def _spread_gradient(x: Any, weight: Any, grad: Any, stride: Any, padding: Any, dilation: Any, groups: Any) -> Any:
    """Computes the gradient of the clip of a depthwise kernel by a convolution of stride 1.

    The gradient of the output is spread out to where stride 1 would have it, with zeros between, and convolved with the
    kernel turned around. What lies farther outside of the clip than the kernel reaches is cut off.
    """
    reach = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
    sides = [n + 2 * p - r for n, p, r in zip(x.shape[2:], padding, reach, strict=True)]
    spread = grad.new_zeros(len(grad), *sides, grad.shape[1]).permute(0, 4, 1, 2, 3)
    spread[..., :: stride[1], :: stride[2]] = grad
    for axis, (r, p) in enumerate(zip(reach, padding, strict=True), 2):
        if p > r:
            spread = spread.narrow(axis, p - r, x.shape[axis] + r)
    around = tuple(max(0, r - p) for r, p in zip(reach, padding, strict=True))
    return _clips(_forward(spread, weight.flip(2, 3, 4), None, (1, 1, 1), around, dilation, groups), len(grad))


def _plain_gradients(x: Any, weight: Any, grad: Any, wanted: Any, *settings: Any) -> Any:
    """Computes the gradients of clip, kernel and bias by PyTorch's own operation.

    It has gradients itself, and takes many gradients at once. `autograd.grad` would not do: a clip that depends on the
    same kernel, as where a convolution runs twice, would add to the kernel's gradient.
    """
    stride, padding, dilation, groups = settings
    dtype, strided = x.dtype, is_strided_in_16_bits(x.dtype, weight, stride, groups)
    if strided:
        x, weight, grad = x.float(), weight.float(), grad.float()
    others = stride, padding, dilation, False, (0, 0, 0), groups
    found = torch.ops.aten.convolution_backward(grad, x, weight, weight.shape[:1], *others, wanted)
    return [g.to(dtype) if w else None for g, w in zip(found, wanted, strict=True)]
