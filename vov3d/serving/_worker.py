"""Decodes videos in a process of its own, which may crash or be killed.

The server sends a file handle for each video and gets back messages in JSON; each message of a clip is followed by the
bytes of its pictures. Nothing is pickled on this way, so a decoder that was taken over by its input can send no code.
"""

import ctypes
import json
import math
import os
import resource
import signal
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import reduction
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from vov3d.video import VideoError, VideoReader, eval_transform, plan_clips, stream_clips
from vov3d.video.decoders.base import stack_pictures

_HEAD_BYTES = 1000
_ARENA_MAX = -8
_SPARE_SECONDS = 5  # after which a process without a server ends itself


@dataclass(frozen=True)
class Setup:
    """Settings of a decoding process.

    Attributes:
        cfg: Clip settings of the model.
        num_clips: Clips of a video.
        num_crops: Crops of a clip.
        antialias: Of `eval_transform`.
        max_seconds: Longest video.
        max_pixels: Largest picture.
        memory: Bytes that decoding may take.
        seconds: Seconds after which the process ends itself, should the server no longer do it.
    """

    cfg: Mapping[str, Any]
    num_clips: int
    num_crops: int
    antialias: bool
    max_seconds: float
    max_pixels: int
    memory: int
    seconds: float


class _TooLargeError(VideoError):
    """The video is over a limit of the service."""


def work(connection: Connection, setup: Setup) -> None:
    """Decodes one video after the other until the server closes the connection."""
    for name in ("SIGINT", "SIGTERM"):  # sent to all processes by a terminal or an init system; the server decides
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    transform = eval_transform(setup.cfg, setup.num_crops, setup.antialias)
    _limit(setup.memory)
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        _send(connection, kind="ready")
        while True:
            json.loads(connection.recv_bytes(_HEAD_BYTES))
            handle = reduction.recv_handle(connection)
            signal.alarm(math.ceil(setup.seconds) + _SPARE_SECONDS)  # works within decoders, too
            try:
                if not _answer(connection, handle, setup, transform):
                    return  # another process takes over
            finally:
                os.close(handle)
                signal.alarm(0)


def _limit(memory: int) -> None:
    """Limits what the process can do: memory, files that it writes, and dumps of its memory."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    with suppress(AttributeError, OSError):  # only glibc has it: else each thread reserves 64 MB of addresses
        ctypes.CDLL(None).mallopt(_ARENA_MAX, 2)
    with suppress(OSError):  # only Linux has it
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * os.sysconf("SC_PAGE_SIZE") + memory
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _content(handle: int) -> bytes:
    """Returns all bytes of a file; one call gives 2 GiB at most."""
    parts, size = list[bytes](), 0
    while part := os.pread(handle, os.fstat(handle).st_size - size, size):
        parts.append(part)
        size += len(part)
    return b"".join(parts)


def _answer(connection: Connection, handle: int, setup: Setup, transform: Any) -> bool:
    """Decodes a file and sends its clips, or why it cannot be decoded; returns False where memory ran out."""
    try:
        # as bytes, which are opened without the right to open any file or address
        data = _content(handle)
        _decode(connection, data, setup, transform)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        raise
    except _TooLargeError as error:
        _send(connection, kind="refused", code="video_too_large", message=str(error))
    except Exception as error:
        if isinstance(error, MemoryError) or any(text in str(error) for text in _OUT_OF_MEMORY):
            _send(connection, kind="refused", code="video_unreadable", message=_NO_MEMORY, last=True)
            return False
        if isinstance(error, (VideoError, ValueError, IndexError)):
            text = str(error).replace(f"<{len(data)} bytes>", "the video")
            _send(connection, kind="refused", code="video_unreadable", message=text)
        else:
            traceback.print_exc(file=sys.stderr)
            _send(connection, kind="failed", message=type(error).__name__)
    return True


# of PyTorch, of FFmpeg, and of FFmpeg where it cannot start a thread
_OUT_OF_MEMORY = ("memory", "Resource temporarily unavailable")
_NO_MEMORY = "decoding the video takes more memory than the service gives to it: make its pictures smaller"


def _decode(connection: Connection, data: bytes, setup: Setup, transform: Any) -> None:
    with VideoReader(data) as reader:
        _check(reader, setup)
        plan = plan_clips(setup.cfg, reader, setup.num_clips)
        counts = Counter(plan)
        _send(
            connection,
            kind="opened",
            clips=len(counts),
            seconds=reader.duration,
            frames=reader.num_frames,
            width=reader.width,
            height=reader.height,
        )
        for clip, frames in stream_clips(reader, list(counts), transform.resize):
            crops = stack_pictures(transform.cut(frames)).movedim(-3, -1).contiguous()
            _send(connection, kind="clip", weight=counts[clip])
            connection.send_bytes(crops.numpy().tobytes())
        _send(connection, kind="done", missing=reader.missing)


def _check(reader: VideoReader, setup: Setup) -> None:
    """Raises an error for a video over the limits of the service."""
    if not 0 <= reader.duration <= setup.max_seconds:
        raise _TooLargeError(
            f"the video is {reader.duration:.6g} seconds long, and at most {setup.max_seconds:g} are taken: cut it"
        )
    if reader.width * reader.height > setup.max_pixels:
        raise _TooLargeError(
            f"the pictures have {reader.width}x{reader.height} pixels, and at most {setup.max_pixels} in all are taken:"
            " make them smaller"
        )


def _send(connection: Connection, **message: Any) -> None:
    connection.send_bytes(json.dumps(message).encode())
