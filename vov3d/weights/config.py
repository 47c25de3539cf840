"""`VideoPretrainedCfg`: timm's description of pretrained weights, with what video adds to it.

timm's builder turns dictionaries into its own class, which refuses the video fields, and wants `(C, H, W)` input
sizes; so the video fields are fields of their own, and dictionaries are converted here before timm sees them.
"""

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from timm.models import PretrainedCfg, get_arch_pretrained_cfgs

from vov3d.weights.tasks import make_task

DEFAULT_ORG = "vov3d"

_SOURCES: dict[str, dict[str, Any]] = {
    "vov3d": dict(
        license="cc-by-nc-4.0",
        origin_url="https://github.com/youngwanLEE/VoV3D",
        paper_name="Diverse Temporal Aggregation and Depthwise Spatiotemporal Factorization for Efficient Video"
        " Classification",
        paper_ids="arXiv:2012.00317",
    ),
    "pytorchvideo": dict(
        license="apache-2.0",
        origin_url="https://github.com/facebookresearch/pytorchvideo",
        paper_name="X3D: Expanding Architectures for Efficient Video Recognition",
        paper_ids="arXiv:2004.04730",
    ),
}

_SEGMENTS: dict[str, Any] = dict(num_classes=174, sampling="segment", frame_stride=None, views=(2, 3))
_PROTOCOLS: dict[str, dict[str, Any]] = {
    "k400": dict(num_classes=400, sampling="dense", views=(10, 3)),
    "ssv1": _SEGMENTS,
    "ssv2": _SEGMENTS,
    "shapes": _SEGMENTS | dict(num_classes=20, views=(1, 1), packaged=True, license="apache-2.0", origin_url=None),
}


@dataclass
class VideoPretrainedCfg(PretrainedCfg):
    """Where weights come from, what they were trained on, and how they want their clips.

    timm's own fields (`url`, `hf_hub_id`, `license`, ...) keep their meaning.

    Attributes:
        input_size: Training crop `(C, H, W)` in pixels.
        test_input_size: Crop of the published evaluation `(C, H, W)` in pixels.
        interpolation: How frames are resized, `"bilinear"` or `"bicubic"`.
        crop_pct: timm's share of the frame that a crop takes; the short side is resized to the crop: 1.
        mean: Mean of each channel that frames in [0, 1] are normalised by.
        std: Standard deviation of each channel that they are normalised by.
        num_classes: Classes of the weights.
        pool_size: Height and width of the last map at the training crop, the window of `forward_dense`.
        first_conv: Name of the first convolution.
        classifier: Name of the last linear layer.
        num_frames: Frames of a clip.
        frame_stride: Frames between two frames of a clip at 30 frames per second; None for segment sampling.
        sampling: `"dense"` (a window of `num_frames * frame_stride` frames) or `"segment"` (the whole video).
        label_set: Names of the classes, one of `vov3d.labels.LABEL_SETS`.
        pretrained_on: Label set that the weights were fine-tuned from.
        views: Temporal clips and spatial crops of the published evaluation.
        top1: Published top-1 accuracy in percent.
        top5: Published top-5 accuracy in percent.
        gmacs_per_view: Published multiply-adds of one view, in 10^9.
        packaged: The weights come with the package.
        causal: The weights are of a causal network, which the model then is unless it is told not to be.
        temperature: What logits are divided by before the softmax, so that scores are as high as the weights are
            often right; None, as for published weights, is 1.
        task: What the outputs mean, one of `vov3d.weights.tasks.TASKS`; None is one label a video.
        heads: For the task `"multihead"`: classes of each head by its name, in the order of the outputs.
        sha256: SHA-256 of the weights' file that a saved configuration was written with.
    """

    input_size: tuple[int, int, int] = (3, 224, 224)
    test_input_size: tuple[int, int, int] | None = (3, 256, 256)
    interpolation: str = "bilinear"
    crop_pct: float = 1.0
    mean: tuple[float, ...] = (0.45, 0.45, 0.45)
    std: tuple[float, ...] = (0.225, 0.225, 0.225)
    num_classes: int = 400
    pool_size: tuple[int, ...] | None = (7, 7)
    first_conv: str | None = "stem.conv_s"
    classifier: str | None = "head.fc"

    num_frames: int = 16
    frame_stride: int | None = 5
    sampling: str = "dense"
    label_set: str | None = None
    pretrained_on: str | None = None
    views: tuple[int, int] = field(default=(10, 3))
    top1: float | None = None
    top5: float | None = None
    gmacs_per_view: float | None = None
    packaged: bool = False
    causal: bool = False
    temperature: float | None = None
    task: str | None = None
    heads: dict[str, int] | None = None
    sha256: str | None = None


def published_cfg(
    name: str,
    url: str | None,
    num_frames: int = 16,
    frame_stride: int = 5,
    *,
    source: str = "vov3d",
    input_size: int = 224,
    test_input_size: int = 256,
    output_stride: int = 32,
    **fields: Any,
) -> VideoPretrainedCfg:
    """Configuration of a published checkpoint.

    Args:
        name: `model.tag`; the tag begins with the label set, and decides classes, sampling and views.
        url: Where its authors published it; None where it comes with the package.
        num_frames: Frames of a clip.
        frame_stride: Frames between two frames of a clip, for dense sampling.
        source: Whose implementation it comes from, `"vov3d"` or `"pytorchvideo"`.
        input_size: Training crop in pixels.
        test_input_size: Crop of the published evaluation in pixels.
        output_stride: Of the network.
        **fields: Other fields of `VideoPretrainedCfg`.
    """
    label_set = name.split(".")[1].split("_")[0]
    protocol: dict[str, Any] = dict(_PROTOCOLS[label_set])
    if protocol["sampling"] == "dense":
        protocol["frame_stride"] = frame_stride
    window = -(-input_size // output_stride)
    return VideoPretrainedCfg(
        url=url,
        hf_hub_id=f"{DEFAULT_ORG}/{name}",
        num_frames=num_frames,
        label_set=label_set,
        input_size=(3, input_size, input_size),
        test_input_size=(3, test_input_size, test_input_size),
        pool_size=(window, window),
        **{**_SOURCES[source], **protocol, **fields},
    )


def unnamed_protocol(num_classes: int) -> dict[str, Any]:
    """Fields for weights that no tag describes: 174 classes are those of Something-Something, sampled by segments."""
    segments = dict(sampling="segment", frame_stride=None, views=(2, 3)) if num_classes == 174 else {}
    return {"num_classes": num_classes, **segments}


def _checked(values: Mapping[str, Any]) -> dict[str, Any]:
    known = [f.name for f in dataclasses.fields(VideoPretrainedCfg)]
    for key in values:
        if key not in known:
            near = get_close_matches(key, known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"pretrained_cfg has no field {key!r}{hint} (a file written by a newer vov3d needs that one)"
            )
    return dict(values)


def resolve_cfg(
    variant: str,
    pretrained_cfg: str | Mapping[str, Any] | PretrainedCfg | None,
    overlay: Mapping[str, Any] | None,
) -> VideoPretrainedCfg:
    """Resolves what timm hands to an entry point into one configuration.

    Args:
        variant: Name of the model.
        pretrained_cfg: A tag, a dictionary (a saved `config.json`), a configuration, or None for the default tag.
        overlay: Fields that replace those of the configuration.

    Raises:
        ValueError: If the tag, a field or the task is not known, or an input size is not `(C, H, W)`.
    """
    if isinstance(pretrained_cfg, PretrainedCfg):
        values = {f.name: getattr(pretrained_cfg, f.name) for f in dataclasses.fields(pretrained_cfg)}
        cfg = VideoPretrainedCfg(**values)
    elif isinstance(pretrained_cfg, Mapping):
        cfg = VideoPretrainedCfg(**_checked(pretrained_cfg))
    else:
        cfg = _registered(variant, pretrained_cfg)
    fields = _checked(overlay or {})
    # A place named for this call is the only one: the tag's other places may hold other weights.
    if ("hf_hub_id" in fields) != ("url" in fields):
        fields["url" if "hf_hub_id" in fields else "hf_hub_id"] = None
        fields["packaged"] = False
    if not cfg.architecture:
        fields.setdefault("architecture", variant)
    if "file" in fields:
        fields.setdefault("sha256", None)
    cfg = dataclasses.replace(cfg, **fields)
    make_task(cfg.task, cfg.heads)
    for key in ("input_size", "test_input_size"):
        size = getattr(cfg, key)
        if size is not None and len(size) != 3:
            raise ValueError(f"{key} must be (C, H, W), got {tuple(size)}; the number of frames is num_frames")
    return cfg


def _registered(variant: str, tag: str | None) -> VideoPretrainedCfg:
    tags = get_arch_pretrained_cfgs(variant)
    name = next(iter(tags)) if tag is None else f"{variant}.{tag}"
    if name not in tags:
        raise ValueError(f"{variant} has no tag {tag!r}; its tags are {', '.join(t.split('.')[1] for t in tags)}")
    cfg = tags[name]
    assert isinstance(cfg, VideoPretrainedCfg)
    # Read at use, so that setting it after the import works as well.
    org = os.environ.get("VOV3D_HUB_ORG") or DEFAULT_ORG
    return dataclasses.replace(cfg, hf_hub_id=f"{org}/{name}")
