"""The file formats of exported models, one module per format, and their table."""

from pathlib import Path

from vov3d.deploy.formats import executorch, onnx, openvino, torch_export
from vov3d.deploy.formats.base import BOUNDS as BOUNDS
from vov3d.deploy.formats.base import FORMS as FORMS
from vov3d.deploy.formats.base import Format
from vov3d.deploy.formats.base import Job as Job
from vov3d.deploy.formats.base import Run as Run
from vov3d.deploy.formats.base import require as require
from vov3d.deploy.formats.onnx import OPSETS as OPSETS

FORMATS = {
    ".onnx": Format("ONNX", onnx, ("fp32", "int8"), ("onnxruntime",), ("onnx", "onnxscript"), files=(".onnx",)),
    ".xml": Format("OpenVINO", openvino, ("fp32", "fp16", "bf16", "int8"), ("openvino",), files=(".bin", ".xml")),
    ".pt2": Format("torch.export", torch_export, ("fp32",), files=(".pt2",)),
    ".pte": Format(
        "ExecuTorch", executorch, ("fp32",), ("executorch",), extra="mobile", forms=("conv2d",), files=(".pte",)
    ),
}
"""The formats by file extension."""


def format_of(path: Path) -> Format:
    """Returns the format of a file by its extension.

    Args:
        path: The file, which need not exist.

    Raises:
        ValueError: If no format has that extension.
    """
    if path.suffix not in FORMATS:
        known = ", ".join(f"{suffix} ({form.title})" for suffix, form in FORMATS.items())
        raise ValueError(f"{path}: exported files end in {known}")
    return FORMATS[path.suffix]
