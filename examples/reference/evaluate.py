"""Measures the accuracy of models on a set of videos, by the published protocols.

    python -m reference.evaluate --data kinetics400 --split val --model vov3d_m.k400_f16
    python -m reference.evaluate --data FOLDER --model my_model --confusion
    python -m reference.evaluate --data val.csv --model vov3d_m x3d_m --tempo 5,8,10,12,14,16
    python -m reference.evaluate --data val.csv --compare vov3d_m x3d_m

The scores of each video go to OUT/MODEL-VIEWS/videos.csv at once: a killed run continues where it stopped, and
another call on the same data uses them again. Protocols: k400 is 10 clips x 3 crops, ssv 2 x 3, single 1 x 1; crops
have the size of the model's published evaluation, maps larger than in training are pooled by the published sliding
window, and the softmax is averaged over the views. On data that a model of train.py or finetune.py was trained on, only
the held-out videos are measured: the `videos.csv` in its folder names them, also for a file exported into that folder.
"""

import argparse
import csv
import json
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from reference.data.lists import LAYOUTS
from reference.data.sources import check_outside
from reference.evaluation.metrics import Broken, Figure, Pair, Summary, confused, confusion, differing_pairs, summarize
from reference.evaluation.models import PROTOCOLS, Model, best_device, load_model
from reference.evaluation.pictures import (
    Example,
    draw_confusion,
    draw_examples,
    draw_tempo,
    frames_of,
    require_matplotlib,
)
from reference.evaluation.running import Plan, Run, content_of
from reference.evaluation.samples import Samples, load_samples
from reference.evaluation.scores import Row, to_parquet
from reference.evaluation.tables import TaskReport, class_table, head_confusions, rarest
from reference.training.seen import TRAIN, parts_of
from reference.training.stopping import run_resumable
from vov3d.cli.arguments import device, positive
from vov3d.extras import install
from vov3d.files import replacing
from vov3d.memory import keep_freed_memory
from vov3d.video import parse_views

_PAIRS = 8  # pairs of classes in a comparison
_CONFUSED = 10  # confusions printed

Rows = dict[int, Row]


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluates; returns the exit status."""
    args = _parser().parse_args(argv)
    warnings.showwarning = lambda message, *_, **__: print(f"evaluate: {message}", file=sys.stderr)
    return run_resumable("evaluate", lambda: _evaluate(args))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = parser.add_argument_group("data")
    data.add_argument("--data", required=True, help="list of videos, class folders, data set with its lists, or .npz")
    data.add_argument("--split", help="train, val or test, where there are several")
    data.add_argument("--root", help="where the videos of a list lie (default: looked for beside it)")
    data.add_argument("--layout", choices=LAYOUTS, help="default: recognised by its files")
    data.add_argument("--partial", action="store_true", help="leave out videos of the list that are not there")
    data.add_argument("--labels-from", type=int, choices=(0, 1), help="number of the first class in a list of numbers")
    data.add_argument("--all", action="store_true", help="also measure on videos that a model was trained on")
    data.add_argument("--fps", type=float, help="frames per second of frame folders (default: 12) or clips (30)")
    models = parser.add_argument_group("models")
    models.add_argument("--model", nargs="+", default=[], metavar="NAME", help="model.tag, folder, or exported file")
    models.add_argument("--checkpoint", nargs="+", metavar="FILE", help="weights of each model, - for those of its tag")
    models.add_argument("--device", help="cpu, cuda, ... (default: the GPU where there is one)")
    models.add_argument("--backend", choices=("pyav", "torchcodec"), help="decoder of files (default: pyav)")
    models.add_argument(
        "--no-antialias", action="store_true", help="resize as the published loaders do, without a filter"
    )
    models.add_argument(
        "--batch-size", type=positive, metavar="N", help="views in a batch (default: as many as fit in memory)"
    )
    views = parser.add_argument_group("protocol")
    which = views.add_mutually_exclusive_group()
    which.add_argument("--protocol", choices=PROTOCOLS, help="default: the one that fits the model")
    which.add_argument("--views", metavar="CLIPSxCROPS", help="other views, as 1x3")
    views.add_argument("--frames", type=positive, metavar="T", help="frames of a clip (default: the model's)")
    views.add_argument("--stride", type=float, metavar="S", help="distance of frames at 30 fps (default: the model's)")
    views.add_argument(
        "--threshold", type=float, metavar="P", help="score from which one of many labels is named (default: 0.5)"
    )
    views.add_argument("--broken", choices=("wrong", "leave-out"), default="wrong", help="how broken videos count")
    out = parser.add_argument_group("results")
    out.add_argument(
        "--out", default="evaluation", metavar="FOLDER", help="folder of the results (default: evaluation)"
    )
    out.add_argument("--per-view", action="store_true", help="keep the scores of every view, in views.csv")
    out.add_argument("--parquet", action="store_true", help="write the scores as Parquet too")
    out.add_argument("--confusion", action="store_true", help="confusion matrix: table and picture")
    out.add_argument("--tempo", metavar="S,S,...", help="accuracy at these strides: table and picture (Figure 5)")
    out.add_argument(
        "--compare", nargs=2, metavar="NAME", help="two models: the pairs of classes where they differ most (Figure 6)"
    )
    return parser


def _evaluate(args: argparse.Namespace) -> int:
    strides = _checked(args)
    check_outside(Path(args.out), args.data)
    models = _models(args)
    _check_tasks(args, models)
    plan = Plan(
        "", args.stride, args.frames, args.fps, args.batch_size, args.backend, args.per_view, not args.no_antialias
    )
    runs = []
    sets = [
        load_samples(
            args.data,
            model.names,
            model.num_classes,
            args.root,
            args.layout,
            args.split,
            args.partial,
            args.labels_from,
            model.task,
        )
        for model in models
    ]
    for note in sets[0].notes:
        print(note, file=sys.stderr)
    for model, samples in zip(models, _unseen(args, models, sets), strict=True):
        own = replace(plan, views=args.views or model.views(args.protocol))
        runs += [
            Run(model, samples, replace(own, stride=stride), Path(args.out, "all" if args.all else ""))
            for stride in strides or [args.stride]
        ]
    if args.compare and runs[0].samples.classes != runs[1].samples.classes:
        raise ValueError(
            f"{' and '.join(args.compare)} have different classes, or number them differently: nothing to compare"
        )
    results = []
    for run in runs:
        results.append(run.rows())
        if not strides:
            _report(args, run, results[-1])
    if strides:
        _tempo(args, runs, results)
    if args.compare:
        _compare(Path(args.out), runs, results)
    return 0


def _unseen(args: argparse.Namespace, models: list[Model], sets: list[Samples]) -> list[Samples]:
    """Returns the videos that no model was trained on, where there are any; prints what it leaves out."""
    trained = np.zeros(len(sets[0]), bool)
    for model, checkpoint in zip(models, args.checkpoint or ["-"] * len(models), strict=True):
        weights = model.name.removeprefix("local-dir:") if checkpoint == "-" else checkpoint
        parts = parts_of(Path(weights), sets[0].sources)
        seen = np.array([part == TRAIN for part in parts], bool)
        if seen.any():
            print(f"{model.name} was trained on {seen.sum()} of these {len(seen)} videos", file=sys.stderr)
        trained |= seen
    if not trained.any():
        return sets
    if args.all or trained.all():
        print(
            "WARNING: they are measured with the others: the accuracy does not hold for videos that it has not seen",
            file=sys.stderr,
        )
        return sets
    rest = np.flatnonzero(~trained).tolist()
    print(f"measuring the {len(rest)} that were held out (--all: all of them)", file=sys.stderr)
    return [samples.subset(rest) for samples in sets]


def _checked(args: argparse.Namespace) -> list[float]:
    """Refuses settings that make no sense, before anything is computed; returns the strides of `--tempo`."""
    if args.compare and args.model:
        raise ValueError("--compare names its two models itself; leave --model out")
    names = args.compare or args.model
    if not names:
        raise ValueError("no model is named; give --model NAME, as vov3d_m.k400_f16, a folder, or an exported file")
    if args.checkpoint and len(args.checkpoint) != len(names):
        raise ValueError(
            f"{len(args.checkpoint)} checkpoints for {len(names)} models; give one for each, in their order"
        )
    if args.views:
        parse_views(args.views)
    if args.tempo and (args.stride is not None or args.confusion or args.compare):
        raise ValueError("--tempo is a table of its own; leave --stride, --confusion and --compare out")
    if args.tempo or args.confusion or args.compare:
        require_matplotlib()
    if args.parquet:
        _require_pyarrow()
    try:
        return [float(stride) for stride in args.tempo.split(",")] if args.tempo else []
    except ValueError:
        raise ValueError(f"--tempo {args.tempo}: expected strides such as 5,8,10,12,14,16") from None


def _check_tasks(args: argparse.Namespace, models: list[Model]) -> None:
    """Refuses options that have no meaning for what the models' outputs mean."""
    for model in models:
        if args.tempo or args.compare:
            model.task.require(f"{'--tempo' if args.tempo else '--compare'}, of {model.name},", "single")
        if args.confusion:
            model.task.require(f"--confusion, of {model.name},", "single", "multihead")
        if args.threshold is not None:
            model.task.require(f"--threshold, of {model.name},", "multilabel")
    if args.threshold is not None and not 0 <= args.threshold <= 1:
        raise ValueError(f"--threshold is {args.threshold}: scores are from 0 to 1")


def _require_pyarrow() -> None:
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise ImportError(f"--parquet needs pyarrow: {install('train')}") from error


def _models(args: argparse.Namespace) -> list[Model]:
    names = args.compare or args.model
    target = device(args.device) if args.device else best_device()
    models = [
        load_model(name, None if checkpoint == "-" else checkpoint, target, args.device is not None)
        for name, checkpoint in zip(names, args.checkpoint or ["-"] * len(names), strict=True)
    ]
    if len({model.label for model in models}) < len(models):
        raise ValueError(f"models {', '.join(names)} would share a folder of results; evaluate them one by one")
    return models


# --- one model -------------------------------------------------------------------------------------------------------


def _report(args: argparse.Namespace, run: Run, rows: Rows) -> None:
    """Prints the accuracies of a model and writes them beside its scores."""
    model, samples = run.model, run.samples
    if not model.task.single:
        _report_task(args, run, rows)
        return
    summary = summarize(rows.values(), args.broken)
    print("\n".join(_lines(args.broken, run, rows, summary)))
    published = dict(zip(("top1", "top5", "views"), model.published, strict=True)) if model.published else None
    content = {"model": model.name, "data": samples.name, "views": run.plan.views, "broken_count_as": args.broken}
    content |= {"missing": samples.missing, "accuracy": asdict(summary), "published": published}
    with replacing(run.folder / "summary.json") as draft:
        draft.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    counted = [row for row in rows.values() if args.broken == "wrong" or row.rank is not None]
    supports = np.bincount([row.label or 0 for row in counted], minlength=len(samples.classes))
    counts = confusion(rows.values(), len(samples.classes))
    table = class_table(counts, supports, samples.classes)
    _write_csv(run.folder / "classes.csv", table)
    if args.confusion:
        _confusion(run.folder, samples, counts, f"{model.label} on {samples.name}")
        print("\n".join([f"rarest classes ({run.folder / 'classes.csv'}):", *rarest(table), ""]))
    if args.parquet:
        to_parquet(run.folder)


def _report_task(args: argparse.Namespace, run: Run, rows: Rows) -> None:
    """Prints the figures of a model of a task beyond one label and writes them beside its scores."""
    model, samples, task = run.model, run.samples, run.model.task
    report = TaskReport(run, rows, task, args.broken, 0.5 if args.threshold is None else args.threshold)
    lines = _heading(run, f"{len(report.labels)} videos of {task.describe(model.num_classes)}")
    print("\n".join([*lines, *report.lines(), ""]))
    content: dict[str, Any] = {"model": model.name, "task": task.name, "data": samples.name}
    content |= {
        "views": run.plan.views,
        "broken_count_as": "left out" if report.left_out else "wrong",
        "missing": samples.missing,
    }
    content |= report.content()
    with replacing(run.folder / "summary.json") as draft:
        draft.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    table = report.table()
    _write_csv(run.folder / "classes.csv", table)
    if task.name != "regression":
        print("\n".join([f"rarest classes ({run.folder / 'classes.csv'}):", *rarest(table), ""]))
    if args.confusion:
        for head, counts, names in head_confusions(report, task, samples.classes):
            part = replace(samples, classes=tuple(names))
            _confusion(run.folder, part, counts, f"{model.label} on {samples.name}: {head}", f"confusion-{head}")
    if args.parquet:
        to_parquet(run.folder)


def _heading(run: Run, videos: str) -> list[str]:
    """Returns lines that name the model, its views and the data."""
    when = f"every {run.stride:g} at 30 fps" if run.stride else "in equal segments"
    lines = [
        f"{run.model.name}: {run.plan.views} views of {run.frames} frames {when}, {run.size} pixels",
        f"{run.samples.name}: {videos}",
    ]
    if run.samples.missing:
        lines.append(f"A PARTIAL SET: {run.samples.missing} videos of the list are not there and do not count")
    return lines


def _lines(broken: Broken, run: Run, rows: Rows, summary: Summary) -> list[str]:
    """Returns the accuracies of a model as they are printed."""
    model = run.model
    lines = _heading(run, f"{summary.videos} videos of {summary.classes} classes (the model has {model.num_classes})")
    top1, top5, views = model.published or (None, None, None)
    shown = [
        ("top-1", summary.top1, top1),
        ("top-5", summary.top5, top5),
        ("mean class accuracy", summary.mean_class, None),
    ]
    if model.num_classes <= 5:
        del shown[1]  # it would always be right
    lines.append(f"{'':20}{'percent':>8}   {'95% interval':<16}{f'published ({views[0]}x{views[1]})' if views else ''}")
    for name, figure, given in shown:
        lines.append(f"{name:<20}{100 * figure.value:8.2f}   {_interval(figure):<16}{given if given else ''}".rstrip())
    lines.append("intervals: Wilson for top-1 and top-5, bootstrap over the videos of each class for the mean")
    if summary.broken:
        lines += _broken_lines(broken, rows)
    return [*lines, ""]


def _broken_lines(broken: Broken, rows: Rows) -> list[str]:
    """Returns the broken videos, and the accuracies with them and without, as they are printed."""
    lost = [row for row in rows.values() if row.rank is None]
    lines = [
        f"{len(lost)} broken videos, counted as wrong:"
        if broken == "wrong"
        else f"{len(lost)} broken videos, left out:"
    ]
    lines += [f"  {row.error}" for row in lost]
    ways: tuple[tuple[Broken, str], ...] = ("wrong", "counted as wrong"), ("leave-out", "left out")
    for way, text in ways:
        other = summarize(rows.values(), way)
        figures = [f"{100 * figure.value:.2f}" for figure in (other.top1, other.top5, other.mean_class)]
        lines.append("  {}: top-1 {}, top-5 {}, mean class {}".format(text, *figures))
    return lines


def _interval(figure: Figure) -> str:
    return f"{100 * figure.low:.2f} to {100 * figure.high:.2f}"


def _confusion(folder: Path, samples: Samples, counts: np.ndarray, title: str, name: str = "confusion") -> None:
    """Writes the table and the picture, and prints the most frequent confusions."""
    table = [["class", *samples.classes], *([name, *line] for name, line in zip(samples.classes, counts, strict=True))]
    _write_csv(folder / f"{name}.csv", table)
    draw_confusion(folder / f"{name}.png", counts, samples.classes, title)
    print(f"most confused ({folder / f'{name}.csv'}, {folder / f'{name}.png'}):")
    for label, other, times in confused(counts, _CONFUSED):
        share = f"{times} of {counts[label].sum()}"
        print(f"  {share:>12}  {samples.classes[label]} -> {samples.classes[other]}")
    print()


# --- several models --------------------------------------------------------------------------------------------------


def _tempo(args: argparse.Namespace, runs: list[Run], results: list[Rows]) -> None:
    """Writes accuracy against the temporal stride, as table and picture."""
    curves: dict[str, dict[float, Figure]] = {}
    for run, rows in zip(runs, results, strict=True):
        curves.setdefault(run.model.label, {})[run.stride or 0] = summarize(rows.values(), args.broken).top1
    title = f"{runs[0].samples.name}, {runs[0].plan.views} views"
    print(f"top-1 in percent (95% interval) on {title}")
    strides = list(next(iter(curves.values())))
    lines = [["model", *(f"stride {stride:g}" for stride in strides)], ["---"] * (1 + len(strides))]
    lines += [
        [name, *(f"{100 * f.value:.2f} ({_interval(f)})" for f in curve.values())] for name, curve in curves.items()
    ]
    print("\n".join(f"| {' | '.join(line)} |" for line in lines))
    table = [[name, stride, *map(float, f)] for name, curve in curves.items() for stride, f in curve.items()]
    target = Path(args.out) / "tempo"
    _write_csv(Path(f"{target}.csv"), [["model", "stride", "top1", "low", "high"], *table])
    draw_tempo(Path(f"{target}.png"), curves, title)
    print(f"{target}.csv, {target}.png")


def _compare(out: Path, runs: list[Run], results: list[Rows]) -> None:
    """Writes the pairs of classes in which two models differ most, as a table, and a picture of an example each."""
    a, b = (run.model for run in runs)
    (rows_a, rows_b), samples = results, runs[0].samples
    names = samples.classes
    counts = [confusion(rows.values(), len(names)) for rows in results]
    pairs = differing_pairs(counts[0], counts[1], _PAIRS)
    target = out / f"compare-{a.label}-{b.label}"
    table = [["first class", "second class", f"confused by {a.label}", f"confused by {b.label}", "example"]]
    examples: list[Example] = []
    print(f"where they differ most, share taken for one another by {a.label} and by {b.label} ({target}.csv):")
    for pair in pairs:
        shares = f"{100 * pair.share_a:.1f}%", f"{100 * pair.share_b:.1f}%"
        both = f"{names[pair.first]} / {names[pair.second]}"
        chosen = _example(pair, rows_a, rows_b, {example.name for example in examples})
        row = rows_a[chosen]
        said = names[row.prediction or 0], names[rows_b[chosen].prediction or 0]
        frames = frames_of(content_of(samples.sources[chosen]), a.cfg)
        above = f"{both}: confused by {a.label} {shares[0]}, by {b.label} {shares[1]}"
        examples.append(Example(above, row.path, names[row.label or 0], said, frames))
        table.append([names[pair.first], names[pair.second], *shares, row.path])
        print(f"{shares[0]:>8} {shares[1]:>8}  {both}")
    _write_csv(Path(f"{target}.csv"), table)
    if examples:
        draw_examples(Path(f"{target}.png"), examples, (a.label, b.label))
        print(f"an example of each: {target}.png")


def _example(pair: Pair, rows_a: Rows, rows_b: Rows, used: set[str]) -> int:
    """Returns a video that one model takes for the other class of a pair, if possible one that the other gets right."""
    wrong, right = (rows_a, rows_b) if pair.share_a > pair.share_b else (rows_b, rows_a)
    both = {pair.first, pair.second}
    taken = [index for index, row in wrong.items() if {row.label, row.prediction} == both]
    return min(taken, key=lambda index: (wrong[index].path in used, right[index].rank != 0))


# --- files -----------------------------------------------------------------------------------------------------------


def _write_csv(path: Path, table: Sequence[Sequence[Any]]) -> None:
    with replacing(path) as draft, draft.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(table)


if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(main())
