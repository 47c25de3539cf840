"""Classifies videos: from a file or frames to the labels of the actions in it."""

import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from html import escape
from itertools import islice
from typing import Any, Literal, overload

import numpy as np
import torch
from torch import nn

from vov3d.layers.checks import is_count, is_positive
from vov3d.models import create_model
from vov3d.models.names import model_name
from vov3d.video._averaging import ViewAverage, views_at_once
from vov3d.video._loading import Loaded, Loader, Opened, prefetched
from vov3d.video.decoders.base import VideoError, printable, stack_pictures
from vov3d.video.predictions import Prediction, Predictions, check_threshold, check_topk, html_strip, predictions_of
from vov3d.video.reader import VideoReader, check_backend, missing_text
from vov3d.video.sampling import Views, parse_views
from vov3d.video.settings import checked_cfg, checked_names
from vov3d.video.shots import split_shots
from vov3d.video.sources import Source, check_several, is_file, is_frames, source_name
from vov3d.video.transforms import eval_transform
from vov3d.video.window import ShotClip, ShotWindows, SlidingWindow, steady_frames, steady_rate
from vov3d.weights.tasks import Task, task_of

__all__ = ["Prediction", "Predictions", "Result", "Source", "VideoClassifier", "Window"]

Sources = list[Source] | tuple[Source, ...]

_AHEAD = 2  # clips that may wait for the network

Call = Callable[[Any, torch.Tensor], torch.Tensor]  # maps a model and normalised views (B, C, T, S, S) to rows (B, N)


@dataclass(frozen=True)
class Result:
    """The predictions for one video and the frames they are based on; a notebook shows both as a table.

    Attributes:
        source: the video, as it was given.
        predictions: the best classes, best first, or the values; none after an error.
        scores: float32 `(num_classes,)`, averaged over the views; None after an error.
        error: why there is no prediction.
        views: clips and crops.
        clips: seconds of the frames of each clip.
        duration: of the video, in seconds.
        frames: uint8 RGB `(T, C, S, S)`: the first crop, or the centre one of three, of the clip in the middle.
    """

    source: Source = field(repr=False)
    predictions: list[Prediction]
    scores: torch.Tensor | None = field(repr=False)
    error: Exception | None
    views: Views
    clips: list[list[float]] = field(repr=False)
    duration: float
    frames: torch.Tensor | None = field(repr=False)

    def _repr_html_(self) -> str:
        name = f"<p><b>{escape(source_name(self.source))}</b></p>"
        if self.error is not None:
            return f"{name}<p>{escape(str(self.error))}</p>"
        return f"{name}{html_strip(self.frames)}{Predictions(self.predictions).table()}"


@dataclass(frozen=True)
class Window:
    """A stretch of a long video, and what a model says of it.

    Attributes:
        start: its first moment, in seconds.
        end: its last moment, in seconds.
        shot: where its shot begins, in seconds; 0 where cuts are not looked for.
        duration: of the video, in seconds.
        values: float32 `(N,)`, on the CPU: the scores of all outputs, or a vector.
    """

    start: float
    end: float
    shot: float
    duration: float
    values: torch.Tensor = field(repr=False)

    @property
    def time(self) -> float:
        """The middle, in seconds."""
        return (self.start + self.end) / 2


class VideoClassifier:
    """Names the classes of videos with a model of this package.

    Frames, crops and normalisation follow the model's `pretrained_cfg`. The model is put in eval mode and stays so;
    it is used on the device and in the precision it has. Videos are decoded in a thread beside the network, in one
    pass for all views; memory holds the views in flight, however long a video is.

    Attributes:
        model: the network.
        views: clips and crops whose scores are averaged.
        batch_size: views that go through the model at once; None for as many as fit in half of the free memory, at
            24 times the bytes of its input a view, but no more than 2 on a CPU, whose cache they would leave, and 64
            elsewhere.
        class_names: the names, in index order.
        task: the model's task.

    Examples:
        >>> classifier = VideoClassifier(model, views="10x3")  # doctest: +SKIP
        >>> classifier("clip.mp4", topk=5)  # doctest: +SKIP
    """

    def __init__(
        self,
        model: nn.Module | str | os.PathLike[str],
        views: str = "1x1",
        batch_size: int | None = None,
        class_names: Sequence[str] | None = None,
        progress: bool = False,
        *,
        stride: float | None = None,
        num_frames: int | None = None,
        backend: str | None = None,
        antialias: bool = True,
        threshold: float | Sequence[float] | None = None,
    ) -> None:
        """Builds the pipeline that fits the model.

        Args:
            model: a model with `pretrained_cfg`, `num_classes` and `forward_dense`, which gives averaged scores;
                without the last, the scores of its logits are taken. Or the name of one with weights, such as
                `"vov3d_m"`, or the folder of a saved one: `create_model(..., pretrained=True)` makes it.
            views: clips x crops, such as `"1x1"`, `"2x3"` or `"10x3"`.
            batch_size: views that go through the model at once, by default what fits in memory.
            class_names: names in index order. By default those of the model's label set, else `"class 0"` and on.
            progress: show a bar over the views of a video on a terminal, when it takes over a second.
            stride: distance of a clip's frames, in frames at 30 per second, in place of the model's own.
            num_frames: frames of a clip, in place of the model's own.
            backend: what decodes video files, as for `VideoReader`.
            antialias: as for `eval_transform`; False resizes as the published loaders do.
            threshold: for a multilabel model: the least score of a predicted label, or one for each label; 0.5 if None.

        Raises:
            ValueError: for views, a batch size, names, a threshold or a backend that do not fit; a model without
                classes or settings, or a stream, which takes frame after frame; a threshold for a model of another
                task, or a stride for a model that takes its frames from equal segments, where they have no effect.
            ImportError: for a backend that cannot be used.
        """
        self.views = parse_views(views)
        if batch_size is not None and not is_count(batch_size):
            raise ValueError(
                f"batch_size is {batch_size!r}: it must be at least 1, a whole number, or None for what fits in memory"
            )
        check_backend(backend)
        self.batch_size = batch_size
        self.progress = progress
        self.model: Any = _made(model) if isinstance(model, (str, os.PathLike)) else model
        model = self.model
        if hasattr(model, "initial_state"):
            raise ValueError(
                f"{type(model).__name__} is a stream, which takes frame after frame, not clips: label videos as they "
                "run with vov3d.live.StreamClassifier or `vov3d live`"
            )
        self._cfg = checked_cfg(model, stride, num_frames)
        self.class_names = checked_names(model, class_names)
        self.task: Task = task_of(model)
        self._threshold = check_threshold(self.task, threshold, len(self.class_names))
        self._transform = eval_transform(self._cfg, self.views.num_crops, antialias)
        self._loader = Loader(self._cfg, self._transform, self.views.num_clips, backend)

    def __repr__(self) -> str:
        cfg, (clips, crops) = self._cfg, self.views
        name = ".".join(filter(None, (cfg.get("architecture") or type(self.model).__name__, cfg.get("tag"))))
        way = "in equal segments" if cfg["sampling"] == "segment" else f"every {cfg['frame_stride']:g} at 30 fps"
        outputs = self.task.describe(len(self.class_names))
        return (
            f"VideoClassifier({name}: {outputs}, {clips}x{crops} views of {cfg['num_frames']} "
            f"frames {way}, {self._transform.size}x{self._transform.size} pixels, on {self._parameter().device})"
        )

    @overload
    def __call__(self, source: Source, topk: int | None = None, fps: float | None = None) -> list[Prediction]: ...

    @overload
    def __call__(
        self, source: Sources, topk: int | None = None, fps: float | None = None
    ) -> list[list[Prediction]]: ...

    def __call__(
        self, source: Source | Sources, topk: int | None = None, fps: float | None = None
    ) -> list[Prediction] | list[list[Prediction]]:
        """Returns the best classes of one video, or of each in a list.

        Args:
            source: what `VideoReader` takes: a file, a folder of frames, an address, bytes, or uint8 RGB frames
                `(T, H, W, 3)` or `(T, 3, H, W)`, also one by one in a list; or a list of these. An array or list of
                exactly as many frames as the model takes is used as one clip; any other number is sampled like a video.
            topk: number of classes to return; all of them if the model has fewer. If None, 5; for a multilabel model,
                all that reach the threshold. Values are all returned, in their order.
            fps: frames per second of frames given as an array (30 if not given) or a folder (12). A file has its own.

        Returns:
            `Predictions`, or a list of them for each source of a list.

        Raises:
            ValueError: for `topk` below 1, frames of another form, `fps` for a file, or outputs that are not finite.
            VideoError: for a source that gives no frames.
        """
        if not isinstance(source, (list, tuple)) or is_frames(source):
            result = self.result(list(source) if isinstance(source, tuple) else source, topk, fps)
            shown = Predictions(result.predictions)
            shown.frames = result.frames
            return shown
        return [result.predictions for result in self.results(source, topk, fps)]

    def scores(self, source: Source, fps: float | None = None) -> torch.Tensor:
        """Returns the scores of one video, averaged over its views: the softmax, or the scores of the model's task.

        Args:
            source: as for a call.
            fps: as for a call.

        Returns:
            float32 `(num_classes,)` on the CPU.

        Raises:
            ValueError: for frames of another form, or `fps` for a file.
            VideoError: for a source that gives no frames.
        """
        scores = self.result(source, fps=fps).scores
        assert scores is not None  # an error was raised
        return scores

    def result(self, source: Source, topk: int | None = None, fps: float | None = None) -> Result:
        """Returns the best classes of one video, all scores, the frames used and the times of the clips.

        Args:
            source: as for a call, but no list.
            topk: as for a call.
            fps: as for a call.

        Raises:
            ValueError: as a call.
            VideoError: for a source that gives no frames.
        """
        return next(self.results([source], topk, fps))

    def stream(
        self,
        sources: Iterable[Source],
        topk: int | None = None,
        fps: float | None = None,
        errors: Literal["raise", "return"] = "raise",
    ) -> Iterator[tuple[Source, list[Prediction] | Exception]]:
        """Classifies many videos and yields each result as soon as it is known; decodes the next one meanwhile.

        Args:
            sources: as for a call, any number; they are taken from the iterable in another thread.
            topk: as for a call.
            fps: as for a call, for all sources.
            errors: `"raise"` raises the error of a broken source at its turn; `"return"` yields it in place of the
                predictions and continues.

        Returns:
            An iterator over pairs of source and predictions (or error), in the order of the sources.

        Raises:
            ValueError: for one video in place of several, `topk` below 1 or an unknown value of `errors`; and as a
                call, at a source's turn.
            VideoError: for a source that gives no frames, at its turn.
        """
        results = self.results(sources, topk, fps, errors)
        return ((result.source, result.error or result.predictions) for result in results)

    def results(
        self,
        sources: Iterable[Source],
        topk: int | None = None,
        fps: float | None = None,
        errors: Literal["raise", "return"] = "raise",
    ) -> Iterator[Result]:
        """Classifies many videos as `stream` does, with a `Result` for each.

        Args:
            sources: as for `stream`.
            topk: as for a call.
            fps: as for a call, for all sources.
            errors: as for `stream`; with `"return"` the error is in the `Result`.

        Returns:
            An iterator over results, in the order of the sources.

        Raises:
            ValueError: for one video in place of several, `topk` below 1 or an unknown value of `errors`; and as a
                call, at a source's turn.
            VideoError: for a source that gives no frames, at its turn.
        """
        check_several(sources)
        check_topk(topk)
        _check_errors(errors)
        return self._results(sources, topk, fps, errors)

    def embedding(self, source: Source, fps: float | None = None) -> torch.Tensor:
        """Returns the input of the model's classifier, averaged over a video's views: a vector to compare videos by.

        It is `forward_head(forward_features(view), pre_logits=True)`: features of all channels, pooled over the
        clip, after the hidden layer and its activation, so no value is negative. A model made with `num_classes=0`
        gives the same. The vector is not normalised to length 1.

        Args:
            source: as for a call, but no list.
            fps: as for a call.

        Returns:
            float32 `(model.head_hidden_size,)` on the CPU.

        Raises:
            ValueError: as `embeddings`.
            VideoError: for a source that gives no frames.
        """
        ((_, vector),) = self.embeddings([source], fps)
        assert isinstance(vector, torch.Tensor)  # an error was raised
        return vector

    def embeddings(
        self, sources: Iterable[Source], fps: float | None = None, errors: Literal["raise", "return"] = "raise"
    ) -> Iterator[tuple[Source, torch.Tensor | Exception]]:
        """Yields the `embedding` of many videos, each as soon as it is known; decodes the next one meanwhile.

        Args:
            sources: as for `stream`.
            fps: as for a call, for all sources.
            errors: as for `stream`.

        Returns:
            An iterator over pairs of source and vector (or error), in the order of the sources.

        Raises:
            ValueError: for one video in place of several, an unknown value of `errors`, or a model without a vector
                before its classifier, such as an exported file; and as a call, at a source's turn.
            VideoError: for a source that gives no frames, at its turn.
        """
        check_several(sources)
        _check_errors(errors)
        _check_has_features(self.model)
        found = self._averaged(_features, sources, fps, errors)
        return ((source, vector) for source, _, vector, _ in found)

    def window(
        self,
        frames: Iterable[np.ndarray | torch.Tensor],
        hop: int,
        fps: float = 30.0,
        seconds: float | None = None,
        topk: int | None = None,
    ) -> Iterator[tuple[int, list[Prediction]]]:
        """Labels a stream of frames, as from a camera: at every hop, from the latest frames.

        Each frame is resized, cropped and normalised once, and not at all if no window uses it. A window's label is
        the one that a call on an array of its frames gives.

        Args:
            frames: uint8 RGB frames `(H, W, 3)` or `(3, H, W)`, all of one size.
            hop: frames between two labels.
            fps: frames per second of the stream.
            seconds: length of the window. Only for models that take their frames from equal segments, and by default
                that of their training videos, where they state it; in others it follows from the stride.
            topk: as for a call.

        Yields:
            The number of the newest frame, from 0, with the predictions; the first when the window is full.

        Raises:
            ValueError: for settings that do not fit or would have no effect, such as several clips in `views`;
                frames of another form; or frames that end before the first window is full.
        """
        check_topk(topk)
        if self.views.num_clips != 1:
            raise ValueError(f"a window is one clip, but views has {self.views.num_clips}: use views='1x1' or '1x3'")
        window = SlidingWindow(self._cfg, self._transform, hop, fps, seconds)
        self.model.eval()
        return ((at, self.named(self._run(view_scores, clip).mean(0), topk)) for at, clip in window.clips(frames))

    def scores_over(
        self,
        source: Source,
        every: float,
        seconds: float | None = None,
        across_cuts: bool = False,
        fps: float | None = None,
    ) -> Iterator[Window]:
        """Yields the scores of all outputs at regular times of a long video, as `scores` gives them, in one pass.

        Windows that overlap share their frames; memory holds the frames of one window, however long the video is. Each
        shot is treated as a video of its own (`vov3d.video.shots.split_shots`): its first window begins with it, and
        the next follow as long as they fit. A shot that is shorter than a window is one window.

        Args:
            source: as for a call, but no list.
            every: seconds between two windows.
            seconds: length of a window, as for `window`.
            across_cuts: does not look for cuts, so that windows lie across them.
            fps: as for a call.

        Returns:
            An iterator over windows, in the order of time.

        Raises:
            ValueError: for settings that do not fit or would have no effect, such as several clips in `views`.
            VideoError: for a source without frames, with fewer than windows, or with frames that cannot be resized.
        """
        return self._over(view_scores, source, every, seconds, across_cuts, fps)

    def embeddings_over(
        self,
        source: Source,
        every: float,
        seconds: float | None = None,
        across_cuts: bool = False,
        fps: float | None = None,
    ) -> Iterator[Window]:
        """Yields the vectors of `embedding` at regular times of a long video, in one pass of decoding.

        Args:
            source: as for a call, but no list.
            every: seconds between two windows.
            seconds: as for `window`.
            across_cuts: as for `scores_over`.
            fps: as for a call.

        Returns:
            An iterator over windows, in the order of time.

        Raises:
            ValueError: as `scores_over`, and for a model that gives no vector before its classifier.
            VideoError: as `scores_over`.
        """
        _check_has_features(self.model)
        return self._over(_features, source, every, seconds, across_cuts, fps)

    def _over(
        self, call: Call, source: Source, every: float, seconds: float | None, across_cuts: bool, fps: float | None
    ) -> Iterator[Window]:
        """Returns an iterator over the results of `call` for windows at regular times; settings are checked at once."""
        if not is_positive(every):
            raise ValueError(f"every is {every!r}: give the seconds between two windows as a number above 0")
        if self.views.num_clips != 1:
            raise ValueError(f"a window is one clip, but views has {self.views.num_clips}: use views='1x1' or '1x3'")
        reader = VideoReader(source, self._loader.backend if is_file(source) else None, fps)
        try:
            rate, count = steady_rate(reader)
            if every * rate < 1:  # other videos may have enough frames, so a batch may leave this one out
                raise VideoError(
                    f"{printable(reader.path)}: a window every {every:g} s is more than the {rate:.3g} frames a second "
                    f"of this video; give {math.ceil(1000 / rate) / 1000:g} s or more (--every, every=)"
                )
            plan = ShotWindows(self._cfg, self._transform, every, rate, seconds)
        except BaseException:
            reader.close()
            raise
        self.model.eval()
        return self._windows(call, reader, plan, rate, count, across_cuts)

    def _windows(
        self, call: Call, reader: VideoReader, plan: ShotWindows, rate: float, count: int, across_cuts: bool
    ) -> Iterator[Window]:
        at_once = max(self.views_at_once() // self.views.num_crops, 1)
        with reader, closing(prefetched(_shot_clips(reader, plan, across_cuts), at_once + _AHEAD)) as coming:
            while some := list(islice(coming, at_once)):
                crops = [crop for clip in some for crop in clip.crops]
                rows = self._of_crops(call, crops).unflatten(0, (len(some), -1)).mean(1).float()
                for clip, row in zip(some, rows, strict=True):
                    yield Window(clip.start / rate, clip.end / rate, clip.shot / rate, count / rate, row)
            if reader.missing:
                warnings.warn(missing_text(reader.path, reader.missing, count), RuntimeWarning, stacklevel=3)

    def _results(
        self, sources: Iterable[Source], topk: int | None, fps: float | None, errors: Literal["raise", "return"]
    ) -> Iterator[Result]:
        """Yields the results of `results`, whose arguments have been checked."""
        for source, opened, scores, shown in self._averaged(view_scores, sources, fps, errors):
            if isinstance(scores, Exception):
                yield Result(source, [], None, scores, self.views, [], 0.0, None)
            else:
                best = self.named(scores, topk)
                yield Result(source, best, scores, None, self.views, opened.clips, opened.duration, shown)

    def _averaged(
        self, call: Call, sources: Iterable[Source], fps: float | None, errors: Literal["raise", "return"]
    ) -> Iterator[tuple[Source, Any, torch.Tensor | Exception, torch.Tensor | None]]:
        """Yields each source with its plan (`Opened`), the mean of `call` over its views (or an error), and frames."""
        self.model.eval()
        with closing(prefetched(self._loader.events(sources, fps), _AHEAD)) as events:
            opened: Any = None
            mean: Any = None
            shown = None
            for event in events:
                if isinstance(event, Opened):
                    opened = event
                    views = event.distinct * self.views.num_crops
                    mean = ViewAverage(partial(self._of_crops, call), self.views_at_once(), views, self.progress)
                elif isinstance(event, Loaded):
                    shown = event.crops[len(event.crops) // 2] if event.shown else shown
                    mean.add(event)
                else:
                    found = event.error or _finite(mean.finished(), event.source)
                    if isinstance(found, Exception) and errors == "raise":
                        raise found
                    if event.warning is not None:
                        warnings.warn(event.warning, RuntimeWarning, stacklevel=4)
                    yield event.source, opened, found, shown
                    opened, mean, shown = None, None, None

    def scores_of(self, crops: list[torch.Tensor]) -> torch.Tensor:
        """Returns the scores of views that have been decoded, resized and cropped elsewhere, in one pass.

        Args:
            crops: uint8 `(T, C, S, S)` each, as `EvalTransform.cut` gives them.

        Returns:
            float64 `(B, num_classes)` on the CPU, one row a view.
        """
        return self._of_crops(view_scores, crops)

    def named(self, scores: torch.Tensor, topk: int | None = None) -> Predictions:
        """Returns the predictions that follow from the scores of a video, `(num_classes,)`.

        Args:
            scores: the mean over the views.
            topk: as for a call.
        """
        return predictions_of(self.task, scores, self.class_names, topk, self._threshold)

    def _run(self, call: Call, views: torch.Tensor) -> torch.Tensor:
        """Returns `call` of normalised views `(B, C, T, S, S)`: `(B, N)`, in float64 on the CPU."""
        parameter = self._parameter()
        with torch.inference_mode():
            views = views.to(parameter.device, parameter.dtype)
            if views.device.type != "cpu":
                views = views.contiguous()  # other devices take the published layout
            return call(self.model, views).double().cpu()

    def _parameter(self) -> torch.Tensor:
        """Returns a parameter of the network, for its device and precision."""
        return next(self.model.parameters(), torch.zeros(()))

    def _of_crops(self, call: Call, crops: list[torch.Tensor]) -> torch.Tensor:
        """Returns `call` of uint8 crops `(T, C, S, S)`: `(B, N)`, in float64 on the CPU."""
        # uint8 moves a quarter of the bytes to the device, and only one batch at a time is in float
        return self._run(call, self._transform.normalize(stack_pictures(crops).to(self._parameter().device)))

    def views_at_once(self) -> int:
        """Returns how many views go through the network at once: `batch_size`, or as many as fit in memory now."""
        if self.batch_size is not None:
            return self.batch_size
        parameter = self._parameter()
        view = 3 * self._cfg["num_frames"] * self._transform.size**2 * parameter.element_size()
        return views_at_once(view, parameter.device)


def _shot_clips(reader: VideoReader, plan: ShotWindows, across_cuts: bool) -> Iterator[ShotClip]:
    """Yields the clips of a video."""
    frames = steady_frames(reader)
    try:
        yield from plan.clips(((False, frame) for frame in frames) if across_cuts else split_shots(frames))
    except ValueError as error:  # frames that cannot be resized
        raise VideoError(f"{printable(reader.path)}: {error}") from error


def _finite(values: torch.Tensor, source: Source) -> torch.Tensor | ValueError:
    """Returns a video's scores or vector, or an error if they are not finite, for which any class would be the best."""
    if values.isfinite().all():
        return values
    name = printable(source_name(source))
    return ValueError(f"{name}: the outputs of the model are not finite (NaN): check its weights and its precision")


def _made(name: str | os.PathLike[str]) -> nn.Module:
    """Returns the model of a name or a folder, with its weights."""
    name = os.fspath(name)
    if os.path.splitext(name)[1] in (".onnx", ".xml", ".pt2", ".pte"):
        raise ValueError(f"{name} is an exported file: load it with vov3d.load_exported and pass the result")
    return create_model(model_name(name), pretrained=True).eval()


def view_scores(model: Any, views: torch.Tensor) -> torch.Tensor:
    """Returns the scores `(B, num_classes)` of views: `forward_dense`, or those of `forward` if there is none.

    Nor is there one for a network that pools by more than the average.
    """
    pool = getattr(getattr(getattr(model, "head", None), "global_pool", None), "pool_type", "avg")
    if hasattr(model, "forward_dense") and "max" not in pool:
        return model.forward_dense(views)
    temperature = getattr(model, "temperature", None) or model.pretrained_cfg.get("temperature") or 1.0
    return task_of(model).scores(model(views), temperature)


def _check_errors(errors: str) -> None:
    if errors not in ("raise", "return"):
        raise ValueError(f"errors is {errors!r}: use 'raise' or 'return'")


def _features(model: Any, views: torch.Tensor) -> torch.Tensor:
    """Returns the input of a model's classifier, `(B, D)`."""
    vectors = model.forward_head(model.forward_features(views), pre_logits=True)
    if vectors.ndim != 2:
        raise ValueError(
            f"{type(model).__name__} gives {tuple(vectors.shape)} before its classifier, not one vector a view: build "
            "it with pooling, such as global_pool='avg'"
        )
    return vectors


def _check_has_features(model: nn.Module) -> None:
    """Raises ValueError for a model that does not give one vector a view before its classifier."""
    if not (hasattr(model, "forward_features") and hasattr(model, "forward_head")):
        raise ValueError(
            f"{type(model).__name__} has no forward_features and forward_head, so it gives no embedding: use a model "
            "made by vov3d.create_model (optimized or not), not an exported file"
        )
