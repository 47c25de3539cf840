"""Finds submodules whose inside the code of other modules uses, by reading that code.

What runs inside a submodule is known from a trace of it alone only if other code does nothing with it but call it.
"""

import ast
import inspect
import textwrap
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

from torch import nn

from vov3d.surgery.kinds import has_own_forward
from vov3d.syntax import parse

_CALLED = {"checkpoint"}
"""Functions that call a module given to them."""
_LOOKED_AT = {"isinstance", "len", "hasattr", "callable", "type", "bool", "id", "print", "super"}
_ITERATED = {"enumerate", "zip", "reversed", "list", "tuple", "iter", "sorted", "checkpoint_seq", "getattr"}
_NUMBERED = {"enumerate", "items", "named_children", "named_modules"}
_CHILDREN = {"children", "named_children", "values", "items"}
_NO_EFFECT = {"training", "append"}
_PASSED_ON = (ast.List, ast.Tuple, ast.Starred, ast.IfExp, ast.BoolOp, ast.NamedExpr)  # judged as the outer expression
_BINDING = (ast.Assign, ast.NamedExpr, ast.AnnAssign, ast.For, ast.comprehension)
_HARMLESS = (ast.Compare, ast.If, ast.While, ast.UnaryOp, ast.Expr, ast.Assign, ast.AnnAssign, ast.Assert)


class Reach:
    """Modules that code outside of them reaches into.

    Attributes:
        opened: These modules; the code of each is to be read too.
        attributes: The names of what is taken from each.
    """

    def __init__(self) -> None:
        self.opened: set[nn.Module] = set()
        self.attributes: dict[nn.Module, set[str]] = {}
        self._mentioned = {"forward"}

    def read(self, module: nn.Module) -> None:
        """Reads the code of a module: its `forward` and the methods whose names the code read so far mentions."""
        if has_own_forward(module):
            self._escape([module])
        seen: set[Any] = set()
        while new := [f for f in _functions(type(module)) if f.__name__ in self._mentioned and f not in seen]:
            seen.update(new)
            for function in new:
                self._read_function(module, function)

    def _read_function(self, module: nn.Module, function: Any) -> None:
        code = _code(function)
        if code is None:
            self._escape([module])
            return
        self._mentioned |= code.mentioned
        if code.me is None:
            return
        values = _Values({code.me: {module}})
        for _ in range(4):  # names of names
            for node in code.binding:
                values.bind(node)
        for child, node in code.read:
            if found := values.of(child):
                self._judge(found - {module}, child, node)
                if module in found and _is_given_away(child, node):
                    self._escape([module])

    def _judge(self, found: set[nn.Module], value: ast.expr, use: ast.AST) -> None:
        """Notes what becomes of an expression that gives modules."""
        if _is_callee(value, use) or isinstance(use, (*_PASSED_ON, *_HARMLESS)):
            return
        if isinstance(use, ast.Attribute):
            for module in found:
                self.attributes.setdefault(module, set()).add(use.attr)
            if use.attr not in _NO_EFFECT:
                self.opened |= found
        elif isinstance(use, ast.Subscript):
            self.opened |= found if use.value is value else set()
        elif isinstance(use, ast.For | ast.comprehension):
            self.opened |= found if not isinstance(value, ast.Call) else set()  # its arguments are judged
        elif isinstance(use, ast.Call) and (name := _name(use.func)) in _CALLED | _LOOKED_AT | _ITERATED:
            if name in _ITERATED:
                self.opened |= found
        else:
            self._escape(found)

    def _escape(self, modules: Iterable[nn.Module]) -> None:
        """Notes that unknown code may use modules and all inside them."""
        for module in modules:
            self.opened.update(module.modules())


def attributes_read(model: nn.Module) -> dict[nn.Module, set[str]]:
    """Returns the names of the attributes that the code of a model takes from its modules, as far as it shows."""
    reach = Reach()
    for module in model.modules():
        reach.read(module)
    return reach.attributes


class _Code(NamedTuple):
    """The parts of a function's code."""

    me: str | None  # its first argument
    mentioned: set[str]  # names of attributes
    binding: list[ast.AST]  # statements and loops that set names
    read: list[tuple[ast.expr, ast.AST]]  # expressions whose values are read, and what uses each


@lru_cache(maxsize=512)
def _code(function: Any) -> _Code | None:
    """Returns the code of a function; None if it is not known."""
    try:
        tree: Any = parse(textwrap.dedent(inspect.getsource(function)))
        arguments = tree.body[0].args
    except (OSError, TypeError, SyntaxError, AttributeError):
        return None
    nodes = list(ast.walk(tree))
    me = (arguments.posonlyargs + arguments.args)[:1]
    uses = [(child, node) for node in nodes for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr)]
    return _Code(
        me[0].arg if me else None,
        {node.attr for node in nodes if isinstance(node, ast.Attribute)},
        [node for node in nodes if isinstance(node, _BINDING)],
        [(child, node) for child, node in uses if isinstance(getattr(child, "ctx", None) or ast.Load(), ast.Load)],
    )


class _Values:
    """The modules that expressions may give, whatever the order in which code runs."""

    def __init__(self, names: dict[str, set[nn.Module]]) -> None:
        self._names = names

    def bind(self, node: ast.AST) -> None:
        """Notes the names that a statement sets."""
        if isinstance(node, ast.Assign):
            for target in node.targets:
                self._set(target, self.of(node.value))
        elif isinstance(node, ast.NamedExpr | ast.AnnAssign) and node.value is not None:
            self._set(node.target, self.of(node.value))
        elif isinstance(node, ast.For | ast.comprehension):
            found, target = self.of(node.iter), node.target
            if not isinstance(node.iter, ast.Call):
                found = found | _children(found)
            elif isinstance(target, ast.Tuple) and _name(node.iter.func) in _NUMBERED:
                target = target.elts[-1]
            self._set(target, found)

    def _set(self, target: ast.AST, found: set[nn.Module]) -> None:
        for node in ast.walk(target):
            if found and isinstance(node, ast.Name):
                self._names[node.id] = self._names.get(node.id, set()) | found

    def of(self, node: ast.AST) -> set[nn.Module]:
        """Returns the modules that an expression may give; for a list of modules, those in it."""
        if isinstance(node, ast.Name):
            return self._names.get(node.id, set())
        if isinstance(node, ast.Attribute):
            found = self.of(node.value)
            if node.attr in ("_modules", "__dict__"):
                return found
            return {m for owner in found if isinstance(m := getattr(owner, node.attr, None), nn.Module)}
        if isinstance(node, ast.Subscript):
            found = self.of(node.value)
            return found | _children(found)
        if isinstance(node, ast.Call):
            return self._of_call(node)
        if isinstance(node, _PASSED_ON):
            return set().union(*(self.of(part) for part in ast.iter_child_nodes(node)))
        return set()

    def _of_call(self, node: ast.Call) -> set[nn.Module]:
        if isinstance(node.func, ast.Attribute):
            owners = self.of(node.func.value)
            if node.func.attr in _CHILDREN:
                return _children(owners)
            if node.func.attr in ("modules", "named_modules", "get_submodule"):
                return {m for owner in owners for m in owner.modules()}
        elif _name(node.func) in _ITERATED:
            found = set().union(*(self.of(argument) for argument in node.args))
            return found | _children(found)
        return set()


def _functions(kind: type) -> Iterator[Any]:
    """Yields the methods of a class that are not PyTorch's own."""
    for base in kind.__mro__:
        if base.__module__.partition(".")[0] != "torch":
            for value in vars(base).values():
                function: Any = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
                if inspect.isfunction(function):
                    yield inspect.unwrap(function)


def _children(modules: Iterable[nn.Module]) -> set[nn.Module]:
    return {child for module in modules for child in module.children()}


def _is_callee(value: ast.expr, use: ast.AST) -> bool:
    return isinstance(use, ast.Call) and use.func is value


def _is_given_away(value: ast.expr, use: ast.AST) -> bool:
    """Returns whether an expression is an argument of a function that is not known."""
    known = isinstance(use, ast.Call) and (use.func is value or _name(use.func) in _LOOKED_AT | _ITERATED)
    return isinstance(use, ast.Call | ast.keyword) and not known


def _name(function: ast.expr) -> str:
    """Returns the last part of a function's name."""
    return function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")
