"""Generated clips of people, groups and hands in cluttered places, and of moving shapes; numpy only.

55 classes: the twenty of `vov3d.synthetic.moving_shapes`, of which half the clips are as there and half in front of the
backgrounds of the others, 18 of a person, five of groups, twelve of a hand that points. Bodies, clothes, places, light,
sizes and speeds are random in each clip, and the camera shakes, pans and zooms. Single frames may show the class.
"""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from reference.training.stopping import follow_main

from people.bodies import Pose, cycles, draw_body, draw_capsule, make_look, pose_of
from people.rooms import expose, film_place
from vov3d.files import replacing
from vov3d.synthetic import moving_shapes
from vov3d.synthetic.drawing import draw_tracks

PEOPLE = (
    "standing",
    "waving",
    "walking left",
    "walking right",
    "running",
    "jumping jacks",
    "squatting",
    "doing push-ups",
    "crawling",
    "punching",
    "punching a bag",
    "kicking",
    "falling",
    "standing up",
    "lying",
    "jumping",
    "throwing",
    "bending down",
)
"""Classes of one person."""

GROUPS = (
    "people fighting",
    "people talking",
    "people walking past each other",
    "people shaking hands",
    "someone running after someone",
)
"""Classes of several people."""

HANDS = (
    "hand moving left",
    "hand moving right",
    "hand moving up",
    "hand moving down",
    "hand circling clockwise",
    "hand circling counter-clockwise",
    "hand drawing a square",
    "hand drawing a triangle",
    "hand drawing a zigzag",
    "hand still",
    "hand tapping",
    "hand waving",
)
"""Classes of a hand, seen from the head of its owner."""

CLASSES = (*moving_shapes.CLASSES, *PEOPLE, *GROUPS, *HANDS)
"""Class names in index order; the first twenty are those of moving shapes."""

Array = np.ndarray
Random = np.random.Generator
Camera = tuple[Array, Array]
"""Offsets `(T, 2)` (y, x) and scale `(T,)` of what stands still."""

# --- one person ------------------------------------------------------------------------------------------------------

_FLAT = ("doing push-ups", "crawling", "lying")


def _draw_person(frames: Array, rng: Random, action: str, camera: Camera) -> None:
    pose, look, above = pose_of(action, rng, len(frames)), make_look(rng), rng.uniform(-0.1, 0.9)
    size = np.exp(rng.uniform(np.log(0.45), np.log(1.15))) * (1.2 if action in _FLAT else 1.0)
    # the feet of those who are larger than the picture are outside it
    x, y = rng.uniform(-0.45, 0.45), rng.uniform(0.4, 0.95) + max(0, size - 0.8) * 0.9
    if action in _FLAT:
        y = rng.uniform(0.0, 0.7)
    feet, sizes = _seen(x, y, camera), size * camera[1]
    if action != "punching a bag":
        baby = action == "crawling" and rng.random() < 0.6
        draw_body(frames, pose, look, feet, sizes, above, baby)
        return
    hang = _bag(rng, pose, x, y, size, camera)
    behind = np.cos(pose.yaw.mean()) < 0
    if behind:
        hang(frames)
    draw_body(frames, pose, look, feet, sizes, above)
    if not behind:
        hang(frames)


def _bag(rng: Random, pose: Pose, x: float, y: float, size: float, camera: Camera) -> Callable[[Array], None]:
    """Returns a function that draws the bag in front of a person."""
    yaw, reach = pose.yaw.mean(), size * 0.75
    middle_x, middle_y = x + reach * np.sin(yaw), y - size * rng.uniform(0.9, 1.3)
    swing = 0.12 * size * np.sin(cycles(rng, len(pose.yaw), 1, 4))
    top = np.stack(_seen(middle_x, middle_y - 0.6 * size, camera), -1)
    bottom = np.stack(_seen(middle_x + swing, middle_y + 0.35 * size, camera), -1)
    radius = size * rng.uniform(0.12, 0.25) * camera[1]
    colour = rng.uniform(10, 230, 3)
    return lambda frames: draw_capsule(frames, top, bottom, (radius, radius), colour, 0)


def _seen(x: Array | float, y: Array | float, camera: Camera) -> tuple[Array, Array]:
    offset, scale = camera
    return scale * x + offset[:, 1], scale * y + offset[:, 0]


# --- groups ----------------------------------------------------------------------------------------------------------

Standing = tuple[Pose, float, float]
"""A pose, and its place on the ground from the group's centre: to the right, and towards the camera."""


def _fighting(rng: Random, n: int, axis: float) -> list[Standing]:
    people = []
    for i in range(int(rng.integers(2, 5))):
        pose = pose_of("fighting", rng, n)
        angle = axis + i * np.pi + (rng.uniform(-0.6, 0.6) if i > 1 else 0)
        distance = rng.uniform(0.25, 0.5)
        pose.yaw = angle + np.pi + 0.4 * np.sin(cycles(rng, n, 1, 4))
        people.append((pose, distance * np.sin(angle), distance * np.cos(angle)))
    return people


def _talking(rng: Random, n: int, axis: float) -> list[Standing]:
    people = []
    for i in range(int(rng.integers(2, 5))):
        pose = pose_of("standing", rng, n)
        if rng.random() < 0.5:
            phase = cycles(rng, n, 1, 3)
            pose.arms[0], pose.elbows[0] = 0.3 + 0.2 * np.sin(phase), 1.4 + 0.4 * np.sin(phase)
        angle, distance = axis + i * 2 * np.pi / 3 + rng.uniform(-0.5, 0.5), rng.uniform(0.4, 0.9)
        pose.yaw = np.full(n, angle + np.pi)
        people.append((pose, distance * np.sin(angle), distance * np.cos(angle)))
    return people


def _passing(rng: Random, n: int, axis: float) -> list[Standing]:
    return [
        (pose_of("walking", rng, n), rng.uniform(-0.9, 0.9), rng.uniform(-0.9, 0.9))
        for _ in range(int(rng.integers(2, 5)))
    ]


def _shaking_hands(rng: Random, n: int, axis: float) -> list[Standing]:
    phase = cycles(rng, n, 1, 4)
    people = []
    for i in range(2):
        pose = pose_of("standing", rng, n)
        pose.arms[1], pose.elbows[1] = 0.7 + 0.15 * np.sin(phase), np.full(n, 0.6)
        angle = axis + i * np.pi
        pose.yaw = np.full(n, angle + np.pi)
        people.append((pose, 0.42 * np.sin(angle), 0.42 * np.cos(angle)))
    return people


def _chasing(rng: Random, n: int, axis: float) -> list[Standing]:
    way, distance = int(rng.choice((-1, 1))), rng.uniform(2, 3.5)
    people = []
    for i in range(2):
        pose = pose_of("running", rng, n)
        pose.yaw, pose.x, pose.z = np.full(n, way * np.pi / 2), way * distance * np.linspace(-0.5, 0.5, n), np.zeros(n)
        people.append((pose, -i * way * rng.uniform(0.6, 1.1), rng.uniform(-0.15, 0.15)))
    return people


_GROUPS = dict(zip(GROUPS, (_fighting, _talking, _passing, _shaking_hands, _chasing), strict=True))


def _draw_group(frames: Array, rng: Random, label: str, camera: Camera) -> None:
    """Draws a group and up to three bystanders, those behind first."""
    n, above = len(frames), rng.uniform(0.1, 1.0)
    size = np.exp(rng.uniform(np.log(0.3), np.log(0.9)))
    x0, y0 = rng.uniform(-0.35, 0.35), rng.uniform(0.3, 0.9) + max(0, size - 0.7) * 0.6
    people = _GROUPS[label](rng, n, rng.uniform(0, 2 * np.pi))
    for _ in range(int(rng.integers(0, 4))):
        pose = pose_of("standing" if rng.random() < 0.6 else "walking", rng, n)
        people.append((pose, rng.choice((-1, 1)) * rng.uniform(1.0, 2.2), rng.uniform(-2.5, 1)))
    for pose, x, z in sorted(people, key=lambda standing: standing[2]):
        feet = _seen(x0 + size * x, y0 + size * z * np.sin(above) * 0.6, camera)
        draw_body(frames, pose, make_look(rng), feet, size * camera[1] * (1 + 0.12 * z), above)


# --- hands -----------------------------------------------------------------------------------------------------------

_LINES = {
    "hand moving left": ((1, 0), (-1, 0)),
    "hand moving right": ((-1, 0), (1, 0)),
    "hand moving up": ((0, 1), (0, -1)),
    "hand moving down": ((0, -1), (0, 1)),
    "hand drawing a square": ((-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1)),
    "hand drawing a triangle": ((0, -1), (1, 0.8), (-1, 0.8), (0, -1)),
    "hand drawing a zigzag": ((-1, -0.7), (-0.4, 0.7), (0.2, -0.7), (0.8, 0.7), (1, -0.5)),
    "hand still": ((0, 0), (0.02, 0)),
    "hand tapping": ((0, 0), (0, 0.35), (0, 0), (0, 0.35), (0, 0)),
    "hand waving": ((0, 0), (0.6, 0), (-0.6, 0), (0.6, 0), (-0.6, 0), (0, 0)),
}
_EITHER_WAY = ("hand drawing a square", "hand drawing a triangle")


def _line(label: str, start: float) -> Array:
    """Returns the corners `(N, 2)` of what a hand draws; circles begin at the angle `start`."""
    if label in _LINES:
        return np.array(_LINES[label], float)
    turn = np.linspace(0, 2 * np.pi, 24) * (1 if label == "hand circling clockwise" else -1)
    return np.stack([np.cos(start + turn), np.sin(start + turn)], -1)


def _along(corners: Array, num_frames: int, rng: Random) -> Array:
    """Makes positions `(T, 2)` along a line at an even speed, with a rest before and behind it."""
    lengths = np.r_[0, np.cumsum(np.hypot(*np.diff(corners, axis=0).T))]
    first, last = rng.uniform(0, 0.2), rng.uniform(0.75, 1)
    gone = ((np.linspace(0, 1, num_frames) - first) / (last - first)).clip(0, 1) * lengths[-1]
    return np.stack([np.interp(gone, lengths, corners[:, i]) for i in (0, 1)], -1)


def _draw_hand(frames: Array, rng: Random, label: str, camera: Camera) -> None:
    """Draws a forearm from below, a palm, and one finger or five."""
    n, reach = len(frames), rng.uniform(0.35, 0.65)
    corners = _line(label, rng.uniform(0, 2 * np.pi) if rng.random() < 0.5 else np.pi / 2)
    if label in _EITHER_WAY and rng.random() < 0.5:
        corners = corners[::-1]
    path = _along(corners * reach * rng.uniform(0.8, 1.2, 2), n, rng)
    path = path + rng.uniform(-0.2, 0.2, 2) + (0, 0.1) + 0.5 * camera[0][:, ::-1] + rng.normal(0, 0.01, (n, 2))
    look, thick = make_look(rng), rng.uniform(0.09, 0.2)
    elbow = (rng.uniform(-0.5, 1.0), 1.4) + 0.3 * (path - path.mean(0))
    arm = elbow - path
    wrist = path + arm * (1.6 * thick / np.linalg.norm(arm, axis=1, keepdims=True))
    sleeve = look.top if rng.random() < 0.6 else look.skin

    def draw(a: Array, b: Array, first: float, last: float, colour: Array) -> None:
        draw_capsule(frames, a, b, (np.full(n, first * thick), np.full(n, last * thick)), colour, 0)

    draw(elbow, wrist, 1.2, 0.7, sleeve)
    draw(wrist, path, 0.75, 0.9, look.skin)
    angle = rng.uniform(-0.8, 0.2) + 0.1 * np.sin(cycles(rng, n, 0.5, 2))
    for bend in (0.0,) if rng.random() < 0.6 else (-0.5, -0.2, 0.1, 0.4, 1.0):
        finger = np.stack([np.sin(angle + bend), -np.cos(angle + bend)], -1)
        draw(path, path + 1.9 * thick * finger, 0.32, 0.25, look.skin)


# --- clips -----------------------------------------------------------------------------------------------------------


def make_clip(label: int, rng: Random, num_frames: int = 16, size: int = 64) -> Array:
    """Makes one clip of a class of `CLASSES`: uint8 RGB `(num_frames, size, size, 3)`."""
    name, shapes = CLASSES[label], label < len(moving_shapes.CLASSES)
    if shapes and rng.random() < 0.5:
        return moving_shapes.make_clip(label, rng, num_frames, size)
    # the camera stands where its motion could be taken for that of the class
    frames, offset, scale = film_place(rng, num_frames, size, 0.0 if shapes or name in HANDS else 0.4)
    if shapes:
        draw_tracks(frames, moving_shapes.make_tracks(label, rng, num_frames), offset)
    else:
        draw = _draw_person if name in PEOPLE else _draw_group if name in GROUPS else _draw_hand
        draw(frames, rng, name, (offset, scale))
    return expose(frames, rng)


def write_set(path: Path, num_clips: int, seed: int) -> None:
    """Writes clips of 16 x 64 x 64, spread evenly over the classes, as an `.npz` file that the trainer takes.

    Clip `i` depends on the seed and `i` alone.
    """
    labels = np.arange(num_clips) % len(CLASSES)
    clips = np.empty((num_clips, 16, 64, 64, 3), np.uint8)
    with ProcessPoolExecutor(initializer=follow_main) as pool:
        for i, clip in enumerate(pool.map(_numbered, [(seed, i) for i in range(num_clips)], chunksize=50)):
            clips[i] = clip
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as draft, draft.open("wb") as file:
        np.savez(file, clips=clips, labels=labels, classes=np.array(CLASSES))


def _numbered(number: tuple[int, int]) -> Array:
    return make_clip(number[1] % len(CLASSES), np.random.default_rng(number))
