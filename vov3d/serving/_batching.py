"""Runs a network on batches of views that come from several requests."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field

import torch

from vov3d.serving._errors import RefusedError

_LOG = logging.getLogger("vov3d.serving")

Run = Callable[[list[torch.Tensor]], torch.Tensor]  # maps uint8 views (T, C, S, S) to float64 rows (B, N)


@dataclass
class Collected:
    """The scores of the views of one video, which arrive in batches.

    Attributes:
        future: Gives the mean of the scores, float32 `(N,)`, when all views have been scored.
        waited: Longest time that a view waited for the network, in seconds.
        took: Time of the batches with views of this video, in seconds.
        largest: Views in the largest of these batches, those of other requests included.
    """

    future: "Future[torch.Tensor]" = field(default_factory=Future)
    waited: float = 0.0
    took: float = 0.0
    largest: int = 0
    _total: torch.Tensor | float = 0.0
    _weight: int = 0
    _arrived: int = 0
    _expected: int | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, row: torch.Tensor, weight: int) -> None:
        """Takes the scores of a view."""
        with self._lock:
            self._total = self._total + weight * row
            self._weight += weight
            self._arrived += 1
        self._finish()

    def expect(self, views: int) -> None:
        """Tells how many views there are, when all have been decoded."""
        with self._lock:
            self._expected = views
        self._finish()

    def fail(self, error: Exception) -> None:
        """Gives up."""
        with suppress(InvalidStateError):
            self.future.set_exception(error)

    def _finish(self) -> None:
        with self._lock:
            if self._arrived != self._expected or self.future.done():
                return
            mean = torch.as_tensor(self._total / self._weight).float()
        with suppress(InvalidStateError):
            self.future.set_result(mean)


@dataclass
class _View:
    pictures: torch.Tensor
    weight: int
    owner: Collected
    arrived: float = field(default_factory=time.monotonic)


class Batcher:
    """Collects views and runs the network on them in a thread of its own.

    A batch starts when it is full, when its first view has waited for `max_wait`, or when no other request could add
    to it.

    Args:
        run: The network.
        max_batch: Views in a batch.
        max_wait: Longest time, in seconds, that a view waits for others.
        others: Returns the number of requests in work.
        done: Called with the size and the seconds of each batch.
    """

    def __init__(
        self,
        run: Run,
        max_batch: int,
        max_wait: float,
        others: Callable[[], int],
        done: Callable[[int, float], None] = lambda size, seconds: None,
    ) -> None:
        self._run_network, self._size, self._wait = run, max_batch, max_wait
        self._others, self._done = others, done
        self._room = 4 * max_batch  # views that may wait; more stay in the decoders
        self._waiting: deque[_View] = deque()
        self._changed = threading.Condition()
        self._open = True
        self._busy_since: float | None = None
        self._thread = threading.Thread(target=self._work, name="vov3d-network", daemon=True)
        self._thread.start()

    def put(self, pictures: torch.Tensor, weight: int, owner: Collected) -> None:
        """Adds a view, uint8 `(T, C, S, S)`; blocks while too many wait.

        Raises:
            RefusedError: If the batcher is closed.
        """
        with self._changed:
            self._changed.wait_for(lambda: len(self._waiting) < self._room or not self._open or owner.future.done())
            if not self._open:
                raise RefusedError(503, "stopping", "the service is stopping: send the request to another")
            if not owner.future.done():
                self._waiting.append(_View(pictures, weight, owner))
                self._changed.notify_all()

    def drop(self, owner: Collected) -> None:
        """Removes the views of a request that was given up."""
        owner.future.cancel()
        with self._changed:
            self._waiting = deque(view for view in self._waiting if view.owner is not owner)
            self._changed.notify_all()

    def fewer_others(self) -> None:
        """Tells that a request has ended, so that no view waits for it."""
        with self._changed:
            self._changed.notify_all()

    def waiting(self) -> int:
        """Returns the number of views that wait."""
        return len(self._waiting)

    def busy(self) -> float:
        """Returns for how many seconds the present batch has been running; 0 between batches."""
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    def alive(self) -> bool:
        """Returns whether the thread of the network runs."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Ends the thread after its present batch; views that wait are refused."""
        with self._changed:
            self._open = False
            for view in self._waiting:
                view.owner.fail(RefusedError(503, "stopping", "the service is stopping: send the request to another"))
            self._waiting.clear()
            self._changed.notify_all()
        self._thread.join(5)

    def _work(self) -> None:
        while batch := self._next():
            self._busy_since = begun = time.monotonic()
            rows: torch.Tensor | Exception
            try:
                rows = self._run_network([view.pictures for view in batch])
                if not bool(torch.isfinite(rows).all()):
                    rows = RefusedError(500, "model_failed", "the model gave scores that are no numbers")
            except Exception as error:
                _LOG.exception("the model failed on a batch of %d views", len(batch))
                rows = RefusedError(500, "model_failed", f"the model failed ({type(error).__name__}): try again later")
            seconds, self._busy_since = time.monotonic() - begun, None
            self._done(len(batch), seconds)
            _share_out(batch, rows, begun, seconds)

    def _next(self) -> list[_View]:
        """Returns the next batch; an empty one when the batcher is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or not self._open)
            while self._open and self._waiting and len(self._waiting) < self._size:
                left = self._waiting[0].arrived + self._wait - time.monotonic()
                owners = {id(view.owner) for view in self._waiting}
                if left <= 0 or self._others() <= len(owners):
                    break
                self._changed.wait(left)
            batch = [self._waiting.popleft() for _ in range(min(self._size, len(self._waiting)))]
            self._changed.notify_all()
            if not batch and self._open:  # all were given up meanwhile
                return self._next()
            return batch


def _share_out(batch: list[_View], rows: torch.Tensor | Exception, begun: float, seconds: float) -> None:
    """Gives the rows of a batch, or its error, to the requests."""
    for owner in {id(view.owner): view.owner for view in batch}.values():
        owner.took += seconds
        owner.largest = max(owner.largest, len(batch))
        owner.waited = max(owner.waited, *(begun - view.arrived for view in batch if view.owner is owner), 0.0)
    for number, view in enumerate(batch):
        if isinstance(rows, Exception):
            view.owner.fail(rows)
        else:
            view.owner.add(rows[number], view.weight)
