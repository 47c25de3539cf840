"""Builds the network, the optimizer and the schedule of a recipe."""

import logging
import os
import shutil
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler, MultiStepLRScheduler
from timm.scheduler.scheduler import Scheduler
from torch import nn

import vov3d
from reference.data.layouts import class_key
from reference.training.losses import Scale
from vov3d.weights.tasks import SINGLE, Task, set_task, task_of

COMPILER = "inductor"
"""Backend of `torch.compile` for `train.compile`."""

_logger = logging.getLogger(__name__)

_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


def check_compiler(device: torch.device) -> None:
    """Checks that what `train.compile` needs is installed: Triton on a GPU, elsewhere a C++ compiler.

    Raises:
        ValueError: If it is not; says what to install.
    """
    if device.type == "cuda":
        if find_spec("triton") is None:
            raise ValueError("train.compile needs Triton on a GPU: pip install triton, or leave out --train.compile")
        return
    default = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    compiler = os.environ.get("CXX", default)
    if shutil.which(compiler) is None:
        raise ValueError(
            f"train.compile needs a C++ compiler, and {compiler!r} was not found: install it (Debian and Ubuntu: apt"
            " install g++), name yours in the environment variable CXX, or leave out --train.compile"
        )


def build_model(recipe: Any, names: Sequence[str], world: int, task: Task = SINGLE, scale: Scale | None = None) -> Any:
    """Builds the network, with the frames, the crop, the sampling and the task of the recipe in its `pretrained_cfg`.

    A classifier of another task or of other classes is replaced by a new one. That of a regression continues with
    scaled values.

    Args:
        recipe: The recipe.
        names: Names of the outputs.
        world: Number of processes.
        task: What the outputs mean.
        scale: Scale of the values of a regression.
    """
    settings = recipe.model
    saved = Path(settings.name, "config.json").is_file()
    try:
        model: Any = vov3d.create_model(
            f"local-dir:{settings.name}" if saved else settings.name,
            settings.pretrained,
            checkpoint_path=settings.checkpoint or None,
            num_classes=len(names),
            drop_path_rate=settings.drop_path_rate,
            **({} if settings.drop_rate < 0 else {"drop_rate": settings.drop_rate}),
            **settings.args,
        )
    except TypeError as error:
        given = ", ".join(f"{key}={value!r}" for key, value in settings.args.items())
        raise ValueError(f"{settings.name} cannot be built with model.args {given}: {error}") from error
    model.pretrained_cfg |= clip_settings(recipe.clip, model)
    others = settings.pretrained and not _may_know(model, names)
    if others:
        _logger.warning("%s: its classifier is for other classes, the model has a fresh one", settings.name)
    if others or task_of(model) != task:
        model.reset_classifier(len(names))
        set_task(model, task)
    elif scale is not None:
        scale.put_into(model.get_classifier(), back=True)
    if settings.sync_batchnorm and world > 1:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if settings.freeze_backbone:
        model.requires_grad_(False)
        model.get_classifier().requires_grad_(True)
    if settings.freeze_batchnorm or settings.freeze_backbone:
        vov3d.freeze_batchnorm(model)
    if settings.grad_checkpointing:
        model.set_grad_checkpointing()
    return model


def _may_know(model: Any, names: Sequence[str]) -> bool:
    """Returns whether the classifier may be for these classes, in this order, as far as it has names."""
    known = vov3d.class_names(model)
    return known is None or [class_key(name) for name in known] == [class_key(name) for name in names]


def clip_settings(clip: Any, model: Any) -> dict[str, Any]:
    """Returns a recipe's settings of clips as fields of a `pretrained_cfg`; others stay the model's own."""
    cfg, fields = model.pretrained_cfg, dict[str, Any]()
    if clip.size:
        reduction = model.feature_info[-1]["reduction"]
        fields["input_size"] = (model.in_chans, clip.size, clip.size)
        fields["pool_size"] = (-(-clip.size // reduction),) * 2
        fields["test_input_size"] = (model.in_chans, *[round(clip.size * 8 / 7)] * 2)
    if clip.test_size:
        fields["test_input_size"] = (model.in_chans, clip.test_size, clip.test_size)
    fields["sampling"] = clip.sampling or cfg["sampling"]
    fields["num_frames"] = clip.frames or cfg["num_frames"]
    fields["frame_stride"] = None if fields["sampling"] == "segment" else clip.stride or cfg["frame_stride"]
    if clip.stride and fields["sampling"] == "segment":
        raise ValueError(f"clip.stride={clip.stride} has no effect on segment sampling: set it to 0")
    return fields


def build_optimizer(model: nn.Module, settings: Any, factor: float) -> torch.optim.Optimizer:
    """Builds the optimizer of that name in timm; the learning rate is scaled.

    Raises:
        ValueError: If timm has no such optimizer, or it does not take an argument or its value.
    """
    try:
        optimizer = create_optimizer_v2(
            model,
            settings.name,
            lr=settings.lr * factor,
            weight_decay=settings.weight_decay,
            filter_bias_and_bn=settings.exempt_norms,
            layer_decay=settings.layer_decay if settings.layer_decay != 1 else None,
            **settings.args,
        )
    except (AssertionError, AttributeError, KeyError, TypeError, ValueError) as error:
        given = ", ".join(f"{key}={value!r}" for key, value in settings.args.items()) or "no further arguments"
        raise ValueError(
            f"optimizer.name={settings.name!r} cannot be made with {given} ({error}): names and arguments are timm's, "
            "see timm.optim.list_optimizers() and optimizer.args"
        ) from error
    if settings.decay_biases:
        _decay_biases(optimizer, model, settings.weight_decay)
    return optimizer


def _decay_biases(optimizer: torch.optim.Optimizer, model: nn.Module, weight_decay: float) -> None:
    """Takes the biases out of the groups without weight decay, where the norms stay."""
    norms = {id(p) for module in model.modules() if isinstance(module, _NORMS) for p in module.parameters()}
    for group in list(optimizer.param_groups):
        biases = [p for p in group["params"] if id(p) not in norms]
        if group["weight_decay"] == 0 and biases:
            group["params"] = [p for p in group["params"] if id(p) in norms]
            optimizer.add_param_group({**group, "params": biases, "weight_decay": weight_decay})
    optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]


def build_scheduler(optimizer: torch.optim.Optimizer, schedule: Any, factor: float, updates: int) -> Scheduler:
    """Builds a scheduler of timm, counted in updates, of which an epoch has `updates`.

    The learning rate is continuous where the warm-up ends. No update has a rate of 0 unless `lr` is 0.

    Raises:
        ValueError: For settings that contradict each other or would have no effect.
    """
    total = schedule.epochs * updates
    warmup = warmup_updates(schedule, updates)
    first = schedule.warmup_lr * factor
    peak = max(group["lr"] for group in optimizer.param_groups)
    if warmup and not first:
        first = peak / (warmup + 1)  # the rate before the first update is 0, not that of the first
    common = dict(warmup_t=warmup, warmup_lr_init=first, t_in_epochs=False)
    if schedule.name == "cosine":
        if schedule.milestones:
            raise ValueError("schedule.milestones have no effect on schedule.name='cosine': leave them out")
        prefix = not schedule.warmup_under
        length = total - warmup if prefix else total
        lr_min = schedule.min_lr * factor
        scheduler = CosineLRScheduler(optimizer, max(length, 2), lr_min=lr_min, warmup_prefix=prefix, **common)
        scheduler.t_initial = length  # timm warns of a cosine of one update
        if warmup:
            scheduler.warmup_steps = [(end - first) / warmup for end in scheduler._get_lr(warmup)]
        return scheduler
    for name in ("warmup_under", "min_lr"):
        if getattr(schedule, name):
            raise ValueError(f"schedule.{name} has no effect on schedule.name='steps': leave it out")
    # timm's milestones take effect one update early
    steps = [milestone * updates + 1 for milestone in schedule.milestones]
    return MultiStepLRScheduler(optimizer, steps, schedule.decay, warmup_prefix=False, **common)


def warmup_updates(schedule: Any, updates: int) -> int:
    """Returns the updates of the warm-up, at most half of the run and none after a milestone."""
    if schedule.warmup_epochs and schedule.warmup_updates:
        raise ValueError("schedule.warmup_epochs and schedule.warmup_updates say the same thing twice: set one to 0")
    asked = asked_warmup(schedule, updates)
    return min([asked, schedule.epochs * updates // 2, *(stone * updates for stone in schedule.milestones)])


def asked_warmup(schedule: Any, updates: int) -> int:
    """Returns the updates of the warm-up that a recipe asks for."""
    return schedule.warmup_updates or round(schedule.warmup_epochs * updates)


def rate_of(optimizer: Any) -> float:
    """Returns the learning rate of the parameters that learn fastest."""
    return max(group["lr"] for group in optimizer.param_groups)
