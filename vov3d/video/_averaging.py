"""Runs a network on the views of a video in batches and averages the outputs."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from vov3d.video._loading import Loaded


class ViewAverage:
    """Collects the views of one video in batches and averages the network's outputs.

    Args:
        run: maps uint8 crops `(T, C, S, S)` to float64 rows `(B, N)`.
        size: crops in a batch.
        views: number of views of the video.
        progress: whether to show a bar.
    """

    def __init__(
        self, run: Callable[[list[torch.Tensor]], torch.Tensor], size: int, views: int, progress: bool
    ) -> None:
        self._run_network, self._size = run, size
        self._waiting: list[tuple[torch.Tensor, int]] = []
        self._total: torch.Tensor | float = 0.0
        self._weight = 0
        self._bar = _bar(views) if progress else None

    def add(self, clip: Loaded) -> None:
        """Takes the views of a clip; runs the network when a batch is full."""
        for crop in clip.crops:
            self._waiting.append((crop, clip.weight))
            if len(self._waiting) == self._size:
                self._run()

    def finished(self) -> torch.Tensor:
        """Returns the mean over all views, float32 `(N,)`."""
        if self._waiting:
            self._run()
        if self._bar is not None:
            self._bar.close()
        return torch.as_tensor(self._total / self._weight).float()

    def _run(self) -> None:
        crops, weights = zip(*self._waiting, strict=True)
        self._total = self._total + torch.tensor(weights, dtype=torch.float64) @ self._run_network(list(crops))
        self._weight += sum(weights)
        self._waiting = []
        if self._bar is not None:
            self._bar.update(len(crops))


def _bar(views: int) -> Any:
    """Returns a progress bar on stderr, shown only on a terminal and after a second."""
    from tqdm import tqdm

    return tqdm(total=views, desc="views", unit="view", delay=1, leave=False, file=sys.stderr, disable=None)


# A view needs at most this many times the bytes of its input; 9 to 20 were measured on vov3d_m, vov3d_l and x3d_xs.
_PEAK = 24
_SHARE = 0.5  # of the free memory that views may take
_MOST = {"cpu": 2}  # more do not fit in a processor's cache: VoV3D-M takes 0.44 s a view in twos, 0.51 s in fours
_MOST_ELSEWHERE = 64
_UNKNOWN = 4 << 30  # bytes, assumed where the system reports nothing


def views_at_once(view_bytes: int, device: torch.device) -> int:
    """Returns how many views one pass of a network takes: those that fit in half of the free memory, from 1 to a limit.

    Args:
        view_bytes: bytes of one view as the network takes it.
        device: where it runs.
    """
    fit = int(_SHARE * free_bytes(device)) // (_PEAK * view_bytes)
    return max(1, min(fit, _MOST.get(device.type, _MOST_ELSEWHERE)))


def free_bytes(device: torch.device) -> int:
    """Returns the free memory of a device, in bytes."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # torch's own, unused
        return torch.cuda.mem_get_info(device)[0] + kept
    return min(_free_in_system(), _free_in_group())


def _free_in_system() -> int:
    """Returns the bytes that the operating system reports as available."""
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, OSError, ValueError):
        return _UNKNOWN


def _free_in_group() -> int:
    """Returns the bytes left under a container's memory limit; more than any system has where there is no limit."""
    try:
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text())
        return max(limit - int((group / "memory.current").read_text()), 0)
    except (OSError, ValueError):
        return 1 << 62
