"""Arguments that several commands take."""

import argparse

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
