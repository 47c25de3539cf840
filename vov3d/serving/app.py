"""The web page of `vov3d demo --web`: drop a video, choose a model, see its labels. Needs the extra `demo`.

Visitors are not trusted: files have limits of size, length and pixels, the model is one of a fixed list, requests wait
in a queue of limited length, and uploads are deleted after an hour. The page loads nothing from other hosts and sends
no usage data.
"""

import os
import tempfile
import threading
import time
from base64 import b64encode
from collections import OrderedDict
from collections.abc import Sequence
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any

from vov3d.deploy import optimize_for_inference
from vov3d.extras import install
from vov3d.models import create_model, list_pretrained
from vov3d.models.names import model_name

__all__ = ["VIEWS", "Limits", "build_app", "launch_app"]

VIEWS = ("1x1", "1x3", "2x3", "5x1", "10x3")
"""Numbers of clips and crops that a visitor can choose."""

_EXAMPLES = (0, 5, 7, 9, 14, 17)  # classes of moving shapes
_STREAM = "shapes_stream"  # a tag for `vov3d live`, not for whole clips
_LOADED = 2  # models that are kept in memory
_HOUR = 3600
_SHAPES_ONLY = (
    "This model knows only 20 motions of generated shapes. For human actions choose a model with k400 (Kinetics) or"
    " ssv2 (Something-Something) in its name."
)

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
.vov3d-ends {display: flex; justify-content: space-between; gap: .5rem; margin: .2rem 0 .6rem; font-size: .85em; opacity: .75}
.vov3d-ends span {white-space: nowrap} .vov3d-ends span:nth-child(2) {white-space: normal; text-align: center}
.vov3d-video video {max-height: 22rem}
.vov3d-error {border: 1px solid #c02f2f; border-radius: .4rem; padding: .8rem 1rem; overflow-wrap: anywhere}
.vov3d-note {opacity: .75; font-size: .9em}
"""


class Limits:
    """Limits of what a visitor may send.

    Args:
        megabytes: Size of a file.
        seconds: Length of a video.
        pixels: Pixels of a frame.
        waiting: Requests that may wait.

    Raises:
        ValueError: For a limit that is not positive.
    """

    def __init__(
        self, megabytes: float = 100, seconds: float = 600, pixels: int = 4096 * 2304, waiting: int = 16
    ) -> None:
        self.megabytes, self.seconds, self.pixels, self.waiting = megabytes, seconds, pixels, waiting
        for name, value in vars(self).items():
            if not 0 < value < float("inf"):
                raise ValueError(f"{name} is {value}: a limit must be positive and finite")


class _Models:
    """Loads models when they are chosen, and keeps those used last."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self._kept: OrderedDict[str, tuple[Any, Any]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, name: str) -> tuple[Any, Any]:
        """Returns a model and its optimized form."""
        if name not in self.names:
            raise ValueError(f"there is no model {name!r} on this page; choose one of {', '.join(self.names)}")
        with self._lock:
            if name not in self._kept:
                model = create_model(model_name(name), pretrained=True).eval()
                self._kept[name] = model, optimize_for_inference(model)
            self._kept.move_to_end(name)
            while len(self._kept) > _LOADED:
                self._kept.popitem(last=False)
            return self._kept[name]


def default_models() -> list[str]:
    """Returns the models that the page offers: the packaged one and all with published weights."""
    names = [name for name in list_pretrained() if not name.endswith(_STREAM)]
    return sorted(names, key=lambda name: not name.startswith("vov3d_n"))


def build_app(models: Sequence[str] | None = None, limits: Limits | None = None) -> Any:
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
    limits = limits or Limits()
    names = default_models() if models is None else list(models)
    if not names:
        raise ValueError("models is empty: name at least one model for the page to offer")
    page = _Page(_Models(names), limits)
    with gr.Blocks(title="vov3d", analytics_enabled=False, delete_cache=(_HOUR, _HOUR)) as app:
        gr.Markdown("# vov3d\nEfficient 3D CNNs label the action in a video. Drop a video, record one, or try an example.")
        with gr.Row():
            with gr.Column(min_width=320):
                video = gr.Video(
                    label="Video",
                    sources=["upload", "webcam"],
                    webcam_options=gr.WebcamOptions(mirror=False),
                    elem_classes="vov3d-video",
                )
                with gr.Row():
                    model = gr.Dropdown(names, value=names[0], label="Model", min_width=220)
                    views = gr.Dropdown(list(VIEWS), value=VIEWS[0], label="Views (clips x crops)", min_width=120)
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
                labels = gr.HTML(_note("The labels will be shown here."), elem_id="labels")
        inputs = [video, model, views]
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
    """
    limits = app.vov3d_page.limits
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
        max_file_size=f"{limits.megabytes:g}mb",
        allowed_paths=[str(app.vov3d_page.folder)],
        css=_STYLE,
        theme=_gradio().themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        prevent_thread_lock=True,
    )
    if block:
        app.block_thread()
    return address


class _Page:
    """What the page computes for a visitor."""

    def __init__(self, models: _Models, limits: Limits) -> None:
        self.models, self.limits = models, limits
        self._folder = tempfile.TemporaryDirectory(prefix="vov3d-examples-")
        self.folder = Path(self._folder.name)
        self.examples = _made_examples(self.folder)

    def classify(self, video: str | None, model: str, views: str) -> str:
        """Returns the labels of a video and the frames that the network sees, as HTML; or why there are none."""
        try:
            return self._classified(video, model, views)
        except (ImportError, OSError, RuntimeError, ValueError) as error:
            text = str(error)
            if video:
                text = text.replace(str(video), Path(video).name)
            return f'<div class="vov3d-error" role="alert">{escape(text)}</div>'

    def _classified(self, video: str | None, model: str, views: str) -> str:
        from vov3d.video import VideoClassifier

        if not video:
            raise ValueError("There is no video yet: drop a file, record one with the camera, or click an example.")
        if views not in VIEWS:
            raise ValueError(f"views is {views!r}: choose one of {', '.join(VIEWS)}")
        path = Path(video)
        self._check(path)
        begun = time.perf_counter()
        _, fast = self.models.get(model)
        loaded = time.perf_counter()
        result = VideoClassifier(fast, views=views).result(path, topk=5)
        seconds = time.perf_counter() - loaded
        html = [_bar(prediction) for prediction in result.predictions]
        html += [_note("Frames that the network sees"), _strip(result.frames), _time_line(result.clips, result.duration)]
        html.append(_note(_took(seconds, loaded - begun, len(result.clips), views)))
        if getattr(fast, "pretrained_cfg", {}).get("label_set") == "shapes":
            html.append(_note(_SHAPES_ONLY))
        return "".join(html)

    def _check(self, path: Path) -> None:
        """Raises ValueError for a file beyond the limits, before any frame is decoded."""
        from vov3d.video import VideoReader

        if not path.is_file():
            raise ValueError("The video is no longer on the server: send it again.")
        megabytes = path.stat().st_size / 1e6
        if megabytes > self.limits.megabytes:
            raise ValueError(f"{path.name} has {megabytes:.0f} MB; send at most {self.limits.megabytes:g} MB.")
        with VideoReader(path) as reader:
            if reader.duration > self.limits.seconds:
                raise ValueError(
                    f"{path.name} lasts {reader.duration:.0f} s; send at most {self.limits.seconds:g} s, such as the part"
                    " with the action."
                )
            if reader.height * reader.width > self.limits.pixels:
                raise ValueError(
                    f"{path.name} has {reader.width}x{reader.height} pixels; send at most {self.limits.pixels / 1e6:.1f}"
                    " million."
                )


def _gradio() -> Any:
    """Imports Gradio, with its usage data and version check switched off."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
    except ImportError as error:
        raise ImportError(f"the web page needs Gradio: {install('demo')}") from error
    return gradio


def _made_examples(folder: Path) -> dict[str, Path]:
    """Writes a clip of some of the classes of moving shapes, by the names of the classes."""
    import numpy as np

    from vov3d.synthetic.moving_shapes import CLASSES, make_clip, write_clip

    made = {}
    for label in _EXAMPLES:
        made[CLASSES[label]] = path = folder / f"example_{label:02d}.mp4"
        write_clip(path, make_clip(label, np.random.default_rng((2026, label)), size=96))
    return made


# --- pieces of HTML --------------------------------------------------------------------------------------------------


def _bar(prediction: Any) -> str:
    """Returns a label with its score, above a bar as long as the score."""
    width = 100 * min(max(prediction.score, 0.0), 1.0)
    return (
        f'<div class="vov3d-bar"><p><span>{escape(prediction.label)}</span><b>{escape(prediction.text)}</b></p>'
        f'<div><div style="height:100%;width:{width:.1f}%"></div></div></div>'
    )


def _strip(frames: Any) -> str:
    """Returns uint8 frames `(T, C, S, S)` as pictures side by side."""
    pictures = [_data_address(frame) for frame in frames]
    images = (f'<img src="{at}" alt="frame {number}">' for number, at in enumerate(pictures, 1))
    return f'<div class="vov3d-strip">{"".join(images)}</div>'


def _data_address(frame: Any) -> str:
    """Returns a uint8 frame `(C, S, S)` as the address of a picture that holds its content."""
    from PIL import Image

    content = BytesIO()
    Image.fromarray(frame.permute(1, 2, 0).cpu().numpy()).save(content, "JPEG", quality=88)
    return "data:image/jpeg;base64," + b64encode(content.getvalue()).decode()


def _time_line(clips: list[list[float]], duration: float) -> str:
    """Returns the video's time line with a mark for each frame of each clip; those of the shown clip in orange."""
    shown = len(clips) // 2
    order = [*range(shown), *range(shown + 1, len(clips)), shown]
    marks = [
        f'<i class="{"shown" if number == shown else ""}" style="left:{min(100 * at / duration, 99.5):.2f}%"></i>'
        for number in order
        for at in clips[number]
    ]
    return (
        f'<div class="vov3d-line" role="img" aria-label="Times of the frames">{"".join(marks)}</div>'
        f'<div class="vov3d-ends"><span>0 s</span><span>frames of the clips; the shown ones are orange</span>'
        f"<span>{duration:.1f} s</span></div>"
    )


def _took(seconds: float, loading: float, clips: int, views: str) -> str:
    text = f"{seconds:.2f} s for {clips} {'clip' if clips == 1 else 'clips'} ({views} views), decoding included"
    return text + (f"; loading the model took {loading:.1f} s more" if loading > 0.05 else "")


def _note(text: str) -> str:
    return f'<p class="vov3d-note">{escape(text)}</p>'


def _limits_text(limits: Limits) -> str:
    return (
        f"Up to {limits.megabytes:g} MB and {limits.seconds:g} s. Your video is sent to the machine that runs this page,"
        " and deleted there after an hour at most."
    )
