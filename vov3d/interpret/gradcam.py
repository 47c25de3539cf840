"""Grad-CAM and its relatives over space and time, by the package grad-cam."""

from typing import Any

import torch
from torch import nn

from vov3d.extras import install
from vov3d.interpret._alignment import enlarged, stride_of
from vov3d.interpret._clip import Clip, clip_of, scores_of
from vov3d.interpret._network import check_network, left_as_found, name_of, place_of
from vov3d.interpret._target import Wanted, find_target
from vov3d.interpret.explanation import Explanation
from vov3d.models.network import VideoNetwork
from vov3d.video.predictions import predictions_of
from vov3d.video.sources import Source
from vov3d.weights.tasks import task_of

__all__ = ["METHODS", "explain"]

METHODS = {
    "hirescam": "HiResCAM",
    "gradcam": "GradCAM",
    "gradcam++": "GradCAMPlusPlus",
    "layercam": "LayerCAM",
    "xgradcam": "XGradCAM",
}
"""Methods, with the names of their classes in the package grad-cam."""


def explain(
    model: nn.Module,
    clip: Source,
    target: Wanted = None,
    *,
    method: str = "hirescam",
    layer: str | None = None,
    fps: float | None = None,
    backend: str | None = None,
) -> Explanation:
    """Shows where and when a clip speaks for one output of a model.

    The map is the product of a layer's activations and the output's gradients, summed over the channels (HiResCAM);
    only what raises the output is kept. It is enlarged to the frames by interpolation between the centres of
    receptive fields. The networks never stride time, so that each frame has its own map; in a causal network it
    stands at the newest frame that it depends on. The model is left as it was: mode, gradients and hooks.

    Args:
        model: VoV3D or X3D with a classifier, also a causal one or one for another task; neither optimized nor
            exported.
        clip: Normalised floating-point clip `(C, T, H, W)` or `(1, C, T, H, W)`; or a video, as for
            `VideoClassifier`, of which the middle clip and the centre crop are taken.
        target: Name or number of the output to explain. For several heads also a class of each, such as
            `("open", "door")`, whose outputs are added up. If None, what the model predicts.
        method: One of `METHODS`.
        layer: Name of the layer whose map is taken, such as `"stages.1"` or `"head.act1"`; the last stage but one if
            None.
        fps: Frames per second of frames given as an array or a folder, as for `VideoClassifier`.
        backend: What decodes video files, as for `VideoReader`.

    Returns:
        The explanation.

    Raises:
        ValueError: If the model cannot be explained, or the clip, an output, a method or a layer does not fit.
        VideoError: If the video gives no frames.
        ImportError: If grad-cam is not installed.
    """
    network = check_network(model)
    make = _method(method)
    name = layer or _default_layer(network)
    part = _part(network, name)
    with left_as_found(network):
        found = clip_of(network, clip, fps, backend)
        return _explained(network, found, target, method, make, name, part)


def _method(method: str) -> Any:
    """Returns a class of the package grad-cam."""
    if method not in METHODS:
        raise ValueError(f"method is {method!r}: use one of {', '.join(METHODS)}")
    try:
        import pytorch_grad_cam
    except ImportError as error:
        raise ImportError(f"explaining a model needs grad-cam: {install('explain')}") from error
    return getattr(pytorch_grad_cam, METHODS[method])


def _default_layer(network: VideoNetwork) -> str:
    """Returns the last stage but one: its map is twice as fine, and follows the shape more closely (measured)."""
    return f"stages.{max(len(network.stages) - 2, 0)}"


def _part(network: VideoNetwork, name: str) -> nn.Module:
    if name.partition(".")[0] not in ("stem", "stages", "head"):
        raise ValueError(f"layer is {name!r}: name a part of stem, stages or head, such as 'stages.1' or 'head.act1'")
    try:
        return network.get_submodule(name)
    except AttributeError:
        last = f"stages.{len(network.stages) - 1}"
        raise ValueError(f"the model has no layer {name!r}; its stages are stages.0 to {last}") from None


def _explained(
    network: VideoNetwork, clip: Clip, wanted: Wanted, method: str, make: Any, name: str, part: nn.Module
) -> Explanation:
    # The caller may have switched gradients off.
    with torch.inference_mode(False), torch.enable_grad():
        values = clip.values.detach().clone().to(**place_of(network)).requires_grad_()  # type: ignore[call-overload]
        cam = make(network, [part])
        try:
            outputs = averaged(cam.activations_and_grads(values))
            scores = scores_of(network, outputs) if clip.scores is None else clip.scores
            task = task_of(network)
            target, indices = find_target(task, scores, clip.names, wanted)
            outputs[0, indices].sum().backward()
            raw = _map(cam, part, values, name)
        finally:
            cam.activations_and_grads.release()
    size = (int(values.shape[3]), int(values.shape[4]))
    reductions = [info["reduction"] for info in network.feature_info]
    stride = stride_of(name, reductions, size, (raw.shape[1], raw.shape[2]))
    positive = enlarged(raw.clamp(min=0), size, stride)
    per_frame = raw.clamp(min=0).mean((1, 2))
    return Explanation(
        model=name_of(network),
        target=target,
        predictions=predictions_of(task, scores, clip.names, None),
        map=_scaled(positive, positive.max()),
        per_frame=_scaled(per_frame, per_frame.sum()),
        raw=raw,
        frames=clip.frames,
        times=clip.times,
        method=method,
        layer=name,
    )


def averaged(outputs: torch.Tensor) -> torch.Tensor:
    """Returns outputs `(B, num_classes)`; those of a head without pooling are averaged over the clip.

    Raises:
        ValueError: If they are not finite.
    """
    outputs = outputs if outputs.ndim == 2 else outputs.flatten(2).mean(2)
    if not outputs.isfinite().all():
        raise ValueError("the outputs of the model are not finite, so they cannot be explained: check its weights")
    return outputs


def _map(cam: Any, part: nn.Module, values: torch.Tensor, name: str) -> torch.Tensor:
    """Returns the signed map `(T, H', W')` of the package.

    The package would also enlarge it, but as if its corners were those of the frames.
    """
    kept = cam.activations_and_grads
    if not kept.gradients or kept.activations[0].ndim != 5 or kept.activations[0].shape[2] != values.shape[2]:
        raise ValueError(f"layer {name!r} gives no map of space and time that the output depends on; name another")
    activations, gradients = (t[0].float().numpy() for t in (kept.activations, kept.gradients))
    found = cam.get_cam_image(values, part, None, activations, gradients, False)
    return torch.as_tensor(found, dtype=torch.float32)[0]


def _scaled(values: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    return values / whole if whole > 0 else torch.zeros_like(values)
