"""Folds batch norms into the layers before them, by a model's data flow and never by names or order.

`torch.fx` traces the model or, if its control flow cannot be traced, the largest parts that can. Everything else is
left unchanged.
"""

import copy
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.fx
from torch import nn
from torch.nn.utils import fuse_conv_bn_weights

from vov3d.surgery.hooks import check_no_hooks, has_hooks
from vov3d.surgery.kinds import is_batch_norm, is_only
from vov3d.surgery.statistics import FrozenBatchNorm

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Pair(NamedTuple):
    """Two submodules of `owner`, by dotted names: the second is the only reader of the first, and both run once."""

    owner: nn.Module
    first: str
    second: str


class _Tracer(torch.fx.Tracer):
    """Traces into modules that have submodules and no hooks: the effect of a hook on a value is unknown."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return has_hooks(m) or not any(True for _ in m.children())


def _graphs(module: nn.Module) -> Iterator[tuple[nn.Module, torch.fx.Graph]]:
    """Yields the largest parts of a model that can be traced and have no hooks inside, each with its graph."""
    if not any(True for _ in module.children()):
        return
    try:
        graph = _Tracer().trace(module)
    except Exception:  # any error of the model's own code on symbolic values
        for child in module.children():
            yield from _graphs(child)
        return
    yield module, graph
    for target in {str(node.target) for node in graph.nodes if node.op == "call_module"}:
        yield from _graphs(module.get_submodule(target))


def pairs(model: nn.Module) -> Iterator[Pair]:
    """Yields pairs of submodules: the second is the only reader of the first, and each runs once in a pass.

    An `nn.Identity` between them is ignored.
    """
    for owner, graph in _graphs(model):
        calls = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
        # A parameter that the owner reads directly counts as another call of the layer that has it.
        calls.update(str(node.target).rpartition(".")[0] for node in graph.nodes if node.op == "get_attr")
        for node in graph.nodes:
            if node.op != "call_module" or calls[str(node.target)] != 1 or len(node.args) != 1 or node.kwargs:
                continue
            source = _source(owner, node.args[0])
            if source is not None and calls[str(source.target)] == 1:
                yield Pair(owner, str(source.target), str(node.target))


def _source(owner: nn.Module, node: Any) -> torch.fx.Node | None:
    """Returns the call of a submodule that gives a value, if the value has a single reader."""
    while isinstance(node, torch.fx.Node) and node.op == "call_module" and len(node.users) == 1:
        if type(owner.get_submodule(str(node.target))) is not nn.Identity:
            return node
        node = node.args[0]
    return None


class FoldedLinear(nn.Linear):
    """A linear layer with a folded norm, which is exact for rows `(B, C)` only."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Applies the layer to `(B, C)`; raises ValueError for any other number of dimensions."""
        if input.ndim != 2:
            raise ValueError(f"a linear layer with a folded norm takes (B, C), got {tuple(input.shape)}")
        return super().forward(input)


def fold_batchnorm(model: nn.Module) -> nn.Module:
    """Folds batch norms into the convolutions and linear layers before them.

    A norm is folded if the model's data flow shows that it is the only reader of a convolution (or a linear layer on
    rows) that runs once; `nn.Identity` replaces it. The sums are computed in float64. A warning names the norms that
    are not folded.

    Args:
        model: Any module; it is not changed.

    Returns:
        A copy in eval mode that gives the outputs of `model.eval()`, within rounding.

    Raises:
        ValueError: If a layer that would be folded has hooks.
    """
    model = copy.deepcopy(model).eval()
    for owner, first, second in list(pairs(model)):
        layer, norm = owner.get_submodule(first), owner.get_submodule(second)
        if _foldable(layer, norm):
            check_no_hooks(first, layer)
            check_no_hooks(second, norm)
            owner.set_submodule(first, _folded(layer, norm))
            owner.set_submodule(second, nn.Identity().eval())
    _report_unfolded(model)
    return model


def _foldable(layer: Any, norm: Any) -> bool:
    if not (is_batch_norm(norm) or type(norm) is FrozenBatchNorm) or norm.running_mean is None:
        return False
    if is_only(layer, nn.Linear):
        return norm.num_features == layer.out_features and _is_for_rows(norm)
    return is_only(layer, *_CONVS) and norm.num_features == layer.out_channels


def _is_for_rows(norm: nn.Module) -> bool:
    return norm.for_rows if isinstance(norm, FrozenBatchNorm) else isinstance(norm, nn.BatchNorm1d)


def _report_unfolded(model: nn.Module) -> None:
    """Warns of norms that are not folded."""
    kinds = (nn.modules.batchnorm._BatchNorm, FrozenBatchNorm)
    left = [f"{name} ({type(m).__name__})" for name, m in model.named_modules() if isinstance(m, kinds)]
    if left:
        shown = ", ".join(left[:5]) + (", ..." if len(left) > 5 else "")
        warnings.warn(
            f"{len(left)} batch norms are not folded, since each does more than a norm or is not the only reader of "
            f"a convolution: {shown}",
            stacklevel=3,
        )


def _folded(layer: Any, norm: Any) -> nn.Module:
    """Returns a copy of the layer with the norm in its weight and bias."""
    terms = (layer.weight, layer.bias, norm.running_mean, norm.running_var, norm.weight, norm.bias)
    w, b, mean, var, scale, shift = (None if t is None else t.detach().double() for t in terms)
    assert w is not None
    assert mean is not None
    assert var is not None
    weight, bias = fuse_conv_bn_weights(w, b, mean, var, norm.eps, scale, shift)
    folded = copy.deepcopy(layer)
    if isinstance(layer, nn.Linear):
        folded.__class__ = FoldedLinear
    for name, value in (("weight", weight), ("bias", bias)):
        parameter = nn.Parameter(value.detach().to(layer.weight.dtype), requires_grad=layer.weight.requires_grad)
        folded.register_parameter(name, parameter)
    return folded
