"""Pages with measured parts, which stand between `<!-- NAME -->` and `<!-- /NAME -->` and are written by scripts."""

from pathlib import Path

from vov3d.files import replacing

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
STORED = DOCS / "results" / "benchmarks"
"""Folder of the measurements, as JSON."""


def filled(text: str, **parts: str) -> str:
    """Returns a page with its parts replaced.

    Raises:
        ValueError: If the page has no place for one of them.
    """
    for name, part in parts.items():
        before, _, after = _split(text, name)
        text = before + part + after
    return text


def part_of(text: str, name: str) -> str:
    """Returns what stands in a place of a page.

    Raises:
        ValueError: If the page has no such place.
    """
    return _split(text, name)[1]


def fill(page: Path, **parts: str) -> None:
    """Replaces parts of a page on disk, all of them or none."""
    with replacing(page) as draft:
        draft.write_text(filled(page.read_text(encoding="utf-8"), **parts), encoding="utf-8")


def _split(text: str, name: str) -> tuple[str, str, str]:
    begin, end = f"<!-- {name} -->\n", f"\n<!-- /{name} -->"
    before, found, rest = text.partition(begin)
    part, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"the page has no place for {name!r}: it wants {begin.strip()} and {end.strip()}")
    return before + begin, part, end + after
