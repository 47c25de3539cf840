"""Frame mAP: of each action, the average precision of its boxes over all key frames (https://arxiv.org/abs/1705.08421).

Boxes of an action are matched from the highest score on. A box is right if the true box of that action that it overlaps
most, by an intersection over union of at least one half, is not matched yet. As in the published evaluation, boxes in
frames without ground truth are wrong, unless the frame is excluded.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable

import numpy as np

from reference.detection.ava import Annotation, Detection

Array = np.ndarray


def overlaps(boxes: Array, others: Array) -> Array:
    """Returns the intersection over union of boxes `(N, 4)` and `(M, 4)`: `(N, M)`."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = np.prod((high - low).clip(0), -1)
    first, second = (np.prod(b[:, 2:] - b[:, :2], -1) for b in (boxes, others))
    return shared / (first[:, None] + second[None] - shared)


def precision_recall(
    truth: Iterable[Annotation],
    found: Iterable[Detection],
    action: int,
    threshold: float = 0.5,
    excluded: Collection[tuple[str, float]] = (),
) -> tuple[Array, Array] | None:
    """Returns precision and recall of an action after each detected box, from the highest score on.

    Args:
        truth: Ground truth.
        found: Detections; those in frames without ground truth are wrong.
        action: Number of the action.
        threshold: Lowest intersection over union of a right box.
        excluded: Key frames that do not count, by video and timestamp.

    Returns:
        The two, each `(boxes,)`, or None if the action has no true box.
    """
    excluded, boxes = set(excluded), defaultdict(list)
    for row in truth:
        if row.action == action and (row.video, row.timestamp) not in excluded:
            boxes[row.video, row.timestamp].append(row.box)
    if not boxes:
        return None
    arrays = {key: np.array(value) for key, value in boxes.items()}
    taken = {key: np.zeros(len(value), bool) for key, value in boxes.items()}
    ranked = [guess for guess in found if guess.action == action and (guess.video, guess.timestamp) not in excluded]
    ranked.sort(key=lambda guess: -guess.score)
    right = np.zeros(len(ranked), bool)
    for i, guess in enumerate(ranked):
        key = (guess.video, guess.timestamp)
        if key not in arrays:
            continue
        shares = overlaps(np.array([guess.box]), arrays[key])[0]
        best = int(shares.argmax())
        if shares[best] >= threshold and not taken[key][best]:
            taken[key][best] = right[i] = True
    hits = np.cumsum(right)
    return hits / np.arange(1, len(ranked) + 1), hits / sum(map(len, arrays.values()))


def average_precision(precision: Array, recall: Array) -> float:
    """Returns the area under the curve; precision is the best at that recall or any higher one."""
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0) * best))


def frame_ap(
    truth: Iterable[Annotation],
    found: Iterable[Detection],
    actions: Iterable[int],
    threshold: float = 0.5,
    excluded: Collection[tuple[str, float]] = (),
) -> dict[int, float | None]:
    """Returns the average precision of each action, None for actions without a true box; the others make the mAP."""
    truth, found = list(truth), list(found)
    curves = {action: precision_recall(truth, found, action, threshold, excluded) for action in actions}
    return {action: None if curve is None else average_precision(*curve) for action, curve in curves.items()}


def mean_ap(values: dict[int, float | None]) -> float:
    """Returns the mean over the actions that have a value.

    Raises:
        ValueError: If none has.
    """
    known = [value for value in values.values() if value is not None]
    if not known:
        raise ValueError("no action is done in any key frame: there is nothing to measure")
    return float(np.mean(known))
