"""Frames in, predictions out, with the state of the stream inside."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from vov3d.deploy import optimize_for_inference, streaming
from vov3d.video.predictions import Prediction, check_threshold, check_topk, predictions_of
from vov3d.video.settings import checked_cfg, checked_names
from vov3d.video.transforms import eval_transform
from vov3d.video.window import as_picture
from vov3d.weights.tasks import Task, task_of

__all__ = ["StreamClassifier"]

_SECONDS = {"shapes": 1.6}  # that a clip lasts, in data sets whose models take frames from all of it
_USUAL = 4.0  # in Something-Something


class StreamClassifier:
    """Names what happens in frames that keep coming; each is computed once.

    Frames should come at `fps`; they are resized, cut and normalised as the model wants them and may change their
    size. Called with one frame it gives the predictions for the moment `delay` frames ago.

    Attributes:
        stream: the streaming network.
        class_names: the names, in index order.
        task: what the outputs of the network mean.
        fps: frames per second that the model was trained on.
        delay: frames between a frame and its predictions; 0 for causal models.
        frames: frames seen since the last reset.

    Examples:
        >>> classifier = StreamClassifier(vov3d.create_model("vov3d_m.k400_f16", pretrained=True))  # doctest: +SKIP
        >>> for frame in camera:  # doctest: +SKIP
        ...     print(classifier(frame, topk=1))
    """

    def __init__(
        self,
        model: nn.Module,
        window: int | None = None,
        class_names: Sequence[str] | None = None,
        topk: int | None = None,
        threshold: float | Sequence[float] | None = None,
    ) -> None:
        """Makes a stream of a model, or takes one.

        Args:
            model: a model of `create_model`, which is made a stream, and on a CPU a fast one; or a stream of
                `vov3d.streaming`, optimized or not, or of a file.
            window: frames that are pooled, those of the model's clips if None.
            class_names: names in index order. By default those of the model's label set, else `"class 0"` and on.
            topk: classes to name, best first. If None 5; of many labels all that reach the threshold. Values are given
                all.
            threshold: as for `VideoClassifier`.

        Raises:
            ValueError: for a model that cannot be a stream or has no classes, names, a `topk` or a threshold that do
                not fit, or a window for a model that is a stream already.
        """
        check_topk(topk)
        stream: Any = model
        if not hasattr(model, "initial_state"):
            stream = streaming(model, window)
            on_cpu = next(model.parameters()).device.type == "cpu"
            stream = optimize_for_inference(stream) if on_cpu else stream
        elif window is not None:
            raise ValueError("window would have no effect: the model is a stream already")
        self.stream = stream
        self._cfg = checked_cfg(stream, None, None)
        self.class_names = checked_names(stream, class_names)
        self.task: Task = task_of(stream)
        self._threshold = check_threshold(self.task, threshold, len(self.class_names))
        self.fps = rate_of(self._cfg)
        self.delay: int = stream.delay
        self._topk = topk
        self._transform = eval_transform(self._cfg)
        tensor = next(stream.parameters(), torch.empty(0))
        self._kind = tensor.device, tensor.dtype
        self.reset()

    def reset(self) -> None:
        """Begins anew: what was seen is forgotten."""
        self._state: Any = None
        self.frames = 0

    def __call__(self, frame: np.ndarray | torch.Tensor) -> list[Prediction]:
        """The best classes after one more frame; none while the model waits for its first moment.

        Args:
            frame: uint8 RGB `(H, W, 3)` or `(3, H, W)`.

        Raises:
            ValueError: for a frame of another form.
        """
        scores = self.scores(frame)
        if scores is None:
            return []
        return list(predictions_of(self.task, scores, self.class_names, self._topk, self._threshold))

    def scores(self, frame: np.ndarray | torch.Tensor) -> torch.Tensor | None:
        """The scores after one more frame: the softmax, or what the model's task has in its place.

        Args:
            frame: as for a call.

        Returns:
            float32 `(num_classes,)` on the CPU; None while the model waits for its first moment.

        Raises:
            ValueError: for a frame of another form.
        """
        rows = self._rows(self._transform(as_picture(frame, self.frames)[None])[:, :, 0])
        return rows[0] if len(rows) else None

    def scores_of(self, frames: Sequence[np.ndarray | torch.Tensor]) -> torch.Tensor:
        """The scores after each of several frames, faster than one by one where they are there already.

        Args:
            frames: as for a call, one or more, all of one size.

        Returns:
            float32 `(n, num_classes)` on the CPU; without those for which the model waits for its first moment.

        Raises:
            ValueError: for a frame of another form.
        """
        pictures = [as_picture(frame, self.frames + i) for i, frame in enumerate(frames)]
        return self._rows(self._transform(torch.stack(pictures)))

    def _rows(self, views: torch.Tensor) -> torch.Tensor:
        """Takes one normalised frame `(1, C, S, S)`, or several `(1, C, n, S, S)`."""
        device, dtype = self._kind
        logits, self._state = self.stream(views.to(device, dtype), self._state)
        outputs = logits[0].float().view(-1, logits.shape[-1])
        rows = self.task.scores(outputs, self.stream.temperature).cpu()
        early = max(self.delay - self.frames, 0)
        self.frames += len(rows)
        return rows[early:]


def rate_of(cfg: Mapping[str, Any]) -> float:
    """Frames per second of a model's clips."""
    if cfg["sampling"] == "segment":
        return cfg["num_frames"] / _SECONDS.get(cfg.get("label_set") or "", _USUAL)
    return 30 / cfg["frame_stride"]
