"""Stores vectors of videos beside the output file until it is complete."""

import base64
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from vov3d.files import PICTURE_ENDINGS, naming

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]

_AGAIN = "; the same command continues"


class Kept:
    """Vectors of an unfinished file, each stored as soon as it is computed, so that the next call can continue.

    A line of `.OUT.part` is a video with its size and modification time, and its vector; the first line has the
    settings of the vectors. The file is locked, so that no other process writes the same output.

    Attributes:
        vectors: float32 `(D,)` of each video that is done and has not changed since.
    """

    _what = "1 vector"

    def __init__(self, output: Path, about: Mapping[str, Any]) -> None:
        """Reads the vectors that an earlier call stored.

        Raises:
            ValueError: If they were made with other settings, or another process writes this output.
        """
        self.vectors: dict[str, torch.Tensor] = {}
        self._path = output.with_name(f".{output.name}.part")
        self._rows_path = output.with_name(f".{output.name}.part.rows")
        self._about = dict(about)
        self._states: dict[str, Any] = {}
        self._has_lines = False
        self._file = _open_locked(self._path, output)
        try:
            self._open()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> "Kept":
        return self

    def __exit__(self, *_: object) -> None:
        if not self._has_lines:
            self.forget()
        _close(self._file)

    def __len__(self) -> int:
        """Videos that are done."""
        return len(self.vectors)

    def __contains__(self, video: str) -> bool:
        return video in self.vectors

    def __str__(self) -> str:
        """Returns the text about the file for a video that ends the command."""
        if not len(self):
            return ""
        done = f"{self._what} is" if len(self) == 1 else f"{len(self)} {self._what.split()[-1]}s are"
        return f"; {done} kept in {self._path}: repair or leave out the video, and the same command continues"

    def reading(self, videos: Iterable[str]) -> Iterator[str]:
        """Yields videos to read; a video that changes after its turn is computed again by the next call."""
        for video in videos:
            self._states[video] = _state(video)
            yield video

    def add(self, video: str, vector: torch.Tensor) -> None:
        """Stores the vector of a video."""
        self.vectors[video] = vector
        content = base64.b64encode(vector.float().contiguous().numpy().tobytes()).decode()
        self._put({"video": video, "state": self._state_before(video), "vector": content})
        self._has_lines = True

    def forget(self) -> None:
        """Deletes the stored vectors, last the file that is locked."""
        self._rows_path.unlink(missing_ok=True)
        if fcntl is None:
            self._file.close()  # Windows deletes no open file
        self._path.unlink(missing_ok=True)

    def _open(self) -> None:
        """Reads the lines, or begins with the settings where there are none."""
        whole = self._read()
        self._file.truncate(whole)  # an incomplete line of a killed process
        if not whole:
            self._rows_path.unlink(missing_ok=True)  # their lines are gone
            self._put(self._about)

    def _state_before(self, video: str) -> Any:
        """Returns the state of a video before it was read."""
        return self._states.pop(video, None) or _state(video)

    def _put(self, line: Mapping[str, Any]) -> None:
        with naming(self._path, _AGAIN):
            self._file.write(json.dumps(line).encode() + b"\n")
            self._file.flush()

    def _read(self) -> int:
        """Reads the stored vectors; returns the length of the file up to the last complete line."""
        content = self._path.read_bytes()
        whole = content.rfind(b"\n") + 1
        lines = content[:whole].splitlines()
        if not lines:
            return 0
        try:
            head, *entries = [dict(json.loads(line)) for line in lines]
        except (TypeError, ValueError) as error:
            raise ValueError(f"{self._path}: is damaged ({error}); delete it") from error
        self._check(head)
        self._has_lines = bool(entries)
        try:
            for entry in entries:
                self._reserve(entry)
                if entry["state"] == _state(entry["video"]):
                    self._take(entry)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{self._path}: is damaged ({error}); delete it") from error
        return whole

    def _reserve(self, entry: Mapping[str, Any]) -> None:
        """Notes what a line refers to, even if its video is changed or away; a vector is in the line itself."""

    def _take(self, entry: Mapping[str, Any]) -> None:
        """Takes what a line holds."""
        vector = bytearray(base64.b64decode(entry["vector"]))
        self.vectors[entry["video"]] = torch.frombuffer(vector, dtype=torch.float32)

    def _check(self, head: Mapping[str, Any]) -> None:
        other = [key for key in {**self._about, **head} if head.get(key) != self._about.get(key)]
        if other:
            names = " and ".join("weights" if key == "digest" else key for key in other)
            raise ValueError(
                f"{self._path}: holds vectors of an unfinished call with other {names}; delete it, or write to another "
                "file"
            )


@dataclass(frozen=True)
class Rows:
    """The windows of a video; their vectors are on disk.

    Attributes:
        first: the row of the first one in the file of vectors.
        times: the middle of each, in seconds.
        shots: where the shot of each begins, in seconds.
        duration: of the video, in seconds.
    """

    first: int
    times: list[float]
    shots: list[float]
    duration: float

    def shot_ends(self) -> list[float]:
        """Returns the end of each window's shot: the start of the next shot, or the end of the video."""
        ends, end = [], self.duration
        for at in range(len(self.shots) - 1, -1, -1):
            if at + 1 < len(self.shots) and self.shots[at + 1] != self.shots[at]:
                end = self.shots[at + 1]
            ends.append(end)
        return ends[::-1]


class KeptRows(Kept):
    """As `Kept`, with many vectors a video, which lie in `.OUT.part.rows`, float32 row after row, and never in memory.

    Attributes:
        rows: the windows of each video that is done.
        dimension: of a vector, 0 where there is none yet.
    """

    _what = "1 video"

    def __init__(self, output: Path, about: Mapping[str, Any]) -> None:
        """Reads what an earlier call kept.

        Raises:
            ValueError: If that was made in another way, or another process writes this output.
        """
        self.rows: dict[str, Rows] = {}
        self.dimension = 0
        self._end = 0  # the row behind the last one that a line names
        super().__init__(output, about)

    def __exit__(self, *_: object) -> None:
        _close(self._rows_file)
        super().__exit__()

    def __len__(self) -> int:
        return len(self.rows)

    def __contains__(self, video: str) -> bool:
        return video in self.rows

    def add_windows(self, video: str, windows: Iterable[Any]) -> None:
        """Writes the vectors of a video down as they come; it is done when all are there."""
        state = self._state_before(video)
        first, times, shots, duration = self._end, list[float](), list[float](), 0.0
        self._rows_file.truncate(4 * self.dimension * first)  # rows of a video that failed midway
        self._rows_file.seek(4 * self.dimension * first)
        for window in windows:
            self.dimension = self.dimension or len(window.values)
            with naming(self._rows_path, _AGAIN):
                self._rows_file.write(window.values.contiguous().numpy().tobytes())
            times.append(window.time)
            shots.append(window.shot)
            duration = window.duration
        with naming(self._rows_path, _AGAIN):
            self._rows_file.flush()
        entry: dict[str, Any] = {"video": video, "state": state, "first": first, "dimension": self.dimension}
        entry |= {"times": times, "shots": shots, "duration": duration}
        self._reserve(entry)
        self._take(entry)
        self._put(entry)
        self._has_lines = True

    def vectors_of(self, video: str, at_once: int = 1024) -> Iterator[bytes]:
        """Yields the vectors of a video, float32, some rows at a time."""
        rows = self.rows[video]
        with self._rows_path.open("rb") as file:
            file.seek(4 * self.dimension * rows.first)
            left = len(rows.times)
            while left:
                yield file.read(4 * self.dimension * min(left, at_once))
                left -= min(left, at_once)

    def forget(self) -> None:
        """Deletes what was kept."""
        self._rows_file.close()
        super().forget()

    def _open(self) -> None:
        """Reads the lines as `Kept` does, and opens the file of rows behind the last one that a line names."""
        super()._open()
        found = self._rows_path.stat().st_size if self._rows_path.exists() else 0
        whole = 4 * self.dimension * self._end
        if found < whole:
            raise ValueError(f"{self._rows_path}: is shorter than {self._path} says; delete both")
        self._rows_file = self._rows_path.open("r+b" if whole else "wb")
        self._rows_file.truncate(whole)
        self._rows_file.seek(whole)

    def _reserve(self, entry: Mapping[str, Any]) -> None:
        """Keeps the rows of a line from being overwritten: its video may come back as it was."""
        if entry["first"] != self._end:
            raise ValueError(f"rows of {entry['video']} begin at {entry['first']}, not {self._end}")
        self._end += len(entry["times"])
        self.dimension = entry["dimension"]

    def _take(self, entry: Mapping[str, Any]) -> None:
        self.rows[entry["video"]] = Rows(entry["first"], entry["times"], entry["shots"], entry["duration"])


def _close(file: BinaryIO) -> None:
    """Closes a file; what is still to be written has raised already, where it was written."""
    with suppress(OSError):
        file.close()


def _open_locked(path: Path, output: Path) -> BinaryIO:
    """Opens a file for appending, locked until it is closed or the process ends, however that ends.

    Raises:
        ValueError: If another process has locked it.
    """
    while True:
        file = path.open("a+b")
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise ValueError(
                f"{output}: another vov3d embed is writing it; wait for that one, or write to another file"
            ) from None
        except OSError:  # some network file systems have none
            pass
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
            return file
        file.close()  # the other one finished, and deleted it before it was locked


def _state(video: str) -> list[Any] | None:
    """Returns a state of a video that is another once it has changed.

    Args:
        video: A file, a folder of frames or an address.

    Returns:
        Size and modification time of a file; of a folder, how many pictures it has, and a digest of their names,
        sizes and times; None for an address.
    """
    try:
        return _state_of_frames(video) if os.path.isdir(video) else _size_and_time(video)
    except (OSError, ValueError):
        return None


def _state_of_frames(folder: str) -> list[Any]:
    names = sorted(name for name in os.listdir(folder) if os.path.splitext(name)[1].lower() in PICTURE_ENDINGS)
    pictures = [(name, _size_and_time(os.path.join(folder, name))) for name in names]
    return [len(names), hashlib.sha256(json.dumps(pictures).encode()).hexdigest()]


def _size_and_time(path: str) -> list[int]:
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns]
