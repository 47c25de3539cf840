"""Checkpoints that are there whole or not at all, and the state of all random numbers."""

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch


def save_atomically(content: Any, path: Path) -> None:
    """Writes a file beside the one of that name and puts it in its place when it is on the disk.

    Raises:
        OSError: If it cannot be written, as on a full disk; the former file is still there.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except (OSError, RuntimeError) as error:  # torch turns what writing raises into a RuntimeError
        former = "the former one is still there" if path.exists() else "there is none"
        raise OSError(f"{path}: the checkpoint cannot be written ({error}); {former}") from error
    finally:
        part.unlink(missing_ok=True)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint without running code of it."""
    return torch.load(path, map_location="cpu", weights_only=True)


def random_state() -> dict[str, Any]:
    """The state of the random numbers of torch, numpy and Python, in plain types."""
    kind, keys, *rest = np.random.get_state()
    state = {
        "torch": torch.get_rng_state(),
        "numpy": (kind, torch.from_numpy(keys.astype(np.int64)), *rest),
        "python": random.getstate(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Puts random numbers back to where `random_state` was called."""
    torch.set_rng_state(state["torch"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
