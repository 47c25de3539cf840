"""Keeps freed memory for the next tensors, where the C library would give it back to the system each time."""

import ctypes
import sys

# From malloc.h of the GNU C library.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Keeps the memory of freed tensors in the process, for its whole life, so that the next ones are faster.

    By default, the GNU C library returns the memory of a tensor of over 32 MB as soon as it is freed. The next tensor
    then gets new pages, which the system fills with zeros one by one: on CPUs an eighth of a forward pass and a sixth
    of a training step. The process keeps its peak memory until it ends; the peak itself hardly grows. The commands of
    `vov3d` and the trainers in `examples/` call this; importing the package does not.

    Returns:
        Whether the C library took the settings: on Linux with the GNU C library, and nowhere else.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return mallopt is not None and bool(mallopt(_MMAP_THRESHOLD, _LARGEST) and mallopt(_TRIM_THRESHOLD, _LARGEST))
