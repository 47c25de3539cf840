"""SIGINT and SIGTERM: a run that is told to stop does so at a place from which it can go on."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):
    """A run was told to stop.

    Attributes:
        number: The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


class Stop:
    """Takes SIGINT and SIGTERM.

    The first signal is noted in `number` where the run has said, by `armed`, that it looks at it; elsewhere, and at
    the second, `Stopped` is raised at once.

    Attributes:
        armed: Whether a signal is noted rather than raised.
        number: The signal that came, 0 for none.
    """

    def __init__(self) -> None:
        self.armed, self.number = False, 0

    @contextmanager
    def watching(self) -> Iterator["Stop"]:
        """Takes the signals within it."""
        here = SIGNALS if threading.current_thread() is threading.main_thread() else ()
        former = {number: signal.signal(number, self._take) for number in here}
        try:
            yield self
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)

    def _take(self, number: int, _: FrameType | None) -> None:
        if self.number or not self.armed:
            raise Stopped(number)
        self.number = number
        # os.write, as the signal may have come in the middle of a print
        os.write(2, b"stopping after this update, with a checkpoint; once more stops at once\n")


def ignore_signals(_: int = 0) -> None:
    """For processes that read videos: signals to the whole group are answered by the main process, which ends them."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def say_stopped(program: str, stopped: Stopped, how: str) -> int:
    """Says on one line what was saved and how to go on; returns the exit status of a program that the signal ended."""
    if int(os.environ.get("RANK", "0")) == 0:
        print(f"{program}: {stopped}; {how}", file=sys.stderr)
    return 128 + stopped.number
