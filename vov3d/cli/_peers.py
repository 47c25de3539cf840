"""Networks of other packages, built as by their authors, to be measured along with ours."""

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import timm
import torch
from torch import nn

from vov3d.extras import install


class OnFrames(nn.Module):
    """A 2D network applied to every frame of a clip, with averaged logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Computes logits `(B, K)` of `(B, C, T, H, W)`."""
        return self.model(x.transpose(1, 2).flatten(0, 1)).unflatten(0, (x.shape[0], x.shape[2])).mean(1)


class TwoPathways(nn.Module):
    """SlowFast on one clip: the slow pathway gets every fourth frame."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Computes logits of `(B, C, T, H, W)`."""
        return self.model([x[:, :, ::4], x])


def peers(frames: int, size: int) -> tuple[dict[str, Callable[[], nn.Module]], dict[str, str]]:
    """Returns networks that can be built here for clips of `frames` x `size` x `size`, and reasons for the others.

    Raises:
        ImportError: If torchvision is missing.
    """
    found: dict[str, Callable[[], nn.Module]] = {"resnet50 (timm)": lambda: OnFrames(timm.create_model("resnet50"))}
    absent: dict[str, str] = {}
    for name, build, lack in (*_torchvision(frames, size), *_pytorchvideo(frames, size)):
        if lack:
            absent[name] = lack
        else:
            found[name] = build
    return found, absent


def _torchvision(frames: int, size: int) -> Iterator[tuple[str, Callable[[], nn.Module], str]]:
    try:
        from torchvision.models import video
    except ImportError as e:
        raise ImportError(f"--peers needs torchvision: {install('video')}") from e
    yield "r2plus1d_18 (torchvision)", video.r2plus1d_18, ""
    yield "s3d (torchvision)", video.s3d, "" if frames > 13 and size > 191 else "takes 14 frames of 192 pixels or more"
    fits = (frames, size) == (16, 224)
    yield "mvit_v2_s (torchvision)", video.mvit_v2_s, "" if fits else "takes 16 frames of 224 pixels only"


def _pytorchvideo(frames: int, size: int) -> Iterator[tuple[str, Callable[[], nn.Module], str]]:
    lack = "" if find_spec("pytorchvideo") else "pytorchvideo is not installed"

    def x3d() -> Any:
        from pytorchvideo.models.x3d import create_x3d

        return create_x3d(input_clip_length=frames, input_crop_size=size)

    def slowfast() -> Any:
        from pytorchvideo.models.slowfast import create_slowfast

        pool = ((frames // 4, size // 32, size // 32), (frames, size // 32, size // 32))
        return TwoPathways(create_slowfast(head_pool_kernel_sizes=pool))

    yield "x3d_m (pytorchvideo)", x3d, lack
    yield "slowfast_r50 (pytorchvideo)", slowfast, lack or ("" if frames % 4 == 0 else "takes a multiple of 4 frames")
