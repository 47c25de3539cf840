"""A service that labels videos: it takes requests in, has them decoded and scored, and stops in good order."""

import asyncio
import os
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch

from vov3d.serving._batching import Batcher, Collected
from vov3d.serving._decoding import Decoded, Decoders, Decoding
from vov3d.serving._errors import RefusedError
from vov3d.serving._fetching import Fetcher, parse_places
from vov3d.serving._metrics import Metrics
from vov3d.serving._uploads import Uploads
from vov3d.serving._worker import Setup
from vov3d.serving.limits import Limits
from vov3d.video import VideoClassifier
from vov3d.video.predictions import as_dict
from vov3d.video.settings import checked_cfg

__all__ = ["Service"]

_CFG = (
    "num_frames", "frame_stride", "sampling", "input_size", "test_input_size", "interpolation", "mean", "std"
)  # fmt: skip


class Service:
    """Labels videos of many clients with one model: decodes in processes of its own, and batches views over requests.

    `vov3d.serving.app.create_app` answers HTTP with it. It must be closed, as by `with`: that ends its processes.

    Attributes:
        classifier: The model with its settings.
        name: Name of the model in answers.
        limits: Limits of requests.
        uploads: Temporary files.
        fetcher: Downloads from permitted addresses.
        metrics: Counters.
        stopping: Whether new requests are refused, because the service is about to stop.
    """

    def __init__(
        self,
        classifier: VideoClassifier,
        name: str,
        limits: Limits | None = None,
        *,
        stride: float | None = None,
        num_frames: int | None = None,
        antialias: bool = True,
        allow_urls: Sequence[str] = (),
        private_urls: bool = False,
        temp_folder: str | Path | None = None,
    ) -> None:
        """Starts the processes and runs the model once.

        Args:
            classifier: The model with its settings.
            name: Name of the model in answers.
            limits: Limits of requests.
            stride: That of the classifier, if it was given one.
            num_frames: Those of the classifier, if it was given some.
            antialias: That of the classifier.
            allow_urls: Hosts, or beginnings of addresses, that videos may be downloaded from; none if empty.
            private_urls: Whether these hosts may lie in private networks.
            temp_folder: Folder for uploads; the system's one for temporary files if None.

        Raises:
            ValueError: For settings that do not fit.
            RuntimeError: If the processes cannot be started, or the model fails.
            OSError: If the folder for uploads cannot be written to.
        """
        if os.name != "posix":
            raise RuntimeError("vov3d serve needs Linux or macOS: it passes open files between processes")
        self.classifier, self.name, self.limits = classifier, name, limits or Limits()
        self.metrics = Metrics()
        self.fetcher = Fetcher(parse_places(allow_urls), private_urls, self.limits)
        self.uploads = Uploads(self.limits, temp_folder)
        self.stopping = False
        self._in_work = 0
        self._recent: deque[float] = deque([1.0], maxlen=50)  # seconds of the latest answers
        _check_folder(temp_folder)
        cfg = checked_cfg(classifier.model, stride, num_frames)
        size = (cfg.get("test_input_size") or cfg["input_size"])[-1]
        clips, crops = classifier.views
        shape = (crops, cfg["num_frames"], size, size, 3)
        classifier.model.eval()
        self._warm_up(shape)
        setup = Setup(
            {key: cfg[key] for key in _CFG if cfg.get(key) is not None},
            clips,
            crops,
            antialias,
            self.limits.max_seconds,
            self.limits.max_pixels,
            self.limits.decode_bytes,
            self.limits.decode_timeout,
        )
        self._decoders = Decoders(setup, self.limits.workers, shape, self._lost)
        self.batcher = Batcher(
            classifier.scores_of,
            self.limits.max_batch or classifier.views_at_once(),
            self.limits.max_wait,
            lambda: self._in_work,
            self._batch_done,
        )

    def _warm_up(self, shape: Sequence[int]) -> None:
        """Runs the model on a black clip, so that what does not work is known before the first request."""
        clip = torch.zeros(*shape[1:], dtype=torch.uint8).movedim(-1, -3)
        scores = self.classifier.scores_of([clip])
        if scores.ndim != 2 or scores.shape[1] != len(self.classifier.class_names):
            raise RuntimeError(
                f"the model gives {tuple(scores.shape)} for a clip, not a row of {len(self.classifier.class_names)}"
                " scores"
            )

    def __enter__(self) -> "Service":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the processes and the threads; requests in work are refused."""
        self.stopping = True
        self.batcher.close()
        self._decoders.close()

    def decoder_processes(self) -> list[int]:
        """Returns the ids of the processes that decode."""
        return self._decoders.processes()

    @property
    def in_work(self) -> int:
        """Number of requests between their arrival and their answer."""
        return self._in_work

    def problem(self) -> str | None:
        """Returns why the service takes no requests now, or None if it does."""
        if self.stopping:
            return "the service is stopping"
        if not self.batcher.alive():
            return "the thread of the model has ended"
        if self.batcher.busy() > self.limits.timeout:
            return f"the model has been busy with one batch for {self.batcher.busy():.0f} seconds"
        return None

    def metrics_text(self) -> bytes:
        """Returns the counters in Prometheus's text format."""
        self.metrics.in_work.set(self._in_work)
        self.metrics.waiting.set(self.batcher.waiting())
        self.metrics.temp.set(self.uploads.bytes)
        self.metrics.ready.set(self.problem() is None)
        return self.metrics.text()

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Takes a place in the queue for the time of a request.

        Raises:
            RefusedError: If there is none, or the service is stopping.
        """
        if self.stopping:
            raise RefusedError(
                503, "stopping", "the service is stopping: send the request to another", retry_after=5, close=True
            )
        if self._in_work >= self.limits.queue:
            raise RefusedError(
                429,
                "busy",
                f"{self._in_work} requests are in work, the limit of this service: try again later",
                retry_after=self._wait(),
                close=True,
            )
        self._in_work += 1
        begun = time.monotonic()
        try:
            yield
            self._recent.append(time.monotonic() - begun)
        finally:
            self._in_work -= 1
            self.batcher.fewer_others()

    def _wait(self) -> float:
        """Returns about how many seconds pass until a place is free."""
        return min(statistics.median(self._recent), self.limits.timeout)

    async def answer(self, file: IO[bytes], topk: int | None) -> dict[str, Any]:
        """Labels a video.

        Args:
            file: The video; it may be closed as soon as this ends.
            topk: Number of labels, as for a `VideoClassifier`.

        Returns:
            The predictions, facts about the video, and `seconds` by stage, for JSON.

        Raises:
            RefusedError: If there is no answer within the limits.
        """
        collected = Collected()

        def take(pictures: torch.Tensor, weight: int) -> None:
            for view in pictures:
                self.batcher.put(view, weight, collected)

        decoding = self._decoders.submit(file.fileno(), take)
        try:
            async with asyncio.timeout(self.limits.timeout):
                scores, decoded = await self._scores(decoding, collected)
        except TimeoutError as error:
            raise RefusedError(
                504,
                "timeout",
                f"there was no answer within {self.limits.timeout:g} seconds: send a shorter video, or try again when "
                "the service is less busy",
            ) from error
        finally:  # also when the client has gone
            if not collected.future.done() or collected.future.cancelled() or collected.future.exception():
                decoding.cancel()
                self.batcher.drop(collected)
        predictions = self.classifier.named(scores, topk)
        return self._described(predictions, decoded, collected)

    async def _scores(self, decoding: Decoding, collected: Collected) -> tuple[torch.Tensor, Decoded]:
        assert decoding.future is not None
        decode = asyncio.wrap_future(decoding.future)
        score = asyncio.wrap_future(collected.future)
        for future in (decode, score):  # else asyncio complains of errors that nobody waits for
            future.add_done_callback(lambda future: future.cancelled() or future.exception())
        await asyncio.wait((decode, score), return_when=asyncio.FIRST_COMPLETED)
        if score.done():  # early, so it has failed
            return await score, Decoded()
        decoded = await decode
        collected.expect(decoded.clips * self.classifier.views.num_crops)
        return await score, decoded

    def _described(self, predictions: Any, decoded: Decoded, collected: Collected) -> dict[str, Any]:
        warnings = []
        if decoded.missing:
            warnings.append(
                f"{decoded.missing} of the frames that the labels are based on are missing or damaged, because the "
                "video is cut short or damaged"
            )
        return {
            "model": self.name,
            "task": self.classifier.task.name,
            "predictions": [as_dict(prediction) for prediction in predictions],
            "video": {
                "seconds": round(decoded.seconds, 3),
                "frames": decoded.frames,
                "width": decoded.width,
                "height": decoded.height,
            },
            "warnings": warnings,
            "seconds": {
                "queue": round(decoded.waited + collected.waited, 4),
                "decode": round(decoded.took, 4),
                "model": round(collected.took, 4),
            },
        }

    def _batch_done(self, size: int, seconds: float) -> None:
        self.metrics.batches.observe(size)
        self.metrics.batch_seconds.observe(seconds)

    def _lost(self, cause: str) -> None:
        self.metrics.lost.labels(cause).inc()


def _check_folder(folder: str | Path | None) -> None:
    """Raises OSError, with what to do, for a folder that cannot be written to."""
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OSError(
            f"cannot store uploads in {folder or 'the folder for temporary files'} ({error.strerror}): give another "
            "--temp-dir that exists and is writable"
        ) from error
