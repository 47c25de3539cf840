"""Renders where the moving shapes of a generated clip are, to check what a network looks at; numpy only."""

from copy import deepcopy
from dataclasses import replace

import numpy as np

from vov3d.synthetic.drawing import Track, check_set, draw_tracks, make_shaking
from vov3d.synthetic.moving_shapes import CLASSES, make_clip, make_tracks

__all__ = ["make_masked_clip", "make_masked_set"]

Array = np.ndarray
Random = np.random.Generator

_TWO_SHAPES = ("each other", "Pushing", "Pulling")  # in the names of classes whose motion two shapes show


def make_masked_clip(label: int, rng: Random, num_frames: int = 16, size: int = 64) -> tuple[Array, Array]:
    """Makes the clip of `make_clip`, and the pixels in which the shapes that show its motion are seen.

    Bystanders, standing shapes that the moving one passes, and the background do not belong to them. Where another
    shape hides a moving one, the other is seen. A shape that appears or disappears counts in all frames.

    Args:
        label: Index of the clip's class in `vov3d.synthetic.moving_shapes.CLASSES`.
        rng: As for `make_clip`; the same state gives the same clip.
        num_frames: Frames.
        size: Rows and columns, in pixels.

    Returns:
        uint8 RGB `(num_frames, size, size, 3)`, and bool masks `(num_frames, size, size)`.

    Raises:
        ValueError: As `make_clip`.
    """
    again = deepcopy(rng)
    clip = make_clip(label, rng, num_frames, size)
    tracks = make_tracks(label, again, num_frames)
    shake = make_shaking(again, num_frames)  # what `draw_clip` draws first
    seen = np.zeros((num_frames, size, size, 3), np.float32)
    shown = zip(tracks, _shown_by(label, tracks), strict=True)
    draw_tracks(seen, [_painted(track, moves) for track, moves in shown], shake)
    return clip, seen[..., 0] > 0.5


def make_masked_set(num_clips: int, seed: int, num_frames: int = 16, size: int = 64) -> tuple[Array, Array, Array]:
    """Makes the fixed set of `make_set` with the masks of its clips.

    Args:
        num_clips: Clips.
        seed: As for `make_set`.
        num_frames: Frames of a clip.
        size: Rows and columns, in pixels.

    Returns:
        uint8 clips `(num_clips, num_frames, size, size, 3)`, int64 labels `(num_clips,)` and bool masks
        `(num_clips, num_frames, size, size)`.

    Raises:
        ValueError: As `make_set`.
    """
    check_set(seed, num_clips=num_clips)
    labels = np.arange(num_clips) % len(CLASSES)
    made = [
        make_masked_clip(int(label), np.random.default_rng((seed, i)), num_frames, size)
        for i, label in enumerate(labels)
    ]
    return np.stack([clip for clip, _ in made]), labels, np.stack([mask for _, mask in made])


def _shown_by(label: int, tracks: list[Track]) -> list[bool]:
    """Returns for each shape of a clip whether it shows the motion; bystanders and standing shapes come first."""
    acting = 2 if any(word in CLASSES[label] for word in _TWO_SHAPES) else 1
    return [i >= len(tracks) - acting for i in range(len(tracks))]


def _painted(track: Track, moves: bool) -> Track:
    """Returns a track in white if it moves, else in black."""
    texture = np.full_like(track.shape.texture, float(moves))
    alpha = np.ones_like(track.alpha) if moves else track.alpha
    return replace(track, shape=replace(track.shape, texture=texture), alpha=alpha)
