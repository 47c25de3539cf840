"""Folders of a network: its weights, and the settings that it is built from."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import nn

from vov3d.files import make_folder, replacing

CONFIG, WEIGHTS = "config.json", "model.safetensors"


def save_network(network: nn.Module, settings: Any, folder: Path) -> None:
    """Writes weights and settings, a dataclass, into a folder; both files are put in place, or none."""
    make_folder(folder)
    tensors = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    text = json.dumps(asdict(settings), indent=2, ensure_ascii=False) + "\n"
    with replacing(folder / WEIGHTS) as weights, replacing(folder / CONFIG) as config:
        weights.write_bytes(safetensors.torch.save(tensors, metadata={"format": "pt"}))
        config.write_text(text, encoding="utf-8")
