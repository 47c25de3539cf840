"""Vectors that were computed already, kept beside the file to be written until it is there."""

import base64
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch


class Kept:
    """Vectors of an unfinished file, each written down when it is there, so that the next call goes on.

    A line of `.OUT.part` is a video with its size and time of change, and its vector; the first line says how the
    vectors were made.

    Attributes:
        vectors: float32 `(D,)` of each video that is done and has not changed since.
    """

    def __init__(self, output: Path, about: Mapping[str, Any]) -> None:
        """Reads what an earlier call kept.

        Raises:
            ValueError: If that was made in another way.
        """
        self.vectors: dict[str, torch.Tensor] = {}
        self._path = output.with_name(f".{output.name}.part")
        self._about = dict(about)
        whole = self._read() if self._path.exists() else 0
        self._file = self._path.open("r+b" if whole else "wb")
        if whole:
            self._file.truncate(whole)  # a line that a kill left half-written
            self._file.seek(whole)
        else:
            self._put(self._about)

    def __enter__(self) -> "Kept":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if not self.vectors:
            self.forget()

    def __str__(self) -> str:
        """What is said of it when a video ends the command."""
        if not self.vectors:
            return ""
        done = "1 vector is" if len(self.vectors) == 1 else f"{len(self.vectors)} vectors are"
        return f"; {done} kept in {self._path}: mend or leave out the video, and the same command goes on"

    def add(self, video: str, vector: torch.Tensor) -> None:
        """Writes the vector of a video down."""
        self.vectors[video] = vector
        content = base64.b64encode(vector.float().contiguous().numpy().tobytes()).decode()
        self._put({"video": video, "state": _state(video), "vector": content})

    def forget(self) -> None:
        """Deletes what was kept."""
        self._path.unlink(missing_ok=True)

    def _put(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()

    def _read(self) -> int:
        """Takes the vectors that are there; bytes up to the end of the last whole line."""
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
                if entry["state"] == _state(entry["video"]):
                    vector = bytearray(base64.b64decode(entry["vector"]))
                    self.vectors[entry["video"]] = torch.frombuffer(vector, dtype=torch.float32)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{self._path}: is damaged ({error}); delete it") from error
        return whole

    def _check(self, head: Mapping[str, Any]) -> None:
        other = [key for key, value in self._about.items() if head.get(key) != value]
        if other:
            names = " and ".join("weights" if key == "digest" else key for key in other)
            raise ValueError(
                f"{self._path}: holds vectors of an unfinished call with other {names}; delete it, or write to another "
                "file"
            )


def _state(video: str) -> list[int] | None:
    """Size and time of change of a file, by which a replaced one is known; None for an address."""
    try:
        status = os.stat(video)
    except (OSError, ValueError):
        return None
    return [status.st_size, status.st_mtime_ns]
