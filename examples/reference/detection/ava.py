"""Files of AVA: boxes with actions, boxes with scores, and label maps.

    video_id,timestamp,x1,y1,x2,y2,action_id,person_id     ground truth
    video_id,timestamp,x1,y1,x2,y2,action_id,score         detections; proposals leave action_id empty

Timestamps are seconds from the video's start; boxes go from 0 to 1. A person who does two things has two lines. A line
of the first two columns alone is a key frame with nobody in it. A heading of these names is left out.
"""

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from reference.data.text import csv_reader, read_lines, read_text
from vov3d.files import replacing

Box = tuple[float, float, float, float]

_BEYOND = 0.01  # boxes drawn by hand reach a little over the border, and are cut there


class Annotation(NamedTuple):
    """A box and an action of its person.

    Attributes:
        video: Name of the video.
        timestamp: Of the key frame, in seconds.
        box: Left, top, right, bottom from 0 to 1; None for a key frame with nobody in it.
        action: Number of the action.
        person: Number of the person within the video; None where the file does not tell.
    """

    video: str
    timestamp: float
    box: Box | None
    action: int | None
    person: int | None


class Detection(NamedTuple):
    """A detected box with an action.

    Attributes:
        video: Name of the video.
        timestamp: Of the key frame, in seconds.
        box: Left, top, right, bottom from 0 to 1.
        action: Number of the action; None for a proposal.
        score: From 0 to 1.
    """

    video: str
    timestamp: float
    box: Box
    action: int | None
    score: float


def read_annotations(path: Path, actions: Mapping[int, str] | None = None) -> list[Annotation]:
    """Reads ground truth.

    Args:
        path: The file.
        actions: The label map; actions that are not in it are refused.

    Raises:
        FileNotFoundError: If there is no file.
        ValueError: If a line cannot be understood; names file, line and what was expected.
    """

    def row(fields: list[str]) -> Annotation:
        if len(fields) == 2:
            return Annotation(_video(fields[0]), _number("timestamp", fields[1]), None, None, None)
        _check_length(fields, (2, 7, 8), "video_id,timestamp,x1,y1,x2,y2,action_id[,person_id]")
        action = _action(fields[6], actions)
        if action is None:
            raise ValueError(
                "has no action_id, which only proposals leave out; a key frame with nobody in it is video_id,timestamp"
            )
        person = _integer("person_id", fields[7]) if len(fields) == 8 else None
        return Annotation(*_place(fields), action, person)

    return list(_rows(path, row))


def read_detections(path: Path, actions: Mapping[int, str] | None = None) -> list[Detection]:
    """Reads detections, or proposals, which have no action.

    Args:
        path: The file.
        actions: The label map, as for `read_annotations`.

    Raises:
        FileNotFoundError, ValueError: As `read_annotations`.
    """

    def row(fields: list[str]) -> Detection:
        _check_length(fields, (8,), "video_id,timestamp,x1,y1,x2,y2,action_id or nothing,score")
        score = _number("score", fields[7])
        if not 0 <= score <= 1:
            raise ValueError(f"score {fields[7]} is not from 0 to 1")
        return Detection(*_place(fields), _action(fields[6], actions), score)

    return list(_rows(path, row))


def read_boxes(path: Path, least: float | None = None) -> dict[tuple[str, float], np.ndarray]:
    """Reads the boxes of each key frame in either kind of file, each once: `{(video, timestamp): (N, 4)}`.

    Args:
        path: The file.
        least: Least score of a box; all boxes, also of files without scores, if None.

    Raises:
        FileNotFoundError, ValueError: As `read_annotations`; or if a box has no score and a least one is given.
    """

    def row(fields: list[str]) -> tuple[tuple[str, float, Box], bool]:
        _check_length(fields, (6, 7, 8), "video_id,timestamp,x1,y1,x2,y2 and the columns that follow in AVA's files")
        if least is not None and (len(fields) < 8 or fields[6]):
            raise ValueError("is no proposal, video_id,timestamp,x1,y1,x2,y2,,score, so it has no score of its box")
        return _place(fields), least is None or _number("score", fields[7]) >= least

    found: dict[tuple[str, float], dict[Box, None]] = {}
    for (video, timestamp, box), kept in _rows(path, row):
        if kept:
            found.setdefault((video, timestamp), {})[box] = None
    return {key: np.array(list(boxes), np.float32) for key, boxes in found.items()}


def write_rows(path: Path, rows: Iterable[Annotation | Detection]) -> None:
    """Writes rows of either kind, the file whole or not at all."""
    lines = []
    for row in rows:
        line = [row.video, _exact(row.timestamp)]
        if row.box is not None:
            line += [f"{value:.6g}" for value in row.box]
            line.append("" if row.action is None else str(row.action))
            last = str(np.float32(row.score)) if isinstance(row, Detection) else row.person
            line += [] if last is None else [str(last)]
        lines.append(line)
    with replacing(path) as draft, draft.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(lines)


def _exact(seconds: float) -> str:
    """Returns the shortest text that reads as the same number, as rows of two files meet by it."""
    return repr(float(seconds)).removesuffix(".0")


def read_excluded(path: Path) -> set[tuple[str, float]]:
    """Reads the key frames that AVA leaves out of its evaluation: lines of `video_id,timestamp`.

    Raises:
        FileNotFoundError, ValueError: As `read_annotations`.
    """

    def row(fields: list[str]) -> tuple[str, float]:
        _check_length(fields, (2,), "video_id,timestamp")
        return _video(fields[0]), _number("timestamp", fields[1])

    return set(_rows(path, row))


def read_label_map(path: Path) -> dict[int, str]:
    """Reads numbers and names of actions, from AVA's `.pbtxt`, or lines of `number,name` or `number: name`.

    The content tells which, not the name of the file.

    Raises:
        FileNotFoundError: If there is no file.
        ValueError: If it cannot be understood, holds no action, or one number twice.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    text = read_text(path)
    found: dict[int, str] = {}
    for line, number, name in (_pbtxt if "{" in text and "name:" in text else _numbered)(path, text):
        if number in found:
            raise ValueError(f"{path}, line {line}: action {number} is {found[number]!r} already, not {name!r}")
        found[number] = name
    if not found:
        raise ValueError(f"{path}: holds no action; expected 'item {{ name: \"stand\" id: 12 }}', or lines 12,stand")
    return found


def write_label_map(path: Path, actions: Mapping[int, str]) -> None:
    """Writes a `.pbtxt`."""
    text = "".join(f'item {{\n  name: "{name}"\n  id: {number}\n}}\n' for number, name in actions.items())
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8")


def _pbtxt(path: Path, text: str) -> Iterator[tuple[int, int, str]]:
    at, line = 0, 1
    while (start := text.find("{", at)) >= 0:
        end = text.find("}", start)
        line += text.count("\n", at, start)
        block = text[start + 1 : end] if end >= 0 else ""
        name = re.search(r"""\bname:[ \t]*(?:"([^"\n]*)"|'([^'\n]*)')""", block)
        number = re.search(r"\b(?:label_)?id:[ \t]*(\d{1,9})\b", block)
        if name is None or number is None:
            raise ValueError(f'{path}, line {line}: expected name: "..." and id: in {text[start : start + 80]!r}')
        yield line, int(number[1]), name[1] or name[2] or ""
        line += text.count("\n", start, end)
        at = end


def _numbered(path: Path, text: str) -> Iterator[tuple[int, int, str]]:
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    for place, (number, line) in enumerate(lines):
        if place == 0 and not line[0].isdecimal():  # AVA's own has a heading
            continue
        first, separator, rest = line.partition(":" if ":" in line.split(",")[0] else ",")
        name = next(csv_reader([rest.strip()]), [""])[0] if separator == "," else rest.strip()
        if not separator or not name:
            raise ValueError(f"{path}, line {number}: expected number,name or number: name, got {line[:80]!r}")
        try:
            yield number, _integer("action", first.strip()), name
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None


_T = TypeVar("_T")


def _rows(path: Path, row: Callable[[list[str]], _T]) -> Iterator[_T]:
    for _, value in _numbered_rows(path, row):
        yield value


def _numbered_rows(path: Path, row: Callable[[list[str]], _T]) -> Iterator[tuple[int, _T]]:
    """Yields every line with its number, as `row` reads it; errors name file and line."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    reader = csv_reader(read_lines(path))
    try:
        for number, line in enumerate(reader):
            fields = [field.strip() for field in line]
            if any(fields) and not (number == 0 and fields[:2] == ["video_id", "timestamp"]):
                yield reader.line_num, row(fields)
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}") from error


def _check_length(fields: list[str], allowed: tuple[int, ...], columns: str) -> None:
    if len(fields) not in allowed:
        raise ValueError(f"expected {columns}, got {len(fields)} columns: {','.join(fields)}")


def _place(fields: list[str]) -> tuple[str, float, Box]:
    names = ("x1", "y1", "x2", "y2")
    x1, y1, x2, y2 = (_number(name, field) for name, field in zip(names, fields[2:6], strict=True))
    inside = all(-_BEYOND <= value <= 1 + _BEYOND for value in (x1, y1, x2, y2))
    x1, y1, x2, y2 = (min(max(value, 0.0), 1.0) for value in (x1, y1, x2, y2))
    if not (inside and x1 < x2 and y1 < y2):
        hint = "" if inside else "; where it is in pixels, divide x by the width of the video and y by its height"
        raise ValueError(f"box {','.join(fields[2:6])} is not 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1{hint}")
    return _video(fields[0]), _number("timestamp", fields[1]), (x1, y1, x2, y2)


def _video(field: str) -> str:
    if not field:
        raise ValueError("has no video_id")
    return field


def _action(field: str, actions: Mapping[int, str] | None) -> int | None:
    if not field:
        return None
    number = _integer("action_id", field)
    if actions is not None and number not in actions:
        raise ValueError(
            f"action_id {number} is not in the label map, which has {', '.join(map(str, actions))}; "
            "give the map of all actions (--actions), and measure some of them with --only"
        )
    return number


def _number(name: str, field: str) -> float:
    try:
        value = float(field)
    except ValueError:
        raise ValueError(f"{name} {field!r} is not a number") from None
    if value != value or value in (float("inf"), float("-inf")):
        raise ValueError(f"{name} {field!r} is not a finite number")
    return value


def _integer(name: str, field: str) -> int:
    if not re.fullmatch(r"\d{1,9}", field):
        raise ValueError(f"{name} {field[:80]!r} is not a whole number")
    return int(field)
