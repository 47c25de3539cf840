"""Classifies a stream frame by frame, and keeps its state."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from vov3d.deploy import ExportedStream, optimize_for_inference, streaming
from vov3d.video.predictions import Prediction, check_threshold, check_topk, predictions_of
from vov3d.video.settings import checked_cfg, checked_names
from vov3d.video.transforms import eval_transform
from vov3d.video.window import as_picture
from vov3d.weights.tasks import Task, task_of

__all__ = ["StreamClassifier"]

_USUAL = 4.0  # seconds of a video of Something-Something


class StreamClassifier:
    """Classifies a stream of frames; each frame is computed once.

    Frames should come at `fps`; they are resized, cropped and normalised for the model, and their size may change. A
    call with one frame returns the predictions for the moment `delay` frames ago.

    Attributes:
        stream: the streaming network.
        class_names: the names, in index order.
        task: the model's task.
        fps: frames per second that the model was trained on.
        assumed_seconds: length of a clip that `fps` assumes, for models of equal segments that do not state that of
            their training videos (`clip_seconds` of their `pretrained_cfg`); else None.
        delay: frames between a frame and its predictions; 0 for causal models.
        frames: frames seen since the last reset.

    Examples:
        >>> classifier = StreamClassifier(model, topk=1)  # doctest: +SKIP
        >>> for frame in camera:  # doctest: +SKIP
        ...     print(classifier(frame))
    """

    def __init__(
        self,
        model: nn.Module,
        window: int | None = None,
        class_names: Sequence[str] | None = None,
        topk: int | None = None,
        threshold: float | Sequence[float] | None = None,
    ) -> None:
        """Turns a model into a stream, or takes one.

        Args:
            model: a model of `create_model`, which is turned into a stream and optimized on a CPU; or a stream of
                `vov3d.streaming`, optimized or not, or of a file.
            window: frames that are pooled; those of the model's clips if None.
            class_names: names in index order. By default those of the model's label set, else `"class 0"` and on.
            topk: number of classes to return. If None, 5; for a multilabel model, all that reach the threshold. Values
                are all returned.
            threshold: as for `VideoClassifier`.

        Raises:
            ValueError: for a model that cannot be a stream or has no classes, `class_names`, a `topk` or a threshold
                that do not fit, or a window for a model that is a stream already.
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
        known = self._cfg["sampling"] != "segment" or self._cfg.get("clip_seconds")
        self.assumed_seconds = None if known else _USUAL
        self.delay: int = stream.delay
        self._topk = topk
        self._transform = eval_transform(self._cfg)
        tensor = next(stream.parameters(), torch.empty(0))
        self._kind = tensor.device, tensor.dtype
        self.reset()

    def reset(self) -> None:
        """Resets the stream to its beginning."""
        self._state: Any = None
        self.frames = 0

    def __call__(self, frame: np.ndarray | torch.Tensor) -> list[Prediction]:
        """Returns the best classes after one more frame; none during the model's delay at the beginning.

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
        """Returns the scores after one more frame: the softmax, or the scores of the model's task.

        Args:
            frame: as for a call.

        Returns:
            float32 `(num_classes,)` on the CPU; None during the model's delay at the beginning.

        Raises:
            ValueError: for a frame of another form.
        """
        rows = self._rows(self._transform(as_picture(frame, self.frames)[None])[:, :, 0])
        return rows[0] if len(rows) else None

    def scores_of(self, frames: Sequence[np.ndarray | torch.Tensor]) -> torch.Tensor:
        """Returns the scores after each of several frames, which is faster than one by one, but for exported streams.

        Args:
            frames: as for a call, one or more, all of one size.

        Returns:
            float32 `(n, num_classes)` on the CPU, without frames during the model's delay at the beginning.

        Raises:
            ValueError: for a frame of another form, no frames, or frames of several sizes.
        """
        pictures = [as_picture(frame, self.frames + i) for i, frame in enumerate(frames)]
        if len(sizes := {tuple(picture.shape[1:]) for picture in pictures}) != 1:
            raise ValueError(f"expected one or more frames of one size, got {len(pictures)} of sizes {sorted(sizes)}")
        return self._rows(self._transform(torch.stack(pictures)))

    def _rows(self, views: torch.Tensor) -> torch.Tensor:
        """Computes the scores for one normalised frame `(1, C, S, S)`, or several `(1, C, n, S, S)`."""
        if views.ndim == 5 and isinstance(self.stream, ExportedStream):  # which takes one frame at a time
            return torch.cat([self._rows(frame) for frame in views.unbind(2)])
        device, dtype = self._kind
        logits, self._state = self.stream(views.to(device, dtype), self._state)
        outputs = logits[0].float().view(-1, logits.shape[-1])
        rows = self.task.scores(outputs, self.stream.temperature).cpu()
        early = max(self.delay - self.frames, 0)
        self.frames += len(rows)
        return rows[early:]


def rate_of(cfg: Mapping[str, Any]) -> float:
    """Returns the frames per second of a model's clips."""
    if cfg["sampling"] == "segment":
        return cfg["num_frames"] / (cfg.get("clip_seconds") or _USUAL)
    return 30 / cfg["frame_stride"]
