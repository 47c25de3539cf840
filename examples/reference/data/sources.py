"""Training data before decoding: lists of videos, shards, clips in memory."""

import hashlib
import io
import json
import os
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from huggingface_hub import constants

from reference.data.annotations import LABEL, LABELS, PAIR, SPLITS, published_lists
from reference.data.layouts import (
    SplitError,
    chosen_split,
    class_key,
    holds_class_folders,
    list_in,
    short,
    split_of,
)
from reference.data.lists import VideoList, described, first_label, is_published, read_list, read_names
from reference.data.targets import HEADS, Classes, check_labels, label_text, read_targets
from reference.data.text import decoded
from reference.training.stopping import follow_main
from vov3d.files import replacing
from vov3d.synthetic import moving_shapes
from vov3d.video import VIDEO_ENDINGS, Section, median_duration

SHAPES = "shapes"

_ARRAYS = ("clips", "labels", "classes", "heads")


@dataclass(frozen=True)
class Member:
    """A video inside a tar file.

    Attributes:
        tar: The tar file.
        name: Its name in it.
        offset: Where it begins.
        size: Its bytes.
        origin: The folder and name that it had before, as `make_shards` notes them; empty if that is not told.
    """

    tar: Path
    name: str
    offset: int
    size: int
    origin: str = ""

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
        labels: int64 `(N,)`, the class; for many labels float32 `(N, num_classes)` of 0 and 1, for values float32
            `(N, V)`, for several heads int64 `(N, heads)`.
        classes: Names in index order; of several heads a tuple of names for each.
        files: What `VideoReader` opens: a file, a folder of frames, a section of one, or a member of a shard; None for
            clips.
        clips: uint8 `(N, T, H, W, 3)`, possibly on disk; None for files.
        notes: Notes about the reading.
        heads: Names of the heads, where there are several and they have names.
        missing: Videos that a list names and that are not there.
    """

    name: str
    labels: np.ndarray
    classes: Classes
    files: Sequence[Path | Member | Section] | None = None
    clips: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    missing: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    def file(self, index: int) -> Path | Member | Section | str:
        """Returns the file or section of a video; for a clip in memory, its name."""
        return f"{self.name}, clip {index}" if self.files is None else self.files[index]

    def content(self, index: int) -> Path | Section | bytes | np.ndarray:
        """Returns a video as `VideoClassifier` takes it: a path, a section, bytes, or frames `(T, H, W, 3)`."""
        if self.clips is not None:
            return self.clips[index]
        assert self.files is not None
        file = self.files[index]
        return file.read() if isinstance(file, Member) else file

    def clip_seconds(self) -> float | None:
        """Returns the median length of some 50 of the videos in seconds; None for clips in memory of unknown rate."""
        if self.clips is None:
            return median_duration(map(self.content, range(0, len(self), len(self) // 50 or 1)))
        return self.clips.shape[1] / moving_shapes.FPS if self.name.startswith(f"{SHAPES}:") else None

    def label_name(self, index: int) -> str:
        """Returns the class of a video in words; of several, all of them."""
        return label_text(self.labels[index], self.classes)

    def digest(self) -> str:
        """Returns a digest of names, sizes, labels and classes; it does not depend on the place of the data."""
        names = [_short_name(file) for file in self.files or ()]
        shape = () if self.clips is None else self.clips.shape
        contents = content_digest((self.files or ()) if self.clips is None else self.clips)
        text = json.dumps([names, self.labels.tolist(), self.classes, shape, contents])
        return hashlib.sha256(text.encode()).hexdigest()

    def subset(self, indices: np.ndarray) -> "Source":
        """Returns some of the videos or clips."""
        files = None if self.files is None else [self.files[i] for i in indices]
        clips = None if self.clips is None else self.clips[indices]
        return replace(self, labels=self.labels[indices], files=files, clips=clips)


def content_digest(sources: Iterable[Any]) -> str:
    """Returns a SHA-256 that tells replaced videos: of sizes of files, and of three frames of each clip in memory.

    Times of change are left out, since copies have others. Folders of frames are not looked into.

    Args:
        sources: Paths, sections, members of shards, or uint8 frames `(T, H, W, 3)`.
    """
    digest, sizes = hashlib.sha256(), dict[Path, int]()
    for source in sources:
        if isinstance(source, np.ndarray):
            for frame in (0, len(source) // 2, -1):
                digest.update(source[frame].tobytes())
        elif isinstance(source, Member):
            digest.update(b"%d " % source.size)
        else:
            path = Path(source.video if isinstance(source, Section) else source)
            if path not in sizes:
                sizes[path] = path.stat().st_size if path.is_file() else 0
            digest.update(b"%d " % sizes[path])
    return digest.hexdigest()


def _short_name(file: Path | Member | Section) -> str:
    """Returns the name of a file with its folder, wherever that lies; for a section, with its times."""
    if isinstance(file, Section):
        return f"{_short_name(Path(file.video))} {file.start:.10g} {file.end}"
    return f"{Path(str(file)).parent.name}/{Path(str(file)).name}"


def read_source(
    path: str,
    part: str,
    data: SimpleNamespace,
    shapes: SimpleNamespace,
    classes: str | Classes | None,
    task: str = "single",
    heads: tuple[str, ...] = (),
) -> tuple[Source, bool]:
    """Returns labelled videos or clips of one part of the data, and True if it has several parts.

    Args:
        path: `"shapes"`, `"shapes:train"`, `"shapes:val"`, an `.npz` file, shards, or a source of `lists.py`.
        part: `"train"` or `"val"`, where there are several and the path does not say which.
        data: The section of the recipe.
        shapes: The section of the recipe.
        classes: Names in index order, a file of them, or a label set.
        task: What the run is for, one of `vov3d.weights.tasks.TASKS`.
        heads: Names of the heads, where these are known, in the order of `classes`.

    Raises:
        ValueError: If the data cannot be read, or its labels are not those of the task.
    """
    source, several = _read(path, part, data, shapes, classes, task, heads)
    check_labels(source.name, source.labels, source.classes, task)
    return source, several


def _read(
    path: str,
    part: str,
    data: SimpleNamespace,
    shapes: SimpleNamespace,
    classes: str | Classes | None,
    task: str,
    heads: tuple[str, ...],
) -> tuple[Source, bool]:
    """Reads as `read_source` does, without its last check."""
    if path.partition(":")[0] == SHAPES:
        if task != "single":
            raise ValueError(
                f"data {path!r} has one label a clip, and the run is for task {task!r}: python -m "
                "vov3d.synthetic.moving_tasks writes clips for it"
            )
        return _shapes(path.partition(":")[2] or part, shapes), path == SHAPES
    labels_from = None if data.labels_from < 0 else data.labels_from
    if path.endswith(".npz") or holds_shards(path):
        names = tuple(read_names(classes)) if isinstance(classes, str) else classes
        if path.endswith(".npz"):
            return arrays(path, names, labels_from, task), False
        tars, several = shards_of(path, part)
        return read_shards(path, tars, names, labels_from), several
    if task != "single" and data.layout in ("", "csv") and (listed := _list_of(path, part, data.layout)):
        file, several = listed
        found = read_targets(file, task, data.root or None, classes, data.partial, labels_from, heads)
        title = file.stem if file == Path(path) else f"{Path(path).resolve().name}-{part}"
        source = Source(title, found.labels, found.classes, found.paths, notes=found.notes, heads=found.heads)
        return replace(source, missing=len(found.missing)), several
    options: dict[str, Any] = dict(layout=data.layout or None, classes=classes, partial=data.partial)
    options |= dict(root=data.root or None, labels_from=labels_from)
    try:
        videos, several = read_list(path, **options), False
    except SplitError:
        videos, several = read_list(path, split=part, **options), True
    if task == "single" and data.classes == "" and videos.kind == LABEL:
        _check_one_label(path, videos.classes)
    names, labels, notes = tuple(videos.classes), labels_of(videos), described(videos)
    source = Source(videos.name, labels, names, videos.sources, notes=notes, missing=len(videos.missing))
    return (replace(source, heads=HEADS) if videos.kind == PAIR else source), several


def check_outside(output: Path, *data: str) -> None:
    """Refuses a folder for results in class folders: the next run would read it as one of them.

    Args:
        output: The folder.
        data: What is read; nothing else than class folders matters.

    Raises:
        ValueError: If it lies in one of them.
    """
    folders = [Path(path) for path in data if os.path.isdir(path) and path.partition(":")[0] != SHAPES]
    for folder in folders:
        inside = Path(os.path.realpath(output)).is_relative_to(os.path.realpath(folder))
        if inside and not _holds_lists(folder) and not holds_shards(str(folder)):
            raise ValueError(f"{output}: lies in {folder}, where every folder is a class; name another for the results")


def _holds_lists(folder: Path) -> bool:
    try:
        return list_in(folder, None) is not None or published_lists(folder, None, 1) is not None
    except SplitError:  # several
        return True


def labels_of(videos: VideoList) -> np.ndarray:
    """Returns labels as `Source` has them."""
    if videos.kind != LABELS:
        shape = (len(videos), 2) if videos.kind == PAIR else (len(videos),)
        return np.array(videos.labels, np.int64).reshape(shape)
    labels = np.zeros((len(videos), len(videos.classes)), np.float32)
    for row, numbers in zip(labels, videos.labels, strict=True):
        row[list(numbers)] = 1
    return labels


def _list_of(path: str, part: str, layout: str) -> tuple[Path, bool] | None:
    """Returns the list that a path is or holds, and True if it has several.

    None for class folders, for JSON, and for lists as published, which say themselves what the labels are.
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"{path}: no such file or folder; give a list of videos and what belongs to them")
    try:
        found, several = list_in(Path(path), None), False
    except SplitError:
        found, several = list_in(Path(path), part), True
    if (
        found is None
        or found.suffix.lower() == ".json"
        or is_published(path, layout or None, part if several else None)
    ):
        return None
    return found, several


def _check_one_label(path: str, classes: Sequence[Any]) -> None:
    """Refuses a list of many labels in a run of one label.

    Raises:
        ValueError: If names hold `;` or `|` between parts of which some are names, or parts of names, again.
    """
    for sign in ";|":
        parts = [part.strip() for name in classes for part in name.split(sign)]
        joined = [name for name in classes if sign in name]
        if joined and len(set(parts)) < len(parts):
            raise ValueError(
                f"{path}: its labels, as {joined[0]!r}, are several apart by {sign!r}: give task.name='multilabel', or "
                "data.classes, a file of names, where they are one"
            )


# --- clips in memory -------------------------------------------------------------------------------------------------


def arrays(name: str, classes: Classes | None, labels_from: int | None, task: str = "single") -> Source:
    """Clips in memory, from an `.npz` file.

    Args:
        name: The file: uint8 `clips` `(N, T, H, W, 3)`, `labels`, and maybe `classes`; of several heads `heads`, their
            names, and for each `classes_NAME`.
        classes: Names in index order; those of the file if None.
        labels_from: The number of the first class.
        task: What the run is for.

    Raises:
        ValueError: If the file holds something else, or its labels are not those of the task.
    """
    path = Path(name)
    file = read_arrays(path)
    missing = [name for name in ("clips", "labels") if name not in file]
    if missing:
        raise ValueError(f"{path}: holds no {' and no '.join(missing)}; expected clips, labels, and maybe classes")
    clips, labels = file["clips"], file["labels"]
    heads = tuple(map(str, file["heads"])) if "heads" in file else ()
    own: Classes | None = None
    if heads:
        own = tuple(tuple(map(str, file[f"classes_{head}"])) for head in heads)
    elif "classes" in file:
        own = tuple(map(str, file["classes"]))
    one = task == "single" and labels.ndim == 1
    if not one and (classes is None or own is not None):
        _check_same(path, classes, own)
        classes = own
    if clips.dtype != np.uint8 or clips.ndim != 5 or clips.shape[-1] != 3 or len(clips) != len(labels):
        raise ValueError(
            f"{path}: expected uint8 clips (N, T, H, W, 3) and as many labels, "
            f"got {clips.dtype} {clips.shape} and {labels.shape}"
        )
    if not one:
        names = classes if classes is not None else tuple(f"class {i}" for i in range(labels.shape[-1]))
        check_labels(path.name, labels, names, task)
        kind = np.int64 if task == "multihead" else np.float32
        return Source(path.name, labels.astype(kind), names, clips=clips, heads=heads)
    if labels.dtype.kind not in "iub":
        raise ValueError(
            f"{path}: its labels are {labels.dtype}, as {labels[0].item() if len(labels) else ''!r}; expected whole "
            "numbers, the index of each clip's class, and the names in classes"
        )
    labels, found = _classes(path, labels.astype(np.int64), classes if own is None else own, labels_from)
    if own is not None and classes is not None:
        labels, found = renumbered(path, labels, own, classes), classes
    return Source(path.name, labels, found, clips=clips)


def renumbered(path: object, labels: np.ndarray, own: Classes, wanted: Classes) -> np.ndarray:
    """Returns the class numbers of the same names in another order.

    Raises:
        ValueError: If a label's name is not among the wanted ones.
    """
    index = {class_key(name): number for number, name in enumerate(wanted)}
    if unknown := [own[label] for label in np.unique(labels) if class_key(own[label]) not in index]:
        raise ValueError(
            f"{path}: found class {unknown[0]!r}, expected one of {len(wanted)} names ({wanted[0]!r}, ...)"
        )
    return np.array([index[class_key(own[label])] for label in labels], np.int64)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of an `.npz` file of clips.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it cannot be read.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected an .npz file of clips and labels")
    try:
        with zipfile.ZipFile(path):  # numpy takes files that are no archives for pickles
            pass
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files if key in _ARRAYS or key.startswith("classes_")}
    except (EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: cannot be read as an .npz file ({error}); np.savez writes one") from error


def _check_same(path: object, wanted: Classes | None, found: Classes | None) -> None:
    if wanted is not None and found is not None and tuple(found) != tuple(wanted):
        raise ValueError(f"{path}: has the classes {found!r:.200}, expected {wanted!r:.200}")


def _classes(
    path: object, labels: np.ndarray, classes: tuple[str, ...] | None, labels_from: int | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns labels from 0, and names for them."""
    if not len(labels):
        raise ValueError(f"{path}: holds nothing to train on")
    first = labels_from or 0
    if classes is None:
        first = first_label(path, [int(label) for label in np.unique(labels)], labels_from)
        classes = tuple(f"class {i}" for i in range(int(labels.max()) - first + 1))
    if labels.min() < first or labels.max() >= len(classes) + first:
        raise ValueError(
            f"{path}: has labels from {labels.min()} to {labels.max()}, but there are {len(classes)} classes"
            + (f" from {first} on" if first else "")
        )
    return labels - first, classes


def _shapes(split: str, shapes: SimpleNamespace) -> Source:
    """Returns moving shapes; all cores draw them the first time, later calls read them from the disk."""
    if split not in ("train", "val"):
        raise ValueError(f"data 'shapes:{split}': there are 'shapes:train' and 'shapes:val'")
    number, seed = (shapes.clips, shapes.seed) if split == "train" else (shapes.val_clips, shapes.seed + 1)
    folder = Path(moving_shapes.__file__).parent
    code = b"".join((folder / name).read_bytes() for name in ("moving_shapes.py", "drawing.py"))
    generator = hashlib.sha256(code).hexdigest()[:8]
    root = Path(os.environ.get("VOV3D_CACHE") or Path(constants.HF_HOME) / "vov3d").expanduser() / SHAPES
    path = root / f"{number}x{shapes.frames}x{shapes.size}-{seed}-{generator}.npy"
    if not path.exists():
        make_shapes(path, number, seed, shapes.frames, shapes.size)
    labels = np.arange(number) % len(moving_shapes.CLASSES)
    notes = (f"{SHAPES}: generated clips; ./{SHAPES} is the folder of this name",) if Path(SHAPES).is_dir() else ()
    return Source(f"shapes:{split}", labels, moving_shapes.CLASSES, clips=np.load(path, mmap_mode="r"), notes=notes)


def make_shapes(path: Path, number: int, seed: int, num_frames: int, size: int) -> None:
    """Writes the clips of `moving_shapes.make_set` into a `.npy` file, in parallel."""
    print(f"making {number} clips of {num_frames} x {size} x {size} in {path} (once)", flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as draft:
        np.lib.format.open_memmap(draft, "w+", np.uint8, (number, num_frames, size, size, 3)).flush()
        jobs = [(draft, seed, start, min(start + 100, number)) for start in range(0, number, 100)]
        with ProcessPoolExecutor(initializer=follow_main) as pool:
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


def holds_shards(path: str) -> bool:
    """Returns True for the path of shards, and for a folder of shards without lists.

    A tar file without labels, beside class folders or published lists, is an archive that they were unpacked from.
    """
    if path.endswith(".tar"):
        return True
    folder = Path(path)
    tars = list(_tars(folder)) if folder.is_dir() else []
    if not tars or any((folder / f"{split}.csv").is_file() for split in SPLITS):
        return False
    others = holds_class_folders(folder) or published_lists(folder, None, 1) is not None
    return not others or _has_labels(tars[0])


def _has_labels(path: Path) -> bool:
    try:
        with tarfile.open(path, "r:") as tar:
            return any(info.name.lower().endswith((".cls", ".json")) for info in islice(tar, 100))
    except tarfile.TarError:
        return False


def _tars(folder: Path) -> Iterator[Path]:
    """Yields the shards in a folder and in the folders of its splits."""
    for item in sorted(folder.iterdir()):
        if item.suffix.lower() == ".tar" and not item.name.startswith("."):
            yield item
        elif split_of(item.name) and item.is_dir():
            yield from (file for file in sorted(item.iterdir()) if file.suffix.lower() == ".tar")


def shards_of(path: str, part: str | None) -> tuple[list[Path], bool]:
    """Returns the shards of a part, and True if there are several parts.

    Args:
        path: A shard, `x-{000..009}.tar`, or a folder of shards that are named after their parts, `train-000.tar`,
            or lie in folders of those names.
        part: `"train"`, `"val"` or `"test"`; None where there is only one.

    Raises:
        SplitError: If there is no such part, or none was asked for where there are several.
    """
    if not Path(path).is_dir():
        return _expanded(path), False
    parts: dict[str, list[Path]] = {}
    for tar in _tars(Path(path)):
        told = split_of(tar.parent.name) if tar.parent != Path(path) else None
        parts.setdefault(told or split_of(re.split(r"[-_.\d]", tar.name)[0]) or "", []).append(tar)
    if list(parts) == [""]:
        return parts[""], False
    if "" in parts:
        raise ValueError(f"{path}: {parts[''][0].name} says no part, such as train-000.tar; others do: rename it")
    return parts[chosen_split(Path(path), part, list(parts))], len(parts) > 1


def read_shards(pattern: str, tars: Sequence[Path], classes: tuple[str, ...] | None, labels_from: int | None) -> Source:
    """Reads which videos are in tar files as webdataset lays them out: `KEY.mp4` beside `KEY.cls` or `KEY.json`.

    Args:
        pattern: Their name in logs.
        tars: The files.
        classes: Class names in index order; None for those of the shards, in the order that `make_shards` notes beside
            them, else sorted.
        labels_from: The number of the first class, of labels that are numbers; 0 where there is a 0 if None.

    Raises:
        ValueError: If a video has no label, a label is no class, or a file is no tar file.
    """
    files: list[Member] = []
    labels: list[str] = []
    for tar in tars:
        for member, label in _members(tar):
            files.append(member)
            labels.append(label)
    if _are_numbers(labels) and not _are_names(labels, classes):
        given = [int(label) for label in labels]
    else:
        given, classes = _named(pattern, labels, classes or _noted_classes(tars, labels), labels_from)
        labels_from = None
    numbers, classes = _classes(pattern, np.array(given, np.int64), classes, labels_from)
    told = f"{pattern}, {len(tars)} shards: {len(files)} videos of {len(np.unique(numbers))} of {len(classes)} classes"
    return Source(pattern, numbers, classes, files, notes=(told,))


def _are_numbers(labels: Sequence[str]) -> bool:
    return all(re.fullmatch(r"-?[0-9]+", label) for label in labels)


def _are_names(labels: Sequence[str], classes: Sequence[str] | None) -> bool:
    """Returns True if all labels are names of classes, though they be numbers: `001` is the name, not the number 1."""
    keys = {class_key(name) for name in classes or ()}
    return bool(labels) and all(class_key(label) in keys for label in labels)


def _named(
    pattern: str, labels: Sequence[str], classes: tuple[str, ...] | None, labels_from: int | None
) -> tuple[list[int], tuple[str, ...]]:
    """Returns the class numbers of labels that are names, and the names."""
    if labels_from is not None:
        raise ValueError(f"{pattern}: labels_from={labels_from} has no effect, labels are names; leave it out")
    if classes is None:
        number = next((label for label in labels if _are_numbers([label])), None)
        if number is not None:
            name = next(label for label in labels if not _are_numbers([label]))
            raise ValueError(f"{pattern}: found labels {number} and {short(name)!r}, expected all names or all numbers")
        by_key = {class_key(label): label for label in labels}
        classes = tuple(sorted(by_key.values()))
    index = {class_key(name): number for number, name in enumerate(classes)}
    if unknown := sorted({label for label in labels if class_key(label) not in index}):
        raise ValueError(f"{pattern}: has the labels {', '.join(unknown[:5])}, which are no names of classes")
    return [index[class_key(label)] for label in labels], classes


def _noted_classes(tars: Sequence[Path], labels: Sequence[str]) -> tuple[str, ...] | None:
    """Returns the class names that `make_shards` notes in `PART.json` beside shards; None if it holds not all labels.

    Their order is that of the list which the shards were made of: sorted, `class 10` would come before `class 2`.
    """
    notes = {tar.with_name(re.sub(r"-[0-9]+\.tar$", ".json", tar.name)) for tar in tars}
    try:
        found = {tuple(map(str, json.loads(file.read_text(encoding="utf-8"))["classes"])) for file in notes}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return next((names for names in found if len(found) == 1 and _are_names(labels, names)), None)


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


def _members(path: Path) -> list[tuple[Member, str]]:
    """Returns the videos of a tar file with their labels, in the order of the file."""
    videos: dict[str, Member] = {}
    beside: dict[str, dict[str, tuple[bytes, str]]] = {}
    dotted: dict[str, str] = {}
    try:
        with tarfile.open(path, "r:") as tar:  # not packed: videos are read at their places in the file
            for info in tar:
                folder, _, base = info.name.rpartition("/")
                stem, _, ending = base.partition(".")
                key = f"{folder}/{stem}"
                ending = ending.lower()
                if not info.isfile() or not stem:
                    continue
                if f".{ending}" in VIDEO_ENDINGS:
                    if key in videos:
                        raise ValueError(f"{path}: has two videos of one key, {videos[key].name} and {info.name}")
                    videos[key] = Member(path, info.name, info.offset_data, info.size)
                elif ending in ("cls", "json"):
                    content = (tar.extractfile(info) or io.BytesIO()).read()
                    beside.setdefault(key, {})[ending] = content, f"{path}:{info.name}"
                elif f".{ending.rpartition('.')[2]}" in VIDEO_ENDINGS:
                    dotted.setdefault(key, info.name)
    except tarfile.TarError as error:
        reason = str(error).split("\n")[0]
        raise ValueError(f"{path}: is no tar file, is packed (.gz), or is cut short ({reason})") from error
    if odd := [name for key, name in dotted.items() if key not in videos]:
        raise ValueError(
            f"{path}:{odd[0]}: has a dot in its name, and a key ends at the first one ({len(odd)} videos): "
            "make the shards with names such as 0001.mp4 and 0001.cls"
        )
    unlabelled = [str(videos[key]) for key in videos if key not in beside]
    if unlabelled:
        raise ValueError(
            f"{unlabelled[0]}: has no .cls and no .json beside it ({len(unlabelled)} of {len(videos)} videos)"
        )
    return [(replace(video, origin=_origin(beside[key])), _label(beside[key])) for key, video in videos.items()]


def _origin(beside: Mapping[str, tuple[bytes, str]]) -> str:
    """Returns what a video was called before it was packed; `""` where nothing beside it tells."""
    try:
        told = json.loads(decoded(*beside["json"])).get("video")
    except (AttributeError, KeyError, ValueError):
        return ""
    return told if isinstance(told, str) else ""


def _label(beside: Mapping[str, tuple[bytes, str]]) -> str:
    """Returns the label of a video by the content and the name of the files beside it; of two, `.cls` tells it."""
    ending = "cls" if "cls" in beside else "json"
    content, name = beside[ending]
    text = decoded(content, name).strip()
    if ending == "json":
        try:
            label = json.loads(text)["label"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{name}: expected a JSON object with a label") from error
        if isinstance(label, bool) or not isinstance(label, int | str):
            raise ValueError(f"{name}: found label {label!r:.80}, expected the name or the number of a class")
        text = str(label).strip()
    if not text:
        raise ValueError(f"{name}: found no label, expected the name or the number of a class")
    return text
