"""The mean over the views of a video of what a network gives, in batches."""

import sys
from collections.abc import Callable
from typing import Any

import torch

from vov3d.video._loading import Loaded


class Mean:
    """Collects the views of one video in batches and averages what the network gives for them.

    Args:
        run: uint8 crops `(T, C, S, S)` to float64 rows `(B, N)`.
        size: how many crops go into it at once.
        views: how many will come.
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
        """The mean over all views, float32 `(N,)`."""
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
    """A progress bar on stderr, shown only on a terminal and after a second."""
    from tqdm import tqdm

    return tqdm(total=views, desc="views", unit="view", delay=1, leave=False, file=sys.stderr, disable=None)
