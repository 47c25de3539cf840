"""The head: convolutions over the features of a video, which say at each moment what happens and since and until when.

At every moment the head gives a score for each class and two distances, to the beginning and to the end of what happens
there; that is a segment a moment and class. Segments that overlap better ones of their class count less (Soft-NMS,
https://arxiv.org/abs/1704.04503). The plan is that of detectors without anchors, as ActionFormer's
(https://arxiv.org/abs/2202.07925), in its simplest form: one scale and no attention.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import nn

from reference.localization.features import Video
from reference.localization.metrics import Found, overlaps
from reference.saved import CONFIG, WEIGHTS, save_network

_LEAST = 0.01  # score of a segment
_MOST = 200  # segments of a video
_FURTHEST = 10.0  # times the usual distance


@dataclass(frozen=True)
class Settings:
    """Settings that a head is built from.

    Attributes:
        labels: Names of the classes.
        dimension: Of a feature.
        step: Seconds between two features.
        window: Seconds that a feature is of.
        usual: Seconds from a moment to the beginning or the end of what happens there, on average.
        about: How the features were made.
        width: Channels.
        depth: Convolutions; each looks twice as far as the one before it.
    """

    labels: tuple[str, ...]
    dimension: int
    step: float
    window: float
    usual: float
    about: dict[str, str]
    width: int = 128
    depth: int = 4


class Head(nn.Module):
    """Scores and distances at each moment.

    Args:
        settings: What it is made of.

    Shape:
        Features `(B, N, D)`, seconds since the shot began and until it ends `(B, N, 2)`, and which of them are there
        `(B, N)`, to logits `(B, N, classes)` and seconds to the beginning and the end `(B, N, 2)`.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        width = settings.width
        self.register_buffer("mean", torch.zeros(settings.dimension))
        self.register_buffer("std", torch.ones(settings.dimension))
        self.drop = nn.Dropout(0.1)
        self.take = nn.Conv1d(settings.dimension + 2, width, 1)
        self.convs = nn.ModuleList(
            nn.Conv1d(width, width, 3, padding=2**i, dilation=2**i) for i in range(settings.depth)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(settings.depth))
        self.classes = nn.Conv1d(width, len(settings.labels), 1)
        self.distances = nn.Conv1d(width, 2, 1)
        nn.init.constant_(self.classes.bias, -4.0)  # type: ignore[arg-type]  # hardly any class holds at a moment
        nn.init.zeros_(self.distances.weight)
        nn.init.zeros_(self.distances.bias)  # type: ignore[arg-type]

    def forward(
        self, features: torch.Tensor, edges: torch.Tensor, there: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Looks at whole videos, filled up at their ends."""
        x = self.drop((features - self.mean) / self.std)
        x = torch.cat([x, (-edges / self.settings.window).exp()], 2).mT
        mask = there[:, None].to(x.dtype)
        x = self.take(x).relu() * mask
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = (x + norm(conv(x).mT).mT.relu()) * mask
        far = self.distances(x).mT.clamp(max=float(np.log(_FURTHEST))).exp()
        return self.classes(x).mT, far * self.settings.usual

    def save(self, folder: Path) -> None:
        """Writes weights and settings."""
        save_network(self, self.settings, folder)


def load_head(folder: Path) -> Head:
    """Loads a saved head, in eval mode.

    Raises:
        FileNotFoundError: If the folder holds none.
        ValueError: If its files do not fit.
    """
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"{folder}: no head there; python -m reference.localize train --output {folder}")
    saved = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    try:
        head = Head(Settings(**{**saved, "labels": tuple(saved["labels"])}))
        head.load_state_dict(safetensors.torch.load_file(folder / WEIGHTS))
    except (KeyError, OSError, RuntimeError, TypeError, safetensors.SafetensorError) as error:
        raise ValueError(f"{folder}: its files are of no head, or do not fit each other ({error})") from error
    return head.eval()


# --- from a video to segments ----------------------------------------------------------------------------------------


def inputs(videos: Sequence[Video], device: torch.device | None = None) -> tuple[torch.Tensor, ...]:
    """Returns what a head takes of videos, filled up to the longest."""
    longest = max(len(video.times) for video in videos)
    features = torch.zeros(len(videos), longest, videos[0].vectors.shape[1])
    edges, there = torch.zeros(len(videos), longest, 2), torch.zeros(len(videos), longest, dtype=torch.bool)
    for number, video in enumerate(videos):
        count = len(video.times)
        features[number, :count] = torch.from_numpy(np.ascontiguousarray(video.vectors))
        edges[number, :count] = torch.from_numpy(np.abs(video.shots - video.times[:, None])).float()
        there[number, :count] = True
    return features.to(device), edges.to(device), there.to(device)


@torch.inference_mode()
def find(head: Head, video: Video, name: str) -> list[Found]:
    """Finds the segments of a video, each within one shot, the surest first.

    Args:
        head: In eval mode.
        video: Its features.
        name: What it is called.
    """
    logits, distances = head(*inputs([video], head.mean.device))
    scores, far = logits[0].sigmoid().double().cpu().numpy(), distances[0].double().cpu().numpy()
    spans = video.times[:, None] + far * (-1, 1)
    spans = spans.clip(video.shots[:, :1], video.shots[:, 1:])
    found: list[Found] = []
    for index, label in enumerate(head.settings.labels):
        sure = scores[:, index] >= _LEAST
        for (start, end), score in thinned(spans[sure], scores[sure, index]):
            found.append(Found(name, round(float(start), 3), round(float(end), 3), label, float(score)))
    found = [segment for segment in found if segment.start < segment.end]
    return sorted(found, key=lambda segment: -segment.score)[:_MOST]


def thinned(spans: np.ndarray, scores: np.ndarray, sigma: float = 0.3) -> list[tuple[np.ndarray, float]]:
    """Thins out segments by Soft-NMS: takes the best, lowers the scores of others by their overlap, and repeats.

    Args:
        spans: `(N, 2)` of one class.
        scores: `(N,)`.
        sigma: The smaller, the more an overlap costs.

    Returns:
        Segments with their scores, the best first.
    """
    spans, scores = spans.copy(), scores.copy()
    kept: list[tuple[np.ndarray, float]] = []
    while len(scores) and len(kept) < _MOST:
        best = int(scores.argmax())
        if scores[best] < _LEAST:
            break
        kept.append((spans[best], float(scores[best])))
        shares = overlaps(spans[best : best + 1], spans)[0]
        scores *= np.exp(-(shares**2) / sigma)
        scores[best] = -1.0
    return kept


def as_results(found: Sequence[Found]) -> dict[str, Any]:
    """Returns segments in the form of ActivityNet's results."""
    results: dict[str, list[dict[str, Any]]] = {}
    for one in found:
        entry = {"label": one.label, "score": one.score, "segment": [one.start, one.end]}
        results.setdefault(one.video, []).append(entry)
    return {"version": "VERSION 1.3", "results": results, "external_data": {}}


def read_results(path: Path) -> list[Found]:
    """Reads segments in the form of ActivityNet's results.

    Raises:
        FileNotFoundError: If there is no file.
        ValueError: If it is not of that form.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file of results")
    try:
        results = json.loads(path.read_text(encoding="utf-8-sig"))["results"]
        found = list[Found]()
        for video, entries in results.items():
            for one in entries:
                start, end, score = *map(float, one["segment"]), float(one["score"])
                if not np.isfinite([start, end, score]).all():
                    raise ValueError(f"{video}: segment {start:g} to {end:g} of score {score:g} is not finite")
                found.append(Found(video, start, end, str(one["label"]), score))
        return found
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f'{path}: expected {{"results": {{video: [{{"label", "score", "segment": [start, end]}}]}}}} ({error})'
        ) from None
