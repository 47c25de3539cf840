"""Checkpoints, written whole or not at all, and the state of all random numbers."""

import os
import random
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from vov3d.files import replacing


def save_atomically(content: Any, path: Path, former: Path | None = None) -> None:
    """Writes a file and puts it in place once it is on the disk.

    Args:
        content: Any content of `torch.save`.
        path: The file.
        former: New name of the file that is there; it is replaced if None.

    Raises:
        OSError: If it cannot be written, as on a full disk; the former file is still there.
    """
    try:
        with replacing(path) as draft:
            with draft.open("wb") as file:
                torch.save(content, file)
                file.flush()
                os.fsync(file.fileno())
            if former is not None and path.exists():  # not before the new one is on the disk
                os.replace(path, former)
    except (OSError, RuntimeError) as error:  # torch turns what writing raises into a RuntimeError
        cause = error if isinstance(error, OSError) else error.__context__ or error
        there = [str(file) for file in (path, former) if file is not None and file.exists()]
        kept = f"the former one is still there ({there[0]})" if there else "there is none"
        raise OSError(f"{path}: the checkpoint cannot be written ({cause}); {kept}") from error


def load_checkpoint(path: Path, needed: Sequence[str] = ()) -> dict[str, Any]:
    """Reads a checkpoint without running code of it.

    Args:
        path: The file.
        needed: What it must hold.

    Raises:
        OSError: If it is not there, damaged, or of something else.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch.load does not look at checksums
        if damaged is None:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # of many kinds, from zipfile and from unpickling
        raise OSError(f"{path}: cannot be read as a checkpoint ({error})") from error
    if damaged is not None:
        raise OSError(f"{path}: is damaged, the checksum of {damaged} is wrong")
    lacking = [key for key in needed if not isinstance(content, dict) or key not in content]
    if lacking:
        raise OSError(
            f"{path}: is no checkpoint of this trainer, it lacks {', '.join(lacking)}; move it away, or give another "
            "--output"
        )
    return content


def not_finite(model: nn.Module) -> str | None:
    """Returns the name of the first tensor of a network that holds NaN or infinity; None where all are finite."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            return name
    return None


def random_state() -> dict[str, Any]:
    """Returns the state of the random numbers of torch, numpy and Python, in plain types."""
    legacy: Any = np.random.get_state()
    kind, keys, *rest = legacy
    state = {
        "torch": torch.get_rng_state(),
        "numpy": (kind, torch.from_numpy(keys.astype(np.int64)), *rest),
        "python": random.getstate(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Restores the random numbers to a state that `random_state` returned."""
    torch.set_rng_state(state["torch"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
