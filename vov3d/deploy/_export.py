"""A model into a file that another runtime reads."""

import copy
import dataclasses
import os
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from torch import nn

from vov3d.deploy import _metadata
from vov3d.deploy._compare import Comparison, compare
from vov3d.deploy._exported import load_exported
from vov3d.deploy._optimize import OptimizedModel
from vov3d.deploy._stream_files import StreamGraph, compare_steps, described
from vov3d.deploy._streaming import StreamingNetwork
from vov3d.deploy.formats import BOUNDS, Format, Job, format_of, require
from vov3d.deploy.graphs import frame_graph_of, graph_of
from vov3d.layers import Stem3d
from vov3d.surgery.hooks import has_hooks
from vov3d.synthetic.noise import moving_clips, random_clips

_CALIBRATION_COMPARED = 8


class ExportError(RuntimeError):
    """A file differs from its source by more than its format may."""


class Report(NamedTuple):
    """What was written.

    Attributes:
        path: The file.
        dtype: What it computes in.
        comparisons: How it compares with its source.
    """

    path: Path
    dtype: str
    comparisons: list[Comparison]


def export(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    frames: int | None = None,
    size: int | None = None,
    dtype: str = "fp32",
    calibration: Iterable[torch.Tensor] | None = None,
    samples: Iterable[torch.Tensor] = (),
) -> Path:
    """Writes a model into a file, and compares what the file computes with the model before it is put in place.

    A classifier that pools by the average gets two outputs: `logits`, those of `forward`, and `probabilities` (of a
    regression `values`), those of `forward_dense`, which `VideoClassifier` and `vov3d predict` use. The file carries
    the model's configuration, with its task, and class names. `.onnx`, `.xml` and `.pt2` take any batch, frames, height
    and width that the model takes.

    The bounds of the comparison, as a part of the largest output: fp32 1e-4, fp16 0.01, bf16 0.05, int8 0.2; that of
    int8 holds for the logits of calibration clips and samples, whose ranges it was given, not for noise.

    Args:
        model: A model made by `create_model`, whole or with `features_only`; a copy in eval mode is exported. Or a
            stream of `streaming`, for one frame of any number of streams at a time, whose state is inputs and outputs.
        path: Where to; the extension is the format: `.onnx`, `.xml` (OpenVINO, which writes a `.bin` beside it),
            `.pt2` (torch.export) or `.pte` (ExecuTorch). What is there is replaced.
        frames: Frames of the clips that the file is for; those of the model's configuration if None. A `.pte` file
            takes no others.
        size: Their height and width in pixels; the test crop of the configuration if None.
        dtype: `"fp32"`; for `.xml` also `"fp16"` (weights in half precision, computed in fp32) or `"bf16"`
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
        model, path, frames=frames, size=size, dtype=dtype, calibration=calibration, samples=samples
    ).path


def export_and_report(
    model: Any,
    path: str | os.PathLike[str],
    *,
    frames: int | None = None,
    size: int | None = None,
    dtype: str = "fp32",
    calibration: Iterable[torch.Tensor] | None = None,
    samples: Iterable[torch.Tensor] = (),
) -> Report:
    """Writes a file as `export` does, and tells how it compares with the model.

    Args:
        model: As for `export`.
        path: As for `export`.
        frames: As for `export`.
        size: As for `export`.
        dtype: As for `export`.
        calibration: As for `export`.
        samples: Clips `(B, C, T, H, W)` to compare on, beside those that are made up.

    Returns:
        What was written.

    Raises:
        ValueError: As `export`.
    """
    path = Path(path)
    form = check_path(path, dtype, calibration is not None)
    dtype = "int8" if calibration is not None else dtype
    _check_model(model)
    if calibration is not None and iter(calibration) is calibration:
        raise ValueError("calibration must be a collection of clips, such as a list: an iterator is walked only once")
    if isinstance(model, StreamingNetwork):
        return _export_stream(model, path, form, size, dtype, frames, samples)
    min_size = next(m.min_size for m in model.modules() if isinstance(m, Stem3d))
    clip = _clip(model.pretrained_cfg, frames, size, min_size)
    source = copy.deepcopy(model).cpu().eval().requires_grad_(False)
    graph = frame_graph_of(source) if form.fixed else graph_of(source)
    metadata = _metadata.describe(model, clip[0], clip[1], graph.output_names, dtype, min_size, form.fixed)
    job = Job(graph.eval(), metadata.to_strings(), model.in_chans, clip, dtype, calibration)
    with TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as folder:
        written = Path(folder) / path.name
        form.backend.write(job, written)
        comparisons = _compare(source, written, form, job, samples)
        for ending in form.files:
            os.replace(written.with_suffix(ending), path.with_suffix(ending))
    return Report(path, dtype, comparisons)


def _export_stream(
    stream: StreamingNetwork, path: Path, form: Format, size: int | None, dtype: str, frames: Any, samples: Any
) -> Report:
    """`export_and_report` of a stream, which is compared step by step."""
    if dtype == "int8" or form.fixed:
        raise ValueError(f"{path.name}: streams are exported as .onnx, .xml and .pt2, and not in int8")
    if frames is not None or samples:
        raise ValueError("frames and samples would have no effect: a stream takes one frame at a time")
    clip = _clip(stream.pretrained_cfg, 1, size, stream.min_size)
    source = copy.deepcopy(stream).cpu()
    graph = StreamGraph(source, clip[1:])
    metadata = _metadata.describe(stream, 1, clip[1], graph.output_names, dtype, stream.min_size, True)
    metadata = dataclasses.replace(metadata, stream=described(source, clip[1:]))
    cfg = {**metadata.pretrained_cfg, "num_frames": stream.pretrained_cfg["num_frames"]}
    if stream.temperature != 1:
        cfg["temperature"] = stream.temperature
    metadata = dataclasses.replace(metadata, pretrained_cfg=cfg)
    job = Job(graph.eval(), metadata.to_strings(), stream.in_chans, clip, dtype, None)
    with TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as folder:
        written = Path(folder) / path.name
        form.backend.write(job, written)
        comparisons = list(compare_steps(source, load_exported(written), clip[1:]))  # type: ignore[arg-type]
        for result in comparisons:
            if result.relative > BOUNDS[dtype]:
                raise ExportError(f"{path.name} is off by more than {BOUNDS[dtype]:g} of the largest value: {result}")
        for ending in form.files:
            os.replace(written.with_suffix(ending), path.with_suffix(ending))
    return Report(path, dtype, comparisons)


def check_path(path: Path, dtype: str, quantises: bool) -> Format:
    """Returns the format that a path names, if it can be written.

    Args:
        path: The file to write.
        dtype: What it is to compute in.
        quantises: Whether calibration clips were given.

    Raises:
        ValueError: If there is none, or it does not hold the dtype.
        FileNotFoundError: If the folder is not there.
        ImportError: If a package is missing.
    """
    form = format_of(path)
    if quantises and "int8" not in form.dtypes:
        raise ValueError(f"{path.name}: calibration is for int8, which {form.title} files are not made in; use .xml")
    if quantises and dtype != "fp32":
        raise ValueError(f"dtype={dtype!r} and calibration, which makes the file int8, exclude each other")
    if not quantises and dtype == "int8":
        raise ValueError("int8 needs calibration clips")
    if dtype not in form.dtypes:
        raise ValueError(f"{path.name}: {form.title} files are made in {', '.join(form.dtypes)}, not {dtype!r}")
    require(path, (*form.reads, *form.writes, *(("nncf",) if quantises else ())), form.extra)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: no such folder to write {path.name} into")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name a file")
    return form


def _clip(cfg: dict[str, Any], frames: int | None, size: int | None, min_size: int) -> tuple[int, int, int]:
    """Frames, height and width that a file is for; those of the configuration where nothing is given."""
    frames = cfg["num_frames"] if frames is None else frames
    size = (cfg.get("test_input_size") or cfg["input_size"])[-1] if size is None else size
    if frames < 1 or size < min_size:
        raise ValueError(f"the file needs frames=1 and size={min_size} or more, got {frames} and {size}")
    return frames, size, size


def _check_model(model: Any) -> None:
    if isinstance(model, OptimizedModel):
        raise ValueError("an optimized model cannot be exported; export the one it was made from")
    if not getattr(model, "pretrained_cfg", {}).get("architecture") or not hasattr(model, "feature_info"):
        raise ValueError(
            f"cannot export a {type(model).__name__}: give a model made by vov3d.create_model, whole or with"
            " features_only=True"
        )
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
    exported: Any = load_exported(written)
    frames, size, smallest = job.clip[0], job.clip[1], exported.metadata.min_size
    # the smallest, the odd, the oblong, and a batch, where the file takes them
    shapes = [(1, *job.clip)] if form.fixed else [(1, 1, smallest, smallest), (3, 2, 65, 47), (1, *job.clip)]
    groups: dict[str, Iterable[torch.Tensor]] = {
        "random": random_clips(job.in_chans, shapes),
        "made-up motion": moving_clips(source.pretrained_cfg | {"input_size": (job.in_chans,)}, frames, size, 2),
        "calibration clips": islice(job.calibration or (), _CALIBRATION_COMPARED),
        "given clips": samples,
    }
    bound = BOUNDS[job.dtype]
    # int8 has ranges of the calibration clips, and noise leaves them
    unbound = ("random", "made-up motion") if job.dtype == "int8" else ()
    comparisons = []
    for name, clips in groups.items():
        result = compare(name, source, exported, clips)
        if result.relative > bound and name not in unbound:
            raise ExportError(f"{written.name} is off by more than {bound:g} of the largest output: {result}")
        comparisons += [result] if result.number else []
    return comparisons
