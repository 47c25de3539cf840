"""Backbones in the forms that other frameworks take: torchvision, MMAction2, Detectron2.

A framework is imported when it is first needed, with an error that says what installs it.
"""

from vov3d.adapters.detectron import detectron2_backbone
from vov3d.adapters.mmaction import MMActionBackbone, register_mmaction
from vov3d.adapters.pooled import PooledBackbone

__all__ = ["MMActionBackbone", "PooledBackbone", "detectron2_backbone", "register_mmaction"]
