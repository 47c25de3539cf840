"""`vov3d predict`: labels video files."""

import argparse
import csv
import json
import os
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from vov3d.cli.arguments import (
    Progress,
    check_output,
    device,
    positive,
    say_what_it_knows,
    shard,
    show_warnings,
)
from vov3d.cli.files import named_videos, share_of
from vov3d.deploy import BACKENDS, load_exported, optimize_for_inference
from vov3d.deploy.formats import FORMATS
from vov3d.files import check_not_sources
from vov3d.models import create_model
from vov3d.models.names import model_name

DEFAULT_MODEL = "vov3d_n"
CONVERTED_FROM = 1000 * 16 * 224 * 224
"""Frames x height x width of all views from which `--runtime auto` takes OpenVINO: it saves 15 to 30 ms of a view of
VoV3D-M on two cores, and the conversion takes tens of seconds (docs/guides/export.md)."""

_RANDOM = "RANDOM WEIGHTS: these labels mean nothing, only the speed is real"


def add_commands(commands: Any) -> None:
    """Adds `predict` to the parser's commands."""
    p = commands.add_parser("predict")
    add_files(p)
    add_settings(p)
    p.add_argument(
        "--topk",
        type=positive,
        metavar="K",
        help="labels per file (default: 5; all above the threshold for a multilabel model)",
    )
    p.add_argument(
        "--threshold", type=float, metavar="P", help="least score of a label of a multilabel model (default: 0.5)"
    )
    form = p.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON list and nothing else")
    form.add_argument("--csv", action="store_true", help="print lines of file, rank, label, index, score, error")
    p.add_argument(
        "--picture",
        metavar="FILE",
        help="draw the input frames, the labels and a time line; for several videos FILE-1, FILE-2, ..., which count "
        "the videos of all shards",
    )
    p.add_argument(
        "--runtime",
        choices=BACKENDS,
        default="auto",
        help="what computes the model: torch, openvino, onnxruntime, or auto, which takes OpenVINO if it is installed "
        "and there are enough views to make up for the seconds that the conversion takes (default: auto)",
    )
    p.add_argument("-v", "--verbose", action="store_true", help="say on stderr what computes the model, and why")
    p.set_defaults(run=_predict)


def add_files(p: argparse.ArgumentParser) -> None:
    """Adds the argument for videos, for `named_videos`."""
    p.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="video files, folders of videos or of frames (00001.jpg ...), http(s) addresses; @LIST for a file that "
        "names them, one per line, - for the standard input",
    )
    p.add_argument(
        "--shard",
        type=shard,
        metavar="I/N",
        help="only the I-th of N equal shares of the videos, from 1: one for each task of a job array",
    )
    p.epilog = "Exit codes: 0 success, 1 an error, named on stderr, 2 wrong arguments."


def add_settings(p: argparse.ArgumentParser) -> None:
    """Adds the arguments for the model and its settings, for `classifier_for`."""
    p.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        metavar="NAME",
        help="model or model.tag of 'vov3d list', the folder of a saved model, or a file of 'vov3d export' (default: "
        "vov3d_n, which comes with the package and knows only the motions of 'vov3d demo')",
    )
    weights = p.add_mutually_exclusive_group()
    weights.add_argument("--checkpoint", metavar="FILE", help="weights (default: the tag's, from the Hub)")
    weights.add_argument("--random-weights", action="store_true", help="no trained weights: labels are noise")
    p.add_argument("--views", default="1x1", metavar="CLIPSxCROPS", help="such as 10x3 or 2x3 (default: 1x1)")
    p.add_argument("--frames", type=positive, metavar="T", help="frames of a clip (default: the model's)")
    p.add_argument(
        "--stride",
        type=float,
        metavar="S",
        help="distance of a clip's frames, at 30 fps (default: the model's)",
    )
    p.add_argument("--fps", type=float, help="frames per second of folders (default: 12); files have their own")
    p.add_argument("--batch-size", type=positive, metavar="N", help="views at once (default: as many as fit in memory)")
    p.add_argument("--backend", choices=("pyav", "torchcodec"), help="decoder for files (default: pyav)")
    p.add_argument("--device", default="cpu", help="cpu, cuda, ... (default: cpu)")


def _predict(args: argparse.Namespace) -> int:
    from vov3d.video import parse_views  # needs the extra `video`
    from vov3d.video.picture import check_picture_name, save_result

    clips, crops = parse_views(args.views)
    if args.picture:
        check_picture_name(args.picture)
        check_output(args.picture)
    every = named_videos(args.files, "predict")
    files = share_of(every, args.shard)
    pictures = share_of(_pictures(args.picture, len(every)), args.shard) if args.picture else []
    check_not_sources(pictures, every)
    target = device(args.device)
    if args.random_weights:
        print(_RANDOM, file=sys.stderr)
        torch.manual_seed(0)
    model = exported_model(args, args.runtime)
    if model is None:
        model, why = _accelerated(args, loaded_model(args), target, len(files) * clips * crops)
    else:
        why = "the file"
    if args.verbose:
        print(f"vov3d predict: computed by {getattr(model, 'backend', 'exported file')}: {why}", file=sys.stderr)
    say_what_it_knows("predict", model)
    failed = False
    classifier = classifier_for(args, model, len(files), args.threshold)
    results = classifier.results(files, topk=args.topk, fps=args.fps, errors="return")
    progress = Progress("predict", len(files))
    with show_warnings("predict", progress.clear), closing(_printer(args, classifier)) as printer:
        for number, (file, result) in enumerate(zip(files, results, strict=True)):
            progress.clear()
            if result.error is not None:
                failed = True
                print(f"vov3d predict: {result.error}", file=sys.stderr)
            elif pictures:
                save_result(result, pictures[number])
            printer.add(file, result)
            progress.step()
    return int(failed)


def exported_model(args: argparse.Namespace, runtime: str = "auto") -> torch.nn.Module | None:
    """Returns the model in an exported file, or None if `--model` is not one."""
    if Path(args.model).suffix not in FORMATS:
        return None
    without_effect = {
        "--checkpoint": args.checkpoint is not None,
        "--random-weights": args.random_weights,
        f"--device {args.device}": device(args.device).type != "cpu",
        f"--runtime {runtime}": runtime != "auto",
    }
    for option, given in without_effect.items():
        if given:
            raise ValueError(f"{option} has no effect on {args.model}, which contains its weights and runs on the CPU")
    return load_exported(args.model)


def loaded_model(args: argparse.Namespace) -> Any:
    """Returns the requested model in eval mode."""
    return create_model(
        model_name(args.model), pretrained=not args.random_weights, checkpoint_path=args.checkpoint
    ).eval()


def fast_on(target: torch.device, model: torch.nn.Module) -> torch.nn.Module:
    """Returns a model on a device, optimized on CPUs, where this was measured to be faster."""
    return optimize_for_inference(model) if target.type == "cpu" else model.to(target)


def _accelerated(args: argparse.Namespace, model: Any, target: torch.device, views: int) -> tuple[torch.nn.Module, str]:
    """Returns a model in the runtime that is fastest for a number of views, and the reason in words."""
    if args.runtime not in ("auto", "torch"):
        return optimize_for_inference(model, device=target, backend=args.runtime), "as --runtime says"
    if target.type != "cpu":
        return model.to(target), f"it runs on {target}"
    if args.runtime == "torch":
        return optimize_for_inference(model), "as --runtime says"
    cfg = model.pretrained_cfg
    size = (cfg.get("test_input_size") or cfg["input_size"])[-1]
    enough = -(-CONVERTED_FROM // ((args.frames or cfg["num_frames"]) * size**2))
    if views < enough:
        return optimize_for_inference(model), f"OpenVINO pays off from {enough} views on, not for {views}"
    fast = optimize_for_inference(model, backend="auto")
    if fast.backend != "torch":
        return fast, f"{views} views make up for the conversion, from {enough} on"
    return fast, "OpenVINO is not installed or does not take the model"


def classifier_for(args: argparse.Namespace, model: torch.nn.Module, files: int, threshold: float | None = None) -> Any:
    """Returns the `VideoClassifier` of a model, with the settings of the command line, for a number of files."""
    from vov3d.video import VideoClassifier

    return VideoClassifier(
        model,
        views=args.views,
        batch_size=args.batch_size,
        progress=files == 1,  # for several, `Progress` counts the files
        stride=args.stride,
        num_frames=args.frames,
        backend=args.backend,
        threshold=threshold,
    )


def _pictures(name: str, count: int) -> list[str]:
    """Returns the name of each video's picture, with its number if there are several."""
    stem, ending = os.path.splitext(name)
    return [name] if count == 1 else [f"{stem}-{number}{ending}" for number in range(1, count + 1)]


# --- printing --------------------------------------------------------------------------------------------------------


class _Text:
    """Prints results as readable text, one by one."""

    def __init__(self, class_names: list[str]) -> None:
        self._names = class_names

    def add(self, file: str, result: Any) -> None:
        """Prints the result of a file; errors go to stderr."""
        if result.error is None:
            print("\n".join([file, *(f"  {said}" for said in self._lines(result))]), flush=True)

    def _lines(self, result: Any) -> list[str]:
        from vov3d.video.predictions import line

        if result.predictions:
            return [line(prediction) for prediction in result.predictions]
        best = int(result.scores.argmax())
        return [f"no label reaches its threshold; the best is {self._names[best]}, {100 * result.scores[best]:.1f}%"]

    def close(self) -> None:
        """Does nothing: each result is complete."""


class _Csv:
    """Prints a line for each label, and one for each file without labels."""

    def __init__(self, task: Any) -> None:
        self._heads = [name for name, _ in task.heads]
        self._writer = csv.writer(sys.stdout, lineterminator="\n")
        score = "value" if task.name == "regression" else "score"
        more = [f"{name}{column}" for name in self._heads for column in ("", "_index", "_score")]
        self._writer.writerow(("file", "rank", "label", "index", score, "error", *more))

    def add(self, file: str, result: Any) -> None:
        """Prints the result of a file."""
        for rank, p in enumerate(result.predictions, 1):
            parts = [cell for _, part in getattr(p, "parts", ()) for cell in (part.label, part.index, part.score)]
            self._writer.writerow((file, rank, p.label, p.index, p.score, "", *parts))
        if not result.predictions:
            self._writer.writerow((file, "", "", "", "", result.error or "", *[""] * 3 * len(self._heads)))
        sys.stdout.flush()

    def close(self) -> None:
        """Does nothing: each result is complete."""


class _Json:
    """Prints one list with an entry for each file; it is valid even if the command ends early."""

    def __init__(self, random_weights: bool) -> None:
        self._random_weights = random_weights
        self._begun = False

    def add(self, file: str, result: Any) -> None:
        """Prints the result of a file."""
        from vov3d.video.predictions import as_dict

        entry: dict[str, Any] = {"file": file, "predictions": [as_dict(p) for p in result.predictions]}
        if result.error is not None:
            entry["error"] = str(result.error)
        if self._random_weights:
            entry["random_weights"] = True
        print(",\n" if self._begun else "[\n", _json(entry), sep="", end="", flush=True)
        self._begun = True

    def close(self) -> None:
        """Ends the list."""
        print("\n]" if self._begun else "[]", flush=True)


def _json(value: Any) -> str:
    """Returns indented JSON; characters outside the output's encoding become JSON escapes."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=2)
    return "  " + text.replace("\n", "\n  ")


def _printer(args: argparse.Namespace, classifier: Any) -> _Text | _Csv | _Json:
    if args.json:
        return _Json(args.random_weights)
    return _Csv(classifier.task) if args.csv else _Text(classifier.class_names)
