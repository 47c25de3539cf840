"""Fine-tunes `vov3d_n` and its rivals on small sets of real videos, with controls, three seeds each.

    python docs/measure real_videos list
    python docs/measure real_videos pretrain             # networks of equal cost; vov3d_n further, on people
    python docs/measure real_videos run --videos FOLDER  # trains what is missing; `--only gestures-mixed` some of it
    python docs/measure real_videos report               # writes docs/results/real_videos.md from what is there

FOLDER/SET holds `train` and `val`, each with a folder of videos for each class; SET is one of the sets below. The
recipes are `finetune_nano` and `finetune`, as users have them. Each video is decoded once and its frames stay in memory
(3 GB at most), from which the trainer's own transforms cut the clips. A run leaves one JSON file in
docs/results/real_videos; one that is there is not repeated, and one that was interrupted is resumed. Accuracy is that
of the last epoch on the videos of `val`, one view each, averaged over the classes; nothing is chosen by it.
"""

import argparse
import json
import platform
import random
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from comparison.networks import NETWORKS, cost
from pages import DOCS, fill
from people import clips as people
from reference.data.clips import Key, VideoClips, to_network
from reference.data.sources import Source
from reference.evaluation.metrics import Figure, mean_of_classes
from reference.train import Trainer
from reference.training.recipe import load_recipe

from vov3d.files import replacing
from vov3d.synthetic import moving_shapes
from vov3d.video import VideoReader, clip_indices, eval_transform, random_clip_indices

RESULTS, PAGE = DOCS / "results" / "real_videos", DOCS / "results" / "real_videos.md"
WORK = Path("runs/real_videos")
SEEDS = (0, 1, 2)
SETS = {  # with the keys that a user of such videos would set
    "gestures": {},
    "fights": {"clip.flip": "true"},
    "ucf101_3": {"clip.flip": "true"},
}
FORMER = {  # the recipe before it was tuned on these sets
    "model.drop_rate": "0.5",
    "clip.zoom": "[1.142857, 1.428571]",
    "clip.color": "0",
    "clip.flip": "false",
    "optimizer.lr": "1e-3",
    "optimizer.layer_decay": "0.8",
    "schedule.epochs": "15",
}

MUON = {
    "optimizer.name": "muon",
    "optimizer.lr": "5e-3",
    "optimizer.args.momentum": "0.95",
    "optimizer.args.nesterov": "true",
    "optimizer.args.fallback_list": '["*.conv_s.weight", "*.conv_t.weight", "head.fc.weight"]',
}


@dataclass(frozen=True)
class Kind:
    """A row of the table.

    Attributes:
        title: Its name there.
        keys: Keys that differ from the recipe.
        frames: Frames that the network sees in training and test: in their order, shuffled, or a single one.
        seeds: Seeds that are planned.
        network: The one of `comparison.networks` that `pretrain` has trained; none: `vov3d_n`, as it is packaged.
        sets: Names of the sets; other choices were tried where the recipe left most to be gained.
    """

    title: str
    keys: dict[str, str]
    frames: str = "ordered"
    seeds: tuple[int, ...] = SEEDS
    network: str = ""
    sets: tuple[str, ...] = tuple(SETS)


NANO = MUON | {"mix.cutmix": "1.0", "mix.share": "0.5"}
"""Keys of `finetune_nano` that differ from those of `finetune`."""
WIDE = {
    "model.args.stem_chs": "24",
    "model.args.mid_chs": "[48, 96, 192]",
    "model.args.out_chs": "[32, 64, 128]",
    "model.args.head_chs": "256",
    "model.args.hidden_chs": "512",
}
"""Keys of `vov3d_n` at twice its widths, which has 0.85 M parameters with two classes."""
KINDS = {
    "mixed": Kind("from `vov3d_n`", NANO),
    "mixed_scratch": Kind("from scratch", NANO | {"model.pretrained": "false"}),
    "mixed_x3d": Kind("from an X3D of equal cost", NANO, network="baseline"),
    "mixed_shuffled": Kind("from `vov3d_n`, shuffled frames", NANO, "shuffled"),
    "mixed_single": Kind("from `vov3d_n`, one frame of each clip, repeated", NANO, "single"),
    "tuned": Kind("from `vov3d_n`, recipe `finetune`", {}),
    "scratch": Kind("from scratch, recipe `finetune`", {"model.pretrained": "false"}),
    "x3d": Kind("from an X3D of equal cost, recipe `finetune`", {}, network="baseline", sets=("gestures", "ucf101_3")),
    "shuffled": Kind(
        "from `vov3d_n`, shuffled frames, recipe `finetune`", {}, "shuffled", seeds=SEEDS[:2], sets=("ucf101_3",)
    ),
    # other choices
    "colors": Kind(
        "`finetune_nano` with far stronger colours",
        NANO | {"clip.color": "0.9"},
        seeds=(0,),
        sets=("fights", "ucf101_3"),
    ),
    "mixed_large": Kind(
        "`finetune_nano` at 112 x 112 pixels", NANO | {"clip.size": "112"}, seeds=(0,), sets=("fights",)
    ),
    "mixed_long": Kind("`finetune_nano` with 16 frames", NANO | {"clip.frames": "16"}, seeds=(0,), sets=("fights",)),
    "wide_scratch": Kind(
        "`finetune_nano`, from scratch and twice as wide",
        NANO | WIDE | {"model.pretrained": "false"},
        seeds=(0,),
        sets=("fights", "ucf101_3"),
    ),
    "muon": Kind("`finetune_nano` without CutMix", MUON, seeds=(0,), sets=("fights", "ucf101_3")),
    "muon_fast": Kind(
        "the same at a rate of 0.02", MUON | {"optimizer.lr": "2e-2"}, seeds=(0,), sets=("fights", "ucf101_3")
    ),
    "muon_zoomed": Kind(
        "without CutMix, with crops of 1 to 1.6 and stronger colours",
        MUON | {"clip.zoom": "[1.0, 1.6]", "clip.color": "0.6"},
        seeds=(0,),
        sets=("ucf101_3",),
    ),
    "muon_colors": Kind(
        "without CutMix, with far stronger colours", MUON | {"clip.color": "0.9"}, seeds=(0,), sets=("ucf101_3",)
    ),
    "large": Kind(
        "`finetune` at 112 x 112 pixels in place of 64 x 64", {"clip.size": "112"}, seeds=(0,), sets=("ucf101_3",)
    ),
    "dense": Kind(
        "`finetune` with frames a fifth of a second apart",
        {"clip.sampling": "dense", "clip.stride": "6"},
        seeds=(0,),
        sets=("ucf101_3",),
    ),
    "long": Kind("`finetune` with 16 frames in place of 8", {"clip.frames": "16"}, seeds=(0,), sets=("ucf101_3",)),
    "former": Kind("`finetune` as it was", FORMER, seeds=(0,), sets=("ucf101_3",)),
    "people": Kind("`finetune_nano`, from `vov3d_n` trained further on people", NANO, seeds=(0,), network="people"),
}
CHOICES = tuple(name for name, kind in KINDS.items() if len(kind.seeds) == 1)
"""Rows of the table that compares the recipe with other choices."""


@dataclass(frozen=True)
class Run:
    """A set, a kind and a seed."""

    data: str
    kind: str
    seed: int

    @property
    def name(self) -> str:
        """Name of its file."""
        return f"{self.data}-{self.kind}-seed{self.seed}"


FURTHER = "people"
"""`vov3d_n`, trained further on generated clips of people."""
RIVALS = ("both", *sorted({kind.network for kind in KINDS.values()} - {"", FURTHER}))
"""Networks of equal cost, of which the first is `vov3d_n`."""

PLAN = [Run(data, kind, seed) for kind, row in KINDS.items() for seed in row.seeds for data in row.sets]


class Kept(VideoClips):
    """Clips of videos that are decoded once; `frames` is one of `Kind`, or "crops": in order, in three crops."""

    def __init__(self, source: Source, cfg: dict[str, Any], recipe: Any, train: bool, frames: str) -> None:
        super().__init__(source, cfg, recipe, train)
        self.frames, self._videos = frames, dict[int, tuple[torch.Tensor, float]]()
        self._crops = eval_transform(cfg, 3)

    def _read(self, index: int, rng: random.Random) -> torch.Tensor:
        shown, fps = self._video(index)
        if self.train:
            indices = random_clip_indices(self.cfg, len(shown), fps, rng)
        else:
            indices = clip_indices(self.cfg, len(shown), fps, 1)[0]
        if self.frames == "single":
            indices = [indices[len(indices) // 2]] * len(indices)
        elif self.frames == "shuffled":
            rng.shuffle(indices)
        return self._crops(shown[indices]) if self.frames == "crops" else self._cut(shown[indices], rng)

    def _video(self, index: int) -> tuple[torch.Tensor, float]:
        """Returns the frames `(T, C, H, W)` of a video and their rate, decoded at the first call."""
        if index not in self._videos:
            file: Any = self.source.file(index)
            with VideoReader(file) as reader:
                self._videos[index] = reader.read(range(reader.num_frames)), reader.fps
        return self._videos[index]


@torch.inference_mode()
def answers(model: Any, clips: Kept) -> list[int]:
    """Returns the best class of each video, by the mean score of its crops."""
    model.eval()
    keys: list[list[Key]] = [[(0, i)] for i in range(len(clips))]
    views = (clips.__getitems__(key).clips for key in keys)
    return [int(model.forward_dense(some.reshape(-1, *some.shape[-4:])).mean(0).argmax()) for some in views]


def pretrain(name: str, work: Path) -> dict[str, Any]:
    """Trains a network on moving shapes as `vov3d_n` was trained, and measures it on the recipe's validation clips.

    `vov3d_n` itself, the first of `RIVALS`, is only measured.
    """
    packaged = name == RIVALS[0]
    keys = {"model.pretrained": "true"} if packaged else NETWORKS[name].keys | {"train.val_every": "2"}
    trainer = Trainer(load_recipe("shapes_nano", keys), _pretrained(name, work), resume=True)
    if not packaged:
        trainer.run()
    budget = cost(name, 8, 64)
    return {"params": budget.params, "macs": budget.macs, "top1": trainer.validate()["top1"]}


def train_further(work: Path) -> dict[str, Any]:
    """Trains `vov3d_n` on 20,000 generated clips of people, hands and shapes, three passes; needs 4 GB of disk."""
    keys = {"model.pretrained": "true", "schedule.epochs": "3", "train.val_every": "1"}
    for key, number, seed in (("data.path", 20000, 1000), ("data.val", 1100, 1001)):
        path = work / f"people-{seed}.npz"
        if not path.is_file():
            people.write_set(path, number, seed)
        keys[key] = str(path)
    trainer = Trainer(load_recipe("shapes_nano", keys), _pretrained(FURTHER, work), resume=True)
    trainer.run()
    return {"top1": trainer.validate()["top1"], "shapes_top1": shapes_top1(trainer.network)}


@torch.inference_mode()
def shapes_top1(network: Any) -> float:
    """Returns the accuracy in percent among the first twenty classes, on 2,000 clips of moving shapes."""
    clips, labels = moving_shapes.make_set(2000, 777, 8)
    parts = torch.from_numpy(clips).split(100)
    network.eval()
    cfg, like = network.pretrained_cfg, next(network.parameters())
    said = torch.cat([network(to_network(part, cfg, like))[:, :20].argmax(1) for part in parts])
    return 100 * float(np.mean(said.numpy() == labels))


def _pretrained(name: str, work: Path) -> Path:
    return work / f"pretrained-{name}"


def _model(kind: Kind, work: Path) -> str:
    """Returns the name of the network that a kind begins with."""
    if not kind.network:
        return "vov3d_n"
    folder = _pretrained(kind.network, work) / "model"
    if not folder.is_dir():
        raise ValueError(f"{folder}: is not there; run `python docs/measure real_videos pretrain --work {work}` first")
    return f"local-dir:{folder}"


def execute(run: Run, videos: Path, work: Path) -> dict[str, Any]:
    """Trains and measures; resumes what was interrupted."""
    kind = KINDS[run.kind]
    keys = {
        "model.name": _model(kind, work),
        "data.path": str(videos / run.data),
        "data.workers": "0",
        "train.val_every": "1000",
        "train.val_views": "1x1",
        "train.seed": str(run.seed),
        **SETS[run.data],
        **kind.keys,
    }
    trainer, start = Trainer(load_recipe("finetune", keys), work / run.name, resume=True), time.process_time()
    whole = trainer.step == 0
    cfg, recipe = trainer.network.pretrained_cfg, trainer.recipe
    test = trainer.val_source
    if test is None:
        raise ValueError(f"{videos / run.data}: has no folder val with videos for the test")
    trainer.clips = Kept(trainer.source, cfg, recipe, True, kind.frames)
    trainer.val_source = None  # measured below, in all orders of frames
    trainer.run()
    seconds = time.process_time() - start
    said = {frames: answers(trainer.network, Kept(test, cfg, recipe, False, frames)) for frames in _tests(kind)}
    return {
        "data": run.data,
        "kind": run.kind,
        "seed": run.seed,
        "epochs": recipe.schedule.epochs,
        "videos": len(trainer.source),
        "labels": test.labels.tolist(),
        "said": said,
        "cpu_s": round(seconds) if whole else None,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} thread, torch {torch.__version__}",
    }


def _tests(kind: Kind) -> tuple[str, ...]:
    """Returns what a network is tested on: the order of frames that it learned; for ordered ones all, and crops."""
    return ("ordered", "crops", "shuffled", "single") if kind.frames == "ordered" else (kind.frames,)


def right(labels: Sequence[int], said: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Returns right videos and videos of each class."""
    hit = np.equal(labels, said)
    return np.bincount(np.array(labels)[hit], minlength=max(labels) + 1), np.bincount(labels)


def figure(runs: Sequence[dict[str, Any]], frames: str) -> tuple[Figure, list[float]]:
    """Returns the class-balanced accuracy over all seeds, and that of each.

    The interval is that of the videos: it takes the seeds' mean share of each class as measured on its videos once.
    """
    counted = [right(run["labels"], run["said"][frames]) for run in runs]
    totals = counted[0][1]
    each = [100 * float((hits / totals).mean()) for hits, _ in counted]
    mean = np.mean([hits for hits, _ in counted], axis=0)
    return mean_of_classes(mean, totals), each


def table(found: dict[str, dict[str, Any]], data: str) -> str:
    """Returns the rows of a set in Markdown; those without a run are left out."""
    lines = ["| | class-balanced, % | 95% interval | of each seed | CPU minutes |", "| --- | --- | --- | --- | --- |"]
    for name, kind in KINDS.items():
        runs = [found[run.name] for run in PLAN if (run.data, run.kind) == (data, name) and run.name in found]
        if not runs or name in CHOICES:
            continue
        for frames in _tests(kind):
            if frames != kind.frames and name != "mixed":
                continue
            title = kind.title + ("" if frames == kind.frames else f", {_TESTED[frames]} in the test alone")
            mean, each = figure(runs, frames)
            minutes = [run["cpu_s"] / 60 for run in runs if run["cpu_s"]]
            lines.append(
                f"| {title} | {100 * mean.value:.1f}{_spread(each)} | {100 * mean.low:.0f} to {100 * mean.high:.0f} | "
                f"{', '.join(f'{value:.1f}' for value in each)} | "
                f"{f'{statistics.median(minutes):.0f}' if minutes and frames == kind.frames else ''} |"
            )
    classes = len(set(next(run["labels"] for run in found.values() if run["data"] == data)))
    return "\n".join([*lines, f"| chance | {100 / classes:.1f} | | | |"])


def choices(found: Mapping[str, dict[str, Any]]) -> str:
    """Returns a table of other choices than those of the recipe, in Markdown; rows without a run are left out."""
    lines = [f"| seed 0, % | {' | '.join(SETS)} |", "| --- |" + " --- |" * len(SETS)]
    for name in ("mixed", "tuned", *CHOICES):
        runs = [found.get(Run(data, name, 0).name) for data in SETS]
        if any(runs):
            cells = [f"{figure([run], 'ordered')[1][0]:.1f}" if run else "" for run in runs]
            title = {"mixed": "`finetune_nano`", "tuned": "`finetune`"}.get(name, KINDS[name].title)
            lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines) if len(lines) > 2 else NOTHING


def hard_videos(found: Mapping[str, dict[str, Any]]) -> str:
    """Returns how many videos of the test nearly all networks name wrongly, and how many none does, in Markdown.

    Networks are those of all runs that learned from frames in order, whatever the recipe.
    """
    lines = ["| set | runs | videos | always right | wrong in four of five runs |", "| --- | --- | --- | --- | --- |"]
    for data in SETS:
        runs = [run for run in found.values() if run["data"] == data and "ordered" in run["said"]]
        if not runs:
            continue
        wrong = np.mean([np.not_equal(run["labels"], run["said"]["ordered"]) for run in runs], axis=0)
        hard = np.flatnonzero(wrong >= 0.8)
        numbers = f"{len(hard)}" + (f" (numbers {', '.join(map(str, hard))})" if len(hard) else "")
        lines.append(f"| {data} | {len(runs)} | {len(wrong)} | {(wrong == 0).sum()} | {numbers} |")
    return "\n".join(lines) if len(lines) > 2 else NOTHING


def network_table(found: Mapping[str, dict[str, Any]]) -> str:
    """Returns the networks that were trained on moving shapes, in Markdown."""
    lines = ["| network | parameters | multiply-adds (M) | top-1 on moving shapes, % |", "| --- | --- | --- | --- |"]
    for name, row in found.items():
        lines.append(f"| {NETWORKS[name].title} | {row['params']:,} | {row['macs'] / 1e6:.1f} | {row['top1']:.1f} |")
    return "\n".join(lines) if found else NOTHING


NOTHING = "*No run is done.*"
_TESTED = {"crops": "three crops", "shuffled": "shuffled frames", "single": "one frame"}


def _spread(each: Sequence[float]) -> str:
    return f" ± {statistics.stdev(each):.1f}" if len(each) > 1 else ""


def read(results: Path) -> dict[str, dict[str, Any]]:
    """Returns the finished runs by name."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(results.glob("*.json"))}


def report(results: Path, page: Path) -> None:
    """Writes the tables of the page."""
    found = read(results)
    have = {run["data"] for run in found.values()}
    tables = {name: table(found, name) if name in have else NOTHING for name in SETS}
    networks = {name: json.loads(path.read_text()) for name in RIVALS if (path := _rival(results, name)).is_file()}
    parts = {"missing": missing(found), "choices": choices(found), "hard": hard_videos(found)}
    fill(page, networks=network_table(networks), **parts, **tables)


def _rival(results: Path, name: str) -> Path:
    return results / "networks" / f"{name}.json"


def _store(path: Path, found: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as draft:
        draft.write_text(json.dumps(found) + "\n")


def missing(found: Mapping[str, Any]) -> str:
    """Returns the list of planned runs that are not there, in Markdown."""
    lines = []
    for name, kind in KINDS.items():
        counts = {
            data: sum((run.data, run.kind) == (data, name) and run.name not in found for run in PLAN) for data in SETS
        }
        cells = [f"`{data}` {count} of {len(kind.seeds)}" for data, count in counts.items() if count]
        if cells:
            lines.append(f"- {kind.title}: {', '.join(cells)}")
    return "Not run yet, by seeds:\n\n" + "\n".join(lines) if lines else "None."


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER", help="JSON files")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="lists finished and missing runs")
    commands.add_parser("report", help="writes the page from what is there")
    training = commands.add_parser(
        "pretrain", help="trains networks of equal cost on moving shapes, and vov3d_n further on people"
    )
    training.add_argument("--only", default="", metavar="NAME", help=f"one of {', '.join((*RIVALS, FURTHER))}")
    running = commands.add_parser("run", help="trains what is missing")
    running.add_argument("--videos", type=Path, required=True, metavar="FOLDER", help="with a folder for each set")
    running.add_argument("--only", default="", metavar="START", help="runs whose names begin so, as gestures-mixed")
    for command in (training, running):
        command.add_argument("--work", type=Path, default=WORK, metavar="FOLDER", help="checkpoints")
    args = parser.parse_args(arguments)
    try:
        found = read(args.results)
        if args.command == "report":
            report(args.results, PAGE)
        elif args.command == "list":
            for run in PLAN:
                done = found.get(run.name)
                share = f"{figure([done], KINDS[run.kind].frames)[1][0]:.1f}%" if done else "to do"
                print(f"{run.name:32} {share}")
        elif args.command == "pretrain":
            for name in (*RIVALS, FURTHER):
                if not _rival(args.results, name).is_file() and args.only in ("", name):
                    measured = train_further(args.work) if name == FURTHER else pretrain(name, args.work)
                    _store(_rival(args.results, name), measured)
        else:
            for run in PLAN:
                if run.name not in found and run.name.startswith(args.only):
                    result = execute(run, args.videos, args.work)
                    _store(args.results / f"{run.name}.json", result)
                    print(f"--- {run.name}: {figure([result], KINDS[run.kind].frames)[1][0]:.1f}%", flush=True)
    except (OSError, ValueError) as error:
        print(f"real_videos.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
