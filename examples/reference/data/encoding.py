"""Videos made small: H.264 of a given short side, without sound, quick to seek in."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import torch

from vov3d.files import replacing
from vov3d.video import Section, VideoError, VideoReader

_TICKS = 90000  # of a second
_KEY_EVERY = 24  # frames: a clip somewhere in the middle is reached by decoding few
_COARSEST = 2  # seconds: some file systems keep times no finer


@dataclass(frozen=True)
class Job:
    """A video, or a part of one, and the file to make of it.

    Attributes:
        source: What is read; it is never changed.
        target: What is written.
        short_side: Pixels; videos are never enlarged.
        quality: libx264's constant rate factor; smaller is better.
    """

    source: Path | Section
    target: Path
    short_side: int
    quality: int = 20


def is_done(job: Job) -> bool:
    """Returns True if the file is there, whole, and of its source as that is now, whose time of change it has."""
    try:
        there = job.target.stat()
        return there.st_size > 0 and abs(there.st_mtime - _changed(job.source)) <= _COARSEST
    except OSError:
        return False


def _changed(source: Path | Section) -> float:
    """Returns the time of change of a video, in seconds."""
    return Path(source.video if isinstance(source, Section) else source).stat().st_mtime


def encode(job: Job) -> str:
    """Writes a video; every frame is shown at its time.

    Returns:
        Why it cannot be read, or `""`. Nothing is left of a file that was not finished.

    Raises:
        OSError: If the file cannot be written.
    """
    torch.set_num_threads(1)
    try:
        with VideoReader(job.source) as reader:
            job.target.parent.mkdir(parents=True, exist_ok=True)
            changed = _changed(job.source)
            with replacing(job.target) as draft:
                _write(reader, draft, job)
                os.utime(draft, (changed, changed))
                if reader.missing:
                    raise VideoError(f"{reader.missing} of {reader.num_frames} frames cannot be decoded")
    except (VideoError, ValueError) as error:
        return " ".join(str(error).split()).removeprefix(f"{job.source}: ")
    return ""


def _write(reader: VideoReader, draft: Path, job: Job) -> None:
    height, width = small_size(reader.height, reader.width, job.short_side)
    with av.open(os.fspath(draft), "w", format="mp4", options={"movflags": "faststart"}) as container:
        rate = Fraction(reader.fps).limit_denominator(100_000)
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"crf": str(job.quality), "preset": "veryfast"}
        stream.gop_size, stream.thread_count = _KEY_EVERY, 1
        stream.time_base = stream.codec_context.time_base = Fraction(1, _TICKS)
        for frame in _frames(reader, width, height):
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _frames(reader: VideoReader, width: int, height: int) -> Iterator[av.VideoFrame]:
    last = -1
    for index, picture in reader.stream(range(reader.num_frames)):
        frame = av.VideoFrame.from_ndarray(picture.permute(1, 2, 0).contiguous().numpy(), "rgb24")
        frame = frame.reformat(width, height, "yuv420p", interpolation="AREA" if width < reader.width else "BICUBIC")
        last = max(round(float(reader.timestamps[index]) * _TICKS), last + 1)
        frame.pts, frame.time_base = last, Fraction(1, _TICKS)
        yield frame


def small_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Rows and columns with a short side, in the same proportion; even, as H.264 wants them, and never larger."""
    scale = min(short_side / min(height, width), 1.0)
    return max(2 * round(height * scale / 2), 2), max(2 * round(width * scale / 2), 2)
