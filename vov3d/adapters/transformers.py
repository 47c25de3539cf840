"""Hugging Face transformers: configuration, models and video processor for VoV3D and X3D.

Importing this module registers them with the Auto classes. `vov3d.save_pretrained(model, folder, transformers=True)`
writes a folder that both libraries load, from the same file of weights and with equal outputs.
"""

from __future__ import annotations

import copy
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from vov3d.extras import install

try:
    from transformers import (
        AutoConfig,
        AutoModel,
        AutoModelForVideoClassification,
        AutoVideoProcessor,
        PreTrainedConfig,
        PreTrainedModel,
    )
    from transformers.image_processing_utils import BatchFeature
    from transformers.modeling_outputs import BaseModelOutputWithPoolingAndNoAttention, ImageClassifierOutput
    from transformers.models.auto.modeling_auto import MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES
    from transformers.processing_utils import VideosKwargs
    from transformers.video_processing_utils import BaseVideoProcessor
except ImportError as error:
    raise ImportError(f"vov3d.adapters.transformers needs transformers: {install('transformers')}") from error

from vov3d.adapters.datasets import video_source
from vov3d.files import replacing
from vov3d.hub.saving import describe
from vov3d.hub.transformers_files import (
    AUTO_MAP,
    LOADER,
    LOADER_SOURCE,
    MODEL_TYPE,
    PROBLEM_TYPES,
    PROCESSOR_AUTO_MAP,
    default_names,
    interpolation_of,
    label_maps,
)
from vov3d.models import create_model, is_model, list_models
from vov3d.models.family import Family, families
from vov3d.models.network import init_weights
from vov3d.models.saved import own_arguments, without_places
from vov3d.video import VideoReader, eval_transform, plan_clips
from vov3d.video.sources import is_file, is_frames
from vov3d.weights.config import forget_classifier, resolve_cfg
from vov3d.weights.state_dict import digest, some
from vov3d.weights.tasks import Task, make_task, set_task, task_of

__all__ = ["VoV3DConfig", "VoV3DForVideoClassification", "VoV3DModel", "VoV3DVideoProcessor"]

# Clip settings; the other fields describe weights, which a new network does not have.
_CLIP_FIELDS = (
    *("input_size", "test_input_size", "interpolation", "crop_pct", "mean", "std", "pool_size"),
    *("num_frames", "frame_stride", "sampling", "first_conv", "classifier"),
)
_TASK = ("task", "heads")  # of a new classifier too: problem_type says which it has
# Keys of timm's `config.json` that repeat others or describe the file.
_REPEATED = ("num_features", "source")


class VoV3DConfig(PreTrainedConfig):
    """Configuration of a VoV3D or an X3D, for transformers.

    Beside its own fields it takes, by name, the arguments of the model, which go into `model_args`, and those of
    transformers' `PreTrainedConfig`: `num_labels` is the number of classes.

    Attributes:
        architecture: A model of `vov3d.list_models`.
        model_args: Arguments of `vov3d.create_model` that make it another one: `conv`, `depths`, `causal`, ...
        pretrained_cfg: What clips the weights want, the `pretrained_cfg` of a model, or some of its fields; the others
            are those that the architecture was published with.
        num_frames: Frames of a clip; those of `pretrained_cfg` if None.
        dense_logits: In evaluation, the softmax of the logits is the score that `vov3d.VideoClassifier` shows: they
            are the logarithm of what `forward_dense` gives, or of a network that pools by more than the average its
            logits divided by the temperature; for one label a clip.

    `problem_type` and the task of `pretrained_cfg` agree: one that is given decides, else it follows from the task.

    Raises:
        ValueError: If there is no such architecture, or it takes no such arguments.
    """

    model_type = MODEL_TYPE

    architecture: str = "vov3d_m"
    model_args: dict[str, Any] | None = None
    pretrained_cfg: dict[str, Any] | None = None
    num_frames: int | None = None
    dense_logits: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        own = own_arguments(_family(self.architecture)) - {"num_classes"}
        self.model_args = {**(self.model_args or {}), **{k: kwargs.pop(k) for k in own & kwargs.keys()}}
        if unknown := self.model_args.keys() - own - {"num_classes", "surgery"}:
            raise ValueError(
                f"model_args have {some(sorted(unknown))}, which no model of this package takes; those of "
                f"{self.architecture} are {', '.join(sorted(own))}"
            )
        given = dict(self.pretrained_cfg or {})
        if "num_frames" not in given:  # none, or some fields; saved ones are whole
            given = _clips_of(self.architecture) | given
        if "label_descriptions" in kwargs:
            given["label_descriptions"] = kwargs.pop("label_descriptions")
        own_names = {"num_classes", "label_names", "sha256"}
        self.pretrained_cfg = without_places("config.json", {k: v for k, v in given.items() if k not in own_names})
        self.num_frames = self.pretrained_cfg["num_frames"] if self.num_frames is None else self.num_frames

        names, classes = kwargs.pop("label_names", None), kwargs.pop("num_classes", None)
        classes = classes if classes is not None else self.model_args.pop("num_classes", None)  # older files
        wanted = kwargs.get("num_labels")
        if self.id2label is None and names and wanted in (None, len(names)):
            self.id2label = dict(enumerate(names))
            self.label2id = label_maps(names)["label2id"]
        elif self.id2label is not None and wanted not in (None, len(self.id2label)):
            self.id2label = self.label2id = None  # names of another classifier
            forget_classifier(self.pretrained_cfg, keep=_TASK)
        if self.id2label is None and classes:
            kwargs.setdefault("num_labels", classes)
        super().__post_init__(**{k: v for k, v in kwargs.items() if k not in (*_REPEATED, "auto_map")})
        self.match_task()

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Makes a configuration from the content of `config.json`.

        Args:
            config_dict: The content.
            **kwargs: Values that replace those of the file: fields of the configuration, and arguments of the network,
                as in `from_pretrained(folder, drop_path_rate=0.1)`.

        Returns:
            The configuration; with `return_unused_kwargs` a pair of it and the other arguments.
        """
        own = own_arguments(_family(config_dict.get("architecture", cls.architecture))) - {"num_classes"}
        if given := {key: kwargs.pop(key) for key in own & kwargs.keys()}:
            config_dict = config_dict | {"model_args": {**(config_dict.get("model_args") or {}), **given}}
        return super().from_dict(config_dict, **kwargs)

    def match_task(self) -> Task:
        """Makes `problem_type` and the task of `pretrained_cfg` agree, and returns the task.

        A `problem_type` decides; without one it follows from the task. Heads whose classes are not `num_labels` belong
        to another classifier and are dropped.

        Raises:
            ValueError: If the task is not known or does not fit its heads.
        """
        cfg: Any = self.pretrained_cfg
        task = make_task(cfg.pop("task", None), cfg.pop("heads", None))
        if task.heads and sum(classes for _, classes in task.heads) != self.num_labels:
            task = make_task(None)
        if self.problem_type is None:
            self.problem_type = cast(Any, PROBLEM_TYPES.get(task.name))
        else:
            task = make_task({problem: name for name, problem in PROBLEM_TYPES.items()}.get(self.problem_type))
        cfg |= task.fields()
        return task

    @property
    def label_names(self) -> list[str] | None:
        """Class names in index order; None if they are the `LABEL_0`, `LABEL_1`, ... of transformers.

        Raises:
            ValueError: If `id2label` does not number the classes from 0.
        """
        by_index: Any = self.id2label
        if lacking := sorted(set(range(len(by_index))) - by_index.keys()):
            raise ValueError(f"id2label must number its {len(by_index)} classes from 0, and lacks {lacking[0]}")
        names = [by_index[i] for i in range(len(by_index))]
        return None if names == default_names(len(names)) else names

    def to_dict(self) -> dict[str, Any]:
        """Returns the content of `config.json`, with the keys of timm and `vov3d.create_model`."""
        headless = self.architectures == [VoV3DModel.__name__]
        names = None if headless else self.label_names
        shared = {"num_classes": 0 if headless else self.num_labels, "auto_map": dict(AUTO_MAP)}
        return super().to_dict() | shared | ({"label_names": names} if names else {})

    def to_json_string(self, use_diff: bool = True) -> str:
        """Returns `config.json` as text; heads keep their order, since outputs follow it.

        Args:
            use_diff: Leaves out values that are transformers' defaults.
        """
        text = super().to_json_string(use_diff)  # with sorted keys
        heads = (self.pretrained_cfg or {}).get("heads")
        content = json.loads(text)
        if not heads or "pretrained_cfg" not in content:
            return text
        content["pretrained_cfg"]["heads"] = heads
        return json.dumps(content, indent=2) + "\n"

    def save_pretrained(self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any) -> None:
        """Saves `config.json` and the loader for `trust_remote_code=True`.

        Args:
            save_directory: The folder; made if it is not there.
            push_to_hub: Uploads it afterwards.
            **kwargs: Those of transformers.
        """
        _write_loader(save_directory)
        super().save_pretrained(save_directory, push_to_hub, **kwargs)

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoConfig") -> None:
        """Does nothing: the loader in saved folders imports the class from this package."""


def _write_loader(folder: str | os.PathLike[str]) -> None:
    Path(folder).mkdir(parents=True, exist_ok=True)
    with replacing(Path(folder) / LOADER) as draft:
        draft.write_text(LOADER_SOURCE, encoding="utf-8")


def _family(architecture: str) -> Family:
    found = next((family for family in families() if architecture in family.variants), None)
    if found is None or not is_model(architecture):
        raise ValueError(f"architecture={architecture!r} is not known; use one of {', '.join(list_models())}")
    return found


def _clips_of(architecture: str) -> dict[str, Any]:
    """Returns the clip settings that an architecture was published with."""
    fields = asdict(resolve_cfg(architecture, None, None))
    return {key: fields[key] for key in _CLIP_FIELDS}


class VoV3DPreTrainedModel(PreTrainedModel):
    """Base of both models: builds, loads, saves and checkpoints the network.

    Attributes:
        model: The network of this package; it takes clips `(B, C, T, H, W)`.
    """

    config_class = VoV3DConfig
    base_model_prefix = "model"
    main_input_name = "pixel_values"
    input_modalities: Any = ("video",)
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False
    _no_split_modules: Any = ("Stem3d", "Stage", "ClassifierHead3d")

    model: Any
    config: VoV3DConfig

    def _build(self, num_classes: int) -> None:
        config = self.config
        args = {**(config.model_args or {}), "num_classes": num_classes}
        task = config.match_task()
        cfg = {**(config.pretrained_cfg or {}), "num_frames": config.num_frames, "num_classes": num_classes}
        if not num_classes:
            for key in task.fields():
                del cfg[key]
        if config.label_names and num_classes:
            cfg["label_names"] = config.label_names
        # Named as a folder, so that the builder checks the bounds of all values.
        place = {"source": "local-dir", "file": config.name_or_path or "VoV3DConfig"}
        self.model = create_model(config.architecture, pretrained_cfg=cfg | place, **args)
        for tensor in (*self.model.parameters(), *self.model.buffers()):
            if not tensor.is_meta:  # initialized by the network; transformers would do it again
                tensor._is_hf_initialized = True
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initializes tensors that are missing in the file, as the network initializes its own."""
        if isinstance(module, nn.Conv3d):
            init_weights(module)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)
        else:
            super()._init_weights(module)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *model_args: Any, **kwargs: Any) -> Any:
        """Loads a model that transformers or this package saved.

        Args:
            pretrained_model_name_or_path: A folder, or a repository of the Hub.
            *model_args: Those of transformers.
            **kwargs: Those of transformers, such as `num_labels`, `ignore_mismatched_sizes` or `dtype`, fields of the
                configuration, and arguments of the network, such as `drop_path_rate`.

        Returns:
            The model in eval mode; with `output_loading_info` a pair of it and what was found.
        """
        wanted = kwargs.pop("output_loading_info", False)
        found: Any = super().from_pretrained(
            pretrained_model_name_or_path, *model_args, output_loading_info=True, **kwargs
        )
        model, info = found
        network, cfg = model.model, model.config.pretrained_cfg
        if not info["missing_keys"] and not any(p.is_meta for p in network.parameters()):
            # The configuration describes these weights until they are trained.
            network.weights_digest = digest(network)
            if info["mismatched_keys"]:
                forget_classifier(network.pretrained_cfg, keep=_TASK)
                forget_classifier(cfg, keep=_TASK)
            if cfg.get("temperature"):
                network.pretrained_cfg["temperature"] = cfg["temperature"]
        return (model, info) if wanted else model

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Saves the model for transformers and for `vov3d.create_model("local-dir:...", pretrained=True)`.

        Args:
            save_directory: The folder; made if it is not there.
            *args: Those of transformers.
            **kwargs: Those of transformers, such as `max_shard_size`.

        Raises:
            ValueError: If the network was changed in ways that the configuration cannot hold.
        """
        whole = all(type(p) is nn.Parameter and not p.is_meta for p in self.model.parameters())
        if whole and not getattr(self, "_hf_peft_config_loaded", False):
            self._describe()
        super().save_pretrained(save_directory, *args, **kwargs)

    def _describe(self) -> None:
        """Updates the configuration from the network: surgery, and facts of the weights that still hold."""
        network = copy.deepcopy(self.model).float()
        task = self.config.match_task()  # the loss may have set problem_type
        if network.num_classes and task != task_of(network):
            set_task(network, task)
        found = describe(network, self.config.label_names if network.num_classes else None)
        kept = {k: v for k, v in (self.config.model_args or {}).items() if k != "surgery"}
        self.config.model_args = kept | found["model_args"]
        cfg = {k: v for k, v in found["pretrained_cfg"].items() if k != "num_classes"}
        self.config.pretrained_cfg = cfg | {"num_frames": self.config.num_frames}

    def _set_gradient_checkpointing(
        self, enable: bool = True, gradient_checkpointing_func: Any = None, every_n_layers: int = 1
    ) -> None:
        settings = getattr(gradient_checkpointing_func, "keywords", None) or {}
        offloads = getattr(gradient_checkpointing_func, "func", checkpoint) is not checkpoint
        if enable and (every_n_layers != 1 or offloads or settings.get("use_reentrant") or len(settings) > 1):
            raise ValueError(
                "activation checkpointing recomputes every block, with use_reentrant=False, and offloads nothing; leave"
                f" out other settings (given: {settings}, every_n_layers={every_n_layers}, offload={offloads})"
            )
        self.model.set_grad_checkpointing(enable)

    @property
    def is_gradient_checkpointing(self) -> bool:
        """True if stages recompute their blocks in the backward pass."""
        return any(getattr(module, "grad_checkpointing", False) for module in self.modules())

    def get_input_embeddings(self) -> Any:
        """Returns None: the models have no token embeddings."""

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoModel") -> None:
        """Does nothing: the loader in saved folders imports the class from this package."""

    def _clip(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Returns `(B, T, C, H, W)` as `(B, C, T, H, W)` in the network's precision."""
        chans = self.model.in_chans
        if pixel_values.ndim != 5 or pixel_values.shape[2] != chans or not pixel_values.is_floating_point():
            raise ValueError(
                f"expected pixel_values (B, T, {chans}, H, W) of a float type, got {tuple(pixel_values.shape)} of "
                f"{pixel_values.dtype}; the video processor gives them, vov3d.create_model's networks take (B, C, T, H,"
                " W)"
            )
        return pixel_values.to(self.dtype).transpose(1, 2)

    def _maps(self, clip: torch.Tensor, wanted: bool | None) -> tuple[torch.Tensor, tuple[torch.Tensor, ...] | None]:
        """Returns the last feature map and all maps, or None for the latter if they are not wanted."""
        if not (self.config.output_hidden_states if wanted is None else wanted):
            return self.model.forward_features(clip), None
        last, maps = self.model.forward_intermediates(clip)
        return last, tuple(maps)

    def _given(self, output: Any, return_dict: bool | None) -> Any:
        return output if (self.config.return_dict if return_dict is None else return_dict) else output.to_tuple()


class VoV3DModel(VoV3DPreTrainedModel):
    """A backbone: the network without its classifier.

    Args:
        config: The configuration.
    """

    _keys_to_ignore_on_load_unexpected: Any = (r"(^|\.)head\.fc\.",)

    def __init__(self, config: VoV3DConfig) -> None:
        super().__init__(config)
        self._build(0)

    def forward(
        self,
        pixel_values: torch.Tensor,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Returns feature maps and the pooled features of clips.

        Args:
            pixel_values: `(B, T, C, H, W)`, as the video processor gives them.
            output_hidden_states: Gives all maps.
            return_dict: False gives a tuple.

        Returns:
            `last_hidden_state`, the last map `(B, C', T, H', W')`; `pooler_output`, the vector that a classifier takes
            `(B, hidden)`; `hidden_states`, the maps of the stem and of each stage `(B, C', T, H', W')`.

        Raises:
            ValueError: If clips have another form.
        """
        last, maps = self._maps(self._clip(pixel_values), output_hidden_states)
        pooled = self.model.forward_head(last, pre_logits=True)
        output = BaseModelOutputWithPoolingAndNoAttention(
            last_hidden_state=last, pooler_output=pooled, hidden_states=maps
        )
        return self._given(output, return_dict)


class VoV3DForVideoClassification(VoV3DPreTrainedModel):
    """A network with its classifier, for one label, many labels or regression.

    Args:
        config: The configuration; `num_labels` is the number of classes.

    Raises:
        ValueError: If there are no classes, or `dense_logits` are asked for and several labels or values are predicted.
    """

    def __init__(self, config: VoV3DConfig) -> None:
        super().__init__(config)
        if not config.num_labels:
            raise ValueError("the configuration has no classes; give num_labels, or take VoV3DModel for features")
        self._task = config.match_task()
        if config.dense_logits and not self._task.single:
            raise ValueError(
                f"dense_logits=True averages a softmax, and problem_type is {config.problem_type!r} (task"
                f" {self._task.name!r}); leave it out"
            )
        self.num_labels = config.num_labels
        self._build(config.num_labels)

    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Classifies clips.

        Args:
            pixel_values: `(B, T, C, H, W)`, as the video processor gives them.
            labels: Class indices `(B,)`; 0 and 1 for each class `(B, num_labels)` in floats for many labels; or values
                `(B,)` or `(B, num_labels)` for regression: what `problem_type` of the configuration says, which is
                found by their type and `num_labels` where it says nothing.
            output_hidden_states: Gives all feature maps.
            return_dict: False gives a tuple.

        Returns:
            `loss`, where labels were given; `logits` `(B, num_labels)`; `hidden_states`, the maps of the stem and of
            each stage `(B, C', T, H', W')`.

        Raises:
            ValueError: If clips have another form, or labels are given to a model of several heads.
        """
        if labels is not None and self._task.heads:
            raise ValueError("transformers has no loss for several heads; leave out labels, and compute it from logits")
        clip = self._clip(pixel_values)
        last, maps = self._maps(clip, output_hidden_states)
        dense = self.config.dense_logits and not self.training
        logits = self._dense_logits(last) if dense else self.model.forward_head(last)
        loss = None if labels is None else self.loss_function(labels, logits, self.config)
        return self._given(ImageClassifierOutput(loss=loss, logits=logits, hidden_states=maps), return_dict)

    def _dense_logits(self, features: torch.Tensor) -> torch.Tensor:
        """Returns logits whose softmax are the scores of `VideoClassifier`."""
        if "max" in self.model.head.global_pool.pool_type:  # no window slides over the map
            return self.model.forward_head(features) / self.model.temperature
        window = self.model.pretrained_cfg.get("pool_size") or features.shape[3:]
        scores = self.model.head.forward_dense(features, tuple(window), self.model.temperature)
        return scores.clamp_min(torch.finfo(scores.dtype).tiny).log()


class VoV3DVideosKwargs(VideosKwargs, total=False):
    """Settings of this video processor beyond those of transformers.

    Attributes:
        sampling: `"dense"` (frames at equal distances) or `"segment"` (one of each equal part of the video).
        frame_stride: Distance of the frames of a dense clip, in frames at 30 per second.
    """

    sampling: str | None
    frame_stride: float | int | None


class VoV3DVideoProcessor(BaseVideoProcessor):
    """Prepares videos for the models, as `vov3d.VideoClassifier` does with `views="1x1"`.

    Files are decoded by `vov3d.video.VideoReader`, and the frames of one clip are taken by the model's own plan. Frames
    in an array or a list are one clip as they are where there are `num_frames` of them; others are sampled as a video.
    The settings are those of transformers' video processors, `sampling` and `frame_stride`, all by keyword.
    """

    valid_kwargs: Any = VoV3DVideosKwargs
    model_input_names: Any = ("pixel_values",)
    resample = 2
    size = {"shortest_edge": 256}  # noqa: RUF012 (transformers copies them)
    crop_size = {"height": 256, "width": 256}  # noqa: RUF012
    default_to_square = False
    image_mean = (0.45, 0.45, 0.45)
    image_std = (0.225, 0.225, 0.225)
    do_resize = True
    do_center_crop = True
    do_rescale = True
    rescale_factor = 1 / 255
    do_normalize = True
    do_convert_rgb = False
    do_sample_frames = True
    num_frames = 16
    sampling = "dense"
    frame_stride = 5

    def preprocess(self, videos: Any, **kwargs: Any) -> BatchFeature:
        """Reads, samples, resizes, crops and normalises videos.

        Args:
            videos: A video or a list of them. A video is a file, an http(s) address, the bytes of a file, a row's
                `{"path": ..., "bytes": ...}` of `datasets`, or uint8 RGB frames `(T, H, W, 3)` or `(T, 3, H, W)`, also
                one by one in a list; an array of five dimensions is a batch.
            **kwargs: Settings for this call; `return_tensors="pt"` gives tensors, `video_metadata` the frame rate
                (`fps`) of frames in arrays, `fps` frames per second in place of `frame_stride`,
                `do_sample_frames=False` takes all frames.

        Returns:
            `pixel_values`: float32 `(B, T, C, S, S)`, or a list of `(T, C, S, S)` without `return_tensors`; with
            `return_metadata` `video_metadata`, which names the frames that were taken.

        Raises:
            ValueError: For settings without effect, or frames of another form.
            vov3d.video.VideoError: For files that give no frames.
        """
        sources = _sources(videos)
        rates = _rates(kwargs.pop("video_metadata", None), len(sources))
        if not sources:
            raise ValueError("there are no videos: the list is empty")
        plan = self._plan(kwargs) if _taken(self, kwargs, "do_sample_frames") else None
        read = [_read(source, plan, rate) for source, rate in zip(sources, rates, strict=True)]
        frames, metadata = [one for one, _ in read], [one for _, one in read]
        batch = super().preprocess(frames, do_sample_frames=False, video_metadata=metadata, **kwargs)
        batch["pixel_values"] = batch.pop("pixel_values_videos")
        return batch

    def _plan(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Returns the sampling as fields of a `pretrained_cfg`; removes its settings from `kwargs`."""
        stride = kwargs.get("frame_stride")
        cfg = {key: _taken(self, kwargs, key) for key in ("num_frames", "sampling", "frame_stride")}
        fps = _taken(self, kwargs, "fps")
        if cfg["sampling"] == "segment":
            for name, given in (("fps", fps), ("frame_stride", stride)):
                if given is not None:
                    raise ValueError(
                        f"{name}={given} would have no effect: frames are taken from equal segments of the whole video"
                        " (sampling='segment'); leave it out, or set sampling='dense'"
                    )
        if fps is not None:
            if not 0 < fps < math.inf:
                raise ValueError(f"fps is {fps}: give the frames per second to take, above 0")
            cfg["frame_stride"] = 30 / fps
        return cfg

    def _preprocess(self, videos: list[torch.Tensor], **kwargs: Any) -> BatchFeature:  # type: ignore[override]
        """Transforms frames by `vov3d.video.eval_transform`, or by transformers for settings that it lacks."""
        cfg = _transform_cfg(kwargs)
        if cfg is None:
            return super()._preprocess(videos, **kwargs)
        transform = eval_transform(cfg)
        clips = [transform(video)[0].transpose(0, 1) for video in videos]
        return BatchFeature({"pixel_values_videos": clips}, tensor_type=kwargs.get("return_tensors"))

    def to_dict(self) -> dict[str, Any]:
        """Returns the content of `video_preprocessor_config.json`."""
        return super().to_dict() | {"auto_map": dict(PROCESSOR_AUTO_MAP)}

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any
    ) -> list[str]:
        """Saves the settings and the loader for `trust_remote_code=True`.

        Args:
            save_directory: The folder; made if it is not there.
            push_to_hub: Uploads it afterwards.
            **kwargs: Those of transformers.

        Returns:
            The file.
        """
        _write_loader(save_directory)
        return super().save_pretrained(save_directory, push_to_hub, **kwargs)

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoVideoProcessor") -> None:
        """Does nothing: the loader in saved folders imports the class from this package."""


def _taken(processor: Any, kwargs: dict[str, Any], name: str) -> Any:
    """Removes a setting of this call from `kwargs` and returns it; without one, that of the processor."""
    given = kwargs.pop(name, None)
    return getattr(processor, name, None) if given is None else given


def _sources(videos: Any) -> list[Any]:
    """Returns a list of videos that `VideoReader` can open."""
    if isinstance(videos, Mapping):
        return [video_source(videos)]
    if isinstance(videos, (list, tuple)) and not is_frames(videos):
        return [source for video in videos for source in _sources(video)]
    if getattr(videos, "ndim", 0) == 5:
        return list(videos)
    return [list(videos) if isinstance(videos, (list, tuple)) else videos]


def _rates(metadata: Any, count: int) -> list[float | None]:
    """Returns the frames per second of each video, None if not known."""
    if metadata is None:
        return [None] * count
    one = isinstance(metadata, Mapping) or hasattr(metadata, "fps")
    each = [metadata] if one else list(metadata)
    if len(each) != count:
        raise ValueError(f"video_metadata has {len(each)} entries for {count} videos; give one for each")
    return [m.get("fps") if isinstance(m, Mapping) else m.fps for m in each]


def _read(source: Any, plan: Mapping[str, Any] | None, fps: float | None) -> tuple[torch.Tensor, dict[str, Any]]:
    """Reads the frames of a clip, or all without a plan, as uint8 `(T, C, H, W)`; and the video's metadata."""
    with VideoReader(source, fps=None if is_file(source) else fps) as reader:
        wanted = range(reader.num_frames) if plan is None else plan_clips(plan, reader)[0]
        known = {name: getattr(reader, name) for name in ("fps", "duration", "height", "width")}
        return reader.read(wanted), known | {"total_num_frames": reader.num_frames, "frames_indices": list(wanted)}


def _transform_cfg(settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns the settings as fields of a `pretrained_cfg`; None if they cannot be expressed so."""
    size, crop, resample = (cast(Any, settings.get(key)) for key in ("size", "crop_size", "resample"))
    steps = ("do_resize", "do_center_crop", "do_rescale", "do_normalize")
    if not all(settings.get(step) for step in steps) or settings.get("rescale_factor") != 1 / 255:
        return None
    interpolation = interpolation_of(getattr(resample, "value", resample))
    short = size.shortest_edge
    if interpolation is None or not short or {crop.height, crop.width} != {short}:
        return None
    mean, std = (_each(settings[key]) for key in ("image_mean", "image_std"))
    return {"input_size": (len(mean), short, short), "interpolation": interpolation, "mean": mean, "std": std}


def _each(values: float | Sequence[float]) -> list[float]:
    return [float(values)] * 3 if isinstance(values, (int, float)) else list(values)


def _register() -> None:
    AutoConfig.register(MODEL_TYPE, VoV3DConfig, exist_ok=True)
    AutoModel.register(VoV3DConfig, VoV3DModel, exist_ok=True)
    AutoModelForVideoClassification.register(VoV3DConfig, VoV3DForVideoClassification, exist_ok=True)
    AutoVideoProcessor.register(VoV3DConfig, VoV3DVideoProcessor, exist_ok=True)
    # pipeline("video-classification") checks class names against this mapping.
    MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES.setdefault(MODEL_TYPE, VoV3DForVideoClassification.__name__)


_register()
