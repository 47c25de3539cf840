"""Docstrings of all that is public: there, complete, and true to the signatures."""

import ast
import dataclasses
import doctest
import importlib
import inspect
import pkgutil
import re
import textwrap
from types import FunctionType

import numpy as np
import pytest
from helpers.numbered_videos import write_video
from torch import nn

import vov3d


def public_modules():
    """Returns modules that name what is public in them, without those that begin with an underscore."""
    found = [vov3d]
    for info in pkgutil.walk_packages(vov3d.__path__, "vov3d."):
        if not any(part.startswith("_") for part in info.name.split(".")):
            module = importlib.import_module(info.name)
            found += [module] if hasattr(module, "__all__") else []
    return found


def public_names():
    """Returns every public object once, by the shortest path to it."""
    found = {}
    for module in sorted(public_modules(), key=lambda m: m.__name__.count(".")):
        for name in module.__all__:
            value = getattr(module, name)
            # timm puts the functions that it registers into __all__
            registered = isinstance(value, FunctionType) and vov3d.is_model(name)
            if isinstance(value, type | FunctionType) and value not in found.values() and not registered:
                found[f"{module.__name__}.{name}"] = value
    return found


def public_methods(cls):
    """Returns methods and properties that a class of ours adds or overrides."""
    for owner in [c for c in cls.__mro__ if c.__module__.startswith("vov3d")]:
        for name, member in vars(owner).items():
            function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
            is_public = name == "__call__" or not name.startswith("_")
            if is_public and isinstance(function, FunctionType) and function.__module__.startswith("vov3d"):
                yield name, getattr(inspect.unwrap(function), "__wrapped__", function)


NAMES = public_names()
METHODS = {
    f"{path}.{name}": f for path, cls in NAMES.items() if inspect.isclass(cls) for name, f in public_methods(cls)
}
FUNCTIONS = {path: f for path, f in NAMES.items() if inspect.isfunction(f)}
CLASSES = {path: cls for path, cls in NAMES.items() if inspect.isclass(cls)}


def section(doc, title):
    """Returns the entries under a title of a docstring in Google's style, by the names that they explain."""
    text = re.search(rf"^{title}:\n((?:    .*\n|\n)*)", inspect.cleandoc(doc or "") + "\n", re.MULTILINE)
    entries = re.finditer(r"^    ([*\w.]+)(?: \([^)]*\))?: ", text[1] if text else "", re.MULTILINE)
    return [entry[1] for entry in entries]


def parameters(function):
    """Returns the names of a function's parameters, starred as they are written."""
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    taken = [p for p in inspect.signature(function).parameters.values() if p.name not in ("self", "cls")]
    return [stars.get(p.kind, "") + p.name for p in taken if not p.name.startswith("_")]


def raised(function):
    """Returns the exceptions that a function raises itself, by name."""
    if inspect.unwrap(function).__code__.co_filename == "<string>":
        return set()  # the constructor of a data class
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    raises = [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)]
    return {ast.unparse(exc.func).split(".")[-1] for exc in raises}


def own_fields(cls):
    """Returns the fields of a data class or a named tuple, in order."""
    if dataclasses.is_dataclass(cls):
        return [f for f in vars(cls).get("__annotations__", inspect.get_annotations(cls)) if not f.startswith("_")]
    return list(getattr(cls, "_fields", ()))


def test_enough_public_names_are_found():
    assert len(CLASSES) > 20
    assert len(FUNCTIONS) > 30
    assert len(METHODS) > 50
    assert "vov3d.video.VideoReader.read" in METHODS


@pytest.mark.parametrize("path", [*NAMES, *METHODS])
def test_has_a_docstring_of_its_own(path):
    doc = {**NAMES, **METHODS}[path].__doc__
    assert doc
    # what data classes and named tuples make up
    assert not re.match(r"\w+\(.*\)$", doc)


@pytest.mark.parametrize("path", FUNCTIONS)
def test_functions_explain_their_parameters(path):
    assert section(FUNCTIONS[path].__doc__, "Args") == parameters(FUNCTIONS[path])


@pytest.mark.parametrize("path", METHODS)
def test_methods_of_several_parameters_explain_them(path):
    explained, taken = section(METHODS[path].__doc__, "Args"), parameters(METHODS[path])
    assert explained == taken or (not explained and len(taken) < 2)


@pytest.mark.parametrize("path", CLASSES)
def test_classes_explain_their_parameters_and_fields(path):
    cls = CLASSES[path]
    if own_fields(cls):
        assert section(cls.__doc__, "Attributes") == own_fields(cls)
    elif "__init__" in vars(cls) and not issubclass(cls, Exception):
        explained = section(cls.__doc__, "Args") or section(cls.__init__.__doc__, "Args")
        assert explained == parameters(cls.__init__)


@pytest.mark.parametrize("path", [*FUNCTIONS, *METHODS, *(p for p, c in CLASSES.items() if "__init__" in vars(c))])
def test_names_what_it_raises(path):
    thing = {**NAMES, **METHODS}[path]
    doc = f"{inspect.cleandoc(thing.__doc__)}\n"
    function = thing
    if inspect.isclass(thing):
        function, doc = thing.__init__, doc + "\n" + inspect.cleandoc(thing.__init__.__doc__ or "")
    told = {name.split(".")[-1] for name in section(doc, "Raises")}
    assert raised(function) - {"AttributeError"} <= told


@pytest.mark.parametrize(
    "path", [p for p, c in CLASSES.items() if issubclass(c, nn.Module) and ".layers" in c.__module__]
)
def test_layers_tell_their_shapes(path):
    assert re.search(r"^\s+Shape:\n.*`\(B, ", CLASSES[path].__doc__, re.MULTILINE)


@pytest.mark.parametrize("path", [p for p, c in CLASSES.items() if ">>> " in (c.__doc__ or "")])
def test_examples_run(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "clip.mp4", num_frames=20)
    camera = np.zeros((2, 64, 64, 3), np.uint8)
    names = {"model": vov3d.create_model("vov3d_n"), "camera": camera, CLASSES[path].__name__: CLASSES[path]}
    for example in doctest.DocTestParser().get_examples(CLASSES[path].__doc__):
        exec(example.source, names)


@pytest.mark.parametrize("name", ["TOSA", "D2plus1D", "SqueezeExcite3d", "VoV3D", "X3D", "factorize"])
def test_what_a_paper_describes_names_it(name):
    assert "https://arxiv.org/abs/" in getattr(vov3d, name).__doc__


def test_constants_are_explained():
    for module in public_modules():
        body = ast.parse(inspect.getsource(module)).body
        for statement, after in zip(body, [*body[1:], None], strict=True):
            if isinstance(statement, ast.Assign) and getattr(statement.targets[0], "id", "") in module.__all__:
                name = statement.targets[0].id
                explained = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                assert explained or name == "__version__", f"{module.__name__}.{name}"
