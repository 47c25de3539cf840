"""The same frames as `_pyav`, decoded by torchcodec where it loads."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from vov3d.video._pyav import PyAVFrames
from vov3d.video._source import Media

_BATCH = 16  # frames decoded at once, which bounds memory
_PLAYLISTS = {"hls", "dash", "concat", "imf"}  # they lead to other files, which PyAV alone is kept from


@functools.cache
def torchcodec_problem() -> str | None:
    """Why torchcodec cannot be used here, or None if it can; found out once."""
    try:
        from torchcodec.decoders import VideoDecoder  # noqa: F401
    except ModuleNotFoundError as error:
        return f"{error.name} is not installed"
    except Exception as error:  # its libraries fail in many ways, over many lines
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return lines[0] if lines else type(error).__name__
    return None


def require_torchcodec() -> None:
    """Sees that torchcodec can be used.

    Raises:
        ImportError: with the reason and the cure, if it cannot.
    """
    problem = torchcodec_problem()
    if problem is not None:
        version = ".".join(torch.__version__.split(".")[:2])
        raise ImportError(
            f"backend='torchcodec' cannot be used here ({problem}): it needs FFmpeg's libraries from the system's "
            f"package manager and the release that fits torch {version} (pip install torchcodec); "
            "backend='pyav' gives the same frames"
        )


class TorchCodecFrames(PyAVFrames):
    """The frames of a video file; times and key frames are listed by PyAV, pictures decoded by torchcodec.

    Each picture is checked to be the one of the wanted time. Where it is not, and in files that are cut short or
    have no usable times, PyAV decodes.
    """

    backend = "torchcodec"

    def __init__(self, media: Media) -> None:
        """Opens the file with both.

        Raises:
            VideoError: as `PyAVFrames`.
        """
        super().__init__(media)
        self._decoder = self._open_decoder()
        if self._decoder is None:
            self.backend = PyAVFrames.backend

    def _open_decoder(self) -> Any:
        """The decoder of torchcodec, or None for a file that it would number otherwise."""
        from torchcodec.decoders import VideoDecoder

        lists_others = _PLAYLISTS & set(self._container.format.name.split(","))
        if self._by_count or self._index.promised or lists_others:
            return None
        try:
            return VideoDecoder(self._media.path or self._media.data, num_ffmpeg_threads=0, seek_mode="exact")
        except (RuntimeError, ValueError):
            return None

    def frames(self, targets: Sequence[int]) -> Iterator[tuple[int, torch.Tensor]]:
        """Decodes some frames, as `FrameSource.frames`."""
        done = 0
        if self._decoder is not None:
            self.missing = 0
            for start in range(0, len(targets), _BATCH):
                part = targets[start : start + _BATCH]
                pictures = self._pictures(part)
                if pictures is None:
                    break
                yield from zip(part, pictures, strict=True)
                done += len(part)
        if done < len(targets):
            yield from super().frames(targets[done:])

    def _pictures(self, targets: Sequence[int]) -> torch.Tensor | None:
        """Pictures `(T, C, H, W)` by their times; None if others came, or none."""
        base = self._stream.time_base
        assert base is not None
        times = torch.from_numpy(self._index.pts[list(targets)]).double() * base.numerator / base.denominator
        try:
            found = self._decoder.get_frames_played_at((times + self._half_tick()).tolist())
        except (RuntimeError, ValueError, IndexError):
            return None
        if tuple(found.data.shape[2:]) != (self.height, self.width):
            return None
        return found.data if torch.allclose(found.pts_seconds, times, rtol=0, atol=self._half_tick()) else None

    def _half_tick(self) -> float:
        """Half the unit in which the file counts time, in seconds."""
        base = self._stream.time_base
        assert base is not None
        return 0.5 * base.numerator / base.denominator
