"""Finds what happens when in long videos, by a small head that is trained on segments that are known.

    python -m reference.localize train --annotations shapes --output runs/localize       # generated, a few minutes
    vov3d embed videos --every 0.5s --model vov3d_m.k400_f16 -o features.npz
    python -m reference.localize train --features features.npz --annotations activity_net.json --output runs/mine
    python -m reference.localize evaluate --model runs/mine --features features.npz --annotations activity_net.json
    python -m reference.localize evaluate --found results.json --annotations activity_net.json
    python -m reference.localize predict film.mp4 --model runs/mine -o results.json

Annotations are ActivityNet's JSON, a CSV as EPIC-Kitchens', or THUMOS's text (`reference.localization.annotations`).
What is measured is ActivityNet's mAP at overlaps in time of 0.3 to 0.7, or of `--tiou`. Segments end at cuts unless the
features were made with `--across-cuts`. Without training, `examples/localize.py` labels with the classes of a model.
Needs the extra `video`: `pip install 'vov3d[video]'`.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import vov3d
from reference.evaluation.models import best_device
from reference.localization.annotations import Annotations, check_labels, checked, other_lengths, read_annotations
from reference.localization.features import (
    Features,
    Video,
    check_alike,
    check_backbone,
    lengths,
    matched,
    name_of,
    read_features,
    videos_of,
)
from reference.localization.metrics import TIOUS, Found, Report, measure
from reference.localization.model import Head, as_results, find, load_head, read_results
from reference.localization.shapes import EVERY, SECONDS, write_shapes
from reference.localization.training import Plan, train
from vov3d.cli import main as vov3d_command
from vov3d.cli.arguments import check_output, device, positive, show_warnings
from vov3d.files import replacing
from vov3d.models.names import model_name
from vov3d.video import VideoClassifier, VideoError
from vov3d.video.sources import is_file

SHAPES = "shapes"


def main(argv: Sequence[str] | None = None) -> int:
    """Does what the command says; returns the exit status."""
    args = _parser().parse_args(argv)
    with show_warnings("localize"):
        try:
            args.run(args)
        except (ArithmeticError, ImportError, OSError, RuntimeError, ValueError) as error:
            print(f"localize: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("localize: stopped", file=sys.stderr)
            return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    data = argparse.ArgumentParser(add_help=False)
    data.add_argument("--annotations", required=True, metavar="FILE", help=f"what happens when, or {SHAPES!r}")
    data.add_argument("--features", type=Path, metavar="FILE", help="of vov3d embed --every")
    data.add_argument("--label-column", default="verb_class", metavar="NAME", help="of a CSV (default: verb_class)")
    data.add_argument("--partial", action="store_true", help="leave out annotated videos without features")
    data.add_argument("--mend", action="store_true", help="cut or leave out segments that cannot be")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--device", help="cpu, cuda, ... (default: the GPU where there is one)")

    p = commands.add_parser("train", parents=[data, common], help="train a head")
    p.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="of the head and its results")
    p.add_argument("--subset", default="training", help="of the annotations, where they have some (default: training)")
    p.add_argument("--epochs", type=positive, default=Plan.epochs, help=f"(default: {Plan.epochs})")
    p.add_argument("--batch", type=positive, default=Plan.batch, help=f"videos an update (default: {Plan.batch})")
    p.add_argument("--lr", type=float, default=Plan.lr, help=f"of AdamW (default: {Plan.lr})")
    p.add_argument("--seed", type=int, default=0, help="of weights and order (default: 0)")
    shapes = p.add_argument_group("generated videos")
    shapes.add_argument("--backbone", metavar="NAME", help="model.tag (default: vov3d_n)")
    shapes.add_argument("--videos", type=positive, metavar="N", help="to train on (default: 40)")
    shapes.add_argument("--val-videos", type=positive, metavar="N", help="held out (default: 20)")
    shapes.add_argument("--across-cuts", action="store_true", help="do not look for cuts")
    p.set_defaults(run=_train)

    p = commands.add_parser("evaluate", parents=[data, common], help="mAP of a head, or of results")
    which = p.add_mutually_exclusive_group(required=True)
    which.add_argument("--model", type=Path, metavar="FOLDER", help="a trained head")
    which.add_argument("--found", type=Path, metavar="FILE", help="segments, in the form of ActivityNet's results")
    p.add_argument("--subset", default="validation", help="of the annotations (default: validation)")
    p.add_argument("--tiou", type=_share, nargs="+", default=TIOUS, metavar="T", help="overlaps (default: 0.3 to 0.7)")
    p.add_argument("--output", type=Path, metavar="FILE", help="write what was found, in ActivityNet's form")
    p.set_defaults(run=_evaluate)

    p = commands.add_parser("predict", parents=[common], help="the segments of videos, in ActivityNet's form")
    p.add_argument("videos", nargs="+", metavar="VIDEO", help="file, folder of frames, or http(s) address")
    p.add_argument("--model", type=Path, required=True, metavar="FOLDER", help="a trained head")
    p.add_argument("--checkpoint", metavar="FILE", help="weights of the backbone, if they are not those of its tag")
    p.add_argument("--fps", type=float, help="frames per second of folders (default: 12); files have their own")
    p.add_argument("--threshold", type=float, default=0.3, help="score of what is printed (default: 0.3)")
    p.add_argument("-o", "--output", type=Path, required=True, metavar="FILE")
    p.set_defaults(run=_predict)
    return parser


def _share(text: str) -> float:
    """Returns an overlap: a number above 0 and up to 1."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no overlap; give numbers above 0 and up to 1, such as 0.5 0.75")
    return value


def _device(args: argparse.Namespace) -> torch.device:
    return device(args.device) if args.device else best_device()


# --- train -----------------------------------------------------------------------------------------------------------


def _train(args: argparse.Namespace) -> None:
    if not 0 < args.lr < float("inf"):
        raise ValueError(f"--lr is {args.lr}: it must be above 0")
    if not args.output.absolute().parent.is_dir():
        raise FileNotFoundError(f"{args.output}: there is no folder {args.output.absolute().parent}; make it first")
    generated = {
        "--backbone": args.backbone, "--videos": args.videos, "--val-videos": args.val_videos,
        "--across-cuts": args.across_cuts or None,
    }  # fmt: skip
    if args.annotations != SHAPES:
        for option, value in generated.items():
            if value is not None:
                raise ValueError(f"{option} is for --annotations {SHAPES}; features of others come from vov3d embed")
    else:
        _make_shapes(args)
    features = _features(args)
    annotations, videos = _data(args, features, args.subset)
    print(f"{len(annotations.segments)} segments of {len(annotations.labels)} classes in {len(videos)} videos")
    plan = Plan(args.epochs, args.batch, args.lr, args.seed)
    head = train(features, videos, annotations.segments, annotations.labels, plan, _device(args))
    head.save(args.output)
    print(f"written {args.output}")
    if args.annotations == str(args.output / SHAPES / "annotations.json"):
        held_out, videos = _data(args, features, "validation")
        report = _report(held_out, _found(head, videos))
        _write_json(args.output / "results.json", _as_json(report, held_out))


def _make_shapes(args: argparse.Namespace) -> None:
    """Makes videos and features, in the output folder, and takes them for what was given."""
    if args.features:
        raise ValueError(f"--features has no effect on {SHAPES}, whose features are made on the spot")
    folder = args.output / SHAPES
    args.annotations = str(write_shapes(folder, args.videos or 40, args.val_videos or 20))
    args.features = folder / "features.npz"
    argv = ["embed", str(folder / "videos"), "-o", str(args.features), "--model", args.backbone or "vov3d_n"]
    argv += ["--every", f"{EVERY}s", "--seconds", str(SECONDS)] + ["--across-cuts"] * args.across_cuts
    if vov3d_command(argv):
        raise RuntimeError("the features of the generated videos could not be made")


def _features(args: argparse.Namespace) -> Features:
    if args.features is None:
        raise ValueError("--features is missing: vov3d embed VIDEOS --every 0.5s -o features.npz writes them")
    return read_features(args.features)


def _data(args: argparse.Namespace, features: Features, subset: str) -> tuple[Annotations, dict[str, Video]]:
    """Returns the annotations of a subset, and the features of its videos."""
    every = read_annotations(args.annotations, args.label_column, args.mend)
    part = every.subset(subset)
    videos = videos_of(features, part, args.partial)
    if len(videos) < len(part.videos):
        print(f"{len(part.videos) - len(videos)} of {len(part.videos)} videos have no features and are left out")
    segments = tuple(one for one in part.segments if one.video in videos)
    known = Annotations(tuple(videos), segments, every.labels, part.durations, notes=part.notes)
    found = checked(known, args.annotations, args.mend, lengths(videos))
    if not found.segments:
        raise ValueError(f"{args.annotations}: has no segment for the {len(videos)} videos of subset {subset!r}")
    for note in (*found.notes, *other_lengths(known, lengths(videos))):
        print(f"{args.annotations}: {note}")
    return found, videos


# --- evaluate --------------------------------------------------------------------------------------------------------


def _evaluate(args: argparse.Namespace) -> None:
    if args.annotations == SHAPES and args.model:
        made = args.model / SHAPES
        args.annotations, args.features = str(made / "annotations.json"), args.features or made / "features.npz"
    if args.output:
        check_output(args.output, args.annotations, *_lists_in(args.annotations), str(args.features or ""))
    if args.found:
        if args.features or args.output:
            raise ValueError("--features and --output have no effect on --found, which is measured as it is")
        annotations = read_annotations(args.annotations, args.label_column, args.mend).subset(args.subset)
        _report(annotations, _found_in(args.found, annotations), args.tiou)
        return
    head = load_head(args.model).to(_device(args))
    features = _features(args)
    check_alike(head.settings.about, features.about, str(args.features))
    annotations, videos = _data(args, features, args.subset)
    check_labels(annotations, head.settings.labels, str(args.model))
    weights = head.settings.about["weights"], features.about["weights"]
    known = "digest" in head.settings.about and "digest" in features.about  # and equal, by `check_alike`
    if weights[0] != weights[1] and not known:
        print(f"{args.features} is of weights {weights[1]}, {args.model} of {weights[0]}: they must be the same ones")
    found = _found(head, videos)
    _report(annotations, found, args.tiou)
    if args.output:
        _write_json(args.output, as_results(found))


def _lists_in(annotations: str) -> list[str]:
    """Returns the lists in a folder of annotations; none of a file."""
    return [str(file) for file in Path(annotations).glob("*.txt")]


def _found_in(path: Path, annotations: Annotations) -> list[Found]:
    """Reads results, under the names of the annotations; prints how many videos they do not name."""
    found = read_results(path)
    there = {one.video for one in found}
    names = {file: name for name, file in matched(there, annotations.videos).items()}
    if there and not names:
        raise ValueError(
            f"{path}: has results for {min(there)} and other videos, none of them of the {len(annotations.videos)} of "
            f"the annotations, such as {annotations.videos[0]}: names must agree, or begin with v_"
        )
    if names.keys() < there:
        others = len(there) - len(names)
        print(f"{path}: what is found in {others} videos that are not of the subset is left out")
    return [one._replace(video=names[one.video]) for one in found if one.video in names]


def _found(head: Head, videos: dict[str, Video]) -> list[Found]:
    return [segment for name, video in videos.items() for segment in find(head, video, name)]


def _report(annotations: Annotations, found: Sequence[Found], tious: Sequence[float] = TIOUS) -> Report:
    """Measures and prints."""
    report = measure(annotations.segments, found, tious)
    others = sum(one.label not in report.precision for one in found)
    if others:
        print(f"{others} segments found are of classes that the annotations do not hold, and do not count")
    print(f"{len(annotations.segments)} segments of {len(report.precision)} classes, {len(found)} found")
    print("tIoU  " + "  ".join(f"{tiou:5g}" for tiou in report.tious) + "   mean")
    print("mAP   " + "  ".join(f"{100 * value:5.1f}" for value in [*report.by_tiou, report.mean]))
    return report


def _as_json(report: Report, annotations: Annotations) -> dict[str, Any]:
    by_tiou = {f"{tiou:g}": round(100 * value, 2) for tiou, value in zip(report.tious, report.by_tiou, strict=True)}
    classes = {label: np.round(100 * values, 2).tolist() for label, values in report.precision.items()}
    counts = {"videos": len(annotations.videos), "segments": len(annotations.segments)}
    return {"map": by_tiou, "mean": round(100 * report.mean, 2), **counts, "ap": classes}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with replacing(path) as draft:
        draft.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


# --- predict ---------------------------------------------------------------------------------------------------------


def _predict(args: argparse.Namespace) -> None:
    check_output(args.output, *args.videos, args.checkpoint or "")
    _check_videos(args.videos, args.fps)
    head = load_head(args.model).to(_device(args))
    classifier = _backbone(head.settings.about, args)
    found, broken = list[Found](), list[str]()
    for path in args.videos:
        try:
            video = embedded(classifier, head.settings.about, path, args.fps)
        except VideoError as error:
            broken.append(str(error))
            continue
        part = find(head, video, video.name)
        for one in sorted(part, key=lambda segment: segment.start):
            if one.score >= args.threshold:
                print(f"{path}  {one.start:9.2f} {one.end:9.2f}  {one.score:4.0%}  {one.label}")
        found += part
    if len(broken) < len(args.videos):
        _write_json(args.output, as_results(found))
    if broken:
        written = "nothing was written" if len(broken) == len(args.videos) else f"{args.output} holds the others"
        raise RuntimeError(f"{len(broken)} of {len(args.videos)} videos cannot be read; {written}: {'; '.join(broken)}")


def _check_videos(videos: Sequence[str], fps: float | None) -> None:
    """Refuses videos that results could not tell apart, and a rate that no video would take."""
    first: dict[str, str] = {}
    for path in videos:
        if path != first.setdefault(name_of(path), path):
            raise ValueError(f"{first[name_of(path)]} and {path} have one name in the results: predict one at a time")
        if videos.count(path) > 1:
            raise ValueError(f"{path} is given {videos.count(path)} times")
    if fps is not None and all(map(is_file, videos)):
        raise ValueError("--fps is for folders of frames, and each video is a file, which has its own rate")


def _backbone(about: dict[str, str], args: argparse.Namespace) -> VideoClassifier:
    """Returns the network whose features the head was trained on."""
    if about["weights"] == "random":
        raise ValueError(f"{args.model} was trained on features of random weights, which cannot be had again")
    name = ".".join(filter(None, (about["model"], about["tag"])))
    source, checkpoint = about["weights"], args.checkpoint
    if checkpoint is None and Path(source).is_file():
        source, checkpoint = name, source
    model: Any = vov3d.create_model(model_name(source), pretrained=True, checkpoint_path=checkpoint).eval()
    check_backbone(about, model, str(checkpoint or source), str(args.model))
    target = _device(args)
    model = vov3d.optimize_for_inference(model) if target.type == "cpu" else model.to(target)
    cfg, sampling = model.pretrained_cfg, about["sampling"]
    frames = int(sampling.split()[0])
    stride = None if cfg["sampling"] == "segment" else float(sampling.split("every ")[1].split()[0])
    return VideoClassifier(model, views=about["views"], num_frames=frames, stride=stride)


def embedded(classifier: VideoClassifier, about: dict[str, str], path: str, fps: float | None = None) -> Video:
    """Computes the features of a video in the way of those of the training; `fps` is that of a folder of frames."""
    seconds = float(about["window"]) if classifier.model.pretrained_cfg["sampling"] == "segment" else None
    across, rate = about["cuts"] == "crossed", None if is_file(path) else fps
    windows = list(classifier.embeddings_over(path, float(about["every"]), seconds, across, rate))
    begins = sorted({window.shot for window in windows})
    ends = dict(zip(begins, [*begins[1:], windows[0].duration], strict=True))
    shots = np.array([(window.shot, ends[window.shot]) for window in windows])
    times, vectors = np.array([window.time for window in windows]), torch.stack([window.values for window in windows])
    return Video(path, times, shots, vectors.numpy())


if __name__ == "__main__":
    vov3d.keep_freed_memory()
    sys.exit(main())
