"""Fine-tunes a model on a folder of videos, one sub-folder a class: one plain loop to read, copy and change.

    python examples/finetune.py FOLDER --output runs/mine
    vov3d predict clip.mp4 --model runs/mine

`--data hf:org/name` streams a data set of the Hugging Face Hub instead (`pip install datasets`). A fifth of each class,
or the validation split, is held out and measured after every epoch; the weights of the last epoch are saved.
Needs `pip install "vov3d[train]"`. The package `reference` beside this file has the full trainer.
"""

import argparse
import csv
import math
import random
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from timm.optim import create_optimizer_v2
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2
from tqdm import tqdm

import vov3d
from vov3d.adapters.datasets import VideoStream, open_videos
from vov3d.video import VideoReader, eval_transform, looks_like_video, plan_clips, plan_random_clip, train_transform


class Clips(Dataset):
    """A clip `(C, T, S, S)` and the class of each video: drawn at random to train on, the middle one to validate."""

    def __init__(self, files: Any, cfg: dict[str, Any], train: bool, flip: bool = False) -> None:
        self.files, self.cfg, self.train = files, cfg, train
        size = cfg["input_size"][-1]  # crops begin at the whole height: the action may be at the border
        self.transform = train_transform(cfg, (size, size * 5 // 4), flip, color=0.4) if train else eval_transform(cfg)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.load(*self.files[index])

    def load(self, source: Any, label: int) -> tuple[torch.Tensor, int]:
        """Reads a clip of a file, or of the bytes of one."""
        rng = random.Random(int(torch.randint(1 << 62, ())))
        with VideoReader(source) as reader:
            wanted = plan_random_clip(self.cfg, reader, rng) if self.train else plan_clips(self.cfg, reader)[0]
            clip = self.transform(reader.read(wanted))
        return clip if self.train else clip[0], label


def find_videos(folder: Path) -> tuple[list[str], Any, Any]:
    """Returns class names, videos to train on and held-out videos: a random split, the same on every call."""
    if not folder.is_dir():
        raise SystemExit(f"{folder}: there is no such folder; give one sub-folder of videos for each class")
    classes = sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name[0] != "." and p.name != "__MACOSX")
    if len(classes) < 2:
        raise SystemExit(f"{folder}: holds {len(classes)} folders; give one sub-folder of videos for each class")
    if {name.lower() for name in classes} <= {"train", "training", "val", "valid", "validation", "test"}:
        raise SystemExit(f"{folder}: {' and '.join(classes)} are parts of a data set, not classes; see reference.train")
    train, held_out = list[tuple[Path, int]](), list[tuple[Path, int]]()
    for label, name in enumerate(classes):  # the pattern leaves out ._a.mp4 of macOS
        files = [(p, label) for p in sorted((folder / name).rglob("[!.]*")) if p.is_file() and looks_like_video(p)]
        if len(files) < 2:
            raise SystemExit(f"{folder / name}: holds {len(files)} videos; a class needs two, one to be held out")
        random.Random(0).shuffle(files)
        share = max(1, len(files) // 5)
        held_out, train = held_out + files[:share], train + files[share:]
    return classes, train, held_out


@torch.inference_mode()
def accuracy(model: Any, batches: DataLoader, device: torch.device) -> float:
    """Returns the share of videos whose best class is theirs."""
    model.eval()
    right = [vov3d.video.classifier.view_scores(model, x.to(device)).argmax(1).cpu() == y for x, y in batches]
    return torch.cat(right).float().mean().item()


def arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = parser.add_mutually_exclusive_group(required=True)
    data.add_argument("folder", type=Path, nargs="?", help="one sub-folder of videos for each class")
    data.add_argument("--data", help="hf:org/name, a data set of the Hugging Face Hub, or hf:FOLDER, one on disk")
    parser.add_argument("--output", type=Path, required=True, help="folder for the fine-tuned model")
    parser.add_argument("--model", default="vov3d_n", help="model or model.tag to start from (default: vov3d_n)")
    parser.add_argument("--epochs", type=int, default=40, help="passes over the videos (default: 40)")
    parser.add_argument("--batch", type=int, default=16, help="clips in an update (default: 16)")
    parser.add_argument("--lr", type=float, default=5e-3, help="highest learning rate (default: 5e-3)")
    parser.add_argument("--flip", action="store_true", help="mirror half of the clips; not if left and right differ")
    parser.add_argument("--workers", type=int, default=2, help="processes that decode (default: 2)")
    args = parser.parse_args()
    return args if args.epochs > 0 else parser.error(f"--epochs {args.epochs}: expected 1 or more")


def main(args: argparse.Namespace) -> None:
    """Fine-tunes, validates, saves, predicts."""
    vov3d.keep_freed_memory()  # a sixth faster on CPUs
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    classes, train, held_out = open_videos(args.data) if args.data else find_videos(args.folder)
    vov3d.files.make_folder(args.output)  # fails now rather than after the training
    model: Any = vov3d.create_model(args.model, pretrained=True, num_classes=len(classes)).to(device)
    if vov3d.class_names(model) not in (None, classes):  # as many classes, but others, or in another order
        model.reset_classifier(len(classes))
    cfg, streamed = model.pretrained_cfg, isinstance(train, VideoStream)
    few: Any = islice(train.map(lambda *row: row, shuffle=True), 50) if streamed else train[:: len(train) // 50 or 1]
    cfg["clip_seconds"] = vov3d.video.median_duration(video for video, _ in few)  # so that streams know the rate
    drawn, middle = Clips(train, cfg, train=True, flip=args.flip), Clips(held_out, cfg, train=False)
    data: Any = (train.map(drawn.load, shuffle=True), held_out.map(middle.load)) if streamed else (drawn, middle)
    batches = DataLoader(data[0], args.batch, shuffle=not streamed, num_workers=args.workers)
    measured = DataLoader(data[1], args.batch, num_workers=args.workers)
    cutmix = v2.RandomApply([v2.CutMix(num_classes=len(classes))])  # half of the batches
    by_adamw = ["*.conv_s.weight", "*.conv_t.weight", "head.fc.weight"]  # no matrix to orthogonalise
    optimizer = create_optimizer_v2(model, "muon", args.lr, 0.05, 0.95, nesterov=True, fallback_list=by_adamw)
    seen, total, updates = 0, args.epochs * len(train), math.ceil(len(train) / args.batch)
    warmup = min(updates, args.epochs * updates // 2) + 1  # linear, then half a cosine
    schedule = LambdaLR(optimizer, lambda i: min((i + 1) / warmup, (1 + math.cos(math.pi * seen / total)) / 2))
    for epoch in range(1, args.epochs + 1):
        model.train()
        for clips, labels in (bar := tqdm(batches, f"epoch {epoch} of {args.epochs}", updates, leave=False)):
            mixed, shares = cutmix(clips.to(device).flatten(1, 2), labels.to(device))  # one box in all frames
            loss = torch.nn.functional.cross_entropy(model(mixed.view_as(clips)), shares, label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seen += len(labels)  # not batches: of a stream, each worker makes its own, which may be more in all
            schedule.step()
            bar.set_postfix(loss=f"{loss.item():.3f}")
        print(f"epoch {epoch}: {accuracy(model, measured, device):.1%} of {len(held_out)} held-out videos are right")
    vov3d.save_pretrained(model.cpu(), args.output, label_names=classes)
    listed: Any = () if args.data else (("held out", held_out), ("train", train))  # no list of an earlier run stays
    with (args.output / "videos.csv").open("w", encoding="utf-8", errors="surrogateescape", newline="") as out:
        print("part,class,bytes,folder,file", file=out)  # so that reference.evaluate measures on what was held out
        for part, files in listed:
            csv.writer(out).writerows((part, classes[i], f.stat().st_size, f.parent.name, f.name) for f, i in files)
    video, label = next(iter(held_out))
    best = vov3d.VideoClassifier(vov3d.from_pretrained(args.output))(video, topk=1)[0]
    print(f"the first held-out video shows {classes[label]!r}; the model says {best.label!r}, {best.score:.0%}")
    print(f"vov3d predict FILE --model {args.output}")


if __name__ == "__main__":
    try:
        main(arguments())
    except (OSError, ValueError, KeyboardInterrupt, vov3d.video.VideoError, vov3d.WeightsError) as error:
        raise SystemExit((str(error).strip() or "stopped").splitlines()[-1]) from None  # workers add their traceback
