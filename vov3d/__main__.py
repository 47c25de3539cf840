"""`python -m vov3d` and the command `vov3d`: the command line, which Ctrl-C ends with one line.

This file imports very little, so that Ctrl-C is handled from the start.
"""

from __future__ import annotations

import gc
import os
import signal
import sys


def run() -> int:
    """Runs the command line; returns its exit code, 130 after Ctrl-C."""
    # During imports there is nothing to clean up, and some modules turn KeyboardInterrupt into other errors.
    signal.signal(signal.SIGINT, _leave)
    gc.disable()  # a million objects of imports stay: searching them took an eighth of a short command
    _stand_in()
    from vov3d.cli import main
    from vov3d.memory import keep_freed_memory

    keep_freed_memory()
    try:
        return main(begin=_begin)
    finally:
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # `vov3d serve` has answered everything
            signal.signal(signal.SIGINT, _leave)


def _begin() -> None:
    gc.freeze()
    gc.enable()
    signal.signal(signal.SIGINT, _interrupt)


def _stand_in() -> None:
    """Opens the null device in place of outputs that the caller closed, before any file can take their numbers."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 (for the rest of the process)


def _leave(*_: object) -> None:
    """Ends the process at once."""
    os.write(sys.stderr.fileno(), b"vov3d: interrupted\n")
    os._exit(130)


def _interrupt(*_: object) -> None:
    """Lets the command clean up; a second Ctrl-C ends the process at once."""
    signal.signal(signal.SIGINT, _leave)
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(run())
