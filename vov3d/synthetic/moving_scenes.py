"""Scenes of several moving shapes, each with its own actions, for action detectors; numpy only.

Each shape has a box in every frame. In the key frame, the middle one, place, size, angle and appearance have the same
distribution for all actions, so that this frame shows where the shapes are but not what they do. Shapes, textures,
backgrounds, noise and the shaking camera are those of `vov3d.synthetic.moving_shapes`.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from vov3d.synthetic.drawing import (
    Track,
    check_set,
    draw_track,
    filmed,
    make_background,
    make_progress,
    make_shaking,
    make_still,
)

__all__ = ["ACTIONS", "Scene", "make_scene", "make_scenes"]

ACTIONS = (
    "moving left",
    "moving right",
    "moving up",
    "moving down",
    "growing",
    "shrinking",
    "turning clockwise",
    "turning counter-clockwise",
    "standing still",
)
"""Names of the actions in index order. A shape moves, changes, does both, or stands still."""

Array = np.ndarray
Random = np.random.Generator

_BOTH = 0.25  # share of shapes that move and change
_REACH = 0.7  # range of the centres in the key frame, in halves of the frame's side
_TRIES = 200


class Scene(NamedTuple):
    """A clip and the actions of its shapes.

    Attributes:
        frames: uint8 RGB `(T, S, S, 3)`.
        boxes: float32 `(T, N, 4)`: left, top, right, bottom of each shape in each frame, from 0 to 1, cut at the edges
            of the frame.
        actions: bool `(N, len(ACTIONS))`.
        key: Index of the key frame, `T // 2`.
    """

    frames: Array
    boxes: Array
    actions: Array
    key: int


def make_scene(rng: Random, num_frames: int = 8, size: int = 64) -> Scene:
    """Makes one scene of two or three shapes.

    Args:
        rng: The random generator; the same state gives the same scene.
        num_frames: Frames.
        size: Rows and columns, in pixels.

    Raises:
        ValueError: If there are fewer than 3 frames or 16 pixels.
    """
    if num_frames < 3 or size < 16:
        raise ValueError(f"a scene needs 3 frames of 16 pixels or more, not {num_frames} of {size}")
    key, shake = num_frames // 2, make_shaking(rng, num_frames)
    tracks: list[Track] = []
    actions = np.stack([_actions(rng) for _ in range(rng.integers(2, 4))])
    for row in actions:
        track = _placed(rng, make_still(rng, num_frames, rng.uniform(0.18, 0.3)), tracks, key)
        tracks.append(_acting(rng, track, row, key))
    frames = make_background(rng, num_frames, size)
    for track in tracks:
        draw_track(frames, track, shake, np.ones(num_frames, bool))
    frames = filmed(frames, rng)
    boxes = np.stack([_boxes(track, shake, size) for track in tracks], 1)
    return Scene(frames, boxes, actions, key)


def make_scenes(num_scenes: int, seed: int, num_frames: int = 8, size: int = 64) -> list[Scene]:
    """Makes a fixed set of scenes.

    Scene `i` depends on the seed and `i` alone, so that a longer set begins with the shorter one.

    Args:
        num_scenes: Scenes.
        seed: Sets of different seeds have no scene in common.
        num_frames: Frames of a scene.
        size: Rows and columns, in pixels.

    Raises:
        ValueError: If there is no scene or the seed is below 0, and as `make_scene`.
    """
    check_set(seed, num_scenes=num_scenes)
    return [make_scene(np.random.default_rng((seed, i)), num_frames, size) for i in range(num_scenes)]


def _actions(rng: Random) -> Array:
    """Draws the actions of a shape: one of the nine, or one of the four movements with one of the four changes."""
    row = np.zeros(len(ACTIONS), bool)
    if rng.random() < _BOTH:
        row[[rng.integers(0, 4), rng.integers(4, 8)]] = True
    else:
        row[rng.integers(len(ACTIONS))] = True
    return row


def _placed(rng: Random, track: Track, others: list[Track], key: int) -> Track:
    """Moves a shape to where it covers no other in the key frame, if a few tries find such a place."""
    for _ in range(_TRIES):
        x, y = rng.uniform(-_REACH, _REACH, 2)
        gaps = [np.hypot(x - o.x[key], y - o.y[key]) - 1.2 * (track.size[key] + o.size[key]) for o in others]
        if all(gap > 0 for gap in gaps):
            break
    ones = np.ones_like(track.x)
    return replace(track, x=ones * x, y=ones * y)


def _acting(rng: Random, track: Track, actions: Array, key: int) -> Track:
    """Makes a shape act; in the key frame it stays as it is."""
    progress = make_progress(rng, len(track.x))
    progress -= progress[key]
    reach, growth, turn = rng.uniform(0.5, 1.1), rng.uniform(0.5, 1), rng.uniform(1.5, 4)
    left, right, up, down, growing, shrinking, clockwise, counter, _ = actions.astype(float)
    return replace(
        track,
        x=track.x + (right - left) * reach * progress,
        y=track.y + (down - up) * reach * progress,
        size=track.size * np.exp((growing - shrinking) * growth * progress),
        angle=track.angle + (clockwise - counter) * turn * progress,
    )


def _boxes(track: Track, shake: Array, size: int) -> Array:
    """Returns the boxes `(T, 4)` around the outline, from 0 to 1."""
    bearings = np.linspace(0, 2 * np.pi, len(track.shape.outline), endpoint=False) + track.angle[:, None]
    radius = track.shape.outline * track.size[:, None]
    x = (track.x + shake[:, 1])[:, None] + radius * np.cos(bearings)
    y = (track.y + shake[:, 0])[:, None] + radius * np.sin(bearings)
    corners = np.stack([x.min(1), y.min(1), x.max(1), y.max(1)], 1)
    # -1 and 1 are the centres of the first and the last pixel.
    return (((corners + 1) / 2 * (size - 1) + 0.5) / size).clip(0, 1).astype(np.float32)
