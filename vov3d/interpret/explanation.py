"""A prediction with the places and the frames that speak for it."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from vov3d.video.predictions import Prediction, Predictions

__all__ = ["Explanation"]


@dataclass(frozen=True)
class Explanation:
    """Places and frames of a clip that raise an output of a model.

    Attributes:
        model: the model's name.
        target: the explained class, value, or combination of classes, with its score.
        predictions: the model's best classes.
        map: float32 `(T, H, W)` at the resolution of the frames, from 0 to 1, which is reached where the clip
            raises the output most; all 0 where nothing raises it.
        per_frame: float32 `(T,)`, each frame's share of the map; they sum to 1, or are all 0.
        raw: float32 `(T, H', W')`, the signed map of the layer, before anything is cut off or enlarged.
        frames: uint8 `(T, 3, H, W)`, the input of the model.
        times: seconds of the frames in the video; None for a clip given as a tensor.
        method: how the map was computed, one of `vov3d.interpret.METHODS`.
        layer: name of the layer that it comes from.
    """

    model: str
    target: Prediction
    predictions: Predictions
    map: torch.Tensor = field(repr=False)
    per_frame: torch.Tensor = field(repr=False)
    raw: torch.Tensor = field(repr=False)
    frames: torch.Tensor = field(repr=False)
    times: tuple[float, ...] | None = field(repr=False)
    method: str
    layer: str

    def _repr_html_(self) -> str:
        from vov3d.interpret.picture import draw_still  # which draws explanations
        from vov3d.video.picture import inlined

        picture = inlined(draw_still([self]), f"heat maps of {self.target.label}")
        return f"{picture}{self.predictions.table()}"

    def map_at(self, times: Sequence[float]) -> torch.Tensor:
        """Returns the map at other times, by linear interpolation between the frames of the clip.

        Args:
            times: seconds in the video, or positions in frames for a clip given as a tensor. Before the first frame
                and behind the last one the map stays as it is there.

        Returns:
            float32 `(len(times), H, W)`.
        """
        own = list(self.times or range(len(self.map)))
        found = []
        for time in times:
            after = min(max(bisect_right(own, time), 1), len(own) - 1)
            before = max(after - 1, 0)
            gap = own[after] - own[before]
            weight = min(max((time - own[before]) / gap, 0.0), 1.0) if gap > 0 else 0.0
            found.append(torch.lerp(self.map[before], self.map[after], weight))
        return torch.stack(found) if found else self.map[:0]
