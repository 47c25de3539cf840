"""Clips that only motion tells apart, made on the spot; numpy only.

Twenty classes in ten pairs, named in the style of Something-Something. In nine pairs a clip of one class is a clip of
the other played backwards, so that neither one frame nor a set of frames without their order tells the two apart; the
tenth pair bounces through the same positions at another speed. Shapes, colours, textures, backgrounds, sizes, places,
phases and speeds are drawn for each clip alone; backgrounds drift, the camera shakes, bystanders stand or drift about.

`python -m vov3d.video.moving_shapes --to FOLDER` writes video files in one folder a class.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

__all__ = ["CLASSES", "PAIRS", "make_clip", "make_set", "write_clip", "write_videos"]

PAIRS = (
    ("Moving something left", "Moving something right"),
    ("Moving something up", "Moving something down"),
    ("Moving something towards the camera", "Moving something away from the camera"),
    ("Turning something clockwise", "Turning something counter-clockwise"),
    ("Moving something and something closer to each other", "Moving something and something away from each other"),
    ("Something appearing", "Something disappearing"),
    ("Something passing in front of something to the left", "Something passing in front of something to the right"),
    ("Something circling clockwise", "Something circling counter-clockwise"),
    ("Something bouncing slowly", "Something bouncing fast"),
    ("Pushing something", "Pulling something"),
)
"""Classes that look alike in a single frame, and in any set of frames without their order."""

CLASSES = tuple(name for pair in PAIRS for name in pair)
"""Class names in index order."""

Array = np.ndarray
Random = np.random.Generator

_TEXELS = 24  # texture elements along a shape's side
_ANGLES = 256  # entries of an outline
_HAND = (235, 200, 175)  # what pushes and pulls has one colour and one outline, so that its role is seen


@dataclass(frozen=True)
class _Shape:
    """How a shape looks: radius by angle (1 on average), and its texture `(_TEXELS, _TEXELS, 3)`."""

    outline: Array
    texture: Array


@dataclass(frozen=True)
class _Track:
    """A shape over T frames; places and sizes in halves of the frame's side, from its centre."""

    shape: _Shape
    x: Array
    y: Array
    size: Array
    angle: Array
    alpha: Array
    depth: Array

    def reversed(self) -> "_Track":
        """The same played backwards."""
        tracks = {name: getattr(self, name)[::-1] for name in ("x", "y", "size", "angle", "alpha", "depth")}
        return replace(self, **tracks)


# --- looks -----------------------------------------------------------------------------------------------------------


def _shape(rng: Random) -> _Shape:
    """An outline without any symmetry, so that turning it is seen, and a texture of two colours and a pattern."""
    angles = np.linspace(0, 2 * np.pi, _ANGLES, endpoint=False)
    radius = np.ones(_ANGLES)
    for harmonic, most in ((1, 0.12), (2, 0.3), (3, 0.25), (5, 0.15)):
        radius += rng.uniform(0.3, 1) * most * np.cos(harmonic * angles + rng.uniform(0, 2 * np.pi))
    return _Shape(np.maximum(radius, 0.25), _texture(rng))


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


def _hand() -> _Shape:
    angles = np.linspace(0, 2 * np.pi, _ANGLES, endpoint=False)
    return _Shape(1 + 0.3 * np.cos(2 * angles), np.broadcast_to(np.array(_HAND, float), (_TEXELS, _TEXELS, 3)))


def _background(rng: Random, num_frames: int, size: int) -> Array:
    """A texture `(T, size, size, 3)` of a few waves, drifting."""
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


# --- motions: the first class of each pair ---------------------------------------------------------------------------


def _still(rng: Random, num_frames: int, size: float | None = None, reach: float = 0.6) -> _Track:
    """A shape that stands somewhere."""
    ones = np.ones(num_frames)
    x, y = rng.uniform(-reach, reach, 2)
    radius = rng.uniform(0.2, 0.34) if size is None else size
    return _Track(_shape(rng), ones * x, ones * y, ones * radius, ones * rng.uniform(0, 2 * np.pi), ones, ones * 0)


def _progress(rng: Random, num_frames: int) -> Array:
    """From 0 to 1, slower or faster in the middle, the same forwards and backwards."""
    t = np.linspace(0, 1, num_frames)
    return t + rng.uniform(-0.6, 0.6) * np.sin(2 * np.pi * t) / (2 * np.pi)


def _translating(rng: Random, num_frames: int, axis: str) -> list[_Track]:
    """To smaller coordinates; what leaves the frame comes in again on the other side, so no place tells the way."""
    track = _still(rng, num_frames)
    period = 2 + 2 * 1.6 * track.size[0]
    moved = rng.uniform(0, period) - rng.uniform(0.7, 1.7) * _progress(rng, num_frames)
    return [replace(track, **{axis: moved % period - period / 2})]


def _left(rng: Random, num_frames: int) -> list[_Track]:
    return _translating(rng, num_frames, "x")


def _up(rng: Random, num_frames: int) -> list[_Track]:
    return _translating(rng, num_frames, "y")


def _towards(rng: Random, num_frames: int) -> list[_Track]:
    growth = rng.uniform(0.6, 1.2) * (_progress(rng, num_frames) - 0.5)
    return [replace(_still(rng, num_frames, reach=0.4), size=rng.uniform(0.24, 0.42) * np.exp(growth))]


def _clockwise(rng: Random, num_frames: int) -> list[_Track]:
    track = _still(rng, num_frames, rng.uniform(0.3, 0.5), reach=0.4)
    return [replace(track, angle=track.angle + rng.uniform(1.2, 4) * _progress(rng, num_frames))]


def _closer(rng: Random, num_frames: int) -> list[_Track]:
    path = rng.uniform(0.5, 0.75) - rng.uniform(0.25, 0.45) * (_progress(rng, num_frames) - 0.5)
    x, y, angle = *rng.uniform(-0.2, 0.2, 2), rng.uniform(0, 2 * np.pi)
    return [
        replace(
            _still(rng, num_frames, rng.uniform(0.18, 0.26)),
            x=x + side * path * np.cos(angle),
            y=y + side * path * np.sin(angle),
        )
        for side in (-1, 1)
    ]


def _appearing(rng: Random, num_frames: int) -> list[_Track]:
    low, high = rng.uniform(0, 0.4), rng.uniform(0.6, 1)
    return [replace(_still(rng, num_frames), alpha=low + (high - low) * _progress(rng, num_frames))]


def _passing(rng: Random, num_frames: int) -> list[_Track]:
    """Around a standing shape, seen from the side: in front of it to the left, behind it to the right."""
    centre = _still(rng, num_frames, rng.uniform(0.24, 0.34), reach=0.25)
    phase = rng.uniform(0, 2 * np.pi) + rng.uniform(3.5, 7) * _progress(rng, num_frames)
    around = replace(
        _still(rng, num_frames),
        x=centre.x + rng.uniform(0.45, 0.65) * np.cos(phase),
        y=centre.y + rng.uniform(-0.1, 0.1),
        size=rng.uniform(0.18, 0.24) * (1 + 0.15 * np.sin(phase)),
        depth=np.sin(phase),
    )
    return [centre, around]


def _circling(rng: Random, num_frames: int) -> list[_Track]:
    track = _still(rng, num_frames, reach=0.25)
    phase = rng.uniform(0, 2 * np.pi) + rng.uniform(2.5, 6.3) * _progress(rng, num_frames)
    radius = rng.uniform(0.35, 0.6)
    return [replace(track, x=track.x + radius * np.cos(phase), y=track.y + radius * np.sin(phase))]


def _bouncing(rng: Random, num_frames: int, cycles: int = 1) -> list[_Track]:
    """Up and down in whole cycles."""
    phase = rng.uniform(0, 2 * np.pi) + 2 * np.pi * cycles * np.arange(num_frames) / num_frames
    return [replace(_still(rng, num_frames), y=rng.uniform(0.4, 0.6) * np.cos(phase) + rng.uniform(-0.2, 0.2))]


def _pushing(rng: Random, num_frames: int) -> list[_Track]:
    """A hand and what it touches, both towards the side where the thing is."""
    size, reach = rng.uniform(0.2, 0.28), rng.uniform(0.5, 0.9)
    path = rng.uniform(-0.15, 0.15) + reach * (_progress(rng, num_frames) - 0.5)
    angle, across = rng.uniform(0, 2 * np.pi), rng.uniform(-0.3, 0.3)
    thing, hand = _still(rng, num_frames, size), replace(_still(rng, num_frames, 0.22), shape=_hand())
    gap = 0.5 * (size + 0.22)
    tracks = []
    for track, offset in ((thing, gap), (hand, -gap)):
        x = (path + offset) * np.cos(angle) - across * np.sin(angle)
        y = (path + offset) * np.sin(angle) + across * np.cos(angle)
        tracks.append(replace(track, x=x, y=y))
    return [tracks[0], replace(tracks[1], angle=np.full(num_frames, angle))]


_MOTIONS: tuple[Callable[[Random, int], list[_Track]], ...] = (
    _left,
    _up,
    _towards,
    _clockwise,
    _closer,
    _appearing,
    _passing,
    _circling,
    _bouncing,
    _pushing,
)
_BOUNCING = _MOTIONS.index(_bouncing)


def _tracks(label: int, rng: Random, num_frames: int) -> list[_Track]:
    """The shapes of a clip, bystanders first."""
    pair, second = divmod(label, 2)
    if pair == _BOUNCING:
        # a number of cycles without common factor visits the same positions in another order
        fast = next(k for k in (3, 5, 7, 11, 13) if num_frames % k)
        tracks = _bouncing(rng, num_frames, fast if second else 1)
    else:
        tracks = _MOTIONS[pair](rng, num_frames)
        tracks = [track.reversed() for track in tracks] if second else tracks
    return [*(_bystander(rng, num_frames) for _ in range(rng.integers(0, 3))), *tracks]


def _bystander(rng: Random, num_frames: int) -> _Track:
    track = _still(rng, num_frames, rng.uniform(0.1, 0.16), reach=0.9)
    drift = np.linspace(-0.5, 0.5, num_frames)
    return replace(track, x=track.x + rng.uniform(-0.3, 0.3) * drift, y=track.y + rng.uniform(-0.3, 0.3) * drift)


# --- drawing ---------------------------------------------------------------------------------------------------------


def _draw(frames: Array, track: _Track, shake: Array, which: Array) -> None:
    """Draws a shape into the frames `(T, S, S, 3)` for which `which` holds."""
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


def _shaking(rng: Random, num_frames: int) -> Array:
    """Offsets `(T, 2)` of a camera in somebody's hand."""
    steps = rng.normal(0, rng.uniform(0, 0.02), (num_frames + 2, 2))
    return (steps[:-2] + steps[1:-1] + steps[2:]) / 3


def _blurred(frames: Array, weight: float) -> Array:
    """Every pixel mixed with its four neighbours."""
    padded = np.pad(frames, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    around = padded[:, :-2, 1:-1] + padded[:, 2:, 1:-1] + padded[:, 1:-1, :-2] + padded[:, 1:-1, 2:]
    return (1 - weight) * frames + weight / 4 * around


def make_clip(label: int, rng: Random, num_frames: int = 16, size: int = 64) -> Array:
    """Makes one clip.

    Args:
        label: Index of its class in `CLASSES`.
        rng: Where all that is drawn comes from; the same state gives the same clip.
        num_frames: Frames.
        size: Rows and columns, in pixels.

    Returns:
        uint8 RGB `(num_frames, size, size, 3)`.

    Raises:
        ValueError: If there is no such class, or fewer than 2 frames or 16 pixels.
    """
    if not 0 <= label < len(CLASSES):
        raise ValueError(f"label {label} is not in 0..{len(CLASSES) - 1}")
    if num_frames < 2 or size < 16:
        raise ValueError(f"a clip needs 2 frames of 16 pixels or more, not {num_frames} of {size}")
    tracks, shake = _tracks(label, rng, num_frames), _shaking(rng, num_frames)
    frames = _background(rng, num_frames, size)
    for front in (False, True):
        for track in tracks:
            which = (track.depth > 0) == front
            if which.any():
                _draw(frames, track, shake, which)
    frames = _blurred(frames, rng.uniform(0, 0.5))
    frames += rng.standard_normal(frames.shape, np.float32) * np.float32(rng.uniform(2, 10))
    return frames.clip(0, 255).astype(np.uint8)


def make_set(num_clips: int, seed: int, num_frames: int = 16, size: int = 64) -> tuple[Array, Array]:
    """Makes a fixed set with equally many clips of each class, as far as they divide.

    Clip `i` depends on the seed and `i` alone, so that a longer set begins with the shorter one.

    Args:
        num_clips: Clips.
        seed: Sets of different seeds have no clip in common.
        num_frames: Frames of a clip.
        size: Rows and columns, in pixels.

    Returns:
        uint8 clips `(num_clips, num_frames, size, size, 3)` and int64 labels `(num_clips,)`.
    """
    labels = np.arange(num_clips) % len(CLASSES)
    clips = np.empty((num_clips, num_frames, size, size, 3), np.uint8)
    for i, label in enumerate(labels):
        clips[i] = make_clip(int(label), np.random.default_rng((seed, i)), num_frames, size)
    return clips, labels


def write_videos(
    folder: str | Path,
    clips_per_class: int,
    seed: int,
    num_frames: int = 16,
    size: int = 64,
    fps: int = 10,
    classes: tuple[str, ...] = CLASSES,
) -> None:
    """Writes clips as H.264 files, in one folder a class.

    Args:
        folder: Where the class folders are made.
        clips_per_class: Files of each class.
        seed: As of `make_set`.
        num_frames: Frames of a file.
        size: Rows and columns of the clips, in pixels; files have twice as many.
        fps: Frames per second.
        classes: The classes that are wanted.

    Raises:
        ValueError: If a class is not known.
        ImportError: If PyAV is not there.
    """
    if unknown := [name for name in classes if name not in CLASSES]:
        raise ValueError(f"there are no classes {unknown}; the classes are {', '.join(CLASSES)}")
    for name in classes:
        label = CLASSES.index(name)
        target = Path(folder) / name
        target.mkdir(parents=True, exist_ok=True)
        for i in range(clips_per_class):
            rng = np.random.default_rng((seed, i * len(CLASSES) + label))
            write_clip(target / f"{seed}_{i:05d}.mp4", make_clip(label, rng, num_frames, size), fps)


def write_clip(path: str | Path, clip: Array, fps: int = 10) -> None:
    """Writes a clip as an H.264 file, enlarged twofold, since the codec halves the resolution of colours.

    Args:
        path: The file.
        clip: uint8 RGB `(T, S, S, 3)`.
        fps: Frames per second.

    Raises:
        ImportError: If PyAV is not there.
    """
    try:
        import av
    except ImportError as error:
        raise ImportError("writing videos needs PyAV: pip install 'vov3d[video]'") from error
    frames = clip.repeat(2, 1).repeat(2, 2)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "18"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m vov3d.video.moving_shapes", description=__doc__.split("\n\n")[0])
    parser.add_argument("--to", required=True, metavar="FOLDER", help="where the class folders are made")
    parser.add_argument("--clips", type=int, default=20, help="files a class (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other clips (default: 0)")
    parser.add_argument("--frames", type=int, default=16, help="frames a file (default: 16)")
    parser.add_argument("--size", type=int, default=64, help="rows and columns in pixels (default: 64)")
    args = parser.parse_args()
    write_videos(args.to, args.clips, args.seed, args.frames, args.size)


if __name__ == "__main__":
    _main()
