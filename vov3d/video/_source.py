"""What a caller may give as a video, told apart without opening anything."""

import os
import re
from dataclasses import dataclass

import numpy as np
import torch

Source = str | os.PathLike[str] | bytes | np.ndarray | torch.Tensor
"""A video file, a folder of frames, an http(s) address, a file's bytes, or uint8 frames in an array."""


@dataclass(frozen=True)
class Media:
    """A video file as decoders read it.

    Attributes:
        name: what errors call it.
        path: the file on disk; absolute, so that no decoder takes it for an address.
        data: the file's content, where it is in memory.
        own: whether it is the caller's own file, which may refer to others beside it, as playlists do.
    """

    name: str
    path: str | None = None
    data: bytes | None = None
    own: bool = True


def is_address(source: object) -> bool:
    """Whether a source is to be fetched from the network: only strings that say so are, never a path object."""
    return isinstance(source, str) and re.match("https?://", source, re.IGNORECASE) is not None


def is_folder(source: object) -> bool:
    """Whether a source is a folder on disk."""
    try:
        return isinstance(source, (str, os.PathLike)) and os.path.isdir(source)
    except ValueError:  # a NUL byte in the name
        return False


def is_file(source: object) -> bool:
    """Whether a source is a video file: on disk, in memory or at an address."""
    return isinstance(source, (str, os.PathLike, bytes)) and (is_address(source) or not is_folder(source))


def source_name(source: object) -> str:
    """What errors and pictures call a source."""
    if isinstance(source, bytes):
        return f"<{len(source)} bytes>"
    if isinstance(source, (np.ndarray, torch.Tensor)):
        return f"<frames {'x'.join(map(str, source.shape))}>"
    return os.fspath(source) if isinstance(source, (str, os.PathLike)) else f"<{type(source).__name__}>"


def media_of(source: str | os.PathLike[str] | bytes) -> Media:
    """The file behind a path or bytes."""
    name = source_name(source)
    if isinstance(source, bytes):
        return Media(name, data=source, own=False)
    return Media(name, path=os.path.abspath(os.fspath(source)))
