"""Turns decoded frames into a network's input, by its `pretrained_cfg`, with torchvision's public v2 API."""

import math
from collections.abc import Mapping
from typing import Any

import torch

from vov3d.extras import install

try:
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional as tv
except ImportError as error:
    raise ImportError(f"vov3d.video.transforms needs torchvision: {install('video')}") from error

from vov3d.video.decoders.base import stack_pictures
from vov3d.video.sampling import crop_boxes

__all__ = ["EvalTransform", "TrainTransform", "eval_transform", "train_transform"]

_MODES = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}

_LONGEST = 64  # limit of the long side, in short sides; a resized frame of 16384x256 pixels takes 12 MB


class EvalTransform:
    """Resizes, crops and normalises the frames of a clip for evaluation; made by `eval_transform`.

    Args:
        cfg: a model's `pretrained_cfg`, as for `eval_transform`.
        num_crops: 1 (centre) or 3 (along the long side).
        antialias: as for `eval_transform`.

    Attributes:
        size: rows and columns of a crop, in pixels.
        num_crops: crops of each clip.
        antialias: whether frames are low-pass filtered before they are made smaller.

    Raises:
        ValueError: for another number of crops or an unknown interpolation.
    """

    def __init__(self, cfg: Mapping[str, Any], num_crops: int = 1, antialias: bool = True) -> None:
        self.size: int = (cfg.get("test_input_size") or cfg["input_size"])[-1]
        self.num_crops = num_crops
        self.antialias = antialias
        self._mode = _interpolation(cfg)
        self._mean, self._std = list(cfg["mean"]), list(cfg["std"])
        crop_boxes(self.size, self.size, self.size, num_crops)  # checks num_crops before any video is read

    def resize(self, frames: torch.Tensor) -> torch.Tensor:
        """Brings the short side to `size`, the long side in proportion and floored.

        Args:
            frames: uint8 `(..., C, H, W)`.

        Returns:
            uint8 `(..., C, H', W')`.

        Raises:
            ValueError: for frames whose long side is over 64 times the short one.
        """
        height, width = frames.shape[-2:]
        resized, _ = crop_boxes(height, width, self.size, self.num_crops)
        return _resize(frames, resized, self._mode, self.antialias)

    def crop(self, frames: torch.Tensor) -> torch.Tensor:
        """Cuts the crops out of resized frames and normalises them.

        Args:
            frames: uint8 `(T, C, H', W')` as `resize` gives them.

        Returns:
            float32 `(num_crops, C, T, size, size)`.
        """
        return self.normalize(stack_pictures(self.cut(frames)))

    def cut(self, frames: torch.Tensor) -> list[torch.Tensor]:
        """Cuts the crops out of resized frames; they are views, which take no memory.

        Args:
            frames: uint8 `(T, C, H', W')` as `resize` gives them.

        Returns:
            `num_crops` uint8 views `(T, C, size, size)`.
        """
        height, width = frames.shape[-2:]
        _, corners = crop_boxes(height, width, self.size, self.num_crops)
        return _cut(frames, corners, self.size)

    def normalize(self, crops: torch.Tensor) -> torch.Tensor:
        """Scales a batch of crops to 0..1 and normalises it by the network's mean and standard deviation.

        Args:
            crops: uint8 `(N, T, C, size, size)`, a stack of the results of `cut`.

        Returns:
            float32 `(N, C, T, size, size)`.
        """
        return _normalized(crops, self._mean, self._std)

    def __call__(self, frames: torch.Tensor) -> torch.Tensor:
        """Turns uint8 frames `(T, C, H, W)` into float32 crops `(num_crops, C, T, size, size)`.

        Raises:
            ValueError: for anything but uint8 frames with the network's channels, or frames that `resize` does not
                take.
        """
        _check_frames(frames, len(self._mean))
        return self.crop(self.resize(frames))


class TrainTransform:
    """Resizes, crops, flips, colours and normalises the frames of a clip at random; made by `train_transform`.

    All frames of a clip share one size, one crop, one flip and one change of colours, drawn from torch's global
    generator, which a `DataLoader` seeds for each worker.

    Args:
        cfg: a model's `pretrained_cfg`, as for `train_transform`.
        scales: smallest and largest short side in pixels.
        flip: whether half of the clips are mirrored; None as for `train_transform`.
        antialias: as for `eval_transform`.
        color: as for `train_transform`.

    Attributes:
        size: rows and columns of the crop, in pixels.
        scales: smallest and largest short side, in pixels.
        flip: whether half of the clips are mirrored.
        color: strength of the changes of colour.
        antialias: whether frames are filtered before they are made smaller.

    Raises:
        ValueError: for scales below the crop or in the wrong order, an unknown interpolation, or a strength that is
            not between 0 and 1.
    """

    def __init__(
        self,
        cfg: Mapping[str, Any],
        scales: tuple[int, int] = (256, 320),
        flip: bool | None = None,
        antialias: bool = True,
        color: float = 0.0,
    ) -> None:
        self.size: int = cfg["input_size"][-1]
        self.antialias = antialias
        self.scales = scales
        if flip is None:
            flip = cfg["sampling"] != "segment"
        self.flip = flip
        self.color = color
        if not 0 <= color <= 1:
            raise ValueError(f"color {color} must lie between 0, which changes nothing, and 1")
        self._mode = _interpolation(cfg)
        self._mean, self._std = list(cfg["mean"]), list(cfg["std"])
        if not self.size <= scales[0] <= scales[1]:
            raise ValueError(f"scales {scales} must rise and start no lower than the crop's {self.size} pixels")

    def cut(self, frames: torch.Tensor) -> torch.Tensor:
        """Resizes, crops, colours and flips at random; the result has a quarter of the bytes of the normalised clip.

        Args:
            frames: uint8 `(T, C, H, W)`; fastest in channels-last memory, in which `VideoReader` gives them.

        Returns:
            uint8 `(T, C, size, size)`.

        Raises:
            ValueError: as for a call.
        """
        _check_frames(frames, len(self._mean))
        short = _randint(self.scales[0], self.scales[1])
        height, width = frames.shape[-2:]
        (height, width), _ = crop_boxes(height, width, short, 1)
        frames = _resize(frames, (height, width), self._mode, self.antialias)
        corner = _randint(0, height - self.size), _randint(0, width - self.size)
        crop = _cut(frames, [corner], self.size)[0]
        if self.color:
            crop = _recolored(crop, self.color)
        return tv.horizontal_flip(crop) if self.flip and _randint(0, 1) else crop

    def normalize(self, crop: torch.Tensor) -> torch.Tensor:
        """Scales a crop to 0..1 and normalises it by the network's mean and standard deviation.

        Args:
            crop: uint8 `(T, C, size, size)` as `cut` gives it.

        Returns:
            float32 `(C, T, size, size)`.
        """
        return _normalized(stack_pictures([crop]), self._mean, self._std)[0]

    def __call__(self, frames: torch.Tensor) -> torch.Tensor:
        """Turns uint8 frames `(T, C, H, W)` into one float32 crop `(C, T, size, size)`.

        Raises:
            ValueError: for anything but uint8 frames with the network's channels, or a long side over 64 times the
                short one.
        """
        return self.normalize(self.cut(frames))


def eval_transform(cfg: Mapping[str, Any], num_crops: int = 1, antialias: bool = True) -> EvalTransform:
    """Returns the evaluation pipeline that fits a model's weights.

    It resizes the short side to the test size, cuts the crops, divides by 255, and normalises. Resizing is
    antialiased, unlike in the published loaders: `antialias=False` reproduces them.

    Args:
        cfg: a model's `pretrained_cfg`; `test_input_size` (or `input_size` where it is missing), `interpolation`,
            `mean` and `std` are used.
        num_crops: 1 for the centre; 3 for left, centre and right (top, centre and bottom of upright videos).
        antialias: whether frames are low-pass filtered before they are made smaller.

    Returns:
        A callable from uint8 `(T, C, H, W)` to float32 `(num_crops, C, T, S, S)`.

    Raises:
        ValueError: for another number of crops or an unknown interpolation.
    """
    return EvalTransform(cfg, num_crops, antialias)


def train_transform(
    cfg: Mapping[str, Any],
    scales: tuple[int, int] = (256, 320),
    flip: bool | None = None,
    antialias: bool = True,
    color: float = 0.0,
) -> TrainTransform:
    """Returns the training pipeline of the paper: a random short side, a random crop and a random flip.

    Args:
        cfg: a model's `pretrained_cfg`; `input_size`, `interpolation`, `mean`, `std` and `sampling` are used.
        scales: smallest and largest short side in pixels; those of the paper fit crops of 224.
        flip: whether half of the clips are mirrored. By default they are, unless sampling is by segments:
            Something-Something has classes that differ only in left and right.
        antialias: as for `eval_transform`.
        color: strength, from 0 to 1, with which brightness, contrast and tint of a clip are changed, for sets of few
            videos; a share of `color / 2` of the clips is grey before the tint. The paper has none.

    Returns:
        A callable from uint8 `(T, C, H, W)` to float32 `(C, T, S, S)`.

    Raises:
        ValueError: for scales below the crop or in the wrong order, an unknown interpolation, or a strength that is
            not between 0 and 1.
    """
    return TrainTransform(cfg, scales, flip, antialias, color)


def _interpolation(cfg: Mapping[str, Any]) -> InterpolationMode:
    """Returns torchvision's interpolation mode for a configuration."""
    name = cfg["interpolation"]
    if name not in _MODES:
        raise ValueError(f"pretrained_cfg has interpolation {name!r}: {' and '.join(_MODES)} are known")
    return _MODES[name]


def _check_frames(frames: torch.Tensor, channels: int) -> None:
    """Raises an error for anything but a stack of uint8 pictures of so many channels; one mean is for any."""
    if not isinstance(frames, torch.Tensor):
        raise ValueError(f"expected uint8 frames (T, C, H, W) in a tensor, got {type(frames).__name__}")
    if frames.dtype != torch.uint8 or frames.ndim != 4 or channels not in (1, frames.shape[1]):
        last = frames.ndim == 4 and frames.shape[3] == channels
        raise ValueError(
            f"expected uint8 frames (T, {channels}, H, W), got {frames.dtype} {tuple(frames.shape)}"
            + ("; frames.permute(0, 3, 1, 2) puts the channels there" if last else "")
        )


def _resize(frames: torch.Tensor, size: tuple[int, int], mode: InterpolationMode, antialias: bool) -> torch.Tensor:
    """Resizes uint8 frames to (height, width), in uint8: several times faster in torchvision than in float."""
    if max(size) > _LONGEST * min(size):
        raise ValueError(
            f"frames of {frames.shape[-1]}x{frames.shape[-2]} pixels would become {size[1]}x{size[0]} by resizing "
            f"the short side; the long side may be at most {_LONGEST} times as long: crop the frames first"
        )
    return frames if tuple(frames.shape[-2:]) == size else tv.resize(frames, list(size), mode, antialias=antialias)


def _cut(frames: torch.Tensor, corners: list[tuple[int, int]], size: int) -> list[torch.Tensor]:
    """Returns square crops `(T, C, size, size)` of frames `(T, C, H, W)` at the given (top, left), as views."""
    return [frames[..., top : top + size, left : left + size] for top, left in corners]


def _recolored(crop: torch.Tensor, strength: float) -> torch.Tensor:
    """Returns a uint8 crop `(T, C, S, S)` with other colours, the same in all frames."""
    pictures = crop.float()
    if float(torch.rand(())) < strength / 2:
        pictures = pictures.mean(1, keepdim=True).expand_as(pictures)
    brightness, contrast, *tint = (strength * (2 * torch.rand(2 + pictures.shape[1]) - 1)).tolist()
    gains = torch.tensor([math.exp(brightness + part / 2) for part in tint])
    pictures = pictures * gains[:, None, None]
    middle = pictures.mean()
    return ((pictures - middle) * math.exp(contrast) + middle).round_().clamp_(0, 255).to(torch.uint8)


def _normalized(crops: torch.Tensor, mean: list[float], std: list[float]) -> torch.Tensor:
    """Turns uint8 `(N, T, C, S, S)` into normalised float32 `(N, C, T, S, S)`."""
    # in place, on the copy that the conversion makes
    return tv.normalize(tv.to_dtype(crops, torch.float32, scale=True), mean, std, inplace=True).transpose(1, 2)


def _randint(low: int, high: int) -> int:
    """Draws a uniform integer in `[low, high]` from torch's global generator."""
    return int(torch.randint(low, high + 1, ()))
