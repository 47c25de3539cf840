"""Videos to evaluate on: those of a list, or clips in memory."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from reference.data.annotations import LABEL, PAIR
from reference.data.lists import VideoList, described, read_list
from reference.data.sources import (
    Member,
    content_digest,
    holds_shards,
    read_arrays,
    read_shards,
    read_source,
    renumbered,
    shards_of,
)
from reference.data.targets import task_of_data
from vov3d.video import Section
from vov3d.video.decoders.base import printable
from vov3d.weights.tasks import SINGLE, Task, head_names


@dataclass(frozen=True)
class Samples:
    """Videos with their classes.

    Attributes:
        sources: A path, a section of a video, a member of a shard, or uint8 frames `(T, H, W, 3)`, of each.
        names: Name of each in results.
        labels: The model's class index of each.
        classes: The model's class names.
        name: Name of the set in results.
        missing: Videos that the list names and that are not there.
        notes: Notes about the reading.
        targets: The labels `(N, ...)` of a task beyond one label, as in a `Source`; `labels` are all 0 then.
    """

    sources: Sequence[Path | Section | Member | np.ndarray]
    names: tuple[str, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]
    name: str
    missing: int = 0
    notes: tuple[str, ...] = ()
    targets: np.ndarray | None = None

    def subset(self, indices: Sequence[int]) -> "Samples":
        """Returns some of the videos."""
        return replace(
            self,
            sources=[self.sources[i] for i in indices],
            names=tuple(self.names[i] for i in indices),
            labels=tuple(self.labels[i] for i in indices),
            targets=None if self.targets is None else self.targets[list(indices)],
        )

    def __len__(self) -> int:
        return len(self.names)

    def digest(self) -> str:
        """Returns the SHA-256 of names, labels and sizes, which shows whether scores are of this set."""
        labels = self.labels if self.targets is None else self.targets.tolist()
        rows = [f"{name}\t{label}" for name, label in zip(self.names, labels, strict=True)]
        return hashlib.sha256("\n".join([*rows, content_digest(self.sources)]).encode()).hexdigest()


def load_samples(
    data: str | Path,
    names: Sequence[str] | None,
    num_classes: int,
    root: str | None = None,
    layout: str | None = None,
    split: str | None = None,
    partial: bool = False,
    labels_from: int | None = None,
    task: Task = SINGLE,
) -> Samples:
    """Reads a set of videos and gives it the class numbers of a model.

    Args:
        data: What `read_list` takes, or an `.npz` file with uint8 `clips` `(N, T, H, W, 3)`, `labels` `(N,)` and
            `classes`.
        names: The model's class names; if None, its classes are those of the data in their order.
        num_classes: The model's number of classes.
        root: As for `read_list`.
        layout: As for `read_list`.
        split: As for `read_list`.
        partial: As for `read_list`.
        labels_from: As for `read_list`.
        task: What the model's outputs mean; of another than one label the data is what `read_source` takes.

    Raises:
        FileNotFoundError: As `read_list`.
        ValueError: As `read_list`, and for classes that the model does not have.
    """
    if not task.single:
        way = SimpleNamespace(layout=layout or "", root=root or "", partial=partial, classes="")
        way.labels_from = -1 if labels_from is None else labels_from
        return _of_task(str(data), task, names, num_classes, split, way)
    if Path(data).suffix == ".npz":
        settings = (("root", root), ("layout", layout), ("split", split), ("labels_from", labels_from))
        if given := [key for key, value in settings if value is not None]:
            raise ValueError(f"{data}: {' and '.join(given)} has no effect on clips in memory; leave it out")
        return _in_memory(Path(data), names, num_classes)
    if holds_shards(str(data)):
        return _in_shards(str(data), names, num_classes, split, labels_from)
    videos: VideoList = read_list(data, root, layout, names, split, partial, labels_from)
    if videos.kind != LABEL:
        several = "a verb and a noun" if videos.kind == PAIR else "any number of labels"
        task_name = "multihead" if videos.kind == PAIR else "multilabel"
        raise ValueError(
            f"{data}: has {several} for each video, and the model has one; evaluate a model that was trained with "
            f"--task.name {task_name}"
        )
    if names is None and videos.classes == tuple(f"class {i}" for i in range(len(videos.classes))):
        names = [f"class {index}" for index in range(num_classes)]  # a list of numbers may lack the last classes
    classes = _agreed(data, names, tuple(map(str, videos.classes)), num_classes)
    paths = tuple(printable(str(source)) for source in videos.sources)
    labels, missing = _in_range(data, videos.labels, classes), len(videos.missing)
    return Samples(videos.sources, paths, labels, classes, videos.name, missing, described(videos))


def _of_task(
    data: str, task: Task, names: Sequence[str] | None, num_classes: int, split: str | None, way: SimpleNamespace
) -> Samples:
    """Returns the videos of a task beyond one label, with labels in the order of the model's outputs."""
    heads = tuple(name for name, _ in task.heads)
    own: tuple[Any, ...] | None = tuple(names) if names is not None else None
    if own is not None and task.heads:
        own = tuple(map(tuple, head_names(task, own)))
    source, several = read_source(data, split or "", way, SimpleNamespace(), own, task.name, heads)
    if split is not None and not several:
        raise ValueError(f"{data}: --split {split} has no effect, there is only one set; leave it out")
    if isinstance(source.files, list | tuple) and any(isinstance(file, Member) for file in source.files):
        raise ValueError(f"{data}: shards are for training; give a list of videos")
    found = task_of_data(task.name, source.classes, source.heads)
    flat = sum(source.classes, ()) if task.heads else tuple(source.classes)
    if len(flat) != num_classes or [n for _, n in found.heads] != [n for _, n in task.heads]:
        raise ValueError(
            f"{data}: has {found.describe(len(flat))}, the model {task.describe(num_classes)}; evaluate on data of "
            "its classes"
        )
    sources: list[Any] = list(source.clips) if source.clips is not None else list(source.files or ())
    paths = tuple(f"clip {i}" if source.clips is not None else printable(str(p)) for i, p in enumerate(sources))
    counted = f"{source.name}: {len(sources)} videos of {task.describe(num_classes)}"
    return Samples(
        sources, paths, (0,) * len(paths), flat, source.name, source.missing, (counted, *source.notes), source.labels
    )


def _agreed(data: object, names: Sequence[str] | None, classes: Sequence[str], num_classes: int) -> tuple[str, ...]:
    if names is not None:
        return tuple(names)
    if len(classes) != num_classes:
        raise ValueError(
            f"{data}: has {len(classes)} classes, the model {num_classes} and no names for them; evaluate on data of "
            "its classes, or save the model with its label_names"
        )
    return tuple(classes)


def _in_range(data: object, labels: Sequence[int], classes: Sequence[str]) -> tuple[int, ...]:
    if max(labels) >= len(classes):
        raise ValueError(
            f"{data}: found class number {max(labels)}, expected one of the model's {len(classes)} classes"
        )
    return tuple(labels)


def _in_shards(
    data: str, names: Sequence[str] | None, num_classes: int, split: str | None, labels_from: int | None
) -> Samples:
    """Returns the videos of shards."""
    tars, several = shards_of(data, split)
    if split is not None and not several:
        raise ValueError(f"{data}: --split {split} has no effect, there is only one set; leave it out")
    source = read_shards(data, tars, None if names is None else tuple(names), labels_from)
    if names is None and source.classes == tuple(f"class {i}" for i in range(len(source.classes))):
        names = [f"class {index}" for index in range(num_classes)]
    classes = _agreed(data, names, source.classes, num_classes)
    files = source.files or ()
    labels = _in_range(data, source.labels.tolist(), classes)
    return Samples(files, tuple(map(str, files)), labels, classes, Path(data).stem, notes=source.notes)


def _in_memory(file: Path, names: Sequence[str] | None, num_classes: int) -> Samples:
    """Reads the clips of an `.npz` file."""
    content = read_arrays(file)
    if lacking := [key for key in ("clips", "labels", "classes") if key not in content]:
        raise ValueError(f"{file}: lacks {', '.join(lacking)}; expected clips, labels and classes")
    clips, labels, own = content["clips"], content["labels"], [str(name) for name in content["classes"]]
    if clips.dtype != np.uint8 or clips.ndim != 5 or clips.shape[-1] != 3 or 0 in clips.shape:
        raise ValueError(f"{file}: found clips {clips.dtype} {clips.shape}, expected uint8 (N, T, H, W, 3)")
    if (
        labels.shape != clips.shape[:1]
        or labels.dtype.kind not in "iu"
        or not 0 <= labels.min() <= labels.max() < len(own)
    ):
        raise ValueError(
            f"{file}: found labels {labels.dtype} {labels.shape}, expected {len(clips)} indices of its classes"
        )
    classes = _agreed(file, names, own, num_classes)
    numbers = tuple(renumbered(file, labels, tuple(own), classes).tolist())
    return Samples(list(clips), tuple(f"clip {i}" for i in range(len(clips))), numbers, classes, file.stem)
