"""What models are rewritten into: convolutions and blocks for inference, without norms, in place where they can."""

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from vov3d.layers import TOSA, D2plus1D, SqueezeExcite3d

FRAMES_BYTES = 16 << 20
"""Size from which on a map is made for a few frames after another on a CPU: fresh memory is dear."""

# Names that oneDNN has for activations which it can apply while a convolution writes its output.
_EPILOGUES = {nn.ReLU: "relu", nn.SiLU: "swish"}
ACTIVATIONS = (nn.ReLU, nn.SiLU, nn.Hardswish, nn.ReLU6, nn.LeakyReLU, nn.ELU)
"""Activations that can overwrite their input."""


def to_rows(x: torch.Tensor) -> torch.Tensor:
    """`(B, C, T, H, W)` to `(B, T, H, W, C)`, the order in which channels-last memory lies."""
    return x.permute(0, 2, 3, 4, 1)


def from_rows(x: torch.Tensor) -> torch.Tensor:
    """`(B, T, H, W, C)` to `(B, C, T, H, W)`."""
    return x.permute(0, 4, 1, 2, 3)


def in_place(act: nn.Module) -> nn.Module:
    """The activation, made to overwrite its input where its class can."""
    if type(act) in ACTIVATIONS:
        act.inplace = True  # type: ignore[assignment]
    return act


@cache
def has_onednn(device_type: str, dtype: torch.dtype) -> bool:
    """Whether oneDNN's convolution with an activation, which torch.compile calls, runs here and is right.

    It is not a documented function of PyTorch: one small convolution is compared.
    """
    if device_type != "cpu" or dtype not in (torch.float32, torch.bfloat16):
        return False
    x, weight = torch.linspace(-2, 2, 32, dtype=dtype).view(1, 2, 4, 4), torch.ones(2, 2, 1, 1, dtype=dtype)
    expected = F.silu(F.conv2d(x.float(), weight.float()))
    try:
        if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return False
        out = torch.ops.mkldnn._convolution_pointwise(x, weight, None, [0, 0], [1, 1], [1, 1], 1, "swish", [], "")
    except (AttributeError, RuntimeError):
        return False
    return torch.allclose(out.float(), expected, rtol=1e-2, atol=1e-2)


class Convolution(nn.Module):
    """A `Conv3d` and the activation behind it, for inference on channels-last memory.

    Kernels of one frame run as `conv2d` on `(B T, C, H, W)`. Where `onednn`, the activation is applied while the
    output is written; elsewhere 1x1x1 is a matrix product and the activation works in place.
    """

    def __init__(self, conv: nn.Conv3d, act: nn.Module | None, onednn: bool) -> None:
        super().__init__()
        self.stride, self.dilation = list(conv.stride), list(conv.dilation)
        self.padding: list[int] = [int(p) for p in conv.padding]
        self.groups = conv.groups
        self.one_frame = conv.kernel_size[0] == 1 and self.padding[0] == 0
        self.matmul = not onednn and conv.kernel_size == (1, 1, 1) and conv.groups == 1 and not any(self.padding)
        self.epilogue = (_EPILOGUES.get(type(act), "none") if act else "none") if onednn else None
        fused = self.epilogue not in (None, "none")
        self.act = nn.Identity() if act is None or fused else in_place(act)
        weight = conv.weight.detach()
        if self.matmul:
            weight = weight.flatten(1)
        elif self.one_frame:
            weight = weight.squeeze(2).contiguous(memory_format=torch.channels_last)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if conv.bias is None else nn.Parameter(conv.bias.detach(), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolves and activates `(B, C, T, H, W)`."""
        if self.matmul:
            t, h, w = self.stride
            return self.act(from_rows(F.linear(to_rows(x[:, :, ::t, ::h, ::w]), self.weight, self.bias)))
        x = x.contiguous(memory_format=torch.channels_last_3d)
        if not self.one_frame:
            return self.act(self._convolve(x, self.stride, self.padding, self.dilation))
        rows = to_rows(x[:, :, :: self.stride[0]])
        frames = rows.flatten(0, 1).permute(0, 3, 1, 2)
        frames = self._convolve(frames, self.stride[1:], self.padding[1:], self.dilation[1:])
        return self.act(from_rows(frames.permute(0, 2, 3, 1).unflatten(0, rows.shape[:2])))

    def _convolve(self, x: torch.Tensor, stride: list[int], padding: list[int], dilation: list[int]) -> torch.Tensor:
        if self.epilogue is None:
            convolve: Any = F.conv3d if x.ndim == 5 else F.conv2d
            return convolve(x, self.weight, self.bias, stride, padding, dilation, self.groups)
        return torch.ops.mkldnn._convolution_pointwise(
            x, self.weight, self.bias, padding, stride, dilation, self.groups, self.epilogue, [], ""
        )


class Gate(nn.Module):
    """`SqueezeExcite3d`, in place on its input."""

    def __init__(self, se: SqueezeExcite3d) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = _linear(se.fc1), se.act, _linear(se.fc2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scales the channels of `(B, C, T, H, W)`."""
        gate = self.fc2(self.act(self.fc1(x.mean((2, 3, 4))))).sigmoid_()
        return x.mul_(gate[..., None, None, None])


def _linear(conv: nn.Conv3d) -> nn.Linear:
    """A 1x1x1 convolution as a linear layer."""
    linear = nn.Linear(conv.in_channels, conv.out_channels, device="meta")
    linear.weight = nn.Parameter(conv.weight.detach().flatten(1))
    linear.bias = conv.bias  # type: ignore[assignment]
    return linear


class FrameWise(nn.Sequential):
    """Layers that see one frame at a time, run on a few frames after another where their widest map is large."""

    def __init__(self, width: int, *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.width = width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`(B, C, T, H, W)` to the layers' output; frames are divided on CPUs only."""
        wide = x.element_size() * x.numel() // x.shape[1] * self.width
        parts = -(-wide // FRAMES_BYTES) if x.device.type == "cpu" else 1
        if parts < 2:
            return super().forward(x)
        frames = to_rows(x.contiguous(memory_format=torch.channels_last_3d)).flatten(0, 1)
        done = [to_rows(super(FrameWise, self).forward(from_rows(part[None])))[0] for part in frames.chunk(parts)]
        return from_rows(torch.cat(done).unflatten(0, (x.shape[0], x.shape[2])))


class Bottleneck(nn.Module):
    """`D2plus1D`: gate, activations and the sum work in place."""

    def __init__(self, block: D2plus1D) -> None:
        super().__init__()
        middle = [getattr(block, name) for name in block._middle]
        se = Gate(block.se) if type(block.se) is SqueezeExcite3d else block.se
        layers = (block.conv_pw, block.bn1, block.act1, *middle, block.bn2, se, in_place(block.act2))
        self.branch = nn.Sequential(*layers)
        self.spatial_first = block._middle[0] == "conv_s"
        self.project = nn.Sequential(block.conv_pwl, block.bn3)
        self.shortcut = block.shortcut
        self.act = block.act3

    def divide_frames(self) -> None:
        """Runs the expansion and the spatial convolution frame by frame, once both are rewritten."""
        layers: list[Any] = list(self.branch)
        expand, norm, act, spatial, *others = layers
        if self.spatial_first and type(norm) is nn.Identity:
            self.branch = nn.Sequential(FrameWise(expand.weight.shape[0], expand, act, spatial), *others)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Runs the block."""
        y = self.project(self.branch(x))
        return self.act(y if self.shortcut is None else y.add_(self.shortcut(x)))


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
            weight[:, : mix.shape[1]] += mix
        else:
            weight = torch.cat([mix, weight], 1)
        dd: dict[str, Any] = {"device": agg.weight.device, "dtype": agg.weight.dtype}
        self.mix = nn.Conv3d(weight.shape[1], len(weight), 1, **dd)
        self.mix.weight.data.copy_(weight)
        self.mix.bias.data.copy_(bias)  # type: ignore[union-attr]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Runs the block."""
        features = [x[..., :: self.stride, :: self.stride]]
        for layer in self.layers:
            x = layer(x)
            features.append(x)
        return self.act(self.mix(torch.cat(features, 1)))
