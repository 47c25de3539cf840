"""Animated WebP files, which store how long each frame is shown."""

import io
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from vov3d.video.decoders.base import FrameSource, VideoError, is_variable
from vov3d.video.decoders.images import Image
from vov3d.video.decoders.opening import check_pixels
from vov3d.video.sources import Media, is_animated_webp

_UNTIMED = 100  # milliseconds, for frames that state 0; as in browsers


class WebPFrames(FrameSource):
    """The frames of an animated WebP file, decoded by Pillow from the start."""

    backend = "pillow"

    def __init__(self, media: Media) -> None:
        """Lists the frames without decoding them.

        Raises:
            VideoError: for one picture, a damaged file, or pictures that are too large.
        """
        self._name = media.name
        self._data = media.data or b"" if media.path is None else _content(media.path, media.name)
        if not is_animated_webp(self._data):
            raise VideoError(
                f"{media.name}: is one picture (WebP), not a video; give a video, or a folder of frames such as "
                "00001.jpg"
            )
        durations = _durations(self._data)
        if not len(durations):
            raise VideoError(f"{media.name}: holds no frame; it is cut short or damaged: fetch it again")
        self.width, self.height = (int.from_bytes(self._data[at : at + 3], "little") + 1 for at in (24, 27))
        check_pixels(self.width, self.height, media.name)
        self.num_frames = len(durations)
        self.timestamps = np.concatenate([[0.0], np.cumsum(durations[:-1]) / 1000])
        self.fps = 1000 / float(np.mean(durations))
        self.variable = is_variable(durations)

    def frames(self, targets: Sequence[int]) -> Iterator[tuple[int, torch.Tensor]]:
        """Decodes frames, as `FrameSource.frames` does."""
        self.missing = 0
        last: torch.Tensor | None = None
        try:
            with Image.open(io.BytesIO(self._data), formats=["WEBP"]) as animation:
                for index in targets:
                    try:
                        animation.seek(index)
                        last = torch.from_numpy(np.array(animation.convert("RGB"))).permute(2, 0, 1)
                    except (OSError, EOFError, ValueError):
                        if last is None:
                            raise
                        self.missing += 1
                    yield index, last
        except (OSError, EOFError, ValueError) as error:
            raise VideoError(
                f"{self._name}: cannot be decoded ({error}): it is cut short or damaged; see whether a browser shows "
                "it, or fetch it again"
            ) from error


def _content(path: str, name: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise VideoError(f"{name}: cannot be read ({error.strerror})") from error


def _durations(data: bytes) -> np.ndarray:
    """Reads the milliseconds of each frame from the head of its chunk."""
    found = []
    at = 12
    while at + 24 <= len(data):
        if data[at : at + 4] == b"ANMF":
            found.append(int.from_bytes(data[at + 20 : at + 23], "little") or _UNTIMED)
        at += 8 + int.from_bytes(data[at + 4 : at + 8], "little")
        at += at % 2
    return np.array(found, dtype=np.int64)
