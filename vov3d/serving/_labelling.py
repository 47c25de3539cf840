"""The process that reads and labels the videos of the web page, apart from the one that answers browsers.

A video may crash a decoder or keep it busy for ever: then this process ends or is killed, and the page starts another.
It takes requests and gives answers as lines of JSON.
"""

import argparse
import json
import os
import re
import sys
import time
from base64 import b64encode
from collections import OrderedDict
from collections.abc import Sequence
from html import escape, unescape
from io import BytesIO
from pathlib import Path
from typing import Any

from vov3d.deploy import optimize_for_inference
from vov3d.models import create_model
from vov3d.models.names import model_name

_LOADED = 2  # models that are kept in memory
_SHAPES_ONLY = (
    "This model knows only 20 motions of generated shapes. For human actions choose a model with k400 (Kinetics) or"
    " ssv2 (Something-Something) in its name."
)


class Models:
    """Loads models when they are chosen, and keeps those used last."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self._kept: OrderedDict[str, tuple[Any, Any]] = OrderedDict()

    def get(self, name: str) -> tuple[Any, Any]:
        """Returns a model and its optimized form."""
        if name not in self.names:
            raise ValueError(f"there is no model {name!r} on this page; choose one of {', '.join(self.names)}")
        if name not in self._kept:
            model = create_model(model_name(name), pretrained=True).eval()
            self._kept[name] = model, optimize_for_inference(model)
        self._kept.move_to_end(name)
        while len(self._kept) > _LOADED:
            self._kept.popitem(last=False)
        return self._kept[name]


class Labeller:
    """Labels videos and describes the results in HTML.

    Args:
        models: Names of the models that may be chosen.
        seconds: Longest video.
        pixels: Largest frame.
    """

    def __init__(self, models: Sequence[str], seconds: float, pixels: int) -> None:
        self.models, self.seconds, self.pixels = Models(models), seconds, pixels

    def load(self, model: str) -> str:
        """Loads a model; returns why this failed, or nothing."""
        try:
            self.models.get(model)
        except (ImportError, OSError, RuntimeError, ValueError) as error:
            return error_card(str(error))
        return ""

    def label(self, video: str, model: str, views: str, explained: bool = False) -> str:
        """Returns the labels of a video and the frames that the network sees, as HTML; or why there are none.

        Args:
            video: Path of the file.
            model: One of the models.
            views: Clips and crops, such as `"1x1"`.
            explained: Whether a heat map shows what speaks for the best label.
        """
        try:
            return self._labelled(Path(video), model, views, explained)
        except (ImportError, OSError, RuntimeError, ValueError) as error:
            return error_card(str(error).replace(video, Path(video).name))

    def _labelled(self, video: Path, model: str, views: str, explained: bool) -> str:
        from vov3d.video import VideoClassifier
        from vov3d.video.predictions import THRESHOLD

        self._check(video)
        plain, fast = self.models.get(model)
        begun = time.perf_counter()
        result = VideoClassifier(fast, views=views).result(video, topk=5)
        seconds = time.perf_counter() - begun
        assert result.frames is not None
        html = [_bar(prediction) for prediction in result.predictions] or [note(f"No label reaches {THRESHOLD:.0%}.")]
        html += [note("Frames that the network sees"), _strip(result.frames), _time_line(result.clips, result.duration)]
        html.append(_explanation(plain, video, result.predictions) if explained else "")
        html.append(note(_took(seconds, len(result.clips), views)))
        if getattr(fast, "pretrained_cfg", {}).get("label_set") == "shapes":
            html.append(note(_SHAPES_ONLY))
        return "".join(html)

    def _check(self, path: Path) -> None:
        """Raises ValueError for a video beyond the limits, before any frame is decoded."""
        from vov3d.video import VideoReader

        with VideoReader(path) as reader:
            if reader.duration > self.seconds:
                raise ValueError(
                    f"{path.name} lasts {reader.duration:.0f} s; send at most {self.seconds:g} s, such as the part with"
                    " the action."
                )
            if reader.height * reader.width > self.pixels:
                raise ValueError(
                    f"{path.name} has {reader.width}x{reader.height} pixels; send at most {self.pixels / 1e6:.1f}"
                    " million."
                )


# --- pieces of HTML --------------------------------------------------------------------------------------------------


def _bar(prediction: Any) -> str:
    """Returns a label with its score, above a bar as long as the score."""
    width = 100 * min(max(prediction.score, 0.0), 1.0)
    return (
        f'<div class="vov3d-bar"><p><span>{escape(prediction.label)}</span><b>{escape(prediction.text)}</b></p>'
        f'<div><div style="height:100%;width:{width:.1f}%"></div></div></div>'
    )


def _explanation(model: Any, video: Path, predictions: Sequence[Any]) -> str:
    """Returns the frames with a heat map of what speaks for the best label, or why there is none."""
    if not predictions:
        return ""
    best = predictions[0]
    try:
        from vov3d.interpret import explain
        from vov3d.interpret.picture import heated
        from vov3d.video.predictions import Combination

        parts = [part.index for _, part in best.parts] if isinstance(best, Combination) else None
        found = explain(model, video, best.index if parts is None else parts)
    except (ImportError, ValueError) as error:
        return note(f"No heat map: {error}")
    return note(f'What speaks for "{best.label}": the lighter, the more') + _strip(heated(found.frames, found.map))


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


def _took(seconds: float, clips: int, views: str) -> str:
    return f"{seconds:.2f} s for {clips} {'clip' if clips == 1 else 'clips'} ({views} views), decoding included"


def note(text: str) -> str:
    return f'<p class="vov3d-note">{escape(text)}</p>'


def error_card(text: str) -> str:
    """Returns an error as HTML."""
    return f'<div class="vov3d-error" role="alert">{escape(text)}</div>'


def text_of(card: str) -> str:
    """Returns the text of an `error_card`."""
    return unescape(re.sub("<[^>]*>", "", card))


# --- the process -----------------------------------------------------------------------------------------------------


def main() -> None:
    """Answers requests from the standard input until it is closed."""
    parser = argparse.ArgumentParser(prog="python -m vov3d.serving._labelling", description=__doc__)
    parser.add_argument("settings", help="the arguments of Labeller as JSON")
    labeller = Labeller(**json.loads(parser.parse_args().settings))
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    for line in sys.stdin:
        request = json.loads(line)
        call = getattr(labeller, {"load": "load", "label": "label"}[request.pop("call")])
        print(json.dumps(call(**request)), file=answers, flush=True)


if __name__ == "__main__":
    main()
