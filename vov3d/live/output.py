"""What is told of a stream: changes of its label, a video with labels in it, a page that shows it."""

import io
import json
import os
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vov3d.video.predictions import Prediction, Value
from vov3d.weights.tasks import SINGLE, Task


class Announcer:
    """Which label is announced: one that has led for some steps, with a score that suffices.

    Of a network of many labels, all that reach the threshold are announced together, in the order of their names; of
    values, all of them, at each step.

    Args:
        steps: Steps for which it has to lead.
        threshold: Score that it has to reach at each.
        task: What the outputs of the network mean.
    """

    def __init__(self, steps: int, threshold: float, task: Task = SINGLE) -> None:
        self.steps, self.threshold, self.task = steps, threshold, task
        self.label: str | None = None
        self._leads: str | None = None
        self._for = 0

    def changed(self, predictions: Sequence[Prediction]) -> bool:
        """Takes the predictions of a step; whether the label that is announced, None for nothing, is another now."""
        leads = self._leading(predictions)
        self._for = self._for + 1 if leads == self._leads else 1
        self._leads = leads
        if leads == self.label or self._for < self.steps:
            return False
        self.label = leads
        return True

    def _leading(self, predictions: Sequence[Prediction]) -> str | None:
        """What would be announced, were it to last."""
        if self.task.name == "regression":
            return ", ".join(f"{p.label} {p.text}" for p in predictions) or None
        reached = [p.label for p in predictions if p.score >= self.threshold]
        if self.task.name == "multilabel":
            return " + ".join(sorted(reached)) or None
        return reached[0] if reached and reached[0] == predictions[0].label else None


def annotated(picture: np.ndarray, predictions: Sequence[Prediction]) -> Image.Image:
    """A frame with its labels, each above a bar as long as its score; frames have even sizes, as codecs want them."""
    height, width = picture.shape[:2]
    scale = max(1.0, 320 / max(width, 1))
    image = Image.fromarray(picture).resize((round(width * scale) // 2 * 2, round(height * scale) // 2 * 2))
    size = max(12, image.width // 32)
    font, draw = ImageFont.load_default(size), ImageDraw.Draw(image, "RGBA")
    for number, said in enumerate(predictions[:5]):
        top = number * round(1.6 * size) + 4
        share, score = (1.0, said.text) if isinstance(said, Value) else (said.score, f"{said.score:4.0%}")
        draw.rectangle((0, top, image.width * share, top + 1.5 * size), (61, 111, 217, 150))
        text = f"{score}  {said.label}".encode("latin-1", "replace").decode("latin-1")
        draw.text((6, top), text, "white", font, stroke_width=1, stroke_fill="black")
    return image


class VideoWriter:
    """An H.264 file of annotated frames; it is put in place when it is closed.

    Args:
        path: The file.
        fps: Frames per second.

    Raises:
        ValueError: If its folder is not there or the name has no ending of a video.
    """

    def __init__(self, path: Path, fps: float) -> None:
        if path.suffix.lower() not in (".mp4", ".mkv", ".mov"):
            raise ValueError(f"{path}: the video's name must end in .mp4, .mkv or .mov")
        if not path.absolute().parent.is_dir():
            raise ValueError(f"{path}: there is no folder {path.absolute().parent}; make it first")
        self._path, self._fps = path, fps
        self._draft = path.with_name(f".{path.stem}.draft{path.suffix}")
        self._container: Any = None
        self._stream: Any = None

    def write(self, image: Image.Image) -> None:
        """Adds a frame; one of another size than the first is resized."""
        if self._container is None:
            self._container = av.open(str(self._draft), "w")
            self._stream = self._container.add_stream("libx264", rate=max(round(self._fps), 1), options={"crf": "23"})
            self._stream.width, self._stream.height, self._stream.pix_fmt = *image.size, "yuv420p"
        frame = image.resize((self._stream.width, self._stream.height))
        self._container.mux(self._stream.encode(av.VideoFrame.from_image(frame)))

    def close(self) -> None:
        """Finishes the file, where there was a frame."""
        if self._container is not None:
            self._container.mux(self._stream.encode(None))
            self._container.close()
            self._container = None
            os.replace(self._draft, self._path)


_PAGE = b"""<!doctype html><meta charset="utf-8"><title>vov3d live</title>
<style>body{font-family:sans-serif;background:#1b1b1f;color:#eee;text-align:center}img{max-width:96vw}</style>
<h1 id="label">&nbsp;</h1><img src="/live.mjpg" alt="the newest frame with its labels">
<script>setInterval(async()=>{const now=await (await fetch("/labels.json")).json();
document.getElementById("label").textContent=now.label||"\\u00a0"},500)</script>"""


class Page:
    """A page on this machine alone, with the newest picture and its labels.

    Args:
        port: Where; 0 for any that is free.
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
                """Nothing: standard error is for the command."""

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_port}/"
        self._thread = threading.Thread(target=self._server.serve_forever, name="vov3d-page", daemon=True)
        self._thread.start()

    def show(self, image: Image.Image, now: dict[str, Any]) -> None:
        """Puts a picture and what is said of it on the page."""
        with io.BytesIO() as buffer:
            image.save(buffer, "JPEG", quality=80)
            jpeg = buffer.getvalue()
        with self._changed:
            self._jpeg, self._now, self._number = jpeg, json.dumps(now).encode(), self._number + 1
            self._changed.notify_all()

    def close(self) -> None:
        """Ends the page."""
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
        except OSError:  # the browser went away
            return
