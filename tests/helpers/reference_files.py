"""Checkpoints in the published formats, rebuilt from `tests/reference/*.json` and `reference_recipe.py`."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch

from helpers.reference_recipe import clip, weight

REFERENCE = Path(__file__).parents[1] / "reference"

# Reference file -> model that it holds.
PUBLISHED = {
    "vov3d_m_k400": "vov3d_m",
    "vov3d_l_ssv1": "vov3d_l",
    "x3d_m_k400": "x3d_m",
    "pytorchvideo_x3d_s": "x3d_s",
}


@cache
def load_reference(name: str) -> dict[str, Any]:
    return json.loads((REFERENCE / f"{name}.json").read_text())


def published_state_dict(name: str, salt: int | None = None) -> dict[str, torch.Tensor]:
    """Returns tensors in the published format; the salt is that of the reference's first case unless given."""
    reference = load_reference(name)
    salt = reference["cases"][0]["salt"] if salt is None else salt
    return {k: torch.from_numpy(weight(k, tuple(s), salt)) for k, s in reference["state_dict"].items()}


def published_file(name: str, folder: Path) -> Path:
    path = folder / f"{name}.pth"
    torch.save({"model_state": published_state_dict(name)}, path)
    return path


def reference_clip(case: dict[str, Any]) -> torch.Tensor:
    return torch.from_numpy(clip(tuple(case["input_shape"]), case["salt"]))
