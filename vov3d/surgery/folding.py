"""Folds batch norms into the layers before them, by a model's data flow and never by names or order.

`torch.fx` traces the model or, if its control flow cannot be traced, the largest parts that can. Of these, parts that
other code does more with than to call them are left out. Everything else is left unchanged.
"""

import copy
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
import torch.fx
from torch import nn
from torch.nn.utils import fuse_conv_bn_weights

from vov3d.layers.conv import as_given
from vov3d.surgery.hooks import check_no_hooks
from vov3d.surgery.kinds import is_batch_norm, is_exactly, is_only
from vov3d.surgery.placing import check_not_wrapped, held_elsewhere
from vov3d.surgery.reach import Reach
from vov3d.surgery.statistics import FrozenBatchNorm
from vov3d.surgery.tracing import copied, trace, trace_other_calls

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Pair(NamedTuple):
    """Two submodules of `owner`, by dotted names: the second is the only reader of the first, and both run once."""

    owner: nn.Module
    first: str
    second: str


def _graphs(name: str, module: nn.Module, reach: Reach) -> Iterator[tuple[str, nn.Module, list[torch.fx.Graph]]]:
    """Yields the largest parts of a model that can be traced, and that no code outside reaches into.

    Each comes with its name and its graphs. Parts with hooks count as modules of their own.
    """
    if isinstance(module, torch.jit.ScriptModule) or not any(True for _ in module.children()):
        return
    graphs = None if module in reach.opened else trace(module)
    if graphs is None:
        reach.read(module)
        parts = dict(module.named_children())
    else:
        yield name, module, graphs
        layers = dict(module.named_modules(remove_duplicate=False))
        nodes = [node for graph in graphs for node in graph.nodes if node.op in ("call_module", "get_attr")]
        called = sorted({str(node.target) for node in nodes if node.op == "call_module"})
        parts = {part: layers[part] for part in called}
        owners = {owner for node in nodes for owner in _owners(str(node.target))}
        reach.opened.update(layer for part, layer in parts.items() if part in owners)
    for part, layer in parts.items():
        yield from _graphs(f"{name}.{part}".lstrip("."), layer, reach)


def _owners(name: str) -> Iterator[str]:
    """Yields the names of the modules that a dotted name lies in."""
    while name := name.rpartition(".")[0]:
        yield name


def pairs(model: nn.Module) -> Iterator[Pair]:
    """Yields pairs of submodules: the second is the only reader of the first, and each runs once in a pass.

    An `nn.Identity` between them is ignored. Other calls of the model than `forward` have them as pairs too, or run
    neither, as far as they can be traced.
    """
    calls = [(set(_pairs(model, graph)), _counts(graph)) for graph in trace_other_calls(model)]
    held = held_elsewhere(model)
    for name, part, graphs in _graphs("", model, Reach()):
        owner = model.get_submodule(name)
        first, *others = [list(_pairs(part, graph)) for graph in graphs]
        for pair in first:
            whole = tuple(f"{name}.{one}".lstrip(".") for one in pair)
            if held and any(owner.get_submodule(one) in held for one in pair):
                continue  # the model's code would go on with the old one
            if all(pair in other for other in others) and all(
                whole in found or not any(counts[one] for one in whole) for found, counts in calls
            ):
                yield Pair(owner, *pair)


def _counts(graph: torch.fx.Graph) -> Counter[str]:
    """Returns how often each submodule runs; a parameter that is read directly counts as a run of the layer."""
    counts = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
    counts.update(str(node.target).rpartition(".")[0] for node in graph.nodes if node.op == "get_attr")
    return counts


def _pairs(owner: nn.Module, graph: torch.fx.Graph) -> Iterator[tuple[str, str]]:
    calls, layers = _counts(graph), dict(owner.named_modules(remove_duplicate=False))
    for node in graph.nodes:
        if node.op != "call_module" or calls[str(node.target)] != 1 or len(node.args) != 1 or node.kwargs:
            continue
        source = _source(layers, node.args[0])
        if source is not None and calls[str(source.target)] == 1:
            yield str(source.target), str(node.target)


def _source(layers: Mapping[str, nn.Module], node: Any) -> torch.fx.Node | None:
    """Returns the call of a submodule that gives a value, if the value has a single reader."""
    while isinstance(node, torch.fx.Node) and len(node.users) == 1:
        if node.op == "call_module":
            if not is_exactly(layers[str(node.target)], nn.Identity):
                return node
        elif node.target is not as_given:  # a change of memory format, as after a factorized convolution
            return None
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
    are not folded. A `forward_features`, or another method of the model whose name begins with `forward_`, keeps its
    outputs if it can be traced; any other that ends between a layer and its norm gives the normalised values.

    Args:
        model: Any module; it is not changed.

    Returns:
        A copy in eval mode that gives the outputs of `model.eval()`, within rounding.

    Raises:
        ValueError: If a layer that would be folded has hooks, or the model is a TorchScript module or wrapped for
            several processes.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError("a TorchScript module cannot be rewritten; give the module that it was made from")
    check_not_wrapped(model)
    model = fold(copied(model).eval())
    _report_unfolded(model)
    return model


def fold(model: nn.Module) -> nn.Module:
    """Folds batch norms into the layers before them in place, in a model in eval mode, and returns it.

    Raises:
        ValueError: If a layer that would be folded has hooks.
    """
    if not any(map(_is_norm, model.modules())):  # as in a stream, which takes a trace of each of its layers
        return model
    for owner, first, second in list(pairs(model)):
        layer, norm = owner.get_submodule(first), owner.get_submodule(second)
        if _foldable(layer, norm):
            check_no_hooks(first, layer)
            check_no_hooks(second, norm)
            owner.set_submodule(first, _folded(layer, norm))
            owner.set_submodule(second, nn.Identity().eval())
    return model


def _is_norm(module: nn.Module) -> bool:
    return is_batch_norm(module) or is_exactly(module, FrozenBatchNorm)


def _foldable(layer: Any, norm: Any) -> bool:
    if not _is_norm(norm) or norm.running_mean is None:
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
    shift_of = next(t for t in (layer.bias, norm.bias, layer.weight) if t is not None)
    for name, value, source in (("weight", weight, layer.weight), ("bias", bias, shift_of)):
        parameter = nn.Parameter(value.detach().to(layer.weight.dtype), requires_grad=source.requires_grad)
        folded.register_parameter(name, parameter)
    return folded
