"""Scores on disk, written video by video, so that a killed run can be resumed."""

import csv
import json
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from vov3d.files import alone_in, make_folder, naming, replacing

_AGAIN = "; the same command continues"
_FIELDS = ("index", "path", "label", "prediction", "rank", "error", "note")


@dataclass(frozen=True)
class Row:
    """Result of a model on one video.

    Attributes:
        index: Its index in the set.
        path: Its name.
        label: Its class index; None of another task than one label.
        prediction: The class index with the best score; None for a broken one.
        rank: Classes with a better score than its own: 0 is right for top-1, below 5 for top-5; None for a broken one.
        error: Reason that it has no scores.
        note: Warnings about it, such as missing frames.
    """

    index: int
    path: str
    label: int | None
    prediction: int | None = None
    rank: int | None = None
    error: str = ""
    note: str = ""


class Scores:
    """The scores of one model on one set, in a folder of their own.

    `videos.csv` has a line a video: a `Row` and the mean score of each class. `views.csv`, where asked for, has the
    scores of each view. A line is written when its video is done; an unfinished line of a killed process is cut off.
    Lines of broken videos are left out when a later run opens the folder, which tries them again. Meanwhile another
    process cannot open it.

    Attributes:
        rows: Rows of the scored videos, by index.
    """

    def __init__(self, folder: Path, num_classes: int, views: bool) -> None:
        """Opens a folder that `begin` made ready.

        Args:
            folder: The folder.
            num_classes: Scores in a line.
            views: Keeps the scores of views as well.

        Raises:
            ValueError: If another process has opened it.
        """
        names = [f"score_{index}" for index in range(num_classes)]
        self._none = [""] * num_classes
        self._views: TextIO | None = None
        with ExitStack() as opened:  # another call can open the folder if this one fails
            opened.enter_context(alone_in(folder, wait=False))
            lines = _whole_lines(folder / "videos.csv", [*_FIELDS, *names])
            rows = _rows(lines)
            self.rows = {row.index: row for row in rows if not row.error}
            _keep(folder / "videos.csv", lines, [line for line, row in zip(lines, rows, strict=True) if not row.error])
            self._videos = opened.enter_context(_appended(folder / "videos.csv"))
            if views:
                lines = _whole_lines(folder / "views.csv", ["index", "clip", "crop", *names])
                # of an unfinished video
                whole = [line for line in lines if int(line.split(b",", 1)[0]) in self.rows]
                _keep(folder / "views.csv", lines, whole)
                self._views = opened.enter_context(_appended(folder / "views.csv"))
            self._opened = opened.pop_all()

    def todo(self, count: int) -> list[int]:
        """Returns the indices below `count` that have no scores."""
        return [index for index in range(count) if index not in self.rows]

    def add(self, row: Row, scores: np.ndarray | None, views: np.ndarray | None = None) -> None:
        """Writes the result of a video.

        Args:
            row: The video.
            scores: `(num_classes,)`, None for a broken one.
            views: `(clips, crops, num_classes)`, where scores of views are kept.
        """
        if self._views is not None and views is not None:
            places = np.ndindex(views.shape[:2])
            # before the video's line, which says that they are complete
            _append(self._views, [[row.index, *place, *_texts(views[place])] for place in places])
        cells = ["" if cell is None else re.sub("[\r\n]", " ", str(cell)) for cell in astuple(row)]
        _append(self._videos, [[*cells, *(_texts(scores) if scores is not None else self._none)]])
        self.rows[row.index] = row

    def close(self) -> None:
        """Closes the files."""
        self._opened.close()


def _appended(path: Path) -> TextIO:
    return path.open("a", newline="", encoding="utf-8")


def _append(file: TextIO, lines: Sequence[Sequence[object]]) -> None:
    """Writes lines so that the next run finds them, however this one ends."""
    with naming(Path(file.name), _AGAIN):
        csv.writer(file).writerows(lines)
        file.flush()


def read_scores(folder: Path) -> dict[int, np.ndarray]:
    """Returns the mean scores `(num_classes,)` of each video in a folder of scores, by its index."""
    found = {}
    with (folder / "videos.csv").open(newline="", encoding="utf-8") as file:
        for cells in list(csv.reader(file))[1:]:
            if any(cells[len(_FIELDS) :]):
                found[int(cells[0])] = np.array(cells[len(_FIELDS) :], np.float64)
    return found


def to_parquet(folder: Path) -> list[Path]:
    """Writes the CSV files of a folder of scores as Parquet beside them.

    Raises:
        ImportError: If pyarrow is not installed.
    """
    import pyarrow.csv
    import pyarrow.parquet

    written = []
    for source in (file for file in (folder / "videos.csv", folder / "views.csv") if file.is_file()):
        written.append(source.with_suffix(".parquet"))
        with replacing(written[-1]) as draft:
            pyarrow.parquet.write_table(pyarrow.csv.read_csv(source), draft)
    return written


def _texts(scores: np.ndarray) -> list[str]:
    """Returns the shortest texts that read as the same float32: rounded ones would tie, and be measured as such."""
    return [str(score) for score in scores.astype(np.float32)]


def begin(folder: Path, settings: Mapping[str, Any]) -> None:
    """Makes a folder of scores ready; its `run.json` holds the settings.

    Raises:
        ValueError: If it holds scores of something else.
    """
    make_folder(folder)
    file = folder / "run.json"
    if file.is_file():
        found = json.loads(file.read_text(encoding="utf-8"))
        other = [key for key in {**settings, **found} if found.get(key) != settings.get(key)]
        if other:
            told = "; ".join(f"{key} was {str(found.get(key))[:40]}, is {str(settings.get(key))[:40]}" for key in other)
            raise ValueError(f"{folder}: holds scores of another run ({told}); give another folder, or remove this one")
        return
    if (folder / "videos.csv").is_file():
        raise ValueError(f"{folder}: holds scores without {file.name}, which says of what; remove the folder")
    with replacing(file) as draft:
        draft.write_text(json.dumps(settings, indent=2, ensure_ascii=False), encoding="utf-8")


def _whole_lines(file: Path, header: Sequence[str]) -> list[bytes]:
    """Returns the lines below the header; writes the header of a new file and cuts off an unfinished last line."""
    content = file.read_bytes() if file.is_file() else b""
    whole = content[: content.rfind(b"\n") + 1]
    if not whole:
        whole = ",".join(header).encode() + b"\r\n"
        with naming(file, _AGAIN):
            file.write_bytes(whole)
    elif len(whole) < len(content):
        os.truncate(file, len(whole))
    return whole.splitlines(keepends=True)[1:]


def _rows(lines: Sequence[bytes]) -> list[Row]:
    """Returns the rows of `videos.csv`."""
    rows = []
    for index, path, label, prediction, rank, error, note in (
        cells[: len(_FIELDS)] for cells in csv.reader(line.decode() for line in lines)
    ):
        best, above = (int(cell) if cell else None for cell in (prediction, rank))
        rows.append(Row(int(index), path, int(label) if label else None, best, above, error, note))
    return rows


def _keep(file: Path, lines: Sequence[bytes], kept: Sequence[bytes]) -> None:
    """Leaves some of the lines below the header in a file."""
    if len(kept) < len(lines):
        with replacing(file) as draft:
            draft.write_bytes(file.read_bytes().partition(b"\n")[0] + b"\n" + b"".join(kept))
