"""Finds out what happens when in a long video: slides a window over it and merges the labels to segments.

    python examples/localize.py match.mp4 --model vov3d_m.k400_f16 -o match.json --srt match.srt --picture match.png
    python examples/localize.py shapes.mp4 -o shapes.json
    python examples/localize.py shapes.mp4 --model vov3d_n.shapes_stream --streaming -o shapes.json

Every --every seconds a window is labelled, or with --streaming every frame, each computed once. The scores of a moment
are the mean over the windows that hold it. Of all ways to cut a shot into segments of --min-length or more, each with
one label, the one whose labels have the highest scores in sum is taken; where no label reaches --threshold, "nothing"
is a label too. Windows and segments end at cuts between shots unless --across-cuts says otherwise. The video is read
once, in one pass; memory holds one window of frames and the scores.

This needs no training. `python -m reference.localize` trains a head on segments that are known.
"""

import argparse
import json
import math
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from reference.evaluation.models import best_device, load_model
from reference.evaluation.pictures import require_matplotlib

import vov3d
from vov3d.cli.arguments import check_output, device, span
from vov3d.files import replacing
from vov3d.live import StreamClassifier
from vov3d.models.names import model_name
from vov3d.video import VideoClassifier, VideoReader
from vov3d.video.picture import check_picture_name
from vov3d.video.reader import missing_text
from vov3d.video.shots import split_shots
from vov3d.video.window import steady_frames, steady_rate

_SHOWN = 9  # frames in a picture
_NAMED = 14  # labels in a picture
_AT_ONCE = 16  # frames that a stream takes in one step


@dataclass(frozen=True)
class Segment:
    """A stretch of one label.

    Attributes:
        start: In seconds.
        end: In seconds.
        label: Its name.
        index: Its number.
        score: Its mean score over the stretch, from 0 to 1.
    """

    start: float
    end: float
    label: str
    index: int
    score: float


@dataclass(frozen=True)
class Timeline:
    """Scores of a video over time, and its shots.

    Attributes:
        step: Seconds that a moment lasts.
        length: Seconds of a window; in shots that are shorter, a window is as long as the shot.
        duration: Seconds of the video.
        spans: float64 `(W, 2)`, first and last second of each window.
        windows: float32 `(W, classes)`, their scores.
        moments: float32 `(N, classes)`, the scores of each stretch of `step` seconds, over the windows that hold it.
        shots: Where each shot begins, in seconds; 0 alone where cuts do not count.
        shown: Times and small frames `(H, W, 3)` for a picture; none unless asked for.
    """

    step: float
    length: float
    duration: float
    spans: np.ndarray
    windows: np.ndarray
    moments: np.ndarray
    shots: list[float]
    shown: list[tuple[float, np.ndarray]]


# --- from a video to segments ----------------------------------------------------------------------------------------


def look_over(
    classifier: VideoClassifier,
    video: str | Path,
    every: float,
    seconds: float | None,
    pictures: bool = False,
    across_cuts: bool = False,
    fps: float | None = None,
) -> Timeline:
    """Slides a window over a video.

    Args:
        classifier: What labels it.
        video: The file, or what else `VideoReader` takes.
        every: Seconds between two windows.
        seconds: Length of the window, for models that take their frames from equal segments; that of their training
            videos if None.
        pictures: Keeps some frames for a picture.
        across_cuts: Lets windows lie across cuts.
        fps: Frames per second of a folder; 12 if None.

    Raises:
        ValueError: As `VideoClassifier.scores_over`.
        VideoError: If it cannot be read.
    """
    found = list(classifier.scores_over(video, every, seconds, across_cuts, fps))
    spans = np.array([(window.start, window.end) for window in found])
    scores = torch.stack([window.values for window in found]).numpy()
    shots = np.array([window.shot for window in found])
    shown = _pictures(video, fps) if pictures else []
    return _timeline(every, found[0].duration, spans, scores, np.ones(len(spans)), shots, shown)


def stream_over(
    classifier: StreamClassifier,
    video: str | Path,
    pictures: bool = False,
    across_cuts: bool = False,
    fps: float | None = None,
) -> Timeline:
    """Takes a video frame by frame, at the rate of the model's clips; a step's scores are of the last `window` frames.

    At the end of a shot, a model with a delay gets the last frame again until the scores of all frames are there; then
    the stream begins anew.

    Args:
        classifier: The model that labels it.
        video: The file, or any other source of `VideoReader`.
        pictures: Keeps some frames for a picture.
        across_cuts: Lets the stream go on across cuts.
        fps: Frames per second of a folder; 12 if None.

    Raises:
        VideoError: If it cannot be read.
    """
    length = classifier.stream.window
    with VideoReader(video, fps=fps) as reader:
        rate, count = steady_rate(reader)
        hop = rate / classifier.fps
        rows, spans, shots = list[np.ndarray](), list[tuple[float, float]](), list[float]()
        for shot, end, scores in _streamed(classifier, steady_frames(reader), hop, across_cuts):
            rows.append(scores)
            for number in range(len(scores)):
                first, behind = max(number + 1 - length, 0) * hop, (number + 1) * hop
                spans.append(((shot + first) / rate, min(shot + behind, end) / rate))
            shots += [shot / rate] * len(scores)
        if reader.missing:
            warnings.warn(missing_text(reader.path, reader.missing, count), RuntimeWarning, stacklevel=2)
    windows, ends = np.concatenate(rows), np.array(spans)
    seen = np.maximum((ends[:, 1] - ends[:, 0]) * rate / hop / length, 1e-3)  # what saw few frames counts less
    shown = _pictures(video, fps) if pictures else []
    return _timeline(hop / rate, count / rate, ends, windows, seen, np.array(shots), shown)


def _streamed(
    classifier: StreamClassifier, frames: Iterator[torch.Tensor], hop: float, across_cuts: bool
) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yields first frame, frame behind the last, and the scores of the frames nearest to every `hop`, of each shot.

    A hop below 1 takes frames several times, as clips do where a video has fewer than the model wants.
    """
    told = ((False, frame) for frame in frames) if across_cuts else split_shots(frames)
    rows, some = list[torch.Tensor](), list[torch.Tensor]()
    shot = count = taken = 0

    def ended() -> np.ndarray:
        flush = [some[-1] if some else last] * classifier.delay
        for at in range(0, len(some + flush), _AT_ONCE):
            rows.append(classifier.scores_of((some + flush)[at : at + _AT_ONCE]))
        return torch.cat(rows).numpy()

    for number, (begins, frame) in enumerate(told):
        if begins and number:
            yield shot, number, ended()
            classifier.reset()
            rows, some, shot, taken = [], [], number, 0
        while math.floor(taken * hop + 0.5) == number - shot:
            if len(some) == _AT_ONCE:
                rows.append(classifier.scores_of(some))
                some = []
            last = frame
            some.append(frame)
            taken += 1
        count = number + 1
    yield shot, count, ended()
    classifier.reset()


def _pictures(video: str | Path, fps: float | None) -> list[tuple[float, np.ndarray]]:
    """Returns small frames at equal distances, with their times."""

    def small(frame: torch.Tensor) -> torch.Tensor:
        less = -(-max(frame.shape[1:]) // 160)
        return frame[:, ::less, ::less].permute(1, 2, 0)

    with VideoReader(video, fps=fps) as reader:
        times = [(number + 0.5) * reader.duration / _SHOWN for number in range(_SHOWN)]
        frames = reader.read(reader.at_times(times), small).numpy()
    return list(zip(times, frames, strict=True))


def _timeline(
    step: float,
    duration: float,
    spans: np.ndarray,
    windows: np.ndarray,
    weights: np.ndarray,
    shots: np.ndarray,
    shown: list[tuple[float, np.ndarray]],
) -> Timeline:
    """Adds the moments: the mean over the windows that hold each, or where none does, the nearest of its shot."""
    middles = _middles(step, duration)
    begins = np.unique(shots)
    total, holding = np.zeros((len(middles), windows.shape[1])), np.zeros((len(middles), 1))
    for (start, end), row, weight in zip(np.searchsorted(middles, spans - 1e-9), windows, weights, strict=True):
        total[start:end] += weight * row
        holding[start:end] += weight
    of = begins[np.searchsorted(begins, middles + 1e-9, "right") - 1]
    for moment in np.flatnonzero(holding == 0):
        same = np.flatnonzero(shots == of[moment])
        nearest = same[np.abs(spans[same].mean(1) - middles[moment]).argmin()]
        total[moment], holding[moment] = windows[nearest], 1
    moments = (total / holding).astype(np.float32)
    length = float((spans[:, 1] - spans[:, 0]).max())
    return Timeline(step, length, duration, spans, windows, moments, begins.tolist(), shown)


def _middles(step: float, duration: float) -> np.ndarray:
    """Returns the middle of each moment, in seconds; the last moment may be shorter."""
    count = max(math.ceil(duration / step - 1e-6), 1)
    edges = np.minimum(np.arange(count + 1) * step, duration)
    return (edges[1:] + edges[:-1]) / 2


def cut(scores: np.ndarray, least: int, threshold: float) -> list[tuple[int, int, int]]:
    """Returns the best cut into stretches of one label each.

    Args:
        scores: `(N, classes)` of each moment.
        least: Fewest moments of a stretch; a shorter video is one stretch.
        threshold: Score of "nothing" at every moment.

    Returns:
        First moment, moment after the last, and label of each stretch, in order; `classes` stands for nothing.
    """
    count = len(scores)
    least = min(max(least, 1), count)
    scores = np.concatenate([scores, np.full((count, 1), threshold, scores.dtype)], 1).astype(np.float64)
    sums = np.concatenate([np.zeros((1, scores.shape[1])), scores.cumsum(0)])
    best = np.full((count + 1, scores.shape[1]), -np.inf)  # sums up to a moment, by the label of the last stretch
    begins = np.zeros(best.shape, int)
    for end in range(least, count + 1):
        start = end - least
        before = 0.0 if start == 0 else best[start].max()
        fresh, longer = before + sums[end] - sums[start], best[end - 1] + scores[end - 1]
        best[end] = np.maximum(fresh, longer)
        begins[end] = np.where(fresh > longer, start, begins[end - 1])
    found, end = list[tuple[int, int, int]](), count
    while end > 0:
        label = int(best[end].argmax())
        start = int(begins[end, label])
        if found and found[-1][2] == label:
            found[-1] = (start, found[-1][1], label)
        else:
            found.append((start, end, label))
        end = start
    return found[::-1]


def segments_of(
    timeline: Timeline, names: Sequence[str], threshold: float, min_length: float | None = None
) -> list[Segment]:
    """Returns the stretches of a video with a label, in order.

    Args:
        timeline: Of `look_over`.
        names: Of the classes.
        threshold: A score that a label must reach, from 0 to 1.
        min_length: Shortest stretch in seconds, rounded to steps; as long as the window if None.
    """
    found = []
    least = round((timeline.length if min_length is None else min_length) / timeline.step)
    middles = _middles(timeline.step, timeline.duration)
    edges = np.searchsorted(middles, [*timeline.shots, timeline.duration]).tolist()
    for shot, (first, behind) in enumerate(pairwise(edges)):
        until = [*timeline.shots, timeline.duration][shot + 1]
        scores = timeline.moments[first:behind]
        for start, end, index in cut(scores, least, threshold) if len(scores) else []:
            if index < len(names):
                begins = (first + start) * timeline.step if start else timeline.shots[shot]
                ends = (first + end) * timeline.step if end < len(scores) else until
                score = float(scores[start:end, index].mean())
                found.append(Segment(round(begins, 3), round(ends, 3), names[index], index, round(score, 4)))
    return found


# --- files -----------------------------------------------------------------------------------------------------------


def as_srt(segments: Sequence[Segment]) -> str:
    """Returns segments as subtitles."""

    def clock(seconds: float) -> str:
        whole = round(1000 * seconds)
        hours, minutes, secs = whole // 3_600_000, whole // 60_000 % 60, whole // 1000 % 60
        return f"{hours:02}:{minutes:02}:{secs:02},{whole % 1000:03}"

    blocks = [
        f"{number}\n{clock(s.start)} --> {clock(s.end)}\n{s.label} ({s.score:.0%})\n"
        for number, s in enumerate(segments, 1)
    ]
    return "\n".join(blocks)


def draw(path: Path, timeline: Timeline, segments: Sequence[Segment], names: Sequence[str]) -> None:
    """Draws frames, and below them for each label its scores over time and its segments."""
    plt = require_matplotlib()
    seconds: dict[int, float] = {}
    for segment in segments:
        seconds[segment.index] = seconds.get(segment.index, 0.0) + (segment.end - segment.start)
    chosen = sorted(seconds, key=lambda index: seconds[index], reverse=True)[:_NAMED]
    chosen.sort(key=lambda index: next(s.start for s in segments if s.index == index))
    height = 2.2 + 0.32 * len(chosen)
    figure, (above, below) = plt.subplots(
        2,
        1,
        figsize=(12, height),
        layout="constrained",
        sharex=True,
        height_ratios=(1.05, max(0.32 * len(chosen), 0.3)),
    )
    wide = timeline.duration / _SHOWN
    for number, (_, frame) in enumerate(timeline.shown):
        above.imshow(frame, extent=(number * wide, (number + 0.96) * wide, 0, 1), aspect="auto")
    above.set_axis_off()
    rows = timeline.moments[:, chosen].T
    below.imshow(
        rows if chosen else np.zeros((1, 1)),
        extent=(0, len(timeline.moments) * timeline.step, len(rows) - 0.5, -0.5),
        aspect="auto",
        cmap="Blues",
        vmin=0,
        vmax=1.4,
        interpolation="nearest",
    )
    for s in segments:
        if s.index in chosen:
            below.barh(chosen.index(s.index), s.end - s.start, left=s.start, height=0.8, fill=False, ec="#c2571a", lw=2)
    below.set_yticks(range(len(chosen)), [names[index] for index in chosen])
    below.set(xlabel="seconds", xlim=(0, timeline.duration))
    try:
        with replacing(path) as draft:
            figure.savefig(draft, dpi=90)
    finally:
        plt.close(figure)


def main(argv: Sequence[str] | None = None) -> int:
    """Localizes; returns the exit status."""
    args = _parser().parse_args(argv)
    try:
        _localize(args)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        print(f"localize: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("localize: stopped; nothing was written", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", help="file, folder of frames, or http(s) address")
    parser.add_argument("--model", default="vov3d_n", metavar="NAME", help="model.tag, folder, or exported file")
    parser.add_argument("--checkpoint", metavar="FILE", help="weights in place of the tag's")
    parser.add_argument("--device", help="cpu, cuda, ... (default: the GPU where there is one)")
    parser.add_argument(
        "--seconds",
        type=span,
        metavar="S",
        help="window, for models that take their frames from equal segments (default: as long as their training "
        "videos, where they state it)",
    )
    parser.add_argument("--streaming", action="store_true", help="take every frame once; best with a causal model")
    parser.add_argument("--every", type=span, metavar="S", help="between windows, as 0.5, 0.5s, 500ms (default: 0.2)")
    parser.add_argument("--fps", type=float, help="frames per second of a folder (default: 12); files have their own")
    parser.add_argument("--across-cuts", action="store_true", help="windows and segments may lie across cuts")
    parser.add_argument("--threshold", type=float, default=0.3, help="score that a label must reach (default: 0.3)")
    parser.add_argument("--min-length", type=float, metavar="S", help="of the shortest segment (default: the window's)")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE", help="segments and windows, as JSON"
    )
    parser.add_argument("--srt", type=Path, metavar="FILE", help="segments as subtitles")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="frames and the timeline")
    return parser


def _localize(args: argparse.Namespace) -> None:
    _check_outputs(args)
    if args.picture:
        check_picture_name(args.picture)
        require_matplotlib()
    check_settings(args.threshold, args.min_length)
    for option, value in (("--seconds", args.seconds), ("--every", args.every)):
        if args.streaming and value is not None:
            raise ValueError(
                f"{option} {value:g} would have no effect: a stream has the window and the rate of its model"
            )
    target, pictures = device(args.device) if args.device else best_device(), args.picture is not None
    if args.streaming:
        stream = _stream_of(args, target)
        stream.task.require(f"localizing, with {args.model},", "single")
        if seconds := stream.assumed_seconds:
            text = (
                f"{stream.fps:g} frames/s, as for clips of {seconds:g} seconds: if the model learned from others, leave"
            )
            print(f"localize: {text} --streaming out and give --seconds", file=sys.stderr)
        names = stream.class_names
        timeline = stream_over(stream, args.video, pictures, args.across_cuts, args.fps)
    else:
        model = load_model(args.model, args.checkpoint, target, args.device is not None)
        classifier = VideoClassifier(model.network, class_names=model.names)
        classifier.task.require(f"localizing, with {args.model},", "single")
        names = classifier.class_names
        every = args.every or 0.2
        timeline = look_over(classifier, args.video, every, args.seconds, pictures, args.across_cuts, args.fps)
    segments = segments_of(timeline, names, args.threshold, args.min_length)
    content = {"video": str(args.video), "model": args.model, "duration": round(timeline.duration, 3)}
    content |= {"threshold": args.threshold, "min_length": args.min_length}
    content |= {"shots": [round(start, 3) for start in timeline.shots]}
    content |= {"segments": [asdict(segment) for segment in segments], "windows": windows_of(timeline, names)}
    with replacing(args.output) as draft:
        draft.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if args.srt:
        with replacing(args.srt) as draft:
            draft.write_text(as_srt(segments), encoding="utf-8")
    if args.picture:
        draw(args.picture, timeline, segments, names)
    for s in segments:
        print(f"{s.start:9.2f} {s.end:9.2f}  {s.score:4.0%}  {s.label}")


def _check_outputs(args: argparse.Namespace) -> None:
    """Raises an error for files that cannot be written, or that would replace what is read or each other."""
    written = [path for path in (args.output, args.srt, args.picture) if path]
    exported = args.model if Path(args.model).is_file() else ""
    for number, path in enumerate(written):
        check_output(path, args.video, exported, args.checkpoint or "")
        if path.absolute() in [other.absolute() for other in written[:number]]:
            raise ValueError(f"{path}: is named for two outputs; name another for one of them")


def _stream_of(args: argparse.Namespace, target: torch.device) -> StreamClassifier:
    model = vov3d.create_model(model_name(args.model), pretrained=True, checkpoint_path=args.checkpoint)
    return StreamClassifier(model.to(target))


def check_settings(threshold: float, min_length: float | None) -> None:
    """Raises ValueError for settings without sense."""
    if not 0 <= threshold <= 1:
        raise ValueError(f"--threshold is {threshold}: scores are from 0 to 1")
    if min_length is not None and not 0 <= min_length < float("inf"):
        raise ValueError(f"--min-length is {min_length}: give the seconds that a segment lasts at least")


def windows_of(timeline: Timeline, names: Sequence[str]) -> list[dict[str, Any]]:
    """Returns the best label of each window."""
    return [
        {
            "start": round(float(start), 3),
            "end": round(float(end), 3),
            "label": names[int(row.argmax())],
            "score": round(float(row.max()), 4),
        }
        for (start, end), row in zip(timeline.spans, timeline.windows, strict=True)
    ]


if __name__ == "__main__":
    sys.exit(main())
