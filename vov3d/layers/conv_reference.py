"""Convolutions and their gradients in float64 at some positions, to check the results of a fast form.

All clips, also those too large for a second copy of the results, are checked at their own size, since faults of
libraries depend on it.
"""

from collections.abc import Callable, Sequence

import torch

from vov3d.layers.conv_forms import Conv, run

POSITIONS = 512
"""Positions of the output that are checked, in all channels."""

_NUMBERS = 1 << 22  # of the gathered inputs


class Reference:
    """A convolution of random numbers with the shape and the memory format of a clip.

    The gradient of the output is zero except at the checked positions, so that the weight's gradient can be checked as
    well as the clip's.

    Args:
        x: The clip, `(B, C, T, H, W)`; its numbers are not used.
        weight: The weight, likewise.
        bias: The bias or None.
        conv: The settings.
        grads: Whether gradients of the clip and of the weight are computed.
        tf32: Whether float32 inputs may be rounded to 10 bits.
    """

    def __init__(
        self,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        conv: Conv,
        grads: tuple[bool, bool],
        tf32: bool,
    ) -> None:
        self._random: torch.Generator | None = None
        self._given = (x, weight, bias)
        self.conv, self.grads, self.tf32 = conv, grads, tf32
        self._ready = False

    def _prepare(self) -> None:
        """Makes the tensors, at the first call: a choice that a file has needs none."""
        x, weight, bias = self._given
        self._random = torch.Generator(x.device).manual_seed(0)
        self.x, self.weight = (self._like(t).requires_grad_(g) for t, g in zip((x, weight), self.grads, strict=True))
        self.bias = None if bias is None else self._like(bias)
        conv = self.conv
        self.sizes = (len(x), *conv.lengths(tuple(x.shape[2:])))
        taps = torch.Size(conv.kernel[2:]).numel()
        count = max(16, min(POSITIONS, _NUMBERS // (x.shape[1] * taps)))
        total = torch.Size(self.sizes).numel()
        drawn = torch.randint(total, (count,), generator=self._random, device=x.device)
        self.at = _unravel(torch.cat([drawn, drawn.new_tensor([0, total - 1])]).unique(), self.sizes)
        groups = (conv.groups, conv.kernel[0] // conv.groups, conv.kernel[1], taps)
        kernel = self.weight.detach().double().reshape(groups)
        patches = self._patches(self.x.detach())
        out = torch.einsum("ntgc,gmct->ngm", patches, kernel).flatten(1)
        self.expected = [out if self.bias is None else out + self.bias.double()]
        self.grad: torch.Tensor | None = None
        if any(self.grads):
            shape = (self.sizes[0], conv.kernel[0], *self.sizes[1:])
            layout = torch.channels_last_3d if x.is_contiguous(memory_format=torch.channels_last_3d) else None
            self.grad = torch.zeros(shape, dtype=x.dtype, device=x.device)
            if layout is not None and not x.is_contiguous():
                self.grad = self.grad.contiguous(memory_format=layout)
            values = torch.randn(out.shape, generator=self._random, device=x.device).to(x.dtype)
            _rows(self.grad)[self.at] = values
            values = values.double().unflatten(1, (conv.groups, -1))
            if self.grads[0]:
                self.read = self._read_positions()
                self.expected.append(self._clip_gradient(self.grad, kernel))
            if self.grads[1]:
                self.expected.append(torch.einsum("ngm,ntgc->gmct", values, patches).reshape(conv.kernel))
        self._ready = True

    def _like(self, t: torch.Tensor) -> torch.Tensor:
        """Returns random numbers of the same shape, strides and precision."""
        return torch.empty_like(t, requires_grad=False).normal_(generator=self._random)

    def _steps(self) -> list[tuple[int, int, int]]:
        t, h, w = self.conv.kernel[2:]
        return [(i, j, k) for i in range(t) for j in range(h) for k in range(w)]

    def _patches(self, x: torch.Tensor) -> torch.Tensor:
        """Returns what the kernel reads at the checked positions, `(N, taps, groups, C / groups)`."""
        conv, rows, taken = self.conv, _rows(x), []
        for step in self._steps():
            where, inside = [self.at[0]], torch.ones_like(self.at[0], dtype=torch.bool)
            for axis, k in enumerate(step):
                place = self.at[1 + axis] * conv.stride[axis] - conv.padding[axis] + conv.dilation[axis] * k
                inside &= (place >= 0) & (place < x.shape[2 + axis])
                where.append(place.clamp(0, x.shape[2 + axis] - 1))
            taken.append(rows[tuple(where)].double() * inside[:, None])
        return torch.stack(taken, 1).unflatten(2, (conv.groups, conv.kernel[1]))

    def _read_positions(self) -> tuple[torch.Tensor, ...]:
        """Returns positions of the clip of which one is read at each checked position of the output."""
        conv, sizes = self.conv, self._given[0].shape[2:]
        where = [self.at[0]]
        for axis, size in enumerate(sizes):
            k = torch.randint(conv.kernel[2 + axis], self.at[0].shape, generator=self._random, device=self.at[0].device)
            place = self.at[1 + axis] * conv.stride[axis] - conv.padding[axis] + conv.dilation[axis] * k
            where.append(place.clamp(0, size - 1))
        return tuple(where)

    def _clip_gradient(self, grad: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
        """Returns the gradient of the clip at `read`, `(N, C)`."""
        conv, rows, total = self.conv, _rows(grad), None
        for number, step in enumerate(self._steps()):
            where, inside = [self.read[0]], torch.ones_like(self.read[0], dtype=torch.bool)
            for axis, k in enumerate(step):
                place = self.read[1 + axis] + conv.padding[axis] - conv.dilation[axis] * k
                inside &= place % conv.stride[axis] == 0
                place = place.div(conv.stride[axis], rounding_mode="floor")
                inside &= (place >= 0) & (place < self.sizes[1 + axis])
                where.append(place.clamp(0, self.sizes[1 + axis] - 1))
            got = (rows[tuple(where)].double() * inside[:, None]).unflatten(1, (conv.groups, -1))
            part = torch.einsum("ngm,gmc->ngc", got, kernel[..., number]).flatten(1)
            total = part if total is None else total + part
        assert total is not None
        return total

    def call(self, name: str) -> Callable[[], Sequence[torch.Tensor]]:
        """Returns a call of a form, which gives the output and the gradients."""

        def convolve() -> list[torch.Tensor]:
            if not self._ready:
                self._prepare()
            with torch.set_grad_enabled(any(self.grads)):
                y = run(name, self.x, self.weight, self.bias, self.conv)
                if self.grad is None:
                    return [y]
                inputs = [t for t, needed in zip((self.x, self.weight), self.grads, strict=True) if needed]
                return [y.detach(), *torch.autograd.grad(y, inputs, self.grad)]

        return convolve

    def wrong(self, results: Sequence[torch.Tensor]) -> str | None:
        """Returns how results differ from the reference, None if by no more than rounding."""
        y, *gradients = results
        found = [_rows(y)[self.at]]
        if self.grads[0]:
            found.append(_rows(gradients[0])[self.read])
        if self.grads[1]:
            found.append(gradients[-1])
        taps = torch.Size(self.conv.kernel[1:]).numel()
        names = ["", " in the clip's gradient" if self.grads[0] else " in the weight's", " in the weight's gradient"]
        for got, expected, where in zip(found, self.expected, names, strict=False):
            complaint = differs(got, expected, y.dtype, taps, self.tf32)
            if complaint:
                return complaint + where
        return None


def differs(got: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype, terms: int, tf32: bool) -> str | None:
    """Returns by how much results differ from those in float64, None if rounding explains it.

    Args:
        got: The results.
        expected: The reference.
        dtype: The precision in which they were computed; sums are in float32 at least.
        terms: Products that are added up for one result.
        tf32: Whether float32 inputs may be rounded to 10 bits.
    """
    summed = torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    # A few roundings of the result, the sum's, which grow with the root of the terms, and those of the inputs.
    share = 2 * torch.finfo(dtype).eps + 8 * terms**0.5 * summed + (2**-8 if tf32 else 0)
    size = expected.square().mean().sqrt()
    error = (got.double() - expected).abs()
    within = error <= share * (expected.abs() + 8 * size) + torch.finfo(torch.float64).tiny
    if bool(within.all()):  # False for numbers that are not finite
        return None
    return f"differs by up to {float(error.max() / size):.2g} times the size of the results"


def _rows(x: torch.Tensor) -> torch.Tensor:
    return x.permute(0, 2, 3, 4, 1)


def _unravel(flat: torch.Tensor, sizes: Sequence[int]) -> tuple[torch.Tensor, ...]:
    where = []
    for size in reversed(sizes):
        where.append(flat % size)
        flat = flat.div(size, rounding_mode="floor")
    return tuple(reversed(where))
