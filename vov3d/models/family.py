"""Families: the variants of one paper, with their class and the formats of their weights."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import nn

from vov3d.weights.state_dict import FilterFn, StateDict


class Family(NamedTuple):
    """The variants of one paper.

    Attributes:
        model_cls: Their class.
        filter_fn: Renames the tensors of every known format to the model's own names.
        conv: Their published middle convolution.
        variants: Arguments of the class that make each variant.
        formats: Functions that rename the model's tensors, with the published `conv`, to those of other codebases.
        tag_of: Returns the tag that a file's format implies, for files loaded without a tag.
    """

    model_cls: Callable[..., nn.Module]
    filter_fn: FilterFn
    conv: str
    variants: Mapping[str, Mapping[str, Any]]
    formats: Mapping[str, Callable[[StateDict], StateDict]]
    tag_of: Callable[[StateDict], str | None] = lambda state_dict: None


_FAMILIES: dict[Any, Family] = {}


def register_family(family: Family) -> Family:
    """Registers a family, so that it is found by class and by weights."""
    _FAMILIES[family.model_cls] = family
    return family


def families() -> tuple[Family, ...]:
    """Returns all families."""
    return tuple(_FAMILIES.values())


def family_of(model: nn.Module) -> Family | None:
    """Returns the family of a model, if it is one of this package."""
    return _FAMILIES.get(type(model))
