"""Replaces modules by others, all or none."""

from collections.abc import Iterator, Mapping

from torch import nn
from torch.utils._pytree import tree_leaves

_REGISTERED = {"_modules", "_parameters", "_buffers"}
_SIMPLE = {bool, int, float, str, type(None)}
_GATHERED = (
    "its tensors are spread over processes: gather them with torch.distributed.checkpoint.state_dict"
    ".get_model_state_dict, full_state_dict=True, and load them into a model that is not wrapped"
)
_CURES = {
    "DistributedDataParallel": "give the network inside it, .module",
    "FullyShardedDataParallel": _GATHERED,
    "FSDPModule": _GATHERED,
}


def check_is_module(model: object) -> None:
    """Raises ValueError for anything but a network, such as its name or its state dict."""
    if not isinstance(model, nn.Module):
        got = repr(model) if isinstance(model, str) else f"a {type(model).__name__}"
        raise ValueError(f"expected a network (nn.Module), got {got}; vov3d.create_model builds one from a name")


def _wrapped(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Yields modules wrapped for several processes, by name, and by what."""
    check_is_module(model)
    for name, module in model.named_modules():
        for kind in type(module).__mro__:
            if kind.__name__ in _CURES:
                yield name or "the model", kind.__name__


def check_takes_new_parameters(model: nn.Module) -> None:
    """Raises ValueError for a model wrapped for several processes, which would not synchronize new parameters."""
    for name, kind in _wrapped(model):
        raise ValueError(
            f"{name} is wrapped in {kind}, which would leave new parameters out when it synchronizes processes: change"
            " the network first, then wrap it"
        )


def check_not_wrapped(model: nn.Module) -> None:
    """Raises ValueError for a model wrapped for several processes, of which one alone makes no copy."""
    for name, kind in _wrapped(model):
        raise ValueError(f"{name} is wrapped in {kind}; {_CURES[kind]}")


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
