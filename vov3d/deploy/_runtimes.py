"""Models that another runtime computes in this process, with the call of the model."""

import copy
import warnings
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from vov3d.deploy._export import ExportError, export
from vov3d.deploy._exported import ExportedModel, load_exported
from vov3d.deploy._streaming import StreamingNetwork
from vov3d.deploy.formats import FORMATS

BACKENDS = ("torch", "openvino", "onnxruntime", "auto")
"""Runtimes that `optimize_for_inference` can rewrite a model for."""

_ENDINGS = {"openvino": ".xml", "onnxruntime": ".onnx"}
_DTYPES = {torch.float32: "fp32", torch.bfloat16: "bf16"}
_AGAIN = "call vov3d.optimize_for_inference on the original with backend='torch'"


def _folder() -> TemporaryDirectory[str]:
    # some systems cannot remove files that the runtime has mapped into memory
    return TemporaryDirectory(prefix="vov3d-runtime-", ignore_cleanup_errors=True)


class RuntimeModel(nn.Module):
    """A model that OpenVINO or ONNX Runtime computes on the CPU, with the calls `forward` and `forward_dense`.

    `optimize_for_inference` makes it. Copies and pickles hold the exported file and load it again.

    Args:
        model: A model made by `create_model`, whole or with `features_only`, in eval mode.
        backend: `"openvino"` or `"onnxruntime"`.
        dtype: `"fp32"`, or `"bf16"` for OpenVINO.

    Attributes:
        backend: The runtime.
        device: The CPU.
        dtype: Precision in which it computes.
        feature_info: Information about the model's feature maps.
    """

    device = torch.device("cpu")

    def __init__(self, model: Any, backend: str, dtype: torch.dtype) -> None:
        super().__init__()
        self.backend, self.dtype = backend, dtype
        kind = FORMATS[_ENDINGS[backend]]
        with _folder() as folder:
            path = export(model, Path(folder) / f"model{_ENDINGS[backend]}", dtype=_DTYPES[dtype])
            self._files = {ending: path.with_suffix(ending).read_bytes() for ending in kind.files}
            self._load(path)
        self.feature_info: Any = copy.deepcopy(model.feature_info)
        self.training = False

    def _load(self, path: Path) -> None:
        object.__setattr__(self, "_exported", load_exported(path))  # no part of the module: it cannot be pickled

    def __getstate__(self) -> dict[str, Any]:
        """Returns the state without the runtime's objects."""
        return {key: value for key, value in self.__dict__.items() if key != "_exported"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Loads the files of the state."""
        super().__setstate__(state)
        with _folder() as folder:
            for ending, content in self._files.items():
                Path(folder, f"model{ending}").write_bytes(content)
            self._load(Path(folder, f"model{_ENDINGS[self.backend]}"))

    def forward(self, x: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        """Computes the model's `forward` for a clip `(B, C, T, H, W)`: logits, or a list of feature maps."""
        return self._exported(x)

    def train(self, mode: bool = True) -> "RuntimeModel":
        """Stays in eval mode.

        Raises:
            ValueError: If train mode is asked for.
        """
        if mode:
            raise ValueError(f"a model optimized for {self.backend} cannot be trained; train the original")
        return self

    def _apply(self, fn: Any, recurse: bool = True) -> "RuntimeModel":
        """Refuses another device or precision by `to()`, `half()`, `cuda()` and the like."""
        old = torch.empty(0, dtype=self.dtype)
        new = fn(old)
        if (new.dtype, new.device) != (old.dtype, old.device):
            raise ValueError(
                f"a model optimized for {self.backend} runs on the CPU in {old.dtype}, not on {new.device} in"
                f" {new.dtype}; {_AGAIN}"
            )
        return self

    def __getattr__(self, name: str) -> Any:
        """Returns `forward_dense` or a setting of the file."""
        exported = self.__dict__.get("_exported")
        if exported is None or name.startswith("_"):
            return super().__getattr__(name)
        if not hasattr(exported, name):
            raise AttributeError(f"a model optimized for {self.backend} has no {name}; for it, {_AGAIN}")
        return getattr(exported, name)

    def extra_repr(self) -> str:
        """Returns runtime and file for `repr`."""
        exported: ExportedModel = self.__dict__["_exported"]
        return f"{self.backend}, {exported.extra_repr()}"


def fastest(model: nn.Module, device: torch.device, dtype: torch.dtype | None) -> str:
    """Returns the fastest installed runtime that takes a model: OpenVINO on CPUs, else PyTorch.

    ONNX Runtime was measured to be slower than the rewritten model in PyTorch (docs/guides/export.md).
    """
    takes = (
        device.type == "cpu"
        and dtype in _DTYPES
        and not isinstance(model, StreamingNetwork)
        and getattr(model, "pretrained_cfg", {}).get("architecture") is not None
        and hasattr(model, "feature_info")
    )
    return "openvino" if takes and find_spec("openvino") is not None else "torch"


def runtime_model(
    model: Any, backend: str, device: torch.device, dtype: torch.dtype | None, compile: bool | str
) -> RuntimeModel:
    """Returns a model for a runtime.

    Args:
        model: The model, in eval mode.
        backend: `"openvino"` or `"onnxruntime"`.
        device: Where it is asked to run.
        dtype: Precision that is asked for.
        compile: Whether `torch.compile` is asked for.

    Raises:
        ValueError: If the runtime does not support the model or the settings.
        ImportError: If the runtime is not installed; names the extra.
        ExportError: If its outputs differ from the model's by more than the bound of `export`.
    """
    if device.type != "cpu":
        raise ValueError(f"backend={backend!r} runs on the CPU, not on {device}; give device='cpu', or backend='torch'")
    if compile:
        raise ValueError(f"compile is for backend='torch' and has no effect with {backend!r}")
    allowed = list(_DTYPES) if backend == "openvino" else [torch.float32]
    if dtype not in allowed:
        raise ValueError(f"backend={backend!r} computes in {' or '.join(map(str, allowed))}, not in {dtype}")
    if isinstance(model, StreamingNetwork):
        raise ValueError(f"a stream runs with backend='torch'; for {backend}, write it to a file with vov3d.export")
    return RuntimeModel(model, backend, dtype)


def runtime_model_or_none(model: Any, device: torch.device, dtype: torch.dtype | None) -> RuntimeModel | None:
    """Returns a model for the fastest runtime, or None if that is PyTorch; warns if the conversion fails."""
    backend = fastest(model, device, dtype)
    if backend == "torch":
        return None
    try:
        return runtime_model(model, backend, device, dtype, False)
    except (ValueError, ImportError, ExportError, RuntimeError) as e:
        cause = str(e).splitlines()[0] if str(e) else type(e).__name__
        warnings.warn(f"{backend} is not used, since the conversion failed: {cause}", RuntimeWarning, stacklevel=3)
        return None
