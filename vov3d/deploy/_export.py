"""Exports a model to a file for another runtime."""

import copy
import dataclasses
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from numbers import Integral
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.utils import parametrize

from vov3d.deploy import _metadata
from vov3d.deploy._compare import Comparison, compare
from vov3d.deploy._conv2d import conv2d_graph_of
from vov3d.deploy._exported import load_exported
from vov3d.deploy._stream_files import StreamGraph, compare_steps, stream_metadata
from vov3d.deploy._streaming import StreamingNetwork
from vov3d.deploy.formats import BOUNDS, FORMS, OPSETS, Format, Job, format_of, require
from vov3d.deploy.graphs import graph_of
from vov3d.files import replacing
from vov3d.layers import Stem3d
from vov3d.layers.stem import check_clip
from vov3d.surgery.folding import fold
from vov3d.surgery.hooks import check_own_code_runs
from vov3d.synthetic.noise import moving_clips, random_clips

_CALIBRATION_COMPARED = 8


class ExportError(RuntimeError):
    """A file differs from its source by more than its format may."""


class Report(NamedTuple):
    """An exported file and its comparison with the model.

    Attributes:
        path: The file.
        dtype: Precision in which it computes.
        comparisons: Its differences from the source.
    """

    path: Path
    dtype: str
    comparisons: list[Comparison]


def export(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    form: str | None = None,
    frames: int | None = None,
    size: int | None = None,
    dtype: str = "fp32",
    opset: int | None = None,
    calibration: Iterable[torch.Tensor] | None = None,
    samples: Iterable[torch.Tensor] = (),
) -> Path:
    """Exports a model to a file, and compares the file's outputs with the model's before it is put in place.

    A classifier that pools by the average gets two outputs: `logits`, those of `forward`, and `probabilities` (of a
    regression `values`), those of `forward_dense`, which `VideoClassifier` and `vov3d predict` use. The file carries
    the model's configuration, with its task, and class names. `.onnx`, `.xml` and `.pt2` take any batch, frames, height
    and width that the model takes; with `form="conv2d"` any batch, but clips of one size.

    The bounds of the comparison, relative to the largest output: fp32 1e-4, fp16 0.01, bf16 0.05, int8 0.2; that of
    int8 applies to the logits of calibration clips and samples, which its ranges fit, not to noise.

    Args:
        model: A model made by `create_model`, whole or with `features_only`; a copy in eval mode is exported. Or a
            network made by `streaming`: the file takes one frame of any number of streams and their state, and
            returns the new state with the outputs.
        path: The file to write; its extension selects the format: `.onnx`, `.xml` (OpenVINO, which writes a `.bin`
            beside it), `.pt2` (torch.export) or `.pte` (ExecuTorch). An existing file is replaced.
        form: `"conv3d"`, the network with its norms folded, or `"conv2d"`: the same function with 2D convolutions
            only, and no tensor inside of more than four dimensions, for runtimes that have no (grouped) `conv3d`:
            TensorRT, WebGPU, phones, NPUs. A `.pte` file and a stream are always of that form. None takes the usual
            one of the format.
        frames: Frames of the clips that the file is for; those of the model's configuration if None. A file of the
            form `"conv2d"` takes no others.
        size: Their height and width in pixels; the test crop of the configuration if None.
        dtype: `"fp32"`; for `.xml` also `"fp16"` (weights in half precision, computed in fp32) or `"bf16"`
            (the same file size, computed in bf16 where the CPU has units for it).
        opset: For `.onnx`: version of the operators, 17 to 20; if None, 17 for `form="conv2d"`, which most runtimes
            read, else 18.
        calibration: For `.xml`, and for `.onnx` with `form="conv2d"`: clips `(B, C, T, H, W)`, normalised as the
            model wants them, whose ranges quantise it to int8. A collection, not an iterator: it is read more than
            once. nncf takes up to 300.
        samples: More clips for the comparison.

    Returns:
        The path.

    Raises:
        ValueError: If the model, the path or the combination of settings is not supported; nothing is written.
        FileNotFoundError: If the folder does not exist.
        ImportError: If the format needs a package that is not installed; names the extra.
        ExportError: If the file differs from the model by more than the bound; no file is left.
    """
    return export_and_report(
        model,
        path,
        form=form,
        frames=frames,
        size=size,
        dtype=dtype,
        opset=opset,
        calibration=calibration,
        samples=samples,
    ).path


@torch.autocast("cpu", enabled=False)  # the caller's would become a part of the file
def export_and_report(
    model: Any,
    path: str | os.PathLike[str],
    *,
    form: str | None = None,
    frames: int | None = None,
    size: int | None = None,
    dtype: str = "fp32",
    opset: int | None = None,
    calibration: Iterable[torch.Tensor] | None = None,
    samples: Iterable[torch.Tensor] = (),
) -> Report:
    """Exports as `export` does, and returns the comparison with the model.

    Args:
        model: As for `export`.
        path: As for `export`.
        form: As for `export`.
        frames: As for `export`.
        size: As for `export`.
        dtype: As for `export`.
        opset: As for `export`.
        calibration: As for `export`.
        samples: Clips `(B, C, T, H, W)` for the comparison, besides generated ones.

    Returns:
        The file and the comparison.

    Raises:
        ValueError: As `export`.
    """
    path = Path(path)
    kind = check_path(path, dtype, calibration is not None, form, opset)
    dtype = "int8" if calibration is not None else dtype
    _check_model(model)
    if calibration is not None and iter(calibration) is calibration:
        raise ValueError("calibration must be a collection of clips, such as a list: an iterator can be read only once")
    if isinstance(model, StreamingNetwork):
        if form == "conv3d":
            raise ValueError("a stream has no conv3d; leave out form")
        return _export_stream(model, path, kind, size, dtype, opset, frames, samples)
    form = form or kind.forms[0]
    min_size = next(m.min_size for m in model.modules() if isinstance(m, Stem3d))
    clip = _clip(model.pretrained_cfg, frames, size, min_size)
    fixed = clip if form == "conv2d" else None
    samples = _Clips("samples", samples, model.in_chans, min_size, fixed)
    if calibration is not None:
        calibration = _Clips("calibration", calibration, model.in_chans, min_size, fixed)
        if next(iter(calibration), None) is None:
            raise ValueError("calibration has no clips; give at least a few dozen")
    source = copy.deepcopy(model).cpu().eval().requires_grad_(False)
    plain = _with_fixed_weights(copy.deepcopy(source))
    # Norms are folded before the graph is traced, which is most of the time: runtimes would fold them afterwards.
    graph = graph_of(fold(plain)) if form == "conv3d" else conv2d_graph_of(plain, clip)
    metadata = _metadata.describe(model, clip[0], clip[1], graph.output_names, dtype, min_size, form == "conv2d")
    metadata = dataclasses.replace(metadata, form=form)
    job = Job(graph.eval(), metadata.to_strings(), model.in_chans, clip, dtype, calibration, _opset(opset, form))
    with _put_in_place(path, kind) as written:
        kind.backend.write(job, written)
        comparisons = _compare(source, written, job, samples)
    return Report(path, dtype, comparisons)


def _with_fixed_weights(model: nn.Module) -> nn.Module:
    """Replaces weights that are computed in each call, as by `weight_norm`, with their values, in place."""
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            names: Any = module.parametrizations
            values = {name: getattr(module, name).detach().clone() for name in names}
            # Not `remove_parametrizations`: it changes a class that copies share.
            module.__class__ = type(module).__bases__[0]
            del module.parametrizations
            for name, value in values.items():
                module.register_parameter(name, nn.Parameter(value, requires_grad=False))
    return model


class _Clips:
    """Clips that were given, checked as they are read.

    Args:
        name: Name of the argument.
        clips: The clips.
        in_chans: Their channels.
        min_size: Their smallest height and width.
        fixed: Their only frames, height and width, if the file takes no others.
    """

    def __init__(
        self, name: str, clips: Iterable[Any], in_chans: int, min_size: int, fixed: tuple[int, int, int] | None
    ) -> None:
        self.name, self.clips, self.in_chans, self.min_size, self.fixed = name, clips, in_chans, min_size, fixed

    def __iter__(self) -> Iterator[torch.Tensor]:
        """Yields them as float32 on the CPU.

        Raises:
            ValueError: If one is no clip that the file takes.
        """
        for clip in self.clips:
            try:
                check_clip(clip, self.in_chans, self.min_size)
            except (TypeError, ValueError) as e:
                raise ValueError(
                    f"{self.name} must be a collection of clips alone, such as [clip for clip, label in loader]: {e}"
                ) from None
            if self.fixed is not None and tuple(clip.shape[2:]) != self.fixed:
                size, given = ("x".join(map(str, one)) for one in (self.fixed, clip.shape[2:]))
                raise ValueError(f"{self.name}: the file is for clips of {size}, got {given}; set frames and size")
            yield clip.detach().to("cpu", torch.float32)


def _opset(opset: int | None, form: str) -> int:
    return opset or (17 if form == "conv2d" else 18)


def _export_stream(
    stream: StreamingNetwork,
    path: Path,
    kind: Format,
    size: int | None,
    dtype: str,
    opset: int | None,
    frames: Any,
    samples: Any,
) -> Report:
    """Exports a stream, which is compared step by step."""
    if dtype == "int8" or "conv3d" not in kind.forms:
        raise ValueError(f"{path.name}: streams are exported as .onnx, .xml and .pt2, and not in int8")
    if frames is not None or samples:
        raise ValueError("frames and samples would have no effect: a stream takes one frame at a time")
    clip = _clip(stream.pretrained_cfg, 1, size, stream.min_size)
    source = copy.deepcopy(stream).cpu()
    graph = StreamGraph(source, clip[1:])
    metadata = _metadata.describe(stream, 1, clip[1], graph.output_names, dtype, stream.min_size, True)
    metadata = dataclasses.replace(metadata, stream=stream_metadata(source, clip[1:]), form="conv2d")
    cfg = {**metadata.pretrained_cfg, "num_frames": stream.pretrained_cfg["num_frames"]}
    if stream.temperature != 1:
        cfg["temperature"] = stream.temperature
    metadata = dataclasses.replace(metadata, pretrained_cfg=cfg)
    opset = _opset(opset, "conv2d")
    job = Job(graph.eval(), metadata.to_strings(), stream.in_chans, clip, dtype, None, opset)
    with _put_in_place(path, kind) as written:
        kind.backend.write(job, written)
        comparisons = list(compare_steps(source, load_exported(written), clip[1:]))  # type: ignore[arg-type]
        for result in comparisons:
            if result.relative > BOUNDS[dtype]:
                raise ExportError(f"{path.name} is off by more than {BOUNDS[dtype]:g} of the largest value: {result}")
    return Report(path, dtype, comparisons)


@contextmanager
def _put_in_place(path: Path, kind: Format) -> Iterator[Path]:
    """Yields a path of the same name in a temporary folder; then puts its files in place, all of them or none.

    Some formats store the name of their file, so a draft of another name would not do.
    """
    with ExitStack() as stack:
        # the first of `kind.files` is put in place first: the last one entered
        drafts = [(ending, stack.enter_context(replacing(path.with_suffix(ending)))) for ending in kind.files[::-1]]
        written = Path(stack.enter_context(TemporaryDirectory(prefix="vov3d-export-"))) / path.name
        yield written
        for ending, draft in drafts:
            shutil.copyfile(written.with_suffix(ending), draft)


def check_path(path: Path, dtype: str, quantises: bool, form: str | None = None, opset: int | None = None) -> Format:
    """Returns the format of a path, if it can be written.

    Args:
        path: The file to write.
        dtype: Precision of the file.
        quantises: Whether calibration clips were given.
        form: `"conv3d"`, `"conv2d"`, or None for the usual one of the format.
        opset: Version of ONNX's operators, if one is asked for.

    Raises:
        ValueError: If there is no such format, or it does not support the dtype, the form or the opset.
        FileNotFoundError: If the folder does not exist.
        ImportError: If a package is missing.
    """
    kind = format_of(path)
    if form is not None and form not in FORMS:
        raise ValueError(f"form must be {' or '.join(map(repr, FORMS))}, got {form!r}")
    if form is not None and form not in kind.forms:
        raise ValueError(f"{path.name}: {kind.title} files are of the form {', '.join(kind.forms)}, not {form!r}")
    if opset is not None and (path.suffix != ".onnx" or opset not in OPSETS):
        raise ValueError(f"opset={opset}: it is for .onnx files, and from {OPSETS[0]} to {OPSETS[-1]}")
    if quantises and "int8" not in kind.dtypes:
        raise ValueError(
            f"{path.name}: calibration is for int8, but {kind.title} files do not support it; use .xml or .onnx"
        )
    if quantises and path.suffix == ".onnx" and form != "conv2d":
        raise ValueError(f"{path.name}: int8 needs form='conv2d' in ONNX files, or a file that ends in .xml")
    if quantises and dtype != "fp32":
        raise ValueError(f"dtype={dtype!r} and calibration, which makes the file int8, exclude each other")
    if not quantises and dtype == "int8":
        raise ValueError("int8 needs calibration clips")
    if dtype not in kind.dtypes:
        raise ValueError(f"{path.name}: {kind.title} files support {', '.join(kind.dtypes)}, not {dtype!r}")
    require(path, (*kind.reads, *kind.writes, *(("nncf",) if quantises else ())), kind.extra)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: no such folder to write {path.name} into")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name a file")
    return kind


def _clip(cfg: dict[str, Any], frames: int | None, size: int | None, min_size: int) -> tuple[int, int, int]:
    """Returns frames, height and width of a file's clips; those of the configuration where nothing is given."""
    frames = cfg["num_frames"] if frames is None else frames
    size = (cfg.get("test_input_size") or cfg["input_size"])[-1] if size is None else size
    if not isinstance(frames, Integral) or not isinstance(size, Integral):
        raise ValueError(f"frames and size must be whole numbers, size that of both sides, got {frames!r} and {size!r}")
    if frames < 1 or size < min_size:
        raise ValueError(f"the file needs frames=1 and size={min_size} or more, got {frames} and {size}")
    return int(frames), int(size), int(size)


def _check_model(model: Any) -> None:
    if isinstance(getattr(model, "backend", None), str):  # of OptimizedModel and RuntimeModel
        raise ValueError("an optimized model cannot be exported; export the one it was made from")
    if not getattr(model, "pretrained_cfg", {}).get("architecture") or not hasattr(model, "feature_info"):
        raise ValueError(
            f"cannot export a {type(model).__name__}: give a model made by vov3d.create_model, whole or with"
            " features_only=True"
        )
    check_own_code_runs(model, "a file cannot hold")
    for name, tensor in model.state_dict().items():
        if tensor.is_meta:
            raise ValueError(f"{name} is on the meta device: the model has no weights to export")
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise ValueError(f"{name} is {tensor.dtype}, but only float32 models can be exported; call model.float()")


def _compare(source: Any, written: Path, job: Job, samples: Iterable[torch.Tensor]) -> list[Comparison]:
    """Compares the written file with its source.

    Raises:
        ExportError: If they differ by more than the bound.
    """
    exported: Any = load_exported(written)
    frames, size, smallest = job.clip[0], job.clip[1], exported.metadata.min_size
    shapes = [(1, *job.clip)]
    if exported.metadata.clip is None:  # the smallest clip, an odd and oblong batch
        shapes = [(1, 1, smallest, smallest), (3, 2, 65, 47), *shapes]
    groups: dict[str, Iterable[torch.Tensor]] = {
        "random": random_clips(job.in_chans, shapes),
        "made-up motion": moving_clips(source.pretrained_cfg | {"input_size": (job.in_chans,)}, frames, size, 2),
        "calibration clips": islice(job.calibration or (), _CALIBRATION_COMPARED),
        "given clips": samples,
    }
    bound = BOUNDS[job.dtype]
    # the ranges of int8 come from the calibration clips, and noise exceeds them
    unbound = ("random", "made-up motion") if job.dtype == "int8" else ()
    comparisons = []
    for name, clips in groups.items():
        result = compare(name, source, exported, clips)
        if result.relative > bound and name not in unbound:
            raise ExportError(f"{written.name} is off by more than {bound:g} of the largest output: {result}")
        comparisons += [result] if result.number else []
    return comparisons
