"""The house: each floor imports only the floors below it, and the core nothing that an extra installs."""

import ast
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import vov3d

ROOT = Path(vov3d.__file__).parent
PROJECT = Path(__file__).parent.parent

# From the top to the bottom.
FLOORS = ["cli", "deploy", "video", "adapters", "hub", "models", "surgery", "labels", "layers", "files"]
CORE = {"torch", "timm", "huggingface_hub", "safetensors", "einops"}


def modules() -> dict[str, ast.Module]:
    """Dotted name of every module of the package, with its syntax tree."""
    paths = {path: ".".join(("vov3d", *path.relative_to(ROOT).with_suffix("").parts)) for path in ROOT.rglob("*.py")}
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
    """Imports outside functions and outside `if TYPE_CHECKING`."""
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


def floor(name: str) -> int | None:
    parts = name.split(".")
    return FLOORS.index(parts[1]) if len(parts) > 1 and parts[1] in FLOORS else None


def upward(trees: dict[str, ast.Module]) -> list[str]:
    wrong = []
    for name, tree in trees.items():
        for imported in imports(tree) if floor(name) is not None else []:
            target = floor(imported) if imported.startswith("vov3d") else len(FLOORS)
            # The package itself re-exports every floor; only the command line, above them all, may lean on it.
            if target is None and not name.startswith("vov3d.cli"):
                wrong.append(f"{name} imports {imported}")
            elif target is not None and target < floor(name):
                wrong.append(f"{name} imports {imported}, a floor above it")
    return wrong


def test_every_module_lives_on_a_floor():
    homeless = [name for name in modules() if floor(name) is None and name not in ("vov3d", "vov3d.__main__")]
    assert not homeless


def test_no_floor_imports_a_higher_one():
    assert not upward(modules())


def test_an_import_of_a_higher_floor_would_be_found():
    assert upward({"vov3d.layers.tosa": ast.parse("def f():\n    from vov3d.models import VoV3D")})
    assert upward({"vov3d.hub": ast.parse("import vov3d.video")})
    assert upward({"vov3d.models.x3d": ast.parse("import vov3d")})
    assert not upward({"vov3d.video.reader": ast.parse("from vov3d.labels import class_names")})


def test_core_imports_no_extra_at_import_time():
    allowed = CORE | set(sys.stdlib_module_names) | {"vov3d"}
    wrong = []
    for name, tree in modules().items():
        if floor(name) != FLOORS.index("video"):
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
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    code = "import vov3d; vov3d.VideoClassifier"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert "pip install 'vov3d[video]'" in done.stderr.splitlines()[-1]


def test_everything_public_is_there_and_documented():
    for name in vov3d.__all__:
        assert name == "__version__" or getattr(vov3d, name).__doc__


def test_no_file_is_too_long_to_read():
    files = [path for folder in ("vov3d", "examples", "tests", "docs") for path in (PROJECT / folder).rglob("*.py")]
    assert len(files) > 150
    assert not [str(path) for path in files if len(path.read_text().splitlines()) > 900]
