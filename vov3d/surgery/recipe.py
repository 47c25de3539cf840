"""Reads the surgery done to a network from its modules, and repeats it on a fresh one before weights are loaded."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from vov3d.surgery.factorization import (
    ORDERS,
    FactorizedConv3d,
    _empty_pair,
    _identity_norm,
    _r2plus1d_width,
)
from vov3d.surgery.folding import fold_batchnorm

Recipe = list[dict[str, Any]]
"""Steps in order: `{"factorize": {"layers": [...], "order": ..., "rank": ..., "conv": ..., "norm": ...}}` and
`{"fold_batchnorm": {}}`; values are JSON types."""

_NORMS: dict[type[nn.Module], str] = {
    nn.BatchNorm3d: "batchnorm3d",
    nn.SyncBatchNorm: "batchnorm3d",
    nn.InstanceNorm3d: "instancenorm3d",
}


_MOST_RANK = 1000


def read_recipe(model: nn.Module, fresh: nn.Module) -> Recipe:
    """Returns the steps that turn `fresh` into a network like `model`, as far as such steps explain the differences.

    Args:
        model: A network after surgery, or without any.
        fresh: The network before surgery.
    """
    groups: dict[tuple[Any, ...], list[str]] = {}
    for name, module in model.named_modules():
        if type(module) is FactorizedConv3d and (settings := _settings(module, _find(fresh, name))):
            groups.setdefault(settings, []).append(name)
    keys = ("order", "rank", "conv", "norm")
    recipe: Recipe = [
        {"factorize": {"layers": names} | dict(zip(keys, values, strict=True))} for values, names in groups.items()
    ]
    norms = [name for name, module in fresh.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if any(type(_find(model, name)) is nn.Identity for name in norms):
        recipe.append({"fold_batchnorm": {}})
    return recipe


def follow_recipe(model: nn.Module, recipe: Sequence[Mapping[str, Any]]) -> nn.Module:
    """Applies the steps to a network; new kernels are random, since weights are loaded next.

    Args:
        model: A fresh network; it may be changed.
        recipe: The result of `read_recipe`.

    Returns:
        The network, in train mode.

    Raises:
        ValueError: If a step is not known or does not fit the network.
    """
    for step in recipe:
        if not isinstance(step, Mapping) or len(step) != 1:
            raise ValueError(f"a step of surgery is one name with its settings, got {step!r:.100}")
        name, settings = next(iter(step.items()))
        if name == "fold_batchnorm" and settings == {}:
            model = fold_batchnorm(model)
        elif name == "factorize" and isinstance(settings, Mapping):
            _factorize_again(model, **settings)
        else:
            raise ValueError(f"surgery has no step {name!r:.100} with such settings; it may come from a newer vov3d")
    return model.train()


def _find(model: nn.Module, name: str) -> nn.Module | None:
    return dict(model.named_modules()).get(name)


def _settings(pair: FactorizedConv3d, whole: Any) -> tuple[Any, ...] | None:
    """Returns order, rank, conv and norm of a pair that replaced a convolution."""
    first, second = pair[0], pair[2]
    if not isinstance(whole, nn.Conv3d) or not isinstance(first, nn.Conv3d) or not isinstance(second, nn.Conv3d):
        return None
    depthwise = first.groups > 1 or second.groups > 1 or whole.in_channels == 1
    rank = first.out_channels // whole.out_channels if depthwise else 1
    # A folded norm has left its bias in the first of the two.
    norm = "batchnorm3d" if getattr(first, "bias", None) is not None else _NORMS.get(type(pair[1]))
    order = ORDERS[0] if first is pair.conv_s else ORDERS[1]
    return order, rank, None if depthwise else "r2plus1d", norm


def _factorize_again(
    model: nn.Module,
    layers: Sequence[str],
    order: str = "d2plus1d",
    rank: int = 1,
    conv: str | None = None,
    norm: str | None = None,
) -> None:
    """Splits convolutions as `factorize` does, but without reading the kernels, so also on the meta device."""
    if order not in ORDERS or conv not in (None, "r2plus1d") or type(rank) is not int or not 1 <= rank <= _MOST_RANK:
        raise ValueError(f"surgery has no factorization with order={order!r}, rank={rank!r}, conv={conv!r}")
    modules: dict[str, Any] = dict(model.named_modules())
    for name in layers:
        whole = modules.get(name)
        if not isinstance(whole, nn.Conv3d):
            raise ValueError(f"surgery factorizes {name!r:.100}, which is not a 3D convolution of the network")
        width = whole.out_channels * rank if conv is None else _r2plus1d_width(whole, order)
        conv_s, conv_t = _empty_pair(whole, order, width)
        middle = nn.Identity() if norm is None else _identity_norm(norm, width, whole.weight)
        model.set_submodule(name, FactorizedConv3d(conv_s, conv_t, middle, order))
