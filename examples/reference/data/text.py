"""Text of annotation files, whatever program saved them: UTF-8 or UTF-16, with or without a mark, any line ends."""

import codecs
import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_text(file: Path) -> str:
    r"""Returns the text of a file, with `\n` as the only line end.

    Raises:
        ValueError: If it is not text.
    """
    return decoded(file.read_bytes(), file)


def decoded(content: bytes, name: object) -> str:
    r"""Returns the text of some bytes, with `\n` as the only line end.

    Args:
        content: The bytes.
        name: What errors call them.

    Raises:
        ValueError: If they are not text.
    """
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
        if "\0" in text or (encoding.startswith("utf-16") and text and not any(sign < "\x7f" for sign in text)):
            raise UnicodeError  # a mark by chance
    except UnicodeError:
        raise ValueError(
            f"{name}: is not text; expected a list of videos and labels in UTF-8, or in UTF-16 with its mark"
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_lines(file: Path) -> list[str]:
    """Returns the lines of a file.

    Raises:
        ValueError: If it is not text.
    """
    return read_text(file).split("\n")


def csv_reader(lines: Iterable[str], delimiter: str = ",") -> Any:
    """Returns a `csv.reader` of lines as people write them: a quoted cell may stand behind a space.

    Without that, `a.mp4, "left, then right"` has three cells, and quotes in them. Spaces before cells without quotes
    stay: they may be of a path such as `b, c.mp4`.

    Args:
        lines: The lines.
        delimiter: What separates the cells.
    """
    return csv.reader((re.sub(f'(^|{delimiter}) +(?="(?!"))', r"\1", line) for line in lines), delimiter=delimiter)


def read_table(file: Path, needed: Sequence[str], hint: str = "") -> Iterator[tuple[str, dict[str, str]]]:
    """Reads the rows of a CSV with a heading, by column; comma, semicolon or tab separate the columns.

    Args:
        file: The file.
        needed: Columns that must be there; cases and spaces about a name do not matter.
        hint: What an error says behind the columns that were expected.

    Yields:
        `file:line`, and the cells of a row without spaces about them; empty rows are left out.

    Raises:
        ValueError: If it is not text, lacks a column, or a row has other columns than the heading.
    """
    lines = read_lines(file)
    start = next((number for number, line in enumerate(lines) if line.strip(" \t,;")), 0)
    heading = lines[start] if lines else ""
    delimiter = max(",;\t", key=lambda sign: sum(name in _names(heading, sign) for name in needed))
    reader = csv_reader(lines[start:], delimiter)
    names: list[str] = []
    try:
        for cells in reader:
            where = f"{file}:{start + reader.line_num}"
            if not any(cell.strip() for cell in cells):
                continue
            if not names:
                names = [cell.strip().casefold() for cell in cells]
                if any(name not in names for name in needed):
                    raise ValueError(
                        f"{where}: found columns {','.join(names)[:200]}, expected {','.join(needed)}{hint}"
                    )
                continue
            while len(cells) > len(names) and not cells[-1].strip():
                cells.pop()
            if len(cells) > len(names) or len(cells) < len(names) - _left_out(names, needed):
                raise ValueError(
                    f"{where}: found {len(cells)} columns, expected {len(names)} ({','.join(names)[:200]})"
                )
            cells += [""] * (len(names) - len(cells))
            yield where, {name: cell.strip() for name, cell in zip(names, cells, strict=True)}
    except csv.Error as error:
        raise ValueError(f"{file}:{start + reader.line_num}: cannot be read as CSV ({error})") from error
    if not names:
        raise ValueError(f"{file}:1: is empty, expected {','.join(needed)}")


def _names(line: str, delimiter: str) -> list[str]:
    try:
        return [cell.strip().casefold() for cell in next(csv_reader([line], delimiter), [])]
    except csv.Error:
        return []


def _left_out(names: Sequence[str], needed: Sequence[str]) -> int:
    """Columns behind the last one that is needed, which a row may lack."""
    return len(names) - 1 - max((names.index(name) for name in needed), default=-1)
