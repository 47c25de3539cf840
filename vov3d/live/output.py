"""Outputs for a stream: changes of its label, a video with labels, and a web page."""

import io
import json
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vov3d.files import replacing
from vov3d.video.predictions import Prediction, Value
from vov3d.weights.tasks import SINGLE, Task


class Announcer:
    """Announces a label once it has been the best for some steps, with a sufficient score.

    For a multilabel network, all labels that reach the threshold are announced together, in alphabetical order. Values
    of a regression are all announced at each step.

    Args:
        steps: Number of steps.
        threshold: Least score at each step.
        task: Task of the network.
    """

    def __init__(self, steps: int, threshold: float, task: Task = SINGLE) -> None:
        self.steps, self.threshold, self.task = steps, threshold, task
        self.label: str | None = None
        self._leads: str | None = None
        self._for = 0

    def changed(self, predictions: Sequence[Prediction]) -> bool:
        """Takes the predictions of a step; returns whether the announced label (None for nothing) has changed."""
        leads = self._leading(predictions)
        self._for = self._for + 1 if leads == self._leads else 1
        self._leads = leads
        if leads == self.label or self._for < self.steps:
            return False
        self.label = leads
        return True

    def _leading(self, predictions: Sequence[Prediction]) -> str | None:
        """Returns the text to announce if it lasts for enough steps; None for nothing."""
        if self.task.name == "regression":
            return ", ".join(f"{p.label} {p.text}" for p in predictions) or None
        reached = [p.label for p in predictions if p.score >= self.threshold]
        if self.task.name == "multilabel":
            return " + ".join(sorted(reached)) or None
        return reached[0] if reached and reached[0] == predictions[0].label else None


def annotated(picture: np.ndarray, predictions: Sequence[Prediction]) -> Image.Image:
    """Draws labels into a frame, each on a bar whose length is its score; sizes become even, as codecs need."""
    height, width = picture.shape[:2]
    scale = max(1.0, 320 / max(width, 1))
    image = Image.fromarray(picture).resize((round(width * scale) // 2 * 2, round(height * scale) // 2 * 2))
    size = max(12, image.width // 32)
    font, draw = ImageFont.load_default(size), ImageDraw.Draw(image, "RGBA")
    for number, prediction in enumerate(predictions[:5]):
        top = number * round(1.6 * size) + 4
        score = prediction.score
        share, number_text = (1.0, prediction.text) if isinstance(prediction, Value) else (score, f"{score:4.0%}")
        draw.rectangle((0, top, image.width * share, top + 1.5 * size), (61, 111, 217, 150))
        text = f"{number_text}  {prediction.label}".encode("latin-1", "replace").decode("latin-1")
        draw.text((6, top), text, "white", font, stroke_width=1, stroke_fill="black")
    return image


_TICKS = 90_000  # a second, as in MPEG: the times of all usual rates are whole


class VideoWriter:
    """An H.264 file of annotated frames, each shown at its own time; it is put in place when it is closed.

    Args:
        path: The file; its folder must exist.
        fps: Frames per second to expect; late and dropped frames make it less.

    Raises:
        ValueError: If the name does not have a video's extension.
    """

    def __init__(self, path: Path, fps: float) -> None:
        if path.suffix.lower() not in (".mp4", ".mkv", ".mov"):
            raise ValueError(f"{path}: the video's name must end in .mp4, .mkv or .mov")
        self._path, self._fps = path, fps
        self._placing = ExitStack()  # holds the draft from the first frame on; closing it puts the file in place
        self._container: Any = None
        self._stream: Any = None
        self._last = -1

    def write(self, image: Image.Image, seconds: float) -> None:
        """Adds a frame at its time; one of another size than the first is resized."""
        if self._container is None:
            self._container = av.open(str(self._placing.enter_context(replacing(self._path))), "w")
            self._stream = self._container.add_stream("libx264", rate=max(round(self._fps), 1), options={"crf": "23"})
            self._stream.width, self._stream.height, self._stream.pix_fmt = *image.size, "yuv420p"
            self._stream.codec_context.time_base = Fraction(1, _TICKS)
        frame = av.VideoFrame.from_image(image.resize((self._stream.width, self._stream.height)))
        frame.pts = self._last = max(round(seconds * _TICKS), self._last + 1)
        frame.time_base, frame.duration = Fraction(1, _TICKS), max(round(_TICKS / self._fps), 1)
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Finishes the file, if there was a frame, and puts it in place; after an error the draft is removed."""
        container, self._container = self._container, None
        if container is not None:
            with self._placing:
                container.mux(self._stream.encode(None))
                container.close()


_PAGE = b"""<!doctype html><meta charset="utf-8"><title>vov3d live</title>
<style>body{font-family:sans-serif;background:#1b1b1f;color:#eee;text-align:center}img{max-width:96vw}</style>
<h1 id="label">&nbsp;</h1><img src="/live.mjpg" alt="the newest frame with its labels">
<script>setInterval(async()=>{const now=await (await fetch("/labels.json")).json();
document.getElementById("label").textContent=now.label||"\\u00a0"},500)</script>"""


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Prints no traceback where a browser has closed the connection."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class Page:
    """A web page for this machine only, with the newest picture and its labels.

    Args:
        port: Port of the page; 0 for any free one.
    """

    def __init__(self, port: int) -> None:
        self._changed = threading.Condition()
        self._jpeg, self._number, self._now = b"", 0, b"{}"
        self._open = True
        page = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                page._answer(self)

            def log_message(self, *_: object) -> None:
                """Prints nothing: standard error is for the command."""

        try:
            self._server = _Server(("127.0.0.1", port), Handler)
        except OSError as error:
            raise OSError(
                f"cannot serve the page on port {port} ({error.strerror or error}): is another service running there?"
                " Give another port, or 0 for any that is free"
            ) from error
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_port}/"
        self._thread = threading.Thread(target=self._server.serve_forever, name="vov3d-page", daemon=True)
        self._thread.start()

    def show(self, image: Image.Image, now: dict[str, Any]) -> None:
        """Shows a picture with its labels."""
        with io.BytesIO() as buffer:
            image.save(buffer, "JPEG", quality=80)
            jpeg = buffer.getvalue()
        with self._changed:
            self._jpeg, self._now, self._number = jpeg, json.dumps(now).encode(), self._number + 1
            self._changed.notify_all()

    def close(self) -> None:
        """Closes the page."""
        with self._changed:
            self._open = False
            self._changed.notify_all()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        known = {"/": ("text/html; charset=utf-8", _PAGE), "/labels.json": ("application/json", self._now)}
        if request.path == "/live.mjpg":
            self._send_pictures(request)
        elif request.path in known:
            kind, content = known[request.path]
            request.send_response(200)
            request.send_header("Content-Type", kind)
            request.send_header("Content-Length", str(len(content)))
            request.end_headers()
            request.wfile.write(content)
        else:
            request.send_error(404)

    def _send_pictures(self, request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        request.end_headers()
        sent = 0
        try:
            while True:
                with self._changed:
                    while self._number == sent and self._open:
                        self._changed.wait()
                    if not self._open:
                        return
                    jpeg, sent = self._jpeg, self._number
                request.wfile.write(b"--frame\r\nContent-Type: image/jpeg\r\n\r\n" + jpeg + b"\r\n")
        except OSError:  # the browser closed the connection
            return
