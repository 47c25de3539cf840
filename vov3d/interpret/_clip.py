"""Reads the clip to explain: a tensor as the model takes it, or any video."""

from dataclasses import dataclass
from typing import Any

import torch

from vov3d.models.network import VideoNetwork
from vov3d.video.classifier import VideoClassifier
from vov3d.video.settings import checked_names
from vov3d.video.sources import Source
from vov3d.video.transforms import eval_transform
from vov3d.weights.tasks import task_of


@dataclass(frozen=True)
class Clip:
    """A clip with what the model says of it.

    Attributes:
        values: normalised `(1, C, T, H, W)`.
        frames: uint8 `(T, 3, H, W)`.
        times: seconds of the frames; None for a tensor.
        scores: float32 `(num_classes,)`; None where they follow from the model's outputs for `values`.
        names: class names.
    """

    values: torch.Tensor
    frames: torch.Tensor
    times: tuple[float, ...] | None
    scores: torch.Tensor | None
    names: list[str]


def clip_of(model: VideoNetwork, clip: Source, fps: float | None, backend: str | None) -> Clip:
    """Returns the clip of a floating-point tensor, or of a video sampled as `VideoClassifier` does.

    Raises:
        ValueError: If the tensor is no clip of the model, or a setting has no effect on it.
        VideoError: If the video gives no frames.
    """
    if isinstance(clip, torch.Tensor) and clip.is_floating_point():
        given = {"fps": fps, "backend": backend}
        if useless := [name for name, value in given.items() if value is not None]:
            raise ValueError(f"{useless[0]}= has no effect on a clip that is a tensor; leave it out")
        return _of_tensor(model, clip)
    classifier = VideoClassifier(model, backend=backend)
    result = classifier.result(clip, fps=fps)
    frames: Any = result.frames
    values = eval_transform(model.pretrained_cfg).normalize(frames[None])
    return Clip(values, frames, tuple(result.clips[0]), result.scores, classifier.class_names)


def _of_tensor(model: VideoNetwork, clip: torch.Tensor) -> Clip:
    values = clip.detach()[None] if clip.ndim == 4 else clip.detach()
    if values.ndim != 5 or len(values) != 1:
        raise ValueError(
            f"expected one clip (C, T, H, W) or (1, C, T, H, W), got {tuple(clip.shape)}; explain the clips of a batch"
            " one by one"
        )
    if not values.numel():
        raise ValueError(f"the clip {tuple(clip.shape)} is empty; give one with frames and pixels")
    return Clip(values, _shown(values[0], model), None, None, checked_names(model, None))


def _shown(clip: torch.Tensor, model: VideoNetwork) -> torch.Tensor:
    """Returns the pictures `(T, 3, H, W)` of a normalised clip `(C, T, H, W)`; grey if it has not 3 channels."""
    cfg = getattr(model, "pretrained_cfg", None) or {}
    clip = clip.float().cpu()
    mean, std = (torch.tensor(cfg.get(key) or (one,)) for key, one in (("mean", 0.0), ("std", 1.0)))
    if len(mean) != len(clip):
        mean, std = mean.mean(), std.mean()
    else:
        mean, std = (v.view(-1, 1, 1, 1) for v in (mean, std))
    clip = clip * std + mean
    clip = clip if len(clip) == 3 else clip.mean(0, keepdim=True).expand(3, -1, -1, -1)
    return (255 * clip).round().clamp(0, 255).byte().transpose(0, 1).contiguous()


def scores_of(model: VideoNetwork, outputs: torch.Tensor) -> torch.Tensor:
    """Returns the scores `(num_classes,)` of a model's outputs `(1, num_classes)`."""
    return task_of(model).scores(outputs.detach().float(), model.temperature)[0].cpu()
