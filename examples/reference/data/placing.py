"""From the rows of an annotation to videos on disk, whole or in part."""

from collections.abc import Sequence
from pathlib import Path

from reference.data.annotations import LABELS, PAIR, SPLITS, Annotations
from reference.data.finding import Entry, Finder, Row, stem_of
from reference.data.prepared import entries_of_prepared
from vov3d.video import Section, VideoError, VideoReader

_LOOKED_AT = 12  # files that tell whether a set is of whole videos or of parts that were cut out
_SLACK = 2.0  # seconds that a part which was cut out may be longer than the list says


def place(annotations: Annotations, split: str, roots: Sequence[Path]) -> tuple[list[Entry], list[str]]:
    """Finds the videos of a split, and says what is to be said about them.

    Args:
        annotations: What the files of the data set say.
        split: One of their splits.
        roots: Folders that the videos lie in.
    """
    rows = annotations.rows[split]
    if annotations.layout == "sections":
        return entries_of_prepared(rows, roots), []
    everything = [row for part in annotations.rows.values() for row in part]
    names = {name for row in everything for name in (row.name, row.whole) if name}
    classes = {row.label for row in everything if isinstance(row.label, str)} if annotations.strict else set()
    finder = Finder(roots, names, classes | {Path(row.name).parent.name for row in everything if "/" in row.name})
    found = [_find(finder, row, split, annotations.strict) for row in rows]
    notes = []
    long = True
    if annotations.layout == "kinetics":
        plain = [(path, row) for row, (path, cut) in zip(rows, found, strict=True) if path and not cut]
        long = _are_long(plain)
        if plain:
            what = "whole videos, of which the listed part is taken" if long else "the listed parts, cut out before"
            notes.append(f"{len(plain)} files are named by their id alone: taken for {what}")
    entries, base = [], _base(rows, found, roots[0])
    for row, (path, cut) in zip(rows, found, strict=True):
        expected = path or _expected(base, row, annotations)
        part = _section(expected, row) if not cut and long else None
        entries.append(Entry(expected, row.label, row.where, path is not None, part))
    return entries, notes


def _base(rows: Sequence[Row], found: Sequence[tuple[Path | None, bool]], root: Path) -> Path:
    """Returns the folder below which videos lie as the rows name them; the root where none is there."""
    for row, (path, _) in zip(rows, found, strict=True):
        if path is not None and "/" in row.name and str(path).endswith(f"/{row.name}"):
            return Path(str(path).removesuffix(f"/{row.name}"))
        if path is not None and "/" not in row.name and not isinstance(row.label, str):
            return path.parent
    return root


def _find(finder: Finder, row: Row, split: str, strict: bool) -> tuple[Path | None, bool]:
    """Returns the file of a row, and True if it holds nothing but the row's part."""
    label = row.label if isinstance(row.label, str) else ""
    parents = [*filter(None, [label]), *SPLITS.get(split, ())]
    path = finder.find(row.name, parents, strict)
    if path is not None:
        return path, row.start is None or row.name != row.whole
    return (finder.find(row.whole, parents), False) if row.whole else (None, row.start is None)


def _are_long(plain: Sequence[tuple[Path, Row]]) -> bool:
    """Returns True if files hold more than the listed parts; looks at a few of them."""
    step = max(len(plain) // _LOOKED_AT, 1)
    for path, row in plain[::step][:_LOOKED_AT]:
        try:
            with VideoReader(path) as reader:
                if reader.duration > (row.end or 0) - (row.start or 0) + _SLACK:
                    return True
        except (VideoError, OSError):
            continue
    return False


def _section(path: Path, row: Row) -> Section | None:
    """Returns the part of a video that a row names; in folders of frames by their numbers from 1."""
    if row.frames is not None and path.is_dir():
        first = max(row.frames[0] - 1, 0)
        return Section(path, first, max(row.frames[1], first + 1), in_frames=True)
    return None if row.start is None else Section(path, row.start, row.end)


def _expected(root: Path, row: Row, annotations: Annotations) -> Path:
    """Returns the first place where a missing video is looked for."""
    name = row.whole if annotations.kind in (LABELS, PAIR) and row.whole else row.name
    folder = root
    if annotations.layout in ("kinetics", "moments") and isinstance(row.label, str) and "/" not in row.name:
        folder = root / row.label.replace(" ", "_")
    return folder / (name if stem_of(name) != Path(name).name else f"{name}{annotations.ending}")
