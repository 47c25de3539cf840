"""Decodes videos in other processes, and replaces those that crash or take too long."""

import json
import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import ProcessError, reduction
from typing import Any

import numpy as np
import torch

from vov3d.serving._errors import RefusedError
from vov3d.serving._worker import Setup, work

_MESSAGE_BYTES = 100_000
_START_SECONDS = 120.0
_MOST_JOBS = 1000  # of a process, so that leaks of decoders do not add up

TakeClip = Callable[[torch.Tensor, int], None]  # takes uint8 crops (N, T, C, S, S) and their weight


@dataclass
class Decoded:
    """Facts about a decoded video.

    Attributes:
        clips: Number of different clips.
        seconds: Length of the video.
        frames: Number of its frames.
        width: Columns of a frame.
        height: Rows of a frame.
        missing: Frames that are damaged or missing.
        waited: Seconds until a process was free.
        took: Seconds that decoding took, without waiting for the network.
    """

    clips: int = 0
    seconds: float = 0.0
    frames: int = 0
    width: int = 0
    height: int = 0
    missing: int = 0
    waited: float = 0.0
    took: float = 0.0


@dataclass
class Decoding:
    """A video that is being decoded or waits for it; any thread may cancel it."""

    handle: int
    take: TakeClip
    begun: float = field(default_factory=time.monotonic)
    future: "Future[Decoded] | None" = None
    _worker: "_Worker | None" = None
    _cancelled: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def cancelled(self) -> bool:
        """True if nobody waits for the result."""
        return self._cancelled

    def cancel(self) -> None:
        """Ends the work at once; a process that is busy with it is killed."""
        with self._lock:
            self._cancelled = True
            if self._worker is not None:
                self._worker.kill()
        if self.future is not None and self.future.cancel():
            os.close(self.handle)  # else the thread that decodes closes it

    def begin(self, worker: "_Worker") -> bool:
        """Marks a process as busy with this video; returns False if nobody waits for the result."""
        with self._lock:
            self._worker = None if self._cancelled else worker
        return not self._cancelled

    def end(self) -> None:
        """Marks the process as free, so that it is no longer killed for this video."""
        with self._lock:
            self._worker = None


class _Worker:
    """A decoding process."""

    def __init__(self, setup: Setup) -> None:
        self.connection, theirs = _context().Pipe()
        self.process = _context().Process(target=work, args=(theirs, setup), name="vov3d-decoder", daemon=True)
        try:
            self.process.start()
        finally:
            theirs.close()
        self.jobs = 0

    def wait(self) -> None:
        """Waits until the process is ready.

        Raises:
            RuntimeError: If it does not become ready.
        """
        try:
            if self.connection.poll(_START_SECONDS):
                self.connection.recv_bytes(_MESSAGE_BYTES)
                return
        except (EOFError, OSError):
            pass
        self.close()
        raise RuntimeError("a process that decodes videos did not start; see the messages above")

    def alive(self) -> bool:
        """Returns whether the process can take a video."""
        return self.process.is_alive() and self.jobs < _MOST_JOBS

    def spend(self) -> None:
        """Gives no further video to the process."""
        self.jobs = _MOST_JOBS

    def kill(self) -> None:
        """Kills the process; whoever reads from it gets an EOFError."""
        self.spend()  # it seems to live for a moment yet
        with suppress(ValueError):  # closed already
            self.process.kill()

    def close(self) -> int | None:
        """Ends the process and returns its exit code."""
        self.kill()
        self.connection.close()
        self.process.join(5)
        return self.process.exitcode

    def receive(self) -> dict[str, Any]:
        """Returns the next message."""
        return json.loads(self.connection.recv_bytes(_MESSAGE_BYTES))


def _context() -> Any:
    """Returns how processes are started: as copies of one that has imported everything, which takes milliseconds."""
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload(["vov3d.serving._worker"])
    return context


class Decoders:
    """A fixed number of processes that decode, each of one video at a time.

    Args:
        setup: Settings of the processes.
        workers: Number of processes.
        shape: Sizes of the crops of a clip, `(N, T, S, S, C)`.
        lost: Called for a process that had to be replaced, with `"crash"`, with `"timeout"` if decoding took too long,
            or with `"cancelled"` if nobody waited for the result any more.
    """

    def __init__(self, setup: Setup, workers: int, shape: tuple[int, ...], lost: Callable[[str], None]) -> None:
        self._setup, self._shape, self._lost = setup, shape, lost
        self._free: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        self._all: set[_Worker] = set()
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="vov3d-decoding")
        self._open = True
        started = [_Worker(setup) for _ in range(workers)]
        self._all.update(started)
        try:
            for worker in started:
                worker.wait()
                self._free.put(worker)
        except BaseException:
            self.close()
            raise

    def processes(self) -> list[int]:
        """Returns the process ids."""
        return [worker.process.pid for worker in list(self._all) if worker.process.pid]

    def submit(self, file: int, take: TakeClip) -> Decoding:
        """Starts to decode a video; `Decoding.future` gives the result.

        Args:
            file: Handle of the file, which may be closed after the call.
            take: Called with each clip in another thread; it may block.
        """
        decoding = Decoding(os.dup(file), take)
        decoding.future = self._threads.submit(self._run, decoding)
        return decoding

    def close(self) -> None:
        """Ends the processes, busy ones too, and waits for the threads."""
        self._open = False
        for worker in list(self._all):
            worker.kill()
        self._threads.shutdown(wait=True)
        for worker in list(self._all):
            worker.close()
        self._all.clear()

    def _run(self, decoding: Decoding) -> Decoded:
        """Decodes a video; runs in a thread."""
        decoded = Decoded(waited=time.monotonic() - decoding.begun)
        worker = self._free.get()
        try:
            worker = self._ready(worker)
            if not decoding.begin(worker):
                raise RefusedError(504, "timeout", "the request was given up")
            self._decode(worker, decoding, decoded)
            return decoded
        except (EOFError, OSError, ProcessError, ValueError, KeyError, TypeError) as error:  # gone, or sends nonsense
            raise self._ended(worker, decoding, decoded) from error
        finally:
            decoding.end()
            os.close(decoding.handle)
            self._free.put(worker)

    def _ready(self, worker: _Worker | None) -> _Worker:
        """Returns a process that can take a video: the given one, or a new one in its place."""
        if worker is not None and worker.alive():
            return worker
        if worker is not None:
            self._discard(worker)
        if not self._open:
            raise RefusedError(503, "stopping", "the service is stopping: send the request to another")
        try:
            worker = _Worker(self._setup)
            self._all.add(worker)
            worker.wait()
            return worker
        except (OSError, RuntimeError, EOFError) as error:
            raise RefusedError(
                503, "no_decoder", "no process can be started to decode the video: try again later", retry_after=5
            ) from error

    def _discard(self, worker: _Worker) -> int | None:
        self._all.discard(worker)
        return worker.close()

    def _decode(self, worker: _Worker, decoding: Decoding, decoded: Decoded) -> None:
        worker.jobs += 1
        clips = 0
        clock = _Clock(decoded, self._setup.seconds, worker.kill)
        with clock:
            worker.connection.send_bytes(b"{}")
            reduction.send_handle(worker.connection, decoding.handle, worker.process.pid)
        while True:
            with clock:
                message = worker.receive()
                pictures = self._pictures(worker) if message["kind"] == "clip" else None
            if pictures is not None:
                clips += 1
                decoding.take(pictures, int(message["weight"]))
            elif message["kind"] == "opened":
                decoded.clips = int(message["clips"])
                decoded.seconds, decoded.frames = float(message["seconds"]), int(message["frames"])
                decoded.width, decoded.height = int(message["width"]), int(message["height"])
            elif message["kind"] == "refused":
                if message.get("last"):
                    worker.spend()
                status = 413 if message["code"] == "video_too_large" else 422
                raise RefusedError(status, str(message["code"]), str(message["message"]))
            elif message["kind"] == "failed":
                worker.spend()  # in an unknown state
                raise RefusedError(
                    500, "decoder_failed", f"the decoder failed ({message['message']}): try another file"
                )
            elif clips != decoded.clips or not clips:
                raise EOFError
            else:
                decoded.missing = int(message["missing"])
                return

    def _pictures(self, worker: _Worker) -> torch.Tensor:
        """Returns the crops of a clip, uint8 `(N, T, C, S, S)`, in channels-last memory."""
        content = bytearray(int(np.prod(self._shape)))
        if worker.connection.recv_bytes_into(content) != len(content):
            raise EOFError
        return torch.frombuffer(content, dtype=torch.uint8).view(self._shape).movedim(-1, -3)

    def _ended(self, worker: _Worker | None, decoding: Decoding, decoded: Decoded) -> RefusedError:
        """Returns the error for a process that ended before the video was decoded."""
        code = None if worker is None else self._discard(worker)
        if decoding.cancelled:
            self._lost("cancelled")
            return RefusedError(504, "timeout", "the request was given up")
        if not self._open:
            return RefusedError(503, "stopping", "the service is stopping: send the request to another")
        if decoded.took >= self._setup.seconds:
            self._lost("timeout")
            return RefusedError(
                504,
                "decode_timeout",
                f"decoding the video took over {self._setup.seconds:g} seconds: send a shorter or smaller one, or try "
                "again when the service is less busy",
            )
        self._lost("crash")
        cause = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        if code is not None and code < 0:
            with suppress(ValueError):
                cause = signal.Signals(-code).name
        return RefusedError(
            422,
            "decoder_crashed",
            f"the process that decoded the video ended ({cause}); the service itself goes on: convert the video to "
            "H.264 in MP4, and try again",
        )


class _Clock:
    """Adds up the time in its `with` blocks in `decoded.took`, and calls a function when it is over a limit."""

    def __init__(self, decoded: Decoded, seconds: float, late: Callable[[], None]) -> None:
        self._decoded, self._seconds, self._late = decoded, seconds, late

    def __enter__(self) -> None:
        self._begun = time.monotonic()
        self._timer = threading.Timer(max(self._seconds - self._decoded.took, 0.0), self._late)
        self._timer.daemon = True
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._decoded.took += time.monotonic() - self._begun
