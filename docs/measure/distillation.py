"""Trains a small VoV3D with and without a teacher, `vov3d_n`, on the same clips, three seeds each.

    python docs/measure distillation

The student is `vov3d_n` without its last block, and starts from the weights of the other ones. It is fine-tuned on 240
clips of the teacher's twenty motions. Runs are stored one by one in docs/results/benchmarks/distillation.json; those
that are there are not repeated, and one that was interrupted is resumed. Fills the table of docs/guides/training.md.
"""

import argparse
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
TRAIN, TRAIN_SEED = 240, 40  # the teacher was trained on clips of seed 0
TEST, TEST_SEED = 1000, 777
KEYS = {  # of the recipe `finetune`
    "data.workers": "0",
    "clip.shift": "4",
    "schedule.epochs": "4",
    "train.val_every": "4",
    "train.val_views": "1x1",
    "train.keep": "last",
}
KINDS = {"plain": {}, "distilled": {"distill.model": TEACHER}}


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


def train(work: Path, kind: str, seed: int) -> dict[str, Any]:
    """Trains one student; returns its accuracy on the test clips after the last epoch."""
    folder = work / f"{kind}-seed{seed}"
    keys = KEYS | KINDS[kind] | {"train.seed": str(seed), "model.name": str(student_folder(work / "student"))}
    keys["data.path"] = str(clips_file(work / "train.npz", TRAIN, TRAIN_SEED))
    keys["data.val"] = str(clips_file(work / "test.npz", TEST, TEST_SEED))
    trainer, start = Trainer(load_recipe("finetune", keys), folder, resume=True), time.process_time()
    whole = trainer.step == 0
    trainer.run()
    return {
        "top1": round(read_log(folder / EPOCHS)["top1"][-1], 2),
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
    lines = ["| 240 clips, four epochs | top-1, %: mean | of each seed | CPU seconds of a run |"]
    lines += ["| --- | --- | --- | --- |", f"| the student before training | {stored['student']:.1f} | | |"]
    for kind, title in (("plain", "trained on labels alone"), ("distilled", f"the same with `--distill {TEACHER}`")):
        runs = [stored[f"{kind}-seed{seed}"] for seed in SEEDS if f"{kind}-seed{seed}" in stored]
        if runs:
            values, seconds = [run["top1"] for run in runs], [run["cpu_s"] for run in runs if run["cpu_s"]]
            each = ", ".join(f"{value:.1f}" for value in values)
            middle = f"{statistics.median(seconds):.0f}" if seconds else ""
            lines.append(f"| {title} | {statistics.mean(values):.1f} | {each} | {middle} |")
    lines.append(f"| the teacher | {stored['teacher']:.1f} | | |")
    return "\n".join(lines)


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
    for name in [f"{kind}-seed{seed}" for seed in SEEDS for kind in KINDS]:
        if name not in stored:
            kind, _, seed = name.partition("-seed")
            stored[name] = train(args.work, kind, int(seed))
        with replacing(RESULTS) as draft:
            draft.write_text(json.dumps(stored, indent=1) + "\n")
        fill(PAGE, distillation=table(stored))
    print(table(stored))


if __name__ == "__main__":
    main()
