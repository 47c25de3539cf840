"""A folder of pictures, one a frame, as Something-Something V1 is published."""

import os
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import combinations

import numpy as np
import torch

from vov3d.extras import install
from vov3d.video.decoders.base import FrameSource, VideoError
from vov3d.video.decoders.opening import check_pixels
from vov3d.video.sources import PICTURE_ENDINGS, Media, media_key

try:
    from PIL import Image
except ImportError as error:
    raise ImportError(f"a folder of frames needs Pillow: {install('video')}") from error

# formats of the supported extensions; Pillow reads others too, among them EPS, for which it runs another program
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "PPM", "TIFF")
_ORIENTATION = 0x0112  # in EXIF
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_NO_DIGITS = str.maketrans("", "", "0123456789")
_FPS = 12.0  # the rate at which Something-Something V1 was cut into pictures


class FolderFrames(FrameSource):
    """The pictures of a folder, `2.jpg` before `10.jpg`, without other and hidden files."""

    backend = "pillow"

    def __init__(self, folder: str, fps: float | None = None) -> None:
        self._folder = folder
        self._names = _picture_names(folder)
        self.num_frames = len(self._names)
        self.fps = _FPS if fps is None else float(fps)
        self.timestamps = np.arange(self.num_frames) / self.fps
        _, self.height, self.width = self._decoded(0).shape

    def frames(self, targets: Sequence[int]) -> Iterator[tuple[int, torch.Tensor]]:
        """Decodes pictures, as `FrameSource.frames` does."""
        for index in targets:
            frame = self._decoded(index)
            if frame.shape[1:] != (self.height, self.width):
                raise VideoError(
                    f"{self._path(index)}: has {frame.shape[2]}x{frame.shape[1]} pixels, but the first frame of the "
                    f"folder has {self.width}x{self.height}; all frames of a video must have one size"
                )
            yield index, frame

    def content_key(self) -> int:
        """Returns `VideoReader.content_key`, from the number of pictures and the file of the first."""
        return zlib.crc32(b"%d" % self.num_frames, media_key(Media(self._folder, path=self._path(0))))

    def _path(self, index: int) -> str:
        return os.path.join(self._folder, self._names[index])

    def _decoded(self, index: int) -> torch.Tensor:
        """Decodes a picture to `(C, H, W)`."""
        path = self._path(index)
        try:
            if not os.path.isfile(path):  # reading a pipe would block
                raise OSError("no such file" if not os.path.lexists(path) else "it is not a regular file")
            with Image.open(path, formats=_FORMATS) as picture:
                check_pixels(*picture.size, path)
                picture.load()
                array = np.asarray(_upright(in_colour(picture), picture))
        except VideoError:
            raise
        except Exception as error:  # Pillow raises many kinds for damaged pictures
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise VideoError(f"{path}: this frame of the folder cannot be read ({reason})") from error
        return torch.from_numpy(array.copy()).permute(2, 0, 1)


def in_colour(picture: Image.Image) -> Image.Image:
    """Returns a picture as 8-bit RGB; scales 16 bits, and raises an error for other depths, which would be clipped."""
    deep = picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format in ("PNG", "PPM"))
    if deep:
        values = np.asarray(picture).astype(np.int64)
        return Image.fromarray(((values.clip(0, 65535) + 128) // 257).astype(np.uint8)).convert("RGB")
    if picture.mode in ("I", "F"):
        kind = "32-bit whole numbers" if picture.mode == "I" else "floating-point numbers"
        raise ValueError(f"its pixels are {kind}, whose range is not known; save the frames with 8 or 16 bits")
    return picture.convert("RGB")


def _upright(picture: Image.Image, loaded: Image.Image) -> Image.Image:
    """Turns and mirrors a picture by the EXIF orientation of its file; an unreadable orientation is ignored."""
    orientation = None
    with suppress(Exception):
        orientation = loaded.getexif().get(_ORIENTATION)
    turn = _TURNS.get(orientation) if isinstance(orientation, int) else None
    return picture if turn is None else picture.transpose(turn)


def _picture_names(folder: str) -> list[str]:
    """Returns the names of the pictures in a folder, in natural order."""
    try:
        names = os.listdir(str(folder))  # os.listdir would take numpy's strings for bytes
    except PermissionError:
        raise VideoError(f"{folder}: may not be read (permission denied); change its permissions") from None
    except OSError as error:
        raise VideoError(f"{folder}: cannot be opened ({error})") from error
    names = [
        name for name in names if os.path.splitext(name)[1].lower() in PICTURE_ENDINGS and not name.startswith(".")
    ]
    if not names:
        raise VideoError(
            f"{folder}: is a folder without pictures; give a video file, or a folder of frames such as 00001.jpg"
        )
    _check_one_series(folder, names)
    return sorted(names, key=_natural)


def _check_one_series(folder: str, names: Sequence[str]) -> None:
    """Raises an error for several series of pictures that share numbers, such as optical flow beside the frames.

    Names are of one series if they differ in numbers alone.
    """
    if len({name.translate(_NO_DIGITS) for name in names}) == 1:
        return  # almost always, and ten times faster to find
    series: dict[str, dict[tuple[int, ...], str]] = {}
    for name in names:
        numbers = tuple(map(int, re.findall(r"\d+", name)))
        series.setdefault(re.sub(r"\d+", "#", name), {})[numbers] = name
    for one, other in combinations([members for members in series.values() if len(members) > 1], 2):
        shared = sorted(one.keys() & other.keys())
        if len(shared) > 1 and 2 * len(shared) >= min(len(one), len(other)):
            raise VideoError(
                f"{folder}: holds several pictures for one frame, such as {one[shared[0]]} and {other[shared[0]]}; "
                "give a folder with the frames of one video alone"
            )


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts numbers in names by their value."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]
