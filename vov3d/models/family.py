"""What the variants of one paper share: their class, the formats of their weights, how they differ."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import nn

from vov3d.weights.state_dict import FilterFn, StateDict


class Family(NamedTuple):
    """What the variants of one paper share.

    Attributes:
        model_cls: Their class.
        filter_fn: Renames the tensors of every format that holds them to the model's own names.
        conv: Their published middle convolution.
        variants: Arguments of the class that make each variant.
        formats: How tensors under the model's own names, of the published `conv`, become those of other codebases.
        tag_of: Tag that a file's format gives away, for files loaded without naming one.
    """

    model_cls: Callable[..., nn.Module]
    filter_fn: FilterFn
    conv: str
    variants: Mapping[str, Mapping[str, Any]]
    formats: Mapping[str, Callable[[StateDict], StateDict]]
    tag_of: Callable[[StateDict], str | None] = lambda state_dict: None


_FAMILIES: dict[Any, Family] = {}


def register_family(family: Family) -> Family:
    """Makes a family known to all that asks for it by class or by weights."""
    _FAMILIES[family.model_cls] = family
    return family


def families() -> tuple[Family, ...]:
    """All families."""
    return tuple(_FAMILIES.values())


def family_of(model: nn.Module) -> Family | None:
    """The family of a model, if it is one of ours."""
    return _FAMILIES.get(type(model))
