"""The description of a file format, the job it is given to write, and its packages."""

import logging
import sys
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from vov3d.extras import install

Run = Callable[..., list[torch.Tensor]]
"""Maps a float32 clip on the CPU, or a frame and a state, to the outputs in order."""

BOUNDS = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 5e-2, "int8": 0.2}
"""Largest allowed difference from the source by precision, relative to the largest output.

That of int8 was set by random weights; no trained ones were available.
"""


FORMS = ("conv3d", "conv2d")
"""Forms of a network: as it is, for clips of any size, or with 2D convolutions only, for clips of one size."""


class Job(NamedTuple):
    """A model and its settings for a format to write.

    Attributes:
        graph: The network in eval mode on the CPU.
        metadata: Strings that go into the file.
        in_chans: Channels of the clip.
        clip: Frames, height and width of a file with fixed sizes.
        dtype: A precision that the format supports.
        calibration: Clips `(B, C, T, H, W)` from which the ranges of int8 are computed.
        opset: Version of ONNX's operators.
    """

    graph: nn.Module
    metadata: dict[str, str]
    in_chans: int
    clip: tuple[int, int, int]
    dtype: str
    calibration: Iterable[torch.Tensor] | None
    opset: int | None = None


class Format(NamedTuple):
    """A file format.

    Attributes:
        title: Its name.
        backend: Module with `write(job, path)` and `read(path)`; these import their packages when they are called.
        dtypes: Precisions that it supports.
        reads: Packages that loading needs.
        writes: Packages that writing needs in addition.
        extra: Extra that installs them.
        forms: Forms of the network that it supports, the usual one first.
        files: Extensions of all files of one model, in the order in which they are put in place.
    """

    title: str
    backend: Any
    dtypes: tuple[str, ...]
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    extra: str = "deploy"
    forms: tuple[str, ...] = FORMS
    files: tuple[str, ...] = ()


def require(path: Path, packages: Iterable[str], extra: str) -> None:
    """Checks that the packages for a file can be imported.

    Args:
        path: The file, for the message.
        packages: Their names.
        extra: The extra that installs them.

    Raises:
        ImportError: If one is missing; with the command that installs it.
    """
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise ImportError(f"{path.name} needs {', '.join(missing)}: {install(extra)}")


def quantized(network: Any, calibration: Iterable[torch.Tensor], given: Callable[[torch.Tensor], Any]) -> Any:
    """Quantizes a network of OpenVINO or ONNX to int8.

    Args:
        network: The network.
        calibration: Clips from which the ranges are computed.
        given: Turns a clip into what the network takes.
    """
    import nncf

    logging.getLogger("nncf").setLevel(logging.ERROR)
    # symmetric ranges for weights, asymmetric ones for SiLU, which is not symmetric
    with redirect_stdout(sys.stderr):  # nncf prints its progress
        return nncf.quantize(network, nncf.Dataset(calibration, given), preset=nncf.QuantizationPreset.MIXED)
