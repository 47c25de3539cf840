"""Makes a published data set ready: checks it against its lists, and writes lists that train and evaluate take.

    python -m reference.prepare ucf101 FOLDER
    python -m reference.prepare kinetics400 FOLDER --short-side 256
    python -m reference.prepare hmdb51 FOLDER --fold 2 --output prepared/hmdb51-2

FOLDER is the data set as it is published, see docs/guides/datasets.md. Nothing is downloaded and nothing in it is
changed. OUTPUT then holds `train.csv`, `val.csv` and `test.csv`, as far as there are lists, the class names, and
`problems.csv`, which names every video that is missing or broken. With --short-side it holds the videos too, as small
H.264 files without sound: a run that was stopped goes on where it was. The exit status is 1 if a video is missing or
broken.
"""

import argparse
import csv
import os
import shlex
import sys
import warnings
import zlib
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from reference.check_data import in_processes
from reference.data.annotations import LABEL, LABELS, PAIR, SPLITS, published_lists
from reference.data.encoding import Job, encode, is_done
from reference.data.layouts import SplitError
from reference.data.lists import VideoList, described, label_name, read_list
from reference.data.prepared import write_prepared
from reference.data.published import DATA_SETS, DataSet, against_published, data_set, shown
from reference.data.sources import holds_shards, read_shards, shards_of
from reference.training.stopping import run_resumable
from vov3d.cli.arguments import positive
from vov3d.files import make_folder, replacing
from vov3d.video import Section

_CRASH = "the decoder crashes on it"
_TASKS = {LABEL: "", LABELS: " --task.name multilabel", PAIR: " --task.name multihead"}  # options of the trainer
_SHOWN = 5  # problems that are printed


@dataclass
class _Part:
    """A split that was read: its videos, and what is wrong with some."""

    videos: VideoList
    problems: list[tuple[str, str, str]] = field(default_factory=list)  # path, class, problem
    files: dict[int, str] = field(default_factory=dict)  # what is written for each video that is kept
    whole: bool = False  # whether those files hold nothing but their part


def main(argv: Sequence[str] | None = None) -> int:
    """Prepares a data set; returns the exit status."""
    args = _parser().parse_args(argv)
    return run_resumable("prepare", lambda: _prepare(args))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", metavar="NAME", help=f"one of {', '.join(DATA_SETS)}")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the data set, with its lists")
    parser.add_argument("--videos", type=Path, metavar="FOLDER", help="where the videos lie, if not in FOLDER")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="where to (default: prepared/NAME)")
    parser.add_argument("--fold", type=positive, default=1, help="which division of UCF101 and HMDB51 (default: 1)")
    parser.add_argument("--short-side", type=positive, metavar="PIXELS", help="write all videos anew, this small")
    parser.add_argument("--segments", action="store_true", help="Charades: each annotated action by itself")
    parser.add_argument("--partial", action="store_true", help="end with status 0 though videos are missing or broken")
    parser.add_argument("--workers", type=positive, default=os.cpu_count() or 1, help="processes (default: one a core)")
    return parser


def _prepare(args: argparse.Namespace) -> int:
    data = data_set(args.name)
    if not args.folder.is_dir():
        raise FileNotFoundError(f"{args.folder}: no such folder; give the folder of {data.title}\n{_expected(data)}")
    own = data.home == data.terms  # your own videos
    print(data.title if own else f"{data.title}: files from {data.home}; terms: {data.terms}")
    if data.layout == "webdataset":
        return _shards(args)
    out = args.output or Path("prepared", data.name)
    _check_output(out, args.videos or args.folder)
    parts = _read(data, args)
    for split, part in parts.items():
        print(*_told(data, split, part), sep="\n")
    make_folder(out)
    if args.short_side:
        _make_small(parts, out, args)
    else:
        for part in parts.values():
            part.files = {index: os.path.abspath(path) for index, path in enumerate(part.videos.paths)}
    _write(parts, out)
    return _conclude(data, parts, out, args)


def _expected(data: DataSet) -> str:
    return "\n".join(("expected in it:", *(f"  {line}" for line in data.folder)))


def _check_output(out: Path, videos: Path) -> None:
    """Refuses a place where what is written would be taken for the data set's own videos by the next run."""
    if Path(os.path.realpath(out)).is_relative_to(os.path.realpath(videos)):
        raise ValueError(f"--output {out}: lies in {videos}, whose files are left as they are; give another place")


def table() -> list[str]:
    """Returns the rows of the table in `docs/guides/datasets.md`."""
    return [f"| {' | '.join(_row(data))} |" for data in DATA_SETS.values()]


def _row(data: DataSet) -> list[str]:
    home = f"[{data.home.split('//')[1].split('/')[0]}]({data.home})" if "//" in data.home else data.home
    looks = "<br>".join(f"`{line}`" for line in data.folder)
    classes = " or ".join(shown(size) for size in data.classes)
    counts = "<br>".join(
        f"{split} {' or '.join(f'{count:,}' for count in counts)}" for split, counts in data.counts.items()
    )
    counted = f" ({data.counted})" if data.counts and data.counted != "videos" else ""
    return [
        data.title,
        home if data.home == data.terms else f"{home}<br>{data.terms}",
        looks,
        f"`prepare {data.name} FOLDER`",
        classes or "yours",
        f"{counts}{counted}",
    ]


# --- reading ---------------------------------------------------------------------------------------------------------


def _read(data: DataSet, args: argparse.Namespace) -> dict[str, _Part]:
    """Reads the videos of each split."""
    options: dict[str, Any] = dict(root=args.videos, layout=data.layout, fold=args.fold, partial=True)
    options |= dict(labelled=False, none_there=True)
    if data.name in ("kinetics600", "kinetics700"):
        options["classes"] = _names_in_lists(data, args.folder)
    if args.segments and data.name != "charades":
        raise ValueError(f"--segments has no effect on {data.title}; leave it out")
    if args.segments:
        options["layout"] = "charades-segments"
    if data.name == "moments" and published_lists(args.folder, "moments", 1) is None:
        options |= dict(layout="folder")
    parts: dict[str, _Part] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # what is missing is listed
        try:
            for split in SPLITS:
                try:
                    parts[split] = _Part(read_list(args.folder, split=split, **options))
                except SplitError:
                    continue
            if not parts:
                parts["train"] = _Part(read_list(args.folder, **options))
        except ValueError as error:
            if "holds no list of layout" in str(error):
                raise ValueError(f"{args.folder}: holds no lists of {data.title}; {_expected(data)}") from None
            raise
    for part in parts.values():
        part.problems = [(str(path), "", "no such file") for path in part.videos.missing]
    return parts


def _names_in_lists(data: DataSet, folder: Path) -> tuple[str, ...] | None:
    """Returns all class names in the lists of a folder, of which each list may lack some."""
    found: set[str] = set()
    options: dict[str, Any] = dict(layout=data.layout, partial=True, labelled=False, none_there=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for split in SPLITS:
            try:
                videos = read_list(folder, split=split, **options)
            except SplitError:
                continue
            if videos.classes and videos.labels:
                used = set(videos.labels)
                found |= {str(name) for number, name in enumerate(videos.classes) if number in used}
    return tuple(sorted(found)) or None


def _told(data: DataSet, split: str, part: _Part) -> list[str]:
    """Returns lines that describe a split."""
    videos = part.videos
    count = videos.rows
    if data.counted == "files":
        count = len({*videos.paths, *videos.missing})
    sizes = tuple(map(len, videos.classes)) if videos.kind == PAIR else (len(videos.classes),)
    _, told = against_published(data, split, count, sizes if videos.labels else None)
    classes = f"{sizes[0]} verbs and {sizes[1]} nouns" if videos.kind == PAIR else f"{sizes[0]} classes"
    what = f"of {classes}" if videos.labels else "without labels" if len(videos) else f"of {classes}"
    lines = [f"{split}: {count:,} {data.counted} {what}; {told}"]
    if part.problems:
        lines.append(f"  {len(part.problems):,} files are not there, as {part.problems[0][0]}")
    return lines + [f"  {note}" for note in (described(videos) if len(videos) else videos.notes)]


def _shards(args: argparse.Namespace) -> int:
    """Reads shards, which train and evaluate take as they are."""
    if args.short_side or args.output or args.videos:
        raise ValueError("--short-side, --output and --videos have no effect on shards, which stay as they are")
    if not holds_shards(str(args.folder)):
        raise ValueError(f"{args.folder}: holds no shards; {_expected(DATA_SETS['webdataset'])}")
    splits, classes = [], None
    for split in SPLITS:
        try:
            tars, several = shards_of(str(args.folder), split)
        except SplitError:
            continue
        source = read_shards(str(args.folder), tars, classes, None)
        classes = classes or source.classes
        used = len(np.unique(source.labels))
        print(f"{split if several else 'all'}: {len(source):,} videos of {used} classes in {len(tars)} shards")
        splits.append(split)
        if not several:
            break
    _print_commands("webdataset", args.folder, [split for split in splits if len(splits) > 1], LABEL)
    return 0


# --- making small ----------------------------------------------------------------------------------------------------


def _make_small(parts: dict[str, _Part], out: Path, args: argparse.Namespace) -> None:
    """Writes all videos anew that are not done yet; broken ones are noted, and the others go on."""
    names = _names(parts, args.videos or args.folder, f"videos-{args.short_side}")
    jobs = {source: Job(source, out / name, args.short_side) for source, name in names.items()}
    todo = [job for job in jobs.values() if not is_done(job)]
    if len(todo) < len(jobs):
        print(f"{len(jobs) - len(todo):,} of {len(jobs):,} videos are done already")
    failed: dict[Path | Section, str] = {}
    with (
        closing(in_processes(encode, todo, min(args.workers, len(todo) or 1))) as results,
        tqdm(zip(todo, results, strict=True), total=len(todo), unit="video", disable=None) as progress,
    ):
        for job, problem in progress:
            if problem is None or problem:
                failed[job.source] = problem or _CRASH
            progress.set_postfix(broken=len(failed), refresh=False)
    for part in parts.values():
        part.whole = True
        for index, source in enumerate(part.videos.sources):
            if source in failed:
                part.problems.append((str(source), label_name(part.videos, index), failed[source]))
            else:
                part.files[index] = names[source]


def _names(parts: dict[str, _Part], base: Path, folder: str) -> dict[Path | Section, str]:
    """Returns the file to write for each video, below the output folder; each its own."""
    names: dict[Path | Section, str] = {}
    taken: set[str] = set()
    for part in parts.values():
        for source, path in zip(part.videos.sources, part.videos.paths, strict=True):
            if source in names:
                continue
            rel = os.path.relpath(path, base)
            if rel.startswith(".."):
                rel = f"{zlib.crc32(os.fspath(path.parent).encode('utf-8', 'surrogateescape')):08x}/{path.name}"
            stem = os.path.splitext(rel)[0] if not path.is_dir() else rel
            if isinstance(source, Section):
                unit = "" if not source.in_frames else "f"
                stem += f"_{unit}{source.start:.10g}_{'end' if source.end is None else f'{source.end:.10g}'}"
            name = f"{folder}/{stem}.mp4"
            if name.casefold() in taken:  # a.avi beside a.mkv
                name = f"{folder}/{rel}.{zlib.crc32(str(source).encode('utf-8', 'surrogateescape')):08x}.mp4"
            taken.add(name.casefold())
            names[source] = name.replace(os.sep, "/")
    return names


# --- writing ---------------------------------------------------------------------------------------------------------


def _write(parts: dict[str, _Part], out: Path) -> None:
    """Writes the lists, the class names and the problems."""
    if len({part.videos.classes for part in parts.values() if part.videos.labels}) > 1:
        raise ValueError(f"{out}: the lists of {' and '.join(parts)} have other classes than each other")
    for split, part in parts.items():
        videos = part.videos
        if not part.files:
            continue
        classes: Any = videos.classes if videos.kind == PAIR else (videos.classes,)
        rows = []
        for index, file in part.files.items():
            section = None if part.whole or not videos.sections else videos.sections[index]
            if section is not None and section.in_frames:
                raise ValueError(f"{section}: parts of folders of frames have to be cut out; give --short-side")
            label = None if not videos.labels else videos.labels[index]
            span = (None, None) if section is None else (section.start, section.end)
            rows.append((file, *span, (label,) if videos.kind == LABEL and label is not None else label))
        write_prepared(out / f"{split}.csv", videos.kind, classes, rows)
        if not videos.labels and not (videos.sections and not part.whole):
            with replacing(out / f"{split}.txt") as draft:
                lines = (os.path.abspath(out / file) for file in part.files.values())
                draft.write_text("".join(f"{line}\n" for line in lines), "utf-8", "surrogateescape")
    problems = [(split, *problem) for split, part in parts.items() for problem in part.problems]
    with (
        replacing(out / "problems.csv") as draft,
        draft.open("w", newline="", encoding="utf-8", errors="surrogateescape") as stream,
    ):
        csv.writer(stream, lineterminator="\n").writerows([("split", "path", "class", "problem"), *problems])


def _conclude(data: DataSet, parts: dict[str, _Part], out: Path, args: argparse.Namespace) -> int:
    """Says what was done and what to do next."""
    problems = [problem for part in parts.values() for problem in part.problems]
    kept = {split: part for split, part in parts.items() if part.files}
    if problems:
        print(f"{len(problems):,} videos are missing or broken, all in {out / 'problems.csv'}:")
        print(*(f"  {path}: {problem}" for path, _, problem in problems[:_SHOWN]), sep="\n")
        if len(problems) > _SHOWN:
            print(f"  and {len(problems) - _SHOWN:,} more")
    if not kept:
        print(f"prepare: no video is there; say where they are with --videos. {_expected(data)}", file=sys.stderr)
        return 1
    print(f"lists in {out}: {', '.join(f'{split}.csv ({len(part.files):,})' for split, part in kept.items())}")
    for split in SPLITS:
        if split not in kept and (left := out / f"{split}.csv").exists():
            print(f"{left} is of an earlier run, and train and evaluate would take it: delete it, or move it elsewhere")
    if data.name == "ava":
        print(f"boxes:    python -m reference.detect train --data {shlex.quote(str(args.folder))} --output runs/ava")
    labelled = [split for split, part in kept.items() if part.videos.labels]
    if labelled:
        _print_commands(data.name, out, labelled, kept[labelled[0]].videos.kind)
    for split in kept:
        if split not in labelled:
            listed = out / f"{split}.txt"
            told = f"vov3d predict {shlex.quote(f'@{listed}')} --model MODEL --csv"
            cut = f"{split}.csv is of parts of videos; cut them out with --short-side"
            print(f"predict:  {told if listed.is_file() else cut}")
    return int(bool(problems) and not args.partial)


def _print_commands(name: str, folder: Path, splits: Sequence[str], kind: str) -> None:
    """Prints the commands that train and evaluate on what was read."""
    place = shlex.quote(str(folder))
    measured = next((split for split in ("val", "test") if split in splits), None)
    if kind != LABEL:
        what = "several labels for each video" if kind == LABELS else "a verb and a noun for each video"
        print(f"labels:   {what}")
    if not splits or "train" in splits:
        print(
            f"train:    python -m reference.train --recipe finetune --data {place} --output runs/{name}{_TASKS[kind]}"
        )
    if measured or not splits:
        which = f" --split {measured}" if measured else ""
        print(f"evaluate: python -m reference.evaluate --data {place}{which} --model runs/{name}/model")


if __name__ == "__main__":
    sys.exit(main())
