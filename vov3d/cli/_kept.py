"""Stores vectors of videos beside the output file until it is complete."""

import base64
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


class Kept:
    """Vectors of an unfinished file, each stored as soon as it is computed, so that the next call can continue.

    A line of `.OUT.part` is a video with its size and modification time, and its vector; the first line has the
    settings of the vectors.

    Attributes:
        vectors: float32 `(D,)` of each video that is done and has not changed since.
    """

    _what = "1 vector"

    def __init__(self, output: Path, about: Mapping[str, Any]) -> None:
        """Reads the vectors that an earlier call stored.

        Raises:
            ValueError: If they were made with other settings.
        """
        self.vectors: dict[str, torch.Tensor] = {}
        self._path = output.with_name(f".{output.name}.part")
        self._about = dict(about)
        whole = self._read() if self._path.exists() else 0
        self._file = self._path.open("r+b" if whole else "wb")
        if whole:
            self._file.truncate(whole)  # an incomplete line of a killed process
            self._file.seek(whole)
        else:
            self._put(self._about)

    def __enter__(self) -> "Kept":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if not len(self):
            self.forget()

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

    def add(self, video: str, vector: torch.Tensor) -> None:
        """Stores the vector of a video."""
        self.vectors[video] = vector
        content = base64.b64encode(vector.float().contiguous().numpy().tobytes()).decode()
        self._put({"video": video, "state": _state(video), "vector": content})

    def forget(self) -> None:
        """Deletes the stored vectors."""
        self._path.unlink(missing_ok=True)

    def _put(self, line: Mapping[str, Any]) -> None:
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
            head, *entries = [json.loads(line) for line in lines]
        except ValueError as error:
            raise ValueError(f"{self._path}: is damaged ({error}); delete it") from error
        self._check(head)
        try:
            for entry in entries:
                self._overwritten_by(entry)
                if entry["state"] == _state(entry["video"]):
                    self._take(entry)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{self._path}: is damaged ({error}); delete it") from error
        return whole

    def _overwritten_by(self, entry: Mapping[str, Any]) -> None:
        """Forgets what is no longer there since a line was written; vectors in lines stay."""

    def _take(self, entry: Mapping[str, Any]) -> None:
        """Takes what a line holds."""
        vector = bytearray(base64.b64decode(entry["vector"]))
        self.vectors[entry["video"]] = torch.frombuffer(vector, dtype=torch.float32)

    def _check(self, head: Mapping[str, Any]) -> None:
        other = [key for key, value in self._about.items() if head.get(key) != value]
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
            ValueError: If that was made in another way.
        """
        self.rows: dict[str, Rows] = {}
        self.dimension = 0
        self._vectors = output.with_name(f".{output.name}.part.rows")
        super().__init__(output, about)
        found = self._vectors.stat().st_size if self._vectors.exists() else 0
        whole = 4 * self.dimension * self._next
        if found < whole:
            self._file.close()
            raise ValueError(f"{self._vectors}: is shorter than {self._path} says; delete both")
        self._rows_file = self._vectors.open("r+b" if whole else "wb")
        self._rows_file.truncate(whole)
        self._rows_file.seek(whole)

    def __exit__(self, *_: object) -> None:
        self._rows_file.close()
        super().__exit__()

    def __len__(self) -> int:
        return len(self.rows)

    def __contains__(self, video: str) -> bool:
        return video in self.rows

    def add_windows(self, video: str, windows: Iterable[Any]) -> None:
        """Writes the vectors of a video down as they come; it is done when all are there."""
        first, times, shots, duration = self._next, list[float](), list[float](), 0.0
        self._rows_file.truncate(4 * self.dimension * first)  # rows of a video that failed midway
        self._rows_file.seek(4 * self.dimension * first)
        for window in windows:
            self.dimension = self.dimension or len(window.values)
            self._rows_file.write(window.values.contiguous().numpy().tobytes())
            times.append(window.time)
            shots.append(window.shot)
            duration = window.duration
        self._rows_file.flush()
        entry: dict[str, Any] = {"video": video, "state": _state(video), "first": first, "dimension": self.dimension}
        entry |= {"times": times, "shots": shots, "duration": duration}
        self._take(entry)
        self._put(entry)

    def vectors_of(self, video: str, at_once: int = 1024) -> Iterator[bytes]:
        """Yields the vectors of a video, float32, some rows at a time."""
        rows = self.rows[video]
        with self._vectors.open("rb") as file:
            file.seek(4 * self.dimension * rows.first)
            left = len(rows.times)
            while left:
                yield file.read(4 * self.dimension * min(left, at_once))
                left -= min(left, at_once)

    def forget(self) -> None:
        """Deletes what was kept."""
        super().forget()
        self._vectors.unlink(missing_ok=True)

    @property
    def _next(self) -> int:
        """The row behind the last one; videos are in the order of their rows."""
        last = next(reversed(self.rows.values()), None)
        return last.first + len(last.times) if last else 0

    def _overwritten_by(self, entry: Mapping[str, Any]) -> None:
        """Forgets videos whose rows were given to another while their files were changed or away."""
        while self._next > entry["first"]:
            self.rows.popitem()

    def _take(self, entry: Mapping[str, Any]) -> None:
        self.rows.pop(entry["video"], None)  # its new rows are the last
        self.rows[entry["video"]] = Rows(entry["first"], entry["times"], entry["shots"], entry["duration"])
        self.dimension = entry["dimension"]


def _state(video: str) -> list[int] | None:
    """Returns size and modification time of a file, to detect changes; None for an address."""
    try:
        status = os.stat(video)
    except (OSError, ValueError):
        return None
    return [status.st_size, status.st_mtime_ns]
