"""Draws explanations: as an animation of the clip with its heat maps, or as a still with a row for each."""

import os
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from vov3d.extras import install
from vov3d.files import check_not_source, replacing
from vov3d.interpret.explanation import Explanation
from vov3d.video.picture import find_font, text_lines
from vov3d.video.reader import VideoReader
from vov3d.video.sources import Source, source_name
from vov3d.video.transforms import eval_transform

try:
    from PIL import Image, ImageDraw, ImageOps
except ImportError as error:
    raise ImportError(f"a picture needs Pillow: {install('video')}") from error

__all__ = ["ANIMATED", "STILL", "draw_animation", "draw_still", "heated", "save_explanations"]

ANIMATED = (".mp4", ".gif", ".webp")
"""Endings of files with an animation."""

STILL = (".png", ".jpg", ".jpeg")
"""Endings of files with a still."""

_SIDE, _MARGIN, _GAP = 288, 16, 8  # pixels
_SMALL_SIDE, _COLUMNS = 120, 8  # of a frame in a still, and frames in its row
_TITLE, _TEXT = 18, 15  # sizes of letters
_CURVE = 56  # height of the curve
_INK, _FAINT, _BAR, _LIGHT = "#1b1b1f", "#73737d", "#3d6fd9", "#eeeef2"
_LINES = ("#3d6fd9", "#d9663d", "#1d7f46", "#8e44ad")  # colours of the curves
# Colours of the map from 0 to 1: dark violet, red, orange, pale yellow; lighter means more.
_COLOURS = np.array([(40, 11, 84), (159, 42, 99), (229, 92, 48), (251, 180, 26), (252, 253, 191)], np.float32)
_OPACITY = 0.85  # of the map where it is 1
_MOST_FRAMES = 300  # of an animation; a longer stretch is thinned out
_OF_PALETTE = 12  # frames that the colours of a GIF are taken from
_PACE = 8.0  # frames per second of a clip without times
_LAST = 0.8  # seconds for which the last frame stays

Frames = tuple[torch.Tensor, Sequence[float]]  # uint8 (N, 3, S, S), and their seconds or numbers


def save_explanations(
    explanations: Sequence[Explanation], path: str | os.PathLike[str], video: Source | None = None
) -> None:
    """Writes an animation or a still, as the file's ending says.

    Args:
        explanations: One or more of the same clip, such as of several models or classes; they are shown side by side.
        path: A file in one of the formats `ANIMATED` or `STILL`; it is put in place whole or not at all.
        video: The video that was explained. If given, an animation shows all of its frames between the first and the
            last one of the clips, with the maps between those of the clips' frames.

    Raises:
        ValueError: If the ending is another, there is no explanation, the clips do not fit together, or the file is
            the video or the video another one.
        OSError: If the file cannot be written.
        ImportError: If a video is written without PyAV.
    """
    ending = check_ending(path)
    check_not_source(path, video)
    if ending in STILL:
        picture = draw_still(explanations)
        with replacing(os.fspath(path)) as draft:
            picture.save(draft)
        return
    pictures, seconds = draw_animation(explanations, video)
    with replacing(os.fspath(path)) as draft:
        if ending == ".mp4":
            _write_video(draft, pictures, seconds)
        else:
            pictures = _in_one_palette(pictures) if ending == ".gif" else pictures
            pace = [max(round(1000 * s), 20) for s in seconds]
            options: dict[str, Any] = {"quality": 80, "method": 4} if ending == ".webp" else {}
            pictures[0].save(draft, save_all=True, append_images=pictures[1:], duration=pace, loop=0, **options)


def check_ending(path: str | os.PathLike[str]) -> str:
    """Returns a file's ending.

    Raises:
        ValueError: If explanations cannot be written in its format.
    """
    ending = os.path.splitext(os.fspath(path))[1].lower()
    if ending not in (*ANIMATED, *STILL):
        raise ValueError(
            f"{os.fspath(path)}: an explanation's name must end in one of {', '.join((*ANIMATED, *STILL))}"
        )
    return ending


def heated(frames: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    """Lays maps over frames: the higher, the lighter and the less transparent.

    Args:
        frames: uint8 `(T, 3, H, W)`.
        maps: float `(T, H, W)` from 0 to 1.

    Returns:
        uint8 `(T, 3, H, W)`.
    """
    heat = maps.clamp(0, 1).cpu().numpy()
    place = heat**0.7 * (len(_COLOURS) - 1)
    below = np.minimum(place.astype(int), len(_COLOURS) - 2)
    colours = _COLOURS[below] + (place - below)[..., None] * (_COLOURS[below + 1] - _COLOURS[below])
    cover = (_OPACITY * np.sqrt(heat))[..., None]
    pictures = frames.permute(0, 2, 3, 1).cpu().numpy()
    # Grey frames let the colours of the map stand out.
    grey = pictures.mean(-1, keepdims=True) * 0.6 + pictures * 0.4
    mixed = grey + cover * (colours - grey)
    return torch.from_numpy(mixed.round().clip(0, 255).astype(np.uint8)).permute(0, 3, 1, 2)


# --- animation -------------------------------------------------------------------------------------------------------


def draw_animation(
    explanations: Sequence[Explanation], video: Source | None = None
) -> tuple[list[Image.Image], list[float]]:
    """Draws the clip beside its heat maps, with labels and the contribution of each frame, frame by frame.

    Args:
        explanations: As for `save_explanations`.
        video: As for `save_explanations`.

    Returns:
        RGB pictures of one size, and the seconds for which each is shown.

    Raises:
        ValueError: As `save_explanations`.
    """
    _check_alike(explanations)
    frames, times = _all_frames(explanations, video) if video is not None else _own_frames(explanations[0])
    panels = [frames, *(heated(frames, _fitted(e.map_at(times), frames)) for e in explanations)]
    board, top = _board(explanations)
    start, end = times[0], max(times[-1], times[0] + 1e-6)
    pictures = []
    for number, time in enumerate(times):
        picture = board.copy()
        for column, panel in enumerate(panels):
            place = (_MARGIN + column * (_SIDE + _GAP), top)
            picture.paste(_picture(panel[number], _SIDE), place)
        _draw_curves(picture, explanations, (start, end), time)
        pictures.append(picture)
    steps = [later - earlier for earlier, later in pairwise(times)]
    pace = [step if explanations[0].times else step / _PACE for step in steps]
    return pictures, [*pace, _LAST]


def _check_alike(explanations: Sequence[Explanation]) -> None:
    if not explanations:
        raise ValueError("there is nothing to draw: give at least one explanation")
    if len({e.times is None for e in explanations}) > 1:
        raise ValueError("the clips do not fit together: some are of a video, and some were given as tensors")


def _own_frames(explanation: Explanation) -> Frames:
    return explanation.frames, list(explanation.times or range(len(explanation.frames)))


def _all_frames(explanations: Sequence[Explanation], video: Source) -> Frames:
    """Reads the frames of a video between the first and the last one of the clips."""
    every = [time for e in explanations for time in e.times or ()]
    if not every:
        raise ValueError("the clips were given as tensors, so that no video belongs to them; leave video= out")
    # The crop of the models, the middle square, at the resolution of the picture.
    transform = eval_transform(
        {"input_size": (3, _SIDE, _SIDE), "mean": (0,) * 3, "std": (1,) * 3, "interpolation": "bilinear"}
    )
    with VideoReader(video) as reader:
        stamps = reader.timestamps.tolist()
        inside = [i for i, time in enumerate(stamps) if min(every) - 1e-6 <= time <= max(every) + 1e-6]
        if not inside:
            raise ValueError(
                f"{source_name(video)}: has no frame between {min(every):g} and {max(every):g} seconds, where the "
                "explained clips lie; give the video that was explained"
            )
        inside = inside[:: -(-len(inside) // _MOST_FRAMES)]
        read = dict(reader.stream(set(inside), transform.resize))
        return torch.stack([transform.cut(read[i][None])[0][0] for i in inside]), [stamps[i] for i in inside]


def _fitted(maps: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
    """Returns maps in the size of the frames: models take crops of several sizes, of the same part of the video."""
    return F.interpolate(maps[:, None], frames.shape[-2:], mode="bilinear")[:, 0]


def _picture(frame: torch.Tensor, side: int) -> Image.Image:
    picture = Image.fromarray(frame.permute(1, 2, 0).cpu().contiguous().numpy())
    return ImageOps.pad(picture, (side, side), Image.Resampling.BICUBIC, "white")


def _board(explanations: Sequence[Explanation]) -> tuple[Image.Image, int]:
    """Draws what stays the same in all frames; returns it with the height at which the panels begin."""
    panels = len(explanations) + 1
    width = 2 * _MARGIN + panels * _SIDE + (panels - 1) * _GAP
    heads = [("clip", ""), *((e.model, _said(e)) for e in explanations)]
    font, small = find_font(_TITLE), find_font(_TEXT)
    lines = [text_lines(said, small, _SIDE) if said else [] for _, said in heads]
    top = _MARGIN + round(1.4 * _TITLE) + max(map(len, lines)) * round(1.3 * _TEXT) + 4
    bars = explanations[0].predictions[:3] if len(explanations) == 1 else []
    height = top + _SIDE + _GAP + len(bars) * 30 + _CURVE + round(1.6 * _TEXT) + _MARGIN
    board = Image.new("RGB", (width + width % 2, height + height % 2), "white")
    draw = ImageDraw.Draw(board)
    for column, ((title, _), said) in enumerate(zip(heads, lines, strict=True)):
        x = _MARGIN + column * (_SIDE + _GAP)
        draw.text((x, _MARGIN), text_lines(title, font, _SIDE)[0], _INK, font)
        for row, line in enumerate(said):
            draw.text((x, _MARGIN + round(1.4 * _TITLE) + row * round(1.3 * _TEXT)), line, _FAINT, small)
    _draw_bars(draw, bars, top + _SIDE + _GAP, width - 2 * _MARGIN)
    return board, top


def _said(explanation: Explanation) -> str:
    return f"{explanation.target.label} {explanation.target.text}"


def _draw_bars(draw: Any, predictions: Sequence[Any], y: int, inner: int) -> None:
    font = find_font(_TEXT)
    for p in predictions:
        score = min(max(p.score, 0.0), 1.0)
        draw.text((_MARGIN, y), text_lines(p.label, font, inner - 80)[0], _INK, font)
        draw.text((_MARGIN + inner, y), p.text, _INK, font, anchor="ra")
        draw.rectangle((_MARGIN, y + 20, _MARGIN + inner, y + 25), _LIGHT)
        draw.rectangle((_MARGIN, y + 20, _MARGIN + max(score * inner, 1), y + 25), _BAR)
        y += 30


def _draw_curves(
    picture: Image.Image, explanations: Sequence[Explanation], span: tuple[float, float], now: float | None
) -> None:
    """Draws each frame's share of the maps over time at the foot of a picture, with a line at the present."""
    draw = ImageDraw.Draw(picture)
    font = find_font(_TEXT)
    left, right = _MARGIN, picture.width - _MARGIN
    foot = picture.height - _MARGIN
    head = foot - _CURVE
    draw.text((left, head - round(1.5 * _TEXT)), "share of each frame", _FAINT, font)
    draw.line((left, foot, right, foot), _FAINT, 1)
    most = max([float(e.per_frame.max()) for e in explanations] + [1e-9])

    def x_of(time: float) -> float:
        return left + (time - span[0]) / (span[1] - span[0]) * (right - left)

    for explanation, colour in zip(explanations, _LINES * len(explanations), strict=False):
        times = explanation.times or range(len(explanation.per_frame))
        points = [
            (x_of(time), foot - share / most * (_CURVE - 8))
            for time, share in zip(times, explanation.per_frame.tolist(), strict=True)
        ]
        if len(points) > 1:
            draw.line(points, colour, 3, joint="curve")
        for x, y in points:
            draw.ellipse((x - 3, y - 3, x + 3, y + 3), colour)
    if now is not None:
        draw.line((x_of(now), head, x_of(now), foot), _INK, 2)


def _in_one_palette(pictures: Sequence[Image.Image]) -> list[Image.Image]:
    """Returns pictures in the 256 colours that suit all of them; Pillow would look for others in each, for minutes."""
    some = pictures[:: -(-len(pictures) // _OF_PALETTE)]
    width, height = (side // 3 for side in pictures[0].size)
    board = Image.new("RGB", (width, height * len(some)))
    for number, picture in enumerate(some):
        board.paste(picture.resize((width, height), Image.Resampling.NEAREST), (0, number * height))
    palette = board.quantize(256)
    return [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]


def _write_video(path: Any, pictures: list[Image.Image], seconds: list[float]) -> None:
    """Writes an H.264 file of constant rate."""
    try:
        import av
    except ImportError as error:
        raise ImportError(f"writing a video needs PyAV: {install('video')}") from error
    mean = sum(seconds[:-1]) / max(len(seconds) - 1, 1) or 1 / _PACE
    rate = Fraction(min(max(1 / mean, 1.0), 60.0)).limit_denominator(1000)
    repeated = [*pictures, *[pictures[-1]] * max(round(seconds[-1] * rate) - 1, 0)]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "18"})
        stream.width, stream.height, stream.pix_fmt = *pictures[0].size, "yuv420p"
        for picture in repeated:
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode(None))


# --- still -----------------------------------------------------------------------------------------------------------


def draw_still(explanations: Sequence[Explanation]) -> Image.Image:
    """Draws the frames of the clip, and below them a row with the heat maps of each explanation.

    Args:
        explanations: As for `save_explanations`.

    Returns:
        An RGB picture.

    Raises:
        ValueError: As `save_explanations`.
    """
    _check_alike(explanations)
    rows: list[tuple[str, torch.Tensor]] = [("clip", _some(explanations[0].frames))]
    rows += [(f"{e.model}: {_said(e)}", heated(_some(e.frames), _some(e.map))) for e in explanations]
    columns = max(len(frames) for _, frames in rows)
    inner = columns * (_SMALL_SIDE + _GAP) - _GAP
    step = _SMALL_SIDE + round(1.6 * _TITLE)
    height = _MARGIN + len(rows) * step + 2 * _TEXT + _CURVE + _MARGIN
    board = Image.new("RGB", (inner + 2 * _MARGIN, height), "white")
    draw, font = ImageDraw.Draw(board), find_font(_TITLE)
    for row, (title, frames) in enumerate(rows):
        y = _MARGIN + row * step
        draw.text((_MARGIN, y), text_lines(title, font, inner)[0], _INK if row == 0 else _LINES[(row - 1) % 4], font)
        for column, frame in enumerate(frames):
            place = (_MARGIN + column * (_SMALL_SIDE + _GAP), y + round(1.4 * _TITLE))
            board.paste(_picture(frame, _SMALL_SIDE), place)
    times = [t for e in explanations for t in e.times or range(len(e.map))]
    _draw_curves(board, explanations, (min(times), max(max(times), min(times) + 1e-6)), None)
    return board


def _some(frames: torch.Tensor) -> torch.Tensor:
    """Returns at most `_COLUMNS` of the frames, evenly spread."""
    if len(frames) <= _COLUMNS:
        return frames
    return frames[torch.linspace(0, len(frames) - 1, _COLUMNS).round().long()]
