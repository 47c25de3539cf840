"""Backbones for other frameworks: torchvision, MMAction2, Detectron2.

The modules `vov3d.adapters.transformers` and `vov3d.adapters.datasets` are imported by their names.
A framework is imported when it is first needed; if it is missing, the error says how to install it.
"""

from vov3d.adapters.detectron import detectron2_backbone
from vov3d.adapters.mmaction import MMActionBackbone, register_mmaction
from vov3d.adapters.pooled import PooledBackbone

__all__ = ["MMActionBackbone", "PooledBackbone", "detectron2_backbone", "register_mmaction"]
