"""`vov3d live`: labels a camera or another stream as it runs."""

import argparse
import json
import sys
import time
from collections import deque
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from vov3d.cli.arguments import check_output, device, positive, say_what_it_knows
from vov3d.deploy import load_exported
from vov3d.deploy.formats import FORMATS
from vov3d.models import create_model
from vov3d.models.names import model_name
from vov3d.signals import signals_as_ctrl_c
from vov3d.weights.tasks import Task, task_of


def add_commands(commands: Any) -> None:
    """Adds `live` to the parser's commands."""
    p = commands.add_parser("live")
    p.add_argument(
        "source",
        metavar="SOURCE",
        help="a camera (0, 1, ...), an address (rtsp://..., http://..., tcp://...), a file, or - for raw RGB frames"
        " as they happen",
    )
    p.add_argument(
        "--model", default="vov3d_n.shapes_stream", metavar="NAME", help="model.tag, folder, or file of a stream"
    )
    p.add_argument("--checkpoint", metavar="FILE", help="weights (default: the tag's)")
    p.add_argument("--device", default="cpu", help="cpu, cuda, ... (default: cpu)")
    p.add_argument("--window", type=positive, metavar="N", help="frames that are pooled (default: those of a clip)")
    p.add_argument("--fps", type=float, metavar="F", help="frames per second to use (default: as in the model's clips)")
    p.add_argument("--hop", type=positive, default=1, metavar="N", help="frames between two labels (default: 1)")
    p.add_argument("--smooth", type=positive, metavar="N", help="announce a label after N in a row (default: 3)")
    p.add_argument(
        "--threshold",
        type=float,
        metavar="P",
        help="least score to announce (default: 0.3; 0.5 for a multilabel model, whose labels are announced together)",
    )
    p.add_argument(
        "--topk",
        type=positive,
        metavar="K",
        help="labels in the video and in JSON (default: 5; all for a multilabel model)",
    )
    p.add_argument("--realtime", action="store_true", help="read a file at its own speed, and drop late frames")
    p.add_argument("--size", metavar="HxW", help="rows and columns of raw frames from -")
    p.add_argument(
        "--stall", type=float, default=10.0, metavar="S", help="seconds until a silent source is reopened (default: 10)"
    )
    p.add_argument("--retries", type=int, default=8, metavar="N", help="attempts in a row that may fail (default: 8)")
    p.add_argument("--json", action="store_true", help="print one JSON object per label, one per line")
    p.add_argument("-o", "--output", type=Path, metavar="FILE", help="write a video with the labels")
    p.add_argument("--serve", type=int, metavar="PORT", help="show it on a web page, on this machine only")
    p.set_defaults(run=_live)


def _live(args: argparse.Namespace) -> int:
    from vov3d.live import LiveSource, StreamClassifier  # needs the extra `video`
    from vov3d.live.output import Announcer, Page, VideoWriter

    if args.threshold is not None and not 0 <= args.threshold <= 1:
        raise ValueError(f"--threshold is {args.threshold}: scores are from 0 to 1")
    if args.serve is not None and not 0 <= args.serve < 65536:
        raise ValueError(f"--serve is {args.serve}: give a port from 1 to 65535, or 0 for any that is free")
    if args.output:
        check_output(args.output, args.source)
    model = _model(args)
    say_what_it_knows("live", model)
    task = task_of(model)
    _check_task(args, task)
    threshold = args.threshold if task.name == "multilabel" else None
    classifier = StreamClassifier(model, args.window, topk=args.topk, threshold=threshold)
    fps = classifier.fps if args.fps is None else args.fps
    if args.fps is None and (seconds := classifier.assumed_seconds):
        _say(f"{fps:g} frames/s, as for clips of {seconds:g} seconds: if the model learned from others, give --fps")
    size = _size(args.size)
    source = LiveSource(args.source, fps, args.realtime, size, args.stall, args.retries, tell=_say)
    session = _Session(args, classifier, Announcer(args.smooth, args.threshold, task), source)
    with ExitStack() as stack:
        if args.output:
            session.writer = VideoWriter(args.output, fps)
            stack.callback(session.writer.close)
        if args.serve is not None:
            session.page = Page(args.serve)
            stack.callback(session.page.close)
            _say(session.page.address)
        stack.enter_context(signals_as_ctrl_c())
        stack.enter_context(source)
        try:
            for frame in source:
                session.take(frame)
        except KeyboardInterrupt:
            pass
    _say(session.summary())
    return 0


def _say(text: str) -> None:
    print(f"vov3d live: {text}", file=sys.stderr, flush=True)


def _model(args: argparse.Namespace) -> torch.nn.Module:
    if Path(args.model).suffix in FORMATS:
        exported = load_exported(args.model)
        if not hasattr(exported, "initial_state"):
            raise ValueError(f"{args.model} is not a stream; make one with vov3d.export(vov3d.streaming(model), ...)")
        return exported
    model = create_model(model_name(args.model), pretrained=True, checkpoint_path=args.checkpoint)
    return model.to(device(args.device))


def _check_task(args: argparse.Namespace, task: Task) -> None:
    """Sets the defaults of options that depend on the task.

    Raises:
        ValueError: For an option that has no effect on a regression.
    """
    if task.name == "regression":
        given = {"--threshold": args.threshold, "--smooth": args.smooth, "--topk": args.topk}
        if without := [name for name, value in given.items() if value is not None]:
            raise ValueError(
                f"{' and '.join(without)} has no effect on a regression, whose values are printed as they are"
            )
        args.smooth, args.threshold = 1, 0.0
    args.smooth = args.smooth or 3
    if args.threshold is None:
        args.threshold = 0.5 if task.name == "multilabel" else 0.3


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    rows, _, columns = text.partition("x")
    if not (rows.isdecimal() and columns.isdecimal() and int(rows) and int(columns)):
        raise ValueError(f"--size is {text!r}: give rows and columns in pixels, such as 480x640")
    return int(rows), int(columns)


class _Session:
    """A run of the command: labels frames, writes the outputs and keeps statistics."""

    def __init__(self, args: argparse.Namespace, classifier: Any, announcer: Any, source: Any) -> None:
        self.args, self.classifier, self.announcer, self.source = args, classifier, announcer, source
        self.writer: Any = None
        self.page: Any = None
        self._score = "value" if classifier.task.name == "regression" else "score"
        self._begun = time.monotonic()
        self._times: deque[float] = deque(maxlen=30)
        self._delays: deque[float] = deque(maxlen=1000)
        self._labels = 0

    def take(self, frame: Any) -> None:
        """Labels a frame and writes the requested outputs."""
        predictions = self.classifier(frame.picture)
        now = time.monotonic()
        self._times.append(now)
        self._delays.append(now - frame.arrived)
        known = self.classifier.frames > self.classifier.delay  # a multilabel model may predict no label
        if known and self.classifier.frames % self.args.hop == 0:
            self._tell(frame, predictions)
        if self.writer or self.page:
            from vov3d.live.output import annotated

            image = annotated(frame.picture, predictions)
            if self.writer:
                self.writer.write(image, frame.seconds)
            if self.page:
                self.page.show(image, self._line(frame, predictions))

    def _tell(self, frame: Any, predictions: list[Any]) -> None:
        changed = self.announcer.changed(predictions)
        self._labels += changed
        line = self._line(frame, predictions)
        if self.args.json:
            print(json.dumps(line, ensure_ascii=False), flush=True)
        elif changed:
            text = self._announced(predictions)
            rates = f"{line['fps']:.1f} frames/s, {1000 * line['delay']:.0f} ms behind"
            print(f"{frame.seconds:8.2f} s  {text}  ({rates})", flush=True)

    def _announced(self, predictions: list[Any]) -> str:
        """Returns the text for the announced label, with its score if it has one of its own."""
        label = self.announcer.label
        if label is None:
            return "   -  nothing"
        if self.classifier.task.name in ("regression", "multilabel"):
            return f"      {label}"
        score = next((p.score for p in predictions if p.label == label), predictions[0].score)
        return f"{score:4.0%}  {label}"

    def _line(self, frame: Any, predictions: list[Any]) -> dict[str, Any]:
        """Returns the present state; `delay` is the time from a frame to its label, without the model's own delay."""
        span = self._times[-1] - self._times[0]
        return {
            "time": round(frame.seconds, 3),
            "label": self.announcer.label,
            "predictions": [{"label": p.label, "index": p.index, self._score: round(p.score, 4)} for p in predictions],
            "fps": round((len(self._times) - 1) / span, 2) if span else 0.0,
            "delay": round(self._delays[-1], 4),
            "delay_frames": self.classifier.delay,
            "dropped": self.source.dropped,
            "reconnects": self.source.reconnects,
        }

    def summary(self) -> str:
        """Returns the line that is printed at the end."""
        frames, seconds = self.classifier.frames, time.monotonic() - self._begun
        first = self.classifier.delay + 1
        too_few = f", too few for a label, which needs {first}," if 0 < frames < first else ""
        delays = sorted(self._delays) or [0.0]
        return (
            f"{frames} frames{too_few} in {seconds:.1f} s, {self.source.dropped} dropped,"
            f" {self.source.reconnects} reconnects, {self._labels} changes;"
            f" from frame to label {1000 * delays[len(delays) // 2]:.0f} ms"
            f" (plus {self.classifier.delay} frames of the model's delay)"
        )
