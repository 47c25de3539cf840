"""Writes video files whose frames carry their own numbers in a form that survives lossy coding."""

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from av.video.stream import VideoStream
from PIL import Image

WIDTH, HEIGHT, BLOCK = 96, 64, 8
BITS = WIDTH // BLOCK


def numbered_frame(number: int) -> np.ndarray:
    """Draws an RGB picture (64, 96, 3): black or white blocks on top spell `number`, a moving pattern is below."""
    frame = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    bits = [(number >> bit) & 1 for bit in range(BITS)]
    frame[: 2 * BLOCK] = np.repeat(np.array(bits, np.uint8) * 235 + 10, BLOCK)[None, :, None]
    y, x = np.mgrid[0 : HEIGHT - 2 * BLOCK, 0:WIDTH]
    frame[2 * BLOCK :, :, 0] = (2 * x + 3 * number) % 256
    frame[2 * BLOCK :, :, 1] = (4 * y + number) % 256
    frame[2 * BLOCK :, :, 2] = (x + y) % 256
    return frame


def frame_number(frame: torch.Tensor) -> int:
    """Returns the number that a decoded picture (3, 64, 96) carries."""
    row = frame[:, 4 : 2 * BLOCK - 4].float().mean((0, 1))
    return sum(int(row[bit * BLOCK + 2 : (bit + 1) * BLOCK - 2].mean() > 128) << bit for bit in range(BITS))


def frame_numbers(frames: torch.Tensor) -> list[int]:
    """Returns the numbers of a stack of decoded pictures (T, 3, 64, 96)."""
    return [frame_number(frame) for frame in frames]


def write_video(
    path: Path,
    num_frames: int = 60,
    fps: int = 30,
    codec: str = "libx264",
    gop: int = 250,
    b_frames: int = 2,
    times_ms: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
    muxer: dict[str, str] | None = None,
) -> Path:
    """Encodes frames 0, 1, 2, ... into `path`; `times_ms` (milliseconds) makes the rate variable.

    A file has the same bytes each time; Matroska would have random numbers as identifiers.
    """
    times = [Fraction(t, 1000) for t in times_ms] if times_ms else [Fraction(i, fps) for i in range(num_frames)]
    base = Fraction(1, 1000) if times_ms else Fraction(1, fps)
    with av.open(str(path), "w", options={"fflags": "+bitexact"} | (muxer or {})) as container:
        stream = container.add_stream(codec, rate=fps, options=options or {})
        assert isinstance(stream, VideoStream)
        stream.width, stream.height = WIDTH, HEIGHT
        stream.pix_fmt = {"mjpeg": "yuvj420p", "gif": "rgb8"}.get(codec, "yuv420p")
        stream.codec_context.gop_size = gop
        stream.codec_context.time_base = base
        if codec in ("libx264", "mpeg4"):
            stream.codec_context.max_b_frames = b_frames
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(numbered_frame(number), format="rgb24")
            frame.pts, frame.time_base = int(time / base), base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_pictures(path: Path, pictures: Sequence[np.ndarray]) -> Path:
    """Encodes RGB pictures (H, W, 3) of any size without loss."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("png", rate=30)
        assert isinstance(stream, VideoStream)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "rgb24"
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def folder_of_frames(folder: Path, count: int, name: str = "{:05}.jpg") -> Path:
    """Writes a folder of pictures that carry their numbers, named from 1."""
    folder.mkdir()
    for number in range(count):
        Image.fromarray(numbered_frame(number)).save(folder / name.format(number + 1), quality=95)
    return folder


def write_audio(path: Path) -> Path:
    """Writes a file with half a second of silence and no picture."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("aac", rate=44100)
        for k in range(20):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 44100, 1024 * k
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def rotate_mp4(path: Path, degrees: int) -> Path:
    """Patches the display matrix in the track header: the player is to turn the picture clockwise by `degrees`."""
    matrix = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}[degrees]
    a, b, c, d = (value << 16 for value in matrix)
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # version 0: 40 bytes of flags, times, id, duration, layer and volume come first
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def cut_start(path: Path, frames: int, media_time_per_frame: int) -> Path:
    """Patches the edit list of an mp4 so that its first `frames` frames are decoded but never shown."""
    data = bytearray(path.read_bytes())
    at = data.index(b"elst") + 16  # version 0: flags, count and duration of the segment come first
    (media_time,) = struct.unpack_from(">i", data, at)
    struct.pack_into(">i", data, at, media_time + frames * media_time_per_frame)
    path.write_bytes(data)
    return path


def keep_part(path: Path, part: float) -> Path:
    """Drops the end of a file, as an interrupted download does."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    return path


def sequential_frames(path: Path) -> list[np.ndarray]:
    """Returns every picture in the order of a plain decode from the start: the truth for random access."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
