"""Saves models as a folder of `model.safetensors`, `config.json`, and a card if there is one."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from timm.models._pretrained import filter_pretrained_cfg
from torch import nn

from vov3d.files import alone_in, make_folder, replacing
from vov3d.hub._structure import recipe_of
from vov3d.hub.transformers_files import LOADER, LOADER_SOURCE, PROCESSOR, model_fields, processor_fields
from vov3d.labels import check_names, class_names, in_order, load_labels
from vov3d.layers import ClassifierHead3d
from vov3d.models import create_model
from vov3d.models.family import family_of
from vov3d.models.saved import check_saved
from vov3d.surgery.placing import check_not_wrapped
from vov3d.weights.state_dict import digest
from vov3d.weights.tasks import task_of

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
CARD = "README.md"

# Fields of a tag that hold for its own weights only, not for a model trained further.
_CLAIMS = ("tag", "top1", "top5", "views", "gmacs_per_view")
_TERMS = ("license", "origin_url")


def save_pretrained(
    model: nn.Module,
    folder: str | Path,
    label_names: Sequence[str] | None = None,
    *,
    transformers: bool = False,
) -> Path:
    """Saves weights, configuration and class names of a model made by `create_model`.

    Files are first written under other names and then renamed, the configuration, which holds the digest of the
    weights, last: an interruption or a full disk leaves the previous files, and an interruption between the two
    renames is detected when the folder is loaded.

    The changes of `factorize` and `fold_batchnorm` are saved with the model. Parameters that are tied are saved one by
    one, and are no longer tied when they are loaded.

    Args:
        model: The model; it is not changed.
        folder: The folder to write, also from `~` on; made if it does not exist. Other files in it stay.
        label_names: Class names in index order; those of the model if None.
        transformers: Adds what Hugging Face transformers needs to open the same folder: keys in `config.json`, the
            settings of the video processor, and a loader for programs that do not import
            `vov3d.adapters.transformers`.

    Returns:
        The folder.

    Raises:
        ValueError: If the model was not made by `create_model`, returns features only, was changed in ways that the
            configuration cannot hold, has arguments that JSON cannot hold, or another number of classes than names.
        NotADirectoryError: If there is a file in place of the folder.
    """
    return write_folder(model, Path(folder), label_names, transformers=transformers)


def write_folder(
    model: Any,
    folder: Path,
    label_names: Sequence[str] | None,
    source: Mapping[str, str] | None = None,
    card: str = "",
    transformers: bool = False,
) -> Path:
    """Saves a model as `save_pretrained` does, with the origin of its weights and a model card if given."""
    config = describe(model, label_names) | ({"source": dict(source)} if source else {})
    texts = {CARD: card} if card else {}
    if transformers:
        config |= model_fields(config)
        texts |= {PROCESSOR: _json(processor_fields(config["pretrained_cfg"])), LOADER: LOADER_SOURCE}
    # save_file would create a file that only its owner can read
    weights = safetensors.torch.save(_separate(model.state_dict()), metadata={"format": "pt", **(source or {})})
    config["pretrained_cfg"]["sha256"] = hashlib.sha256(weights).hexdigest()
    folder = folder.expanduser()
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder}: is a file; a model is saved in a folder, so name another")
    new = not folder.exists()
    make_folder(folder)
    try:
        with alone_in(folder), replacing(folder / CONFIG) as draft:
            draft.write_text(_json(config), encoding="utf-8")
            with replacing(folder / WEIGHTS) as draft:
                draft.write_bytes(weights)
            for name, text in texts.items():
                with replacing(folder / name) as draft:
                    draft.write_text(text, encoding="utf-8")
    except BaseException:
        if new:
            with suppress(OSError):  # it may hold files that were put in place
                folder.rmdir()
        raise
    return folder


def _separate(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns tensors on the CPU that share no memory, as safetensors wants them: tied ones are copied."""
    tensors: dict[str, torch.Tensor] = {}
    places = set()
    for name, tensor in state.items():
        tensor = tensor.detach().cpu().contiguous()
        if (place := tensor.untyped_storage().data_ptr()) in places:
            tensor = tensor.clone()
        places.add(place)
        tensors[name] = tensor
    return tensors


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False)


def describe(model: Any, label_names: Sequence[str] | None = None) -> dict[str, Any]:
    """Returns timm's `config.json`: arguments of the model, clip settings and known facts of its weights.

    Raises:
        ValueError: As `save_pretrained`.
    """
    check_not_wrapped(model)
    architecture = vars(model).get("pretrained_cfg", {}).get("architecture")
    family = family_of(model)
    if family is None or not architecture:
        wrapped: dict[str, Any] = {name: getattr(model, name, None) for name in ("module", "_orig_mod", "model")}
        inner = next((name for name, part in wrapped.items() if part is not None and family_of(part)), None)
        cure = (
            f"save its .{inner} (after merging adapters such as LoRA into it)"
            if inner
            else "pass your widths and depths to create_model('vov3d_m', depths=..., ...); merge adapters such as LoRA"
            " into the model first"
        )
        raise ValueError(
            f"cannot save a {type(model).__name__}: only whole models made by create_model can be built again; {cure}"
        )
    args = _arguments(model, architecture)
    names: Any = class_names(model) if label_names is None else in_order(label_names)
    if names is None and label_names is not None:
        raise ValueError(
            f"label_names is a {type(label_names).__name__}: give a list of names in index order, which"
            " vov3d.labels.read_label_names reads from a file"
        )
    if names is not None and len(names) != model.num_classes:
        raise ValueError(f"got {len(names)} label_names for a model of {model.num_classes} classes")
    check_names(names or [])
    config = {
        "architecture": architecture,
        "num_classes": model.num_classes,
        "num_features": model.num_features,
        "global_pool": args["global_pool"],
        "model_args": args,
        "pretrained_cfg": known_cfg(model, names),
    }
    check_saved("the model", family, config["pretrained_cfg"], args)
    return config | ({"label_names": names} if names else {})


def _arguments(model: Any, architecture: str) -> dict[str, Any]:
    """Returns the arguments of `create_model` that build the network again, surgery included.

    `num_classes` is not among them: it has its own key in the file, and transformers' wrapper of timm passes both.
    """
    args = {k: v for k, v in model.model_args.items() if k not in ("surgery", "num_classes")}
    args["in_chans"] = model.in_chans
    if isinstance(model.head, ClassifierHead3d):
        args["global_pool"] = model.head.global_pool.pool_type
    for key, value in args.items():
        try:
            json.dumps(value)
        except TypeError:
            raise ValueError(
                f"cannot save {key}={value!r} in a file; name layers by strings, such as norm_layer='syncbatchnorm'"
            ) from None
    recipe = recipe_of(model, create_model(architecture, device="meta", num_classes=model.num_classes, **args))
    return args | ({"surgery": recipe} if recipe else {})


def known_cfg(model: Any, names: list[str] | None) -> dict[str, Any]:
    """Returns the pretrained configuration without fields that do not hold for the model's weights and class names."""
    cfg = filter_pretrained_cfg(model.pretrained_cfg, remove_source=True)
    dropped = {"architecture", "state_dict", "label_names", "custom_load", "packaged", "sha256"}
    if not names or not cfg.get("label_set") or tuple(names) != load_labels(cfg["label_set"]):
        dropped.add("label_set")
    if "label_set" in dropped or model.weights_digest != digest(model):
        dropped.update(_CLAIMS)
    if model.weights_digest is None:
        dropped.update(_TERMS)
    if task_of(model).single:
        dropped.update(("task", "heads"))
    if cfg.get("sampling") != "segment":
        dropped.add("clip_seconds")
    if getattr(model, "temperature", None) != cfg.get("temperature"):  # that of a former classifier
        dropped.add("temperature")
    cfg = {k: v for k, v in cfg.items() if k not in dropped} | {"num_classes": getattr(model, "num_classes", 0)}
    cfg.setdefault("pool_size", None)  # a field that is missing is read as that of the published networks
    for key in ("input_size", "test_input_size"):
        cfg[key] = (model.in_chans, *cfg.get(key, cfg["input_size"])[1:])
    return cfg
