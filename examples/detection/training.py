"""Trains a detector, gone on with after a kill, and lets it look at key frames."""

import csv
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from timm.optim import create_optimizer_v2
from torch.utils.data import DataLoader, Dataset
from training.checkpoints import load_checkpoint, save_atomically

from detection.ava import Detection
from detection.data import Moment, Moments, batch_of, targets_of
from detection.model import Detector

CHECKPOINT, LOG = "checkpoint.pt", "epochs.csv"
# Depthwise kernels and the classifier are no matrices to orthogonalise.
_BY_ADAMW = ["*.conv_s*", "*.conv_t.*", "fc.*"]


@dataclass(frozen=True)
class Plan:
    """How a detector is trained.

    Attributes:
        epochs: Passes over the key frames.
        batch: Key frames of an update.
        lr: Learning rate of Muon; 5% of warm-up, then half a cosine.
        jitter: Standard deviation of the shift of box edges, as a share of the box.
        workers: Processes that read videos.
        seed: Of the order and the jitter.
    """

    epochs: int
    batch: int
    lr: float
    jitter: float = 0.05
    workers: int = 0
    seed: int = 0


class _Clips(Dataset):
    def __init__(self, data: Moments, detector: Detector) -> None:
        self.data, self.settings = data, detector.settings

    def __len__(self) -> int:
        return len(self.data.moments)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, Moment]:
        return self.data.clip(index, self.settings), self.data.moments[index]


def _loader(data: Moments, detector: Detector, batches: Sequence[Sequence[int]], workers: int) -> DataLoader:
    return DataLoader(_Clips(data, detector), batch_sampler=batches, collate_fn=list, num_workers=workers)  # type: ignore[arg-type]


def train(detector: Detector, data: Moments, plan: Plan, output: Path, device: torch.device) -> dict[str, float]:
    """Trains to the end of the plan.

    Args:
        detector: Trained in place; ends in eval mode.
        data: Key frames; those without boxes are left out.
        plan: How.
        output: Folder of `checkpoint.pt`, from which it goes on where there is one, and `epochs.csv`.
        device: Where.

    Returns:
        What it took, before a kill included: `seconds` by the clock and `core_seconds` of processors' time.

    Raises:
        ValueError: If the checkpoint is of another plan or another detector.
        FloatingPointError: If the loss is not finite.
    """
    detector.to(device).train()
    optimizer = create_optimizer_v2(
        detector, "muon", lr=plan.lr, weight_decay=0.02, momentum=0.95, nesterov=True, fallback_list=_BY_ADAMW
    )
    what = {"plan": asdict(plan), "settings": asdict(detector.settings), "moments": len(data.moments)}
    start, spent = _restored(output / CHECKPOINT, what, detector, optimizer)
    useful = np.array([i for i, moment in enumerate(data.moments) if len(moment.boxes)])
    per_epoch = math.ceil(len(useful) / plan.batch)
    for epoch in range(start, plan.epochs):
        began, total = (time.perf_counter(), time.process_time()), 0.0
        rng = np.random.default_rng((plan.seed, epoch))
        order = rng.permutation(useful).tolist()
        batches = [order[i : i + plan.batch] for i in range(0, len(order), plan.batch)]
        for i, samples in enumerate(_loader(data, detector, batches, plan.workers)):
            _set_rate(optimizer, plan.lr, (epoch * per_epoch + i) / (plan.epochs * per_epoch))
            clips, moments = zip(*samples, strict=True)
            batch = batch_of(clips, [_jittered(moment.boxes, plan.jitter, rng) for moment in moments])
            logits = detector(batch.clips.to(device), [boxes.to(device) for boxes in batch.boxes])
            loss = F.binary_cross_entropy_with_logits(logits, targets_of(moments, detector.settings.ids).to(device))
            if not loss.isfinite():
                raise FloatingPointError(f"the loss is {loss.item()} in epoch {epoch + 1}: try a lower --lr")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() / per_epoch
        spent["seconds"] += time.perf_counter() - began[0]
        spent["core_seconds"] += time.process_time() - began[1]
        print(f"epoch {epoch + 1} of {plan.epochs}: loss {total:.4f}, {spent['seconds']:.0f} s so far", flush=True)
        _log(output / LOG, epoch + 1, total, spent["seconds"])
        state = {"model": detector.state_dict(), "optimizer": optimizer.state_dict()}
        save_atomically({**what, **state, "epoch": epoch + 1, "spent": spent}, output / CHECKPOINT)
    detector.eval()
    return spent


def _restored(path: Path, what: dict[str, Any], detector: Detector, optimizer: Any) -> tuple[int, dict[str, float]]:
    """Epochs that are done and what they took."""
    if not path.exists():
        return 0, {"seconds": 0.0, "core_seconds": 0.0}
    saved = load_checkpoint(path)
    differing = [key for key, value in what.items() if saved[key] != value]
    if differing:
        raise ValueError(f"{path} is of a run with other {', '.join(differing)}; give its options, or another --output")
    detector.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    print(f"going on behind epoch {saved['epoch']} ({path})")
    return saved["epoch"], saved["spent"]


def _set_rate(optimizer: Any, rate: float, done: float) -> None:
    factor = min(1, done / 0.05 + 0.02) * (1 + math.cos(math.pi * done)) / 2
    for group in optimizer.param_groups:
        group["lr"] = rate * factor


def _jittered(boxes: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Boxes whose edges are moved a little, as those of a detector are."""
    sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    return (boxes + sides * rng.normal(0, share, boxes.shape).clip(-0.3, 0.3)).clip(0, 1)


def _log(path: Path, epoch: int, loss: float, seconds: float) -> None:
    new = epoch == 1 or not path.exists()
    with path.open("w" if new else "a", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("epoch", "loss", "seconds")] if new else [])
        writer.writerow((epoch, loss, round(seconds, 1)))


@torch.inference_mode()
def look(detector: Detector, data: Moments, device: torch.device, batch: int = 16, workers: int = 0) -> list[Detection]:
    """Scores of every action for every box of every moment, in their order.

    Args:
        detector: In eval mode.
        data: Moments with boxes, given or proposed.
        device: Where.
        batch: Clips at once.
        workers: Processes that read videos.
    """
    detector.to(device)
    found: list[Detection] = []
    order = [i for i, moment in enumerate(data.moments) if len(moment.boxes)]
    batches = [order[i : i + batch] for i in range(0, len(order), batch)]
    for samples in _loader(data, detector, batches, workers):
        clips, moments = zip(*samples, strict=True)
        pixels = batch_of(clips, [moment.boxes for moment in moments])
        scores = detector(pixels.clips.to(device), [boxes.to(device) for boxes in pixels.boxes]).sigmoid()
        found += _rows(moments, scores.cpu().numpy(), detector.settings.ids)
    return found


def _rows(moments: Iterable[Moment], scores: np.ndarray, ids: Sequence[int]) -> list[Detection]:
    places = [(moment.video, moment.timestamp, tuple(box)) for moment in moments for box in moment.boxes.tolist()]
    return [
        Detection(*place, action, float(score))
        for place, row in zip(places, scores, strict=True)
        for action, score in zip(ids, row, strict=True)
    ]
