"""`python -m vov3d`, and what the command `vov3d` runs: the command line, which Ctrl-C ends with one line.

This file imports next to nothing, so that Ctrl-C is taken care of from the first moment.
"""

from __future__ import annotations

import os
import signal
import sys


def run() -> int:
    """Runs the command line; returns its exit code, 130 after Ctrl-C."""
    # While modules load there is nothing to clean up, and some turn KeyboardInterrupt into other errors.
    signal.signal(signal.SIGINT, _leave)
    from vov3d.cli import main

    try:
        return main(begin=lambda: signal.signal(signal.SIGINT, _interrupt))
    finally:
        signal.signal(signal.SIGINT, _leave)


def _leave(*_: object) -> None:
    """Ends the process at once."""
    os.write(sys.stderr.fileno(), b"vov3d: interrupted\n")
    os._exit(130)


def _interrupt(*_: object) -> None:
    """Lets the command clean up; a second Ctrl-C does not wait for that."""
    signal.signal(signal.SIGINT, _leave)
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(run())
