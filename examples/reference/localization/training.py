"""Trains a head on segments that are known."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from reference.localization.features import Features, Video, rows
from reference.localization.metrics import Truth
from reference.localization.model import Head, Settings, inputs

_LONGEST = 2048  # moments of a video that are looked at in an update


@dataclass(frozen=True)
class Plan:
    """Settings of the training of a head.

    Attributes:
        epochs: Passes over the videos.
        batch: Videos of an update.
        lr: Learning rate of AdamW; 5% of warm-up, then half a cosine.
        seed: Of the weights and the order.
    """

    epochs: int = 60
    batch: int = 4
    lr: float = 2e-3
    seed: int = 0


def train(
    features: Features,
    videos: Mapping[str, Video],
    segments: Sequence[Truth],
    labels: Sequence[str],
    plan: Plan,
    device: torch.device | None = None,
) -> Head:
    """Trains a head.

    Args:
        features: How the features were made.
        videos: Those of the training, by name.
        segments: What happens in them.
        labels: Names of the classes.
        plan: How.
        device: Where.

    Raises:
        FloatingPointError: If the loss is not finite.
    """
    torch.manual_seed(plan.seed)
    targets = {
        name: targets_of(video, [s for s in segments if s.video == name], labels) for name, video in videos.items()
    }
    far = np.concatenate([spans[inside] for _, spans, inside in targets.values()])
    about = dict(features.about)
    vectors = rows(list(videos.values()))
    usual = float(far.mean()) if len(far) else features.step
    head = Head(
        Settings(tuple(labels), vectors.shape[1], features.step, float(about["window"]), max(usual, 1e-3), about)
    )
    head.mean.copy_(torch.from_numpy(vectors.mean(0)))
    head.std.copy_(torch.from_numpy(vectors.std(0)).clamp(min=0.1 * float(vectors.std())))
    head.to(device).train()
    optimizer = torch.optim.AdamW(head.parameters(), plan.lr, weight_decay=0.02)
    steps = plan.epochs * math.ceil(len(videos) / plan.batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda at: min(1.0, (at + 1) / (0.05 * steps)) * (1 + math.cos(math.pi * at / steps)) / 2
    )
    rng, names = np.random.default_rng(plan.seed), list(videos)
    for epoch in range(plan.epochs):
        order, total = rng.permutation(len(names)).tolist(), 0.0
        for at in range(0, len(order), plan.batch):
            parts = [_part(videos[names[i]], targets[names[i]], rng) for i in order[at : at + plan.batch]]
            loss = loss_of(head, parts)
            if not loss.isfinite():
                raise FloatingPointError(f"the loss is {loss.item()} in epoch {epoch + 1}: try a lower --lr")
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += loss.item() * len(parts) / len(order)
        if (epoch + 1) % max(plan.epochs // 6, 1) == 0:
            print(f"epoch {epoch + 1} of {plan.epochs}: loss {total:.4f}", flush=True)
    return head.eval()


Targets = tuple[np.ndarray, np.ndarray, np.ndarray]
"""At each moment: classes `(N, classes)`, seconds to beginning and end `(N, 2)`, whether anything happens `(N,)`."""


def targets_of(video: Video, segments: Sequence[Truth], labels: Sequence[str]) -> Targets:
    """Returns what is true at each moment of a video; of several segments, distances are those of the shortest.

    A segment that holds no moment is given to the nearest one of its shot, and of one that lies across a cut each shot
    has its part.
    """
    classes = np.zeros((len(video.times), len(labels)), np.float32)
    far, least = np.zeros((len(video.times), 2), np.float32), np.full(len(video.times), np.inf)
    for one in segments:
        starts, ends = np.maximum(one.start, video.shots[:, 0]), np.minimum(one.end, video.shots[:, 1])
        holds = (starts <= video.times) & (video.times <= ends)
        if not holds.any():
            distance = np.where(starts < ends, np.abs(video.times - (one.start + one.end) / 2), np.inf)
            holds[distance.argmin()] = np.isfinite(distance.min())
        classes[holds, labels.index(one.label)] = 1
        shortest = holds & (ends - starts < least)
        spans = np.stack([video.times - starts, ends - video.times], 1)
        far[shortest], least[shortest] = spans[shortest], (ends - starts)[shortest]
    return classes, far, np.isfinite(least)


def _part(video: Video, targets: Targets, rng: np.random.Generator) -> tuple[Video, Targets]:
    """A stretch of a long video."""
    count = len(video.times)
    if count <= _LONGEST:
        return video, targets
    at = int(rng.integers(0, count - _LONGEST + 1))
    some = slice(at, at + _LONGEST)
    classes, far, inside = (values[some] for values in targets)
    return Video(video.path, video.times[some], video.shots[some], video.vectors[some]), (classes, far, inside)


def loss_of(head: Head, parts: Sequence[tuple[Video, Targets]]) -> torch.Tensor:
    """Returns the loss of some videos.

    The score that a class is to have where it is true is the overlap of the segment that is given there with the true
    one, so that sure segments are exact ones (generalised focal loss, https://arxiv.org/abs/2006.04388).
    """
    device = head.mean.device
    features, edges, there = inputs([video for video, _ in parts], device)
    logits, far = head(features, edges, there)
    logits, far = logits[there], far[there]
    classes, true_far, inside = (
        torch.from_numpy(np.concatenate([targets[i] for _, targets in parts])).to(device) for i in range(3)
    )
    shares = _overlap(far, true_far)
    aim = classes * (shares.detach() * inside)[:, None]
    focal = F.binary_cross_entropy_with_logits(logits, aim, reduction="none") * (aim - logits.sigmoid()).abs() ** 2
    number = max(float(inside.sum()), 1.0)
    return focal.sum() / number + ((1 - shares) * inside).sum() / number


def _overlap(far: torch.Tensor, true_far: torch.Tensor) -> torch.Tensor:
    """Returns the intersection over union of segments around one moment; the true ones may lie beside it."""
    low, high = torch.maximum(-far, -true_far), torch.minimum(far, true_far)
    shared = (high[:, 1] - low[:, 0]).clamp(min=0)
    return shared / (far.sum(1) + true_far.sum(1) - shared).clamp(min=1e-6)
