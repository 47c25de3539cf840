"""Processes that read videos: each notes its current file, so that the error of a dead one names it."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch.utils.data import get_worker_info

HOW_TO_GO_ON = "give fewer workers if memory ran out; else check the files with examples/reference/check_data.py"


class WorkerError(RuntimeError):
    """An error for a killed process that read videos."""


class Places:
    """Items that the workers of a loader read, in shared memory.

    Args:
        workers: Processes; none for 0.
    """

    def __init__(self, workers: int) -> None:
        self._rows = torch.full((max(workers, 1), 2), -1, dtype=torch.int64).share_memory_()

    def note(self, index: int) -> None:
        """Notes that this process begins to read an item."""
        if info := get_worker_info():
            self._rows[info.id, 0], self._rows[info.id, 1] = os.getpid(), index

    def read_by(self, process: int) -> int | None:
        """Returns the item that a process read last."""
        found = {int(pid): int(index) for pid, index in self._rows}
        return found.get(process)


@contextmanager
def naming(places: Places, name_of: Callable[[int], str]) -> Iterator[None]:
    """Turns the death of a worker within the context into one error that names the file.

    Args:
        places: Of the loader that is read.
        name_of: The file of an item.

    Raises:
        WorkerError: If a worker died.
    """
    try:
        yield
    except RuntimeError as error:
        # torch's own text: "DataLoader worker (pid 12) is killed by signal: Killed." or "(pid(s) 12, 13) exited ..."
        match = re.search(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\)(.*)", str(error))
        if match is None:
            raise
        items = [places.read_by(int(pid)) for pid in match[1].split(",")]
        files = ", ".join(name_of(item) for item in items if item is not None and item >= 0)
        how = match[2].strip().rstrip(".") or "exited"
        raise WorkerError(
            f"a process that reads videos {how}" + (f", at {files}" if files else "") + f": {HOW_TO_GO_ON}"
        ) from error
