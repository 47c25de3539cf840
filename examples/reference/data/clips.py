"""From sources to batches of clips; what is drawn for a clip depends on the seed, the epoch and its index alone."""

import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from reference.data.sources import Member, Source
from reference.training.stopping import ignore_signals
from reference.training.workers import Places, naming
from vov3d.video import (
    TrainTransform,
    VideoError,
    VideoReader,
    clip_indices,
    eval_transform,
    plan_clips,
    plan_random_clip,
    random_clip_indices,
    train_transform,
)

Key = tuple[int, int]
"""Epoch and index of a clip."""

_TRIES = 10  # draws in place of a broken file


class Batch(NamedTuple):
    """Clips with labels, and what was found broken on the way.

    Attributes:
        clips: uint8 `(B, T, S, S, C)`, or of videos to validate on normalised float32 `(B, C, T, S, S)`; `to_network`
            takes both.
        labels: int64 `(B,)`; of other tasks than one label rows `(B, ...)` as of the `Source`.
        broken: Reasons by name of the file.
    """

    clips: torch.Tensor
    labels: torch.Tensor
    broken: dict[str, str]


def plan_epoch(
    number: int, batch: int, parts: int, seed: int, epoch: int, weights: np.ndarray | None = None
) -> list[list[np.ndarray]]:
    """Deals the clips of an epoch out to updates, processes and backward passes.

    A random order of all clips is cut into updates that differ by one clip at most, and each of these into parts that
    do: every clip is there once, no part is empty, and no small batch is left at the end.

    Args:
        number: Number of clips.
        batch: Most clips of an update (a little more where there are fewer clips than that for each part).
        parts: Processes times backward passes.
        seed: Of the run.
        epoch: From 0.
        weights: How often each clip is drawn, float64 `(number,)` that sum to 1; if None each is there once.

    Returns:
        Indices, by update and part.

    Raises:
        ValueError: If there are fewer clips than parts.
    """
    if min(number, batch) < parts:
        raise ValueError(
            f"{number} clips in batches of {batch} cannot be shared by {parts} processes x backward passes: lower "
            "train.accumulate, or give more videos"
        )
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(number) if weights is None else rng.choice(number, number, p=weights)
    updates = -(-number // batch)
    while number // updates < parts:
        updates -= 1
    return [np.array_split(update, parts) for update in np.array_split(order, updates)]


def load(clips: "Clips", batches: Sequence[Sequence[Key]], workers: int) -> Iterator[Batch]:
    """Yields the requested batches in order; leaves torch's global random numbers alone.

    Raises:
        WorkerError: If a process that reads videos dies; it names the file.
    """
    if not batches:
        return
    workers = 0 if isinstance(clips, MemoryClips) else workers
    clips.places = Places(workers)
    loader = DataLoader(
        clips,
        batch_sampler=batches,  # type: ignore[arg-type]
        collate_fn=_as_it_is,
        num_workers=workers,
        worker_init_fn=ignore_signals,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),
    )
    with naming(clips.places, lambda index: str(clips.source.file(index))):
        yield from loader


def to_network(clips: torch.Tensor, cfg: Mapping[str, Any], like: torch.Tensor) -> torch.Tensor:
    """Moves the clips of a batch to the device and precision of a parameter, normalised `(B, C, T, S, S)`."""
    clips = clips.to(like.device, non_blocking=True)
    if clips.dtype == torch.uint8:
        # repeated for whole rows of pixels: broadcasting three numbers over the last dimension is three times slower
        mean, std = (255 * torch.tensor(cfg[key], device=like.device).repeat(clips.shape[3]) for key in ("mean", "std"))
        clips = clips.flatten(3).float().sub_(mean).div_(std).view(clips.shape).permute(0, 4, 1, 2, 3)
    return clips.to(like.dtype)


def open_clips(source: Source, cfg: Mapping[str, Any], recipe: Any, train: bool) -> "Clips":
    """Returns the data set of a source.

    Args:
        source: Videos or clips.
        cfg: The model's `pretrained_cfg`.
        recipe: With the sections `clip` and `train`.
        train: Random clips rather than the one in the middle.
    """
    kind = VideoClips if source.clips is None else MemoryClips
    return kind(source, cfg, recipe, train)


def short_sides(clip: Any, size: int) -> tuple[int, int]:
    """Returns the smallest and the largest short side in pixels from which crops of `size` pixels are cut."""
    if clip.scales:
        return clip.scales[0], clip.scales[1]
    low, high = clip.zoom or (8 / 7, 10 / 7)  # 256 and 320 pixels for crops of 224, as in the paper
    return round(size * low), round(size * high)


class Clips(Dataset, ABC):
    """Base of both kinds of data sets."""

    def __init__(self, source: Source, cfg: Mapping[str, Any], recipe: Any, train: bool) -> None:
        self.source, self.cfg, self.train, self.seed = source, cfg, train, recipe.train.seed
        self.labels = torch.from_numpy(source.labels)
        self.places = Places(0)

    def __len__(self) -> int:
        return len(self.source)

    @abstractmethod
    def __getitems__(self, keys: Sequence[Key]) -> Batch:
        """Returns a batch; torch's loader calls this."""

    def _frames(self, num_frames: int, fps: float, rng: random.Random) -> list[int]:
        """Returns the indices of the frames of a clip."""
        if self.train:
            return random_clip_indices(self.cfg, num_frames, fps, rng)
        return clip_indices(self.cfg, num_frames, fps, 1)[0]


class VideoClips(Clips):
    """Clips that are decoded. A broken file is replaced by another draw in training and left out in validation.

    Clips to train on stay uint8 until they are on the device: a quarter of the bytes goes through the pipe.
    """

    def __init__(self, source: Source, cfg: Mapping[str, Any], recipe: Any, train: bool) -> None:
        super().__init__(source, cfg, recipe, train)
        size = cfg["input_size"][-1]
        self._scales = short_sides(recipe.clip, size)
        self._inverse, self._flip = recipe.clip.inverse_scales, recipe.clip.flip
        self._color: float = recipe.clip.color
        self._crop = self._train_transform(self._scales) if train else eval_transform(cfg)

    def __getitems__(self, keys: Sequence[Key]) -> Batch:
        """Decodes a batch."""
        broken: dict[str, str] = {}
        found = [pair for key in keys if (pair := self._one(key, broken)) is not None]
        size = self._crop.size
        clips = torch.stack([clip for clip, _ in found]) if found else torch.empty(0, 3, 1, size, size)
        return Batch(clips, self.labels[[index for _, index in found]], broken)

    def _one(self, key: Key, broken: dict[str, str]) -> tuple[torch.Tensor, int] | None:
        """Returns a clip and the index of the video whose label it has."""
        index, rng = key[1], random.Random(repr((self.seed, *key)))
        for _ in range(_TRIES if self.train else 1):
            self.places.note(index)
            try:
                return self._read(index, rng), index
            except (VideoError, OSError, ValueError) as error:
                broken[str(self.source.file(index))] = str(error)
            index = rng.randrange(len(self))
        if self.train:
            raise VideoError(f"{_TRIES} files in a row are broken, among them {'; '.join(broken.values())}")
        return None

    def _read(self, index: int, rng: random.Random) -> torch.Tensor:
        file: Any = self.source.file(index)
        with VideoReader(file.read() if isinstance(file, Member) else file) as reader:
            indices = plan_random_clip(self.cfg, reader, rng) if self.train else plan_clips(self.cfg, reader)[0]
            shown = dict(reader.stream(indices))
            if reader.missing:
                raise VideoError(f"{file}: is cut short or damaged, {reader.missing} of its frames are missing")
        # channels last, as they are decoded: resizing gives the same pixels 2.6 times faster
        return self._cut(torch.stack([shown[i].movedim(0, 2) for i in indices]).movedim(3, 1), rng)

    def _cut(self, frames: torch.Tensor, rng: random.Random) -> torch.Tensor:
        """Returns the crop of frames `(T, C, H, W)`: uint8 `(T, S, S, C)` to train on, else float `(C, T, S, S)`."""
        if not self.train:
            return self._crop(frames)[0]
        with torch.random.fork_rng(devices=[]):  # the transform draws from the global generator
            torch.manual_seed(rng.getrandbits(63))
            return self._jitter(rng).cut(frames).movedim(1, 3)

    def _jitter(self, rng: random.Random) -> Any:
        """Returns the transform of a clip; the inverse of its short side is uniform where the recipe says so."""
        if not self._inverse:
            return self._crop
        low, high = self._scales
        side = round(1 / rng.uniform(1 / high, 1 / low))
        return self._train_transform((side, side))

    def _train_transform(self, scales: tuple[int, int]) -> TrainTransform:
        return train_transform(self.cfg, scales, self._flip, color=self._color)


class MemoryClips(Clips):
    """Clips in memory, cut and mirrored at random; they go to the device as uint8, a quarter of the bytes of floats."""

    def __init__(self, source: Source, cfg: Mapping[str, Any], recipe: Any, train: bool) -> None:
        super().__init__(source, cfg, recipe, train)
        assert source.clips is not None
        self.size = cfg["input_size"][-1] if train else (cfg.get("test_input_size") or cfg["input_size"])[-1]
        self.shift: int = recipe.clip.shift if train else 0
        self.flip: bool = recipe.clip.flip if train else False
        height, width = source.clips.shape[2:4]
        if min(height, width) < self.size:
            key = "clip.size" if train else "clip.test_size"
            raise ValueError(f"{source.name}: clips of {width}x{height} pixels cannot be cut to {key}={self.size}")

    def __getitems__(self, keys: Sequence[Key]) -> Batch:
        """Cuts a batch."""
        clips = torch.empty(len(keys), self.cfg["num_frames"], self.size, self.size, 3, dtype=torch.uint8)
        for key, out in zip(keys, clips.numpy(), strict=True):
            self._cut(key, out)
        return Batch(clips, self.labels[[index for _, index in keys]], {})

    def _cut(self, key: Key, out: np.ndarray) -> None:
        """Writes a clip into `out`; places beyond the border repeat it."""
        assert self.source.clips is not None
        clip, rng = self.source.clips[key[1]], random.Random(repr((self.seed, *key)))
        if len(clip) != len(out):
            clip = clip[self._frames(len(clip), 30, rng)]
        slices, inner = [], []
        for length in clip.shape[1:3]:
            room = length - self.size
            start = rng.randint(-self.shift, room + self.shift) if self.train else room // 2
            slices.append(slice(max(start, 0), min(start + self.size, length)))
            inner.append(slice(max(-start, 0), min(length - start, self.size)))
        rows, columns = inner
        out[:, rows, columns] = clip[:, slices[0], slices[1]]
        out[:, rows, : columns.start] = out[:, rows, columns.start : columns.start + 1]
        out[:, rows, columns.stop :] = out[:, rows, columns.stop - 1 : columns.stop]
        out[:, : rows.start] = out[:, rows.start : rows.start + 1]
        out[:, rows.stop :] = out[:, rows.stop - 1 : rows.stop]
        if self.flip and rng.random() < 0.5:
            out[:] = out[:, :, ::-1].copy()


def _as_it_is(batch: Any) -> Any:
    return batch
