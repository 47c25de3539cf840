"""What a file format needs, takes and promises, and what it is given to write."""

from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from vov3d.extras import install

Run = Callable[..., list[torch.Tensor]]
"""A float32 clip on the CPU, or a frame and a state, to the outputs in order."""

BOUNDS = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 5e-2, "int8": 0.2}
"""Largest difference from the source that each may make, as a part of the largest output.

That of int8 was set by what made-up weights gave; trained ones were not at hand.
"""


class Job(NamedTuple):
    """What a format writes.

    Attributes:
        graph: The network in eval mode on the CPU.
        metadata: Strings that go into the file.
        in_chans: Channels of the clip.
        clip: Frames, height and width for which a file with fixed sizes is made.
        dtype: One of the format's.
        calibration: Clips `(B, C, T, H, W)` that int8 takes its ranges from.
    """

    graph: nn.Module
    metadata: dict[str, str]
    in_chans: int
    clip: tuple[int, int, int]
    dtype: str
    calibration: Iterable[torch.Tensor] | None


class Format(NamedTuple):
    """A file format, known by its extension.

    Attributes:
        title: Its name.
        backend: Module with `write(job, path)` and `read(path)`, which imports what it needs when it is called.
        dtypes: What it holds.
        reads: Packages that loading needs.
        writes: Packages that writing needs besides.
        extra: Extra that installs them.
        fixed: Whether a file takes clips of one size only.
        files: Endings of all files that make one, in the order in which they are put in place.
    """

    title: str
    backend: Any
    dtypes: tuple[str, ...]
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    extra: str = "deploy"
    fixed: bool = False
    files: tuple[str, ...] = ()


def require(path: Path, packages: Iterable[str], extra: str) -> None:
    """Makes sure that the packages for a file can be imported.

    Args:
        path: The file, for the message.
        packages: Their names.
        extra: The extra that installs them.

    Raises:
        ImportError: If one is missing; with the command that helps.
    """
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise ImportError(f"{path.name} needs {', '.join(missing)}: {install(extra)}")
