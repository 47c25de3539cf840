"""The network, its optimizer and its schedule, as a recipe says."""

from pathlib import Path
from typing import Any

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler, MultiStepLRScheduler
from timm.scheduler.scheduler import Scheduler
from torch import nn

import vov3d


def build_model(recipe: Any, num_classes: int, world: int) -> Any:
    """The network, with the frames, the crop and the sampling of the recipe in its `pretrained_cfg`."""
    settings = recipe.model
    saved = Path(settings.name, "config.json").is_file()
    model: Any = vov3d.create_model(
        f"local-dir:{settings.name}" if saved else settings.name,
        settings.pretrained,
        checkpoint_path=settings.checkpoint or None,
        num_classes=num_classes,
        drop_rate=settings.drop_rate,
        drop_path_rate=settings.drop_path_rate,
        **settings.args,
    )
    model.pretrained_cfg |= clip_settings(recipe.clip, model)
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


def clip_settings(clip: Any, model: Any) -> dict[str, Any]:
    """What a recipe says of clips, as fields of a `pretrained_cfg`; what it leaves open stays the model's own."""
    cfg, fields = model.pretrained_cfg, {}
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
    """The optimizer of that name in timm; the learning rate is scaled."""
    return create_optimizer_v2(
        model,
        settings.name,
        lr=settings.lr * factor,
        weight_decay=settings.weight_decay,
        filter_bias_and_bn=settings.exempt_norms,
        layer_decay=settings.layer_decay if settings.layer_decay != 1 else None,
        **settings.args,
    )


def build_scheduler(optimizer: torch.optim.Optimizer, schedule: Any, factor: float, updates: int) -> Scheduler:
    """A scheduler of timm, counted in updates, of which an epoch has `updates`."""
    if schedule.warmup_epochs and schedule.warmup_updates:
        raise ValueError("schedule.warmup_epochs and schedule.warmup_updates say the same thing twice: set one to 0")
    warmup = schedule.warmup_updates or round(schedule.warmup_epochs * updates)
    common = dict(warmup_t=warmup, warmup_lr_init=schedule.warmup_lr * factor, t_in_epochs=False, warmup_prefix=False)
    if schedule.name == "cosine":
        if schedule.milestones:
            raise ValueError("schedule.milestones have no effect on schedule.name='cosine': leave them out")
        return CosineLRScheduler(optimizer, schedule.epochs * updates, lr_min=schedule.min_lr * factor, **common)
    if schedule.name == "steps":
        # timm's milestones take effect one update early
        steps = [milestone * updates + 1 for milestone in schedule.milestones]
        return MultiStepLRScheduler(optimizer, steps, schedule.decay, **common)
    raise ValueError(f"schedule.name is {schedule.name!r}: 'cosine' and 'steps' are known")
