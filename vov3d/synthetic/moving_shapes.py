"""Generated clips whose classes differ only in motion; numpy only.

Twenty classes in ten pairs, named in the style of Something-Something. In nine pairs a clip of one class is a clip of
the other played backwards, so that neither a single frame nor a set of frames without their order distinguishes them;
the tenth pair bounces through the same positions at another speed. Shapes, colours, textures, backgrounds, sizes,
places, phases and speeds are random in each clip; backgrounds drift, the camera shakes, bystanders stand or drift.

`python -m vov3d.synthetic.moving_shapes --to FOLDER` writes video files, one folder per class.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from vov3d.synthetic.drawing import Track, check_clip, check_set, draw_clip, make_hand, make_progress, make_still

__all__ = ["CLASSES", "FPS", "PAIRS", "make_clip", "make_set", "write_clip", "write_videos"]

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

FPS = 10
"""Frames per second of the files."""

Array = np.ndarray
Random = np.random.Generator

# --- motions: the first class of each pair ---------------------------------------------------------------------------


def _translating(rng: Random, num_frames: int, axis: str) -> list[Track]:
    """Moves a shape to smaller coordinates; it re-enters on the other side, so that no place reveals the direction.

    Draws again if the shape would be outside the picture in most frames, which is the same for a clip played backwards.
    """
    while True:
        track = make_still(rng, num_frames)
        size = track.size[0]
        period = 2 + 2 * 1.6 * size
        moved = rng.uniform(0, period) - rng.uniform(0.7, 1.7) * make_progress(rng, num_frames)
        place = moved % period - period / 2
        # a quarter of a disc is in the picture where its centre is 0.4 radii outside
        if np.mean(np.abs(place) < 1 + 0.4 * size) >= 0.5:
            return [replace(track, **{axis: place})]


def _left(rng: Random, num_frames: int) -> list[Track]:
    return _translating(rng, num_frames, "x")


def _up(rng: Random, num_frames: int) -> list[Track]:
    return _translating(rng, num_frames, "y")


def _towards(rng: Random, num_frames: int) -> list[Track]:
    growth = rng.uniform(0.6, 1.2) * (make_progress(rng, num_frames) - 0.5)
    return [replace(make_still(rng, num_frames, reach=0.4), size=rng.uniform(0.24, 0.42) * np.exp(growth))]


def _clockwise(rng: Random, num_frames: int) -> list[Track]:
    track = make_still(rng, num_frames, rng.uniform(0.3, 0.5), reach=0.4)
    return [replace(track, angle=track.angle + rng.uniform(1.2, 4) * make_progress(rng, num_frames))]


def _closer(rng: Random, num_frames: int) -> list[Track]:
    path = rng.uniform(0.5, 0.75) - rng.uniform(0.25, 0.45) * (make_progress(rng, num_frames) - 0.5)
    x, y, angle = *rng.uniform(-0.2, 0.2, 2), rng.uniform(0, 2 * np.pi)
    return [
        replace(
            make_still(rng, num_frames, rng.uniform(0.18, 0.26)),
            x=x + side * path * np.cos(angle),
            y=y + side * path * np.sin(angle),
        )
        for side in (-1, 1)
    ]


def _appearing(rng: Random, num_frames: int) -> list[Track]:
    low, high = rng.uniform(0, 0.4), rng.uniform(0.6, 1)
    return [replace(make_still(rng, num_frames), alpha=low + (high - low) * make_progress(rng, num_frames))]


def _passing(rng: Random, num_frames: int) -> list[Track]:
    """Moves a shape around a standing one, seen from the side: in front of it to the left, behind it to the right."""
    centre = make_still(rng, num_frames, rng.uniform(0.24, 0.34), reach=0.25)
    phase = rng.uniform(0, 2 * np.pi) + rng.uniform(3.5, 7) * make_progress(rng, num_frames)
    around = replace(
        make_still(rng, num_frames),
        x=centre.x + rng.uniform(0.45, 0.65) * np.cos(phase),
        y=centre.y + rng.uniform(-0.1, 0.1),
        size=rng.uniform(0.18, 0.24) * (1 + 0.15 * np.sin(phase)),
        depth=np.sin(phase),
    )
    return [centre, around]


def _circling(rng: Random, num_frames: int) -> list[Track]:
    track = make_still(rng, num_frames, reach=0.25)
    phase = rng.uniform(0, 2 * np.pi) + rng.uniform(2.5, 6.3) * make_progress(rng, num_frames)
    radius = rng.uniform(0.35, 0.6)
    return [replace(track, x=track.x + radius * np.cos(phase), y=track.y + radius * np.sin(phase))]


def _bouncing(rng: Random, num_frames: int, cycles: int = 1) -> list[Track]:
    """Moves a shape up and down in whole cycles."""
    phase = rng.uniform(0, 2 * np.pi) + 2 * np.pi * cycles * np.arange(num_frames) / num_frames
    return [replace(make_still(rng, num_frames), y=rng.uniform(0.4, 0.6) * np.cos(phase) + rng.uniform(-0.2, 0.2))]


def _pushing(rng: Random, num_frames: int) -> list[Track]:
    """Moves a hand and the shape that it touches, both towards the side of the shape."""
    size, reach = rng.uniform(0.2, 0.28), rng.uniform(0.5, 0.9)
    path = rng.uniform(-0.15, 0.15) + reach * (make_progress(rng, num_frames) - 0.5)
    angle, across = rng.uniform(0, 2 * np.pi), rng.uniform(-0.3, 0.3)
    thing, hand = make_still(rng, num_frames, size), replace(make_still(rng, num_frames, 0.22), shape=make_hand())
    gap = 0.5 * (size + 0.22)
    tracks = []
    for track, offset in ((thing, gap), (hand, -gap)):
        x = (path + offset) * np.cos(angle) - across * np.sin(angle)
        y = (path + offset) * np.sin(angle) + across * np.cos(angle)
        tracks.append(replace(track, x=x, y=y))
    return [tracks[0], replace(tracks[1], angle=np.full(num_frames, angle))]


_MOTIONS: tuple[Callable[[Random, int], list[Track]], ...] = (
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


def make_tracks(label: int, rng: Random, num_frames: int) -> list[Track]:
    """Returns the shapes of a clip, bystanders first."""
    pair, second = divmod(label, 2)
    if pair == _BOUNCING:
        # a number of cycles coprime to the number of frames visits the same positions in another order
        fast = next(k for k in (3, 5, 7, 11, 13) if num_frames % k)
        tracks = _bouncing(rng, num_frames, fast if second else 1)
    else:
        tracks = _MOTIONS[pair](rng, num_frames)
        tracks = [track.reversed() for track in tracks] if second else tracks
    return [*(_bystander(rng, num_frames) for _ in range(rng.integers(0, 3))), *tracks]


def _bystander(rng: Random, num_frames: int) -> Track:
    track = make_still(rng, num_frames, rng.uniform(0.1, 0.16), reach=0.9)
    drift = np.linspace(-0.5, 0.5, num_frames)
    return replace(track, x=track.x + rng.uniform(-0.3, 0.3) * drift, y=track.y + rng.uniform(-0.3, 0.3) * drift)


# --- clips ------------------------------------------------------------------------------------------------------------


def make_clip(
    label: int, rng: Random, num_frames: int = 16, size: int = 64, *, before: int = 0, after: int = 0
) -> Array:
    """Makes one clip.

    Args:
        label: Index of its class in `CLASSES`.
        rng: Where all that is drawn comes from; the same state gives the same clip.
        num_frames: Frames of the motion.
        size: Rows and columns, in pixels.
        before: Frames before it, in which shapes stand where it begins; backgrounds drift and the camera shakes.
        after: Frames behind it, in which shapes stand where it ends.

    Returns:
        uint8 RGB `(before + num_frames + after, size, size, 3)`.

    Raises:
        ValueError: If there is no such class, or fewer than 2 frames or 16 pixels.
    """
    if not 0 <= label < len(CLASSES):
        raise ValueError(f"label {label} is not in 0..{len(CLASSES) - 1}")
    check_clip(num_frames, size)
    if before < 0 or after < 0:
        raise ValueError(f"a clip cannot have {before} frames before its motion and {after} behind it")
    tracks, length = make_tracks(label, rng, num_frames), before + num_frames + after
    if length > num_frames:
        tracks = [track.standing(before, after) for track in tracks]
    return draw_clip(tracks, rng, length, size)


def make_set(num_clips: int, seed: int, num_frames: int = 16, size: int = 64) -> tuple[Array, Array]:
    """Makes a fixed set of clips, spread evenly over the classes.

    Clip `i` depends on the seed and `i` alone, so that a longer set begins with the shorter one.

    Args:
        num_clips: Clips.
        seed: Sets of different seeds have no clip in common.
        num_frames: Frames of a clip.
        size: Rows and columns, in pixels.

    Returns:
        uint8 clips `(num_clips, num_frames, size, size, 3)` and int64 labels `(num_clips,)`.

    Raises:
        ValueError: If there is no clip, the seed is below 0, or there are fewer than 2 frames or 16 pixels.
    """
    check_set(seed, num_clips=num_clips)
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
    fps: int = FPS,
    classes: tuple[str, ...] = CLASSES,
) -> None:
    """Writes clips as H.264 files, one folder per class.

    Args:
        folder: Folder for the class folders.
        clips_per_class: Files of each class.
        seed: As for `make_set`.
        num_frames: Frames of a file.
        size: Rows and columns of the clips, in pixels; files have twice as many.
        fps: Frames per second.
        classes: The classes to write.

    Raises:
        ValueError: If a class is not known, and as `make_set`; nothing is written.
        ImportError: If PyAV is not installed.
    """
    check_set(seed, clips_per_class=clips_per_class)
    check_clip(num_frames, size)
    if unknown := [name for name in classes if name not in CLASSES]:
        raise ValueError(f"there are no classes {unknown}; the classes are {', '.join(CLASSES)}")
    for name in classes:
        label = CLASSES.index(name)
        target = Path(folder) / name
        target.mkdir(parents=True, exist_ok=True)
        for i in range(clips_per_class):
            rng = np.random.default_rng((seed, i * len(CLASSES) + label))
            write_clip(target / f"{seed}_{i:05d}.mp4", make_clip(label, rng, num_frames, size), fps)


def write_clip(path: str | Path, clip: Array, fps: int = FPS) -> None:
    """Writes a clip as an H.264 file, at twice its size, since the codec halves the resolution of colours.

    Args:
        path: The file.
        clip: uint8 RGB `(T, S, S, 3)`.
        fps: Frames per second.

    Raises:
        ImportError: If PyAV is not installed.
    """
    try:
        import av
    except ImportError as error:
        from vov3d.extras import install

        raise ImportError(f"writing videos needs PyAV: {install('video')}") from error
    frames = clip.repeat(2, 1).repeat(2, 2)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "18"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def _main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m vov3d.synthetic.moving_shapes", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("--to", required=True, metavar="FOLDER", help="folder for the class folders")
    parser.add_argument("--clips", type=int, default=20, help="files per class (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other clips (default: 0)")
    parser.add_argument("--frames", type=int, default=16, help="frames per file (default: 16)")
    parser.add_argument("--size", type=int, default=64, help="rows and columns in pixels (default: 64)")
    args = parser.parse_args()
    write_videos(args.to, args.clips, args.seed, args.frames, args.size)


if __name__ == "__main__":
    try:
        _main()
    except (ImportError, OSError, ValueError) as error:
        raise SystemExit(f"moving_shapes: {error}") from None
