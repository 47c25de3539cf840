"""Colours of the drawings, for a light and a dark page; what the other scripts of this folder share.

A drawing is 7.4 inches wide at most, and its text 8 points at least: 11 pixels where a page shows it 750 pixels wide.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

WIDTH = 7.4
"""Inches."""


@dataclass(frozen=True)
class Theme:
    """Colours of a drawing.

    Attributes:
        page: Background.
        ink: Lines and text.
        faint: Notes.
        grey: A neutral fill, as the others are fills.
        blue: The first family of things.
        green: The second.
        orange: The third.
        strong: Two contrasting colours for points and curves.
    """

    page: str
    ink: str
    faint: str
    grey: str
    blue: str
    green: str
    orange: str
    strong: tuple[str, str]


LIGHT = Theme("#ffffff", "#22272e", "#57606a", "#ececec", "#cfe2f8", "#d3eed9", "#fbe0c3", ("#d9663d", "#3d6fd9"))
DARK = Theme("#1e2129", "#e6e8ec", "#aab2bf", "#3a3f4a", "#27496d", "#33684c", "#6b4a2b", ("#f08a63", "#7fa7ff"))


def shaded(colour: str, share: float) -> tuple[float, ...]:
    """Returns a colour darkened to a share of its brightness."""
    return tuple(share * value for value in matplotlib.colors.to_rgb(colour))


def save_both(draw: Callable[[Theme], Figure], target: Path, dpi: int = 200) -> None:
    """Draws for a light page into `target`, and for a dark one beside it, with `_dark` behind the name."""
    for theme, path in ((LIGHT, target), (DARK, target.with_stem(f"{target.stem}_dark"))):
        colours: Any = {"text.color": theme.ink, "axes.edgecolor": theme.ink, "axes.labelcolor": theme.ink}
        colours |= {"xtick.color": theme.ink, "ytick.color": theme.ink, "axes.facecolor": theme.page}
        colours |= {"legend.facecolor": theme.page, "grid.color": theme.faint}
        with plt.rc_context(colours):
            figure = draw(theme)
            figure.savefig(path, dpi=dpi, facecolor=theme.page)
            plt.close(figure)
