"""Compares an exported file with the model it was made from."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch

from vov3d.deploy._exported import ExportedModel
from vov3d.weights.tasks import SCORES, task_of


class Comparison(NamedTuple):
    """Differences between the outputs of a file and those of its source for the same clips.

    Attributes:
        clips: Description of the clips.
        shapes: Their shapes.
        number: Number of clips.
        difference: The largest difference between two outputs.
        relative: The largest difference relative to the largest absolute value of the same output for the same clip.
        agreement: Clips whose best class, or whose labels, are the same; None if the outputs decide no class.
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
    task = task_of(model)
    difference = relative = 0.0
    shapes: dict[tuple[int, ...], None] = {}  # used as an ordered set
    names = exported.metadata.outputs
    decides = "logits" in names and task.name != "regression"
    if exported.metadata.dtype == "int8":  # the softmax magnifies its errors without limit
        names = [name for name in names if name not in SCORES]
    for clip in clips:
        found = exported.outputs(clip)
        for key, expected in _outputs(model, clip, names).items():
            # amax propagates NaN, unlike Python's max
            off = (found[key] - expected).abs().amax().nan_to_num(float("inf"))
            difference = max(difference, float(off))
            relative = max(relative, float(off / expected.abs().amax().clamp(min=1e-12)))
            if key == "logits" and expected.ndim > 2:  # a map of logits decides no class
                decides = False
            elif key == "logits" and decides:
                pairs = zip(*(task.decided(out).unbind() for out in (found[key], expected)), strict=True)
                agreement += sum(bool(torch.equal(ours, theirs)) for ours, theirs in pairs)
        number += len(clip)
        shapes[tuple(clip.shape)] = None
    return Comparison(name, tuple(shapes), number, difference, relative, agreement if decides else None)


def _outputs(model: Any, clip: torch.Tensor, names: list[str]) -> dict[str, torch.Tensor]:
    """Returns the outputs of the source, by the names of the file's outputs."""
    with torch.inference_mode():
        out = model(clip)
        outputs = dict(zip(names, out if isinstance(out, list | tuple) else [out], strict=False))
        for name in SCORES:
            if name in names:
                outputs[name] = model.forward_dense(clip)
    return outputs
