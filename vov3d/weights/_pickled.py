"""Reads PyTorch's files without running anything that they hold.

`torch.load(weights_only=True)` uses a list of allowed names that is global to the process, which other threads can
change; it reads every tensor before the first one can be compared, and it ignores the checksums of the archive. Here a
small interpreter of pickles handles tensors and plain data. Classes of a few libraries whose objects are often saved
with weights become placeholders; any other name is an error. Tensors are described first and read on demand.
"""

import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from pickle import decode_long
from typing import IO, Any, NamedTuple

import torch

from vov3d.weights.tensors import DamagedError, Described, FileError, Opener, ReadStorage, described

ZIP = b"PK\x03\x04"
LEGACY = 0x1950A86A20F9469CFC6C  # the first number of every file in the format before PyTorch 1.6

_MOST_STEPS = 1_000_000  # of one pickle; a checkpoint of 1,500 tensors with optimizer state takes 100,000
_MOST_MEMBERS = 50_000  # of the archive, one per tensor
_MOST_PICKLE = 1 << 28  # bytes of the pickle, which holds names and numbers, no tensors
_MOST_UNPACKED = 4  # times the size of the file; PyTorch does not compress

_KEYS = (str, int, float, bytes, type(None))

# Libraries whose objects are often saved with weights: arguments, paths, dates, numbers, histories. Names that begin
# with a capital are classes, not functions; classes with other names are listed below.
_LIBRARIES = (
    *("addict", "argparse", "collections", "datetime", "decimal", "easydict", "fractions", "fvcore", "lightning"),
    *("lightning_fabric", "ml_collections", "mmaction", "mmcv", "mmengine", "numpy", "omegaconf", "pathlib"),
    *("pytorch_lightning", "timm", "torch", "typing", "uuid", "yacs", "zoneinfo"),
)
_LOWER = {
    "collections": ("defaultdict", "deque"),
    "datetime": ("date", "datetime", "time", "timedelta", "timezone"),
    "numpy": ("_frombuffer", "_reconstruct", "bool", "bool_", "dtype", "float32", "float64", "ndarray", "scalar"),
    "torch": ("device",),
    "types": ("SimpleNamespace",),
}
_MAPPINGS = tuple(f"collections.{name}" for name in ("Counter", "OrderedDict", "defaultdict"))
_BIG_ENDIAN = "was written on a big-endian machine; save it again on this kind of machine"
_BUILTINS = (
    *("bool", "bytearray", "complex", "dict", "float", "frozenset", "int", "list", "object", "range", "set", "slice"),
    *("str", "tuple"),
)

_STORAGES = {
    "BFloat16Storage": torch.bfloat16,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "ComplexDoubleStorage": torch.complex128,
    "ComplexFloatStorage": torch.complex64,
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "ShortStorage": torch.int16,
    "UntypedStorage": torch.uint8,
}


class CodeError(FileError):
    """The pickle has a name that is neither a tensor's nor that of plain data; nothing was run."""


class Placeholder:
    """An object of another library, by the name of its class only."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


class _Storage(NamedTuple):
    """A storage in the file: type, key, and number of elements."""

    dtype: torch.dtype
    key: str
    size: int


_FindStorage = Callable[[torch.dtype, str, int], _Storage]


def read_pickled(path: Path, head: bytes) -> tuple[Any, Opener]:
    """Reads a PyTorch file, with a `Described` for each tensor and placeholders for other objects.

    Args:
        path: The file.
        head: Its first bytes.

    Returns:
        The object, and a function that opens the file to read the tensors' values.

    Raises:
        CodeError: If it has a name that is neither a tensor's nor that of plain data.
        FileError: If it is damaged, or another kind of file.
    """
    if head.startswith(ZIP):
        return _read_zip(path)
    if head.startswith(b"\x80"):
        return _read_legacy(path)
    raise DamagedError


def _no_storage(dtype: torch.dtype, key: str, size: int) -> _Storage:
    raise DamagedError("a tensor in the wrong place")


# --- the archive -----------------------------------------------------------------------------------------------------


def _read_zip(path: Path) -> tuple[Any, Opener]:
    with zipfile.ZipFile(path) as archive:
        members = _checked_members(archive, path.stat().st_size)
        root = _root(members)
        if members.get(f"{root}byteorder") and archive.read(members[f"{root}byteorder"]) != b"little":
            raise FileError(_BIG_ENDIAN)
        pickled = archive.read(members[f"{root}data.pkl"])

    def storage(dtype: torch.dtype, key: str, size: int) -> _Storage:
        info = members.get(f"{root}data/{key}")
        if info is None or info.file_size != size * dtype.itemsize:
            raise DamagedError("values are missing")
        return _Storage(dtype, key, size)

    @contextmanager
    def opener() -> Iterator[ReadStorage]:
        with zipfile.ZipFile(path) as archive:
            yield lambda key: archive.read(members[f"{root}data/{key}"])

    return _Interpreter(BytesIO(pickled), storage).load(), opener


def _root(members: dict[str, zipfile.ZipInfo]) -> str:
    """Returns the folder of the archive's files, with its slash."""
    roots = [name.removesuffix("data.pkl") for name in members if name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise FileError("is a zip archive, but not one that torch.save made")
    if f"{roots[0]}constants.pkl" in members:
        raise FileError("is a TorchScript archive, which holds code; save the weights of the original model")
    if (size := members[f"{roots[0]}data.pkl"].file_size) > _MOST_PICKLE:
        raise FileError(f"holds a pickle of {size:,} bytes beside its tensors")
    return roots[0]


def _checked_members(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """Checks all checksums, which are 0 if the writer was set to leave them out."""
    infos = archive.infolist()
    if len(infos) > _MOST_MEMBERS:
        raise FileError(f"holds {len(infos):,} tensors or other members, more than any checkpoint of a network here")
    if sum(info.file_size for info in infos) > _MOST_UNPACKED * size:
        raise FileError("unpacks to many times its size, which torch.save never makes")
    if any(info.CRC for info in infos) and (damaged := archive.testzip()):
        raise DamagedError(f"{damaged} does not match its checksum")
    members = {info.filename: info for info in infos}
    if len(members) != len(infos):
        raise FileError("has two members of one name")
    if not any(info.CRC for info in infos):
        for info in infos:
            del info.CRC  # else zipfile checks it
    return members


# --- the format before the archive -----------------------------------------------------------------------------------


def _read_legacy(path: Path) -> tuple[Any, Opener]:
    """Reads a number, a version, facts about the machine, the object, the keys of its storages, then their values."""
    storages: dict[str, _Storage] = {}

    def storage(dtype: torch.dtype, key: str, size: int) -> _Storage:
        if storages.setdefault(key, _Storage(dtype, key, size)) != (dtype, key, size):
            raise DamagedError("one storage with two sizes")
        return storages[key]

    with path.open("rb") as file:
        if _Interpreter(file, _no_storage).load() != LEGACY:
            raise FileError("is a plain pickle; save weights with torch.save or as safetensors")
        version, facts = (_Interpreter(file, _no_storage).load() for _ in range(2))
        if version != 1001 or not isinstance(facts, dict):
            raise FileError("has an unknown version of PyTorch's format")
        if facts.get("little_endian") is not True:
            raise FileError(_BIG_ENDIAN)
        content = _Interpreter(file, storage).load()
        spans = _spans(file, path.stat().st_size, storages)

    @contextmanager
    def opener() -> Iterator[ReadStorage]:
        with path.open("rb") as file:

            def read(key: str) -> bytes:
                file.seek(spans[key][0])
                return file.read(spans[key][1])

            yield read

    return content, opener


def _spans(file: IO[bytes], end: int, storages: dict[str, _Storage]) -> dict[str, tuple[int, int]]:
    """Returns the start of each storage in the file, and its length in bytes."""
    keys = _Interpreter(file, _no_storage).load()
    if not isinstance(keys, list) or {str(key) for key in keys} != storages.keys():
        raise DamagedError("values are missing")
    spans = {}
    for key in map(str, keys):
        dtype, _, size = storages[key]
        length = size * dtype.itemsize
        if file.read(8) != struct.pack("<q", size) or file.tell() + length > end:
            raise DamagedError("values are missing")
        spans[key] = (file.tell(), length)
        file.seek(length, 1)
    return spans


# --- tensors ---------------------------------------------------------------------------------------------------------


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *rest: Any, dtype: Any = None) -> Described:
    if isinstance(storage, Placeholder):
        return Described(torch.float32, (), kind=storage.name)
    if not isinstance(storage, _Storage):
        raise DamagedError("a tensor without values")
    dtype = dtype or storage.dtype
    size = storage.size * storage.dtype.itemsize // dtype.itemsize  # untyped storages count bytes
    return described(dtype, shape, storage.key, stride, offset, size)


def _tensor_v3(storage: Any, offset: Any, shape: Any, stride: Any, *rest: Any) -> Described:
    dtype = rest[2] if len(rest) > 2 else None
    if not isinstance(dtype, torch.dtype):
        raise DamagedError("a tensor without a type")
    return _tensor(storage, offset, shape, stride, dtype=dtype)


def _first(value: Any = None, *rest: Any) -> Any:
    return value


def _of_type(function: Any = None, kind: Any = None, args: Any = (), state: Any = None) -> Any:
    """Returns the tensor of one that is of a subclass or has attributes."""
    return _call(function, args)


def _other(kind: str) -> Callable[..., Described]:
    return lambda *args: Described(torch.float32, (), kind=kind)


_REBUILT: dict[str, Callable[..., Any]] = {
    "_codecs.encode": lambda text="", encoding="": str(text).encode("latin1", "replace"),  # bytes in protocol 2
    "copy_reg._reconstructor": _first,
    "copyreg._reconstructor": _first,
    "torch.Size": lambda shape=(): tuple(shape),
    "torch._tensor._rebuild_from_type_v2": _of_type,
    "torch.serialization._get_layout": _first,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _first,
    "torch._utils._rebuild_meta_tensor_no_storage": _other("meta"),
    "torch._utils._rebuild_nested_tensor": _other("nested"),
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch._utils._rebuild_qtensor": _other("quantized"),
    "torch._utils._rebuild_sparse_tensor": _other("sparse"),
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_wrapper_subclass": _other("wrapped"),
    "torch.nn.parameter.Parameter": _first,
}


class _Function:
    """One of `_REBUILT`, as an object that a pickle can call but not change."""

    __slots__ = ("make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        self.make = make


def _call(function: Any, args: Any) -> Any:
    if isinstance(function, _Function) and isinstance(args, tuple):
        return function.make(*args)
    if isinstance(function, Placeholder):
        return {} if function.name in _MAPPINGS else function
    raise DamagedError


def _find(module: str, name: str) -> Any:
    full, root = f"{module}.{name}", module.split(".")[0]
    if full in _REBUILT:
        return _Function(_REBUILT[full])
    if module in ("torch", "torch.storage", "torch.cuda") and name in _STORAGES:
        return _STORAGES[name]
    if module == "torch" and isinstance(dtype := getattr(torch, name, None), torch.dtype):
        return dtype
    known = (root in _LIBRARIES and name[:1].isupper()) or name in _LOWER.get(root, ())
    if known or (module in ("builtins", "__builtin__") and name in _BUILTINS):
        return Placeholder(full)
    raise CodeError(full)


# --- the pickle ------------------------------------------------------------------------------------------------------


class _Interpreter:
    """Runs a pickle. Its stack holds plain data, `Described`, `Placeholder`, and the few objects that make them.

    Sets are left empty, and items whose keys are neither text nor numbers are left out: hashing nested shared tuples
    takes exponential time.
    """

    def __init__(self, file: IO[bytes], storage: _FindStorage) -> None:
        self.file = file
        self.storage = storage
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def load(self) -> Any:
        """Runs the pickle and returns its object.

        Raises:
            FileError: If the pickle is damaged, or holds more than plain data and tensors.
        """
        for _ in range(_MOST_STEPS):
            code = self.file.read(1)
            if code == b".":
                return self.stack.pop()
            step = _STEPS.get(code)
            if step is None:
                raise DamagedError
            step(self)
        raise FileError(f"holds a pickle of more than {_MOST_STEPS:,} steps beside its tensors")

    def read(self, count: int) -> bytes:
        data = self.file.read(min(count, _MOST_PICKLE))
        if len(data) != count:
            raise DamagedError
        return data

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.read(struct.calcsize(form)))[0]

    def line(self) -> bytes:
        data = self.file.readline(1 << 16)
        if not data.endswith(b"\n"):
            raise DamagedError
        return data[:-1]

    def text(self, form: str) -> str:
        return self.read(self.number(form)).decode("utf-8", "replace")

    def marked(self) -> list[Any]:
        items = self.stack
        self.stack = self.marks.pop()
        return items

    def push(self, value: Any) -> None:
        self.stack.append(value)

    # steps that need more than a line

    def mark(self) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def fold(self, count: int) -> None:
        items = tuple(self.stack[-count:])
        if len(items) != count:
            raise DamagedError
        self.stack[-count:] = [items]

    def extend(self, items: list[Any]) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(items)

    def put(self, items: list[Any]) -> None:
        target = self.stack[-1]
        for key, value in zip(items[::2], items[1::2], strict=True):
            if isinstance(target, dict) and isinstance(key, _KEYS):
                target[key] = value

    def reduce(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = _call(self.stack[-1], args)

    def reduce_with_keywords(self) -> None:
        self.stack.pop()
        self.reduce()

    def frozen(self) -> None:
        self.marked()
        self.push(Placeholder("builtins.frozenset"))

    def persistent(self) -> None:
        found = self.stack.pop()
        if not isinstance(found, tuple) or len(found) < 5 or found[0] != "storage":
            raise DamagedError
        dtype, key, _, size, *view = found[1:]
        # Some types are classes of another library, such as those of quantized tensors.
        if not isinstance(dtype, torch.dtype) or any(view):
            return self.push(Placeholder("torch storage"))
        if not isinstance(size, int) or size < 0:
            raise DamagedError
        return self.push(self.storage(dtype, str(key), size))

    def found(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise DamagedError
        self.push(_find(module, name))


def _digits(data: bytes) -> int:
    return int(data[:20].removesuffix(b"L"))


def _integer(data: bytes) -> int | bool:
    return {b"00": False, b"01": True}.get(data, _digits(data))


_Step = Callable[[_Interpreter], Any]
_STEPS: dict[bytes, _Step] = {
    # plain values
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"I": lambda m: m.push(_integer(m.line())),
    b"L": lambda m: m.push(_digits(m.line())),
    b"J": lambda m: m.push(m.number("<i")),
    b"K": lambda m: m.push(m.number("<B")),
    b"M": lambda m: m.push(m.number("<H")),
    b"\x8a": lambda m: m.push(decode_long(m.read(m.number("<B")))),
    b"\x8b": lambda m: m.push(decode_long(m.read(m.number("<I")))),
    b"F": lambda m: m.push(float(m.line())),
    b"G": lambda m: m.push(m.number(">d")),
    b"T": lambda m: m.push(m.text("<I")),
    b"U": lambda m: m.push(m.text("<B")),
    b"V": lambda m: m.push(m.line().decode("raw-unicode-escape")),
    b"X": lambda m: m.push(m.text("<I")),
    b"\x8c": lambda m: m.push(m.text("<B")),
    b"\x8d": lambda m: m.push(m.text("<Q")),
    b"B": lambda m: m.push(m.read(m.number("<I"))),
    b"C": lambda m: m.push(m.read(m.number("<B"))),
    b"\x8e": lambda m: m.push(m.read(m.number("<Q"))),
    b"\x96": lambda m: m.push(m.read(m.number("<Q"))),
    # containers
    b"(": _Interpreter.mark,
    b")": lambda m: m.push(()),
    b"t": lambda m: m.push(tuple(m.marked())),
    b"\x85": lambda m: m.fold(1),
    b"\x86": lambda m: m.fold(2),
    b"\x87": lambda m: m.fold(3),
    b"]": lambda m: m.push([]),
    b"l": lambda m: m.push(m.marked()),
    b"a": lambda m: m.extend([m.stack.pop()]),
    b"e": lambda m: m.extend(m.marked()),
    b"}": lambda m: m.push({}),
    b"s": lambda m: m.put([m.stack.pop(-2), m.stack.pop()]),
    b"u": lambda m: m.put(m.marked()),
    b"\x8f": lambda m: m.push(Placeholder("builtins.set")),
    b"\x90": lambda m: m.marked(),
    b"\x91": _Interpreter.frozen,
    # the stack and the memo
    b"0": lambda m: m.stack.pop(),
    b"1": lambda m: m.marked(),
    b"2": lambda m: m.push(m.stack[-1]),
    b"g": lambda m: m.push(m.memo[_digits(m.line())]),
    b"h": lambda m: m.push(m.memo[m.number("<B")]),
    b"j": lambda m: m.push(m.memo[m.number("<I")]),
    b"p": lambda m: m.memo.__setitem__(_digits(m.line()), m.stack[-1]),
    b"q": lambda m: m.memo.__setitem__(m.number("<B"), m.stack[-1]),
    b"r": lambda m: m.memo.__setitem__(m.number("<I"), m.stack[-1]),
    b"\x94": lambda m: m.memo.__setitem__(len(m.memo), m.stack[-1]),
    # objects
    b"c": lambda m: m.found(m.line().decode(), m.line().decode()),
    b"\x93": lambda m: m.found(m.stack.pop(-2), m.stack.pop()),
    b"Q": _Interpreter.persistent,
    b"R": _Interpreter.reduce,
    b"\x81": _Interpreter.reduce,
    b"\x92": _Interpreter.reduce_with_keywords,
    b"b": lambda m: m.stack.pop(),  # the state of a placeholder, or the metadata of a state dict
    # the version, and frames, which only help to read ahead
    b"\x80": lambda m: m.read(1),
    b"\x95": lambda m: m.read(8),
}
