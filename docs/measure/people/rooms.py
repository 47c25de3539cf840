"""Pictures of places, seen by moving cameras in any light, for clips of people; numpy only.

A place is a dead-leaves picture, things of all sizes over one another, on noise whose amplitude falls with frequency as
that of photographs does (https://arxiv.org/abs/2106.05963 compares such pictures for training).
"""

import numpy as np

from vov3d.synthetic.drawing import Array, Random, blurred, make_shaking

_MARGIN = 1.5  # sides of a place, in those of a frame
_GREY = np.array([0.3, 0.59, 0.11], np.float32)


def make_noise(rng: Random, size: int, power: float) -> Array:
    """Makes coloured noise `(size, size, 3)`, amplitude 1 / frequency ** power, of deviation 1 or more."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    frequency[0, 0] = np.inf
    shape = (3, *frequency.shape)
    spectrum = (rng.normal(size=shape) + 1j * rng.normal(size=shape)) / frequency**power
    noise = np.fft.irfft2(spectrum, s=(size, size)).transpose(1, 2, 0)
    noise /= noise.std()
    return (noise[..., :1] + rng.uniform(0, 0.6) * noise).astype(np.float32)


def make_place(rng: Random, size: int) -> Array:
    """Draws a wall, often a floor, and up to 21 things: float32 `(size, size, 3)`."""
    y, x = np.meshgrid(*[np.linspace(-1, 1, size, dtype=np.float32)] * 2, indexing="ij", sparse=True)
    picture = _colour(rng) + rng.uniform(8, 45) * make_noise(rng, size, rng.uniform(0.8, 1.6))
    if rng.random() < 0.6:
        horizon = rng.uniform(-0.3, 0.5) + rng.uniform(-0.3, 0.3) * x
        floor = _colour(rng) + rng.uniform(5, 35) * make_noise(rng, size, rng.uniform(0.6, 1.6))
        picture = np.where((y > horizon)[..., None], floor, picture)
    for _ in range(int(rng.integers(0, 22))):
        _draw_thing(picture, x, y, rng)
    return picture


def _colour(rng: Random) -> Array:
    return rng.uniform(30, 220, 3).astype(np.float32)


def _draw_thing(picture: Array, x: Array, y: Array, rng: Random) -> None:
    """Draws a box or an ellipse, plain, shaded or striped."""
    centre_x, centre_y = rng.uniform(-1.1, 1.1, 2)
    turn = rng.uniform(0, np.pi) if rng.random() < 0.4 else 0.0
    width, height = np.exp(rng.uniform(np.log(0.04), np.log(0.6), 2))
    u = np.cos(turn) * (x - centre_x) + np.sin(turn) * (y - centre_y)
    v = np.cos(turn) * (y - centre_y) - np.sin(turn) * (x - centre_x)
    box = rng.random() < 0.7
    inside = (np.abs(u) < width) & (np.abs(v) < height) if box else (u / width) ** 2 + (v / height) ** 2 < 1
    rows, columns = np.nonzero(inside)
    if not len(rows):
        return
    colour = rng.uniform(10, 245, 3) if rng.random() < 0.5 else rng.uniform(10, 245) * np.ones(3)
    shade, stripes = 0.0, 0.0
    if rng.random() < 0.5:
        shade = rng.uniform(-40, 40) * v[rows, columns][:, None]
    if rng.random() < 0.4:
        stripes = rng.uniform(0, 40) * np.sin(rng.uniform(5, 40) * u[rows, columns] + 1)[:, None]
    picture[rows, columns] = colour + shade + stripes


def film_place(rng: Random, num_frames: int, size: int, moving: float) -> tuple[Array, Array, Array]:
    """Films a place with a camera that shakes, and pans and zooms with a probability of `moving` each.

    Returns:
        float32 frames `(T, size, size, 3)`, the offsets `(T, 2)` (y, x) of what stands still, in halves of the frame's
        side, and its scale `(T,)`.
    """
    large = int(size * _MARGIN)
    place = make_place(rng, large)
    t = np.linspace(-0.5, 0.5, num_frames)[:, None]
    offset = make_shaking(rng, num_frames) * rng.uniform(0.5, 2)
    if rng.random() < moving:
        offset = offset + rng.uniform(-0.3, 0.3, 2) * t
    scale = np.exp(rng.uniform(-0.15, 0.15) * t[:, 0]) if rng.random() < moving else np.ones(num_frames)
    frames = [_seen(place, size, *camera) for camera in zip(offset, scale, strict=True)]
    return np.stack(frames), offset, scale


def _seen(place: Array, size: int, offset: Array, scale: float) -> Array:
    """Returns a frame `(size, size, 3)` of a place, between whose pixels it interpolates."""
    last = len(place) - 1
    where = (np.linspace(-1, 1, size) - offset[:, None]) / scale / _MARGIN
    where = ((where + 1) / 2 * last).clip(0, last - 0.001)
    (row, column), (down, right) = where.astype(int), (where % 1).astype(np.float32)[..., None]
    lines = place[row] * (1 - down[:, None]) + place[row + 1] * down[:, None]
    return lines[:, column] * (1 - right) + lines[:, column + 1] * right


def expose(frames: Array, rng: Random) -> Array:
    """Returns frames as cameras of all kinds give them: grey or pale, dark or flat, blurred, with noise; uint8."""
    grey = (frames @ _GREY)[..., None]
    colour = 0.0 if rng.random() < 0.2 else rng.uniform(0.2, 1)
    frames = grey + colour * (frames - grey)
    frames = (frames / 255).clip(0, 1) ** np.float32(np.exp(rng.uniform(-0.5, 0.9)))
    frames = rng.uniform(0.35, 1) * frames + (rng.uniform(0, 0.3) if rng.random() < 0.5 else 0)
    frames = frames * rng.uniform(0.85, 1.15, 3).astype(np.float32)
    for _ in range(int(rng.integers(0, 3))):
        frames = blurred(frames, rng.uniform(0.1, 0.6))
    frames = 255 * frames + rng.standard_normal(frames.shape, np.float32) * np.float32(rng.uniform(1, 9))
    return frames.clip(0, 255).astype(np.uint8)
