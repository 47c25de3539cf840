"""Runs a model over a set of videos, and writes the scores as they come."""

import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from reference.data.sources import Member
from reference.evaluation.models import Model
from reference.evaluation.samples import Samples
from reference.evaluation.scores import Row, Scores, begin
from vov3d.video import Result, VideoClassifier, parse_views
from vov3d.video.classifier import view_scores


@dataclass(frozen=True)
class Plan:
    """Views of a video, and how their frames are read.

    Attributes:
        views: Clips and crops, such as `"10x3"`.
        stride: Of frames, in place of the model's own.
        frames: Of a clip, in place of the model's own.
        fps: Of frame folders and arrays, in place of what they have by default.
        batch_size: Views at once; None for what fits in memory.
        backend: Decoder of files.
        per_view: Keeps the scores of each view.
        antialias: Filters frames before they are made smaller; the published loaders do not.
    """

    views: str
    stride: float | None = None
    frames: int | None = None
    fps: float | None = None
    batch_size: int | None = None
    backend: str | None = None
    per_view: bool = False
    antialias: bool = True


class _Recorder(nn.Module):
    """A wrapper of the network that keeps the scores of every view."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        self.pretrained_cfg, self.num_classes = network.pretrained_cfg, network.num_classes
        self.kept: list[torch.Tensor] = []

    def forward_dense(self, x: torch.Tensor) -> torch.Tensor:
        """Returns scores `(B, num_classes)` of clips `(B, C, T, H, W)`."""
        scores = view_scores(self.network, x)
        self.kept.append(scores.float().cpu())
        return scores

    def taken(self) -> torch.Tensor:
        """Returns the scores that were kept since the last call, `(views, num_classes)`."""
        kept, self.kept = self.kept, []
        return torch.cat(kept) if kept else torch.empty(0)


class Run:
    """A model over a set of videos.

    Attributes:
        model: The network.
        samples: The videos.
        plan: Their views.
        size: Rows and columns of a crop.
        frames: Of a clip.
        stride: Of frames, at 30 per second; None for segments.
        folder: Where the scores lie.
    """

    def __init__(self, model: Model, samples: Samples, plan: Plan, out: Path) -> None:
        """Checks the plan and opens the folder; computes nothing.

        Args:
            model: The network.
            samples: The videos.
            plan: Their views.
            out: The folder of all results; this run has its own in it.

        Raises:
            ValueError: For a plan that does not fit the model or would have no effect, or a folder of other scores.
        """
        _check_clips(model, samples, plan)
        self.model, self.samples, self.plan = model, samples, plan
        self.size = (model.cfg.get("test_input_size") or model.cfg["input_size"])[-1]
        self.frames = plan.frames or model.cfg["num_frames"]
        self.stride = plan.stride or (model.cfg.get("frame_stride") if model.cfg["sampling"] == "dense" else None)
        changed = [f"stride{plan.stride:g}" if plan.stride else "", f"frames{plan.frames}" if plan.frames else ""]
        changed.append("" if plan.antialias else "no-antialias")
        self.folder = out / "-".join(filter(None, [model.label, plan.views, *changed]))
        self._recorder = _Recorder(model.network)
        self._classifier = classifier_of(self._recorder, samples.classes, plan)
        settings = {
            "model": model.name,
            "weights": model.weights,
            "views": plan.views,
            "views_kept": plan.per_view,
            "stride": self.stride,
            "frames": self.frames,
            "size": self.size,
            "fps": plan.fps,
            "data": samples.name,
            "videos": samples.digest(),
            "classes": list(samples.classes),
            **({} if plan.antialias else {"antialias": False}),
            **({"segments": "drawn"} if self._draws() else {}),
        }
        begin(self.folder, settings)

    def _draws(self) -> bool:
        """Returns whether each clip takes a random frame of each segment."""
        return self.model.cfg["sampling"] == "segment" and parse_views(self.plan.views).num_clips > 1

    def rows(self) -> dict[int, Row]:
        """Scores every video that has no scores yet; returns a row for each video, by its index."""
        samples, count = self.samples, len(self.samples)
        with closing(Scores(self.folder, self.model.num_classes, self.plan.per_view)) as scores:
            todo = scores.todo(count)
            if len(todo) < count:
                print(f"{self.folder}: {count - len(todo)} of {count} videos have scores already", file=sys.stderr)
            sources = (content_of(samples.sources[index]) for index in todo)
            results: Any = self._classifier.results(sources, topk=1, fps=self.plan.fps, errors="return")
            with noted() as notes, closing(results):
                for index, result in zip(_shown(todo, scores, self.model.label), results, strict=True):
                    label = samples.labels[index] if samples.targets is None else None
                    row = Row(index, samples.names[index], label, note=" ".join(notes))
                    kept = self._recorder.taken()
                    views = _by_place(result, kept) if self.plan.per_view and not result.error else None
                    row, mean = row_of(row, result)
                    if row.error:
                        tqdm.write(f"broken: {row.error}", file=sys.stderr)
                    scores.add(row, mean, views)
                    notes.clear()
            return {index: scores.rows[index] for index in range(count)}


def content_of(source: Any) -> Any:
    """Returns a source for `VideoClassifier`; a video in a shard is read at its turn."""
    return source.read() if isinstance(source, Member) else source


def _check_clips(model: Model, samples: Samples, plan: Plan) -> None:
    """Refuses settings that would have no effect on what is given."""
    arrays = [source for source in samples.sources if isinstance(source, np.ndarray)]
    frames = plan.frames or model.cfg["num_frames"]
    if plan.stride is not None and any(len(clip) == frames for clip in arrays):
        raise ValueError(
            f"{samples.name}: stride {plan.stride:g} would have no effect, its clips have exactly the {frames} frames "
            f"of {model.name}; give longer clips"
        )
    if plan.fps is not None and any(isinstance(source, Path) and source.is_file() for source in samples.sources):
        raise ValueError("fps is for folders of frames and clips in memory; video files have their own")


def classifier_of(network: Any, classes: Sequence[str], plan: Plan) -> VideoClassifier:
    """Returns the classifier that scores videos, here and in the trainer's validation."""
    return VideoClassifier(
        network,
        plan.views,
        plan.batch_size,
        classes,
        stride=plan.stride,
        num_frames=plan.frames,
        backend=plan.backend,
        antialias=plan.antialias,
    )


def row_of(row: Row, result: Result) -> tuple[Row, np.ndarray | None]:
    """Returns the row of a video, and the mean scores of the classes, None for a broken one."""
    if result.scores is None:
        return replace(row, error=" ".join(str(result.error).split())), None
    mean = result.scores.numpy()
    if row.label is None:  # of another task than one label, which scores tell alone
        return row, mean
    own = mean[row.label]
    rank = int((mean > own).sum() + (mean[: row.label] == own).sum())  # of equal scores the first counts as better
    return replace(row, prediction=int(mean.argmax()), rank=rank), mean


def _by_place(result: Result, kept: torch.Tensor) -> np.ndarray:
    """Returns the scores of views in the order of the plan, `(clips, crops, num_classes)`."""
    clips = [tuple(clip) for clip in result.clips]
    order = sorted(set(clips), key=lambda clip: (clip[-1], clip))  # in the order of computation, equal views once
    by_clip = dict(zip(order, kept.reshape(len(order), result.views.num_crops, -1), strict=True))
    return torch.stack([by_clip[clip] for clip in clips]).numpy()


def _shown(todo: list[int], scores: Scores, label: str) -> Iterator[int]:
    """Yields the indices, with a bar on a terminal that shows the accuracy so far."""
    with tqdm(todo, desc=label, unit="video", disable=None, file=sys.stderr) as bar:
        ranks = [row.rank for row in scores.rows.values() if row.rank is not None]
        right, total = sum(rank == 0 for rank in ranks), len(ranks)
        for index in bar:
            yield index
            total, right = total + 1, right + (scores.rows[index].rank == 0)
            if scores.rows[index].label is not None:
                bar.set_postfix({"top-1": f"{100 * right / total:.1f}"}, refresh=False)


@contextmanager
def noted() -> Iterator[list[str]]:
    """Prints and collects warnings about videos, such as those that are cut short."""
    notes: list[str] = []

    def note(message: Warning | str, *_: Any, **__: Any) -> None:
        notes.append(" ".join(str(message).split()))
        tqdm.write(f"damaged: {notes[-1]}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("always", RuntimeWarning)
        warnings.showwarning = note
        yield notes
