"""Usual lengths of videos."""

from collections.abc import Iterable
from statistics import median

from vov3d.video.decoders.base import VideoError
from vov3d.video.reader import VideoReader
from vov3d.video.sources import Source, check_several


def median_duration(sources: Iterable[Source]) -> float | None:
    """Returns the median length of videos in seconds; a few dozen of a data set are enough.

    Trainers store it as `clip_seconds` in the `pretrained_cfg` of a model that takes its frames from equal segments of
    a video, so that streams and windows know how far apart these frames are.

    Args:
        sources: what `VideoReader` opens. Those that do not open are left out.

    Returns:
        The length in seconds, or None if none opens.

    Raises:
        ValueError: If `sources` is one video, or one of them is nothing that `VideoReader` takes.
    """
    check_several(sources)
    found = []
    for source in sources:
        try:
            with VideoReader(source) as reader:
                found.append(reader.duration)
        except (VideoError, OSError):
            continue
    return round(median(found), 3) if found else None
