"""Limits of a service, with their defaults."""

import math
from dataclasses import dataclass, fields

__all__ = ["Limits"]


@dataclass(frozen=True)
class Limits:
    """Limits of a service: sizes, numbers and times beyond which it refuses a request.

    Attributes:
        max_bytes: Largest video, in bytes.
        max_seconds: Longest video, in seconds.
        max_pixels: Largest picture, in pixels; the default is that of 8K video.
        queue: Requests in work at once, from the first byte of the upload to the answer.
        timeout: Seconds from the end of an upload to the answer.
        decode_timeout: Seconds that decoding one video may take.
        upload_timeout: Seconds that an upload, or a download from an address, may take.
        idle_timeout: Seconds without a byte of a request after which its connection is closed.
        temp_bytes: Bytes that all uploads together may take on disk.
        decode_bytes: Memory that decoding may take in each process, in bytes.
        workers: Processes that decode.
        max_batch: Views that go through the network at once; None for what fits in memory and cache.
        max_wait: Longest time, in seconds, that a view waits for others to fill a batch.

    Raises:
        ValueError: For a limit that is not positive and finite, or a `temp_bytes` below `max_bytes`.
    """

    max_bytes: int = 64_000_000
    max_seconds: float = 120.0
    max_pixels: int = 7680 * 4320
    queue: int = 32
    timeout: float = 30.0
    decode_timeout: float = 15.0
    upload_timeout: float = 60.0
    idle_timeout: float = 10.0
    temp_bytes: int = 1_000_000_000
    decode_bytes: int = 2_000_000_000
    workers: int = 2
    max_batch: int | None = None
    max_wait: float = 0.01

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None and field.name == "max_batch":
                continue
            least = 0 if field.name == "max_wait" else math.ulp(0.0)
            if not least <= value < math.inf:
                raise ValueError(f"{field.name} is {value}: give a number above 0")
        if self.temp_bytes < self.max_bytes:
            raise ValueError(
                f"temp_bytes is {self.temp_bytes}, less than the largest video of {self.max_bytes} bytes: raise it to"
                " at least that, better to as much for every request at once"
            )
