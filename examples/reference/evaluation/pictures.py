"""Pictures: accuracy against the temporal stride, confusions, and examples where two models differ."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from reference.evaluation.metrics import Figure
from vov3d.extras import install
from vov3d.files import replacing
from vov3d.video import VideoReader, eval_transform, plan_clips

_SHOWN = 8  # frames of an example
_NAMED = 60  # classes at most whose names fit beside a confusion
_INK, _RIGHT, _WRONG = "#1b1b1f", "#1a7f4b", "#b3261e"


def require_matplotlib() -> Any:
    """Imports pyplot, without a screen.

    Raises:
        ImportError: If it is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError(f"pictures need matplotlib: {install('train')}") from error
    matplotlib.use("agg")
    from matplotlib import pyplot

    return pyplot


def draw_tempo(path: Path, curves: Mapping[str, Mapping[float, Figure]], title: str) -> None:
    """Draws accuracy against the temporal stride, a line a model, with 95% intervals (Figure 5 of the paper).

    Args:
        path: The picture.
        curves: For each model its accuracy at each stride.
        title: Title of the picture.
    """
    figure, axes = require_matplotlib().subplots(figsize=(7, 4.5), layout="constrained")
    for name, curve in curves.items():
        strides, values = list(curve), 100 * np.array(list(curve.values()))
        (line,) = axes.plot(strides, values[:, 0], "o-", label=name)
        axes.fill_between(strides, values[:, 1], values[:, 2], alpha=0.15, color=line.get_color(), linewidth=0)
    axes.set_xticks(sorted({stride for curve in curves.values() for stride in curve}))
    axes.set(xlabel="temporal stride, in frames at 30 per second", ylabel="top-1 accuracy in percent", title=title)
    axes.grid(alpha=0.3)
    axes.legend()
    _save(figure, path)


def draw_confusion(path: Path, counts: np.ndarray, classes: Sequence[str], title: str) -> None:
    """Draws a confusion matrix, in shares of the videos of a class.

    Args:
        path: The picture.
        counts: `(C, C)`, classes in rows, predictions in columns. Classes without videos are left out.
        classes: Their names.
        title: Title of the picture.
    """
    there = np.flatnonzero(counts.sum(1) + counts.sum(0))
    shares = counts[np.ix_(there, there)] / np.maximum(counts[there].sum(1, keepdims=True), 1)
    side = min(max(4.0, 0.24 * len(there)), 14.0)
    named = len(there) <= _NAMED
    figure, axes = require_matplotlib().subplots(
        figsize=(side + 4.5, side + 3.5) if named else (11, 10), layout="constrained"
    )
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(picture, ax=axes, label="share of the videos of a class", shrink=0.7)
    if named:
        names = [_short(classes[index], 44) for index in there.tolist()]
        axes.set_xticks(range(len(there)), names, rotation=90, fontsize=8)
        axes.set_yticks(range(len(there)), names, fontsize=8)
    axes.set(xlabel="taken for" if named else "taken for (class number)", ylabel="class" if named else "class number")
    axes.set_title(title)
    _save(figure, path)


class Example(NamedTuple):
    """A video that two models label differently.

    Attributes:
        above: Line above the frames.
        name: The video.
        label: Its class.
        said: Labels by the two models.
        frames: uint8 `(T, H, W, 3)`.
    """

    above: str
    name: str
    label: str
    said: tuple[str, str]
    frames: np.ndarray


def draw_examples(path: Path, examples: Sequence["Example"], names: tuple[str, str]) -> None:
    """Draws frames of videos with the labels of two models (Figure 6 of the paper).

    Args:
        path: The picture.
        examples: The videos.
        names: Those of the two models.
    """
    rows = len(examples)
    figure, axes = require_matplotlib().subplots(rows, 1, figsize=(11, 2.5 * rows), layout="constrained", squeeze=False)
    for ax, example in zip(axes[:, 0], examples, strict=True):
        ax.imshow(np.concatenate(list(example.frames), axis=1))
        ax.set_axis_off()
        ax.set_title(example.above, loc="left", fontsize=10, color=_INK)
        told = [(_short(Path(example.name).name, 40), example.label), *zip(names, example.said, strict=True)]
        for line, (name, said) in enumerate(told):
            colour = _INK if line == 0 else _RIGHT if said == example.label else _WRONG
            ax.text(
                0, -0.08 - 0.14 * line, f"{name}: {_short(said, 90)}", transform=ax.transAxes, color=colour, va="top"
            )
    _save(figure, path)


def frames_of(source: Any, cfg: Mapping[str, Any]) -> np.ndarray:
    """Returns the middle clip of a video at the network's centre crop: uint8 frames `(T, S, S, 3)`."""
    with VideoReader(source) as reader:
        (clip,) = plan_clips(cfg, reader)
        transform = eval_transform(cfg)
        (crop,) = transform.cut(reader.read(clip, transform.resize))
    shown = np.linspace(0, len(crop) - 1, min(len(crop), _SHOWN)).round().astype(int)
    return crop[shown].permute(0, 2, 3, 1).numpy()


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _save(figure: Any, path: Path) -> None:
    with replacing(path) as draft:
        figure.savefig(draft, dpi=110, facecolor="white", format="png")
    require_matplotlib().close(figure)
