"""From a video, or frames, to the names of what happens in it."""

import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, overload

import numpy as np
import torch
from torch import nn

from vov3d.labels import class_names as names_of_model
from vov3d.video.reader import VideoReader
from vov3d.video.sampling import clip_indices, parse_views
from vov3d.video.transforms import eval_transform

__all__ = ["Prediction", "Source", "VideoClassifier"]

Source = str | os.PathLike[str] | np.ndarray | torch.Tensor
"""A video file, or frames `(T, H, W, 3)` or `(T, 3, H, W)` in uint8."""

Sources = list[Source] | tuple[Source, ...]

_CFG_KEYS = ("num_frames", "sampling", "input_size", "mean", "std", "interpolation")


@dataclass(frozen=True)
class Prediction:
    """A class with its score, the mean softmax over the views."""

    index: int
    label: str
    score: float


class VideoClassifier:
    """Names the classes of videos with a model of this package.

    Frames, crops and normalisation follow the model's `pretrained_cfg`. The model is put in eval mode and stays so;
    it is used on the device and in the precision it has.

    Attributes:
        model: the network.
        views: clips and crops whose softmax is averaged.
        batch_size: views that go through the model at once.
        class_names: the names, in index order.

    Example:
        >>> classifier = VideoClassifier(model, views="10x3")  # doctest: +SKIP
        >>> classifier("clip.mp4", topk=5)  # doctest: +SKIP
    """

    def __init__(
        self,
        model: nn.Module,
        views: str = "1x1",
        batch_size: int = 4,
        class_names: Sequence[str] | None = None,
        progress: bool = False,
    ) -> None:
        """Builds the pipeline that fits the model.

        Args:
            model: a model with `pretrained_cfg`, `num_classes` and `forward_dense`, which gives averaged softmax;
                without the last, the softmax of its logits is taken.
            views: clips x crops, such as `"1x1"`, `"2x3"` or `"10x3"`.
            batch_size: views that go through the model at once.
            class_names: names in index order. By default those of the model's label set, else `"class 0"` and on.
            progress: show a bar over the batches of a video on a terminal, when it takes over a second.

        Raises:
            ValueError: for views, a batch size or names that do not fit, or a model without classes or settings.
        """
        self.model: Any = model
        self.views = parse_views(views)
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}: it must be at least 1")
        self.batch_size = batch_size
        self.progress = progress
        self._cfg = _checked_cfg(model)
        self.class_names = _checked_names(model, class_names)
        self._transform = eval_transform(self._cfg, self.views.num_crops)

    @overload
    def __call__(self, source: Source, topk: int = 5, fps: float | None = None) -> list[Prediction]: ...

    @overload
    def __call__(self, source: Sources, topk: int = 5, fps: float | None = None) -> list[list[Prediction]]: ...

    def __call__(
        self, source: Source | Sources, topk: int = 5, fps: float | None = None
    ) -> list[Prediction] | list[list[Prediction]]:
        """The best classes of one video, or of each in a list.

        Args:
            source: a path; or uint8 RGB frames `(T, H, W, 3)` or `(T, 3, H, W)`; or a list of these. Exactly as many
                frames as the model takes are one clip as they are, others are sampled like a video.
            topk: classes to name, best first; more than the model has gives all.
            fps: frames per second of frames given as an array, 30 if not given. A file has its own.

        Returns:
            Predictions, or a list of them for each source of a list.

        Raises:
            ValueError: for `topk` below 1, frames of another form, or `fps` for a file.
            VideoError: for a file that gives no frames.
        """
        if topk < 1:
            raise ValueError(f"topk is {topk}: it must be at least 1")
        if isinstance(source, (list, tuple)):
            return [self._best(one, topk, fps) for one in source]
        return self._best(source, topk, fps)

    def scores(self, source: Source, fps: float | None = None) -> torch.Tensor:
        """The softmax of one video, averaged over its views.

        Args:
            source: a path; or uint8 RGB frames `(T, H, W, 3)` or `(T, 3, H, W)`.
            fps: frames per second of frames given as an array, 30 if not given. A file has its own.

        Returns:
            float32 `(num_classes,)` on the CPU.

        Raises:
            ValueError: for frames of another form, or `fps` for a file.
            VideoError: for a file that gives no frames.
        """
        frames, clips = self._load(source, fps)
        counts = Counter(map(tuple, clips))  # equal clips, as of a short video, are computed once
        self.model.eval()
        total = torch.zeros(len(self.class_names), dtype=torch.float64)
        with torch.inference_mode():
            for views, weights in self._batches(frames, counts):
                total += weights @ _probabilities(self.model, views).double().cpu()
        return (total / (len(clips) * self.views.num_crops)).float()

    def _best(self, source: Source, topk: int, fps: float | None) -> list[Prediction]:
        """The `topk` best classes of one video."""
        best = self.scores(source, fps).topk(min(topk, len(self.class_names)))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [Prediction(index, self.class_names[index], score) for index, score in pairs]

    def _load(self, source: Source, fps: float | None) -> tuple[torch.Tensor, list[list[int]]]:
        """Resized frames `(N, C, H, W)`, each only once, and the clips as positions among them."""
        if isinstance(source, (str, os.PathLike)):
            if fps is not None:
                raise ValueError(f"{os.fspath(source)}: fps is for frames in an array; a file has its own rate")
            return self._load_file(source)
        frames = _as_frames(source)
        if len(frames) == self._cfg["num_frames"]:
            clips = [list(range(len(frames)))] * self.views.num_clips
        else:
            clips = clip_indices(self._cfg, len(frames), 30 if fps is None else fps, self.views.num_clips)
        wanted, clips = _compact(clips)
        return self._transform.resize(frames[wanted]), clips

    def _load_file(self, path: str | os.PathLike[str]) -> tuple[torch.Tensor, list[list[int]]]:
        """`_load` for a video file."""
        with VideoReader(path) as reader:
            plan = clip_indices(self._cfg, reader.num_frames, reader.fps, self.views.num_clips)
            wanted, clips = _compact([reader.at_constant_rate(clip) for clip in plan])
            return reader.read(wanted, transform=self._transform.resize), clips

    def _batches(
        self, frames: torch.Tensor, counts: Mapping[tuple[int, ...], int]
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Batches of views `(B, C, T, S, S)` with their weights, how often each stands in the plan."""
        parameter = next(self.model.parameters(), torch.zeros(()))
        views = ((view, n) for clip, n in counts.items() for view in self._transform.crop(frames[list(clip)]))
        starts: Any = range(0, len(counts) * self.views.num_crops, self.batch_size)
        for _ in _with_bar(starts) if self.progress else starts:
            batch, weights = zip(*islice(views, self.batch_size), strict=True)
            yield (
                torch.stack(batch).to(parameter.device, parameter.dtype),
                torch.tensor(weights, dtype=torch.float64),
            )


def _probabilities(model: Any, views: torch.Tensor) -> torch.Tensor:
    """Scores `(B, num_classes)` of views: of `forward_dense`, or the softmax of `forward` where a model has no such."""
    return model.forward_dense(views) if hasattr(model, "forward_dense") else model(views).softmax(1)


def _checked_cfg(model: nn.Module) -> Mapping[str, Any]:
    """The model's `pretrained_cfg`, if it says what a pipeline needs."""
    cfg: Any = getattr(model, "pretrained_cfg", None)
    lacking = [key for key in _CFG_KEYS if not isinstance(cfg, Mapping) or cfg.get(key) is None]
    if lacking:
        raise ValueError(
            f"{type(model).__name__}.pretrained_cfg lacks {', '.join(lacking)}: build the model with "
            "vov3d.create_model, or set them with pretrained_cfg_overlay"
        )
    return cfg


def _checked_names(model: nn.Module, names: Sequence[str] | None) -> list[str]:
    """One name for each class of the model."""
    num_classes: Any = getattr(model, "num_classes", 0)
    if num_classes < 1:
        raise ValueError("the model has no classes (num_classes=0): build it with some, or call reset_classifier")
    if names is None:
        names = names_of_model(model)
    if names is None:
        return [f"class {index}" for index in range(num_classes)]
    if isinstance(names, str) or len(names) != num_classes:
        raise ValueError(f"class_names must be {num_classes} names, one a class of the model; {len(names)} were given")
    return list(names)


def _as_frames(source: Any) -> torch.Tensor:
    """Frames given as an array, as uint8 `(T, 3, H, W)`."""
    expected = "expected uint8 frames, 0 to 255, of shape (T, H, W, 3) or (T, 3, H, W)"
    if not isinstance(source, (np.ndarray, torch.Tensor)):
        raise ValueError(f"{expected}, or the path of a video; got {type(source).__name__}")
    shape = tuple(source.shape)
    if str(source.dtype).removeprefix("torch.") != "uint8" or len(shape) != 4 or 3 not in (shape[1], shape[3]):
        raise ValueError(f"{expected}; got {source.dtype} of shape {shape}")
    if 0 in shape:
        raise ValueError(f"{expected}; got none, shape {shape}")
    frames = torch.as_tensor(source) if isinstance(source, torch.Tensor) else torch.from_numpy(source.copy())
    return frames.permute(0, 3, 1, 2) if shape[3] == 3 else frames


def _compact(clips: list[list[int]]) -> tuple[list[int], list[list[int]]]:
    """The frames that clips share, rising, and the clips as positions among them."""
    wanted = sorted({index for clip in clips for index in clip})
    place = {index: position for position, index in enumerate(wanted)}
    return wanted, [[place[index] for index in clip] for clip in clips]


def _with_bar(starts: Any) -> Any:
    """A progress bar on stderr, shown only on a terminal and after a second."""
    from tqdm import tqdm

    return tqdm(starts, desc="views", unit="batch", delay=1, leave=False, file=sys.stderr, disable=None)
