"""Replaces modules by others, all or none."""

from collections.abc import Mapping

from torch import nn
from torch.utils._pytree import tree_leaves

_REGISTERED = {"_modules", "_parameters", "_buffers"}
_SIMPLE = {bool, int, float, str, type(None)}
_SYNCHRONIZED = {"DistributedDataParallel", "FullyShardedDataParallel", "FSDPModule"}


def check_takes_new_parameters(model: nn.Module) -> None:
    """Raises ValueError for a model wrapped for several processes, which would not synchronize new parameters."""
    for name, module in model.named_modules():
        kinds = {kind.__name__ for kind in type(module).__mro__} & _SYNCHRONIZED
        if kinds:
            raise ValueError(
                f"{name or 'the model'} is wrapped in {kinds.pop()}, which would leave new parameters out when it"
                " synchronizes processes: change the network first, then wrap it"
            )


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


def held_elsewhere(model: nn.Module) -> set[nn.Module]:
    """Returns modules that plain attributes, lists or dictionaries hold as well, which would keep the old ones."""
    return {
        value
        for module in model.modules()
        for name, own in vars(module).items()
        if name not in _REGISTERED and type(own) not in _SIMPLE
        for value in tree_leaves(own)
        if isinstance(value, nn.Module)
    }
