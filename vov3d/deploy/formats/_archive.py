"""Checks that a `.pt2` file holds only what `export` writes, and nothing that PyTorch would run while it loads.

`torch.export.load` unpickles constants and example inputs, loads shared libraries from the archive, resolves any name
below `torch`, and evaluates formulas of sizes as Python. Here every member and every entry of the graph is compared
with lists of known ones, and PyTorch gets a new archive of the checked members.
"""

import ast
import io
import json
import math
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from vov3d.syntax import parse

_MOST_GRAPH = 1 << 26  # bytes of the graph; X3D-L's has 3 million
_MOST_MEMBERS = 20_000
_LONGEST_FORMULA = 5_000  # characters
_DEEPEST_FORMULA = 60  # nested brackets

METADATA = "vov3d.json"
_GRAPHS = ("models/model.json", "serialized_exported_program.json")
_CONFIGS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
# Pickles of tensors that PyTorch before 2.9 writes.
_PICKLES = (
    *("data/weights/model.pt", "data/constants/model.pt"),
    *("serialized_state_dict.pt", "serialized_constants.pt"),
)
_EXAMPLES = ("data/sample_inputs/model.pt", "serialized_example_inputs.pt")
_PLAIN = (
    *("archive_format", "archive_version", "byteorder", "version", "torch_version"),
    *(".data/version", ".data/serialization_id", ".format_version", ".storage_alignment"),
    *(f"extra/{METADATA}", f"extra_files/{METADATA}"),
)
_NUMBERS = re.compile(r"data/(?:weights/weight|constants/tensor)_\d+")

_VALUES = ("bool", "device", "float", "int", "layout", "memory_format", "name", "none", "scalar_type", "string")
_KINDS = {f"as_{value}" for value in _VALUES}
_KINDS |= {f"as_{value}s" for value in ("bool", "float", "int", "optional_tensor", "tensor", "sym_int", "sym_bool")}
_KINDS |= {"as_expr", "as_sym_bool", "as_sym_float", "as_sym_floats", "as_sym_int", "as_tensor"}
_FOREIGN = {"custom_obj", "token", "training_ir"}

_FORMULA = re.compile(r"[A-Za-z0-9_(),'=\-+*/%<>! ]*")
_SYMBOL = re.compile(r"[a-z]{1,4}\d{1,6}")
_FUNCTIONS = re.compile(
    "Add|And|CeilDiv|CleanDiv|Eq|Equality|FloorDiv|GreaterThan|Identity|Integer|LessThan|Max|Min|Mod|Mul|Ne|Not|Or"
    "|PythonMod|StrictGreaterThan|StrictLessThan|Symbol|Unequality"
)
_PARTS = (
    *(ast.Expression, ast.Load, ast.UnaryOp, ast.USub, ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.FloorDiv, ast.Mod),
    *(ast.Compare, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE),
)

_SIZES = re.compile(
    r"_operator\.(add|eq|floordiv|ge|getitem|gt|le|lt|mod|mul|ne|neg|sub|truediv)|torch\.sym_(float|int|max|min|not)"
    r"|math\.(ceil|floor|trunc)"
)
# Operators allowed besides all pointwise ones.
_OPERATORS = re.compile(
    "__and__|__or__|_assert_scalar|_assert_tensor_metadata|_to_copy|adaptive_(avg|max)_pool[123]d|addmm|alpha_dropout"
    "|amax|amin|arange|(avg|max)_pool[123]d|batch_norm|bmm|cat|chunk|clone|constant_pad_nd|contiguous|conv[123]d"
    "|convolution|cosine_similarity|cumsum|detach|dropout_?|einsum|expand|expand_as|feature_dropout|flatten|flip|full|full_like"
    "|glu|group_norm|hardswish_?|instance_norm|layer_norm|linalg_vector_norm|linear|log_sigmoid|log_softmax|logsumexp|mT"
    "|matmul|max|mean|min|mm|movedim|narrow|ones|ones_like|pad|permute|prelu|prod|repeat|reshape|rms_norm|rrelu|select"
    "|slice|softmax|split|split_with_sizes|squeeze|stack|std|sum|sym_numel|sym_size|t|to|transpose|unbind|unflatten|unsqueeze"
    "|var|view|view_as|zeros|zeros_like"
)


class _ForeignError(ValueError):
    """The file has content that `export` never writes."""

    def __init__(self, what: str) -> None:
        super().__init__(f"it was not written by vov3d.export: {what}")


def checked_archive(path: Path) -> io.BytesIO:
    """Returns a file's archive for PyTorch to load, of checked members only.

    Args:
        path: A `.pt2` file.

    Raises:
        ValueError: If it has content that `export` does not write.
        zipfile.BadZipFile: If it is damaged.
    """
    out = io.BytesIO()
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(out, "w") as target:
        members = _members(source, path.stat().st_size)
        for name, info in members.items():
            target.writestr(info.filename, _checked(name, source.read(info), members))
    out.seek(0)
    return out


def _members(source: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """Members by their name below the archive's folder."""
    infos = source.infolist()
    root = infos[0].filename.split("/")[0] + "/" if infos and "/" in infos[0].filename else ""
    found = {info.filename.removeprefix(root): info for info in infos}
    if len(infos) > _MOST_MEMBERS or len(found) != len(infos) or sum(i.file_size for i in infos) > 4 * size:
        raise _ForeignError("its archive is not one that torch.export.save made")
    known = {*_GRAPHS, *_CONFIGS, *_PICKLES, *_EXAMPLES, *_PLAIN}
    for name, info in found.items():
        if (name not in known and not _NUMBERS.fullmatch(name)) or not info.filename.startswith(root):
            raise _ForeignError(f"it holds {name[:100]!a}")
    return found


def _checked(name: str, data: bytes, members: dict[str, zipfile.ZipInfo]) -> bytes:
    if name in _EXAMPLES and data:
        raise _ForeignError("it holds example inputs")
    if name in _PICKLES:
        return _repickled(data)
    if name in _CONFIGS:
        _check_config(json.loads(data), {n.rpartition("/")[2]: info.file_size for n, info in members.items()})
    if name in _GRAPHS:
        if len(data) > _MOST_GRAPH:
            raise _ForeignError(f"its graph has {len(data):,} bytes")
        return json.dumps(_checked_program(json.loads(data))).encode()
    return data


def _repickled(data: bytes) -> bytes:
    """Loads a pickle of tensors safely and pickles it again."""
    tensors = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True) if data else {}
    if not isinstance(tensors, dict) or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
        raise _ForeignError("it holds more than tensors")
    out = io.BytesIO()
    torch.save(tensors, out)
    return out.getvalue()


def _check_config(config: Any, sizes: dict[str, int]) -> None:
    for name, entry in config["config"].items():
        meta = entry["tensor_meta"]
        if entry["use_pickle"] or not re.fullmatch(r"(weight|tensor)_\d+", entry["path_name"]):
            raise _ForeignError(f"it stores {name[:100]!a} as a pickle or under another name")
        if math.prod(size["as_int"] for size in meta["sizes"]) > sizes.get(entry["path_name"], 0):
            raise _ForeignError(f"it lacks values of {name[:100]!a}")


# --- the graph -------------------------------------------------------------------------------------------------------


def _checked_program(program: dict[str, Any]) -> dict[str, Any]:
    """Checks a graph, removes the entries that running it does not need, and lets each size be 1 or more."""
    module = program["graph_module"]
    if program["range_constraints"] or module.get("treespec_namedtuple_fields"):
        raise _ForeignError("its graph has bounds or named tuples")
    for entry in module["module_call_graph"]:
        signature = entry.get("signature")  # PyTorch 2.6 leaves out what is None
        for key in ("in_spec", "out_spec") if signature else ():
            _check_structure(json.loads(signature[key])[1])
    for node in module["graph"]["nodes"]:
        if not _is_known(node["target"]):
            raise _ForeignError(f"its graph calls {str(node['target'])[:100]!a}")
        node["metadata"] = {}
    module["metadata"] = {}
    if "guards_code" in program:
        program["guards_code"] = []
    symbols = set[str]()
    for key, value in _entries(program):
        if key == "expr_str":
            _check_formula(value)
            symbols.update(_SYMBOL.findall(value))
        elif key in _FOREIGN or (key.startswith("as_") and key not in _KINDS):
            raise _ForeignError(f"its graph holds {key}")
    # PyTorch 2.6 to 2.8 cannot load a size without bounds
    program["range_constraints"] = {symbol: {"min_val": 1, "max_val": None} for symbol in sorted(symbols)}
    return program


def _entries(content: Any) -> Iterator[tuple[str, Any]]:
    """Yields every key of every object, with its value."""
    waiting = [content]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            yield from one.items()
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one


def _check_structure(spec: dict[str, Any]) -> None:
    """Raises an error unless a structure consists of tuples, lists and an empty dictionary of keyword arguments."""
    plain = (("builtins.tuple", "null"), ("builtins.list", "null"), ("builtins.dict", "[]"), (None, None))
    if (spec["type"], spec["context"]) not in plain:
        raise _ForeignError(f"its graph takes or gives a {str(spec['type'])[:100]!a}")
    for child in spec["children_spec"]:
        _check_structure(child)


def unknown_operator(program: torch.export.ExportedProgram) -> str | None:
    """Returns the name of an operator that would be refused when the program is loaded, None if there is none."""
    called = (node.target for node in program.graph.nodes if isinstance(node.target, torch._ops.OperatorBase))
    return next((str(operator) for operator in called if not _is_known(f"torch.ops.{operator}")), None)


def _is_known(target: Any) -> bool:
    """Returns whether a name is arithmetic of sizes, or an operator that only computes tensors from tensors."""
    if not isinstance(target, str) or _SIZES.fullmatch(target):
        return isinstance(target, str)
    parts = target.split(".")
    if parts[:3] != ["torch", "ops", "aten"] or len(parts) != 5:
        return False
    operator = getattr(getattr(torch.ops.aten, parts[3], None), parts[4], None)
    if not isinstance(operator, torch._ops.OpOverload):
        return False
    return bool(_OPERATORS.fullmatch(parts[3])) or torch.Tag.pointwise in operator.tags


def _check_formula(text: Any) -> None:
    """Checks that a formula has only names, numbers, operators, and functions of sizes.

    Raises:
        ValueError: If it has anything else, or is too long or too deep.
    """
    wrong = _ForeignError(f"its graph has a formula that is not one of sizes: {str(text)[:100]!a}")
    if not isinstance(text, str) or len(text) > _LONGEST_FORMULA or not _FORMULA.fullmatch(text):
        raise wrong
    depth = 0
    for letter in text:
        depth += (letter == "(") - (letter == ")")
        if depth > _DEEPEST_FORMULA:
            raise wrong
    try:
        tree = parse(text.strip(), mode="eval")
    except SyntaxError:
        raise wrong from None
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    if not all(_is_plain(node, id(node) in called) for node in ast.walk(tree)):
        raise wrong


def _is_plain(node: ast.AST, called: bool) -> bool:
    if isinstance(node, ast.Name):
        return bool(_FUNCTIONS.fullmatch(node.id)) if called else bool(_SYMBOL.fullmatch(node.id))
    if isinstance(node, ast.Call):
        symbol = isinstance(node.func, ast.Name) and node.func.id == "Symbol"
        names = [arg for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
        return isinstance(node.func, ast.Name) and len(names) == symbol and (symbol or not node.keywords)
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            return bool(_SYMBOL.fullmatch(node.value))
        return isinstance(node.value, int) and abs(node.value) < 2**63
    if isinstance(node, ast.keyword):
        return isinstance(node.value, ast.Constant) and isinstance(node.value.value, bool)
    return isinstance(node, _PARTS)
