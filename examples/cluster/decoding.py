"""Decodes videos in a process of its own, which is killed when a video takes too long.

`python -m cluster.decoding FD` is that process. A decoder is C code: a file on which it hangs or crashes must cost its
row, not the run.
"""

import os
import pickle
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from typing import Any

_START = 300.0  # seconds that the process may take to import its packages
_GRACE = 30.0  # seconds after which it ends itself, should its parent be gone


@dataclass(frozen=True)
class Decoding:
    """Settings of decoding.

    Attributes:
        cfg: The model's `pretrained_cfg`: frames, sampling, sizes and interpolation.
        clips: Clips of a video.
        crops: Crops of a clip.
        timeout: Seconds after which a video is given up.
        folder: The folder that relative paths start from.
        backend: The decoder of files; None for the usual one.
        antialias: As for `vov3d.video.eval_transform`.
        fps: Frames per second of folders of frames; None for the usual 12. Files have their own.
    """

    cfg: Mapping[str, Any]
    clips: int
    crops: int
    timeout: float
    folder: str
    backend: str | None = None
    antialias: bool = True
    fps: float | None = None


@dataclass
class Decoded:
    """The views of a video, or why there are none.

    Attributes:
        name: The video.
        shape: Of the views: views, frames, rows, columns, channels.
        weights: How often each view counts: equal ones, as in a short video, are there once.
        views: Their bytes, uint8.
        seconds: Time from the request to the answer.
        cpu_seconds: Processor time.
        note: What is wrong with a video that was decoded all the same.
        error: Why it could not be decoded.
    """

    name: str
    shape: tuple[int, ...] = (0, 0, 0, 0, 0)
    weights: tuple[int, ...] = ()
    views: bytes = b""
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    note: str | None = None
    error: str | None = None


class Decoder:
    """Decodes one video after the other in its own process.

    Args:
        decoding: How.
        command: The process, in place of this module; for tests.
    """

    def __init__(self, decoding: Decoding, command: list[str] | None = None) -> None:
        self._decoding = decoding
        self._command = command or [sys.executable, "-m", "cluster.decoding"]
        self._process: subprocess.Popen | None = None
        self._answers: Connection

    def __call__(self, name: str) -> Decoded:
        """Returns the views of a video, or why there are none; raises nothing for a video that cannot be read."""
        if self._process is None:
            self._start()
        begun = time.monotonic()
        found = self._tried(name) or self._tried(name)  # a process that died may have been killed for another reason
        found = found or Decoded(name, error=f"{name}: the decoder crashes on it; encode the file again")
        found.seconds = time.monotonic() - begun
        return found

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.kill()
            with suppress(subprocess.TimeoutExpired):  # while it waits for a disk that does not answer, it stays
                self._process.wait(5)
            self._answers.close()
            self._process = None

    def _tried(self, name: str) -> Decoded | None:
        """Returns what the process answers; None if it dies."""
        try:
            if self._process is None:
                self._start()
            self._answers.send(name)
            if not self._answers.poll(self._decoding.timeout):
                self.close()
                limit = f"{self._decoding.timeout:g} s"
                return Decoded(
                    name, error=f"{name}: was not decoded within {limit} and given up; --timeout allows more"
                )
            found: Decoded = self._answers.recv()
            if found.shape[0]:
                found.views = self._answers.recv_bytes()
            return found
        except (EOFError, OSError):
            self.close()
            return None

    def _start(self) -> None:
        here, there = Pipe()
        paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
        environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
        with there:
            number = there.fileno()
            self._process = subprocess.Popen(
                [*self._command, str(number)], pass_fds=[number], stdin=subprocess.DEVNULL, env=environment
            )
        self._answers = here
        here.send(self._decoding)
        if not here.poll(_START):
            self.close()
            raise RuntimeError(f"the process that decodes videos did not start within {_START:g} s")
        try:
            here.recv()
        except (EOFError, OSError):
            code = self._process.wait()
            self.close()
            raise RuntimeError(f"the process that decodes videos cannot start (exit status {code})") from None


def decode(name: str, decoding: Decoding) -> Decoded:
    """Returns the views of a video, or why there are none.

    Args:
        name: The video: a path, a folder of frames, or an address.
        decoding: How.
    """
    begun = time.process_time()
    try:
        found = _decode(name, decoding)
    except Exception as error:  # whatever is wrong with a video becomes its row
        text = " ".join(str(error).split()) or type(error).__name__
        found = Decoded(name, error=text if name in text else f"{name}: {text}")
    found.cpu_seconds = time.process_time() - begun
    return found


def _decode(name: str, decoding: Decoding) -> Decoded:
    import torch

    from cluster.inputs import is_remote, read_remote
    from vov3d.video import VideoReader, eval_transform, plan_clips
    from vov3d.video.reader import missing_text
    from vov3d.video.sources import is_address, is_file

    local = not is_remote(name)
    source: Any = read_remote(name) if not local else name if is_address(name) else os.path.join(decoding.folder, name)
    transform = eval_transform(decoding.cfg, decoding.crops, decoding.antialias)
    backend, fps = (decoding.backend, None) if is_file(source) else (None, decoding.fps)
    with VideoReader(source, backend, fps) as reader:
        clips = Counter(plan_clips(decoding.cfg, reader, decoding.clips))
        indices = sorted({index for clip in clips for index in clip})
        frames = dict(reader.stream(indices, transform.resize))
        views = []
        for clip in clips:
            pictures = torch.stack([frames[index].movedim(0, -1) for index in clip]).movedim(-1, 1)
            views += transform.cut(pictures)
        stack = torch.stack([view.movedim(1, -1) for view in views]).contiguous()
        note = missing_text(name, reader.missing, len(indices)) if reader.missing else None
    weights = tuple(count for count in clips.values() for _ in range(decoding.crops))
    return Decoded(name, tuple(stack.shape), weights, stack.numpy().tobytes(), note=note)


def serve(answers: Connection) -> None:
    """Answers requests until the other side is gone.

    Args:
        answers: Gives a `Decoding`, then names; takes a `Decoded` for each, followed by the bytes of its views.
    """
    import warnings

    import torch

    import vov3d.video  # noqa: F401  (before the clock of the first video starts)

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # notes are in the answers
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    decoding: Decoding = answers.recv()
    answers.send(True)
    while True:
        try:
            name = answers.recv()
            signal.setitimer(signal.ITIMER_REAL, decoding.timeout + _GRACE)  # ends the process, even within C code
            found = decode(name, decoding)
            signal.setitimer(signal.ITIMER_REAL, 0)
            views, found.views = found.views, b""
            answers.send_bytes(pickle.dumps(found))
            if views:
                answers.send_bytes(views)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return


if __name__ == "__main__":
    from cluster import decoding as module  # so that what is pickled belongs to the module, not to __main__

    module.serve(Connection(int(sys.argv[1])))
