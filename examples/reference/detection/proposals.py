"""Boxes of people in a frame, by a detector of torchvision."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

_PERSON = 1  # in COCO's numbering, which torchvision's detectors have
THRESHOLD = 0.8
"""Lowest score of a box that is taken, as for the published AVA detectors."""


class Proposer:
    """A detector of people.

    Args:
        name: A detection model of torchvision, as `"fasterrcnn_mobilenet_v3_large_fpn"`.
        weights: A file with its state dict; torchvision's own weights, which it downloads, if None.

    Raises:
        ValueError: If torchvision has no such detector, or the file does not fit.
    """

    def __init__(self, name: str, weights: Path | None = None) -> None:
        from torchvision.models import detection, get_model, list_models

        known = list_models(detection)
        if name not in known:
            raise ValueError(f"torchvision has no detector {name!r}; it has {', '.join(known)}")
        own = {"weights": None, "weights_backbone": None} if weights else {"weights": "DEFAULT"}
        self.model: Any = get_model(name, **own)
        if weights:
            try:
                self.model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
            except RuntimeError as error:
                raise ValueError(f"{weights} does not hold {name}: {error}") from error
        self.model.eval()

    @torch.inference_mode()
    def __call__(self, frame: torch.Tensor) -> np.ndarray:
        """Finds people in a uint8 frame `(3, H, W)`: boxes `(N, 4)` from 0 to 1, best first."""
        found = self.model([frame / 255])[0]
        kept = (found["labels"] == _PERSON) & (found["scores"] >= THRESHOLD)
        height, width = frame.shape[1:]
        boxes = found["boxes"][kept] / torch.tensor([width, height] * 2)
        return boxes.clamp(0, 1).numpy()
