"""A folder of pictures, one a frame, as Something-Something V1 is published."""

import os
import re
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from vov3d.video._errors import VideoError
from vov3d.video._frames import FrameSource

try:
    from PIL import Image, UnidentifiedImageError
except ImportError as error:
    raise ImportError("a folder of frames needs Pillow: pip install 'vov3d[video]'") from error

_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff")
_FPS = 12.0  # the rate at which Something-Something V1 was cut into pictures


class FolderFrames(FrameSource):
    """The pictures of a folder, `2.jpg` before `10.jpg`; other files and hidden ones are no frames."""

    backend = "pillow"

    def __init__(self, folder: str, fps: float | None = None) -> None:
        self._folder = folder
        self._names = _picture_names(folder)
        self.num_frames = len(self._names)
        self.fps = _FPS if fps is None else float(fps)
        self.timestamps = np.arange(self.num_frames) / self.fps
        _, self.height, self.width = self._decoded(0).shape

    def frames(self, targets: Sequence[int]) -> Iterator[tuple[int, torch.Tensor]]:
        """Decodes pictures, as `FrameSource.frames`."""
        for index in targets:
            frame = self._decoded(index)
            if frame.shape[1:] != (self.height, self.width):
                raise VideoError(
                    f"{self._path(index)}: has {frame.shape[2]}x{frame.shape[1]} pixels, but the first frame of the "
                    f"folder {self.width}x{self.height}; the frames of a video have one size"
                )
            yield index, frame

    def _path(self, index: int) -> str:
        return os.path.join(self._folder, self._names[index])

    def _decoded(self, index: int) -> torch.Tensor:
        """A picture as `(C, H, W)`."""
        try:
            with Image.open(self._path(index)) as picture:
                array = np.array(picture.convert("RGB"))
        except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise VideoError(f"{self._path(index)}: this frame of the folder cannot be read ({reason})") from error
        return torch.from_numpy(array).permute(2, 0, 1)


def _picture_names(folder: str) -> list[str]:
    """The pictures of a folder, in natural order."""
    try:
        names = os.listdir(str(folder))  # numpy's own strings it would take for bytes
    except PermissionError:
        raise VideoError(f"{folder}: may not be read (permission denied); change its permissions") from None
    except OSError as error:
        raise VideoError(f"{folder}: cannot be opened ({error})") from error
    names = [name for name in names if name.lower().endswith(_ENDINGS) and not name.startswith(".")]
    if not names:
        raise VideoError(
            f"{folder}: is a folder without pictures; give a video file, or a folder of frames such as 00001.jpg"
        )
    return sorted(names, key=_natural)


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts numbers in names by their value."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]
