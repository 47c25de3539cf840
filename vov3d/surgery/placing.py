"""Modules put in the places of others, all or none."""

from collections.abc import Mapping

from torch import nn


def put(model: nn.Module, new: Mapping[str, nn.Module]) -> None:
    """Puts modules in the places of a model that have these names; after an error the model is as it was."""
    old = {name: model.get_submodule(name) for name in new}
    try:
        for name, module in new.items():
            model.set_submodule(name, module)
    except BaseException:
        for name, module in old.items():
            model.set_submodule(name, module)
        raise
