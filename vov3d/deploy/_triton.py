"""Kernels for GPUs in Triton: depthwise convolutions over space and time with bias, activation and sums, in one pass.

Imported only where Triton is installed. `depthwise` reads a clip once and writes the result once. Each program handles
some positions of some channels of one clip and goes through the frames; sums for the frames to come stay in registers.
Everything is added up in float32.
"""

import torch
import triton
import triton.language as tl

from vov3d.layers.conv_forms import is_channels_last

VERSION = triton.__version__

ACTS = ("none", "relu", "silu")

BLOCKS = {
    # positions and channels of a program, and its warps
    False: {"triton_256x1": (256, 1, 4), "triton_1024x1": (1024, 1, 8)},
    True: {"triton_16x32": (16, 32, 4), "triton_32x64": (32, 64, 8)},
}
"""Sizes of programs by name, for contiguous and for channels-last clips."""


@triton.jit
def _depthwise_kernel(
    x,
    spatial,
    temporal,
    bias,
    y,
    sums,
    channels,
    frames,
    height,
    width,
    out_height,
    out_width,
    x_b,
    x_c,
    x_t,
    x_h,
    x_w,
    y_b,
    y_c,
    y_t,
    y_h,
    y_w,
    stride,
    pad,
    k: tl.constexpr,
    t: tl.constexpr,
    factored: tl.constexpr,
    act: tl.constexpr,
    with_sums: tl.constexpr,
    tile_positions: tl.constexpr,
    tile_channels: tl.constexpr,
):
    tile, clip = tl.program_id(0), tl.program_id(2).to(tl.int64)
    at = tile * tile_positions + tl.arange(0, tile_positions)[:, None]
    c = tl.program_id(1) * tile_channels + tl.arange(0, tile_channels)[None, :]
    row, column = at // out_width, at % out_width
    there, known = at < out_height * out_width, c < channels
    x += clip * x_b + c.to(tl.int64) * x_c
    y += clip * y_b + c.to(tl.int64) * y_c + row * y_h + column * y_w
    added = tl.load(bias + c, mask=known, other=0.0).to(tl.float32)
    # The sums of the next frames of the output, the first of which is complete after this frame of the clip.
    a0 = tl.zeros((tile_positions, tile_channels), tl.float32)
    a1, a2, a3, a4 = a0, a0, a0, a0
    total = a0
    for frame in range(0, frames + t // 2):
        inside = there & known & (frame < frames)
        s = tl.zeros((tile_positions, tile_channels), tl.float32)
        for i in tl.static_range(k):
            for j in tl.static_range(k):
                h, w = row * stride - pad + i, column * stride - pad + j
                read = inside & (h >= 0) & (h < height) & (w >= 0) & (w < width)
                v = tl.load(x + h * x_h + w * x_w, mask=read, other=0.0).to(tl.float32)
                point = spatial + i * k + j
                if factored:
                    s += v * tl.load(point + c * (k * k), mask=known, other=0.0).to(tl.float32)
                else:
                    taps = point + c * (t * k * k)
                    a0 += v * tl.load(taps + (t - 1) * k * k, mask=known, other=0.0).to(tl.float32)
                    if t > 1:
                        a1 += v * tl.load(taps + (t - 2) * k * k, mask=known, other=0.0).to(tl.float32)
                        a2 += v * tl.load(taps + (t - 3) * k * k, mask=known, other=0.0).to(tl.float32)
                    if t > 3:
                        a3 += v * tl.load(taps + (t - 4) * k * k, mask=known, other=0.0).to(tl.float32)
                        a4 += v * tl.load(taps, mask=known, other=0.0).to(tl.float32)
        if factored:
            taps = temporal + c * t
            a0 += s * tl.load(taps + (t - 1), mask=known, other=0.0).to(tl.float32)
            if t > 1:
                a1 += s * tl.load(taps + (t - 2), mask=known, other=0.0).to(tl.float32)
                a2 += s * tl.load(taps + (t - 3), mask=known, other=0.0).to(tl.float32)
            if t > 3:
                a3 += s * tl.load(taps + (t - 4), mask=known, other=0.0).to(tl.float32)
                a4 += s * tl.load(taps, mask=known, other=0.0).to(tl.float32)
        if frame >= t // 2:
            out = a0 + added
            if with_sums:
                total += tl.where(there & known, out, 0.0)
            if act == "relu":
                out = tl.maximum(out, 0.0)
            if act == "silu":
                out = out / (1.0 + tl.exp(-out))
            tl.store(y, out.to(y.dtype.element_ty), mask=there & known)
            y += y_t
        x += x_t
        a0, a1, a2, a3 = a1, a2, a3, a4
        a4 = tl.zeros((tile_positions, tile_channels), tl.float32)
    if with_sums:
        place = (clip * tl.num_programs(0) + tile) * channels + c
        tl.store(sums + place, tl.sum(total, 0)[None, :], mask=known)


@triton.jit
def _gated_kernel(y, gate, count, channels, positions, last: tl.constexpr, act: tl.constexpr, block: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = at < count
    which = at // (positions * channels) * channels + at % channels if last else at // positions
    v = tl.load(y + at, mask=inside, other=0.0).to(tl.float32)
    v *= tl.load(gate + which, mask=inside, other=0.0).to(tl.float32)
    if act == "relu":
        v = tl.maximum(v, 0.0)
    if act == "silu":
        v = v / (1.0 + tl.exp(-v))
    tl.store(y + at, v.to(y.dtype.element_ty), mask=inside)


def depthwise(
    x: torch.Tensor,
    spatial: torch.Tensor,
    temporal: torch.Tensor | None,
    bias: torch.Tensor,
    stride: int,
    act: str,
    sums: bool,
    block: tuple[int, int, int],
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Convolves depthwise over space and time, adds a bias, sums, and activates.

    Args:
        x: Clips `(B, C, T, H, W)`, dense.
        spatial: `(C, k, k)`, with `temporal`; otherwise the whole kernel `(C, t, k, k)`. Both are contiguous, and k and
            t 1, 3 or 5.
        temporal: `(C, t)`, applied after `spatial` with nothing in between.
        bias: `(C,)`.
        stride: Stride in space. Padding keeps the length, and the size but for the stride.
        act: One of `ACTS`.
        sums: Whether to sum the result over each clip, before the activation and before rounding.
        block: One of the values of `BLOCKS`.

    Returns:
        `(B, C, T, ceil(H / stride), ceil(W / stride))` in the precision and the memory format of `x`; sums `(B, C)` in
        float32, or None.
    """
    batch, channels, frames, height, width = x.shape
    k, t = spatial.shape[-1], spatial.shape[1] if temporal is None else temporal.shape[1]
    out_height, out_width = (-(-n // stride) for n in (height, width))
    layout = torch.channels_last_3d if is_channels_last(x) else torch.contiguous_format
    shape = (batch, channels, frames, out_height, out_width)
    y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)
    positions, chs, warps = block
    grid = (triton.cdiv(out_height * out_width, positions), triton.cdiv(channels, chs), batch)
    partial = torch.empty((batch, grid[0], channels), dtype=torch.float32, device=x.device) if sums else y
    _depthwise_kernel[grid](
        x,
        spatial,
        spatial if temporal is None else temporal,
        bias,
        y,
        partial,
        channels,
        frames,
        height,
        width,
        out_height,
        out_width,
        *x.stride(),
        *y.stride(),
        stride,
        k // 2,
        k=k,
        t=t,
        factored=temporal is not None,
        act=act,
        with_sums=sums,
        tile_positions=positions,
        tile_channels=chs,
        num_warps=warps,
    )
    return y, partial.sum(1) if sums else None


def gated(y: torch.Tensor, gate: torch.Tensor, act: str) -> torch.Tensor:
    """Multiplies dense clips `(B, C, T, H, W)` by a gate `(B, C)`, activates, in place, and returns them."""
    block = 1024
    _gated_kernel[(triton.cdiv(y.numel(), block),)](
        y,
        gate.contiguous(),
        y.numel(),
        y.shape[1],
        y.shape[2:].numel(),
        last=is_channels_last(y),
        act=act,
        block=block,
        num_warps=4,
    )
    return y
