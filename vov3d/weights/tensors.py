"""Tensors of a file before their values are read: type, shape, and place of the values."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import prod
from typing import Any

import torch

ReadStorage = Callable[[str], bytes]
"""Reads the bytes of a storage by its key."""

Opener = Callable[[], AbstractContextManager[ReadStorage]]
"""Opens a file to read the values of its tensors."""


class FileError(Exception):
    """A problem of a file, as text that follows its name in a message."""


class DamagedError(FileError):
    """Bytes are missing or make no sense."""

    def __init__(self, cause: str = "") -> None:
        super().__init__(f"is truncated, damaged or not a PyTorch file{cause and f' ({cause})'}; download it again")


@dataclass(frozen=True)
class Described:
    """A tensor as a file describes it.

    Attributes:
        dtype: Type of its elements.
        shape: Its shape.
        key: Its storage in the file.
        stride: Distance of neighbours in each dimension, in elements.
        offset: Its first element in the storage.
        kind: `"strided"`, or another layout, which cannot be read.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    key: str = ""
    stride: tuple[int, ...] = ()
    offset: int = 0
    kind: str = "strided"

    @property
    def nbytes(self) -> int:
        """Size of its elements in memory, in bytes."""
        return prod(self.shape) * self.dtype.itemsize


def described(dtype: torch.dtype, shape: Any, key: str, stride: Any, offset: Any, size: int) -> Described:
    """Checks and describes a strided tensor.

    Raises:
        DamagedError: If it exceeds its storage of `size` elements.
    """
    numbers = (*shape, *stride, offset)
    if len(shape) != len(stride) or not all(type(n) is int and n >= 0 for n in numbers):
        raise DamagedError("a tensor has no valid shape")
    last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    if 0 not in shape and last >= size:
        raise DamagedError("a tensor exceeds its storage")
    return Described(dtype, tuple(shape), key, tuple(stride), offset)


def read_tensors(wanted: Mapping[str, Described], opener: Opener) -> dict[str, torch.Tensor]:
    """Reads the values of tensors; a storage that several tensors share is read once.

    Raises:
        Exception: Any error of the file's reader.
    """
    storages: dict[str, bytearray] = {}
    found = {}
    with opener() as read:
        for name, one in wanted.items():
            if one.key not in storages:
                storages[one.key] = bytearray(read(one.key))
            found[name] = _build(one, storages[one.key])
    return found


def _build(one: Described, data: bytearray) -> torch.Tensor:
    if 0 in one.shape:
        return torch.empty(one.shape, dtype=one.dtype)
    tensor = torch.frombuffer(data, dtype=one.dtype).as_strided(one.shape, one.stride, one.offset)
    return tensor if one.nbytes == len(data) else tensor.clone()


def meta(tensors: Mapping[str, Described]) -> dict[str, torch.Tensor]:
    """Returns tensors of the same types and shapes without values."""
    return {name: torch.empty(one.shape, dtype=one.dtype, device="meta") for name, one in tensors.items()}


def total_bytes(tensors: Iterable[Described]) -> int:
    """Returns the size of all tensors in memory, in bytes."""
    return sum(one.nbytes for one in tensors)
