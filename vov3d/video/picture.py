"""Draws a result as a picture: the input frames, the ranked labels, and a time line of the clips."""

import os
from base64 import b64encode
from collections.abc import Iterable, Sequence
from html import escape
from io import BytesIO
from typing import Any

import torch

from vov3d.extras import install
from vov3d.files import replacing
from vov3d.video.classifier import Result
from vov3d.video.predictions import Combination, Prediction, Value
from vov3d.video.sources import source_name

try:
    from PIL import Image, ImageDraw, ImageFont
except ImportError as error:
    raise ImportError(f"a picture needs Pillow: {install('video')}") from error

__all__ = ["draw_result", "save_board", "save_result"]

_WIDTH, _MARGIN, _GAP = 1080, 40, 4  # pixels; 1080 is the width of a phone's screen
_TEXT, _SMALL = 36, 28  # sizes of letters
_COLUMNS = 8  # frames in a row of the strip
_SMALL_SIDE = 96  # of a frame in a notebook
_LINES = 3  # of one text
_INK, _FAINT, _BAR, _SHOWN = "#1b1b1f", "#8a8a94", "#3d6fd9", "#d9663d"
_CORRECT, _WRONG = "#1d7f46", "#c02f2f"
_FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial.ttf", "Helvetica.ttc")  # more letters than Pillow's own


def save_result(result: Result, path: str | os.PathLike[str]) -> None:
    """Writes the picture of `draw_result`, in the format that the file's ending names.

    Args:
        result: of a `VideoClassifier`; without an error.
        path: the file; it is put in place whole or not at all.

    Raises:
        ValueError: for an ending that Pillow does not know, a folder that is not there, or a result after an error.
        OSError: if the file cannot be written.
    """
    check_picture_name(path)
    _save(draw_result(result), os.fspath(path))


def save_board(results: Sequence[Result], truths: Sequence[str], path: str | os.PathLike[str]) -> None:
    """Writes a picture of several videos: the input frames, the predicted label, and whether it is correct.

    Args:
        results: of a `VideoClassifier`, none of them after an error.
        truths: the correct label of each.
        path: the file; it is put in place whole or not at all.

    Raises:
        ValueError: for an ending that Pillow does not know, or a folder that is not there.
        OSError: if the file cannot be written.
    """
    check_picture_name(path)
    canvas = _Canvas()
    for result, truth in zip(results, truths, strict=True):
        assert result.frames is not None
        best = result.predictions[0]
        canvas.strip(result.frames)
        canvas.text(f"{best.label} ({best.score:.0%})", _TEXT, _CORRECT if best.label == truth else _WRONG)
        canvas.text("correct" if best.label == truth else f"wrong, it is: {truth}", _SMALL, _FAINT)
        canvas.space(16)
    _save(canvas.finished(), os.fspath(path))


def _save(picture: Image.Image, path: str) -> None:
    with replacing(path) as draft:
        picture.save(draft)


def check_picture_name(path: str | os.PathLike[str]) -> None:
    """Checks that a picture can be written under a name.

    Raises:
        ValueError: for an ending that Pillow does not know, or a folder that is not there.
    """
    folder, name = os.path.split(os.path.abspath(path))
    if os.path.splitext(name)[1].lower() not in Image.registered_extensions():
        raise ValueError(f"{os.fspath(path)}: a picture's name must end in .png, .jpg or another format of Pillow")
    if not os.path.isdir(folder):
        raise ValueError(f"{os.fspath(path)}: there is no folder {folder}; make it first")


def draw_result(result: Result) -> Image.Image:
    """Draws the network's input frames as a strip, the labels as bars, and the clips on a time line of the video.

    Args:
        result: of a `VideoClassifier`; without an error.

    Returns:
        An RGB picture 1080 pixels wide.

    Raises:
        ValueError: if the result has no frames, as after an error.
    """
    if result.frames is None:
        raise ValueError(f"{source_name(result.source)}: the result holds no frames, so there is nothing to draw")
    canvas = _Canvas()
    canvas.text(os.path.basename(source_name(result.source)) or source_name(result.source), _TEXT)
    canvas.strip(result.frames)
    canvas.text(_caption(result), _SMALL, _FAINT)
    canvas.space(24)
    if not result.predictions:
        canvas.text("no label reaches its threshold", _TEXT, _FAINT)
    for prediction in result.predictions:
        _draw_prediction(canvas, prediction)
    canvas.space(16)
    canvas.time_line(result.clips, result.duration)
    return canvas.finished()


def _draw_prediction(canvas: "_Canvas", prediction: Prediction) -> None:
    """Draws a label above its bar, with the class of each head below, or a value without a bar."""
    if isinstance(prediction, Value):
        canvas.bar(prediction.label, prediction.text, None)
    else:
        canvas.bar(prediction.label, prediction.text, prediction.score)
    if isinstance(prediction, Combination):
        canvas.text(", ".join(f"{head}: {p.label} {p.text}" for head, p in prediction.parts), _SMALL, _FAINT)


def _caption(result: Result) -> str:
    """Returns the text below the strip."""
    clips, crops = result.views
    seen = f"{len(result.clips[0])} frames"
    if clips * crops == 1:
        return f"Input of the network: {seen}"
    views = f"{clips} {'clip' if clips == 1 else 'clips'} x {crops} {'crop' if crops == 1 else 'crops'}"
    crop = "" if crops == 1 else ", centre crop"
    return f"{views}; shown: clip {len(result.clips) // 2 + 1}{crop}, {seen}"


class _Canvas:
    """A picture that grows downwards."""

    def __init__(self) -> None:
        self._picture = Image.new("RGB", (_WIDTH, 1), "white")
        self._y = _MARGIN
        self._inner = _WIDTH - 2 * _MARGIN

    def space(self, height: int) -> None:
        """Leaves a gap."""
        self._y += height

    def finished(self) -> Image.Image:
        """Returns the picture with its lower margin."""
        self._grown(_MARGIN)
        return self._picture

    def _grown(self, height: int) -> Any:
        """Adds `height` pixels and returns an `ImageDraw` of the picture."""
        taller = Image.new("RGB", (_WIDTH, self._y + height), "white")
        taller.paste(self._picture)
        self._picture = taller
        return ImageDraw.Draw(taller)

    def text(self, text: str, size: int, colour: str = _INK) -> None:
        """Draws text, broken between words to fit."""
        font = find_font(size)
        lines = text_lines(text, font, self._inner)
        draw = self._grown(2 * len(lines) * size)
        for line in lines:
            draw.text((_MARGIN, self._y), line, colour, font)
            self._y += round(1.25 * size)
        self._y += round(0.25 * size)

    def strip(self, frames: torch.Tensor) -> None:
        """Draws frames `(T, C, S, S)` side by side, in rows."""
        columns = min(len(frames), _COLUMNS)
        side = min((self._inner + _GAP) // columns - _GAP, 320)
        rows = -(-len(frames) // columns)
        self._grown(rows * (side + _GAP))
        for number, frame in enumerate(frames):
            small = Image.fromarray(frame.permute(1, 2, 0).cpu().numpy()).resize((side, side), Image.Resampling.LANCZOS)
            row, column = divmod(number, columns)
            self._picture.paste(small, (_MARGIN + column * (side + _GAP), self._y + row * (side + _GAP)))
        self._y += rows * (side + _GAP) + 8

    def bar(self, label: str, text: str, score: float | None) -> None:
        """Draws a label with its score above a bar whose length is the score; no bar if the score is None."""
        font = find_font(_TEXT)
        lines = text_lines(label, font, self._inner - font.getlength(text) - 30)
        draw = self._grown(90 + len(lines) * _TEXT)
        draw.text((_WIDTH - _MARGIN, self._y), text, _INK, font, anchor="ra")
        for line in lines:
            draw.text((_MARGIN, self._y), line, _INK, font)
            self._y += round(1.25 * _TEXT)
        if score is None:
            self._y += 16
            return
        top = self._y + 4
        draw.rectangle((_MARGIN, top, _WIDTH - _MARGIN, top + 14), "#eeeef2")
        draw.rectangle((_MARGIN, top, _MARGIN + max(score * self._inner, 2), top + 14), _BAR)
        self._y = top + 36

    def time_line(self, clips: list[list[float]], duration: float) -> None:
        """Draws the video from start to end, with a bar for each clip and a tick for each of its frames."""
        height = max(4, min(22, 264 // len(clips)))
        draw = self._grown(len(clips) * (height + 4) + 80)
        scale = self._inner / max(duration, clips[-1][-1], 1e-6)
        for number, times in enumerate(clips):
            colour = _SHOWN if number == len(clips) // 2 else _BAR
            top = self._y + number * (height + 4)
            left, right = (_MARGIN + time * scale for time in (times[0], times[-1]))
            draw.rectangle((left, top + height / 3, max(right, left + 2), top + 2 * height / 3), colour)
            for time in times:
                draw.rectangle((_MARGIN + time * scale - 1, top, _MARGIN + time * scale + 1, top + height), colour)
        self._y += len(clips) * (height + 4) + 6
        draw.line((_MARGIN, self._y, _WIDTH - _MARGIN, self._y), _FAINT, 3)
        font = find_font(_SMALL)
        for part, anchor in ((0, "la"), (0.5, "ma"), (1, "ra")):
            x = _MARGIN + part * self._inner
            draw.line((x, self._y - 6, x, self._y + 6), _FAINT, 3)
            draw.text((x, self._y + 12), f"{part * duration:.1f} s", _FAINT, font, anchor=anchor)
        self._y += 12 + 2 * _SMALL


def small_strip(frames: torch.Tensor) -> Image.Image:
    """Draws at most 8 of some frames `(T, 3, S, S)` side by side, for a table in a notebook."""
    chosen = frames
    if len(frames) > _COLUMNS:
        chosen = frames[torch.linspace(0, len(frames) - 1, _COLUMNS).round().long()]
    strip = Image.new("RGB", (len(chosen) * (_SMALL_SIDE + _GAP) - _GAP, _SMALL_SIDE), "white")
    for number, frame in enumerate(chosen):
        picture = Image.fromarray(frame.permute(1, 2, 0).cpu().contiguous().numpy())
        small = picture.resize((_SMALL_SIDE, _SMALL_SIDE), Image.Resampling.LANCZOS)
        strip.paste(small, (number * (_SMALL_SIDE + _GAP), 0))
    return strip


def inlined(picture: Image.Image, text: str) -> str:
    """Returns a picture in HTML, as a JPEG within the text.

    Args:
        picture: The picture.
        text: Shown where pictures are not.
    """
    content = BytesIO()
    picture.convert("RGB").save(content, "JPEG", quality=80)
    data = b64encode(content.getvalue()).decode("ascii")
    return f'<img src="data:image/jpeg;base64,{data}" alt="{escape(text)}">'


def find_font(size: int) -> Any:
    """Returns a system font with many letters, or Pillow's own."""
    for name in _FONTS:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return ImageFont.load_default(size)


def text_lines(text: str, font: Any, width: float) -> list[str]:
    """Breaks a text between words into at most `_LINES` lines; a longer text ends in three dots.

    Only a word that is wider than a line is itself shortened.
    """
    lines = [""]
    for word in text.split():
        word = _fitted(word, font, width)
        longer = f"{lines[-1]} {word}".lstrip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
        elif len(lines) < _LINES:
            lines.append(word)
        else:
            while font.getlength(f"{lines[-1]} ...") > width and " " in lines[-1]:
                lines[-1] = lines[-1].rpartition(" ")[0]
            lines[-1] = _fitted(f"{lines[-1]} ...", font, width)
            break
    return lines


def _fitted(text: str, font: Any, width: float) -> str:
    """Returns a text on one line, shortened in the middle until it fits, without characters that the font lacks."""
    missing = _drawn("\uffff", font)
    text = "".join(char if char.isascii() or _drawn(char, font) != missing else "?" for char in _printable(text))
    if font.getlength(text) <= width:
        return text
    for kept in range(len(text) - 1, 0, -1):
        short = f"{text[: (kept + 1) // 2].rstrip()}...{text[len(text) - kept // 2 :].lstrip()}"
        if font.getlength(short) <= width:
            return short
    return "..."


def _printable(text: str) -> Iterable[str]:
    """Replaces what has no glyph, such as line breaks or bytes of a name that are no UTF-8, by question marks."""
    return (char if char.isprintable() else "?" for char in text)


def _drawn(char: str, font: Any) -> bytes:
    """Returns the pixels of a character."""
    return bytes(font.getmask(char))
