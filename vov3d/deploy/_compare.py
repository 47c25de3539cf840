"""An exported file against the model it was made from."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch

from vov3d.deploy._exported import ExportedModel


class Comparison(NamedTuple):
    """What a file and its source make of the same clips.

    Attributes:
        clips: What clips they are.
        shapes: Their shapes.
        number: How many clips.
        difference: The largest difference between two outputs.
        relative: The largest, as a part of the largest absolute output of its clip and kind.
        agreement: Clips whose best class is the same; None where there are no classes.
    """

    clips: str
    shapes: tuple[tuple[int, ...], ...]
    number: int
    difference: float
    relative: float
    agreement: int | None

    def __str__(self) -> str:
        text = (
            f"{self.clips}, {', '.join('x'.join(map(str, shape)) for shape in self.shapes)}: largest difference"
            f" {self.difference:.2g}, {self.relative:.2g} of the largest output"
        )
        return text if self.agreement is None else f"{text}; top-1 agrees on {self.agreement} of {self.number}"


def compare(name: str, model: Any, exported: ExportedModel, clips: Iterable[torch.Tensor]) -> Comparison:
    """Runs both on every clip `(B, C, T, H, W)`."""
    number = agreement = 0
    difference = relative = 0.0
    shapes: dict[tuple[int, ...], None] = {}  # a set that keeps its order
    names = exported.metadata.outputs
    if exported.metadata.dtype == "int8":  # whose errors the softmax magnifies at will
        names = [name for name in names if name != "probabilities"]
    for clip in clips:
        found = exported.outputs(clip)
        for key, expected in _outputs(model, clip, names).items():
            # not `max`, which passes over nan
            off = (found[key] - expected).abs().amax().nan_to_num(float("inf"))
            difference = max(difference, float(off))
            relative = max(relative, float(off / expected.abs().amax().clamp(min=1e-12)))
            if key == "logits":
                agreement += int((found[key].flatten(1).argmax(1) == expected.flatten(1).argmax(1)).sum())
        number += len(clip)
        shapes[tuple(clip.shape)] = None
    return Comparison(name, tuple(shapes), number, difference, relative, agreement if "logits" in names else None)


def _outputs(model: Any, clip: torch.Tensor, names: list[str]) -> dict[str, torch.Tensor]:
    """What the source gives under the names of a file's outputs, by its own methods."""
    with torch.inference_mode():
        out = model(clip)
        outputs = dict(zip(names, out if isinstance(out, list | tuple) else [out], strict=False))
        if "probabilities" in names:
            outputs["probabilities"] = model.forward_dense(clip)
    return outputs
