"""Bodies of jointed limbs, drawn as shaded capsules, and what they do; numpy only.

A body stands in a frame of its own: x to its left, y up, z to the front, the hips in the origin, lengths in halves of a
standing body. Angles are radians, all tracks have T frames.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from vov3d.synthetic.drawing import Array, Random

# --- poses -----------------------------------------------------------------------------------------------------------


@dataclass
class Pose:
    """Joints of a body over T frames; of arms and legs the left one comes first.

    Attributes:
        arms: Angles of the upper arms to the front; 0 hangs.
        arms_out: Their angles to the side.
        elbows: How far the elbows are bent.
        legs: As `arms`, of the thighs.
        legs_out: Their angles to the side.
        knees: How far the knees are bent.
        pitch: How far the whole body is turned to the front; pi / 2 is prone.
        lean: How far the trunk is bent forward.
        x: Place of the body on the ground, to the right of the picture.
        z: The same, towards the camera.
        height: Of the hips; 1 is that of a standing body.
        yaw: Where the body looks; 0 is towards the camera.
    """

    arms: list[Array]
    arms_out: list[Array]
    elbows: list[Array]
    legs: list[Array]
    legs_out: list[Array]
    knees: list[Array]
    pitch: Array
    lean: Array
    x: Array
    z: Array
    height: Array
    yaw: Array


def stand(rng: Random, num_frames: int) -> Pose:
    """Makes a body that stands and sways."""
    still = np.zeros(num_frames)

    def sway(amplitude: float) -> Array:
        return amplitude * np.sin(np.linspace(0, rng.uniform(1, 5), num_frames) + rng.uniform(0, 6))

    arms = [still + rng.uniform(-0.2, 0.4) + sway(0.06) for _ in range(2)]
    arms_out = [still + rng.uniform(0.05, 0.3)] * 2
    elbows = [still + rng.uniform(0, 0.9) for _ in range(2)]
    legs = [still + rng.uniform(-0.1, 0.15) for _ in range(2)]
    legs_out = [still + rng.uniform(0.02, 0.2)] * 2
    lean = still + rng.uniform(-0.05, 0.15) + sway(0.03)
    yaw = still + rng.uniform(0, 2 * np.pi) + sway(0.1)
    return Pose(arms, arms_out, elbows, legs, legs_out, [still + 0.05] * 2, still, lean, still, still, still + 1, yaw)


def cycles(rng: Random, num_frames: int, fewest: float, most: float) -> Array:
    """Makes a phase of so many cycles, which begins anywhere."""
    return rng.uniform(0, 2 * np.pi) + 2 * np.pi * rng.uniform(fewest, most) * np.linspace(0, 1, num_frames)


def _pulses(phase: Array) -> Array:
    return np.maximum(np.sin(phase), 0) ** 1.5


def _time(num_frames: int) -> Array:
    return np.linspace(-0.5, 0.5, num_frames)


def _once(rng: Random, num_frames: int, early: float, late: float, fast: float) -> Array:
    """Makes a change from 0 to 1 at some time around the middle."""
    return ((_time(num_frames) + rng.uniform(early, late)) * fast + 0.5).clip(0, 1)


def go(pose: Pose, rng: Random, n: int, way: int | None = None, run: bool = False) -> None:
    """Walks or runs to the left (-1) or the right (1); the camera follows three in ten."""
    phase = cycles(rng, n, 2, 4) if run else cycles(rng, n, 1, 2.2)
    any_way = int(rng.choice((-1, 1)))
    way = any_way if way is None else way
    stride = rng.uniform(0.6, 0.9) if run else rng.uniform(0.35, 0.6)
    bend = stride * (1.1 if run else 0.6)
    pose.legs = [stride * np.sin(phase), -stride * np.sin(phase)]
    pose.knees = [bend * (1 + np.cos(phase)), bend * (1 - np.cos(phase))]
    pose.arms = [-stride * np.sin(phase), stride * np.sin(phase)]
    pose.elbows = [np.full(n, 1.5 if run else rng.uniform(0.1, 0.5))] * 2
    pose.lean = np.full(n, 0.25 if run else 0.05)
    tilt = rng.uniform(-0.6, 0.6)
    pose.yaw = np.full(n, way * np.pi / 2 + tilt)
    distance = rng.uniform(1.2, 2.4) * (1.5 if run else 0.8)
    if rng.random() < 0.3:
        distance = 0.0
    pose.x, pose.z = way * distance * _time(n), distance * _time(n) * np.sin(tilt)
    pose.height = 1 - 0.04 * np.abs(np.sin(phase))


def _wave(pose: Pose, rng: Random, n: int) -> None:
    phase = cycles(rng, n, 2, 5)
    side = int(rng.integers(2))
    pose.arms_out[side] = rng.uniform(1.8, 2.6) + 0.35 * np.sin(phase)
    pose.arms[side] = np.zeros(n)
    pose.yaw = np.full(n, rng.uniform(-0.7, 0.7))


def _jack(pose: Pose, rng: Random, n: int) -> None:
    open_ = 0.5 - 0.5 * np.cos(cycles(rng, n, 1.5, 3))
    still = np.zeros(n)
    pose.arms_out, pose.arms, pose.elbows = [0.2 + 2.5 * open_] * 2, [still] * 2, [still + 0.1] * 2
    pose.legs_out, pose.legs = [0.08 + 0.5 * open_] * 2, [still] * 2
    pose.height = 1 + 0.05 * np.sin(np.pi * open_) - 0.1 * open_
    pose.yaw = np.full(n, rng.uniform(-0.7, 0.7) + rng.choice((0, np.pi)))


def _squat(pose: Pose, rng: Random, n: int) -> None:
    low = 0.5 - 0.5 * np.cos(cycles(rng, n, 1, 2.5))
    pose.legs, pose.knees, pose.lean = [1.5 * low] * 2, [2.0 * low] * 2, 0.6 * low
    pose.arms, pose.height = [1.4 * low] * 2, 1 - 0.45 * low


def _push_up(pose: Pose, rng: Random, n: int) -> None:
    low = 0.5 - 0.5 * np.cos(cycles(rng, n, 1.2, 3.2))
    still = np.zeros(n)
    pose.pitch = 1.3 + 0.22 * low
    pose.arms, pose.arms_out, pose.elbows = [1.5 + 0.3 * low] * 2, [0.15 + 0.8 * low] * 2, [-1.4 * low] * 2
    pose.legs, pose.legs_out, pose.knees, pose.lean = [still + 0.05] * 2, [still + 0.06] * 2, [still] * 2, still
    pose.height = 0.34 - 0.17 * low


def _crawl(pose: Pose, rng: Random, n: int) -> None:
    phase = cycles(rng, n, 1, 3)
    pose.pitch = np.full(n, np.pi / 2 - rng.uniform(0, 0.2))
    pose.arms = [1.55 + 0.45 * np.sin(phase), 1.55 - 0.45 * np.sin(phase)]
    pose.legs = [1.5 - 0.35 * np.sin(phase), 1.5 + 0.35 * np.sin(phase)]
    pose.knees, pose.elbows = [np.full(n, 1.6)] * 2, [np.full(n, 0.1)] * 2
    pose.lean, pose.height = np.zeros(n), np.full(n, 0.45)
    yaw = rng.uniform(0, 2 * np.pi)
    distance = rng.uniform(0.3, 1.3) * (rng.random() < 0.8)
    pose.yaw = yaw + 0.2 * _time(n)
    pose.x, pose.z = np.sin(yaw) * distance * _time(n), np.cos(yaw) * distance * _time(n)


def _punch(pose: Pose, rng: Random, n: int) -> None:
    phase = cycles(rng, n, 2, 6)
    first, second = _pulses(phase), _pulses(phase + np.pi) if rng.random() < 0.7 else np.zeros(n)
    pose.arms, pose.elbows = [0.5 + 1.1 * first, 0.5 + 1.1 * second], [2.2 - 2.1 * first, 2.2 - 2.1 * second]
    pose.yaw = pose.yaw + 0.4 * (first - second)
    pose.legs, pose.lean = [np.full(n, 0.3), np.full(n, -0.3)], np.full(n, 0.15)
    pose.z = 0.05 * np.sin(phase / 2)


def _kick(pose: Pose, rng: Random, n: int) -> None:
    up = _pulses(cycles(rng, n, 1, 3.5))
    pose.legs, pose.knees = [1.7 * up, np.full(n, -0.1)], [2.4 * up * (1 - up), np.full(n, 0.1)]
    pose.lean, pose.arms, pose.elbows = -0.3 * up, [np.full(n, 0.6)] * 2, [np.full(n, 1.8)] * 2


def _fall(pose: Pose, rng: Random, n: int, up: bool = False) -> None:
    down = ((_time(n) + rng.uniform(-0.15, 0.15)) * rng.uniform(2, 4) + 0.5).clip(0, 1)
    down = 1 - down if up else down**1.5
    pose.pitch, pose.height = rng.choice((-1, 1)) * 1.5 * down, 1 - 0.87 * down
    pose.arms_out, pose.knees = [0.2 + 0.9 * down] * 2, [0.6 * np.sin(np.pi * down)] * 2


def _lie(pose: Pose, rng: Random, n: int) -> None:
    pose.pitch, pose.height = np.full(n, rng.choice((-1, 1)) * 1.5), np.full(n, 0.13)


def _jump(pose: Pose, rng: Random, n: int) -> None:
    wave = np.maximum(np.sin(cycles(rng, n, 1, 3)), -0.4)
    up, down = np.maximum(wave, 0), np.maximum(-wave, 0)
    pose.height = 1 + 0.35 * up - 0.5 * down
    pose.knees, pose.legs, pose.arms = [2.5 * down] * 2, [1.3 * down] * 2, [1.5 * wave] * 2


def _throw(pose: Pose, rng: Random, n: int) -> None:
    done = _once(rng, n, -0.2, 0.2, 3)
    pose.arms[0], pose.elbows[0] = 3.6 - 3.0 * done, 1.6 - 1.5 * np.sin(np.pi * done / 2)
    pose.lean, pose.legs = 0.35 * done, [np.full(n, -0.2), np.full(n, 0.3)]


def _bend(pose: Pose, rng: Random, n: int) -> None:
    low = np.sin(np.pi * (_time(n) * rng.uniform(0.8, 1.2) + 0.5)).clip(0, 1)
    pose.lean, pose.arms, pose.knees, pose.legs = 1.5 * low, [1.3 * low] * 2, [0.5 * low] * 2, [0.2 * low] * 2
    pose.height = 1 - 0.12 * low


def _fight(pose: Pose, rng: Random, n: int) -> None:
    """Punches and perhaps kicks, in no order; one in four falls."""
    phase, slow = cycles(rng, n, 2, 6), cycles(rng, n, 1, 5)
    first, second = _pulses(phase), _pulses(phase + rng.uniform(2, 4))
    kick = _pulses(slow) * (rng.random() < 0.5)
    pose.arms, pose.elbows = [0.4 + 1.3 * first, 0.4 + 1.3 * second], [2.0 - 1.9 * first, 2.0 - 1.9 * second]
    pose.arms_out = [0.2 + 0.5 * rng.random() * second, 0.2 + 0.5 * rng.random() * first]
    pose.legs, pose.knees = [0.2 + 1.2 * kick, -0.3 + 0.2 * np.sin(slow)], [0.3 + 0.8 * kick, np.full(n, 0.3)]
    pose.lean = 0.2 + 0.35 * np.sin(slow * 0.7)
    pose.x, pose.z = 0.25 * rng.random() * np.sin(slow), 0.2 * rng.random() * np.sin(phase * 0.5)
    if rng.random() < 0.25:
        down = _once(rng, n, -0.2, 0.3, 3)
        pose.pitch, pose.height = rng.choice((-1, 1)) * 1.4 * down, 1 - 0.8 * down


_ACTIONS: dict[str, Callable[[Pose, Random, int], None]] = {
    "standing": lambda pose, rng, n: None,
    "waving": _wave,
    "walking left": lambda pose, rng, n: go(pose, rng, n, -1),
    "walking right": lambda pose, rng, n: go(pose, rng, n, 1),
    "walking": go,
    "running": lambda pose, rng, n: go(pose, rng, n, run=True),
    "jumping jacks": _jack,
    "squatting": _squat,
    "doing push-ups": _push_up,
    "crawling": _crawl,
    "punching": _punch,
    "punching a bag": _punch,
    "kicking": _kick,
    "falling": _fall,
    "standing up": lambda pose, rng, n: _fall(pose, rng, n, up=True),
    "lying": _lie,
    "jumping": _jump,
    "throwing": _throw,
    "bending down": _bend,
    "fighting": _fight,
}


def pose_of(action: str, rng: Random, num_frames: int) -> Pose:
    """Makes the pose of a body that does this."""
    pose = stand(rng, num_frames)
    _ACTIONS[action](pose, rng, num_frames)
    return pose


# --- looks -----------------------------------------------------------------------------------------------------------

_SKINS = ((235, 200, 175), (200, 150, 120), (120, 80, 60), (90, 60, 45))


class Look(NamedTuple):
    """Colours of a body, the girth of its limbs relative to the usual one, and the stripes of its trunk (0: none)."""

    skin: Array
    top: Array
    legs: Array
    hair: Array
    girth: float
    stripes: float


def make_look(rng: Random) -> Look:
    """Draws skin and clothes."""
    skin = np.array(_SKINS[int(rng.integers(4))]) + rng.normal(0, 10, 3)

    def colour() -> Array:
        return rng.uniform(15, 240, 3) if rng.random() < 0.5 else rng.uniform(15, 240) + rng.normal(0, 8, 3)

    top, legs = colour(), colour() if rng.random() < 0.8 else skin
    hair, girth = rng.uniform(10, 120, 3), rng.uniform(0.75, 1.3)
    return Look(skin, top, legs, hair, girth, rng.uniform(8, 30) if rng.random() < 0.25 else 0.0)


# --- drawing ---------------------------------------------------------------------------------------------------------


class _Build(NamedTuple):
    """Lengths of a body: its head, its trunk, and half an arm and half a leg."""

    head: float
    trunk: float
    arm: float
    leg: float


_ADULT, _BABY = _Build(0.24, 0.85, 0.45, 0.72), _Build(0.36, 0.75, 0.36, 0.5)
_HEIGHT = 1.25  # half of a standing body, in the lengths above
_RADII = {
    "trunk": (0.17, 0.21),
    "arm": (0.075, 0.06),
    "forearm": (0.06, 0.045),
    "thigh": (0.105, 0.08),
    "shin": (0.075, 0.05),
}


def draw_capsule(frames: Array, a: Array, b: Array, radius: tuple[Array, Array], colour: Array, stripes: float) -> None:
    """Draws a limb into frames `(T, S, S, 3)`, darker at its sides.

    Args:
        frames: What is there.
        a: One end `(T, 2)`, x and y from the centre, in halves of the frame's side.
        b: The other end.
        radius: `(T,)` at each end, in the same unit.
        colour: RGB.
        stripes: Radians of a pattern along the limb; 0 for none.
    """
    size = frames.shape[1]
    grid = np.linspace(-1, 1, size, dtype=np.float32)
    for frame, start, end, first, last in zip(frames, a, b, *radius, strict=True):
        margin = max(first, last) + 2 / size
        left, top = np.searchsorted(grid, np.minimum(start, end) - margin)
        right, bottom = np.searchsorted(grid, np.maximum(start, end) + margin)
        if left >= right or top >= bottom:
            continue
        x, y = grid[None, left:right] - start[0], grid[top:bottom, None] - start[1]
        way = end - start
        along = ((x * way[0] + y * way[1]) / (float(way @ way) + 1e-9)).clip(0, 1)
        beside = x - along * way[0]
        distance = np.hypot(beside, y - along * way[1])
        reach = first + (last - first) * along
        alpha = ((reach - distance) * (size / 2) + 0.5).clip(0, 1)[..., None]
        light = 1 - 0.35 * (distance / reach).clip(0, 1) ** 2 + 0.12 * np.sign(beside)
        if stripes:
            light = light * (1 - 0.3 * (np.sin(along * stripes) > 0))
        part = frame[top:bottom, left:right]
        part += alpha * (light[..., None] * colour - part)


def draw_body(
    frames: Array, pose: Pose, look: Look, feet: tuple[Array, Array], size: Array, above: float, baby: bool = False
) -> None:
    """Draws a body into frames `(T, S, S, 3)`.

    Args:
        frames: What is there.
        pose: What it does.
        look: Its colours.
        feet: x and y `(T,)` of the ground below it, from the centre, in halves of the frame's side.
        size: Half of its height when it stands, `(T,)`, in the same unit.
        above: Angle from which the camera looks down.
        baby: A large head and short limbs.
    """
    build = _BABY if baby else _ADULT
    seen = _projection(pose, feet, size, above, 2 * build.leg * pose.height)
    drawn = []
    for name, (a, b) in _limbs(pose, build).items():
        kind = name.rstrip("01")
        (start, near), (end, far) = seen(a), seen(b)
        skull = 0.45 * build.head + 0.02
        first, last = _RADII.get(kind, (0, 0))
        radii = (skull, skull) if kind == "head" else (first * look.girth, last * look.girth)
        colour = {"trunk": look.top, "arm": look.top, "thigh": look.legs, "shin": look.legs}.get(kind, look.skin)
        drawn.append(((near + far).mean(), start, end, radii, colour, look.stripes if kind == "trunk" else 0.0))
        if kind == "head":
            up = (b - a) / 0.06
            back, depth = seen(a - np.array([0, 0, 0.05]) + 0.05 * up)
            drawn.append((2 * depth.mean() - 0.02, back, back, (1.02 * skull, 1.02 * skull), look.hair, 0.0))
    for _, start, end, radii, colour, stripes in sorted(drawn, key=lambda limb: limb[0]):
        draw_capsule(frames, start, end, (size * radii[0] / _HEIGHT, size * radii[1] / _HEIGHT), colour, stripes)


def _limbs(pose: Pose, build: _Build) -> dict[str, tuple[Array, Array]]:
    """Returns both ends of all limbs, each `(T, 3)`, in the frame of the body."""
    hips = np.zeros((len(pose.lean), 3))
    up = np.stack([0 * pose.lean, np.cos(pose.lean), np.sin(pose.lean)], -1)
    chest = hips + build.trunk * up
    face = chest + 0.85 * build.head * up
    limbs = {"trunk": (hips, chest)}
    for i, side in enumerate((-1, 1)):
        shoulder = chest + np.array([side * 0.24, -0.04, 0]) - 0.05 * up
        elbow = shoulder + build.arm * _direction(pose.arms[i], pose.arms_out[i], side)
        out = pose.arms_out[i] * np.cos(pose.elbows[i])
        hand = elbow + build.arm * _direction(pose.arms[i] + pose.elbows[i], out, side)
        limbs[f"arm{i}"], limbs[f"forearm{i}"] = (shoulder, elbow), (elbow, hand)
        hip = hips + np.array([side * 0.13, 0, 0])
        knee = hip + build.leg * _direction(pose.legs[i], pose.legs_out[i], side)
        foot = knee + build.leg * _direction(pose.legs[i] - pose.knees[i], pose.legs_out[i], side)
        limbs[f"thigh{i}"], limbs[f"shin{i}"] = (hip, knee), (knee, foot)
    return limbs | {"head": (face, face + 0.06 * up)}


def _direction(forward: Array, out: Array, side: int) -> Array:
    """Returns unit vectors `(T, 3)` of a limb that hangs when both angles are 0."""
    x = side * np.sin(out) + 0 * forward
    return np.stack([x, -np.cos(out) * np.cos(forward), np.cos(out) * np.sin(forward)], -1)


def _projection(
    pose: Pose, feet: tuple[Array, Array], size: Array, above: float, height: Array
) -> Callable[[Array], tuple[Array, Array]]:
    """Returns a function that maps points `(T, 3)` of a body to the picture `(T, 2)`, and to their nearness `(T,)`."""
    cos_pitch, sin_pitch, cos_yaw, sin_yaw = np.cos(pose.pitch), np.sin(pose.pitch), np.cos(pose.yaw), np.sin(pose.yaw)

    def seen(points: Array) -> tuple[Array, Array]:
        x, y, z = points.T
        y, z = y * cos_pitch - z * sin_pitch, y * sin_pitch + z * cos_pitch
        x, z = x * cos_yaw + z * sin_yaw, z * cos_yaw - x * sin_yaw
        x, y, z = x + pose.x, y + height, z - pose.z
        down = np.cos(above) * y - np.sin(above) * z
        place = np.stack([feet[0] + size * x / _HEIGHT, feet[1] - size * down / _HEIGHT], -1)
        return place, z * np.cos(above) + y * np.sin(above)

    return seen
