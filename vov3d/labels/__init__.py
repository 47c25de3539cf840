"""Class names of the label sets that published weights were trained on; line number = class index."""

from functools import cache
from importlib.resources import files

from torch import nn

LABEL_SETS = ("k400", "ssv1", "ssv2")
"""Kinetics-400, Something-Something V1 and V2."""


@cache
def load_labels(label_set: str) -> tuple[str, ...]:
    """Names of a label set in index order.

    Raises:
        ValueError: If there is no such set.
    """
    if label_set not in LABEL_SETS:
        raise ValueError(f"label set {label_set!r} is not known; use one of {', '.join(LABEL_SETS)}")
    return tuple(files(__name__).joinpath(f"{label_set}.txt").read_text(encoding="utf-8").splitlines())


def class_names(model: nn.Module) -> list[str] | None:
    """Class names of a model in index order, or None where they are not known.

    They come from `label_names` of the model's `pretrained_cfg` (a saved model's `config.json`), else from its
    `label_set`. Names of another number of classes than the model has do not count.
    """
    cfg = getattr(model, "pretrained_cfg", {})
    names = cfg.get("label_names")
    if names is None and cfg.get("label_set"):
        names = load_labels(cfg["label_set"])
    num_classes = getattr(model, "num_classes", None)
    return list(names) if names is not None and len(names) == num_classes else None
