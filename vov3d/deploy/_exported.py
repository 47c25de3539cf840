"""Loads exported files as models."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vov3d.deploy._metadata import Metadata
from vov3d.deploy._streaming import State, StreamingNetwork, check_part
from vov3d.deploy.formats import Run, format_of, require
from vov3d.layers.checks import check_counts
from vov3d.layers.stem import check_clip, check_numbers
from vov3d.weights.tasks import SCORES, checked_heads, make_task

_PART, _COUNT = torch.empty(0, dtype=torch.float32, device="cpu"), torch.empty(0, dtype=torch.int64, device="cpu")
"""Precision and device of a state of a file: of its maps, and of its number of frames."""


class ExportedModel(nn.Module):
    """A model in a file for another runtime, called like the original. It runs on the CPU, for inference only.

    `load_exported` makes it.

    Args:
        metadata: The file's metadata.
        run: Maps a clip `(B, C, T, H, W)` in float32 on the CPU to the outputs in the order of `metadata.outputs`.
        file: The file. Copies and pickles load it again.

    Attributes:
        pretrained_cfg: Clip settings of the weights; its `label_names` are `class_names`.
        class_names: Names in index order, or None where they are not known.
        num_classes: Classes; 0 for features.
        in_chans: Channels of the clip.
        metadata: The file's metadata.
    """

    def __init__(self, metadata: Metadata, run: Run, file: Path) -> None:
        super().__init__()
        self.metadata = metadata
        self.class_names = metadata.class_names
        self.pretrained_cfg: dict[str, Any] = metadata.pretrained_cfg | {
            "architecture": metadata.architecture,
            "label_names": metadata.class_names,
        }
        self.num_classes = metadata.num_classes
        self.in_chans = metadata.in_chans
        self._run, self._file = run, file
        self.training = False

    def __reduce__(self) -> Any:
        return load_exported, (self._file,)

    def forward(self, x: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        """Computes the source's `forward` for a clip `(B, C, T, H, W)`: logits, or a list of feature maps.

        Raises:
            ValueError: If the clip has another shape than the file takes.
        """
        outputs = self.outputs(x)
        names = self.metadata.outputs
        return outputs[names[0]] if names[0] in ("logits", "features") else [outputs[name] for name in names]

    def outputs(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Returns every output of the file by its name, on the device of `x` and in its floating type.

        Raises:
            ValueError: If the clip has another shape than the file takes, or holds whole numbers.
            TypeError: If it is not a tensor.
        """
        check_clip(x, self.in_chans, self.metadata.min_size)
        fixed = self.metadata.clip
        if fixed is not None and list(x.shape[2:]) != fixed:
            raise ValueError(
                f"this file takes clips of {fixed[0]}x{fixed[1]}x{fixed[2]} only, got"
                f" {x.shape[2]}x{x.shape[3]}x{x.shape[4]}; export one with other frames and size"
            )
        clip = x.detach().to("cpu", torch.float32).contiguous()
        with torch.no_grad():
            outputs = [out.to(x.device, x.dtype) for out in self._run(clip)]
        return dict(zip(self.metadata.outputs, outputs, strict=True))

    def train(self, mode: bool = True) -> "ExportedModel":
        """Stays in eval mode.

        Raises:
            ValueError: If train mode is asked for.
        """
        if mode:
            raise ValueError("an exported model cannot be trained; train the one it was made from")
        return self

    def extra_repr(self) -> str:
        """Returns architecture, precision and outputs for `repr`."""
        m = self.metadata
        return f"{m.architecture}, {m.dtype}, {', '.join(m.outputs)}"


class ExportedClassifier(ExportedModel):
    """An exported model whose file also holds the published evaluation, as `forward_dense`."""

    def forward_dense(self, x: torch.Tensor) -> torch.Tensor:
        """Computes scores `(B, num_classes)` of a clip `(B, C, T, H, W)`, as `VoV3D.forward_dense` does.

        The window is `pool_size` of the source's configuration.

        Raises:
            ValueError: If the clip has another shape than the file takes.
        """
        return self.outputs(x)[next(name for name in SCORES if name in self.metadata.outputs)]


class ExportedStream(nn.Module):
    """A streaming network in a file for another runtime, called like the original. It runs on the CPU.

    `load_exported` makes it.

    Args:
        metadata: The file's metadata.
        run: Maps a frame and the state, in float32 on the CPU, to outputs and the new state.
        file: The file. Copies and pickles load it again.

    Attributes:
        pretrained_cfg: Frame settings of the weights; its `label_names` are `class_names`.
        class_names: Names in index order, or None where they are not known.
        num_classes: Classes; 0 for features.
        in_chans: Channels of a frame.
        temperature: Divisor of the logits before the softmax.
        delay: Frames by which an output lags behind its input.
        receptive_field: Frames in the receptive field of the convolutions.
        window: Frames that are pooled.
        metadata: The file's metadata.
    """

    def __init__(self, metadata: Metadata, run: Run, file: Path) -> None:
        super().__init__()
        assert metadata.stream is not None
        assert metadata.clip is not None
        self.metadata = metadata
        self.class_names = metadata.class_names
        self.pretrained_cfg: dict[str, Any] = metadata.pretrained_cfg | {
            "architecture": metadata.architecture,
            "label_names": metadata.class_names,
        }
        self.num_classes, self.in_chans = metadata.num_classes, metadata.in_chans
        self.temperature = float(self.pretrained_cfg.get("temperature") or 1.0)
        self.delay, self.window = metadata.stream["delay"], metadata.stream["window"]
        self.receptive_field = metadata.stream["receptive_field"]
        self._shapes: dict[str, list[int]] = metadata.stream["state"]
        self._size = tuple(metadata.clip[1:])
        self._run, self._file = run, file
        self.training = False

    def __reduce__(self) -> Any:
        return load_exported, (self._file,)

    def initial_state(self, batch: int, height: int | None = None, width: int | None = None) -> State:
        """Returns the state of streams before their first frame: zeros.

        Args:
            batch: Streams.
            height: Of a frame, in pixels; a file is for one size only.
            width: Of a frame, in pixels.

        Raises:
            ValueError: If `batch` is not a whole number of at least 1, or the file is for another size.
        """
        check_counts(batch=batch)
        size = tuple(own if given is None else given for given, own in zip((height, width), self._size, strict=True))
        if size != self._size:
            raise ValueError(f"this file takes frames of {self._size[0]}x{self._size[1]} only, got {size[0]}x{size[1]}")
        return {
            name: torch.zeros(batch, *shape, dtype=torch.float32 if shape else torch.int64)
            for name, shape in self._shapes.items()
        }

    reset = staticmethod(StreamingNetwork.reset)

    def forward(self, frames: torch.Tensor, state: State | None = None) -> tuple[Any, State]:
        """Takes the next frame of each stream, as `StreamingNetwork` does.

        Args:
            frames: `(B, C, H, W)`.
            state: The state that the previous call returned, or `initial_state`; None starts the streams.

        Returns:
            Logits `(B, N)`, or a list of maps, and the new state.

        Raises:
            ValueError: If frames have another shape or type than the file takes, or the state is another's.
            TypeError: If they are not a tensor.
        """
        check_numbers(frames)
        if frames.ndim != 4 or frames.shape[1:] != (self.in_chans, *self._size):
            wanted = f"(B, {self.in_chans}, {self._size[0]}, {self._size[1]})"
            raise ValueError(f"this file takes one frame {wanted} at a time, got {tuple(frames.shape)}")
        state = self.initial_state(len(frames)) if state is None else state
        for name, shape in self._shapes.items():
            check_part(state, name, (len(frames), *shape), _PART if shape else _COUNT)
        outputs = self._run(frames.detach().float().contiguous(), *(state[name].contiguous() for name in self._shapes))
        count = len(self.metadata.outputs)
        one = self.metadata.outputs[0] in ("logits", "features")
        return outputs[0] if one else outputs[:count], dict(zip(self._shapes, outputs[count:], strict=True))


def load_exported(path: str | os.PathLike[str]) -> ExportedModel | ExportedStream:
    """Loads a file that `export` wrote.

    Args:
        path: A file that ends in `.onnx`, `.xml` (with its `.bin` beside it), `.pt2` or `.pte`.

    Returns:
        A callable with the signature of the model that was exported; an `ExportedClassifier` where the file holds
        the published evaluation as well, an `ExportedStream` where it holds a stream.

    Raises:
        FileNotFoundError: If the file does not exist.
        ImportError: If the format's runtime is not installed; names the extra.
        ValueError: If the file is damaged, or `export` did not write it.
    """
    path = Path(path)
    form = format_of(path)
    require(path, form.reads, form.extra)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    for beside in map(path.with_suffix, form.files):
        if not beside.is_file():
            raise FileNotFoundError(f"{beside}: no such file; {path.name} needs it, and export writes them together")
    try:
        strings, run = form.backend.read(path)
        metadata = Metadata.from_strings(strings)
        checked_heads(make_task(*map(metadata.pretrained_cfg.get, ("task", "heads"))), metadata.num_classes)
    except Exception as e:  # runtimes raise errors of any type
        cause = " ".join(str(e).split()) or type(e).__name__
        raise ValueError(f"{path}: cannot be loaded as {form.title}: {cause[:300]}") from e
    if metadata.stream is not None:
        return ExportedStream(metadata, run, path.absolute())
    dense = any(name in metadata.outputs for name in SCORES)
    return (ExportedClassifier if dense else ExportedModel)(metadata, run, path.absolute())
