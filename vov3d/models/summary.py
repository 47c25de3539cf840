"""Tables of a network by stage and block: shapes, parameters, multiply-adds, frames seen, and the share of time."""

import time
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from vov3d.layers.checks import check_counts

__all__ = ["Row", "Summary", "summarize"]

_WARMUP, _REPETITIONS = 2, 7


@dataclass(frozen=True)
class Row:
    """A part of a network: the stem, a stage, a block of a stage, or the head.

    Attributes:
        name: Name of the module.
        kind: Name of its class.
        shape: Output for one clip, `(C, T, H, W)`, or `(num_classes,)`.
        params: Parameters.
        macs: Multiply-adds for one clip, as `Budget` counts them.
        trf: Temporal receptive field of its outputs, in frames, from the clip on; None for the head, which sees all.
            Squeeze-and-excitation, which pools over the whole clip, is not counted.
        share: Share of the time of the network, from 0 to 1; None if it was not measured.
        inner: True for a block, whose stage has a row of its own.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    params: int
    macs: int
    trf: int | None
    share: float | None
    inner: bool


@dataclass(frozen=True)
class Summary:
    """A network by its parts, for one clip; prints as a table.

    Attributes:
        clip: `(C, T, H, W)`.
        rows: Stem, stages with their blocks, head, in order.
        params: Parameters of the network.
        macs: Multiply-adds of the network.
        seconds: Time of a clip; None if it was not measured.
    """

    clip: tuple[int, ...]
    rows: tuple[Row, ...]
    params: int
    macs: int
    seconds: float | None

    def __str__(self) -> str:
        cells = [_HEAD, *(_cells(row) for row in self.rows), self._total()]
        shown = [line if self.seconds is not None else line[:-1] for line in cells]
        widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
        left = 3  # columns of text
        return "\n".join(
            "  ".join(
                cell.ljust(width) if i < left else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in shown
        )

    def _total(self) -> tuple[str, ...]:
        time_text = "" if self.seconds is None else f"{1000 * self.seconds:.1f} ms"
        return ("all", "", _size(self.clip), f"{self.params:,}", f"{self.macs:,}", "", time_text)

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{title}</th>" for title in _HEAD)
        lines = (_cells(row) for row in self.rows)
        body = "".join(f"<tr>{''.join(f'<td>{c}</td>' for c in line)}</tr>" for line in (*lines, self._total()))
        return f"<table><tr>{head}</tr>{body}</table>"


_HEAD = ("part", "class", "output", "parameters", "multiply-adds", "TRF", "time")


def _cells(row: Row) -> tuple[str, ...]:
    name = f"  {row.name.partition('.blocks.')[2]}" if row.inner else row.name
    return (
        name,
        row.kind,
        _size(row.shape),
        f"{row.params:,}",
        f"{row.macs:,}",
        "all" if row.trf is None else str(row.trf),
        "" if row.share is None else f"{row.share:.1%}",
    )


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def summarize(model: Any, num_frames: int | None = None, size: int | None = None, time: bool = False) -> Summary:
    """Counts a network part by part.

    Counting runs a copy without data, on the meta device; nothing of the model changes.

    Args:
        model: VoV3D or X3D, also saved and loaded, causal, factorized, or with another classifier.
        num_frames: Frames of the clip; those of the model's weights if None.
        size: Height and width in pixels; the test crop of the model's weights if None.
        time: Measures the share of time of each part, in eval mode on the model's device; it takes some seconds.

    Raises:
        ValueError: If the clip is too small, its size is unknown, or a model without data is to be timed.
    """
    clip = _clip_shape(model, num_frames, size)
    parts = list(_parts(model))
    shapes, macs, total = _counted(model, clip, parts)
    shares, seconds = _timed(model, clip, parts) if time else ({}, None)
    trfs = _frames_seen(model, parts)
    rows = tuple(
        Row(
            name,
            type(part).__name__,
            shapes[name],
            sum(p.numel() for p in part.parameters()),
            macs.get(name, 0),
            trfs[name],
            shares.get(name),
            ".blocks." in name,
        )
        for name, part in parts
    )
    return Summary(clip, rows, sum(p.numel() for p in model.parameters()), total, seconds)


def _clip_shape(model: Any, num_frames: int | None, size: int | None) -> tuple[int, int, int, int]:
    cfg = getattr(model, "pretrained_cfg", None) or {}
    num_frames = cfg.get("num_frames") if num_frames is None else num_frames
    size = (cfg.get("test_input_size") or cfg.get("input_size") or (None,))[-1] if size is None else size
    if num_frames is None or size is None:
        raise ValueError("the model's pretrained_cfg names no clip: give num_frames and size")
    check_counts(num_frames=num_frames, size=size)
    return (model.in_chans, num_frames, size, size)


def _parts(model: Any) -> Iterator[tuple[str, nn.Module]]:
    yield "stem", model.stem
    for i, stage in enumerate(model.stages):
        yield f"stages.{i}", stage
        for j, block in enumerate(stage.blocks):
            yield f"stages.{i}.blocks.{j}", block
    yield "head", model.head


def _counted(
    model: Any, clip: tuple[int, ...], parts: list[tuple[str, nn.Module]]
) -> tuple[dict[str, tuple[int, ...]], dict[str, int], int]:
    """Returns output shapes and multiply-adds of the parts, and the multiply-adds of all."""
    twin = _without_data(model).eval()
    for module in twin.modules():  # the user's hooks may want data
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
    shapes: dict[str, tuple[int, ...]] = {}

    def keep(name: str) -> Any:
        return lambda module, args, output: shapes.__setitem__(name, tuple(output.shape[1:]))

    for name, _ in parts:
        twin.get_submodule(name).register_forward_hook(keep(name))
    dtype = next(twin.parameters()).dtype
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        twin(torch.empty(1, *clip, device="meta", dtype=dtype))
    found = counter.get_flop_counts()
    root = type(twin).__name__
    macs = {name: sum(found.get(f"{root}.{name}", {}).values()) // 2 for name, _ in parts}
    return shapes, macs, counter.get_total_flops() // 2


def _without_data(model: nn.Module) -> Any:
    """Returns a copy on the meta device, also of a model that keeps computed weights, as after pruning."""
    owned = (value for module in model.modules() for value in vars(module).values())
    computed: Any = {id(v): torch.empty_like(v, device="meta") for v in owned if isinstance(v, torch.Tensor)}
    return deepcopy(model, computed).to("meta")


def _frames_seen(model: Any, parts: list[tuple[str, nn.Module]]) -> dict[str, int | None]:
    """Returns the temporal receptive field at each part's output: all temporal kernels before it are in series."""
    seen = 1
    found: dict[str, int | None] = {}
    for name, part in parts:
        blocks = getattr(part, "blocks", None)
        if name == "head":
            found[name] = None
        elif isinstance(blocks, nn.Sequential):
            found[name] = seen + sum(_frames_added(block) for block in blocks)
        else:
            seen += _frames_added(part)
            found[name] = seen
    return found


def _frames_added(part: nn.Module) -> int:
    convs = [m for m in part.modules() if isinstance(m, nn.Conv3d)]
    return sum((m.kernel_size[0] - 1) * m.dilation[0] for m in convs)


def _timed(
    model: Any, clip: tuple[int, ...], parts: list[tuple[str, nn.Module]]
) -> tuple[dict[str, float | None], float]:
    """Returns the median share of time of each part, and the median seconds of the network."""
    parameter = next(model.parameters())
    if parameter.is_meta:
        raise ValueError("a model on the meta device cannot be timed: create it on a real one")
    begun: dict[str, float] = {}
    spent: dict[str, list[float]] = {name: [] for name, _ in parts}
    whole: list[float] = []

    def now() -> float:
        if parameter.is_cuda:
            torch.cuda.synchronize(parameter.device)
        return time.perf_counter()

    def begin(name: str) -> Any:
        return lambda module, args: begun.__setitem__(name, now())

    def end(name: str) -> Any:
        return lambda module, args, output: spent[name].append(now() - begun[name])

    modes = [(module, module.training) for module in model.modules()]
    handles = []
    try:
        model.eval()
        for name, part in parts:
            handles.append(part.register_forward_pre_hook(begin(name), prepend=True))
            handles.append(part.register_forward_hook(end(name)))
        values = torch.randn(1, *clip, device=parameter.device, dtype=parameter.dtype)
        with torch.inference_mode():
            for _ in range(_WARMUP + _REPETITIONS):
                start = now()
                model(values)
                whole.append(now() - start)
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes:
            module.training = training
    rounds = [{name: spent[name][i] / whole[i] for name in spent} for i in range(_WARMUP, len(whole))]
    return {name: median(share[name] for share in rounds) for name in spent}, median(whole[_WARMUP:])
