"""Writes the table of docs/guides/evaluation.md: published weights, the command that evaluates each, and its cost.

    python docs/measure published_weights

Accuracies are the registry's. Hours are estimated from the measured times of a view, see `hours`.
What somebody has measured, in a last column of the page, is kept.
"""

import functools
import json
import re

from pages import DOCS, fill

from vov3d import VideoPretrainedCfg, list_pretrained
from vov3d.models.budget import measure_budget
from vov3d.weights.config import resolve_cfg

PAGE = DOCS / "guides" / "evaluation.md"
DATA = {"k400": "kinetics400", "ssv1": "something-something-v1", "ssv2": "something-something-v2"}
"""Folder of each data set in the commands."""
VIDEOS = {"k400": 19_906, "ssv1": 11_522, "ssv2": 24_777}
"""Videos for validation."""
DISK = {"k400": 29, "ssv1": 25, "ssv2": 19}
"""GB of what has to be downloaded: of Kinetics-400 its validation part, else the whole set."""
VIEWS = json.loads((DOCS / "results" / "benchmarks" / "speed.json").read_text())["zoo"]
"""Measured seconds of a view, of `python docs/measure speed zoo`."""

_HEAD = ("command", "expected top-1, top-5", "views", "hours on two CPU cores", "disk, GB")


def main() -> None:
    """Writes the table anew."""
    fill(PAGE, published=table(measured(PAGE.read_text(encoding="utf-8"))))


def table(measured: dict[str, str]) -> str:
    """Returns the table, with a column for the measured accuracy of some models if there is one."""
    head = (*_HEAD, "measured top-1, top-5") if measured else _HEAD
    rows = [head, ("---",) * len(head)]
    for name in published():
        cfg, data = _cfg(name), _data_of(name)
        cells = (
            f"`{command(name)}`",
            f"{cfg.top1:.1f}, {cfg.top5:.1f}",
            "{} x {}".format(*cfg.views),
            f"{hours(name):.0f}",
            str(DISK[data]),
        )
        rows.append((*cells, measured.get(name, "")) if measured else cells)
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def hours(name: str) -> float:
    """Returns the estimated hours on two CPU cores: videos x views x the measured time of a view.

    Views that were not measured are estimated from the one of the same network with the nearest size, in proportion to
    the multiply-adds.
    """
    variant = name.split(".")[0]
    known = [other for other in VIEWS["rows"] if other.split(".")[0] == variant]
    like = min(known, key=lambda other: (other != name, abs(_size(other) - _size(name))))
    cfg = _cfg(name)
    views = VIDEOS[_data_of(name)] * cfg.views[0] * cfg.views[1]
    scale = 1.0 if like == name else _macs(name) / _macs(like)
    return views * VIEWS["rows"][like]["median"] * scale / 3600


def _macs(name: str) -> int:
    cfg = _cfg(name)
    return _counted(name.split(".")[0], cfg.num_frames, _size(name))


@functools.cache
def _counted(variant: str, num_frames: int, size: int) -> int:
    return measure_budget(variant, num_frames, size).macs  # the number of classes hardly changes it


def _size(name: str) -> int:
    cfg = _cfg(name)
    return (cfg.test_input_size or cfg.input_size)[-1]


def _data_of(name: str) -> str:
    return name.split(".")[1].split("_")[0]


def _cfg(name: str) -> VideoPretrainedCfg:
    variant, tag = name.split(".")
    return resolve_cfg(variant, tag, None)


def published() -> list[str]:
    """Returns `model.tag` of the weights that their authors published, not of the packaged ones."""
    return [name for name in list_pretrained() if not _cfg(name).packaged]


def command(name: str) -> str:
    """Returns the command that evaluates published weights by their protocol."""
    return f"python -m reference.evaluate --data {DATA[_data_of(name)]} --split val --model {name}"


def measured(text: str) -> dict[str, str]:
    """Returns the measured accuracies of a page's table, by model."""
    cells = re.findall(r"^\| `.* --model (\S+)` \|(?:[^|]*\|){4}([^|]*)\|$", text, re.MULTILINE)
    return {name: cell.strip() for name, cell in cells if cell.strip()}


if __name__ == "__main__":
    main()
