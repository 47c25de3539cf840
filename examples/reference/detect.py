"""Detects actions of people, or of moving shapes, in space and time, in the manner of AVA.

    python -m reference.detect train --data scenes --output runs/detect
    python -m reference.detect train --data FOLDER --backbone vov3d_m.k400_f16 --output runs/ava
    python -m reference.detect evaluate --model runs/ava/model --data FOLDER --boxes proposals.csv
    python -m reference.detect evaluate --data FOLDER --found detections.csv
    python -m reference.detect predict film.mp4 --model runs/ava/model --proposer fasterrcnn_mobilenet_v3_large_fpn
    python -m reference.detect scenes --output FOLDER

FOLDER holds `videos/NAME.mp4`, AVA's lists (`train.csv` and `val.csv`, or as published) and label map; `scenes` are
made on the spot (`vov3d.synthetic.moving_scenes`), and the command of that name writes them as such a folder.
Training ends with the frame mAP at 0.5 IoU. Needs the extra `train`: `pip install 'vov3d[train]'`.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reference.detection.ava import (
    Annotation,
    Detection,
    read_annotations,
    read_boxes,
    read_detections,
    read_label_map,
    write_rows,
)
from reference.detection.data import (
    SCENE_FPS,
    Moment,
    Moments,
    SceneMoments,
    VideoMoments,
    annotations_of,
    excluded_of,
    find_annotations,
    find_label_map,
    moments_of,
    write_scenes,
)
from reference.detection.metrics import frame_ap, mean_ap
from reference.detection.model import Detector, build_detector, load_detector
from reference.detection.predicting import Film, result_files, save_results
from reference.detection.proposals import Proposer
from reference.detection.training import CHECKPOINT, FORMER, Plan, score_boxes, train
from reference.evaluation.models import best_device
from reference.training.stopping import Stop, Stopped, say_stopped
from reference.training.workers import WorkerError
from vov3d.cli.arguments import check_output, device, positive, show_warnings
from vov3d.files import check_not_sources, make_folder
from vov3d.memory import keep_freed_memory
from vov3d.synthetic.moving_scenes import ACTIONS

SCENES = "scenes"
_SEEDS = {"train": 0, "val": 1}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    args = _parser().parse_args(argv)
    with show_warnings("detect"), Stop().watching():
        try:
            args.run(args)
        except Stopped as stopped:
            return say_stopped("detect", stopped, _how_to_go_on(args))
        except WorkerError as error:
            print(f"detect: {error}; {_how_to_go_on(args)}", file=sys.stderr)
            return 1
        except (ArithmeticError, ImportError, OSError, RuntimeError, ValueError) as error:
            print(f"detect: {error}", file=sys.stderr)
            return 1
    return 0


def _how_to_go_on(args: argparse.Namespace) -> str:
    if args.run is not _train:
        return "the same command starts again"
    there = (args.output / CHECKPOINT).exists()
    return "the same command with --resume continues after its last epoch" if there else "no epoch is finished yet"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--device", help="cpu, cuda, ... (default: the GPU where there is one)")
    data = argparse.ArgumentParser(add_help=False)
    data.add_argument("--data", required=True, metavar="FOLDER", help=f"videos with AVA's files, or {SCENES!r}")
    data.add_argument("--actions", type=Path, metavar="FILE", help="label map (default: found in the folder)")
    data.add_argument("--val-scenes", type=positive, default=1000, metavar="N", help="held-out scenes (default: 1000)")
    data.add_argument("--workers", type=int, default=0, metavar="N", help="processes that read videos (default: 0)")

    p = commands.add_parser("train", parents=[common, data], help="train, then measure on the held-out part")
    p.add_argument(
        "--output", type=Path, required=True, metavar="FOLDER", help="for checkpoint, log, model and results"
    )
    p.add_argument("--backbone", default="vov3d_n", metavar="NAME", help="model.tag (default: vov3d_n)")
    p.add_argument("--checkpoint", type=Path, metavar="FILE", help="weights of the backbone, in place of its tag's")
    p.add_argument("--from-scratch", action="store_true", help="start from random weights")
    p.add_argument("--output-stride", type=positive, metavar="S", help="of the backbone (default: half of its own)")
    p.add_argument("--size", type=positive, help="short side in pixels (default: the backbone's training crop)")
    p.add_argument("--interval", type=float, metavar="SECONDS", help="between frames (default: the backbone's)")
    p.add_argument("--scenes", type=positive, default=3000, metavar="N", help="generated scenes (default: 3000)")
    p.add_argument("--epochs", type=positive, default=4, help="(default: 4)")
    p.add_argument("--batch", type=positive, default=32, help="key frames an update (default: 32)")
    p.add_argument("--lr", type=float, default=0.01, help="learning rate of Muon (default: 0.01)")
    p.add_argument(
        "--max-broken", type=float, default=0.2, metavar="S", help="share of videos that may be broken (default: 0.2)"
    )
    p.add_argument("--resume", action="store_true", help="continue after the last epoch in the output folder")
    p.set_defaults(run=_train)

    p = commands.add_parser("evaluate", parents=[common, data], help="frame mAP at 0.5 IoU on the held-out part")
    which = p.add_mutually_exclusive_group(required=True)
    which.add_argument("--model", type=Path, metavar="FOLDER", help="a trained detector")
    which.add_argument("--found", type=Path, metavar="CSV", help="detections to measure")
    p.add_argument("--boxes", type=Path, metavar="CSV", help="proposals, in place of the true boxes")
    p.add_argument("--box-score", type=float, metavar="S", help="least score of a proposal, 0.8 in most papers on AVA")
    p.add_argument("--only", type=Path, metavar="FILE", help="label map of the actions that count, as 60 of AVA's 80")
    p.add_argument("--output", type=Path, metavar="CSV", help="write the detections to this file")
    p.set_defaults(run=_evaluate)

    p = commands.add_parser("predict", parents=[common], help="label a video: CSV, picture and video with boxes")
    p.add_argument("video", type=Path)
    p.add_argument("--fps", type=float, help="frames per second of a folder (default: 12); files have their own")
    p.add_argument("--model", type=Path, required=True, metavar="FOLDER", help="a trained detector")
    which = p.add_mutually_exclusive_group(required=True)
    which.add_argument("--boxes", type=Path, metavar="CSV", help="boxes of this video in AVA's format")
    which.add_argument("--proposer", metavar="NAME", help="detector of torchvision that finds people")
    p.add_argument(
        "--proposer-weights", type=Path, metavar="FILE", help="weights of the proposer (default: torchvision's own)"
    )
    p.add_argument("--every", type=float, metavar="SECONDS", help="between key frames, for a proposer (default: 1)")
    p.add_argument(
        "--threshold", type=float, default=0.5, help="lowest score of an action that is drawn (default: 0.5)"
    )
    p.add_argument("--gif", action="store_true", help="write the video as a GIF")
    p.add_argument("--output", type=Path, default=Path("detections"), metavar="FOLDER", help="(default: detections)")
    p.set_defaults(run=_predict)

    p = commands.add_parser("scenes", help="write generated scenes as videos with AVA's files")
    p.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    p.add_argument("--scenes", type=positive, default=200, metavar="N", help="for training (default: 200)")
    p.add_argument("--val-scenes", type=positive, default=50, metavar="N", help="held out (default: 50)")
    p.set_defaults(run=lambda args: write_scenes(args.output, args.scenes, args.val_scenes, _SEEDS["train"]))
    return parser


# --- train -----------------------------------------------------------------------------------------------------------


def _train(args: argparse.Namespace) -> None:
    if not 0 <= args.max_broken <= 1 or not 0 < args.lr < float("inf"):
        raise ValueError("--max-broken is a share from 0 to 1, --lr a number above 0")
    if args.interval is not None and not 0 < args.interval < float("inf"):
        raise ValueError(f"--interval is {args.interval:g}: give the seconds between two frames, above 0")
    if args.from_scratch and args.checkpoint:
        raise ValueError("--from-scratch and --checkpoint exclude each other")
    if any((args.output / name).exists() for name in (CHECKPOINT, FORMER)) and not args.resume:
        raise ValueError(f"{args.output} holds a run: continue it with --resume, or give another --output")
    target = _device(args)
    torch.manual_seed(0)
    actions = _actions(args)
    detector = build_detector(
        args.backbone,
        list(actions.values()),
        list(actions),
        pretrained=not args.from_scratch,
        output_stride=args.output_stride,
        size=args.size,
        interval=args.interval or (1 / SCENE_FPS if args.data == SCENES else None),
        checkpoint_path=args.checkpoint,
    )
    make_folder(args.output)
    data, held_out = _data(args, "train", detector), _data(args, "val", detector)
    both = {moment.video for moment in data.moments} & {moment.video for moment in held_out.moments}
    if both:
        print(f"{len(both)} held-out videos are trained on, as {min(both)}: the mAP does not hold for other videos")
    plan = Plan(args.epochs, args.batch, args.lr, workers=args.workers, max_broken=args.max_broken)
    boxes = sum(len(moment.boxes) for moment in data.moments)
    print(f"{args.backbone}, stride {detector.settings.output_stride}: {len(data.moments)} key frames, {boxes} boxes")
    spent = train(detector, data, plan, args.output, target)
    detector.save(args.output / "model")
    print(f"trained in {spent['seconds'] / 60:.1f} minutes on {target}: {args.output / 'model'}")
    report = _measured(detector, held_out, target, args.workers)[0]
    (args.output / "results.json").write_text(json.dumps(report | spent, indent=2) + "\n")


def _device(args: argparse.Namespace) -> torch.device:
    return device(args.device) if args.device else best_device()


def _actions(args: argparse.Namespace) -> dict[int, str]:
    """Returns numbers and names of the actions of the data."""
    if args.data == SCENES:
        if args.actions:
            raise ValueError("--actions has no effect on scenes, which have their own; leave it out")
        return dict(enumerate(ACTIONS, 1))
    return read_label_map(args.actions or find_label_map(Path(args.data)))


def _data(args: argparse.Namespace, split: str, detector: Detector) -> Moments:
    if args.data != SCENES:
        return VideoMoments(Path(args.data), split, args.actions)
    if split == "val" and Path(SCENES).is_dir():
        print(f"{SCENES}: generated scenes; ./{SCENES} is the folder of this name")
    number = args.scenes if split == "train" else args.val_scenes
    return SceneMoments(number, _SEEDS[split], detector.settings.num_frames, detector.settings.size)


# --- evaluate --------------------------------------------------------------------------------------------------------


def _evaluate(args: argparse.Namespace) -> None:
    if args.found:
        if args.data == SCENES:
            raise ValueError(f"--found is measured as it is, on a folder of videos; {SCENES} is none, ./{SCENES} is")
        if args.boxes or args.output:
            raise ValueError("--found is measured as it is, on a folder of videos: leave --boxes and --output out")
        _check_box_score(args)
        actions = _actions(args)
        moments = moments_of(read_annotations(find_annotations(Path(args.data), "val"), actions))
        truth = annotations_of(moments)  # as of a model: lines that stand there twice count once
        found = read_detections(args.found, actions)
        _report(truth, found, _counted(args, actions), excluded_of(Path(args.data), "val"))
        return
    _check_box_score(args)
    if args.output:
        check_output(args.output)
        check_not_sources([args.output], [args.boxes, args.only, args.actions, *_lists_in(args.data)])
    detector = load_detector(args.model)
    data = _data(args, "val", detector)
    _check_actions(args, data.actions, dict(zip(detector.settings.ids, detector.settings.actions, strict=True)))
    counted = _counted(args, data.actions)
    _, found = _measured(detector, data, _device(args), args.workers, args.boxes, args.box_score, counted)
    if args.output:
        write_rows(args.output, found)


def _lists_in(data: str) -> list[Path]:
    """Returns AVA's files in a folder of data; none of scenes."""
    patterns = ("train.csv", "val.csv", "ava_*", "*excluded_timestamps*.csv", "*.pbtxt")
    return [] if data == SCENES else [file for pattern in patterns for file in Path(data).glob(pattern)]


def _check_box_score(args: argparse.Namespace) -> None:
    if args.box_score is not None and not args.boxes:
        raise ValueError("--box-score is for proposals: give --boxes too, or leave it out")
    if args.box_score is not None and not 0 <= args.box_score <= 1:
        raise ValueError(f"--box-score is {args.box_score:g}: scores are from 0 to 1")


def _check_actions(args: argparse.Namespace, actions: dict[int, str], known: dict[int, str]) -> None:
    """Raises ValueError if a detector knows other actions than the data has, or the same under other numbers."""
    if list(actions) != list(known):
        raise ValueError(f"{args.model} knows the actions {tuple(known)}, {args.data} has {list(actions)}")
    for number, name in actions.items():
        if " ".join(name.casefold().split()) != " ".join(known[number].casefold().split()):
            raise ValueError(
                f"action {number} is {known[number]!r} in {args.model} and {name!r} in {args.data}: give the label map "
                "of the training with --actions FILE, and annotations that follow it"
            )


def _counted(args: argparse.Namespace, actions: dict[int, str]) -> dict[int, str]:
    """Returns the actions that are measured, all unless some are chosen."""
    if not args.only:
        return actions
    only = read_label_map(args.only)
    if unknown := sorted(only.keys() - actions.keys()):
        raise ValueError(f"{args.only}: action {unknown[0]}, {only[unknown[0]]!r}, is not among those of the data")
    return {number: name for number, name in actions.items() if number in only}


def _measured(
    detector: Detector,
    data: Moments,
    target: torch.device,
    workers: int,
    boxes: Path | None = None,
    least: float | None = None,
    counted: dict[int, str] | None = None,
) -> tuple[dict[str, Any], list[Detection]]:
    """Measures the mAP of a detector on true or on proposed boxes; returns it with the detections."""
    truth = annotations_of(data.moments)
    if boxes:
        proposed, videos = read_boxes(boxes, least), {m.video for m in data.moments}
        none = np.zeros((0, 4), np.float32)
        # boxes in frames without an annotation count as well, as false positives
        frames = dict.fromkeys((m.video, m.timestamp) for m in data.moments)
        frames |= dict.fromkeys(key for key in proposed if key[0] in videos and key not in data.excluded)
        data.moments = [Moment(*key, proposed.get(key, none), []) for key in frames]
        others = {video for video, _ in proposed} - videos
        if others:
            print(f"{boxes}: boxes of {len(others)} videos that the annotations do not name are left out")
        if not any(len(moment.boxes) for moment in data.moments):
            raise ValueError(f"{boxes}: has no box in any of the {len(data.moments)} key frames of the data")
    found = score_boxes(detector, data, target, workers=workers)
    return _report(truth, found, counted or data.actions, data.excluded), found


def _report(
    truth: list[Annotation], found: list[Detection], actions: dict[int, str], excluded: set[tuple[str, float]]
) -> dict[str, Any]:
    """Prints the average precision of each action and returns the measurements."""
    values = frame_ap(truth, found, actions, excluded=excluded)
    left = len({row.action for row in truth} - actions.keys() - {None})
    if left:
        print(f"{len(actions)} actions count, {left} others of the annotations do not")
    mean = mean_ap(values)
    width = max(map(len, actions.values()))
    for action, value in values.items():
        times = sum(row.action == action for row in truth)
        print(f"{actions[action]:{width}}  {'-' if value is None else f'{value:.3f}':>5}  {times} boxes")
    keys = {(row.video, row.timestamp) for row in truth} - excluded
    frames, others = len(keys), len({(row.video, row.timestamp) for row in found} - keys - excluded)
    if excluded:
        print(f"{len(excluded)} key frames are excluded by the list of the data")
    if others:
        print(f"detections in {others} frames without annotation count as wrong")
    print(f"frame mAP at 0.5 IoU: {mean:.3f} ({frames} key frames)")
    named = {actions[action]: None if value is None else round(value, 4) for action, value in values.items()}
    return {"map": round(mean, 4), "key_frames": frames, "ap": named}


# --- predict ---------------------------------------------------------------------------------------------------------


def _predict(args: argparse.Namespace) -> None:
    if not 0 <= args.threshold <= 1:
        raise ValueError(f"--threshold is {args.threshold:g}: scores are from 0 to 1")
    if args.boxes and (args.proposer_weights or args.every):
        raise ValueError(
            "--proposer-weights and --every are for a --proposer; --boxes name their key frames themselves"
        )
    written = result_files(args.video, args.output, args.gif)
    check_not_sources(written, [args.video, args.boxes, args.proposer_weights])
    detector = load_detector(args.model)
    with Film(args.video, detector.settings, args.fps) as film:
        if args.boxes:
            film.take_boxes(args.boxes)
        else:
            film.propose(Proposer(args.proposer, args.proposer_weights), args.every or 1)
        found = score_boxes(detector, film, _device(args))
        for path in save_results(film, found, args.output, args.threshold, args.gif):
            print(path)


if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(main())
