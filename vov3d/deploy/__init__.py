"""Models made fast, here (`optimize_for_inference`, torch only) or in files of other runtimes (`export`).

Each file format names the extra that it needs.
"""

from vov3d.deploy._streaming import StreamingNetwork, streaming
from vov3d.deploy.export import ExportError, export
from vov3d.deploy.exported import ExportedClassifier, ExportedModel, ExportedStream, load_exported
from vov3d.deploy.inference import optimize_for_inference

__all__ = [
    "ExportError",
    "ExportedClassifier",
    "ExportedModel",
    "ExportedStream",
    "StreamingNetwork",
    "export",
    "load_exported",
    "optimize_for_inference",
    "streaming",
]
