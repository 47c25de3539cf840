"""Networks whose convolutions all have two dimensions, for runtimes without `conv3d`.

A map of `B` clips is kept as lines `(B, C, T, H W)`, where a temporal kernel is a 2D kernel of t x 1, or as frames
`(B T, C, H, W)`, where a spatial kernel is a 2D kernel. A kernel of t x k x k is the sum of t spatial ones whose
results are shifted in time. No tensor inside has more than four dimensions.

Frames, height and width are fixed, so that every shape in the graph is a constant but for the batch. Batch norms are
folded.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from timm.models import FeatureDictNet, FeatureListNet
from torch import nn

from vov3d.deploy._fused import Aggregation
from vov3d.deploy._streaming import check_mergeable, check_taken_over, parts_of
from vov3d.layers import ClassifierHead3d, ConvNormAct3d, D2plus1D, SqueezeExcite3d
from vov3d.layers.causal import CausalPad3d, CausalSqueezeExcite3d
from vov3d.layers.head import on_rows
from vov3d.models.family import family_of
from vov3d.models.network import VideoNetwork
from vov3d.surgery import fold_batchnorm
from vov3d.weights.tasks import task_of


class _Map(NamedTuple):
    """A map of clips.

    Attributes:
        x: Frames `(B T, C, H, W)` or lines `(B, C, T, H W)`.
        size: T, H and W.
        is_frames: Which of the two `x` is.
    """

    x: torch.Tensor
    size: tuple[int, int, int]
    is_frames: bool

    def frames(self) -> "_Map":
        if self.is_frames:
            return self
        _, h, w = self.size
        return _Map(self.x.transpose(1, 2).reshape(-1, self.x.shape[1], h, w), self.size, True)

    def lines(self) -> "_Map":
        if not self.is_frames:
            return self
        t, h, w = self.size
        return _Map(self.x.reshape(-1, t, self.x.shape[1], h * w).transpose(1, 2), self.size, False)

    def with_values(self, x: torch.Tensor) -> "_Map":
        return _Map(x, self.size, self.is_frames)  # not _replace, which PyTorch 2.6 cannot trace


# --- layers ----------------------------------------------------------------------------------------------------------


def _conv2d(weight: torch.Tensor, bias: torch.Tensor | None, **how: Any) -> nn.Conv2d:
    """Returns a convolution with a kernel `(out, in / groups, height, width)`."""
    groups = how.get("groups", 1)
    shape: Any = tuple(weight.shape[2:])
    conv = nn.Conv2d(weight.shape[1] * groups, len(weight), shape, bias=bias is not None, device="meta", **how)
    conv.weight = nn.Parameter(weight.detach().contiguous())
    conv.bias = None if bias is None else nn.Parameter(bias.detach())
    return conv


def _point(conv: Any) -> nn.Conv2d:
    """Returns a 1x1x1 convolution in 2D, for frames or lines."""
    return _conv2d(conv.weight[:, :, 0], conv.bias, stride=conv.stride[1:], groups=conv.groups)


class _Spatial(nn.Module):
    """A convolution of any kernel: its taps run on frames, and the results are shifted in time and summed.

    Args:
        conv: The convolution.
        before: Frames of zeros before the clip.
    """

    def __init__(self, conv: Any, before: int) -> None:
        super().__init__()
        self.shifts = [tap - before for tap in range(conv.kernel_size[0])]
        how = dict(stride=conv.stride[1:], padding=conv.padding[1:], dilation=conv.dilation[1:], groups=conv.groups)
        self.taps = nn.ModuleList(
            _conv2d(conv.weight[:, :, tap], None if shift else conv.bias, **how)
            for tap, shift in enumerate(self.shifts)
        )

    def forward(self, m: _Map) -> _Map:
        m = m.frames()
        frames, total = m.size[0], None
        for conv, shift in zip(self.taps, self.shifts, strict=True):
            if abs(shift) < frames:  # else it sees padding only
                part = _shifted(conv(m.x), frames, shift)
                total = part if total is None else total + part
        assert total is not None
        return _Map(total, (frames, *total.shape[2:]), True)


def _shifted(x: torch.Tensor, frames: int, shift: int) -> torch.Tensor:
    """Moves maps `(B T, C, H, W)` by `shift` frames towards the beginning of their clips, with zeros after them."""
    if not shift:
        return x
    rows = x.reshape(-1, frames, x.shape[1:].numel())
    kept = rows[:, shift:] if shift > 0 else rows[:, :shift]
    return F.pad(kept, (0, 0, max(0, -shift), max(0, shift))).reshape(-1, *x.shape[1:])


class _Temporal(nn.Module):
    """A t x 1 x 1 convolution, on lines.

    Args:
        conv: The convolution.
        before: Frames of zeros before the clip.
    """

    def __init__(self, conv: Any, before: int) -> None:
        super().__init__()
        after = conv.kernel_size[0] - 1 - before
        self.pad = None if before == after else (0, 0, before, after)
        padding = 0 if self.pad else (before, 0)
        self.conv = _conv2d(conv.weight[..., 0], conv.bias, padding=padding, groups=conv.groups)

    def forward(self, m: _Map) -> _Map:
        m = m.lines()
        return m.with_values(self.conv(m.x if self.pad is None else F.pad(m.x, self.pad)))


def _convolutions(owner: nn.Module, names: tuple[str, ...]) -> nn.ModuleList:
    """Returns the convolutions of an owner in 2D, each with the padding that a `CausalPad3d` before it adds."""
    made, before = nn.ModuleList(), None
    for name in names:
        layer: Any = getattr(owner, name)
        if isinstance(layer, CausalPad3d):
            before = layer.frames
        elif isinstance(layer, nn.Conv3d):
            form = _Temporal if layer.kernel_size[0] > 1 == max(layer.kernel_size[1:]) else _Spatial
            made.append(form(layer, int(layer.padding[0]) if before is None else before))
            before = None
    return made


class _Gate(nn.Module):
    """Squeeze-and-excitation; of a causal one, each frame has its own gate, from the frames so far.

    Args:
        se: The layer.
        frames: Frames of a clip.
    """

    means: torch.Tensor | None

    def __init__(self, se: Any, frames: int) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = _point(se.fc1), se.act, _point(se.fc2)
        counts = torch.arange(1, frames + 1, dtype=se.fc1.weight.dtype)
        means = torch.ones(frames, frames).to(counts).tril() / counts[:, None]
        self.register_buffer("means", means if isinstance(se, CausalSqueezeExcite3d) else None)

    def forward(self, m: _Map) -> _Map:
        m = m.lines()
        pooled = m.x.mean((2, 3), keepdim=True) if self.means is None else self.means @ m.x.mean(3, keepdim=True)
        return m.with_values(m.x * self.fc2(self.act(self.fc1(pooled))).sigmoid())


class _Bottleneck(nn.Module):
    """`D2plus1D`."""

    def __init__(self, block: D2plus1D, frames: int) -> None:
        super().__init__()
        self.expand, self.act1 = _point(block.conv_pw), block.act1
        self.middle = _convolutions(block, block._middle)
        self.gate = _Gate(block.se, frames) if isinstance(block.se, SqueezeExcite3d) else None
        self.act2, self.project, self.act3 = block.act2, _point(block.conv_pwl), block.act3
        shortcut: Any = block.shortcut
        self.adds = shortcut is not None
        projects = isinstance(shortcut, ConvNormAct3d)
        self.shortcut = _convolutions(shortcut, ("conv",)) if projects else nn.ModuleList()
        self.shortcut_act = shortcut.act if projects else nn.Identity()

    def forward(self, m: _Map) -> _Map:
        m = m.frames() if isinstance(self.middle[0], _Spatial) else m  # the input has fewer channels than the middle
        y = m.with_values(self.act1(self.expand(m.x)))
        for conv in self.middle:
            y = conv(y)
        y = y.lines() if self.gate is None else self.gate(y)
        out = self.project(self.act2(y.x))
        if self.adds:
            for conv in self.shortcut:
                m = conv(m)
            out = out + self.shortcut_act(m.lines().x)
        return y.with_values(self.act3(out))


class _TOSA(nn.Module):
    """`TOSA`; without a stride, the shortcut is merged into the aggregation."""

    def __init__(self, block: Any, frames: int) -> None:
        super().__init__()
        merged = Aggregation(block)
        self.layers = nn.ModuleList(_Bottleneck(layer, frames) for layer in block.layers)
        self.act, weight, bias = merged.act, merged.mix.weight[:, :, 0], merged.mix.bias
        first = merged.widths[0]
        self.shortcut = None
        if merged.stride > 1:
            self.shortcut = _conv2d(weight[:, :first], None, stride=merged.stride)
            weight = weight[:, first:]
        self.mix = _conv2d(weight, bias)

    def forward(self, m: _Map) -> _Map:
        given = m = m.frames() if self.shortcut is not None else m
        features = []
        for layer in self.layers:
            m = layer(m)
            features.append(m.x)
        if self.shortcut is None:
            return m.with_values(self.act(self.mix(torch.cat([given.lines().x, *features], 1))))
        added = _Map(self.shortcut(given.x), m.size, True).lines()
        return m.with_values(self.act(self.mix(torch.cat(features, 1)) + added.x))


class _Stem(nn.Module):
    """`Stem3d`, without the check of the clip."""

    def __init__(self, stem: Any) -> None:
        super().__init__()
        self.convs, self.act = _convolutions(stem, ("conv_s", "pad", "conv_t")), stem.act

    def forward(self, m: _Map) -> _Map:
        for conv in self.convs:
            m = conv(m)
        return m.with_values(self.act(m.x))


class _Head(nn.Module):
    """`ClassifierHead3d`: logits and, if it has a window, the scores of the published evaluation.

    Args:
        model: The network.
        window: Height and width of the window that slides over the map.
    """

    def __init__(self, model: Any, window: tuple[int, int] | None) -> None:
        super().__init__()
        head = model.head
        self.pool, self.window = head.global_pool.pool_type, window
        self.conv, self.act1 = _point(head.conv), head.act1
        self.hidden, self.act2, self.fc = _point(head.hidden), head.act2, head.fc
        self.task, self.temperature = task_of(model), model.temperature

    def forward(self, m: _Map) -> tuple[torch.Tensor, ...]:
        m = m.lines()
        x = self.act1(self.conv(m.x))
        if not self.pool:
            out = self._classify(x)
            return (out.reshape(-1, out.shape[1], *m.size),)
        logits = self.fc(self.act2(self.hidden(self._pooled(x))).flatten(1))
        if self.window is None:
            return (logits,)
        means = x.mean(2).reshape(-1, x.shape[1], *m.size[1:])
        window = min(self.window[0], m.size[1]), min(self.window[1], m.size[2])
        scores = self.task.scores(self._classify(F.avg_pool2d(means, window, stride=1)), self.temperature)
        return logits, scores.mean((2, 3))

    def _pooled(self, x: torch.Tensor) -> torch.Tensor:
        """Pools lines to `(B, C, 1, 1)`."""
        if self.pool == "avg":
            return x.mean((2, 3), keepdim=True)
        greatest = x.amax((2, 3), keepdim=True)
        if self.pool == "max":
            return greatest
        mean = x.mean((2, 3), keepdim=True)
        return 0.5 * (mean + greatest) if self.pool == "avgmax" else torch.cat([mean, greatest], 1)

    def _classify(self, x: torch.Tensor) -> torch.Tensor:
        """Computes logits at each position of `(B, C, H, W)`."""
        return on_rows(self.fc, self.act2(self.hidden(x)).movedim(1, -1)).movedim(-1, 1)


# --- the graph -------------------------------------------------------------------------------------------------------


class Conv2dGraph(nn.Module):
    """A network for clips of one size and any batch.

    Args:
        model: A model made by `create_model`, with folded norms.
        clip: Frames, height and width of the clips.

    Attributes:
        output_names: A name for each output.
    """

    def __init__(self, model: Any, clip: tuple[int, int, int]) -> None:
        super().__init__()
        self.clip = clip
        stem, stages, kept = parts_of(model)
        self.in_chans = stem.in_chans
        self.stem = _Stem(stem)
        self.stages = nn.ModuleList()
        for stage in stages:
            blocks: list[nn.Module] = [
                (_Bottleneck if type(block) is D2plus1D else _TOSA)(block, clip[0]) for block in stage.blocks
            ]
            self.stages.append(nn.Sequential(*blocks))
        self.head = None
        self.levels = tuple(kept or ())
        if kept is not None:
            self.output_names = tuple(name.replace(".", "_") for name in model.feature_info.module_name())
            return
        window = getattr(model, "pretrained_cfg", {}).get("pool_size")
        scored = model.num_classes and window and model.head.global_pool.pool_type == "avg"
        self.head = _Head(model, tuple(window) if window and scored else None)
        self.output_names = ("logits" if model.num_classes else "features",)
        if scored:
            self.output_names += (task_of(model).scored,)

    def forward(self, clip: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Computes a tuple of outputs from a clip `(B, C, T, H, W)`."""
        m = self.stem(_Map(clip.flatten(3), self.clip, False))
        maps = [m]
        for stage in self.stages:
            m = stage(m)
            maps.append(m)
        if self.head is not None:
            return self.head(m)
        kept = [maps[level].lines() for level in self.levels]
        return tuple(one.x.reshape(-1, one.x.shape[1], *one.size) for one in kept)

    def trace(self) -> torch.export.ExportedProgram:
        """Exports the graph with `torch.export`, for any batch."""
        with torch.no_grad():
            example = torch.zeros(2, self.in_chans, *self.clip)
            return torch.export.export(self, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))


def conv2d_graph_of(model: Any, clip: tuple[int, int, int]) -> Conv2dGraph:
    """Returns the graph of a model made by `create_model`, for clips of one size.

    Args:
        model: The model, whole or with `features_only`, in eval mode.
        clip: Frames, height and width.

    Raises:
        ValueError: If it is of another class, returns a dictionary of features, has a head of another class, norms
            other than batch norm, or layers that were put in and are not those of this package.
    """
    if type(model) is FeatureDictNet:
        raise ValueError("cannot export features as a dictionary; leave out feature_cls='dict' to get a list")
    if type(model) is not FeatureListNet and family_of(model) is None:
        raise ValueError(
            "files without conv3d need a model of vov3d.create_model, whole or with features_only=True, got a"
            f" {type(model).__name__}"
        )
    if isinstance(model, VideoNetwork) and type(model.head) is not ClassifierHead3d:
        raise ValueError(
            f"files without conv3d need the original head, but it was replaced by {type(model.head).__name__}; replace"
            " only head.fc to keep it"
        )
    check_taken_over(model, "files without conv3d")
    model = fold_batchnorm(model)
    for name, module in model.named_modules():
        if name.rpartition(".")[2].startswith("bn") and type(module) is not nn.Identity:
            raise ValueError(f"files without conv3d need batch norms to fold, but {name} is a {type(module).__name__}")
    check_mergeable(model, "files without conv3d")
    return Conv2dGraph(model, clip).eval()
