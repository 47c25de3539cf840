"""What happens when in a long video: a window slides over it, its labels are merged to segments.

    python examples/localize.py match.mp4 --model vov3d_m.k400_f16 -o match.json --srt match.srt --picture match.png
    python examples/localize.py shapes.mp4 --seconds 1.6 -o shapes.json      # vov3d_n takes whole clips: say how long
    python examples/localize.py shapes.mp4 --streaming -o shapes.json        # every frame once, in a causal network

Every --every seconds a window is labelled. The scores of a moment are the mean over the windows that hold it. Of all
ways to cut the video into segments of --min-length or more, each with one label, the one whose labels have the highest
scores in sum is taken; where no label reaches --threshold, "nothing" is a label too. The video is read once, in one
pass; memory holds one window of frames and the scores.
"""

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice, repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from reference.evaluation.models import best_device, load_model
from reference.evaluation.pictures import require_matplotlib

import vov3d
from vov3d.cli.arguments import device
from vov3d.live import StreamClassifier
from vov3d.models.names import model_name
from vov3d.video import VideoClassifier, VideoReader
from vov3d.video.picture import check_picture_name

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
    """What a sliding window saw.

    Attributes:
        step: Seconds between two windows.
        length: Seconds of a window.
        duration: Seconds of the video.
        windows: float32 `(W, classes)`, the scores of the window that begins at each step.
        moments: float32 `(N, classes)`, the scores of each stretch of `step` seconds, over the windows that hold it.
        shown: Times and small frames `(H, W, 3)` for a picture; none unless asked for.
    """

    step: float
    length: float
    duration: float
    windows: np.ndarray
    moments: np.ndarray
    shown: list[tuple[float, np.ndarray]]


# --- from a video to segments ----------------------------------------------------------------------------------------


def look_over(
    classifier: VideoClassifier, video: str | Path, every: float, seconds: float | None, pictures: bool = False
) -> Timeline:
    """Slides a window over a video.

    Args:
        classifier: What labels it.
        video: The file, or what else `VideoReader` takes.
        every: Seconds between two windows, rounded to whole frames.
        seconds: Length of the window, for models that take their frames from equal segments.
        pictures: Keeps some frames for a picture.

    Raises:
        ValueError: If the video is shorter than a window, or as `VideoClassifier.window`.
        VideoError: If it cannot be read.
    """
    with VideoReader(video) as reader:
        fps, count = _steady(reader)
        hop = max(round(every * fps), 1)
        shown: list[tuple[float, np.ndarray]] = []
        frames = _frames(reader, shown if pictures else None)
        rows, length = [], 0
        for newest, said in classifier.window(frames, hop, fps, seconds, topk=len(classifier.class_names)):
            length = length or newest + 1  # the first window begins at the first frame
            row = np.zeros(len(said), np.float32)
            row[[p.index for p in said]] = [p.score for p in said]
            rows.append(row)
    windows = np.stack(rows)
    return Timeline(
        hop / fps, length / fps, count / fps, windows, _moments(windows, length / hop, -(-count // hop)), shown
    )


def stream_over(classifier: StreamClassifier, video: str | Path, pictures: bool = False) -> Timeline:
    """Takes a video frame by frame, at the rate of the model's clips; a step's scores are of the last `window` frames.

    Args:
        classifier: What labels it.
        video: The file, or what else `VideoReader` takes.
        pictures: Keeps some frames for a picture.

    Raises:
        ValueError: If the video is shorter than a window and the frames that the model waits for.
        VideoError: If it cannot be read.
    """
    with VideoReader(video) as reader:
        fps, count = _steady(reader)
        hop = max(round(fps / classifier.fps), 1)
        shown: list[tuple[float, np.ndarray]] = []
        taken = islice(_frames(reader, shown if pictures else None), hop // 2, None, hop)
        rows: list[np.ndarray] = []
        while some := list(islice(taken, _AT_ONCE)):
            rows += list(classifier.scores_of(some).numpy())
    length = classifier.stream.window
    if len(rows) < length:
        needed = (length + classifier.delay) * hop / fps
        raise ValueError(f"{video} lasts {count / fps:.2f} s, and this stream takes {needed:.2f} s or more")
    windows = np.stack(rows[length - 1 :])
    moments = _moments(windows, length, -(-count // hop))
    return Timeline(hop / fps, length * hop / fps, count / fps, windows, moments, shown)


def _steady(reader: VideoReader) -> tuple[float, int]:
    """Frames per second and their number, at equal distances in time: 30 of a file of variable rate."""
    if not reader.variable:
        return reader.fps, reader.num_frames
    return 30.0, round(30 * float(reader.timestamps[-1])) + 1


def _frames(reader: VideoReader, shown: list[tuple[float, np.ndarray]] | None) -> Iterator[torch.Tensor]:
    """All frames at equal distances in time, also of a file of variable rate."""
    fps, count = _steady(reader)
    times = Counter(reader.at_times(i / fps for i in range(count)) if reader.variable else range(count))
    apart, at = count / _SHOWN, 0
    for index, frame in reader.stream(times):
        if shown is not None and at >= (len(shown) + 0.5) * apart:
            less = -(-max(frame.shape[1:]) // 160)
            shown.append((at / fps, frame[:, ::less, ::less].permute(1, 2, 0).numpy().copy()))
        yield from repeat(frame, times[index])
        at += times[index]


def _moments(windows: np.ndarray, length: float, count: int) -> np.ndarray:
    """The mean over the windows that hold each moment; lengths in moments, of which window `i` begins at number `i`."""
    total = np.zeros((count, windows.shape[1]), np.float32)
    holding = np.zeros((count, 1), np.float32)
    for offset in range(int(np.ceil(length))):
        held = slice(offset, min(offset + len(windows), count))
        total[held] += windows[: held.stop - offset]
        holding[held] += 1
    last = int(np.flatnonzero(holding)[-1])  # a rest that is shorter than a step is in no window
    total[last + 1 :], holding[last + 1 :] = total[last], holding[last]
    return total / holding


def cut(scores: np.ndarray, least: int, threshold: float) -> list[tuple[int, int, int]]:
    """The best cut into stretches of one label each.

    Args:
        scores: `(N, classes)` of each moment.
        least: Moments that a stretch has at least; where there are fewer, they are one stretch.
        threshold: What "nothing" scores at every moment.

    Returns:
        First moment, moment after the last, and label of each stretch, in order; `classes` stands for nothing.
    """
    count = len(scores)
    least = min(max(least, 1), count)
    scores = np.concatenate([scores, np.full((count, 1), threshold, scores.dtype)], 1).astype(np.float64)
    sums = np.concatenate([np.zeros((1, scores.shape[1])), scores.cumsum(0)])
    best = np.full((count + 1, scores.shape[1]), -np.inf)  # up to a moment, the last stretch being of a label
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
    """The stretches of a video with a label, in order.

    Args:
        timeline: Of `look_over`.
        names: Of the classes.
        threshold: A score that a label must reach, from 0 to 1.
        min_length: Seconds that a stretch lasts at least, rounded to steps; as long as the window if None.
    """
    found = []
    least = timeline.length if min_length is None else min_length
    for start, end, index in cut(timeline.moments, round(least / timeline.step), threshold):
        if index < len(names):
            begins, ends = start * timeline.step, min(end * timeline.step, timeline.duration)
            score = float(timeline.moments[start:end, index].mean())
            found.append(Segment(round(begins, 3), round(ends, 3), names[index], index, round(score, 4)))
    return found


# --- files -----------------------------------------------------------------------------------------------------------


def as_srt(segments: Sequence[Segment]) -> str:
    """Segments as subtitles."""

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
    draft = path.with_name(f".{path.stem}.draft{path.suffix}")
    try:
        figure.savefig(draft, dpi=90)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
        plt.close(figure)


def _write(path: Path, text: str) -> None:
    """Writes a file; nothing half-written is ever there."""
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, path)


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
    parser.add_argument("--seconds", type=float, help="window, for models that take their frames from equal segments")
    parser.add_argument("--streaming", action="store_true", help="take every frame once; best with a causal model")
    parser.add_argument("--every", type=float, default=0.2, metavar="S", help="seconds between windows (default: 0.2)")
    parser.add_argument("--threshold", type=float, default=0.3, help="score that a label must reach (default: 0.3)")
    parser.add_argument("--min-length", type=float, metavar="S", help="of a segment (default: the window's)")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE", help="segments and windows, as JSON"
    )
    parser.add_argument("--srt", type=Path, metavar="FILE", help="segments as subtitles")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="frames and the time line")
    return parser


def _localize(args: argparse.Namespace) -> None:
    for path in filter(None, (args.output, args.srt, args.picture)):
        if not path.absolute().parent.is_dir():
            raise FileNotFoundError(f"{path}: there is no folder {path.absolute().parent}; make it first")
    if args.picture:
        check_picture_name(args.picture)
        require_matplotlib()
    check_settings(args.every, args.threshold, args.min_length)
    if args.streaming and args.seconds is not None:
        raise ValueError(f"--seconds {args.seconds:g} would have no effect: a stream's window is that of the model")
    target = device(args.device) if args.device else best_device()
    if args.streaming:
        stream = _stream_of(args, target)
        stream.task.require(f"localizing, with {args.model},", "single")
        names, timeline = stream.class_names, stream_over(stream, args.video, args.picture is not None)
    else:
        model = load_model(args.model, args.checkpoint, target, args.device is not None)
        classifier = VideoClassifier(model.network, class_names=model.names)
        classifier.task.require(f"localizing, with {args.model},", "single")
        names = classifier.class_names
        timeline = look_over(classifier, args.video, args.every, args.seconds, args.picture is not None)
    segments = segments_of(timeline, names, args.threshold, args.min_length)
    content = {"video": str(args.video), "model": args.model, "duration": round(timeline.duration, 3)}
    content |= {"threshold": args.threshold, "min_length": args.min_length}
    content |= {"segments": [asdict(segment) for segment in segments], "windows": windows_of(timeline, names)}
    _write(args.output, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    if args.srt:
        _write(args.srt, as_srt(segments))
    if args.picture:
        draw(args.picture, timeline, segments, names)
    for s in segments:
        print(f"{s.start:9.2f} {s.end:9.2f}  {s.score:4.0%}  {s.label}")


def _stream_of(args: argparse.Namespace, target: torch.device) -> StreamClassifier:
    model = vov3d.create_model(model_name(args.model), pretrained=True, checkpoint_path=args.checkpoint)
    return StreamClassifier(model.to(target))


def check_settings(every: float, threshold: float, min_length: float | None) -> None:
    """Raises ValueError for settings without sense."""
    if not 0 < every < float("inf"):
        raise ValueError(f"--every is {every}: give the seconds between two windows, above 0")
    if not 0 <= threshold <= 1:
        raise ValueError(f"--threshold is {threshold}: scores are from 0 to 1")
    if min_length is not None and not 0 <= min_length < float("inf"):
        raise ValueError(f"--min-length is {min_length}: give the seconds that a segment lasts at least")


def windows_of(timeline: Timeline, names: Sequence[str]) -> list[dict[str, Any]]:
    """The best label of each window."""
    return [
        {
            "start": round(number * timeline.step, 3),
            "end": round(number * timeline.step + timeline.length, 3),
            "label": names[int(row.argmax())],
            "score": round(float(row.max()), 4),
        }
        for number, row in enumerate(timeline.windows)
    ]


if __name__ == "__main__":
    sys.exit(main())
