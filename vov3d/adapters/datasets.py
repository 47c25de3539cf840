"""Video data sets of the Hugging Face Hub, streamed: rows of `datasets` as what `vov3d.video.VideoReader` takes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["video_source"]


def video_source(value: Any) -> Any:
    """A video of a row as `VideoReader` takes it.

    Args:
        value: What the column of a row holds: `{"path": ..., "bytes": ...}` of a `Video` feature that is not decoded,
            or what `VideoReader` takes itself.

    Returns:
        A file on this machine, or the bytes of one.

    Raises:
        ValueError: If there is neither.
    """
    if not isinstance(value, Mapping):
        return value
    path, content = value.get("path"), value.get("bytes")
    if content is not None:
        return content
    if not path:
        raise ValueError(f"a video of the data set has neither path nor bytes: {dict(value)!r:.200}")
    if Path(path).is_file():
        return path
    import fsspec  # comes with datasets

    with fsspec.open(path, "rb") as file:
        return file.read()
