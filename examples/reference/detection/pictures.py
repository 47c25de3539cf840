"""Pictures and videos of detections."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from reference.detection.ava import Box, Detection
from vov3d.files import replacing

COLOURS = ("#ffd23f", "#3bceac", "#ee4266", "#7fb7ff", "#f79256", "#c792ea")
_SIDE = 320  # the short side of what is drawn, at least, in pixels
_LETTERS = 14


def captions(found: Iterable[Detection], names: dict[int, str], threshold: float) -> list[tuple[Box, list[str]]]:
    """Returns each box with its actions of at least that score, best first; boxes without one are kept."""
    boxes: dict[Box, list[Detection]] = {}
    for row in found:
        boxes.setdefault(row.box, []).append(row)
    drawn = []
    for box, rows in boxes.items():
        best = sorted((row for row in rows if row.score >= threshold), key=lambda row: -row.score)
        drawn.append((box, [f"{names[row.action]} {row.score:.0%}" for row in best if row.action is not None]))
    return drawn


def draw(frame: np.ndarray, boxes: Sequence[tuple[Box, list[str]]]) -> Image.Image:
    """Draws boxes and their captions on a uint8 frame `(H, W, 3)`, enlarged where it is small."""
    picture = Image.fromarray(frame)
    scale = max(1, -(-_SIDE // min(picture.size)))
    picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.BICUBIC)
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(_LETTERS)
    for i, (box, lines) in enumerate(boxes):
        colour = COLOURS[i % len(COLOURS)]
        left, top, right, bottom = (value * side for value, side in zip(box, picture.size * 2, strict=True))
        pen.rectangle((left, top, right, bottom), outline=colour, width=3)
        height = _LETTERS + 4
        y = (
            top - height * len(lines)
            if top >= height * len(lines)
            else min(bottom, picture.height - height * len(lines))
        )
        for line in lines:
            width = font.getlength(line) + 6
            x = max(0, min(left, picture.width - width))
            pen.rectangle((x, y, x + width, y + height), fill=colour)
            pen.text((x + 3, y + 1), line, "black", font)
            y += height
    return picture


def side_by_side(pictures: Sequence[Image.Image], columns: int = 4, gap: int = 6) -> Image.Image:
    """Arranges pictures of one size in rows."""
    width, height = pictures[0].size
    rows, columns = -(-len(pictures) // columns), min(columns, len(pictures))
    sheet = Image.new("RGB", (columns * (width + gap) - gap, rows * (height + gap) - gap), "white")
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (i % columns * (width + gap), i // columns * (height + gap)))
    return sheet


def save_picture(picture: Image.Image, path: Path) -> None:
    """Writes a picture, whole or not at all."""
    with replacing(path) as draft:
        picture.save(draft)


def save_video(pictures: Iterable[Image.Image], path: Path, fps: float) -> None:
    """Writes an H.264 file, or a GIF where the name ends so.

    Raises:
        ImportError: If PyAV is not there.
    """
    with replacing(path) as draft:
        if path.suffix == ".gif":
            first, *others = pictures
            first.save(draft, save_all=True, append_images=others, duration=round(1000 / fps), loop=0)
        else:
            _encode(pictures, draft, fps)


def _encode(pictures: Iterable[Image.Image], path: Path, fps: float) -> None:
    from fractions import Fraction

    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options={"crf": "18"})
        for picture in pictures:
            even = picture.crop((0, 0, picture.width // 2 * 2, picture.height // 2 * 2))  # as the codec wants it
            if not stream.codec_context.is_open:
                stream.width, stream.height, stream.pix_fmt = *even.size, "yuv420p"
            container.mux(stream.encode(av.VideoFrame.from_image(even)))
        container.mux(stream.encode(None))
