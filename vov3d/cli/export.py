"""`vov3d export`: exports a model to a file for another runtime."""

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from vov3d.cli.arguments import check_output, positive
from vov3d.cli.files import videos_in
from vov3d.deploy import check_path, export_and_report
from vov3d.deploy.formats import BOUNDS, FORMATS, FORMS, OPSETS
from vov3d.models import create_model
from vov3d.models.names import model_name


def add_commands(commands: Any) -> None:
    """Adds `export` to the parser's commands."""
    p = commands.add_parser(
        "export",
        description="Exports a model to a file and compares its outputs with the model's, on noise, on generated"
        " motion, and on your videos. A file that differs by more than its bound is not kept: "
        + ", ".join(f"{dtype} {bound:g}" for dtype, bound in BOUNDS.items())
        + " of the largest output.",
    )
    p.add_argument("name", metavar="NAME", help="model or model.tag of 'vov3d list', or the folder of a saved model")
    endings = ", ".join(f"{ending} ({form.title})" for ending, form in FORMATS.items())
    p.add_argument("-o", "--output", required=True, metavar="FILE", help=f"the file to write: {endings}")
    weights = p.add_mutually_exclusive_group()
    weights.add_argument("--checkpoint", metavar="FILE", help="weights (default: the tag's, from the Hub)")
    weights.add_argument("--random-weights", action="store_true", help="no trained weights, to try the speed")
    p.add_argument("--frames", type=positive, metavar="T", help="frames of the file's clips (default: the tag's)")
    p.add_argument("--size", type=positive, metavar="S", help="their height and width (default: the tag's test crop)")
    p.add_argument(
        "--form",
        choices=FORMS,
        help="conv2d: 2D convolutions only and clips of one size, for runtimes without conv3d (TensorRT, WebGPU, NPUs)",
    )
    p.add_argument(
        "--opset", type=int, metavar="N", help=f"for .onnx files: operators of version {OPSETS[0]} to {OPSETS[-1]}"
    )
    kind = p.add_mutually_exclusive_group()
    kind.add_argument(
        "--dtype",
        choices=("fp32", "fp16", "bf16"),
        default="fp32",
        help="for .xml files: fp16 halves the file, bf16 also computes in bf16 if the CPU can (default: fp32)",
    )
    kind.add_argument(
        "--int8",
        metavar="FOLDER",
        help="int8, with ranges from the videos of a folder: .xml, or .onnx of the form conv2d",
    )
    p.add_argument("--video", nargs="+", default=[], metavar="FILE", help="compare on the middle clips of these too")
    p.set_defaults(run=_export)


def _export(args: argparse.Namespace) -> int:
    output = Path(args.output)
    kind = check_path(output, args.dtype, args.int8 is not None, args.form, args.opset)
    check_output(output)
    if args.random_weights:
        print("RANDOM WEIGHTS: the labels of this file mean nothing, only its speed is real", file=sys.stderr)
        torch.manual_seed(0)
    files = _calibration(Path(args.int8)) if args.int8 else None
    model: Any = create_model(
        model_name(args.name), pretrained=not args.random_weights, checkpoint_path=args.checkpoint
    )
    cfg = _cfg(model.pretrained_cfg, args.frames, args.size)
    report = export_and_report(
        model,
        output,
        form=args.form,
        frames=args.frames,
        size=args.size,
        dtype=args.dtype,
        opset=args.opset,
        calibration=_Clips(files, cfg) if files else None,
        samples=_Clips(args.video, cfg),
    )
    size = sum(output.with_suffix(ending).stat().st_size for ending in kind.files) / 1e6
    print(f"written   {' and '.join(str(output.with_suffix(e)) for e in reversed(kind.files))}")
    print(f"format    {kind.title}, {report.dtype}, {size:.1f} MB")
    for comparison in report.comparisons:
        print(f"compared  {comparison}")
    if not args.video and not files:
        print("          no real video among them; --video FILE compares on one")
    return 0


def _calibration(folder: Path) -> list[str]:
    """Returns the videos of a folder; reports its other entries on stderr."""
    files, left_out = videos_in(folder)
    if str(left_out):
        print(f"vov3d export: {left_out}", file=sys.stderr)
    return files


def _cfg(cfg: Mapping[str, Any], frames: int | None, size: int | None) -> dict[str, Any]:
    """Returns the configuration with the requested clip."""
    clip = {"num_frames": frames, "test_input_size": size and (cfg["input_size"][0], size, size)}
    return {**cfg, **{key: value for key, value in clip.items() if value}}


class _Clips:
    """The middle clip `(1, C, T, S, S)` of each video, read at each iteration."""

    def __init__(self, files: Iterable[str], cfg: Mapping[str, Any]) -> None:
        self.files = list(files)
        self.cfg = cfg
        if self.files:
            from vov3d.video import VideoReader  # needs the extra `video`

            for file in self.files:  # opened here, so that a broken one is reported before any work
                with VideoReader(file):
                    pass

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[torch.Tensor]:
        from vov3d.video import VideoReader, eval_transform, plan_clips

        for file in self.files:
            with VideoReader(file) as reader:
                (clip,) = plan_clips(self.cfg, reader)
                yield eval_transform(self.cfg)(reader.read(clip))
