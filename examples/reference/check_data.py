"""Opens every video of a data set once, in parallel processes, and lists what is broken.

    python -m reference.check_data FOLDER --split train
    python -m reference.check_data kinetics/val.csv --root kinetics/val --csv checked.csv

It decodes the first, the middle and the last frame of each video, with --full all frames. Broken videos are printed
with their cause; missing videos of the list count as broken. The exit status is 1 if any video is broken.
"""

import argparse
import csv
import multiprocessing
import os
import sys
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from reference.data.annotations import PAIR
from reference.data.layouts import list_in
from reference.data.lists import LAYOUTS, VideoList, described, is_published, label_name, read_list
from reference.data.targets import label_text, read_targets, task_of_data
from reference.training.stopping import follow_main
from vov3d.cli import print_any_name
from vov3d.cli.arguments import check_output, positive
from vov3d.files import check_not_source, replacing
from vov3d.signals import signals_as_ctrl_c
from vov3d.video import Section, VideoError, VideoReader
from vov3d.video.decoders.base import printable
from vov3d.weights.tasks import TASKS

_AHEAD = 64  # videos queued for each process
_CRASH = "the decoder crashes on it; encode the file again, or leave it out"


class Checked(NamedTuple):
    """Result for one video; each field is a column of the CSV."""

    path: str
    label: str
    frames: int | None = None
    fps: float | None = None
    width: int | None = None
    height: int | None = None
    problem: str = ""


def main(argv: Sequence[str] | None = None) -> int:
    """Checks a data set; returns the exit status."""
    args = _parser().parse_args(argv)
    print_any_name()
    try:
        with signals_as_ctrl_c():
            return _checked(args)
    except (OSError, ValueError) as error:
        print(f"check_data: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("check_data: stopped; nothing was written", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="list of videos, folder of classes, or folder of a data set with its lists")
    parser.add_argument("--root", help="where the videos of a list lie (default: looked for beside it)")
    parser.add_argument("--layout", choices=LAYOUTS, help="default: recognised by its files")
    parser.add_argument("--classes", help="file of class names, or k400, ssv1, ssv2 (default: those of the data)")
    parser.add_argument("--labels-from", type=int, choices=(0, 1), help="number of the first class in a list")
    parser.add_argument("--split", help="train, val or test, where there are several")
    parser.add_argument(
        "--task", choices=TASKS, default="single", help="what the list says of a video (default: single)"
    )
    parser.add_argument("--full", action="store_true", help="decode every frame")
    parser.add_argument("--workers", type=positive, default=os.cpu_count() or 1, help="processes (default: one a core)")
    parser.add_argument("--csv", metavar="FILE", help="write the result for every video")
    return parser


def _checked(args: argparse.Namespace) -> int:
    if args.csv:
        _check_csv(Path(args.csv), args.data, args.classes or "")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # what is missing is listed with what is broken
        sources, labels, missing, notes, kinds = _read(args)
    if args.csv:
        check_not_source(args.csv, *sources)
    print(*notes, sep="\n", file=sys.stderr)
    rows = [Checked(printable(str(path)), "", problem="no such file") for path in missing]
    for row in rows:
        print(f"{row.path}: {row.problem}")
    for row in _looked_at(sources, labels, args.full, args.workers):
        if row.problem:
            tqdm.write(f"{row.path}: {row.problem}")
        rows.append(row)
    if args.csv:
        _write(Path(args.csv), rows)
    broken = sum(bool(row.problem) for row in rows)
    how = "" if args.full else " (three frames each; --full decodes all)"
    print(f"{len(rows)} videos of {kinds}, {broken} broken{how}")
    return int(broken > 0)


def _check_csv(path: Path, data: str, classes: str) -> None:
    """Refuses to replace what is read, and all but results of this command where lists and names of classes lie."""
    check_output(path, data, classes)
    folder = Path(data) if Path(data).is_dir() else Path(data).parent
    if path.is_file() and path.resolve().is_relative_to(folder.resolve()) and not _is_result(path):
        raise ValueError(f"--csv {path}: lies beside the data, and is no result of this command; name another")


def _is_result(path: Path) -> bool:
    with path.open("rb") as file:
        return file.readline().strip() == ",".join(Checked._fields).encode()


def _read(
    args: argparse.Namespace,
) -> tuple[Sequence[Path | Section], list[str], Sequence[Path], Sequence[str], str]:
    """Returns the videos, their labels in words, the missing videos, notes, and the number of classes in words."""
    if args.task == "single" or is_published(args.data, args.layout, args.split):
        videos = read_list(
            args.data, args.root, args.layout, args.classes, args.split, partial=True, labels_from=args.labels_from
        )
        labels = [label_name(videos, index) for index in range(len(videos))]
        kinds = " and ".join(f"{len(own)} {what}" for own, what in _classes_of(videos))
        return videos.sources, labels, videos.missing, described(videos), kinds
    listed = list_in(Path(args.data), args.split)
    if listed is None or args.layout not in (None, "csv"):
        raise ValueError(f"{args.data}: task {args.task!r} wants a list, CSV; class folders and others have one label")
    found = read_targets(listed, args.task, args.root, args.classes, True, args.labels_from)
    task = task_of_data(args.task, found.classes, found.heads)
    count = sum(classes for _, classes in task.heads) or len(found.classes)
    labels = [label_text(label, found.classes) for label in found.labels]
    return found.paths, labels, found.missing, found.notes, task.describe(count)


def _classes_of(videos: VideoList) -> list[tuple[Sequence[object], str]]:
    """Returns lists of class names, with the word for their entries."""
    if videos.kind == PAIR:
        return list(zip(videos.classes, ("verbs", "nouns"), strict=True))
    return [(videos.classes, "classes")]


def _looked_at(sources: Sequence[Path | Section], labels: Sequence[str], full: bool, workers: int) -> Iterator[Checked]:
    """Yields the result for each video, in the order of the list."""
    paths = [printable(str(source)) for source in sources]
    with (
        closing(in_processes(partial(check, full=full), sources, min(workers, len(paths)))) as results,
        tqdm(zip(paths, labels, results, strict=True), total=len(paths), unit="video", disable=None) as progress,
    ):
        broken = 0
        for path, label, found in progress:
            row = Checked(path, label, problem=_CRASH) if found is None else found._replace(label=label)
            broken += bool(row.problem)
            progress.set_postfix(broken=broken, refresh=False)
            yield row


def check(source: Path | Section | str, full: bool) -> Checked:
    """Opens a video, or a part of one, and decodes its first, middle and last frame, or all."""
    torch.set_num_threads(1)
    path = printable(str(source))
    try:
        with VideoReader(source) as reader:
            last = reader.num_frames - 1
            wanted = range(last + 1) if full else sorted({0, last // 2, last})
            for _ in reader.stream(wanted):
                pass
            lost = f"{reader.missing} of {len(wanted)} frames cannot be decoded" if reader.missing else ""
            return Checked(path, "", reader.num_frames, round(reader.fps, 3), reader.width, reader.height, lost)
    except (VideoError, OSError, ValueError) as error:
        return Checked(path, "", problem=" ".join(str(error).split()).removeprefix(f"{path}: "))


def in_processes(work: Callable[[Any], Any], items: Sequence[Any], workers: int) -> Generator[Any, None, None]:
    """Yields the result of `work` for each item, in order; None where an item crashes its process.

    Decoders are C code: a file that crashes one must not end the check, and the error names it.
    """
    context = multiprocessing.get_context(
        "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else None
    )
    context.set_forkserver_preload(["vov3d.video"])  # imported once, not in each process
    for start in range(0, len(items), _AHEAD * workers):
        part = items[start : start + _AHEAD * workers]
        with ProcessPoolExecutor(workers, context, initializer=follow_main) as pool:
            futures = [pool.submit(work, item) for item in part]
            try:
                for item, future in zip(part, futures, strict=True):
                    try:
                        result = future.result()
                    except BrokenProcessPool:  # killed by this item or by another in progress
                        result = _alone(work, item, context)
                    yield result
            except BaseException:  # the caller has stopped: items that wait are not begun
                pool.shutdown(cancel_futures=True)
                raise


def _alone(work: Callable[[Any], Any], item: Any, context: Any) -> Any:
    """Returns the result of `work` from a process of its own, None if that dies."""
    with ProcessPoolExecutor(1, context, initializer=follow_main) as pool:
        try:
            return pool.submit(work, item).result()
        except BrokenProcessPool:
            return None


def _write(path: Path, rows: list[Checked]) -> None:
    with replacing(path) as draft, draft.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([Checked._fields, *rows])


if __name__ == "__main__":
    sys.exit(main())
