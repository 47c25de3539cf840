"""The web page of `vov3d demo --web`: drop a video, choose a model, see its labels. Needs the extra `demo`.

Visitors are not trusted: files have limits of size, length and pixels, another process decodes them and may crash, the
model is one of a fixed list, requests wait in a queue of limited length, and uploads are deleted after an hour. The
page loads nothing from other hosts and sends no usage data.
"""

import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from vov3d.extras import install
from vov3d.models import list_pretrained
from vov3d.serving._labelling import error_card, note, text_of
from vov3d.signals import signals_as_ctrl_c

__all__ = ["PageLimits", "build_app", "launch_app", "wait_for_end"]

VIEWS = ("1x1", "1x3", "2x3", "5x1", "10x3")
"""Numbers of clips and crops that a visitor can choose."""

_EXAMPLES = (0, 5, 7, 9, 14, 17)  # classes of moving shapes
_STREAM = "shapes_stream"  # a tag for `vov3d live`, not for whole clips
_SWEEP, _OLD = 600, 3000  # seconds from one deletion of old uploads to the next, and their age; an hour in all
_LOADING = 900.0  # seconds to load a model, which may be downloaded
_STYLE = """
.vov3d-bar {margin: 0 0 .7rem}
.vov3d-bar p {display: flex; justify-content: space-between; gap: 1rem; margin: 0 0 .2rem; overflow-wrap: anywhere}
.vov3d-bar b {white-space: nowrap}
.vov3d-bar div {height: .6rem; border-radius: .3rem; background: var(--border-color-primary)}
.vov3d-bar div div {background: #3d6fd9; min-width: 2px}
.vov3d-strip {display: grid; grid-template-columns: repeat(4, 1fr); gap: .3rem; margin: .3rem 0 .8rem}
.vov3d-strip img {width: 100%; border-radius: .3rem}
.vov3d-line {position: relative; height: 1.6rem; border-radius: .3rem; background: var(--border-color-primary)}
.vov3d-line i {position: absolute; top: .2rem; bottom: .2rem; min-width: 2px; border-radius: 2px}
.vov3d-line i {background: #3d6fd980} .vov3d-line i.shown {background: #d9663d}
.vov3d-ends {display: flex; justify-content: space-between; gap: .5rem; margin: .2rem 0 .6rem}
.vov3d-ends {font-size: .85em; opacity: .75}
.vov3d-ends span {white-space: nowrap} .vov3d-ends span:nth-child(2) {white-space: normal; text-align: center}
.vov3d-video video {max-height: 22rem} .vov3d-video svg {pointer-events: none}
.vov3d-error {border: 1px solid #c02f2f; border-radius: .4rem; padding: .8rem 1rem; overflow-wrap: anywhere}
.vov3d-note {opacity: .75; font-size: .9em}
"""


class PageLimits:
    """Limits of what a visitor may send.

    Args:
        megabytes: Size of a file.
        seconds: Length of a video.
        pixels: Pixels of a frame.
        timeout: Seconds for one video.
        waiting: Requests that may wait.

    Raises:
        ValueError: For a limit that is not positive.
    """

    def __init__(
        self,
        megabytes: float = 100,
        seconds: float = 600,
        pixels: int = 4096 * 2304,
        timeout: float = 120,
        waiting: int = 16,
    ) -> None:
        self.megabytes, self.seconds, self.pixels = megabytes, seconds, pixels
        self.timeout, self.waiting = timeout, waiting
        for name, value in vars(self).items():
            if not 0 < value < float("inf"):
                raise ValueError(f"{name} is {value}: a limit must be positive and finite")


def default_models() -> list[str]:
    """Returns the models that the page offers: the packaged one and all with published weights."""
    names = [name for name in list_pretrained() if not name.endswith(_STREAM)]
    return sorted(names, key=lambda name: not name.startswith("vov3d_n"))


def build_app(models: Sequence[str] | None = None, limits: PageLimits | None = None) -> Any:
    """Builds the page.

    Args:
        models: Names such as `"vov3d_m.k400_f16"`, or folders of saved models, for visitors to choose from; the first
            is chosen at the start. All models with published weights if None.
        limits: Limits of what visitors may send.

    Returns:
        A `gradio.Blocks`, which `launch_app` starts.

    Raises:
        ValueError: If no model is named.
        ImportError: If Gradio is not installed.
    """
    gr = _gradio()
    limits = limits or PageLimits()
    names = default_models() if models is None else list(models)
    if not names:
        raise ValueError("models is empty: name at least one model for the page to offer")
    page = _Page(names, limits)
    with gr.Blocks(title="vov3d", analytics_enabled=False, delete_cache=(_SWEEP, _OLD)) as app:
        gr.Markdown(
            "# vov3d\nEfficient 3D CNNs label the action in a video. Drop a video, record one, or try an example."
        )
        with gr.Row():
            with gr.Column(min_width=320):
                video = gr.Video(
                    label="Video",
                    sources=["upload", "webcam"],
                    webcam_options=gr.WebcamOptions(mirror=False),
                    elem_classes="vov3d-video",
                )
                video.async_move_resource_to_block_cache = _uploaded_only(video)
                with gr.Row():
                    model = gr.Dropdown(names, value=names[0], label="Model", min_width=220)
                    views = gr.Dropdown(list(VIEWS), value=VIEWS[0], label="Views (clips x crops)", min_width=120)
                explained = gr.Checkbox(True, label="Show what speaks for the best label")
                button = gr.Button("Label the video", variant="primary")
                gr.Markdown(_limits_text(limits), elem_classes="vov3d-note")
                examples = gr.Examples(
                    [[str(path)] for path in page.examples.values()],
                    [video],
                    label="Examples: moving shapes, the clips that vov3d_n knows",
                    example_labels=list(page.examples),
                    cache_examples=False,
                )
            with gr.Column(min_width=320):
                labels = gr.HTML(note("The labels will be shown here."), elem_id="labels")
        inputs = [video, model, views, explained]
        button.click(page.classify, inputs, labels, api_name="classify", scroll_to_output=True)
        examples.load_input_event.then(page.classify, inputs, labels, api_visibility="private", scroll_to_output=True)
    app.queue(max_size=limits.waiting, default_concurrency_limit=1)  # one request already uses all cores
    app.vov3d_page = page
    return app


def launch_app(app: Any, *, host: str = "127.0.0.1", port: int | None = None, block: bool = True) -> str:
    """Starts the page of `build_app`.

    Args:
        app: The page.
        host: Address to listen on; this machine only by default. `"0.0.0.0"` opens it to the network.
        port: Port; the first free one from 7860 if None.
        block: Whether to return only when the server is stopped.

    Returns:
        The address of the page.

    Raises:
        OSError: If the port is taken.
        ValueError: If there is no such port.
    """
    page = app.vov3d_page
    if port is not None and not 0 < port < 65536:
        raise ValueError(f"the port is {port}: give one from 1 to 65535, or none for the first free one from 7860")
    try:
        _, address, _ = app.launch(
            server_name=host,
            server_port=port,
            share=False,
            show_error=True,
            quiet=True,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            footer_links=[],
            max_file_size=math.ceil(1e6 * page.limits.megabytes),
            allowed_paths=[str(page.folder)],
            css=_STYLE,
            theme=_gradio().themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
            prevent_thread_lock=True,
        )
    except OSError as error:
        if port is None:
            raise
        raise OSError(
            f"cannot show the page on {host!r}, port {port}: is another program listening there? Give another port, or "
            "none for the first free one from 7860"
        ) from error
    threading.Thread(target=_load_first, args=[page], daemon=True).start()
    if block:
        wait_for_end(app)
    return address


def _load_first(page: Any) -> None:
    """Loads the first model, so that the first visitor waits less, and says on stderr if this fails."""
    with suppress(OSError, RuntimeError):  # the page is closed meanwhile; else the first visitor is told
        if failure := page.worker.load(page.models[0]):
            print(f"the page cannot offer {page.models[0]}: {text_of(failure)}", file=sys.stderr)


def wait_for_end(app: Any) -> None:
    """Waits for Ctrl-C, SIGTERM or SIGHUP, then stops the server of a page and deletes what visitors have sent.

    Must be called in the main thread.

    Args:
        app: The page, after `launch_app`.
    """
    with signals_as_ctrl_c():
        app.block_thread()


class _Page:
    """The examples of the page, its limits, and answers to its visitors."""

    def __init__(self, models: Sequence[str], limits: PageLimits) -> None:
        self.models, self.limits = list(models), limits
        self.worker = _Worker(
            {"models": self.models, "seconds": limits.seconds, "pixels": limits.pixels}, limits.timeout
        )
        self._folder = tempfile.TemporaryDirectory(prefix="vov3d-examples-")
        self.folder = Path(self._folder.name)
        self.examples = _made_examples(self.folder)

    def classify(self, video: str | None, model: str, views: str, explained: bool = False) -> str:
        """Returns the labels of a video and the frames that the network sees, as HTML; or why there are none."""
        try:
            self._check(video, model, views)
            return self.worker.label(str(video), model, views, explained)
        except (OSError, RuntimeError, ValueError) as error:
            return error_card(str(error))

    def _check(self, video: str | None, model: str, views: str) -> None:
        """Raises ValueError for a request that the page does not offer."""
        if not video:
            raise ValueError("There is no video yet: drop a file, record one with the camera, or click an example.")
        if model not in self.models:
            raise ValueError(f"There is no model {model!r} on this page: choose one of {', '.join(self.models)}.")
        if views not in VIEWS:
            raise ValueError(f"There are no views {views!r}: choose one of {', '.join(VIEWS)}.")
        path = Path(video)
        if not path.is_file():
            raise ValueError("The video is no longer on the server: send it again.")
        megabytes = path.stat().st_size / 1e6
        if megabytes > self.limits.megabytes:
            raise ValueError(f"{path.name} has {megabytes:.0f} MB: send at most {self.limits.megabytes:g} MB.")


class _Worker:
    """The process that reads and labels videos; started when it is needed, and again after it has ended.

    Args:
        settings: Arguments of the `Labeller`.
        timeout: Seconds for one video, without loading the model.
    """

    def __init__(self, settings: dict[str, Any], timeout: float) -> None:
        self._command = [sys.executable, "-m", "vov3d.serving._labelling", json.dumps(settings)]
        self._timeout = timeout
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def label(self, video: str, model: str, views: str, explained: bool = False) -> str:
        """Returns the labels of a video as HTML, as `Labeller.label` does.

        Raises:
            RuntimeError: If the process ends before it answers.
        """
        with self._lock:
            failure = self._answer(_LOADING, call="load", model=model)
            if failure:
                return failure
            request = dict(video=video, model=model, views=views, explained=explained)
            return self._answer(self._timeout, call="label", **request)

    def load(self, model: str) -> str:
        """Loads a model; returns why this failed as HTML, or nothing."""
        with self._lock:
            return self._answer(_LOADING, call="load", model=model)

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _answer(self, seconds: float, **request: Any) -> str:
        """Sends a request and returns the answer; kills the process after some seconds."""
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            weakref.finalize(self, self._process.kill)
        process, begun = self._process, time.monotonic()
        assert process.stdin is not None
        assert process.stdout is not None
        clock = threading.Timer(seconds, process.kill)
        clock.start()
        try:
            print(json.dumps(request), file=process.stdin, flush=True)
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            clock.cancel()
        if line:
            return json.loads(line)
        code = process.wait()
        self.close()
        if time.monotonic() - begun >= seconds:
            raise RuntimeError(
                f"This took over {seconds:g} s and was ended: send a shorter video, or choose fewer views."
            )
        raise RuntimeError(
            f"The decoder or the model ended without an answer (exit code {code}): convert the video to H.264 in MP4,"
            " or try again."
        )


def _gradio() -> Any:
    """Imports Gradio, with its usage data and version check switched off."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
    except ImportError as error:
        raise ImportError(f"the web page needs Gradio: {install('demo')}") from error
    return gradio


def _uploaded_only(video: Any) -> Callable[[str | None], Awaitable[str | None]]:
    """Returns how Gradio gets the file of a component, for files that are on the server already.

    For a visitor who names an address it would download that, of any size.
    """
    usual = video.async_move_resource_to_block_cache

    async def get(path: str | None) -> str | None:
        if path is not None and "://" in path:
            raise _gradio().Error("This page downloads nothing: send the video itself.", print_exception=False)
        return await usual(path)

    return get


def _made_examples(folder: Path) -> dict[str, Path]:
    """Writes a clip of some of the classes of moving shapes, by the names of the classes."""
    import numpy as np

    from vov3d.synthetic.moving_shapes import CLASSES, make_clip, write_clip

    made = {}
    for label in _EXAMPLES:
        made[CLASSES[label]] = path = folder / f"example_{label:02d}.mp4"
        write_clip(path, make_clip(label, np.random.default_rng((2026, label)), size=96))
    return made


def _limits_text(limits: PageLimits) -> str:
    return (
        f"Up to {limits.megabytes:g} MB and {limits.seconds:g} s. Your video is sent to the machine that runs this"
        " page, and deleted there after an hour at most."
    )
