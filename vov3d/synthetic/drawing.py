"""Draws the shapes, tracks and backgrounds of moving shapes and scenes; numpy only."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

Array = np.ndarray
Random = np.random.Generator

_TEXELS = 24  # texture elements along a shape's side
_ANGLES = 256  # entries of an outline
_HAND = (235, 200, 175)  # the hand that pushes and pulls has one colour and one outline, so that it can be recognised


@dataclass(frozen=True)
class Shape:
    """Appearance of a shape: radius by angle (1 on average), and its texture `(_TEXELS, _TEXELS, 3)`."""

    outline: Array
    texture: Array


@dataclass(frozen=True)
class Track:
    """A shape over T frames; positions from the frame's centre, in halves of its side, as are sizes."""

    shape: Shape
    x: Array
    y: Array
    size: Array
    angle: Array
    alpha: Array
    depth: Array

    def reversed(self) -> "Track":
        """Returns the track played backwards."""
        tracks = {name: getattr(self, name)[::-1] for name in ("x", "y", "size", "angle", "alpha", "depth")}
        return replace(self, **tracks)

    def standing(self, before: int, after: int) -> "Track":
        """Returns the track with still frames added before and after it."""
        names = ("x", "y", "size", "angle", "alpha", "depth")
        tracks: dict[str, Any] = {name: np.pad(getattr(self, name), (before, after), "edge") for name in names}
        return replace(self, **tracks)


# --- appearance ------------------------------------------------------------------------------------------------------


def make_shape(rng: Random) -> Shape:
    """Draws an outline without any symmetry, so that a turn is visible, and a texture of two colours and a pattern."""
    angles = np.linspace(0, 2 * np.pi, _ANGLES, endpoint=False)
    radius = np.ones(_ANGLES)
    for harmonic, most in ((1, 0.12), (2, 0.3), (3, 0.25), (5, 0.15)):
        radius += rng.uniform(0.3, 1) * most * np.cos(harmonic * angles + rng.uniform(0, 2 * np.pi))
    return Shape(np.maximum(radius, 0.25), _texture(rng))


def _texture(rng: Random) -> Array:
    first, second = _two_colours(rng)
    u, v = np.meshgrid(*[np.linspace(-1, 1, _TEXELS)] * 2, indexing="ij")
    kx, ky = rng.uniform(2, 7, 2) * rng.choice((-1, 1), 2)
    wave = np.sin(kx * u + ky * v + rng.uniform(0, 2 * np.pi))
    if rng.random() < 0.5:
        wave = wave * np.sin(kx * v - ky * u)
    return np.where(wave[..., None] > rng.uniform(-0.4, 0.4), first, second)


def _two_colours(rng: Random) -> tuple[Array, Array]:
    while True:
        first, second = rng.uniform(0, 255, (2, 3))
        if np.abs(first - second).sum() > 180:
            return first, second


def make_hand() -> Shape:
    """Makes the hand that pushes and pulls."""
    angles = np.linspace(0, 2 * np.pi, _ANGLES, endpoint=False)
    return Shape(1 + 0.3 * np.cos(2 * angles), np.broadcast_to(np.array(_HAND, float), (_TEXELS, _TEXELS, 3)))


def make_background(rng: Random, num_frames: int, size: int) -> Array:
    """Draws a drifting texture `(T, size, size, 3)` of a few waves."""
    t = np.arange(num_frames)[:, None]
    grid = np.linspace(-1, 1, size)[None]
    velocity = rng.uniform(-0.06, 0.06, 2)
    y, x = grid + velocity[0] * t, grid + velocity[1] * t
    base = rng.uniform(40, 215, 3)
    waves, colours = np.empty((num_frames, size, size, 3), np.float32), np.empty((3, 3), np.float32)
    for i in range(3):
        kx, ky = rng.uniform(-9, 9, 2)
        # sin(a + b) of a row and a column each: products instead of a sine for every pixel
        a, b = ky * y + rng.uniform(0, 2 * np.pi), kx * x
        waves[..., i] = np.stack([np.sin(a), np.cos(a)], -1) @ np.stack([np.cos(b), np.sin(b)], -2)
        colours[i] = rng.uniform(-28, 28, 3)
    return waves @ colours + base.astype(np.float32)


# --- places over time ------------------------------------------------------------------------------------------------


def make_still(rng: Random, num_frames: int, size: float | None = None, reach: float = 0.6) -> Track:
    """Makes a shape that stands still at a random place."""
    ones = np.ones(num_frames)
    x, y = rng.uniform(-reach, reach, 2)
    radius = rng.uniform(0.2, 0.34) if size is None else size
    return Track(make_shape(rng), ones * x, ones * y, ones * radius, ones * rng.uniform(0, 2 * np.pi), ones, ones * 0)


def make_progress(rng: Random, num_frames: int) -> Array:
    """Makes a path from 0 to 1, slower or faster in the middle, the same forwards and backwards."""
    t = np.linspace(0, 1, num_frames)
    return t + rng.uniform(-0.6, 0.6) * np.sin(2 * np.pi * t) / (2 * np.pi)


# --- drawing ---------------------------------------------------------------------------------------------------------


def check_clip(num_frames: int, size: int) -> None:
    """Raises ValueError for clips of fewer than 2 frames or 16 pixels."""
    if num_frames < 2 or size < 16:
        raise ValueError(f"a clip needs 2 frames of 16 pixels or more, not {num_frames} of {size}")


def check_set(seed: int, **counts: int) -> None:
    """Raises ValueError for a set without clips, or a seed that NumPy does not take."""
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be 1 or more, got {count}")
    if seed < 0:
        raise ValueError(f"seed must be 0 or more, got {seed}")


def draw_clip(tracks: Sequence[Track], rng: Random, num_frames: int, size: int) -> Array:
    """Draws shapes on a random background, seen by a shaking camera: uint8 `(num_frames, size, size, 3)`."""
    shake = make_shaking(rng, num_frames)
    frames = make_background(rng, num_frames, size)
    draw_tracks(frames, tracks, shake)
    return filmed(frames, rng)


def draw_tracks(frames: Array, tracks: Sequence[Track], shake: Array) -> None:
    """Draws shapes into frames `(T, S, S, 3)`, those in front last."""
    for front in (False, True):
        for track in tracks:
            which = (track.depth > 0) == front
            if which.any():
                draw_track(frames, track, shake, which)


def draw_track(frames: Array, track: Track, shake: Array, which: Array) -> None:
    """Draws a shape into those of the frames `(T, S, S, 3)` that `which` selects."""
    size = frames.shape[1]
    grid = np.linspace(-1, 1, size)
    times = np.flatnonzero(which)
    dx = grid[None, :] - (track.x + shake[:, 1])[times, None]
    dy = grid[None, :] - (track.y + shake[:, 0])[times, None]
    most = track.size[times] * track.shape.outline.max() + 2 / size
    t, row, column = np.nonzero(dx[:, None, :] ** 2 + dy[:, :, None] ** 2 < most[:, None, None] ** 2)
    x, y = dx[t, column], dy[t, row]
    time = times[t]
    turn, radius = track.angle[time], track.size[time]
    bearing = ((np.arctan2(y, x) - turn) * (_ANGLES / (2 * np.pi))).astype(int) % _ANGLES
    edge = (track.shape.outline[bearing] * radius - np.hypot(x, y)) * (size / 2) + 0.5  # soft over one pixel
    alpha = (edge.clip(0, 1) * track.alpha[time])[:, None]
    cos, sin = np.cos(turn) / (1.9 * radius), np.sin(turn) / (1.9 * radius)
    u = ((cos * x + sin * y + 0.5) * _TEXELS).astype(int).clip(0, _TEXELS - 1)
    v = ((cos * y - sin * x + 0.5) * _TEXELS).astype(int).clip(0, _TEXELS - 1)
    frames[time, row, column] += alpha * (track.shape.texture[u, v] - frames[time, row, column])


def make_shaking(rng: Random, num_frames: int) -> Array:
    """Makes the offsets `(T, 2)` of a hand-held camera."""
    steps = rng.normal(0, rng.uniform(0, 0.02), (num_frames + 2, 2))
    return (steps[:-2] + steps[1:-1] + steps[2:]) / 3


def blurred(frames: Array, weight: float) -> Array:
    """Mixes every pixel with its four neighbours."""
    padded = np.pad(frames, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    around = padded[:, :-2, 1:-1] + padded[:, 2:, 1:-1] + padded[:, 1:-1, :-2] + padded[:, 1:-1, 2:]
    return (1 - weight) * frames + weight / 4 * around


def filmed(frames: Array, rng: Random) -> Array:
    """Returns drawn frames as a camera gives them: a little blurred, with noise, uint8."""
    frames = blurred(frames, rng.uniform(0, 0.5))
    frames += rng.standard_normal(frames.shape, np.float32) * np.float32(rng.uniform(2, 10))
    return frames.clip(0, 255).astype(np.uint8)
