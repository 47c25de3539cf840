"""A network for streams of frames: each frame is computed once, and the state keeps the maps that later frames need.

Time is never strided, so a network consists of layers on single frames, kernels over the last few frames, and means
over a window. The state is built from one operation: a map delayed by one frame (`_Step.earlier`). A kernel of t frames
reads t - 1 past maps. Branches without a kernel are delayed to match those with one: T-OSA's concatenation becomes a
running sum, delayed before each feature is added, so that all parts belong to the same moment.

Batch norms are folded. Maps of `t` frames of `B` streams are `(B t, H, W, C)`, contiguous, as a matrix product takes
them.
"""

import copy
from collections.abc import Iterator, Mapping
from numbers import Integral
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from timm.layers import SelectAdaptivePool2d
from timm.models import FeatureDictNet, FeatureListNet
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from vov3d.deploy._fused import Aggregation, does_nothing, in_place, is_mergeable, linear
from vov3d.layers import TOSA, ClassifierHead3d, ConvNormAct3d, D2plus1D, SqueezeExcite3d, Stem3d
from vov3d.layers.causal import CausalPad3d, CausalSqueezeExcite3d
from vov3d.layers.checks import check_counts
from vov3d.layers.conv import in_float32, is_followed, is_wrong_in_bf16
from vov3d.layers.stem import check_clip, check_numbers
from vov3d.models.family import family_of
from vov3d.models.network import Stage, VideoNetwork
from vov3d.surgery.folding import fold_batchnorm
from vov3d.surgery.hooks import check_own_code_runs
from vov3d.surgery.kinds import is_only
from vov3d.surgery.methods import set_methods

State = dict[str, torch.Tensor]
"""State of streams: `frames` `(B,)`, those seen; maps `(B, H, W, C)`; means of frames `(B, window, C)`."""

_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)  # new in torch 2.7


class _Step:
    """One call: the state before it, and the state after it as it is built.

    Args:
        before: The state; None starts the streams.
        frames: The call's frames `(B, C, t, H, W)`.
        delay: Frames by which the network's outputs lag.
        window: Frames that are pooled.
    """

    def __init__(self, before: State | None, frames: torch.Tensor, delay: int, window: int) -> None:
        self.batch, self.frames = frames.shape[0], frames.shape[2]
        self.before = before
        seen = torch.zeros(self.batch, dtype=torch.int64, device=frames.device) if before is None else before["frames"]
        self.numbers = seen[:, None] + torch.arange(self.frames, device=frames.device)  # (B, t), of each frame
        self.after: State = {"frames": seen + self.frames}
        self.window = window
        # A stream far from its start has full windows and no moments before its first frame. Where the values cannot
        # be read, as in an exported graph, the general case is computed.
        ask = frames.device.type == "cpu" and not torch.compiler.is_compiling() and not _exporting()
        self.begins = not ask or bool((seen < delay + window).any())
        self._checks = not torch.compiler.is_compiling() and not _exporting()
        self._autocast = torch.is_autocast_enabled(frames.device.type)  # converts what is kept
        self._alive = dict[tuple[int, torch.dtype], torch.Tensor]()

    def _kept(self, name: str, x: torch.Tensor, *shape: int) -> torch.Tensor:
        """Returns what the state before the call keeps as `name`; zeros at the start."""
        if self.before is None:
            return x.new_zeros(self.batch, *shape)
        if self._checks:
            check_part(self.before, name, (self.batch, *shape), None if self._autocast else x)
        return self.before[name]

    def earlier(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """Returns the maps `(B t, H, W, C)` of one frame earlier; keeps the newest as `name`."""
        kept = self._kept(name, x, *x.shape[1:])
        if self.frames == 1:
            self.after[name] = x
            return kept
        x = x.unflatten(0, (self.batch, self.frames))
        self.after[name] = x[:, -1].clone()
        return torch.cat([kept[:, None], x[:, :-1]], 1).flatten(0, 1)

    def delayed(self, name: str, x: torch.Tensor, frames: int) -> torch.Tensor:
        """Returns the maps of `frames` frames earlier."""
        for number in range(frames):
            x = self.earlier(f"{name}.{number}", x)
        return x

    def since_start(self, x: torch.Tensor, delay: int) -> torch.Tensor:
        """Sets maps or vectors of `delay` frames ago to zero where that is before the stream's first frame.

        A clip is padded with zeros there, at every layer.
        """
        if not delay or not self.begins:
            return x
        if (key := (delay, x.dtype)) not in self._alive:  # of two layers of a block, often
            self._alive[key] = (self.numbers >= delay).to(x.dtype).flatten()
        return x * self._alive[key].view(-1, *[1] * (x.ndim - 1))

    def mean(self, name: str, x: torch.Tensor, delay: int) -> torch.Tensor:
        """Returns the means `(B t, C)` of maps of `delay` frames ago over the window that ends there.

        The means of single frames are kept and summed again each time, so that rounding errors do not add up.
        """
        rows = self.since_start(x.mean((1, 2)), delay).view(self.batch, self.frames, -1)
        window = self.window
        kept = self._kept(name, rows, window, rows.shape[2])
        rows = torch.cat([kept[:, 1:], rows], 1)
        self.after[name] = rows if self.frames == 1 else rows[:, -window:]
        means = rows.mean(1) if self.frames == 1 else F.avg_pool1d(rows.mT, window, 1).mT.flatten(0, 1)
        if not self.begins:
            return means
        counts = (self.numbers - (delay - 1)).clamp(1, window).to(x.dtype)
        return means * (window / counts).flatten()[:, None]

    def end(self) -> State:
        """Returns the state after the call.

        Raises:
            ValueError: If the state before it has more than this network keeps.
        """
        if self._checks and self.before is not None and (others := sorted(self.before.keys() - self.after.keys())):
            raise ValueError(f"{_NOT_OURS}: it has {others[0]!r}, which this network does not keep; {_ANEW}")
        return self.after


_NOT_OURS = "this is not a state of this network"
_ANEW = "call initial_state of this one, or pass None"


def check_part(
    state: Mapping[str, torch.Tensor], name: str, shape: tuple[int, ...], like: torch.Tensor | None = None
) -> None:
    """Checks a tensor of a state.

    Args:
        state: The state.
        name: Name of the tensor.
        shape: The shape that it must have.
        like: A tensor of the precision and on the device that it must have; None if any will do.

    Raises:
        ValueError: If it is missing or of another kind.
    """
    if name not in state:
        raise ValueError(f"{_NOT_OURS}: it lacks {name!r}; {_ANEW}")
    if (found := tuple(state[name].shape)) != shape:
        raise ValueError(f"{_NOT_OURS}: its {name!r} is {found}, not {shape}, as of another window or size; {_ANEW}")
    part = state[name]
    if like is not None and (part.dtype, part.device) != (like.dtype, like.device):
        raise ValueError(
            f"{_NOT_OURS}: its {name!r} is {part.dtype} on {part.device}, not {like.dtype} on {like.device}; convert"
            f" it, or {_ANEW}"
        )


# --- layers ----------------------------------------------------------------------------------------------------------


class FrameConv(nn.Module):
    """One frame of a 3D kernel applied to single frames, an optional addend, and the activation.

    Args:
        conv: The convolution.
        tap: Index of the kernel's frame.
        bias: Whether the bias is added here.
        act: The activation, if any.
    """

    def __init__(self, conv: nn.Conv3d, tap: int = 0, bias: bool = True, act: nn.Module | None = None) -> None:
        super().__init__()
        weight = conv.weight.detach()[:, :, tap]
        takes = bias and conv.bias is not None
        self.bias = nn.Parameter(conv.bias.detach().clone(), requires_grad=False) if takes else None  # type: ignore[union-attr]
        self.stride, self.dilation = list(conv.stride[1:]), list(conv.dilation[1:])
        self.padding: list[int] = [int(p) for p in conv.padding[1:]]
        self.groups = conv.groups
        point = weight[0, 0].numel() == 1 and not any(self.padding)
        self.scales = point and conv.groups == conv.in_channels == conv.out_channels > 1
        self.mixes = point and conv.groups == 1
        if self.scales or self.mixes:
            weight = weight.flatten(0 if self.scales else 1)
        self.weight = nn.Parameter(weight.clone(memory_format=torch.contiguous_format), requires_grad=False)
        self.act = None if act is None or type(act) is nn.Identity else in_place(act)

    def forward(self, x: torch.Tensor, other: torch.Tensor | None = None) -> torch.Tensor:
        """Convolves `(N, H, W, C)`, adds `other`, which a depthwise kernel of one point overwrites, and activates."""
        if self.scales or self.mixes:
            if self.stride != [1, 1]:
                x = x[:, :: self.stride[0], :: self.stride[1]]
            x = self._scaled(x, other) if self.scales else self._mixed(x, other)
        else:
            x = x.permute(0, 3, 1, 2)
            sizes = self.stride, self.padding, self.dilation
            wrong = not is_followed() and is_wrong_in_bf16(x, self.weight, *sizes)
            convolve: Any = in_float32 if wrong else F.conv2d
            x = convolve(x, self.weight, self.bias, *sizes, self.groups)
            x = x.permute(0, 2, 3, 1)
            x = x if other is None else x.add_(other)
        return x if self.act is None else self.act(x)

    def _mixed(self, x: torch.Tensor, other: torch.Tensor | None) -> torch.Tensor:
        """Applies a kernel of one point; for a single frame, a matrix product is faster than oneDNN's convolution."""
        if other is None or self.bias is not None or _exporting():  # rows of any number of streams are slow to trace
            y = F.linear(x, self.weight, self.bias)
            return y if other is None else y.add_(other)
        rows = x.reshape(-1, x.shape[3])
        return torch.addmm(other.view(-1, len(self.weight)), rows, self.weight.mT).view(other.shape)

    def _scaled(self, x: torch.Tensor, other: torch.Tensor | None) -> torch.Tensor:
        """Applies a depthwise kernel of one point."""
        if other is not None:
            y = other.addcmul_(x, self.weight)
            return y if self.bias is None else y.add_(self.bias)
        return x * self.weight if self.bias is None else torch.addcmul(self.bias, x, self.weight)


class _Conv(nn.Module):
    """A 3D convolution over the last frames, and its activation.

    Attributes:
        reach: Frames by which its output lags.
        field: Frames in its kernel.
    """

    def __init__(self, name: str, conv: nn.Conv3d, delay: int, causal: bool, act: nn.Module | None = None) -> None:
        super().__init__()
        self.name, self.delay, self.field = name, delay, conv.kernel_size[0]
        last = self.field - 1
        self.reach = 0 if causal else last // 2
        self.taps = nn.ModuleList(FrameConv(conv, i, i == 0, act if i == last else None) for i in range(self.field))

    def forward(self, x: torch.Tensor, step: _Step) -> torch.Tensor:
        """Convolves the maps of a step."""
        if self.field > 1:
            x = step.since_start(x, self.delay)
        maps = [x]
        for number in range(1, self.field):
            maps.append(step.earlier(f"{self.name}.{number}", maps[-1]))
        out = None
        for tap, taken in zip(self.taps, reversed(maps), strict=True):
            out = tap(taken, out)
        assert out is not None
        return out


class _Gate(nn.Module):
    """Squeeze-and-excitation, from the mean over the window."""

    def __init__(self, name: str, se: Any, delay: int) -> None:
        super().__init__()
        self.name, self.delay = name, delay
        self.fc1, self.act, self.fc2 = linear(se.fc1), se.act, linear(se.fc2)

    def forward(self, x: torch.Tensor, step: _Step) -> torch.Tensor:
        """Scales the channels of a step's maps."""
        gate = self.fc2(self.act(self.fc1(step.mean(self.name, x, self.delay)))).sigmoid()
        return x.mul_(gate[:, None, None])


class _Bottleneck(nn.Module):
    """`D2plus1D`; the shortcut is delayed as much as the temporal kernel delays the branch.

    Attributes:
        delay: Delay of its output, in frames.
    """

    def __init__(self, name: str, block: Any, delay: int) -> None:
        super().__init__()
        self.name = name
        self.expand = FrameConv(block.conv_pw, act=block.act1)
        self.middle, before = nn.ModuleList(), delay
        causal = any(isinstance(getattr(block, part), CausalPad3d) for part in block._middle)
        for part in block._middle:
            if not isinstance(layer := getattr(block, part), CausalPad3d):
                conv = _Conv(f"{name}.{part}", layer, delay, causal)
                self.middle.append(conv)
                delay += conv.reach
        se = None if isinstance(block.se, nn.Identity) else _Gate(f"{name}.se", block.se, delay)
        self.gate, self.act = se, in_place(block.act2)
        self.project = FrameConv(block.conv_pwl, act=block.act3)
        added = block.shortcut
        self.shortcut = FrameConv(added.conv, act=added.act) if isinstance(added, ConvNormAct3d) else added
        self.delay, self.reach = delay, delay - before

    def forward(self, x: torch.Tensor, step: _Step) -> torch.Tensor:
        """Runs the block on the maps of a step."""
        y = self.expand(x)
        for conv in self.middle:
            y = conv(y, step)
        y = self.act(y if self.gate is None else self.gate(y, step))
        if self.shortcut is None:
            return self.project(y)
        other = step.delayed(f"{self.name}.shortcut", self.shortcut(x), self.reach)
        return self.project(y, other.clone() if self.project.scales else other)  # it may be of the state, or the input


class _TOSA(nn.Module):
    """`TOSA`; the sum so far is delayed until the next feature.

    Attributes:
        delay: Delay of its output, in frames.
    """

    def __init__(self, name: str, block: Any, delay: int) -> None:
        super().__init__()
        self.name = name
        merged = Aggregation(block)
        parts = merged.mix.weight.split(merged.widths, 1)
        self.layers, self.parts = nn.ModuleList(), nn.ModuleList()
        for number, weight in enumerate(parts):
            if number:
                layer = _Bottleneck(f"{name}.layers.{number - 1}", block.layers[number - 1], delay)
                self.layers.append(layer)
                delay = layer.delay
            stride = 1 if number else merged.stride
            conv = nn.Conv3d(weight.shape[1], weight.shape[0], 1, (1, stride, stride))
            conv.weight, conv.bias = nn.Parameter(weight), merged.mix.bias
            self.parts.append(FrameConv(conv, 0, not number, merged.act if number + 1 == len(parts) else None))
        self.delay = delay

    def forward(self, x: torch.Tensor, step: _Step) -> torch.Tensor:
        """Runs the block on the maps of a step."""
        total = self.parts[0](x)
        layer: Any
        for number, (layer, part) in enumerate(zip(self.layers, self.parts[1:], strict=True)):
            x = layer(x, step)
            total = part(x, step.delayed(f"{self.name}.sum.{number}", total, layer.reach))
        return total


class _Head(nn.Module):
    """The classifier, applied to the mean over the window."""

    def __init__(self, head: ClassifierHead3d, delay: int) -> None:
        super().__init__()
        self.delay = delay
        self.conv = FrameConv(head.conv, act=head.act1)
        self.hidden, self.act, self.fc = linear(head.hidden), head.act2, head.fc

    def forward(self, x: torch.Tensor, step: _Step) -> torch.Tensor:
        """Computes logits `(B, t, N)` from the maps of a step."""
        mean = step.mean("head", self.conv(x), self.delay)
        return self.fc(self.act(self.hidden(mean))).unflatten(0, (step.batch, step.frames))


_FORMS = {D2plus1D: _Bottleneck, TOSA: _TOSA}


# --- the network -----------------------------------------------------------------------------------------------------


class StreamingNetwork(nn.Module):
    """A network for streams of frames, made by `streaming`, for inference.

    `forward(frames, state)` returns the outputs and the new state. Outputs after frame `i`, counted from 0, are for
    the moment `i - delay`; those for moments before a stream's first frame are meaningless.

    Args:
        model: A copy of a model, with folded norms.
        window: Frames that are pooled.

    Attributes:
        delay: Frames by which an output lags: one for each temporal kernel of 3 and two for the stem's 5; 0 for
            causal models.
        receptive_field: Frames in the receptive field of the convolutions.
        window: Frames over which squeeze-and-excitation and the head average.
        in_chans: Channels of a frame.
        min_size: Smallest height and width in pixels.
        num_classes: Classes; 0 for features.
        temperature: Divisor of the logits before the softmax.
        pretrained_cfg: Frame settings of the weights.
        feature_info: Information about the model's feature maps.
        output_names: A name for each output.
    """

    def __init__(self, model: Any, window: int) -> None:
        super().__init__()
        self.window = window
        self.pretrained_cfg: dict[str, Any] = copy.deepcopy(getattr(model, "pretrained_cfg", {}))
        self.weights_digest: str | None = getattr(model, "weights_digest", None)
        self.feature_info: Any = copy.deepcopy(model.feature_info)
        self.num_classes = getattr(model, "num_classes", 0)
        self.temperature: float = getattr(model, "temperature", 1.0)
        stem, stages, kept = parts_of(model)
        self.in_chans, self.min_size = stem.in_chans, stem.min_size
        self.stem_s = FrameConv(stem.conv_s)
        self.stem_t = _Conv("stem.conv_t", stem.conv_t, 0, isinstance(stem.pad, CausalPad3d), stem.act)
        delay = self.stem_t.reach
        delays = [delay]
        self.stages = nn.ModuleList()
        for number, stage in enumerate(stages):
            blocks = []
            for i, block in enumerate(stage.blocks):
                form: Any = _FORMS[type(block)]
                blocks.append(form(f"stages.{number}.blocks.{i}", block, delay))
                delay = blocks[-1].delay
            self.stages.append(nn.ModuleList(blocks))
            delays.append(delay)
        self.delay = delay
        self.receptive_field = 1 + sum(m.field - 1 for m in self.modules() if isinstance(m, _Conv))
        self.head = _Head(model.head, delay) if kept is None else None
        # By level: the key of each returned feature map, and its delay to match the last.
        self._features = {level: (key, delay - delays[level]) for level, key in (kept or {}).items()}
        self._keyed = type(model) is FeatureDictNet
        self.output_names = ("logits" if self.num_classes else "features",)
        if kept is not None:
            self.output_names = tuple(name.replace(".", "_") for name in model.feature_info.module_name())

    @property
    def _example(self) -> torch.Tensor:
        return self.stem_s.weight

    def initial_state(
        self,
        batch: int,
        height: int,
        width: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> State:
        """Returns the state of streams before their first frame: zeros.

        Args:
            batch: Streams.
            height: Of a frame, in pixels.
            width: Of a frame, in pixels.
            device: Its device; the network's if None.
            dtype: Floating type of all but `frames`; the network's if None.

        Raises:
            ValueError: If `batch` or a size is not a whole number of at least 1, or frames are too small.
        """
        check_counts(batch=batch, height=height, width=width)
        own = self._example
        _, state = self(own.new_zeros(1, self.in_chans, height, width))
        made: State = {}
        for name, value in state.items():
            kind = (dtype or own.dtype) if value.is_floating_point() else value.dtype
            made[name] = torch.zeros(batch, *value.shape[1:], dtype=kind, device=device or own.device)
        return made

    @staticmethod
    def reset(state: Mapping[str, torch.Tensor], mask: torch.Tensor) -> State:
        """Returns a state in which some of the streams start again.

        Args:
            state: Of `B` streams; it is not changed.
            mask: Bool `(B,)`, true for those that start again.

        Raises:
            ValueError: If the mask has another form.
        """
        batch = len(state["frames"])
        given: Any = mask  # which may be a list
        if not isinstance(given, torch.Tensor) or mask.dtype != torch.bool or mask.shape != (batch,):
            got = f"a {type(given).__name__}"
            if isinstance(given, torch.Tensor):
                got = f"{str(mask.dtype).removeprefix('torch.')} of shape {tuple(mask.shape)}"
            raise ValueError(f"the mask of a state of {batch} streams is a tensor, bool of shape ({batch},), got {got}")
        return {k: v.masked_fill(mask.to(v.device).view(-1, *[1] * (v.ndim - 1)), 0) for k, v in state.items()}

    @torch.no_grad()
    def forward(self, frames: torch.Tensor, state: State | None = None) -> tuple[Any, State]:
        """Takes the next frame, or frames, of each stream.

        Args:
            frames: One frame `(B, C, H, W)`, or several `(B, C, t, H, W)`.
            state: The state that the previous call returned, or `initial_state`; None starts the streams. It is not
                changed.

        Returns:
            Logits `(B, N)`, or `(B, t, N)`; for `features_only` models a list (or a dictionary) of maps
            `(B, C, H, W)`, or `(B, C, t, H, W)`. And the new state.

        Raises:
            ValueError: If frames have other dimensions or channels, are too small, or do not fit the state.
            TypeError: If they are not a tensor.
        """
        check_numbers(frames)
        one = frames.ndim == 4
        clip = frames.unsqueeze(2) if one else frames
        self._check(clip, state)
        step = _Step(state, clip, self.delay, self.window)
        x = frames.permute(0, 2, 3, 1) if one else clip.permute(0, 2, 3, 4, 1).flatten(0, 1)
        x = self.stem_t(self.stem_s(x), step)
        features = {}
        blocks: Any
        for level, blocks in enumerate([[], *self.stages]):
            for block in blocks:
                x = block(x, step)
            if level in self._features:
                key, waits = self._features[level]
                maps = step.delayed(f"features.{level}", x, waits)
                if not one:
                    maps = maps.unflatten(0, (step.batch, step.frames))
                features[key] = maps.movedim(-1, 1)
        if self.head is None:
            return (features if self._keyed else list(features.values())), step.end()
        out = self.head(x, step)
        return out[:, 0] if one else out, step.end()

    def _check(self, clip: torch.Tensor, state: State | None) -> None:
        check_clip(clip, self.in_chans, self.min_size)
        if _exporting() or torch.compiler.is_compiling():
            return
        if not clip.shape[0]:
            raise ValueError(f"there must be 1 stream or more, got frames of shape {tuple(clip.shape)}")
        if not clip.shape[2]:
            raise ValueError("there must be 1 frame or more, got (B, C, 0, H, W)")
        if clip.dtype != self._example.dtype or clip.device != self._example.device:
            own, given = self._example, f"{clip.dtype} on {clip.device}"
            raise ValueError(f"frames are {given}, the network is {own.dtype} on {own.device}; convert one of them")
        if state is not None:
            self._check_state(clip, state)

    def _check_state(self, clip: torch.Tensor, state: Mapping[str, torch.Tensor]) -> None:
        """Raises ValueError unless a state is of these streams and this size."""
        name = f"{self.stem_t.name}.1"
        wanted = (len(clip), *(-(-n // 2) for n in clip.shape[3:]), self.stem_s.weight.shape[0])
        if "frames" not in state:
            raise ValueError(f"{_NOT_OURS}: it lacks 'frames'; {_ANEW}")
        if (device := state["frames"].device) != clip.device:
            raise ValueError(f"the state is on {device}, the frames on {clip.device}; move one of them, or {_ANEW}")
        found = tuple(state[name].shape) if name in state else wanted
        if found != wanted or len(state["frames"]) != len(clip):
            raise ValueError(
                f"the state is not of {len(clip)} streams of {clip.shape[3]}x{clip.shape[4]} pixels: its {name!r} is"
                f" {found}, not {wanted}; call initial_state, or pass None, for streams of another number or size"
            )

    def train(self, mode: bool = True) -> "StreamingNetwork":
        """Stays in eval mode.

        Raises:
            ValueError: If train mode is asked for: folded norms cannot be trained.
        """
        if mode:
            raise ValueError("a stream cannot be trained; train the model it was made from, with causal=True if it is")
        return super().train(False)


def streaming(model: nn.Module, window: int | None = None) -> StreamingNetwork:
    """Returns a network that takes a video frame by frame and computes each frame once.

    The weights are the model's. Convolutions get real frames where a clip has padding, and squeeze-and-excitation
    and the head average over the last `window` frames. A stream starts as a clip does.

    Args:
        model: A model made by `create_model`, whole or with `features_only`; a copy in eval mode is used. With
            `causal=True` outputs have no delay.
        window: Frames over which squeeze-and-excitation and the head average; those of the model's clips if None.

    Returns:
        A module: `logits, state = stream(frames, state)`; `optimize_for_inference` makes it faster, `export` writes it
        to a file.

    Raises:
        ValueError: If the model is not one of this package or was optimized, has hooks, or has layers that need the
            whole clip: norms other than batch norms, or pooling other than the average. Or if layers were put in
            that a stream does not know, such as subclasses, or that work in another way over time.
    """
    if type(model) not in (FeatureListNet, FeatureDictNet) and family_of(model) is None:
        raise ValueError(
            f"a {type(model).__name__} cannot be made a stream: give a model of vov3d.create_model, whole or with"
            " features_only=True, and optimize the stream, not the model"
        )
    if isinstance(model, VideoNetwork) and type(model.head) is not ClassifierHead3d:
        raise ValueError(
            f"a stream needs the original head, but it was replaced by {type(model.head).__name__}; replace only"
            " head.fc to keep it"
        )
    check_own_code_runs(model, "a stream does not call")
    _check_methods(model)
    cfg: Any = getattr(model, "pretrained_cfg", {})
    window = cfg.get("num_frames") if window is None else window
    if not isinstance(window, Integral) or window < 1:
        raise ValueError(f"window is {window!r}: give the number of frames to pool, 1 or more")
    window = int(window)
    return StreamingNetwork(_checked(fold_batchnorm(model)), window).requires_grad_(False).eval()


def _check_methods(model: nn.Module) -> None:
    """Raises ValueError if a method was set on a module: a stream takes over layers, not calls."""
    for name, method in set_methods(model):
        raise ValueError(
            f"{name or 'the model'} has a {method} that was set on the instance, which a stream does not call;"
            f" delete it with del {'.'.join(filter(None, ('model', name, method)))}"
        )


def _checked(model: Any) -> nn.Module:
    """Checks that a folded model has no layers that need a whole clip, and returns it."""
    check_taken_over(model, "streams")
    _check_layers(model)
    for name, module in model.named_modules(remove_duplicate=False):
        last = name.rpartition(".")[2]
        if last.startswith("bn") and type(module) is not nn.Identity:
            what = "that cannot be folded" if isinstance(module, _BatchNorm) else ""
            raise ValueError(
                f"streams need batch norms, which work on single frames, but {name} is {module} {what}".strip()
            )
        if isinstance(module, ClassifierHead3d) and module.global_pool.pool_type != "avg":
            raise ValueError(f"streams need average pooling, but global_pool is {module.global_pool.pool_type!r}")
    check_mergeable(model, "streams")
    return model


def check_mergeable(model: nn.Module, what: str) -> None:
    """Checks that T-OSA's aggregation and shortcut can be merged, once norms are folded.

    Args:
        model: A model with folded norms.
        what: What merges them: `"streams"`.

    Raises:
        ValueError: If they are not 1x1x1 convolutions with a bias; names the block.
    """
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, TOSA) and not is_mergeable(module):
            raise ValueError(
                f"{what} need convolutions of 1x1x1 with the bias of a folded norm, and no groups or padding, as"
                f" {name}.conv_agg and {name}.shortcut, got {module.conv_agg} and {module.shortcut}"
            )


def _check_layers(model: nn.Module) -> None:
    """Checks that convolutions and activations that surgery put in are of kinds that a stream can take."""
    over_time: dict[str, bool] = {}  # convolutions whose past frames are kept, and whether they are causal
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, Stem3d):
            over_time[f"{name}.conv_t"] = isinstance(module.pad, CausalPad3d)
        elif isinstance(module, D2plus1D):
            causal = any(isinstance(getattr(module, part), CausalPad3d) for part in module._middle)
            over_time |= {f"{name}.{part}": causal for part in module._middle}
    example = next(model.parameters())
    probe = torch.linspace(-4, 4, 24, dtype=example.dtype, device=example.device).view(2, 3, 2, 2)
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, nn.Conv3d):
            _check_conv(name, module, over_time.get(name))
        elif name.rpartition(".")[2].startswith("act") and not _is_elementwise(module, probe):
            raise ValueError(f"streams need activations that treat each value alone, but {name} is {module}")


class _Place(NamedTuple):
    """A place in a network, whose code is taken over.

    Attributes:
        name: Its name.
        layer: What is there.
        kinds: What may be there; of these no subclass, but for convolutions, which are checked by themselves.
        text: The same in words; the names of `kinds` if empty.
    """

    name: str
    layer: Any
    kinds: tuple[type[Any], ...]
    text: str = ""


def _convs(name: str, module: nn.Module, *parts: str) -> Iterator[_Place]:
    for part in parts:
        yield _Place(f"{name}.{part}", getattr(module, part), (nn.Conv3d,), "a Conv3d")


def _places(model: Any) -> Iterator[_Place]:
    """Yields the places of a network from the outside in: what is inside one is read once the reader has checked it."""
    names = {module: name for name, module in model.named_modules()}
    stem, stages, kept = parts_of(model)
    yield _Place(names[stem], stem, (Stem3d,))
    yield from _convs(names[stem], stem, "conv_s", "conv_t")
    yield _Place(f"{names[stem]}.pad", stem.pad, (nn.Identity, CausalPad3d))
    if kept is None:
        yield _Place("stages", model.stages, (nn.Sequential,))
    for stage in stages:
        yield _Place(names[stage], stage, (Stage,))
        yield _Place(f"{names[stage]}.blocks", stage.blocks, (nn.Sequential,))
        for number, block in enumerate(stage.blocks):
            name = f"{names[stage]}.blocks.{number}"
            yield _Place(name, block, (D2plus1D, TOSA))
            yield from _in_tosa(name, block) if isinstance(block, TOSA) else _in_bottleneck(name, block)
    if kept is None:
        yield _Place("head", model.head, (ClassifierHead3d,))
        yield from _convs("head", model.head, "conv", "hidden")
        yield _Place("head.global_pool", model.head.global_pool, (SelectAdaptivePool2d,))


def _in_tosa(name: str, block: Any) -> Iterator[_Place]:
    yield _Place(f"{name}.layers", block.layers, (nn.ModuleList,))
    for number, layer in enumerate(block.layers):
        yield _Place(f"{name}.layers.{number}", layer, (D2plus1D,))
        yield from _in_bottleneck(f"{name}.layers.{number}", layer)
    yield from _convs(name, block, "conv_agg")
    yield from _in_shortcut(f"{name}.shortcut", block.shortcut)
    if isinstance(block.shortcut, ConvNormAct3d):
        yield _Place(f"{name}.shortcut.act", block.shortcut.act, (nn.Identity,))


def _in_bottleneck(name: str, block: Any) -> Iterator[_Place]:
    yield from _convs(name, block, "conv_pw", "conv_pwl")
    for part in block._middle:
        yield _Place(f"{name}.{part}", getattr(block, part), (nn.Conv3d, CausalPad3d), "a Conv3d")
    gates = (SqueezeExcite3d, CausalSqueezeExcite3d)
    yield _Place(f"{name}.se", block.se, (*gates, nn.Identity), "squeeze-and-excitation or Identity")
    if isinstance(block.se, gates):
        yield from _convs(f"{name}.se", block.se, "fc1", "fc2")
    if block.shortcut is not None:
        yield from _in_shortcut(f"{name}.shortcut", block.shortcut)


def _in_shortcut(name: str, shortcut: Any) -> Iterator[_Place]:
    yield _Place(name, shortcut, (nn.Identity, ConvNormAct3d))
    if isinstance(shortcut, ConvNormAct3d):
        yield from _convs(name, shortcut, "conv")


def _named(layer: Any) -> str:
    """Returns a layer in words, by its class alone if it has layers of its own."""
    own = isinstance(layer, nn.Module) and next(layer.children(), None) is None
    return str(layer) if own else f"{type(layer).__module__}.{type(layer).__qualname__}"


def check_taken_over(model: nn.Module, what: str) -> None:
    """Checks that layers whose code is written anew are those of this package, and that none is left out.

    Args:
        model: The model.
        what: What takes them over: `"streams"`.

    Raises:
        ValueError: If another layer, or a subclass, was put in the place of one; names the place.
    """
    for place in _places(model):
        known = type(place.layer) in place.kinds or (nn.Conv3d in place.kinds and isinstance(place.layer, nn.Conv3d))
        if not known:
            text = place.text or " or ".join(kind.__name__ for kind in place.kinds)
            raise ValueError(f"{what} need {text} at {place.name}, got {_named(place.layer)}")
    for name, module in model.named_modules(remove_duplicate=False):
        left_out = {D2plus1D: "drop_path", TOSA: "drop_path", ClassifierHead3d: "drop"}.get(type(module))
        if left_out and not does_nothing(layer := getattr(module, left_out)):
            kind = "dropout" if left_out == "drop" else "stochastic depth"
            raise ValueError(f"{what} need {kind} or Identity at {name}.{left_out}, got {layer}")
        if isinstance(module, Stem3d):
            _check_pads(name, module, ("pad", "conv_t"), what)
        elif isinstance(module, D2plus1D):
            _check_pads(name, module, module._middle, what)


def _check_pads(name: str, owner: nn.Module, parts: tuple[str, ...], what: str) -> None:
    """Checks that each `CausalPad3d` adds the frames that the kernel of the next layer needs."""
    layers: list[Any] = [getattr(owner, part) for part in parts]
    for part, pad, conv in zip(parts, layers, layers[1:], strict=False):
        if isinstance(pad, CausalPad3d) and pad.frames != (wanted := conv.kernel_size[0] - 1):
            raise ValueError(f"{what} need CausalPad3d({wanted}) at {name}.{part}, before {conv}, got {pad}")


_LINEAR = ("fc1", "fc2", "hidden")  # convolutions that run on vectors


def _check_conv(name: str, conv: nn.Conv3d, causal: bool | None) -> None:
    frames, last = conv.kernel_size[0], name.rpartition(".")[2]
    sizes: tuple[Any, ...] = (conv.stride, conv.padding, conv.dilation)
    if not is_only(conv, nn.Conv3d):
        problem = "does more than convolve"
    elif isinstance(conv.padding, str) or conv.padding_mode != "zeros":
        problem = "needs padding in numbers, with zeros"
    elif not all(isinstance(size, tuple | list) for size in sizes):
        problem = "needs a number for each axis as stride, padding and dilation"
    elif last in _LINEAR and (conv.groups > 1 or max(conv.kernel_size) > 1 or max(sizes[1])):
        problem = "must have a kernel of 1x1x1 without groups and padding"
    elif conv.stride[0] != 1 or conv.dilation[0] != 1:
        problem = "has a stride or a dilation in time"
    elif frames > 1 and causal is None:
        problem = "must have a kernel of one frame"
    elif conv.padding[0] * 2 != (0 if causal else frames - 1):
        problem = "changes the number of frames"
    else:
        return
    raise ValueError(f"{name} cannot be taken over by a stream, for it {problem}: {conv}")


@torch.no_grad()
def _is_elementwise(act: nn.Module, probe: torch.Tensor) -> bool:
    """Returns whether an activation gives the same for each value alone: streams have single frames, channels last."""
    bound = min(1e-2, 64 * torch.finfo(probe.dtype).eps)
    try:
        whole = act(probe.clone())
        alone = torch.cat([act(value.view(1, 1, 1, 1).clone()).flatten() for value in probe.flatten()])
        return torch.allclose(whole, alone.view(probe.shape), rtol=bound, atol=bound)
    except RuntimeError:
        return False


def parts_of(model: Any) -> tuple[Stem3d, list[Any], dict[int, str] | None]:
    """Returns stem, stages, and the keys of the feature maps to return by level, where the stem is level 0."""
    if isinstance(model, VideoNetwork):
        return model.stem, list(model.stages), None
    stem, *stages = model.values()
    names = [str(key) for key in model]
    kept = {level: model.return_layers[name] for level, name in enumerate(names) if name in model.return_layers}
    return stem, stages, kept
