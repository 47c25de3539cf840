"""Signals that end what runs until it is stopped."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def signals_as_ctrl_c() -> Iterator[None]:
    """Lets a service manager (SIGTERM) or a closed terminal (SIGHUP) end what runs as Ctrl-C does, all tidied up.

    A second signal of the kind ends the process at once. A signal that is ignored, as by `nohup`, or that somebody else
    handles, stays so. Must be used in the main thread.

    Raises:
        KeyboardInterrupt: At the first signal, wherever the main thread is.
    """

    def interrupt(number: int, _: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise KeyboardInterrupt

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]  # Windows: one
    taken = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)
