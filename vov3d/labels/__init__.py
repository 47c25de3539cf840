"""Class names of the label sets that published weights were trained on; line number = class index."""

import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from unicodedata import category

from torch import nn

LABEL_SETS = ("k400", "ssv1", "ssv2", "shapes")
"""Kinetics-400, Something-Something V1 and V2, and the moving shapes of `vov3d.video.moving_shapes`."""

# They turn the direction of all text behind them.
_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


@cache
def load_labels(label_set: str) -> tuple[str, ...]:
    """Names of a label set in index order.

    Args:
        label_set: `"k400"`, `"ssv1"` or `"ssv2"`.

    Raises:
        ValueError: If there is no such set.
    """
    if label_set not in LABEL_SETS:
        raise ValueError(f"label set {label_set!r} is not known; use one of {', '.join(LABEL_SETS)}")
    return tuple(files(__name__).joinpath(f"{label_set}.txt").read_text(encoding="utf-8").splitlines())


def class_names(model: nn.Module) -> list[str] | None:
    """Class names of a model in index order, or None where they are not known.

    They come from `label_names` of the model's `pretrained_cfg` (a saved model's `config.json`), else from its
    `label_set`. Names of another number of classes than the model has do not count, nor those of a classifier that
    was exchanged since.

    Args:
        model: A model of this package, or any module with `pretrained_cfg` and `num_classes`.

    Raises:
        ValueError: If the model's classifier does not tell how many classes it has.
    """
    cfg = getattr(model, "pretrained_cfg", {})
    names = cfg.get("label_names")
    if (cfg.get("label_set"), names) == getattr(model, "lost_names", None):
        return None
    if names is None and cfg.get("label_set"):
        names = load_labels(cfg["label_set"])
    num_classes = getattr(model, "num_classes", None)
    return list(names) if names is not None and len(names) == num_classes else None


def check_text(text: object, longest: int = 500) -> str | None:
    """Why a text is not fit to be shown on a terminal, in a picture or on a page; None if it is.

    Args:
        text: A class name, or whatever a file brings.
        longest: Letters that it may have.
    """
    if not isinstance(text, str):
        return f"is no text but {text!r:.50}"
    if len(text) > longest:
        return f"has {len(text):,} letters; {longest} are the most"
    if any(category(letter) in ("Cc", "Cs", "Zl", "Zp") or letter in _TURNING for letter in text):
        return "holds line breaks or control characters"
    return None


def check_names(names: Sequence[object]) -> None:
    """Raises ValueError unless every class name can be shown: one line of at most 500 letters, no control codes."""
    for index, name in enumerate(names):
        if problem := check_text(name):
            raise ValueError(f"the name of class {index}, {name!r:.50}, {problem}")


def read_label_names(path: str | Path) -> list[str]:
    """Class names in a file of one's own, in index order.

    Args:
        path: One name a line, or JSON: a list of names, `{name: index}` or `{index: name}`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is neither, names a class twice, or leaves out an index.
    """
    text = Path(path).read_text(encoding="utf-8")
    if not text.lstrip().startswith(("[", "{")):
        names = [line.strip() for line in text.strip().splitlines()]
    else:
        names = _from_json(path, text)
    doubled = sorted({name for name in names if names.count(name) > 1})
    if not names or doubled or not all(isinstance(name, str) and name for name in names):
        what = f"names {', '.join(map(repr, doubled[:3]))} twice" if doubled else "holds empty names, or none"
        raise ValueError(f"{path}: {what}; give one name for each class, one a line, in index order")
    return names


def _from_json(path: str | Path, text: str) -> list[str]:
    try:
        content = json.loads(text)
        if isinstance(content, list):
            return content
        # Something-Something publishes its indices as text
        named_by_index = all(key.isdecimal() for key in content) and not all(
            isinstance(v, int) for v in content.values()
        )
        by_index = {int(k if named_by_index else v): (v if named_by_index else k) for k, v in content.items()}
        return [by_index[i].strip('"') for i in range(len(content))]
    except (AttributeError, KeyError, TypeError, ValueError) as e:
        raise ValueError(
            f"{path}: expected JSON of class names, a list, {{name: index}} or {{index: name}} with every index from 0"
        ) from e
