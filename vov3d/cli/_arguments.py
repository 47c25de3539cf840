"""What several commands take and tell."""

import argparse
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def positive(text: str) -> int:
    """A whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, got {text!r}")
    return int(text)


def device(name: str) -> torch.device:
    """A device that can be used here.

    Raises:
        ValueError: If it cannot.
    """
    try:
        return torch.empty(0, device=name).device
    except (AssertionError, RuntimeError) as e:
        raise ValueError(f"--device {name} cannot be used here: {str(e).splitlines()[0]}") from e


@contextmanager
def show_warnings(command: str) -> Iterator[None]:
    """Within it, a RuntimeWarning is one line on stderr, as an error of the command is."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        print(f"vov3d {command}: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("always", RuntimeWarning)
        warnings.showwarning = show
        yield


def say_what_it_knows(command: str, model: Any) -> None:
    """One line on stderr where a model knows nothing but generated clips, as the one in the package."""
    if getattr(model, "pretrained_cfg", {}).get("label_set") == "shapes":
        print(
            f"vov3d {command}: this model knows 20 motions of generated shapes ('vov3d demo') and nothing else; for"
            " what people do take --model vov3d_m (Kinetics-400) or --model vov3d_m.ssv2_f16 (Something-Something)",
            file=sys.stderr,
        )
