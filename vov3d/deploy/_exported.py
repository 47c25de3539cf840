"""Models read back from exported files."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vov3d.deploy._metadata import Metadata
from vov3d.deploy.formats import Run, format_of, require
from vov3d.layers.stem import check_clip


class ExportedModel(nn.Module):
    """A model in a file of another runtime, called as the one it was made from. It runs on the CPU, in inference only.

    `load_exported` makes it.

    Args:
        metadata: All that the file says of itself.
        run: Clip `(B, C, T, H, W)` in float32 on the CPU to the file's outputs, in the order of `metadata.outputs`.

    Attributes:
        pretrained_cfg: What the weights want of their clips; `class_names` are its `label_names`.
        class_names: Names in index order, or None where they are not known.
        num_classes: Classes; 0 for features.
        in_chans: Channels of the clip.
        metadata: All that the file says of itself.
    """

    def __init__(self, metadata: Metadata, run: Run) -> None:
        super().__init__()
        self.metadata = metadata
        self.class_names = metadata.class_names
        self.pretrained_cfg: dict[str, Any] = metadata.pretrained_cfg | {
            "architecture": metadata.architecture,
            "label_names": metadata.class_names,
        }
        self.num_classes = metadata.num_classes
        self.in_chans = metadata.in_chans
        self._run = run
        self.training = False

    def forward(self, x: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        """Clip `(B, C, T, H, W)` to what the source's `forward` gives: logits, or a list of feature maps.

        Raises:
            ValueError: If the clip has another shape than the file takes.
        """
        outputs = self.outputs(x)
        names = self.metadata.outputs
        return outputs[names[0]] if names[0] in ("logits", "features") else [outputs[name] for name in names]

    def outputs(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Every output of the file by its name, where `x` is and in its floating type.

        Raises:
            ValueError: If the clip has another shape than the file takes.
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
        """What the file holds."""
        m = self.metadata
        return f"{m.architecture}, {m.dtype}, {', '.join(m.outputs)}"


class ExportedClassifier(ExportedModel):
    """An exported model whose file holds the published evaluation too, as `forward_dense`."""

    def forward_dense(self, x: torch.Tensor) -> torch.Tensor:
        """Clip `(B, C, T, H, W)` to probabilities `(B, num_classes)`, as `VoV3D.forward_dense` gives them.

        The window is `pool_size` of the source's configuration.

        Raises:
            ValueError: If the clip has another shape than the file takes.
        """
        return self.outputs(x)["probabilities"]


def load_exported(path: str | os.PathLike[str]) -> ExportedModel:
    """Loads a file that `export` wrote.

    Args:
        path: A file that ends in `.onnx`, `.xml` (with its `.bin` beside it), `.pt2` or `.pte`.

    Returns:
        A callable with the signature of the model that was exported; an `ExportedClassifier` where the file holds
        the published evaluation as well.

    Raises:
        FileNotFoundError: If the file is not there.
        ImportError: If the format's runtime is not installed; says what installs it.
        ValueError: If the file is damaged, or `export` did not write it.
    """
    path = Path(path)
    form = format_of(path)
    require(path, form.reads, form.extra)
    for ending in form.files:
        if not path.with_suffix(ending).is_file():
            raise FileNotFoundError(f"{path.with_suffix(ending)}: no such file")
    try:
        strings, run = form.backend.read(path)
        metadata = Metadata.from_strings(strings)
    except Exception as e:  # runtimes raise what they like
        cause = " ".join(str(e).split()) or type(e).__name__
        raise ValueError(f"{path}: cannot be loaded as {form.title}: {cause[:300]}") from e
    dense = "probabilities" in metadata.outputs
    return (ExportedClassifier if dense else ExportedModel)(metadata, run)
