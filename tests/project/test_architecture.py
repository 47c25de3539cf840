"""The rooms of the package: which imports which, what is private, and that the core needs no extra."""

import ast
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import vov3d

PACKAGE = Path(vov3d.__file__).parent
PROJECT = Path(__file__).parents[2]

# From the top to the bottom: a room imports only from its own level and from those below it.
LEVELS = [
    {"cli"},
    {"serving"},
    {"live", "interpret"},
    {"benchmark"},
    {"deploy", "adapters"},
    {"video", "synthetic"},
    {"hub"},
    {"models"},
    {"surgery", "weights"},
    {"labels", "layers"},
    {"files", "extras", "memory", "signals", "syntax"},
]
CORE = {"torch", "timm", "huggingface_hub", "safetensors", "einops"}
WITH_EXTRAS = ("vov3d.video", "vov3d.synthetic", "vov3d.live", "vov3d.interpret", "vov3d.serving")  # need `video`
# Whose classes derive from another package's, and kernels in the language of another package.
OF_AN_EXTRA = {"vov3d.adapters.transformers", "vov3d.deploy._triton"}

Trees = dict[str, ast.Module]


def modules() -> Trees:
    """Returns the dotted name of every module of the package, with its syntax tree."""
    paths = {
        path: ".".join(("vov3d", *path.relative_to(PACKAGE).with_suffix("").parts)) for path in PACKAGE.rglob("*.py")
    }
    return {name.removesuffix(".__init__"): ast.parse(path.read_text()) for path, name in paths.items()}


def imports(tree: ast.AST) -> list[str]:
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def at_import_time(tree: ast.Module) -> list[str]:
    """Returns imports outside functions and outside `if TYPE_CHECKING`."""
    found, waiting = [], list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            found += imports(node)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            waiting += node.orelse
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            waiting += [
                child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt | ast.ExceptHandler)
            ]
    return found


def level(name: str) -> int | None:
    parts = name.split(".")
    return next((i for i, rooms in enumerate(LEVELS) if len(parts) > 1 and parts[1] in rooms), None)


def room(name: str) -> str:
    return ".".join(name.split(".")[:2])


def upward(trees: Trees) -> list[str]:
    wrong = []
    for name, tree in trees.items():
        for imported in imports(tree) if level(name) is not None else []:
            target = level(imported) if imported.startswith("vov3d") else len(LEVELS)
            # The package itself re-exports every room; only the command line, above them all, may use it.
            if target is None and not name.startswith("vov3d.cli"):
                wrong.append(f"{name} imports {imported}")
            elif target is not None and (
                target < level(name) or (target == level(name) and room(imported) != room(name))
            ):
                wrong.append(f"{name} imports {imported}, which lies above it or beside it")
    return wrong


def test_every_module_lies_in_a_room():
    outside = [name for name in modules() if level(name) is None and name not in ("vov3d", "vov3d.__main__")]
    assert not outside


def test_no_room_imports_one_above_or_beside_it():
    assert not upward(modules())


def test_an_upward_import_would_be_found():
    assert upward({"vov3d.layers.tosa": ast.parse("def f():\n    from vov3d.models import VoV3D")})
    assert upward({"vov3d.hub": ast.parse("import vov3d.video")})
    assert upward({"vov3d.models.x3d": ast.parse("import vov3d")})
    assert upward({"vov3d.video.reader": ast.parse("from vov3d.synthetic import noise")})
    assert not upward({"vov3d.video.reader": ast.parse("from vov3d.labels import class_names")})


# --- private means: this folder only ---------------------------------------------------------------------------------


def sources(*folders: str) -> Trees:
    """Returns every Python file in these folders of the project, by its path, with its syntax tree."""
    paths = [path for folder in folders for path in sorted((PROJECT / folder).rglob("*.py"))]
    return {str(path.relative_to(PROJECT)): ast.parse(path.read_text()) for path in paths}


def private_parts(name: str) -> list[str]:
    """Returns the folders to which the private modules and names of a dotted name are limited."""
    parts = name.split(".")
    owners = [parts[:i] for i, part in enumerate(parts) if part.startswith("_") and not part.startswith("__")]
    return [".".join(owner[:-1] if _is_module(owner) else owner) for owner in owners]


def _is_module(parts: list[str]) -> bool:
    paths = (PROJECT.joinpath(top, *parts).with_suffix(".py") for top in (".", "examples"))
    return any(path.is_file() for path in paths)


def reached_into(trees: Trees) -> list[str]:
    """Returns imports of private names from outside of their folder; tests may reach into the room they mirror."""
    wrong = []
    for path, tree in trees.items():
        folder = path.rpartition("/")[0].replace("/", ".")
        if folder.startswith("tests."):
            folder = folder.replace("tests.", "vov3d.", 1)
        for name in imports(tree):
            for owner in private_parts(name) if name.split(".")[0] in ("vov3d", "reference") else []:
                owner = owner.removeprefix("examples.")
                inside = (folder.removeprefix("examples.") + ".").startswith(owner + ".")
                in_room = path.startswith("tests/") and room(owner) == room(folder)
                if not inside and not in_room:
                    wrong.append(f"{path} imports {name}")
    return wrong


def test_what_others_import_has_no_underscore():
    trees = sources("vov3d", "examples", "docs", "tests")
    assert len(trees) > 150
    assert not reached_into(trees)


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("vov3d/video/reader.py", "from vov3d.deploy._fused import Bottleneck"),
        ("vov3d/cli/zoo.py", "import vov3d.deploy._fused"),
        ("examples/localize.py", "from vov3d.cli.arguments import _device"),
        ("tests/video/test_reader.py", "from vov3d.deploy._fused import Bottleneck"),
        ("docs/measure/speed.py", "from vov3d.deploy._compare import compare"),
    ],
)
def test_reaching_into_another_room_would_be_found(path, line):
    assert reached_into({path: ast.parse(line)})


def test_the_own_folder_and_the_mirrored_room_are_allowed():
    assert not reached_into({"vov3d/deploy/_export.py": ast.parse("from vov3d.deploy._fused import Bottleneck")})
    assert not reached_into({"tests/deploy/test_export.py": ast.parse("from vov3d.deploy._fused import Bottleneck")})
    assert not reached_into({"vov3d/cli/zoo.py": ast.parse("from vov3d import __version__")})


# --- the core --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["layers/*.py", "models/network.py", "deploy/graphs.py", "deploy/_conv2d.py"])
def test_what_is_compiled_asks_for_no_union_of_types(place):
    # torch.compile and torch.export of PyTorch 2.6 fail at `isinstance(x, A | B)`; `(A, B)` is fine.
    files = sorted(PACKAGE.glob(place))
    assert files
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance":
                assert not isinstance(node.args[1], ast.BinOp), f"{path}:{node.lineno}"


def test_core_imports_no_extra_at_import_time():
    allowed = CORE | set(sys.stdlib_module_names) | {"vov3d"}
    wrong = []
    for name, tree in modules().items():
        if name not in OF_AN_EXTRA and room(name) not in WITH_EXTRAS:
            wrong += [f"{name}: {i}" for i in at_import_time(tree) if i.split(".")[0] not in allowed]
            wrong += [f"{name}: {i}" for i in at_import_time(tree) if i.startswith("vov3d.video")]
    assert not wrong


def test_core_dependencies_are_exactly_five():
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    assert {d.split(">")[0] for d in project["dependencies"]} == CORE


def test_import_loads_neither_video_nor_what_only_extras_install():
    code = "import json, sys, vov3d; vov3d.VoV3D; print(json.dumps(list(sys.modules)))"
    loaded = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    # torchvision, which timm imports, imports av itself in older releases
    assert not {"vov3d.video", "vov3d.cli", "vov3d.deploy", "matplotlib"} & set(loaded)


def test_a_missing_extra_names_itself(tmp_path):
    # An empty package in front of the path stands for PyAV not being there.
    (tmp_path / "av.py").write_text("raise ImportError('no av')")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    code = "import vov3d; vov3d.VideoClassifier"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert "vov3d[video]" in done.stderr.splitlines()[-1]


def test_everything_public_is_there_and_documented():
    for name in vov3d.__all__:
        assert name == "__version__" or getattr(vov3d, name).__doc__
    assert set(vov3d.__all__) <= set(dir(vov3d))


def test_type_checkers_see_every_public_name():
    """The names are imported twice: for checkers and the site, which read the source, and on first use."""
    body = modules()["vov3d"].body
    (seen,) = (node for node in body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    names = {i.removeprefix("vov3d.").split(".")[-1] for i in imports(seen) if i.startswith("vov3d.")}
    assert names == set(vov3d.__all__) - {"__version__"}


# Modules that put files in place themselves, with the reason; all others use `vov3d.files.replacing`.
PUTS_IN_PLACE = {
    "vov3d.files": "is what the others use",
    "vov3d.weights.download": "its .part stays after an interruption, so that the download can be resumed",
}
MOVES = {"os.replace", "os.rename", "os.renames", "os.link", "shutil.move"}


def moves(tree: ast.AST) -> list[str]:
    """Lists the calls that rename files, and imports of such functions by name."""
    called = [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [name for name in (*called, *imports(tree)) if name in MOVES]


def test_files_are_put_in_place_by_one_function():
    found = {name for name, tree in modules().items() if moves(tree)}
    assert found == PUTS_IN_PLACE.keys()


@pytest.mark.parametrize("line", ["os.replace(draft, path)", "from os import replace", "shutil.move(a, b)"])
def test_a_file_moved_elsewhere_would_be_found(line):
    assert moves(ast.parse(line))
    assert not moves(ast.parse("text.replace('a', 'b')"))
