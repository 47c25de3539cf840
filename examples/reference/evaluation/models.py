"""Models to evaluate: by name, folder or exported file, with all that their configuration says."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import vov3d
from vov3d.deploy.formats import FORMATS
from vov3d.hub.saving import known_cfg
from vov3d.models.names import model_name
from vov3d.weights.state_dict import digest
from vov3d.weights.tasks import SINGLE, Task, task_of

PROTOCOLS = {"k400": ("10x3", "dense"), "ssv": ("2x3", "segment"), "single": ("1x1", None)}
"""Views of the protocols, and the sampling of the models that they are for."""


_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Model:
    """A network ready to be evaluated.

    Attributes:
        name: As it was asked for.
        label: The name as files and folders use it.
        network: In eval mode, on its device.
        cfg: Configuration of its clips.
        names: Class names in index order, or None where it has none.
        num_classes: Classes.
        weights: Their SHA-256.
        task: What its outputs mean.
        published: Top-1 and top-5 accuracy in percent, and the views, that were published for exactly these weights.
    """

    name: str
    label: str
    network: Any
    cfg: dict[str, Any]
    names: list[str] | None
    num_classes: int
    weights: str
    published: tuple[float, float, tuple[int, int]] | None
    task: Task = SINGLE

    def views(self, protocol: str | None) -> str:
        """Returns clips and crops of a protocol, by default of the one that fits the model's sampling.

        Raises:
            ValueError: If the protocol is for models of the other sampling.
        """
        sampling = self.cfg["sampling"]
        if protocol is None:
            return default_views(sampling)
        views, needed = PROTOCOLS[protocol]
        if needed not in (None, sampling):
            raise ValueError(
                f"protocol {protocol} is for models of {needed} sampling, {self.name} has {sampling} sampling; "
                "leave the protocol out, or name the views"
            )
        return views


def default_views(sampling: str) -> str:
    """Returns clips and crops of the protocol that fits a sampling."""
    return "10x3" if sampling == "dense" else "2x3"


def best_device() -> torch.device:
    """Returns the GPU where there is one, else the CPU."""
    return torch.device(torch.accelerator.current_accelerator() or "cpu") if torch.accelerator.is_available() else _CPU


def load_model(name: str, checkpoint: str | None, device: torch.device, asked: bool = True) -> Model:
    """Builds or loads a model, rewritten for speed on a CPU.

    Args:
        name: A model or `model.tag`, a folder, `local-dir:FOLDER`, or a file of `vov3d export`.
        checkpoint: Weights in place of the tag's.
        device: Where it runs.
        asked: True if the user named the device; else an exported file runs on the CPU.

    Raises:
        ValueError: If a checkpoint or a device is given for an exported file, or as `create_model`.
        FileNotFoundError: If a file is not there.
    """
    if Path(name).suffix in FORMATS:
        if checkpoint is not None or (asked and device.type != "cpu"):
            raise ValueError(
                f"{name}: a checkpoint or a device has no effect on it, it has its weights and runs on CPUs"
            )
        network: Any = vov3d.load_exported(name)
        weights = hashlib.sha256(Path(name).read_bytes()).hexdigest()
        cfg = known = network.pretrained_cfg
        names = network.class_names
    else:
        network = vov3d.create_model(model_name(name), pretrained=True, checkpoint_path=checkpoint).eval()
        names, cfg = vov3d.class_names(network), dict(network.pretrained_cfg)
        known, weights = known_cfg(network, names), digest(network)
        network = vov3d.optimize_for_inference(network) if device.type == "cpu" else network.to(device)
    published = (known["top1"], known["top5"], tuple(known["views"])) if known.get("top1") else None
    return Model(name, _label(name), network, cfg, names, network.num_classes, weights, published, task_of(network))


def _label(name: str) -> str:
    """Returns a model's name in a form that files may have: the last two parts of a path."""
    path = Path(name.removeprefix("local-dir:"))
    return "-".join(part.replace(":", "-") for part in path.parts[-2:] if part not in (path.anchor, ".", ".."))
