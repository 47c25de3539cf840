"""Explains predictions: the places and the frames of a clip that raise an output. Needs the extra `explain`."""

from vov3d.interpret.explanation import Explanation
from vov3d.interpret.gradcam import METHODS, explain
from vov3d.interpret.occlusion import FILLS, occlusion
from vov3d.interpret.picture import save_explanations

__all__ = ["FILLS", "METHODS", "Explanation", "explain", "occlusion", "save_explanations"]
