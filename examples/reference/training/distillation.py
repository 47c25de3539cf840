"""Distillation: a network learns from the logits of a trained one, the teacher, beside the labels.

    loss = (1 - weight) * loss of the labels + weight * t^2 * KL(softmax(teacher / t) || softmax(student / t))

Both see the same clips, augmented and mixed. The teacher's normalisation is applied to them, frames and classes that it
does not use are left out; where nothing exact leads from the clips of the run to those of the teacher, the run is
refused.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from accelerate import Accelerator

from reference.evaluation.models import Model, load_model
from reference.training.checkpoints import not_finite
from vov3d.deploy import ExportedStream


class Adaptation(NamedTuple):
    """The steps from the clips and classes of a run to those of its teacher.

    Attributes:
        step: Every so many frames, the teacher takes one.
        scale: Factor of each channel of a normalised clip.
        shift: What is added to each channel then.
        columns: The teacher's logits of the classes of the run, in their order; None for all as they are.
    """

    step: int
    scale: list[float]
    shift: list[float]
    columns: list[int] | None


class Distillation:
    """The loss of a run, with or without a teacher.

    Args:
        settings: The section `distill` of the recipe.
        student: The network that is trained, with the clips of the run in its `pretrained_cfg`.
        classes: Names of the classes of the run, in index order.
        accelerator: Of the run.

    Attributes:
        settings: What identifies the teacher among the settings of a run; empty without one.
        note: A line on the teacher for the log; empty without one.

    Raises:
        FileNotFoundError: If the teacher's file is not there.
        ImportError: If the runtime of an exported teacher is not installed.
        ValueError: If the teacher cannot judge the clips or the classes of the run.
    """

    def __init__(self, settings: Any, student: Any, classes: Sequence[str], accelerator: Accelerator) -> None:
        self.weight, self.temperature, self._autocast = settings.weight, settings.temperature, accelerator.autocast
        self.settings, self.note = dict[str, str](), ""
        self._network: Any = None
        if not settings.model:
            return
        if not settings.weight:
            raise ValueError(f"distill.weight is 0, so distill.model={settings.model!r} has no effect: leave it out")
        teacher = _load(settings.model, accelerator.device)
        found = adapt(teacher, student, classes)
        self._network, self._step, self._columns = teacher.network, found.step, found.columns
        self._scale, self._shift = (
            torch.tensor(value, device=accelerator.device).view(-1, 1, 1, 1) for value in (found.scale, found.shift)
        )
        identity = hashlib.sha256(json.dumps([teacher.weights, found]).encode()).hexdigest()[:16]
        self.settings = {"distill.teacher": f"{teacher.cfg['architecture']}, digest {identity}"}
        self.note = f"teacher {settings.model}: temperature {self.temperature:g}, weight {self.weight:g}\n"

    def loss(self, of_labels: torch.Tensor, outputs: torch.Tensor, clips: torch.Tensor) -> torch.Tensor:
        """Returns the loss of a batch, summed over its clips.

        Args:
            of_labels: The loss of the labels, summed over the clips.
            outputs: The student's logits `(B, N)`.
            clips: What it saw, `(B, C, T, H, W)`.
        """
        if self._network is None:
            return of_labels
        distance = divergence(outputs, self.logits(clips), self.temperature)
        return (1 - self.weight) * of_labels + self.weight * distance

    @torch.no_grad()
    def logits(self, clips: torch.Tensor) -> torch.Tensor:
        """Returns the teacher's logits `(B, N)` of the run's classes, for clips `(B, C, T, H, W)` of the run."""
        seen = clips[:, :, self._step // 2 :: self._step].float() * self._scale + self._shift
        with self._autocast():
            logits = self._network(seen)
        return logits if self._columns is None else logits[:, self._columns]


def divergence(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """Returns `t^2 * KL(teacher || student)` of logits `(B, N)` divided by `t`, summed over the clips.

    The factor keeps the gradient about as large at any temperature (Hinton et al., arXiv:1503.02531).
    """
    kind = torch.promote_types(student.dtype, torch.float32)
    log_student, log_teacher = (F.log_softmax(logits.to(kind) / temperature, 1) for logits in (student, teacher))
    return temperature**2 * F.kl_div(log_student, log_teacher, reduction="sum", log_target=True)


def adapt(teacher: Model, student: Any, classes: Sequence[str]) -> Adaptation:
    """Returns the steps from the clips and classes of a run to those of a teacher.

    Args:
        teacher: The teacher.
        student: The network that is trained, with the clips of the run in its `pretrained_cfg`.
        classes: Names of the classes of the run, in index order.

    Raises:
        ValueError: If there are none that are exact; says what to set.
    """
    cfg, own = teacher.cfg, student.pretrained_cfg
    problems = [*_of_channels(teacher, student), *_of_size(teacher, own)]
    step = _step(teacher, own)
    if not step:
        wanted, given = _frames(cfg, _taken(teacher)[0]), _frames(own, own["num_frames"])
        problems.append(f"it takes {wanted[0]}, the run has {given[0]}: set {wanted[1]}")
    try:
        columns = _columns(teacher, classes)
    except ValueError as error:
        problems.append(str(error))
    if problems:
        raise ValueError(f"distill.model={teacher.name!r} cannot teach this run: {'; '.join(problems)}")
    pairs = list(zip(own["mean"], own["std"], cfg["mean"], cfg["std"], strict=True))
    scale = [std / its_std for _, std, _, its_std in pairs]
    return Adaptation(step, scale, [(mean - its_mean) / its_std for mean, _, its_mean, its_std in pairs], columns)


def _load(name: str, device: torch.device) -> Model:
    """Loads a teacher: a name, a folder or an exported file.

    Raises:
        ValueError: If it gives no logits of clips, or is not finite.
    """
    saved = Path(name, "config.json").is_file()
    teacher = load_model(f"local-dir:{name}" if saved else name, None, device, asked=False)
    if isinstance(teacher.network, ExportedStream) or not teacher.num_classes:
        what = "takes one frame at a time" if teacher.num_classes else "has no classifier"
        raise ValueError(f"distill.model={name!r} {what}: a teacher gives logits of clips")
    if not teacher.task.single:
        raise ValueError(
            f"distill.model={name!r} was trained for {teacher.task.name}: a teacher gives one label a clip"
        )
    if tensor := not_finite(teacher.network):
        raise ValueError(f"distill.model={name!r}: {tensor} is not finite, take another teacher")
    return teacher


def _taken(teacher: Model) -> tuple[int, set[tuple[int, int]]]:
    """Returns the frames that a teacher takes, and all its sizes (height, width) in pixels."""
    metadata = getattr(teacher.network, "metadata", None)
    if metadata is not None and metadata.clip is not None:
        frames, *size = metadata.clip
        return frames, {(size[0], size[1])}
    sizes = (teacher.cfg[key] for key in ("input_size", "test_input_size") if teacher.cfg.get(key))
    return teacher.cfg["num_frames"], {(size[-2], size[-1]) for size in sizes}


def _of_channels(teacher: Model, student: Any) -> list[str]:
    its, own = teacher.network.in_chans, student.in_chans
    return [] if its == own else [f"it takes clips of {its} channels, the run has {own}: take another teacher"]


def _of_size(teacher: Model, own: dict[str, Any]) -> list[str]:
    sizes, size = _taken(teacher)[1], own["input_size"][-1]
    if (size, size) in sizes:
        return []
    known = sorted(f"{width}x{height}" for height, width in sizes)
    squares = sorted(height for height, width in sizes if height == width)
    how = f"set clip.size={squares[0]}" if squares else "take another teacher"
    return [f"it takes {' or '.join(known)} pixels, the run has {size}x{size}: {how}"]


def _step(teacher: Model, own: dict[str, Any]) -> int:
    """Returns every how many frames of the run's clips the teacher takes one; 0 if they do not hold its clip."""
    cfg, frames = teacher.cfg, _taken(teacher)[0]
    step, rest = divmod(own["num_frames"], frames)
    if rest or cfg["sampling"] != own["sampling"]:
        return 0
    # one of each `step` neighbouring segments is one of a segment as long as all of them
    return step if cfg["sampling"] == "segment" or cfg["frame_stride"] == step * own["frame_stride"] else 0


def _frames(cfg: dict[str, Any], frames: int) -> tuple[str, str]:
    """Returns frames and sampling in words, and as keys to set."""
    keys = f"clip.sampling={cfg['sampling']!r}, clip.frames={frames}"
    if cfg["sampling"] == "segment":
        return f"{frames} frames, one of each part of a video", keys
    return f"{frames} frames at stride {cfg['frame_stride']}", f"{keys}, clip.stride={cfg['frame_stride']}"


def _columns(teacher: Model, classes: Sequence[str]) -> list[int] | None:
    """Returns the teacher's logits of the classes of a run, by their names where it has any.

    Raises:
        ValueError: If it does not know a class, or has no names and another number of classes.
    """
    names = teacher.names
    if names is None or list(names) == list(classes):
        if teacher.num_classes != len(classes):
            raise ValueError(
                f"it has {teacher.num_classes} classes without names, the data {len(classes)}: take a teacher that "
                "was trained on these classes"
            )
        return None
    place = {name: index for index, name in enumerate(names)}
    missing = [name for name in classes if name not in place]
    if missing:
        raise ValueError(
            f"of the {len(classes)} classes of the data, {len(missing)} are not among its {len(names)}, such as "
            f"{missing[0]!r} (it has {names[0]!r}): take a teacher that was trained on these classes, or give "
            "data.classes the names that it has"
        )
    return [place[name] for name in classes]
