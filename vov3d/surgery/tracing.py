"""Traces modules with `torch.fx`, also where their code asks whether a value is a tensor."""

import builtins
import copy
import inspect
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from operator import is_
from types import FrameType, MethodType
from typing import Any

import torch
import torch.fx
from torch import nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves

from vov3d.surgery.hooks import has_hooks
from vov3d.surgery.kinds import has_own_forward
from vov3d.surgery.methods import set_methods

_plain_isinstance = isinstance
_ONE_TRACE = threading.RLock()

_GIVE_SIZES = ("size", "stride", "dim", "ndimension", "numel", "nelement", "element_size", "item", "tolist")
_SETTINGS = ("shape", "ndim", "dtype", "device", "layout")
_KEEP_NOTHING = ("vov3d.", "torch.nn.modules.", "timm.layers.")


class _Value(torch.fx.Proxy):
    """A value of a trace.

    Python's `isinstance` takes results for tensors, nothing else does: C functions of PyTorch ask for the class where
    they expect a number, and would read the memory of a tensor where there is none.
    """

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        if _is_of_torch(sys._getframe(1)):
            return _Value
        raise torch.fx.proxy.TraceError("a function that expects no tensor, or the model's code, asks for a class")


_PROXIES = frozenset((_Value, torch.fx.Proxy, torch.fx.proxy.Attribute))


def _is_of_torch(frame: FrameType) -> bool:
    """Returns whether code of PyTorch or of this file runs; `torch.is_tensor` stands for the code that calls it."""
    name = frame.f_globals.get("__name__", "")
    return (name == __name__ or name.partition(".")[0] == "torch") and frame.f_code is not torch.is_tensor.__code__


def _isinstance(value: Any, kinds: Any) -> bool:
    """Answers as `isinstance`, but to the model's own code results of a trace are tensors.

    Raises:
        TraceError: For an argument of the model, of which nothing is known, and for a size.
    """
    kind = type(value)
    if kind not in _PROXIES or type(value.tracer) is not _Tracer or _is_of_torch(sys._getframe(1)):
        return _plain_isinstance(value, kinds)  # other threads trace, too
    if issubclass(kind, kinds):
        return True
    if value.node.op == "placeholder" or value.node.meta.get("is_size"):
        raise torch.fx.proxy.TraceError("the model's code asks for the class of an argument or a size")
    return issubclass(torch.Tensor, kinds)


@contextmanager
def _tensors_for_isinstance() -> Iterator[None]:
    """Replaces `isinstance`; one trace at a time, as `torch.fx` replaces methods of `nn.Module`, too."""
    with _ONE_TRACE:
        before = builtins.isinstance
        builtins.isinstance = _isinstance
        try:
            yield
        finally:
            builtins.isinstance = before


class _Tracer(torch.fx.Tracer):
    """Traces into modules that have submodules and no hooks: the effect of a hook on a value is unknown."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return has_hooks(m) or not any(True for _ in m.children())

    def proxy(self, node: torch.fx.Node) -> torch.fx.Proxy:
        node.meta["is_size"] = _is_size(node)
        return torch.fx.Proxy(node, self) if node.meta["is_size"] else _Value(node, self)


def _is_size(node: torch.fx.Node) -> bool:
    """Returns whether a value is a size, a shape or a number computed from them; those before it are marked."""
    if node.op == "call_method":
        owner = node.args[0]
        return node.target in _GIVE_SIZES or (isinstance(owner, torch.fx.Node) and owner.meta.get("is_size", False))
    if node.op != "call_function":
        return False
    if node.target is getattr:
        return node.args[1] in _SETTINGS
    name, home = getattr(node.target, "__name__", ""), getattr(node.target, "__module__", "")
    plain = home in ("_operator", "math", "builtins") or name.startswith("sym_")
    return plain and all(before.meta.get("is_size", False) for before in node.all_input_nodes)


def copied(model: nn.Module, memo: dict[int, Any] | None = None) -> Any:
    """Returns a deep copy, also of a model that keeps results with gradients, as after pruning or weight norm.

    Args:
        model: The model.
        memo: What to use for objects in place of copies, by `id`.
    """
    memo = memo or {}
    try:
        return copy.deepcopy(model, dict(memo))
    except RuntimeError:  # results with gradients are not copied
        memo = dict(memo)
    for value in (value for module in model.modules() for value in tree_leaves(dict(vars(module)))):
        if isinstance(value, torch.Tensor) and not value.is_leaf and id(value) not in memo:
            memo[id(value)] = value.detach().clone()
    return copy.deepcopy(model, memo)


def with_own_state(model: nn.Module) -> Any:
    """Returns a copy in eval mode that shares parameters only: what its code keeps does not reach the model."""
    return copied(model, {id(p): p for p in model.parameters() if not is_lazy(p)}).eval()


def trace(module: nn.Module) -> list[torch.fx.Graph] | None:
    """Returns graphs of a module, with any optional arguments and without; None if it cannot be traced.

    A module that keeps something, such as the state of a stream, has those of a first and of a second call. What is
    kept stays as it is: copies are traced.
    """
    graphs = [_traced(module, "forward", given) for given in _given(module, "forward")]
    return [graph for traced in graphs for graph in traced] if all(graphs) else None


def trace_other_calls(module: nn.Module) -> list[torch.fx.Graph]:
    """Returns graphs of the methods `forward_...` of a module's class, without those that cannot be traced.

    Those of this package end after whole blocks and are left out.
    """
    methods = {name: getattr(type(module), name) for name in dir(type(module)) if name.startswith("forward_")}
    names = [name for name, m in methods.items() if inspect.isfunction(m) and m.__module__.split(".")[0] != "vov3d"]
    return [graph for name in names for given in _given(module, name) for graph in _traced(module, name, given)]


def _given(module: nn.Module, method: str) -> list[dict[str, Any] | None]:
    """Returns the arguments that a method is traced with: none, and the defaults of those that have one."""
    arguments = inspect.signature(getattr(module, method)).parameters.values()
    optional = {argument.name: argument.default for argument in arguments if argument.default is not argument.empty}
    return [None, optional] if optional else [None]


def _traced(module: nn.Module, method: str, given: dict[str, Any] | None) -> list[torch.fx.Graph]:
    try:
        return _calls(module, method, given)
    except Exception:  # any error of the model's own code on symbolic values
        return []


def _calls(module: nn.Module, method: str, given: dict[str, Any] | None) -> list[torch.fx.Graph]:
    """Traces a call of a copy of a module, and a second one if the first changed what the copy keeps.

    Raises:
        TraceError: If the module has a `forward` of its own that is no method.
    """
    if not module.training and all(map(_keeps_nothing, module.modules())) and not any(set_methods(module)):
        with _tensors_for_isinstance():
            return [_tracer_of(method).trace(module, concrete_args=given)]
    module = with_own_state(module)
    if has_own_forward(module) and not _made_class(module):
        raise torch.fx.proxy.TraceError("forward was replaced by a function")
    before, versions = _kept(module)
    tracer = _tracer_of(method)  # one for both calls: the second uses values of the first
    with _tensors_for_isinstance():
        graphs = [tracer.trace(module, concrete_args=given)]
        after = _read_later(module)
        if len(after[0]) == len(before) and all(map(is_, before, after[0])) and versions == after[1]:
            return graphs
        graphs.append(tracer.trace(module, concrete_args=given))
        _read_later(module)
    return graphs


def _tracer_of(method: str) -> _Tracer:
    tracer = _Tracer()
    tracer.traced_func_name = method
    return tracer


def _keeps_nothing(module: nn.Module) -> bool:
    """Returns whether a module runs code of this package, or of a library's layers, that keeps nothing in eval mode."""
    homes = type(module).__module__, getattr(type(module).forward, "__module__", "")
    return all(home.startswith(_KEEP_NOTHING) for home in homes) and not has_own_forward(module)


def _kept(module: nn.Module) -> tuple[list[Any], list[int]]:
    """Returns all objects that modules keep, and how often each was changed in place if it is a tensor."""
    values = [value for m in module.modules() for value in tree_leaves(dict(vars(m)))]
    tensors = [value for value in values if issubclass(type(value), torch.Tensor) and not value.is_inference()]
    return values, [tensor._version for tensor in tensors]


def _read_later(module: nn.Module) -> tuple[list[Any], list[int]]:
    """Adds readers, which a graph does not show, to the values that modules keep; returns what they keep."""
    values, versions = _kept(module)
    for value in values:
        if type(value) in _PROXIES:
            value.node.graph.call_function(_read_later, (value.node,))
    return values, versions


def _made_class(module: nn.Module) -> bool:
    """Makes a method that was set on a module one of its class, which is what is traced; returns whether it is one."""
    own = vars(module)["forward"]
    if not isinstance(own, MethodType) or own.__self__ is not module:
        return False
    module.__class__ = type(type(module).__name__, (type(module),), {"forward": own.__func__})
    return True
