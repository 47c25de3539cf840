"""Models in files that other runtimes read: `export`, `load_exported`. Each format names the extra it needs."""

from vov3d.deploy.export import ExportError, export
from vov3d.deploy.exported import ExportedClassifier, ExportedModel, load_exported

__all__ = ["ExportError", "ExportedClassifier", "ExportedModel", "export", "load_exported"]
