"""Training data before decoding: lists of videos, shards, clips in memory."""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from huggingface_hub import constants

from reference.data.layouts import SplitError
from reference.data.lists import described, first_label, read_list, read_names
from reference.training.stopping import ignore_signals
from vov3d.files import replacing
from vov3d.synthetic import moving_shapes
from vov3d.video import VIDEO_ENDINGS

SHAPES = "shapes"


@dataclass(frozen=True)
class Member:
    """A video inside a tar file."""

    tar: Path
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.tar}:{self.name}"

    def read(self) -> bytes:
        """Returns the content of the video file."""
        with self.tar.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


@dataclass(frozen=True)
class Source:
    """Labelled videos, or clips in memory.

    Attributes:
        name: Its name in logs.
        labels: int64 `(N,)`.
        classes: Names in index order.
        files: What `VideoReader` opens: a file, a folder of frames, or a member of a shard; None for clips.
        clips: uint8 `(N, T, H, W, 3)`, possibly on disk; None for files.
        notes: Notes about the reading.
    """

    name: str
    labels: np.ndarray
    classes: tuple[str, ...]
    files: Sequence[Path | Member] | None = None
    clips: np.ndarray | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def file(self, index: int) -> Path | Member | str:
        """Returns the file of a video; for a clip in memory, its name."""
        return f"{self.name}, clip {index}" if self.files is None else self.files[index]

    def content(self, index: int) -> Path | bytes | np.ndarray:
        """Returns a video as `VideoClassifier` takes it: a path, the bytes of a member, or frames `(T, H, W, 3)`."""
        if self.clips is not None:
            return self.clips[index]
        file = self.file(index)
        return file.read() if isinstance(file, Member) else Path(file)

    def digest(self) -> str:
        """Returns a digest of names of files, labels and classes; it does not depend on the place of the data."""
        names = [f"{Path(str(f)).parent.name}/{Path(str(f)).name}" for f in self.files or ()]
        shape = () if self.clips is None else self.clips.shape
        text = json.dumps([names, self.labels.tolist(), self.classes, shape])
        return hashlib.sha256(text.encode()).hexdigest()

    def subset(self, indices: np.ndarray) -> "Source":
        """Returns some of the videos or clips."""
        files = None if self.files is None else [self.files[i] for i in indices]
        clips = None if self.clips is None else self.clips[indices]
        return replace(self, labels=self.labels[indices], files=files, clips=clips)


def read_source(
    path: str, part: str, data: SimpleNamespace, shapes: SimpleNamespace, classes: str | tuple[str, ...] | None
) -> tuple[Source, bool]:
    """Returns labelled videos or clips of one part of the data, and True if it has several parts.

    Args:
        path: `"shapes"`, `"shapes:train"`, `"shapes:val"`, an `.npz` file, shards, or a source of `lists.py`.
        part: `"train"` or `"val"`, where there are several and the path does not say which.
        data: The section of the recipe.
        shapes: The section of the recipe.
        classes: Names in index order, a file of them, or a label set.
    """
    if path.partition(":")[0] == SHAPES:
        return _shapes(path.partition(":")[2] or part, shapes), path == SHAPES
    labels_from = None if data.labels_from < 0 else data.labels_from
    if path.endswith((".npz", ".tar")):
        names = tuple(read_names(classes)) if isinstance(classes, str) else classes
        read = _arrays if path.endswith(".npz") else _shards
        return read(path, names, labels_from), False
    options: dict[str, Any] = dict(layout=data.layout or None, classes=classes, partial=data.partial)
    options |= dict(root=data.root or None, labels_from=labels_from)
    try:
        found, several = read_list(path, **options), False
    except SplitError:
        found, several = read_list(path, split=part, **options), True
    labels, classes = np.array(found.labels, np.int64), tuple(found.classes)
    return Source(found.name, labels, classes, found.paths, notes=described(found)), several


# --- clips in memory -------------------------------------------------------------------------------------------------


def _arrays(name: str, classes: tuple[str, ...] | None, labels_from: int | None) -> Source:
    path = Path(name)
    with np.load(path, allow_pickle=False) as file:
        missing = [name for name in ("clips", "labels") if name not in file]
        if missing:
            raise ValueError(f"{path}: holds no {' and no '.join(missing)}; expected clips, labels, and maybe classes")
        clips, labels = file["clips"], file["labels"].astype(np.int64)
        if classes is None and "classes" in file:
            classes = tuple(map(str, file["classes"]))
    if clips.dtype != np.uint8 or clips.ndim != 5 or clips.shape[-1] != 3 or len(clips) != len(labels):
        raise ValueError(
            f"{path}: expected uint8 clips (N, T, H, W, 3) and as many labels, "
            f"got {clips.dtype} {clips.shape} and {labels.shape}"
        )
    labels, classes = _classes(path, labels, classes, labels_from)
    return Source(path.name, labels, classes, clips=clips)


def _classes(
    path: object, labels: np.ndarray, classes: tuple[str, ...] | None, labels_from: int | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns labels from 0, and names for them."""
    if not len(labels):
        raise ValueError(f"{path}: holds nothing to train on")
    if classes is None:
        labels = labels - first_label(path, [int(label) for label in np.unique(labels)], labels_from)
        classes = tuple(f"class {i}" for i in range(int(labels.max()) + 1))
    if labels.min() < 0 or labels.max() >= len(classes):
        raise ValueError(
            f"{path}: has labels from {labels.min()} to {labels.max()}, but there are {len(classes)} classes"
        )
    return labels, classes


def _shapes(split: str, shapes: SimpleNamespace) -> Source:
    """Returns moving shapes; all cores draw them the first time, later calls read them from the disk."""
    if split not in ("train", "val"):
        raise ValueError(f"data 'shapes:{split}': there are 'shapes:train' and 'shapes:val'")
    number, seed = (shapes.clips, shapes.seed) if split == "train" else (shapes.val_clips, shapes.seed + 1)
    folder = Path(moving_shapes.__file__).parent
    code = b"".join((folder / name).read_bytes() for name in ("moving_shapes.py", "_drawing.py"))
    generator = hashlib.sha256(code).hexdigest()[:8]
    root = Path(os.environ.get("VOV3D_CACHE") or Path(constants.HF_HOME) / "vov3d").expanduser() / SHAPES
    path = root / f"{number}x{shapes.frames}x{shapes.size}-{seed}-{generator}.npy"
    if not path.exists():
        make_shapes(path, number, seed, shapes.frames, shapes.size)
    labels = np.arange(number) % len(moving_shapes.CLASSES)
    return Source(f"shapes:{split}", labels, moving_shapes.CLASSES, clips=np.load(path, mmap_mode="r"))


def make_shapes(path: Path, number: int, seed: int, num_frames: int, size: int) -> None:
    """Writes the clips of `moving_shapes.make_set` into a `.npy` file, in parallel."""
    print(f"making {number} clips of {num_frames} x {size} x {size} in {path} (once)", flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as draft:
        np.lib.format.open_memmap(draft, "w+", np.uint8, (number, num_frames, size, size, 3)).flush()
        jobs = [(draft, seed, start, min(start + 100, number)) for start in range(0, number, 100)]
        with ProcessPoolExecutor(initializer=ignore_signals) as pool:
            try:
                list(pool.map(_make_some, jobs))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise


def _make_some(job: tuple[Path, int, int, int]) -> None:
    path, seed, start, stop = job
    clips = np.load(path, mmap_mode="r+")
    for i in range(start, stop):
        label, rng = i % len(moving_shapes.CLASSES), np.random.default_rng((seed, i))
        clips[i] = moving_shapes.make_clip(label, rng, clips.shape[1], clips.shape[2])
    clips.flush()


# --- shards ----------------------------------------------------------------------------------------------------------


def _shards(pattern: str, classes: tuple[str, ...] | None, labels_from: int | None) -> Source:
    """Returns videos in tar files of webdataset's layout: `KEY.mp4` beside `KEY.cls` or `KEY.json` with a `label`."""
    files: list[Member] = []
    labels: list[Any] = []
    for tar in _expanded(pattern):
        for member, label in _members(tar):
            files.append(member)
            labels.append(label)
    if not all(isinstance(label, int) for label in labels):
        classes = classes or tuple(sorted({str(label) for label in labels}))
        unknown = sorted({str(label) for label in labels} - set(classes))
        if unknown:
            raise ValueError(f"{pattern}: has the labels {', '.join(unknown[:5])}, which are no names of classes")
        labels = [classes.index(str(label)) for label in labels]
        labels_from = 0
    numbers, classes = _classes(pattern, np.array(labels, np.int64), classes, labels_from)
    return Source(pattern, numbers, classes, files)


def _expanded(pattern: str) -> list[Path]:
    """Returns the files of `x-{000..009}.tar`."""
    head, brace, tail = pattern.partition("{")
    if not brace:
        paths = [Path(pattern)]
    else:
        numbers, _, end = tail.partition("}")
        first, _, last = numbers.partition("..")
        if not (first.isdigit() and last.isdigit()):
            raise ValueError(f"{pattern}: expected shards such as x-{{000..009}}.tar")
        paths = [Path(f"{head}{i:0{len(first)}}{end}") for i in range(int(first), int(last) + 1)]
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise ValueError(f"{pattern}: {len(missing)} of {len(paths)} shards are missing, the first is {missing[0]}")
    return paths


def _members(path: Path) -> list[tuple[Member, Any]]:
    """Returns the videos of a tar file with their labels, in the order of the file."""
    videos: dict[str, Member] = {}
    labels: dict[str, Any] = {}
    try:
        with tarfile.open(path) as tar:
            for info in tar:
                folder, _, base = info.name.rpartition("/")
                stem, _, ending = base.partition(".")
                key = f"{folder}/{stem}"
                if f".{ending.lower()}" in VIDEO_ENDINGS:
                    videos[key] = Member(path, info.name, info.offset_data, info.size)
                elif ending in ("cls", "json"):
                    labels[key] = _label((tar.extractfile(info) or io.BytesIO()).read(), ending, f"{path}:{info.name}")
    except tarfile.TarError as error:
        raise ValueError(f"{path}: is no tar file, or is cut short ({error})") from error
    unlabelled = [str(videos[key]) for key in videos if key not in labels]
    if unlabelled:
        raise ValueError(
            f"{unlabelled[0]}: has no .cls and no .json beside it ({len(unlabelled)} of {len(videos)} videos)"
        )
    return [(video, labels[key]) for key, video in videos.items()]


def _label(content: bytes, ending: str, name: str) -> int | str:
    text = content.decode("utf-8").strip()
    if ending == "json":
        try:
            label = json.loads(text)["label"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{name}: expected a JSON object with a label") from error
        text = str(label)
    return int(text) if text.isdigit() else text
