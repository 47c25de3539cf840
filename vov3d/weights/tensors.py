"""Tensors of a file before their values are read: type, shape, and where the numbers are."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import prod
from typing import Any

import torch

ReadStorage = Callable[[str], bytes]
"""Bytes of a storage by its key."""

Opener = Callable[[], AbstractContextManager[ReadStorage]]
"""Opens the file that describes tensors for reading their numbers."""


class FileError(Exception):
    """What is wrong with a file, to be said behind its name."""


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
        kind: `"strided"`, or what other layout it has, which cannot be read.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    key: str = ""
    stride: tuple[int, ...] = ()
    offset: int = 0
    kind: str = "strided"

    @property
    def nbytes(self) -> int:
        """What its elements take in memory."""
        return prod(self.shape) * self.dtype.itemsize


def described(dtype: torch.dtype, shape: Any, key: str, stride: Any, offset: Any, size: int) -> Described:
    """A strided tensor.

    Raises:
        DamagedError: If it does not lie in its storage of `size` elements.
    """
    numbers = (*shape, *stride, offset)
    if len(shape) != len(stride) or not all(type(n) is int and n >= 0 for n in numbers):
        raise DamagedError("a tensor has no proper shape")
    last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    if 0 not in shape and last >= size:
        raise DamagedError("a tensor lies outside of its storage")
    return Described(dtype, tuple(shape), key, tuple(stride), offset)


def read_tensors(wanted: Mapping[str, Described], opener: Opener) -> dict[str, torch.Tensor]:
    """Reads the numbers; tensors that share a storage in the file are read from it once.

    Raises:
        Exception: Whatever the file's reader finds.
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
    """The same types and shapes without values."""
    return {name: torch.empty(one.shape, dtype=one.dtype, device="meta") for name, one in tensors.items()}


def total_bytes(tensors: Iterable[Described]) -> int:
    """What all of them take in memory."""
    return sum(one.nbytes for one in tensors)
