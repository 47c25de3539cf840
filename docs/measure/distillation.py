"""Trains a small VoV3D with and without a teacher, `vov3d_n`, on the same clips, three seeds each.

    python docs/measure distillation

The student is `vov3d_n` without its last block, and starts from the weights of the other ones. It is fine-tuned on 240
and on 60 clips of its teacher's motions. Runs are stored one by one in docs/results/benchmarks/distillation.json; those
that are there are not repeated, and one that was interrupted is resumed. It fills the table of docs/guides/training.md.
"""

import argparse
import itertools
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pages import DOCS, STORED, fill
from reference.data.clips import to_network
from reference.train import Trainer
from reference.training.log import EPOCHS, read_log
from reference.training.recipe import load_recipe

import vov3d
from vov3d.files import replacing
from vov3d.synthetic.moving_shapes import CLASSES, make_set

RESULTS, PAGE = STORED / "distillation.json", DOCS / "guides" / "training.md"
TEACHER = "vov3d_n"
SEEDS = (0, 1, 2)
EPOCHS_OF = {240: 4, 60: 8}  # by training clips
TRAIN_SEED = 40  # the teacher was trained on clips of seed 0
TEST, TEST_SEED = 1000, 777
KEYS = {  # of the recipe `finetune`, with the rates and the dropout that it had at the time
    "model.drop_rate": "0.5",
    "optimizer.lr": "1e-3",
    "optimizer.layer_decay": "0.8",
    "data.workers": "0",
    "clip.shift": "4",
    "train.val_every": "1000",  # the last epoch alone
    "train.val_views": "1x1",
    "train.keep": "last",
}
KINDS = {"plain": {}, "distilled": {"distill.model": TEACHER}}


def name_of(clips: int, kind: str, seed: int) -> str:
    """Returns the name of a run."""
    return f"{clips}-{kind}-seed{seed}"


def clips_file(path: Path, number: int, seed: int) -> Path:
    """Writes clips with the names of their motions, once."""
    if not path.exists():
        clips, labels = make_set(number, seed)
        with replacing(path) as draft, draft.open("wb") as file:
            np.savez(file, clips=clips, labels=labels, classes=np.array(CLASSES))
    return path


def student_folder(path: Path) -> Path:
    """Saves the teacher without its last block, once."""
    if not path.exists():
        whole: Any = vov3d.create_model(TEACHER, pretrained=True)
        student: Any = vov3d.create_model(TEACHER, num_classes=len(CLASSES), depths=(1, 1, 1))
        state = whole.state_dict()
        student.load_state_dict({name: state[name] for name in student.state_dict()})
        student.pretrained_cfg |= {"num_frames": whole.pretrained_cfg["num_frames"]}
        vov3d.save_pretrained(student, path, label_names=list(CLASSES))
    return path


def train(work: Path, clips: int, kind: str, seed: int) -> dict[str, Any]:
    """Trains one student; returns its accuracy on the test clips after the last epoch."""
    folder = work / name_of(clips, kind, seed)
    keys = KEYS | KINDS[kind] | {"train.seed": str(seed), "schedule.epochs": str(EPOCHS_OF[clips])}
    keys["model.name"] = str(student_folder(work / "student"))
    keys["data.path"] = str(clips_file(work / f"train-{clips}.npz", clips, TRAIN_SEED))
    keys["data.val"] = str(clips_file(work / "test.npz", TEST, TEST_SEED))
    trainer, start = Trainer(load_recipe("finetune", keys), folder, resume=True), time.process_time()
    whole = trainer.step == 0
    trainer.run()
    log = read_log(folder / EPOCHS)
    return {
        "top1": round(log["top1"][-1], 2),
        "test_loss": round(log["val_loss"][-1], 4),
        "updates": trainer.step,
        "params": sum(p.numel() for p in trainer.network.parameters()),
        "cpu_s": round(time.process_time() - start, 1) if whole else None,
    }


@torch.inference_mode()
def top1(name: str, test: Path) -> float:
    """Returns the accuracy of a model without further training, in percent."""
    model: Any = vov3d.optimize_for_inference(vov3d.create_model(name, pretrained=True).eval())
    with np.load(test) as data:
        clips, labels = torch.from_numpy(data["clips"][:, 1::2]), torch.from_numpy(data["labels"])
    like = torch.empty(0)
    said = torch.cat([model(to_network(x, model.pretrained_cfg, like)).argmax(1) for x in clips.split(50)])
    return round(100 * (said == labels).float().mean().item(), 2)


def table(stored: dict[str, Any]) -> str:
    """Returns the table in Markdown."""
    lines = [
        "| | top-1, %: mean | of each seed | loss: mean | CPU seconds of a run |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines.append(f"| the student before training | {stored['student']:.1f} | | | |")
    for clips, epochs in EPOCHS_OF.items():
        for kind, title in (("plain", "labels alone"), ("distilled", f"`--distill {TEACHER}`")):
            names = [name_of(clips, kind, seed) for seed in SEEDS]
            if runs := [stored[name] for name in names if name in stored]:
                lines.append(f"| {clips} clips, {epochs} epochs, {title} | {figures(runs)} |")
    lines.append(f"| the teacher | {stored['teacher']:.1f} | | | |")
    return "\n".join(lines)


def figures(runs: list[dict[str, Any]]) -> str:
    """Returns the cells of one row."""
    values, seconds = [run["top1"] for run in runs], [run["cpu_s"] for run in runs if run["cpu_s"]]
    each = ", ".join(f"{value:.1f}" for value in values)
    loss = statistics.mean(run["test_loss"] for run in runs)
    middle = f"{statistics.median(seconds):.0f}" if seconds else ""
    return f"{statistics.mean(values):.1f} | {each} | {loss:.3f} | {middle}"


def main() -> None:
    """Trains what is missing, and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/distillation"), metavar="FOLDER", help="of the runs")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    stored = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if "teacher" not in stored:
        test = clips_file(args.work / "test.npz", TEST, TEST_SEED)
        stored["teacher"] = top1(TEACHER, test)
        stored["student"] = top1(f"local-dir:{student_folder(args.work / 'student')}", test)
    for clips, seed, kind in itertools.product(EPOCHS_OF, SEEDS, KINDS):
        name = name_of(clips, kind, seed)
        if name not in stored:
            stored[name] = train(args.work, clips, kind, seed)
        with replacing(RESULTS) as draft:
            draft.write_text(json.dumps(stored, indent=1) + "\n")
        fill(PAGE, distillation=table(stored))
    print(table(stored))


if __name__ == "__main__":
    main()
