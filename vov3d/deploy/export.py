"""A model into a file that another runtime reads."""

import copy
import os
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from torch import nn

from vov3d.deploy import _metadata
from vov3d.deploy._compare import Comparison, compare, moving_clips, random_clips
from vov3d.deploy._formats import BOUNDS, Format, Job, format_of, require
from vov3d.deploy._graph import graph_of
from vov3d.deploy.exported import load_exported
from vov3d.surgery.hooks import has_hooks

_CALIBRATION_COMPARED = 8


class ExportError(RuntimeError):
    """A file differs from its source by more than its format may."""


class Report(NamedTuple):
    """What was written.

    Attributes:
        path: The file.
        precision: What it computes in.
        comparisons: How it compares with its source.
    """

    path: Path
    precision: str
    comparisons: list[Comparison]


def export(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    frames: int | None = None,
    size: int | None = None,
    precision: str = "fp32",
    calibration: Iterable[torch.Tensor] | None = None,
    samples: Iterable[torch.Tensor] = (),
) -> Path:
    """Writes a model into a file, and compares what the file computes with the model before it is put in place.

    A classifier that pools by the average gets two outputs: `logits`, those of `forward`, and `probabilities`, those
    of `forward_dense`, which `VideoClassifier` and `vov3d predict` use. The file carries the model's configuration
    and class names. `.onnx`, `.xml` and `.pt2` take any batch, frames, height and width that the model takes
    (`.pt2` from 33 pixels on, not 32).

    The bounds of the comparison, as a part of the largest output: fp32 1e-4, fp16 0.02, bf16 0.05, int8 0.5.

    Args:
        model: A model made by `create_model`, whole or with `features_only`; a copy in eval mode is exported.
        path: Where to; the extension is the format: `.onnx`, `.xml` (OpenVINO, which writes a `.bin` beside it),
            `.pt2` (torch.export) or `.pte` (ExecuTorch). What is there is replaced.
        frames: Frames of the clips that the file is for; those of the model's configuration if None. A `.pte` file
            takes no others.
        size: Their height and width in pixels; the test crop of the configuration if None.
        precision: `"fp32"`; for `.xml` also `"fp16"` (weights in half precision, computed in fp32) or `"bf16"`
            (the same file size, computed in bf16 where the CPU has units for it).
        calibration: For `.xml`: clips `(B, C, T, H, W)`, normalised as the model wants them, whose ranges quantise
            it to int8. A collection, not an iterator: it is walked more than once. nncf takes up to 300.
        samples: More clips to compare on.

    Returns:
        The path.

    Raises:
        ValueError: If the model, the path or the combination of settings is not supported; nothing was done then.
        FileNotFoundError: If the folder is not there.
        ImportError: If the format needs a package that is not installed; says what installs it.
        ExportError: If the file differs from the model by more than the bound; there is no file then.
    """
    return export_and_report(
        model, path, frames=frames, size=size, precision=precision, calibration=calibration, samples=samples
    ).path


def export_and_report(
    model: Any,
    path: str | os.PathLike[str],
    *,
    frames: int | None = None,
    size: int | None = None,
    precision: str = "fp32",
    calibration: Iterable[torch.Tensor] | None = None,
    samples: Iterable[torch.Tensor] = (),
) -> Report:
    """`export`, which tells how the file compares with the model."""
    path = Path(path)
    form = check_path(path, precision, calibration is not None)
    precision = "int8" if calibration is not None else precision
    graph = graph_of(model)
    _check_model(model)
    if calibration is not None and iter(calibration) is calibration:
        raise ValueError("calibration must be a collection of clips, such as a list: an iterator is spent after one walk")
    cfg = model.pretrained_cfg
    clip = (frames or cfg["num_frames"], *2 * (size or (cfg.get("test_input_size") or cfg["input_size"])[-1],))
    if clip[0] < 1 or clip[1] < form.min_size:
        raise ValueError(f"{form.title} needs clips of 1 frame and {form.min_size} pixels or more, got {clip}")
    source = copy.deepcopy(model).cpu().eval().requires_grad_(False)
    metadata = _metadata.describe(model, clip[0], clip[1], graph.output_names, precision, form.min_size, form.fixed)
    job = Job(graph_of(source).eval(), metadata.to_strings(), model.in_chans, clip, precision, calibration)
    with TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as folder:
        written = Path(folder) / path.name
        form.backend.write(job, written)
        comparisons = _compare(source, written, form, job, samples)
        for ending in form.files:
            os.replace(written.with_suffix(ending), path.with_suffix(ending))
    return Report(path, precision, comparisons)


def check_path(path: Path, precision: str, quantises: bool) -> Format:
    """The format that a path names.

    Raises:
        ValueError: If there is none, or it does not hold the precision.
        FileNotFoundError: If the folder is not there.
        ImportError: If a package is missing.
    """
    form = format_of(path)
    if quantises and "int8" not in form.precisions:
        raise ValueError(f"{path.name}: calibration is for int8, which {form.title} files are not made in; use .xml")
    if quantises and precision != "fp32":
        raise ValueError(f"precision={precision!r} and calibration, which makes the file int8, exclude each other")
    if not quantises and precision == "int8":
        raise ValueError("int8 needs calibration clips")
    if precision not in form.precisions:
        raise ValueError(f"{path.name}: {form.title} files are made in {', '.join(form.precisions)}, not {precision!r}")
    require(path, (*form.reads, *form.writes, *(("nncf",) if quantises else ())), form.extra)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: no such folder to write {path.name} into")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name a file")
    return form


def _check_model(model: nn.Module) -> None:
    hooked = [name or "the model" for name, module in model.named_modules() if has_hooks(module)]
    if hooked:
        raise ValueError(f"{hooked[0]} has hooks, which a file cannot hold; remove them first")
    for name, tensor in model.state_dict().items():
        if tensor.is_meta:
            raise ValueError(f"{name} is on the meta device: the model has no weights to export")
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise ValueError(f"{name} is {tensor.dtype}, but float32 models are exported; call model.float()")


def _compare(source: Any, written: Path, form: Format, job: Job, samples: Iterable[torch.Tensor]) -> list[Comparison]:
    """Compares the written file with its source.

    Raises:
        ExportError: If they differ by more than the bound.
    """
    exported = load_exported(written)
    frames, size = job.clip[0], job.clip[1]
    # the smallest, the odd, the oblong, and a batch, where the file takes them
    shapes = [(1, *job.clip)] if form.fixed else [(1, 1, form.min_size, form.min_size), (3, 2, 65, 47), (1, *job.clip)]
    groups: dict[str, Iterable[torch.Tensor]] = {
        "random": random_clips(job.in_chans, shapes),
        "made-up motion": moving_clips(source.pretrained_cfg | {"input_size": (job.in_chans,)}, frames, size, 2),
        "calibration clips": islice(job.calibration or (), _CALIBRATION_COMPARED),
        "given clips": samples,
    }
    bound = BOUNDS[job.precision]
    comparisons = []
    for name, clips in groups.items():
        result = compare(name, source, exported, clips)
        if result.relative > bound:
            raise ExportError(f"{written.name} is off by more than {bound:g} of the largest output: {result}")
        comparisons += [result] if result.count else []
    return comparisons
