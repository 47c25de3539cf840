"""Makes models fast: in PyTorch (`optimize_for_inference`) or in files for other runtimes (`export`).

Each file format names the extra that it needs.
"""

from vov3d.deploy._export import ExportError, Report, check_path, export, export_and_report
from vov3d.deploy._exported import ExportedClassifier, ExportedModel, ExportedStream, load_exported
from vov3d.deploy._optimize import optimize_for_inference
from vov3d.deploy._runtimes import BACKENDS, RuntimeModel
from vov3d.deploy._streaming import StreamingNetwork, streaming

__all__ = [
    "BACKENDS",
    "ExportError",
    "ExportedClassifier",
    "ExportedModel",
    "ExportedStream",
    "Report",
    "RuntimeModel",
    "StreamingNetwork",
    "check_path",
    "export",
    "export_and_report",
    "load_exported",
    "optimize_for_inference",
    "streaming",
]
