"""Arguments and messages that several commands share."""

import argparse
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from vov3d.files import check_not_source, check_writable


def positive(text: str) -> int:
    """Parses a whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, got {text!r}")
    return int(text)


def span(text: str) -> float:
    """Reads a time in seconds, above 0: `0.5`, `0.5s` or `500ms`."""
    found = re.fullmatch(r"(\d+\.?\d*|\.\d+)\s*(ms|s)?", text.strip())
    value = float(found[1]) / (1000 if found[2] == "ms" else 1) if found else 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a time above 0 such as 0.5s, 0.5 or 500ms, got {text!r}")
    return value


def shard(text: str) -> tuple[int, int]:
    """Parses `I/N`, the I-th of N shares, from 1: `3/64`."""
    found = re.fullmatch(r"([1-9]\d{0,8})/([1-9]\d{0,8})", text)
    if not found or int(found[1]) > int(found[2]):
        raise argparse.ArgumentTypeError(f"must be I/N with I from 1 to N, such as 3/64, got {text!r}")
    return int(found[1]), int(found[2])


def device(name: str) -> torch.device:
    """Returns a device, after checking that it can be used here.

    Raises:
        ValueError: If it cannot.
    """
    try:
        found = torch.empty(1, device=name)
        found.cpu()  # not from the meta device
        return found.device
    except (AssertionError, RuntimeError) as e:
        raise ValueError(f"--device {name} cannot be used here: {str(e).splitlines()[0]}") from e


@contextmanager
def show_warnings(command: str, before: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Prints each RuntimeWarning as one line on stderr, like an error of the command; calls `before` first."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        before()
        print(f"vov3d {command}: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("always", RuntimeWarning)
        warnings.showwarning = show
        yield


def check_output(path: str | os.PathLike[str], *sources: str) -> None:
    """Checks that a file can be written, before anything is computed.

    Args:
        path: The file.
        sources: Videos that are read.

    Raises:
        ValueError: If it is a folder, or one of the videos.
        FileNotFoundError: If its folder does not exist.
        PermissionError: If its folder is not writable.
    """
    path = Path(path)
    folder = path.absolute().parent
    if not folder.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {folder}; make it first")
    if path.is_dir():
        raise ValueError(f"{path}: is a folder; name a file")
    check_writable(folder, path)
    check_not_source(path, *sources)


class Progress:
    """Progress over many files on stderr: files done and time left.

    On a terminal it is one line that is overwritten; elsewhere a line twice a minute. Nothing is shown for one file.
    """

    _EVERY = 30.0  # seconds

    def __init__(self, command: str, total: int) -> None:
        self._command, self._total, self._done = command, total, 0
        self._begin = self._told = time.monotonic()
        self._terminal, self._within = sys.stderr.isatty(), False

    def clear(self) -> None:
        """Makes room for what is printed next."""
        if self._terminal and (self._total > 1 or self._within):
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def within(self, name: str, done: float, total: float) -> None:
        """Tells how many seconds of one long file are done: twice a minute, on a terminal every second."""
        now = time.monotonic()
        if now - self._told < (1.0 if self._terminal else self._EVERY):
            return
        self._told, self._within = now, True
        text = f"vov3d {self._command}: {name}, {_duration(done)} of {_duration(total)}"
        print(
            f"\r\x1b[K{text}" if self._terminal else text,
            end="" if self._terminal else "\n",
            file=sys.stderr,
            flush=True,
        )

    def step(self) -> None:
        """Counts a file as done and shows the progress."""
        self._done += 1
        now = time.monotonic()
        if self._total < 2:
            return
        text = f"vov3d {self._command}: {self._done}/{self._total}"
        if self._done < self._total:
            text += f", {_duration((now - self._begin) / self._done * (self._total - self._done))} left"
        if self._terminal:
            end = "" if self._done < self._total else "\r\x1b[K"
            print(f"\r\x1b[K{text}", end=end, file=sys.stderr, flush=True)
        elif now - self._told >= self._EVERY:
            self._told = now
            print(text, file=sys.stderr, flush=True)


def _duration(seconds: float) -> str:
    """Returns a duration in a readable unit."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def say_what_it_knows(command: str, model: Any, option: str = "--model ") -> None:
    """Prints one line on stderr if a model was trained on generated clips only, as the packaged one."""
    if getattr(model, "pretrained_cfg", {}).get("label_set") == "shapes":
        print(
            f"vov3d {command}: this model knows only 20 motions of generated shapes ('vov3d demo'); for human"
            f" actions use {option}vov3d_m (Kinetics-400) or {option}vov3d_m.ssv2_f16 (Something-Something)",
            file=sys.stderr,
        )
