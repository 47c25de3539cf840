"""Replaces modules by others, all or none."""

from collections.abc import Mapping

from torch import nn


def put(model: nn.Module, new: Mapping[str, nn.Module]) -> None:
    """Replaces the modules of a model with these names; after an error the model is unchanged."""
    old = {name: model.get_submodule(name) for name in new}
    try:
        for name, module in new.items():
            model.set_submodule(name, module)
    except BaseException:
        for name, module in old.items():
            model.set_submodule(name, module)
        raise
