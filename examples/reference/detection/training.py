"""Trains a detector, resumes it after a kill, and runs it on key frames."""

import hashlib
import math
import random
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from timm.optim import create_optimizer_v2
from torch import nn
from torch.utils.data import DataLoader, Dataset

from reference.detection.ava import Detection
from reference.detection.data import Moment, Moments, batch_of, targets_of
from reference.detection.model import Detector
from reference.training.checkpoints import load_checkpoint, not_finite, save_atomically
from reference.training.stopping import ignore_signals
from reference.training.workers import Places, naming
from vov3d.files import replacing
from vov3d.video import VideoError

CHECKPOINT, FORMER, LOG = "checkpoint.pt", "checkpoint-before.pt", "epochs.csv"
_TRIES = 10  # draws in place of a key frame that cannot be read
# Depthwise kernels and the classifier are no matrices to orthogonalise.
_BY_ADAMW = ["*.conv_s*", "*.conv_t.*", "fc.*"]


@dataclass(frozen=True)
class Plan:
    """Settings of the training of a detector.

    Attributes:
        epochs: Passes over the key frames.
        batch: Key frames of an update.
        lr: Learning rate of Muon; 5% of warm-up, then half a cosine.
        jitter: Standard deviation of the shift of box edges, as a share of the box.
        workers: Processes that read videos.
        seed: Of the order and the jitter.
        max_broken: Share of the videos that may be broken.
    """

    epochs: int
    batch: int
    lr: float
    jitter: float = 0.05
    workers: int = 0
    seed: int = 0
    max_broken: float = 0.2


class _Sample(NamedTuple):
    """A key frame with its clip, None if it cannot be read, and the reasons of unreadable videos, by video."""

    clip: torch.Tensor | None
    moment: Moment
    broken: dict[str, str]


class _Clips(Dataset):
    """Clips of key frames; one that cannot be read is replaced by another draw where there are others to draw from."""

    def __init__(self, data: Moments, detector: Detector, others: Sequence[int], places: Places) -> None:
        self.data, self.settings, self.others, self.places = data, detector.settings, others, places

    def __len__(self) -> int:
        return len(self.data.moments)

    def __getitem__(self, index: int) -> _Sample:
        broken: dict[str, str] = {}
        rng = random.Random(index)
        for _ in range(_TRIES if self.others else 1):
            self.places.note(index)
            moment = self.data.moments[index]
            try:
                return _Sample(self.data.clip(index, self.settings), moment, broken)
            except (VideoError, OSError, ValueError) as error:
                broken[moment.video] = " ".join(str(error).split())
            index = rng.choice(self.others) if self.others else index
        if self.others:
            raise VideoError(f"{_TRIES} key frames in a row cannot be read, among them {'; '.join(broken.values())}")
        return _Sample(None, moment, broken)


def _load(
    data: Moments, detector: Detector, batches: Sequence[Sequence[int]], workers: int, others: Sequence[int] = ()
) -> Iterator[list[_Sample]]:
    """Yields batches of key frames; others replace those that cannot be read."""
    places = Places(workers)
    loader = DataLoader(
        _Clips(data, detector, others, places),
        batch_sampler=batches,  # type: ignore[arg-type]
        collate_fn=list,
        num_workers=workers,
        worker_init_fn=ignore_signals,
    )
    with naming(places, lambda index: data.moments[index].video):
        yield from loader


def train(detector: Detector, data: Moments, plan: Plan, output: Path, device: torch.device) -> dict[str, float]:
    """Trains to the end of the plan.

    Args:
        detector: Trained in place; ends in eval mode.
        data: Key frames; those without boxes are left out.
        plan: Settings of the training.
        output: Folder of `epochs.csv` and `checkpoint.pt`, from which a run is resumed.
        device: Device of the computation.

    Returns:
        Time spent, before a kill included: `seconds` by the clock and `core_seconds` of processors' time.

    Raises:
        ValueError: If the checkpoint is of another plan or another detector, or too many videos are broken.
        FloatingPointError: If the loss, the gradient or the detector is not finite; the checkpoint stays.
    """
    detector.to(device).train()
    optimizer = create_optimizer_v2(
        detector, "muon", lr=plan.lr, weight_decay=0.02, momentum=0.95, nesterov=True, fallback_list=_BY_ADAMW
    )
    settled = {key: value for key, value in asdict(plan).items() if key not in ("workers", "max_broken")}
    what = {"plan": settled, "settings": asdict(detector.settings), "moments": _digest(data.moments)}
    start, spent = _restored(output, what, detector, optimizer)
    useful = np.array([i for i, moment in enumerate(data.moments) if len(moment.boxes)])
    per_epoch = math.ceil(len(useful) / plan.batch)
    broken: dict[str, str] = {}
    for epoch in range(start, plan.epochs):
        began, total = (time.perf_counter(), time.process_time()), 0.0
        rng = np.random.default_rng((plan.seed, epoch))
        order = rng.permutation(useful).tolist()
        batches = [order[i : i + plan.batch] for i in range(0, len(order), plan.batch)]
        for i, samples in enumerate(_load(data, detector, batches, plan.workers, useful.tolist())):
            _set_rate(optimizer, plan.lr, (epoch * per_epoch + i) / (plan.epochs * per_epoch))
            clips, moments, found = zip(*samples, strict=True)
            broken |= {video: reason for part in found for video, reason in part.items()}
            _check_broken(broken, data, plan.max_broken)
            batch = batch_of(clips, [_jittered(moment.boxes, plan.jitter, rng) for moment in moments])
            logits = detector(batch.clips.to(device), [boxes.to(device) for boxes in batch.boxes])
            loss = F.binary_cross_entropy_with_logits(logits, targets_of(moments, detector.settings.ids).to(device))
            if not loss.isfinite():
                raise FloatingPointError(f"the loss is {loss.item()} in epoch {epoch + 1}: try a lower --lr")
            optimizer.zero_grad()
            loss.backward()
            norm = nn.utils.clip_grad_norm_(detector.parameters(), math.inf)
            if not norm.isfinite():
                raise FloatingPointError(f"the gradient is {norm.item()} in epoch {epoch + 1}: try a lower --lr")
            optimizer.step()
            total += loss.item() / per_epoch
        spent["seconds"] += time.perf_counter() - began[0]
        spent["core_seconds"] += time.process_time() - began[1]
        print(f"epoch {epoch + 1} of {plan.epochs}: loss {total:.4f}, {spent['seconds']:.0f} s so far", flush=True)
        if name := not_finite(detector):
            raise FloatingPointError(f"{name} is not finite after epoch {epoch + 1}: try a lower --lr")
        _log(output / LOG, epoch + 1, total, spent["seconds"])
        state = {"model": detector.state_dict(), "optimizer": optimizer.state_dict()}
        content = {**what, **state, "epoch": epoch + 1, "spent": spent}
        save_atomically(content, output / CHECKPOINT, output / FORMER)
    if broken:
        print(f"{len(broken)} videos are broken, others replaced them:", *(f"  {r}" for r in broken.values()), sep="\n")
    detector.eval()
    return spent


def _check_broken(broken: dict[str, str], data: Moments, share: float) -> None:
    """Raises ValueError if too many videos are broken."""
    number = len({moment.video for moment in data.moments})
    if len(broken) > share * number:
        raise ValueError(
            f"{len(broken)} of {number} videos are broken, more than --max-broken {share:g} allows: "
            f"{'; '.join(list(broken.values())[:5])}"
        )


def _restored(folder: Path, what: dict[str, Any], detector: Detector, optimizer: Any) -> tuple[int, dict[str, float]]:
    """Restores a checkpoint; returns the finished epochs and the time spent."""
    files = [folder / name for name in (CHECKPOINT, FORMER) if (folder / name).exists()]
    if not files:
        return 0, {"seconds": 0.0, "core_seconds": 0.0}
    path, needed = files[0], (*what, "model", "optimizer", "epoch", "spent")
    try:
        saved = load_checkpoint(path, needed)
    except OSError as error:
        if len(files) == 1:
            raise
        print(f"{error}: using the checkpoint before it")
        path = files[1]
        saved = load_checkpoint(path, needed)
    differing = [
        f"{key}={saved[part].get(key)!r:.60} (now {value!r:.60})"
        for part in ("plan", "settings")
        for key, value in what[part].items()
        if saved[part].get(key) != value
    ]
    differing += [] if saved["moments"] == what["moments"] else ["other key frames, boxes or actions"]
    if differing:
        raise ValueError(f"{path} is of a run with {', '.join(differing)}; give its options, or another --output")
    detector.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    print(f"resuming after epoch {saved['epoch']} ({path})")
    return saved["epoch"], saved["spent"]


def _digest(moments: Iterable[Moment]) -> str:
    """Returns a digest of what is trained on, wherever the videos are."""
    digest = hashlib.sha256()
    for moment in moments:
        actions = [sorted(numbers) for numbers in moment.actions]
        digest.update(repr((moment.video, moment.timestamp, moment.boxes.tolist(), actions)).encode())
    return digest.hexdigest()


def _set_rate(optimizer: Any, rate: float, done: float) -> None:
    factor = min(1, done / 0.05 + 0.02) * (1 + math.cos(math.pi * done)) / 2
    for group in optimizer.param_groups:
        group["lr"] = rate * factor


def _jittered(boxes: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Moves the edges of boxes a little, as a detector's boxes are never exact."""
    sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    return (boxes + sides * rng.normal(0, share, boxes.shape).clip(-0.3, 0.3)).clip(0, 1)


def _log(path: Path, epoch: int, loss: float, seconds: float) -> None:
    """Adds an epoch, in place of lines that a run left which was stopped before its checkpoint."""
    lines = path.read_text().splitlines()[:epoch] if epoch > 1 and path.exists() else ["epoch,loss,seconds"]
    with replacing(path) as draft:
        draft.write_text("\n".join([*lines, f"{epoch},{loss},{round(seconds, 1)}"]) + "\n")


@torch.inference_mode()
def score_boxes(
    detector: Detector, data: Moments, device: torch.device, batch: int = 16, workers: int = 0
) -> list[Detection]:
    """Returns scores of every action for every box of every moment, in their order.

    Args:
        detector: In eval mode.
        data: Moments with boxes, given or proposed.
        device: Device of the computation.
        batch: Clips at once.
        workers: Processes that read videos.
    """
    detector.to(device)
    found: list[Detection] = []
    order = [i for i, moment in enumerate(data.moments) if len(moment.boxes)]
    batches = [order[i : i + batch] for i in range(0, len(order), batch)]
    broken: dict[str, str] = {}
    for samples in _load(data, detector, batches, workers):
        broken |= {video: reason for sample in samples for video, reason in sample.broken.items()}
        read = [(sample.clip, sample.moment) for sample in samples if sample.clip is not None]
        if not read:
            continue
        clips, moments = zip(*read, strict=True)
        scores = _scores(detector, clips, [moment.boxes for moment in moments], device)
        found += _rows(moments, scores, detector.settings.ids)
    if broken and not found:
        raise ValueError(f"no key frame can be read: {'; '.join(list(broken.values())[:5])}")
    for reason in broken.values():
        warnings.warn(f"nothing is found in what is broken: {reason}", RuntimeWarning, stacklevel=2)
    return found


def _scores(
    detector: Detector, clips: Sequence[torch.Tensor], boxes: Sequence[np.ndarray], device: torch.device
) -> np.ndarray:
    """Returns the scores of the boxes of all clips, `(boxes, actions)`.

    Clips of one size run together: padding would change what the network averages over a clip, and so its scores.
    """
    by_size: dict[torch.Size, list[int]] = {}
    for number, clip in enumerate(clips):
        by_size.setdefault(clip.shape, []).append(number)
    scores: dict[int, torch.Tensor] = {}
    for numbers in by_size.values():
        batch = batch_of([clips[number] for number in numbers], [boxes[number] for number in numbers])
        found = detector(batch.clips.to(device), [own.to(device) for own in batch.boxes]).sigmoid().cpu()
        scores |= zip(numbers, found.split([len(own) for own in batch.boxes]), strict=True)
    return torch.cat([scores[number] for number in range(len(clips))]).numpy()


def _rows(moments: Iterable[Moment], scores: np.ndarray, ids: Sequence[int]) -> list[Detection]:
    places = [(moment.video, moment.timestamp, tuple(box)) for moment in moments for box in moment.boxes.tolist()]
    return [
        Detection(*place, action, float(score))
        for place, row in zip(places, scores, strict=True)
        for action, score in zip(ids, row, strict=True)
    ]
