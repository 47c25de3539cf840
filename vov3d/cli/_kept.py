"""Stores vectors of videos beside the output file until it is complete."""

import base64
import json
import os
from collections.abc import Mapping
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
        if not self.vectors:
            self.forget()

    def __str__(self) -> str:
        """Returns the note about stored vectors for an error that ends the command."""
        if not self.vectors:
            return ""
        done = "1 vector is" if len(self.vectors) == 1 else f"{len(self.vectors)} vectors are"
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
    """Returns size and modification time of a file, to detect changes; None for an address."""
    try:
        status = os.stat(video)
    except (OSError, ValueError):
        return None
    return [status.st_size, status.st_mtime_ns]
