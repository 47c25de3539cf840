"""Features of long videos: what `vov3d embed --every` writes."""

import zipfile
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from reference.localization.annotations import Annotations
from vov3d.weights.state_dict import digest

Array = np.ndarray

_ARRAYS = ("paths", "times", "shot_starts", "shot_ends", "vectors")


@dataclass(frozen=True)
class Video:
    """The features of a video.

    Attributes:
        path: The video, as `vov3d embed` was given it.
        times: float64 `(N,)`, the middle of each window, in seconds.
        shots: float64 `(N, 2)`, where the shot of each window begins and ends.
        vectors: float32 `(N, D)`.
    """

    path: str
    times: Array
    shots: Array
    vectors: Array

    @property
    def name(self) -> str:
        """As `name_of`."""
        return name_of(self.path)

    @property
    def duration(self) -> float:
        """Seconds."""
        return float(self.shots[-1, 1])


def name_of(path: str) -> str:
    """Returns what annotations and results call a video: the name of its file, without the ending."""
    return Path(path).stem


@dataclass(frozen=True)
class Features:
    """The features of several videos.

    Attributes:
        videos: The videos.
        about: How the features were made; those of two files compare only where all of it agrees.
    """

    videos: list[Video]
    about: dict[str, str]

    @property
    def step(self) -> float:
        """Seconds between two windows."""
        return float(self.about["every"])


def read_features(path: str | Path) -> Features:
    """Reads a file of `vov3d embed --every`.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; vov3d embed VIDEOS --every 0.5s -o {path} writes one")
    try:
        arrays, about = _parquet(path) if path.suffix.lower() == ".parquet" else _npz(path)
    except (KeyError, OSError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: is no file of vov3d embed --every ({error})") from error
    if "every" not in about:
        raise ValueError(f"{path}: holds one vector a video; write it with vov3d embed --every")
    paths = arrays["paths"]
    edges = [0, *(np.flatnonzero(paths[1:] != paths[:-1]) + 1).tolist(), len(paths)]
    videos = []
    for start, end in pairwise(edges):
        shots = np.stack([arrays["shot_starts"][start:end], arrays["shot_ends"][start:end]], 1)
        videos.append(Video(str(paths[start]), arrays["times"][start:end], shots, arrays["vectors"][start:end]))
    return Features(videos, about)


def _npz(path: Path) -> tuple[dict[str, Array], dict[str, str]]:
    with np.load(path) as found:
        about = {key: str(found[key]) for key in found if key not in _ARRAYS}
        return {key: found[key] for key in (_ARRAYS if "every" in about else ())} or {"paths": np.array([])}, about


def _parquet(path: Path) -> tuple[dict[str, Array], dict[str, str]]:
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path)
    about = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    names = {"paths": "path", "times": "time", "shot_starts": "shot_start", "shot_ends": "shot_end"}
    if "every" not in about:
        return {"paths": np.array([])}, about
    arrays = {key: table[name].to_numpy() for key, name in names.items()}
    return {**arrays, "vectors": np.stack(table["vector"].to_numpy())}, about


def videos_of(features: Features, annotations: Annotations, partial: bool = False) -> dict[str, Video]:
    """Finds the features of all annotated videos, by the names of their files.

    Args:
        features: Of the files `NAME.mp4`, or `v_NAME.mp4` as ActivityNet's are called.
        annotations: What names the videos.
        partial: Leaves out videos without features, in place of an error.

    Returns:
        The features by the name in the annotations, in their order.

    Raises:
        FileNotFoundError: If features are missing.
        ValueError: If two files have one name.
    """
    by_name: dict[str, Video] = {}
    for video in features.videos:
        if video.name in by_name:
            raise ValueError(
                f"{by_name[video.name].path} and {video.path} have one name, so which is meant is not told"
            )
        by_name[video.name] = video
    names = matched(by_name, annotations.videos)
    missing = [name for name in annotations.videos if name not in names]
    if missing and (not partial or not names):
        named = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise FileNotFoundError(
            f"{len(missing)} of {len(annotations.videos)} annotated videos have no features ({named}): embed them too, "
            "or leave them out of the measurement with --partial"
        )
    return {name: by_name[file] for name, file in names.items()}


def matched(files: Container[str], videos: Iterable[str]) -> dict[str, str]:
    """Returns the names of files by the names that annotations have for the videos, for those that are there.

    Args:
        files: Names without endings: those of the annotations, or with `v_` before them, as ActivityNet's are called.
        videos: The names in the annotations.
    """
    names = dict.fromkeys(videos)
    found = {name: name if name in files or f"v_{name}" in names else f"v_{name}" for name in names}
    return {name: file for name, file in found.items() if file in files}


def check_alike(about: dict[str, str], other: dict[str, str], what: str) -> None:
    """Refuses features that were made in another way than those of the training.

    Args:
        about: How those of the training were made.
        other: How these were made.
        what: What these are, for the message.

    Raises:
        ValueError: If something differs.
    """
    for key, value in about.items():
        unknown = key == "digest" and key not in other  # of features made before it was written
        if key != "weights" and not unknown and other.get(key) != value:
            raise ValueError(
                f"{what} was made with {key} {other.get(key)!r}, the model's features with {value!r}; embed in the same"
                " way"
            )


def check_backbone(about: dict[str, str], model: Any, source: str, head: str) -> None:
    """Refuses a network other than the one whose features a head was trained on.

    Args:
        about: How the features of the training were made; those made before digests were written have none.
        model: The network as it was loaded, not optimized.
        source: Where its weights are from, for the message.
        head: The head, for the message.

    Raises:
        ValueError: If its architecture, its tag or its weights are others.
    """
    found = {"model": model.pretrained_cfg["architecture"], "tag": model.pretrained_cfg.get("tag") or ""}
    if "digest" in about:
        found["digest"] = digest(model)
    for key, value in found.items():
        if value != about[key]:
            what = "weights of digest" if key == "digest" else key
            raise ValueError(
                f"{source} has {what} {value!r}, and {head} was trained on features of {what} {about[key]!r}, then "
                f"named {about['weights']!r}: have that network under this name, or give its weights with --checkpoint"
            )


def lengths(videos: dict[str, Video]) -> dict[str, float]:
    """Returns seconds of each video."""
    return {name: video.duration for name, video in videos.items()}


def rows(videos: Sequence[Video]) -> Array:
    """Returns the vectors of all videos, `(N, D)`."""
    return np.concatenate([video.vectors for video in videos])
