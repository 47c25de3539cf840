"""Handles SIGINT and SIGTERM so that a run stops where it can be resumed."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from vov3d.cli import print_any_name

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):
    """An exception for a run that was stopped by a signal.

    Attributes:
        number: The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


class Stop:
    """A handler of SIGINT and SIGTERM.

    While it is `armed`, the first signal is only noted in `number`, which the run looks at. At any other time, and at
    the second signal, `Stopped` is raised at once.

    Attributes:
        armed: True while a signal is noted rather than raised.
        number: The signal that came, 0 for none.
    """

    def __init__(self) -> None:
        self.armed, self.number = False, 0

    @contextmanager
    def watching(self) -> Iterator["Stop"]:
        """Handles the signals within the context."""
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
    """Makes a reader process ignore signals; the main process handles them and ends it."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def follow_main() -> None:
    """Makes a process of a pool ignore Ctrl-C, which the main process handles, and end when that was killed.

    Else it would wait for work for ever. It does not ignore SIGTERM: a broken pool ends its processes by it and waits
    for them.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    main = multiprocessing.parent_process()
    if main is not None:
        threading.Thread(target=_end_after, args=(main,), daemon=True).start()


def _end_after(main: Any) -> None:
    main.join()
    os._exit(1)


def say_stopped(program: str, stopped: Stopped, how: str) -> int:
    """Prints in one line what was saved and how to resume; returns the exit status of the signal."""
    if int(os.environ.get("RANK", "0")) == 0:
        print(f"{program}: {stopped}; {how}", file=sys.stderr)
    return 128 + stopped.number


def run_resumable(program: str, call: Callable[[], int]) -> int:
    """Runs a command that the same words continue after a signal; prints an error in one line.

    Args:
        program: Name in messages.
        call: The command; returns the exit status.

    Returns:
        The exit status: 1 after an error, 128 and its number after a signal.
    """
    print_any_name()
    try:
        with Stop().watching():
            return call()
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1
    except Stopped as stopped:
        return say_stopped(program, stopped, "the same command continues from here")
