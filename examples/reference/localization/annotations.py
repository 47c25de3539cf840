"""Annotations of long videos, as data sets publish them.

ActivityNet   `{"database": {id: {"duration", "subset", "annotations": [{"label", "segment": [start, end]}]}}}`
EPIC-Kitchens CSV with `video_id`, `start_timestamp`, `stop_timestamp` (00:01:02.50 or seconds) and a column of labels
THUMOS        a folder of `CLASS_val.txt` or `CLASS_test.txt`, each of lines `video start end`; or one file of lines
              `video start end class`

Names of classes in EPIC-Kitchens are those of `EPIC_100_verb_classes.csv` or `EPIC_100_noun_classes.csv` beside the
file. THUMOS's segments of `Ambiguous` are left out, as its own evaluation does not count them as a class.
"""

import csv
import io
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from reference.localization.metrics import Truth

_NAMED = 3  # of what is wrong, so much is named
_SLACK = 0.5  # seconds that a segment may reach beyond the end of a video, whose length is not known better
_OTHER = 0.05  # share by which a video may be longer or shorter than annotated


@dataclass(frozen=True)
class Annotations:
    """The true segments of a data set.

    Attributes:
        videos: Names of all videos, also of those in which nothing happens.
        segments: What happens.
        labels: Names of the classes in index order.
        durations: Of videos, in seconds, where the file tells.
        subsets: Of videos, such as "training", where the file tells.
        notes: What else is to be said about the reading.
    """

    videos: tuple[str, ...]
    segments: tuple[Truth, ...]
    labels: tuple[str, ...]
    durations: dict[str, float] = field(default_factory=dict)
    subsets: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def subset(self, name: str | None) -> "Annotations":
        """Returns the part of one subset; all where the file has none or none is named.

        Raises:
            ValueError: If no video is of the subset.
        """
        if name is None or not self.subsets:
            return self
        videos = tuple(video for video in self.videos if self.subsets.get(video) == name)
        if not videos:
            there = ", ".join(sorted(set(self.subsets.values())))
            raise ValueError(f"no video is of subset {name!r}; the file has {there}: name one with --subset")
        kept = set(videos)
        return replace(self, videos=videos, segments=tuple(s for s in self.segments if s.video in kept))


def read_annotations(path: str | Path, column: str = "verb_class", mend: bool = False) -> Annotations:
    """Reads annotations; the content tells in which form they are. A segment that is there twice counts once.

    Args:
        path: A JSON, CSV or text file, or a folder of text files.
        column: The labels of a CSV.
        mend: Cuts segments that reach outside of their video, and leaves out those that end before they start; notes
            how many. Without it, both are errors.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read, names no segment, or holds a segment that cannot be.
    """
    path = Path(path)
    if path.is_dir():
        found = _thumos(path)
    elif not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file or folder of annotations")
    else:
        text = _text(path)
        if text.lstrip()[:1] in ("{", "["):
            found = _activitynet(path, text)
        elif path.suffix.lower() == ".csv" or "," in text.split("\n", 1)[0]:
            found = _epic(path, text, column)
        else:
            found = _lines(path, text)
    if not found.segments:
        raise ValueError(f"{path}: names no segment")
    once = tuple(dict.fromkeys(found.segments))  # a second true one could not be found: it would lower every mAP
    if twice := len(found.segments) - len(once):
        told = f"segments that are there twice, and count once: {twice}"
        found = replace(found, segments=once, notes=(*found.notes, told))
    return checked(found, path, mend)


def checked(found: Annotations, path: str | Path, mend: bool, lengths: dict[str, float] | None = None) -> Annotations:
    """Refuses segments that cannot be, or mends them.

    Args:
        found: What was read.
        path: From where, for the message.
        mend: As for `read_annotations`.
        lengths: Seconds of the videos as they are, in place of what the file says; segments may reach beyond their end
            by half a second, by which containers differ from their pictures.

    Raises:
        ValueError: If there is one, unless it is mended.
    """
    kept, wrong = list[Truth](), list[str]()
    cut = 0
    for one in found.segments:
        length = (found.durations if lengths is None else lengths).get(one.video, math.inf)
        slack = 0.01 if lengths is None else _SLACK
        start, end = max(one.start, 0.0), min(one.end, length)
        name = f"{one.video} {one.start:g} to {one.end:g} ({one.label})"
        if not one.start < one.end:
            wrong.append(f"{name} ends before it starts")
        elif one.end <= 0:
            wrong.append(f"{name} lies before the beginning of the video")
        elif one.start >= length:
            wrong.append(f"{name} lies behind the end of the video, {length:g} s")
        elif one.start < 0 or one.end > length + slack:
            wrong.append(f"{name} is not within 0 and {length:g} s, where the video lasts")
            cut += 1
            kept.append(one._replace(start=start, end=end))
        else:
            kept.append(one._replace(start=start, end=end))
    if wrong and not mend:
        raise ValueError(
            f"{path}: {len(wrong)} of {len(found.segments)} segments cannot be: {_listed(wrong, '; ')}. Correct them, "
            "or have them cut or left out with --mend"
        )
    if wrong:
        note = f"{cut} segments were cut at the ends of their videos, {len(wrong) - cut} were left out"
        return replace(found, segments=tuple(kept), notes=(*found.notes, note))
    return replace(found, segments=tuple(kept))


def other_lengths(found: Annotations, lengths: dict[str, float]) -> list[str]:
    """Returns a note on videos that are longer or shorter than annotated, as when they play at another rate.

    Args:
        found: The annotations.
        lengths: Seconds of the videos as they are.
    """
    said = {video: seconds for video, seconds in found.durations.items() if video in lengths}
    other = [
        f"{video} lasts {lengths[video]:g} s, annotated {seconds:g} s"
        for video, seconds in said.items()
        if abs(lengths[video] - seconds) > max(_OTHER * seconds, 2 * _SLACK)
    ]
    if not other:
        return []
    return [
        f"{len(other)} of {len(said)} videos are not as long as annotated ({_listed(other, '; ')}): where they play at "
        "another rate or begin at another time, segments are at the wrong seconds"
    ]


def check_labels(found: Annotations, labels: Sequence[str], whose: str) -> None:
    """Refuses segments of classes that are not known.

    Args:
        found: The annotations.
        labels: The classes that are.
        whose: Who knows them, for the message.

    Raises:
        ValueError: If there are others.
    """
    unknown = sorted({one.label for one in found.segments} - set(labels))
    if unknown:
        near = get_close_matches(unknown[0], labels, 1)
        hint = f"; the nearest to {unknown[0]!r} is {near[0]!r}" if near else ""
        raise ValueError(
            f"the annotations hold {len(unknown)} classes that {whose} does not know: "
            f"{_listed([repr(label) for label in unknown])}{hint}"
        )


def _listed(names: Sequence[str], between: str = ", ") -> str:
    more = f"{between}and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return between.join(names[:_NAMED]) + more


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path}: is not text in UTF-8") from None


# --- ActivityNet -----------------------------------------------------------------------------------------------------


def _activitynet(path: Path, text: str) -> Annotations:
    try:
        content = json.loads(text, object_pairs_hook=_once)
    except ValueError as error:
        raise ValueError(f"{path}: is no JSON ({error})") from None
    database = content.get("database") if isinstance(content, dict) else None
    if not isinstance(database, dict):
        raise ValueError(f'{path}: expected {{"database": {{id: {{"duration", "subset", "annotations"}}}}}}')
    segments = list[Truth]()
    durations, subsets = dict[str, float](), dict[str, str]()
    for video, entry in database.items():
        try:
            if "duration" in entry:
                durations[video] = _seconds(entry["duration"])
            if entry.get("subset"):
                subsets[video] = str(entry["subset"])
            for one in entry.get("annotations") or []:
                start, end = one["segment"]
                segments.append(Truth(video, _seconds(start), _seconds(end), _label(one["label"])))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            reason = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
            raise ValueError(
                f'{path}, video {video}: expected "duration", "subset" and "annotations": [{{"label", '
                f'"segment": [start, end]}}] ({reason})'
            ) from None
    return Annotations(tuple(database), tuple(segments), _sorted(segments), durations, subsets)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Returns a JSON object; of a key that is there twice, JSON would keep the last."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"{twice!r} is there twice in one object")
    return found


def _label(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | str) or not str(value).strip():
        raise ValueError(f"found label {value!r:.80}, expected the name of a class")
    return str(value).strip()


# --- EPIC-Kitchens ---------------------------------------------------------------------------------------------------


def _epic(path: Path, text: str, column: str) -> Annotations:
    rows = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True)
    rows.fieldnames = [name.strip() for name in rows.fieldnames or []]
    needed = ("video_id", "start_timestamp", "stop_timestamp", column)
    missing = [name for name in needed if name not in rows.fieldnames]
    if missing:
        raise ValueError(
            f"{path}: has no column {' and no '.join(missing)}; it has {', '.join(rows.fieldnames)}. The labels' column"
            " is named by --label-column"
        )
    names, note = _epic_names(path, column)
    segments = list[Truth]()
    for row in rows:
        try:
            video, start, end, label = ((row[name] or "").strip() for name in needed)
            if not video or not label:
                raise ValueError(f"has no {'label' if video else 'video_id'}")
            if names and label not in names:
                raise ValueError(f"{column} {label} is not in {note}")
            segments.append(Truth(video, _seconds(start), _seconds(end), names.get(label, label)))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}, line {rows.line_num}: {error}") from None
    order = dict.fromkeys(names.values()) if names else _sorted(segments)
    videos = tuple(dict.fromkeys(one.video for one in segments))
    notes = (f"class names are those of {note}",) if names else ()
    return Annotations(videos, tuple(segments), tuple(order), notes=notes)


def _epic_names(path: Path, column: str) -> tuple[dict[str, str], str]:
    """Returns the names of class numbers, from the file beside the annotations; empty where there is none."""
    kind = column.removesuffix("_class")
    for file in sorted(path.parent.glob(f"*{kind}_classes*.csv")) if kind != column else []:
        rows = csv.DictReader(io.StringIO(_text(file), newline=""), skipinitialspace=True)
        if {"id", "key"} <= set(rows.fieldnames or []):
            return {row["id"].strip(): row["key"].strip() for row in rows}, file.name
    return {}, ""


# --- THUMOS ----------------------------------------------------------------------------------------------------------


def _thumos(folder: Path) -> Annotations:
    files = sorted(file for file in folder.glob("*.txt") if re.search(r"_(val|test)\.txt$", file.name))
    if not files:
        raise ValueError(f"{folder}: holds no CLASS_val.txt or CLASS_test.txt, as THUMOS's folders of annotations do")
    segments, ambiguous, subsets = list[Truth](), 0, dict[str, str]()
    for file in files:
        label, subset = file.stem.rsplit("_", 1)
        for one in _segments(file, _text(file), label):
            subsets[one.video] = {"val": "validation", "test": "test"}[subset]
            if label == "Ambiguous":
                ambiguous += 1
            else:
                segments.append(one)
    notes = (f"{ambiguous} segments of Ambiguous are left out",) if ambiguous else ()
    return Annotations(tuple(subsets), tuple(segments), _sorted(segments), subsets=subsets, notes=notes)


def _lines(path: Path, text: str) -> Annotations:
    segments = list(_segments(path, text, None))
    videos = tuple(dict.fromkeys(one.video for one in segments))
    return Annotations(videos, tuple(segments), _sorted(segments))


def _segments(path: Path, text: str, label: str | None) -> Iterator[Truth]:
    """Reads lines of `video start end`, and of a class where none is given."""
    form = "video start end" if label else "video start end class"
    for number, line in enumerate(text.splitlines(), 1):
        fields = line.split(None, 2 if label else 3)
        if not fields:
            continue
        try:
            if len(fields) != (3 if label else 4):
                raise ValueError(f"expected {form}, got {line.strip()[:80]!r}")
            yield Truth(fields[0], _seconds(fields[1]), _seconds(fields[2]), label or fields[3].strip())
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None


# --- what all have ---------------------------------------------------------------------------------------------------


def _sorted(segments: Sequence[Truth]) -> tuple[str, ...]:
    return tuple(sorted({one.label for one in segments}))


def _seconds(value: Any) -> float:
    """Returns a time in seconds: a number of seconds, or hours, minutes and seconds apart by colons."""
    text = str(value).strip()
    parts = text.split(":")
    try:
        if len(parts) > 3 or isinstance(value, bool):
            raise ValueError
        seconds = float(parts[-1])
        for part, factor in zip(reversed(parts[:-1]), (60, 3600), strict=False):
            seconds += factor * int(part)
    except ValueError:
        raise ValueError(f"{text[:40]!r} is no time; expected seconds, or as 00:01:02.50") from None
    if not math.isfinite(seconds):
        raise ValueError(f"{text[:40]!r} is no finite time")
    return seconds
