"""Class names of the label sets that published weights were trained on; line number = class index."""

import codecs
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from unicodedata import category

from torch import nn

LABEL_SETS = ("k400", "ssv1", "ssv2", "shapes")
"""Kinetics-400, Something-Something V1 and V2, and the moving shapes of `vov3d.synthetic.moving_shapes`."""

# These characters change the direction of the text after them.
_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


_LARGEST = 1 << 26  # bytes of a file of names
_LONGEST_NAME = 1000  # characters
_WANTED = "give one name for each class, one a line, in index order"


@cache
def load_labels(label_set: str) -> tuple[str, ...]:
    """Returns the names of a label set in index order.

    Args:
        label_set: One of `LABEL_SETS`: `"k400"`, `"ssv1"`, `"ssv2"`, or `"shapes"` for the moving shapes.

    Raises:
        ValueError: If there is no such set.
    """
    if label_set not in LABEL_SETS:
        raise ValueError(f"label set {label_set!r} is not known; use one of {', '.join(LABEL_SETS)}")
    return tuple(files(__name__).joinpath(f"{label_set}.txt").read_text(encoding="utf-8").splitlines())


def class_names(model: nn.Module) -> list[str] | None:
    """Returns the class names of a model in index order, or None if they are not known.

    They come from `label_names` of the model's `pretrained_cfg` (a saved model's `config.json`), else from its
    `label_set`. Names for another number of classes than the model's are ignored, and so are those of a classifier
    that was replaced.

    Args:
        model: A model of this package, or any module with `pretrained_cfg` and `num_classes`.

    Raises:
        ValueError: If the number of classes of the model's classifier is unknown, or the model is a name.
    """
    if isinstance(model, str):
        raise ValueError(f"class_names takes a model, got {model!r}; load_labels('k400') gives those of a label set")
    cfg = getattr(model, "pretrained_cfg", {})
    names = cfg.get("label_names")
    if (cfg.get("label_set"), names) == getattr(model, "lost_names", None):
        return None
    if names is None and cfg.get("label_set"):
        names = load_labels(cfg["label_set"])
    num_classes = getattr(model, "num_classes", None)
    return list(names) if names is not None and len(names) == num_classes else None


def check_text(text: object, longest: int = 500) -> str | None:
    """Returns the reason why a text cannot be shown on a terminal, in a picture or on a page; None if it can.

    Args:
        text: A class name, or any value from a file.
        longest: Largest number of characters.
    """
    if not isinstance(text, str):
        return f"is not text: {text!r:.50}"
    if len(text) > longest:
        return f"has {len(text):,} characters; the limit is {longest}"
    if any(category(letter) in ("Cc", "Cs", "Zl", "Zp") or letter in _TURNING for letter in text):
        return "holds line breaks or control characters"
    return None


def in_order(names: Iterable[object]) -> list[object] | None:
    """Returns class names as a list; None for what gives them in no order, or is one text."""
    return None if isinstance(names, str | Mapping | set | frozenset) else list(names)


def check_names(names: Sequence[object]) -> None:
    """Raises ValueError unless every class name is one line of at most 500 characters without control codes."""
    for index, name in enumerate(names):
        if problem := check_text(name):
            raise ValueError(f"the name of class {index}, {name!r:.50}, {problem}")


def read_label_names(path: str | Path) -> list[str]:
    """Reads class names from a file, in index order.

    Args:
        path: One name a line, or JSON: a list of names, `{name: index}` or `{index: name}`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is neither, is not text in UTF-8, has a name twice or one that cannot be shown, or lacks an
            index.
    """
    text = _text(Path(path))
    if not text.lstrip().startswith(("[", "{")):
        names = [line.strip() for line in text.strip().splitlines()]
    else:
        names = _from_json(path, text)
    if not names or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"{path}: holds empty names, or none; {_WANTED}")
    doubled = sorted(name for name, count in Counter(names).items() if count > 1)
    if doubled:
        raise ValueError(f"{path}: names {', '.join(repr(name[:80]) for name in doubled[:3])} twice; {_WANTED}")
    strange = next((name for name in names if len(name) > _LONGEST_NAME or not name.isprintable()), None)
    if strange is not None:
        raise ValueError(
            f"{path}: line {names.index(strange) + 1}, {strange[:40]!a}, is not a name: a name has up to"
            f" {_LONGEST_NAME} printable characters"
        )
    return names


def _text(path: Path) -> str:
    """Reads text in UTF-8, with or without a byte order mark, or in UTF-16 with one."""
    if path.stat().st_size > _LARGEST:
        raise ValueError(f"{path}: has {path.stat().st_size:,} bytes; {_WANTED}")
    data = path.read_bytes()
    encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as e:
        raise ValueError(f"{path}: is not text in UTF-8 (byte {e.start:,}); save it as UTF-8") from e


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
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as e:
        raise ValueError(
            f"{path}: expected JSON of class names, a list, {{name: index}} or {{index: name}} with every index from 0"
        ) from e
