"""The frames of `PyAVFrames`, decoded by torchcodec."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from vov3d.video.decoders.pyav import PyAVFrames, UnsoundError

_BATCH = 16  # frames decoded at once, which bounds memory
_PLAYLISTS = {"hls", "dash", "concat", "imf"}  # they refer to other files; only with PyAV are these not opened


@functools.cache
def torchcodec_problem() -> str | None:
    """Returns the reason why torchcodec cannot be used here, or None if it can; cached."""
    try:
        from torchcodec.decoders import VideoDecoder  # noqa: F401
    except ModuleNotFoundError as error:
        return f"{error.name} is not installed"
    except Exception as error:  # its libraries raise many kinds of errors, of many lines
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return lines[0] if lines else type(error).__name__
    return None


def require_torchcodec() -> None:
    """Checks that torchcodec can be used.

    Raises:
        ImportError: with the reason and the remedy, if it cannot.
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
    """The frames of a video file; PyAV lists times and key frames, torchcodec decodes the pictures.

    Each picture must have the wanted time, and each key frame must be one that decoding can start at; else PyAV
    decodes. It also decodes files that torchcodec would decode differently: cut short, without usable times,
    mirrored, of more than 8 bits, interlaced, of odd sizes, or with another first picture.
    """

    backend = "torchcodec"
    _one_is_enough = False  # torchcodec does not tell of damage

    _decoder: Any = None

    def _survey(self, first: Any) -> None:
        """Sets the attributes and opens the file with torchcodec too."""
        super()._survey(first)
        self._held: set[int] = set()  # key frames that decoding can start at
        self._decoder = self._open_decoder() if _plain(first) else None
        if self._decoder is None or not self._agrees(first):
            self._give_up()

    def _give_up(self) -> None:
        """Leaves the rest to PyAV."""
        self._decoder, self.backend = None, PyAVFrames.backend

    def _open_decoder(self) -> Any:
        """Returns torchcodec's decoder, or None for a file whose frames it would number differently."""
        from torchcodec.decoders import VideoDecoder

        lists_others = _PLAYLISTS & set(self._container.format.name.split(","))
        if self._by_count or self._careful or self._broken or self._index.promised or lists_others:
            return None
        try:
            return VideoDecoder(
                self._media.path or self._media.data or b"",
                stream_index=self._stream.index,
                num_ffmpeg_threads=0,
                seek_mode="exact",
            )
        except (RuntimeError, ValueError):
            return None

    def _agrees(self, first: Any) -> bool:
        """Returns whether both decoders give a bit-identical first picture."""
        pictures = self._pictures_of([0])
        return pictures is not None and torch.equal(pictures[0], self._converted(first))

    def _all_held(self, targets: Sequence[int]) -> bool:
        """Returns whether decoding can start at the key frames before some frames, which torchcodec does not check."""
        keys = np.searchsorted(self._index.key_pts, self._index.pts[list(targets)], side="right") - 1
        try:
            for key in sorted({max(int(key), 0) for key in keys} - self._held):
                if next(self._decoded(key), None) is None or self._damaged:
                    return False
                self._held.add(key)
        except UnsoundError:
            return False
        return True

    def frames(self, targets: Sequence[int]) -> Iterator[tuple[int, torch.Tensor]]:
        """Decodes some frames, as `FrameSource.frames` does."""
        done = 0
        if self._decoder is not None:
            self.missing = 0
            for start in range(0, len(targets), _BATCH):
                part = targets[start : start + _BATCH]
                pictures = self._pictures_of(part) if self._all_held(part) else None
                if pictures is None:
                    self._give_up()
                    break
                yield from zip(part, pictures, strict=True)
                done += len(part)
        if done < len(targets):
            yield from super().frames(targets[done:])

    def _pictures_of(self, targets: Sequence[int]) -> torch.Tensor | None:
        """Decodes pictures `(T, C, H, W)` by their times; returns None for an error or other times."""
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
        """Returns half the file's unit of time, in seconds."""
        base = self._stream.time_base
        assert base is not None
        return 0.5 * base.numerator / base.denominator


def _plain(frame: Any) -> bool:
    """Returns whether both decoders convert such frames to the same RGB."""
    eight_bits = all(component.bits == 8 for component in frame.format.components)
    return eight_bits and not frame.interlaced_frame and frame.width % 2 == frame.height % 2 == 0
