"""Work in a thread beside the caller's."""

import queue
import threading
from collections.abc import Generator, Iterable
from typing import Any, TypeVar

T = TypeVar("T")
_END = object()


def prefetched(items: Iterable[T], ahead: int) -> Generator[T, None, None]:
    """Runs an iterable in a thread of its own, some items ahead.

    Args:
        items: what is run; its errors are raised here, behind the items before them.
        ahead: items that may wait.

    Yields:
        The items. When the caller stops early, the thread ends at its next item.
    """
    waiting: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(max(ahead, 1))
    stopped = threading.Event()

    def work() -> None:
        error: BaseException | None = None
        try:
            for item in items:
                waiting.put((item, None))
                if stopped.is_set():
                    return
        except BaseException as e:
            error = e
        waiting.put((_END, error))

    thread = threading.Thread(target=work, name="vov3d-decode", daemon=True)
    thread.start()
    try:
        while True:
            item, error = waiting.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
    finally:
        stopped.set()
        while thread.is_alive():  # it may be waiting for room
            _emptied(waiting)
            thread.join(0.01)


def _emptied(waiting: queue.Queue) -> None:
    """Takes out what waits."""
    while True:
        try:
            waiting.get_nowait()
        except queue.Empty:
            return
