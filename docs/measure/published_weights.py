"""Writes the table of docs/guides/evaluation.md: published weights, the command that evaluates each, and what it gave.

    python docs/measure published_weights

Figures are the registry's. The last column is kept: whoever measures writes it.
"""

import re

from pages import DOCS, fill

from vov3d import VideoPretrainedCfg, list_pretrained
from vov3d.weights.config import resolve_cfg

PAGE = DOCS / "guides" / "evaluation.md"
DATA = {"k400": "kinetics400", "ssv1": "something-something-v1", "ssv2": "something-something-v2"}
"""Folder of each data set in the commands."""

_HEAD = ("command", "views", "published top-1", "published top-5", "measured top-1, top-5")


def main() -> None:
    """Writes the table anew."""
    fill(PAGE, published=table(measured(PAGE.read_text(encoding="utf-8"))))


def table(measured: dict[str, str]) -> str:
    """Returns the table, with the measured accuracy of some models."""
    rows = [_HEAD, ("---",) * len(_HEAD)]
    for name in published():
        cfg = _cfg(name)
        views = "{} x {}".format(*cfg.views)
        rows.append((f"`{command(name)}`", views, f"{cfg.top1:.1f}", f"{cfg.top5:.1f}", measured.get(name, "")))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _cfg(name: str) -> VideoPretrainedCfg:
    variant, tag = name.split(".")
    return resolve_cfg(variant, tag, None)


def published() -> list[str]:
    """Returns `model.tag` of the weights that their authors published, not of the packaged ones."""
    return [name for name in list_pretrained() if not _cfg(name).packaged]


def command(name: str) -> str:
    """Returns the command that evaluates published weights by their protocol."""
    data = DATA[name.split(".")[1].split("_")[0]]
    return f"python -m reference.evaluate --data {data} --split val --model {name}"


def measured(text: str) -> dict[str, str]:
    """Returns the last column of a page's table, by model."""
    cells = re.findall(r"^\| `.* --model (\S+)` \|.*\|(.*)\|$", text, re.MULTILINE)
    return {name: cell.strip() for name, cell in cells}


if __name__ == "__main__":
    main()
