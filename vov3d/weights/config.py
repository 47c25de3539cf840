"""`VideoPretrainedCfg`: timm's description of pretrained weights, with fields for video.

timm's builder turns dictionaries into its own class, which rejects the video fields, and needs `(C, H, W)` input
sizes; so the video fields are separate, and dictionaries are converted here before they are passed to timm.
"""

import dataclasses
import math
import os
from collections.abc import Collection, Mapping, MutableMapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from numbers import Integral, Real
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

_OF_CLASSIFIER = frozenset(("label_set", "label_names", "task", "heads", "temperature", "clip_seconds"))

_SEGMENTS: dict[str, Any] = dict(num_classes=174, sampling="segment", frame_stride=None, views=(2, 3), clip_seconds=4.0)
_PROTOCOLS: dict[str, dict[str, Any]] = {
    "k400": dict(num_classes=400, sampling="dense", views=(10, 3)),
    "ssv1": _SEGMENTS,
    "ssv2": _SEGMENTS,
    "shapes": _SEGMENTS
    | dict(num_classes=20, views=(1, 1), clip_seconds=1.6, packaged=True, license="apache-2.0", origin_url=None),
}


@dataclass
class VideoPretrainedCfg(PretrainedCfg):
    """Origin of weights, their training data, and the clips that they expect.

    timm's own fields (`url`, `hf_hub_id`, `license`, ...) keep their meaning.

    Attributes:
        input_size: Training crop `(C, H, W)` in pixels.
        test_input_size: Crop of the published evaluation `(C, H, W)` in pixels.
        interpolation: Interpolation for resizing frames, `"bilinear"` or `"bicubic"`.
        crop_pct: timm's ratio of crop to resized frame; 1, since the short side is resized to the crop.
        mean: Mean of each channel, to normalise frames in [0, 1].
        std: Standard deviation of each channel, to normalise frames in [0, 1].
        num_classes: Classes of the weights.
        pool_size: Height and width of the last map at the training crop, the window of `forward_dense`.
        first_conv: Name of the first convolution.
        classifier: Name of the last linear layer.
        num_frames: Frames of a clip.
        frame_stride: Frames between two frames of a clip at 30 frames per second; None for segment sampling.
        sampling: `"dense"` (a window of `num_frames * frame_stride` frames) or `"segment"` (the whole video).
        clip_seconds: For segment sampling, the usual length of the training videos in seconds; None if it is not known.
        label_set: Names of the classes, one of `vov3d.labels.LABEL_SETS`.
        pretrained_on: Label set that the weights were fine-tuned from.
        views: Temporal clips and spatial crops of the published evaluation.
        top1: Published top-1 accuracy in percent.
        top5: Published top-5 accuracy in percent.
        gmacs_per_view: Published multiply-adds of one view, in 10^9.
        packaged: The weights come with the package.
        causal: The weights are of a causal network; the model is then causal by default.
        temperature: Divisor of the logits before the softmax, which calibrates the scores; None, as for published
            weights, is 1.
        task: Meaning of the outputs, one of `vov3d.weights.tasks.TASKS`; None is one label per video.
        heads: For the task `"multihead"`: number of classes of each head by its name, in the order of the outputs.
        sha256: SHA-256 of the weights' file that was saved with the configuration.
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
    clip_seconds: float | None = None
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
    """Builds the configuration of a published checkpoint.

    Args:
        name: `model.tag`; the tag begins with the label set, which decides classes, sampling and views.
        url: Address at which its authors published it; None if it comes with the package.
        num_frames: Frames of a clip.
        frame_stride: Frames between two frames of a clip, for dense sampling.
        source: Implementation that it comes from, `"vov3d"` or `"pytorchvideo"`.
        input_size: Training crop in pixels.
        test_input_size: Crop of the published evaluation in pixels.
        output_stride: Output stride of the network.
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
    """Returns fields for weights without a tag; 174 classes mean Something-Something, sampled by segments."""
    segments = dict(sampling="segment", frame_stride=None, views=(2, 3)) if num_classes == 174 else {}
    return {"num_classes": num_classes, **segments}


def forget_classifier(cfg: MutableMapping[str, Any], keep: Collection[str] = ()) -> None:
    """Removes from a configuration what describes a classifier that is gone.

    Args:
        cfg: A model's `pretrained_cfg`.
        keep: Fields that hold for the new classifier.
    """
    for key in _OF_CLASSIFIER.difference(keep):
        cfg.pop(key, None)


def _checked(values: Mapping[str, Any]) -> dict[str, Any]:
    known = [f.name for f in dataclasses.fields(VideoPretrainedCfg)]
    for key in values:
        if key not in known:
            near = get_close_matches(key, known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"pretrained_cfg has no field {key!r}{hint} (a file written by a newer vov3d needs that version)"
            )
    return dict(values)


def resolve_cfg(
    variant: str,
    pretrained_cfg: str | Mapping[str, Any] | PretrainedCfg | None,
    overlay: Mapping[str, Any] | None,
) -> VideoPretrainedCfg:
    """Resolves timm's arguments of an entry point into one configuration.

    Args:
        variant: Name of the model.
        pretrained_cfg: A tag, a dictionary (a saved `config.json`), a configuration, or None for the default tag.
        overlay: Fields that replace those of the configuration.

    Raises:
        ValueError: If the tag, a field, the task or the sampling is not known, an input size is not `(C, H, W)`, or
            frames or their distance are no numbers.
    """
    if isinstance(pretrained_cfg, PretrainedCfg):
        values = {f.name: getattr(pretrained_cfg, f.name) for f in dataclasses.fields(pretrained_cfg)}
        cfg = VideoPretrainedCfg(**values)
    elif isinstance(pretrained_cfg, Mapping):
        cfg = VideoPretrainedCfg(**_checked(pretrained_cfg))
    else:
        cfg = _registered(variant, pretrained_cfg)
    fields = _checked(overlay or {})
    # A source given for this call is the only one used: the tag's other sources may have other weights.
    if ("hf_hub_id" in fields) != ("url" in fields):
        fields["url" if "hf_hub_id" in fields else "hf_hub_id"] = None
        fields["packaged"] = False
    if not cfg.architecture:
        fields.setdefault("architecture", variant)
    if "file" in fields:
        fields.setdefault("sha256", None)
    cfg = dataclasses.replace(cfg, **fields)
    if cfg.sampling == "segment":  # a stride has no effect, and saved files do not state that there is none
        cfg.frame_stride = None
        if cfg.clip_seconds is None:  # files of earlier versions do not state it
            cfg.clip_seconds = _PROTOCOLS.get(cfg.label_set or "", {}).get("clip_seconds")
    else:
        cfg.clip_seconds = None
    make_task(cfg.task, cfg.heads)
    _check_clip(cfg)
    for key in ("input_size", "test_input_size"):
        size = getattr(cfg, key)
        if size is not None and len(size) != 3:
            raise ValueError(f"{key} must be (C, H, W), got {tuple(size)}; the number of frames is num_frames")
    return cfg


def _check_clip(cfg: VideoPretrainedCfg) -> None:
    """Raises an error for a sampling that is not known, and for lengths that are no numbers."""
    if cfg.sampling not in ("dense", "segment"):
        raise ValueError(f"sampling must be 'dense' or 'segment', got {cfg.sampling!r}")
    if not isinstance(cfg.num_frames, Integral) or cfg.num_frames < 1:
        raise ValueError(f"num_frames must be a whole number from 1, got {cfg.num_frames!r}")
    for key in ("frame_stride", "clip_seconds"):
        value = getattr(cfg, key)
        if value is not None and not (isinstance(value, Real) and 0 < value < math.inf):
            raise ValueError(f"{key} must be a positive, finite number, got {value!r}")


def _registered(variant: str, tag: str | None) -> VideoPretrainedCfg:
    tags = get_arch_pretrained_cfgs(variant)
    name = next(iter(tags)) if tag is None else f"{variant}.{tag}"
    if name not in tags:
        raise ValueError(f"{variant} has no tag {tag!r}; its tags are {', '.join(t.split('.')[1] for t in tags)}")
    cfg = tags[name]
    assert isinstance(cfg, VideoPretrainedCfg)
    # Read when it is used, so that it can be set after the import.
    org = os.environ.get("VOV3D_HUB_ORG") or DEFAULT_ORG
    return dataclasses.replace(cfg, hf_hub_id=f"{org}/{name}")
