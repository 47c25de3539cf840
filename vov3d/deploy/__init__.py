"""One call to a fast model: `optimize_for_inference`. It needs torch only."""

from vov3d.deploy.inference import optimize_for_inference

__all__ = ["optimize_for_inference"]
