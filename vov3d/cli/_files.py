"""Videos in folders."""

import os
from pathlib import Path

VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv")
PICTURES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


def videos_in(folder: Path, frames: bool = False) -> list[str]:
    """The videos of a folder and the folders in it, in the order of their paths.

    Args:
        folder: Where to look.
        frames: Takes a folder that holds pictures and no video for the frames of one.

    Raises:
        FileNotFoundError: If there is none, or no such folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder of videos")
    found = []
    for parent, _, names in os.walk(folder):
        videos = _of(names, VIDEOS)
        found += [os.path.join(parent, name) for name in videos]
        if frames and not videos and _of(names, PICTURES):
            found.append(parent)
    if not found:
        raise FileNotFoundError(f"{folder}: holds no file that ends in {', '.join(VIDEOS)}")
    return sorted(found)


def _of(names: list[str], endings: tuple[str, ...]) -> list[str]:
    return [name for name in names if os.path.splitext(name)[1].lower() in endings and not name.startswith(".")]
