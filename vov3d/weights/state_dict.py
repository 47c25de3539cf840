"""Reads weights from files without running code, checks them by name, and loads all of them or none."""

import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from timm.models import adapt_input_conv
from torch import nn

from vov3d.weights._pickled import CodeError, Placeholder, read_pickled
from vov3d.weights.tensors import (
    DamagedError,
    Described,
    FileError,
    Opener,
    ReadStorage,
    meta,
    read_tensors,
    total_bytes,
)

_logger = logging.getLogger(__name__)

StateDict = dict[str, torch.Tensor]
FilterFn = Callable[[StateDict, nn.Module], StateDict]

STEM = "stem.conv_s.weight"
CLASSIFIER = ("head.fc.weight", "head.fc.bias")

# Averaged weights first, as timm prefers them; then PySlowFast and PyTorchVideo, Lightning, and others.
_WRAPPERS = (
    *("state_dict_ema", "model_ema", "ema_state_dict", "ema", "model_state", "state_dict", "model_state_dict"),
    *("model", "module", "net", "network", "weights"),
)
_MOST_WRAPPED = 4  # nested wrappers
# Parts that wrappers insert into names, at any place.
_INSIDE = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_checkpoint_wrapped_module|_fsdp_wrapped_module|_forward_module)\.")
# How a network's own names begin; anything before is the prefix of a larger model.
_BEGINNINGS = ("stem.conv_s.", "s1.pathway0_stem.conv_xy.", "blocks.0.conv.conv_t.")
# Prefixes and keys of networks that are trained along with the one that is meant, and of its averages.
_OTHERS = re.compile(r"teacher|momentum|target|frozen|reference", re.IGNORECASE)
_AVERAGES = re.compile(r"(?:^|[._])(?:ema|swa|avg|averaged?)(?:[._]|$)", re.IGNORECASE)
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_COUNTER = "num_batches_tracked"
_SAFE_TYPES = {
    "BF16": torch.bfloat16,
    "BOOL": torch.bool,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "U8": torch.uint8,
}

_MOST_TENSORS = 10_000  # X3D-L has 1,500
_LONGEST_NAME = 500
_MOST_DIMENSIONS = 8
_MOST_SHARDS = 1000
INDEX_SUFFIX = ".safetensors.index.json"
_MOST_SHARED = 4  # largest ratio of the tensors' memory to their file's size


class WeightsError(RuntimeError):
    """Weights could not be found, read, or fitted to the model. Nothing was loaded."""


def some(names: Sequence[str], most: int = 5) -> str:
    """Lists the first few names and how many more there are."""
    more = f", and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def rename(state_dict: StateDict, rules: Sequence[tuple[str, str]], back: bool = False) -> StateDict:
    """Applies rules in order to every name.

    Args:
        state_dict: Tensors by name.
        rules: Pairs of a fragment of a foreign name and of ours; `^` in front matches the start of the name only, `#`
            matches a number that both have.
        back: Turns our names into foreign ones.

    Raises:
        WeightsError: If two names become one.
    """
    patterns = [_rule(*reversed(rule)) if back else _rule(*rule) for rule in rules]
    out: StateDict = {}
    given: dict[str, str] = {}
    for old, value in state_dict.items():
        new = old
        for pattern, replacement in patterns:
            new = pattern.sub(replacement, new)
        if new in out:
            raise WeightsError(f"{given[new]} and {old} are two names of one tensor, in the formats of two codebases")
        out[new], given[new] = value, old
    return out


@cache
def _rule(given: str, wanted: str) -> tuple[re.Pattern[str], str]:
    pattern = re.escape(given).replace(r"\^", "^", 1).replace(r"\#", r"(\d+)")
    return re.compile(pattern), wanted.removeprefix("^").replace("#", r"\1")


# --- files -----------------------------------------------------------------------------------------------------------


class FileTensors(dict[str, torch.Tensor]):
    """Tensors of a file by name, on the meta device: types and shapes only, values are not read yet.

    Args:
        path: The file.
        tensors: Its tensors.
        opener: Opens it to read their values.
        note: Their place in the file, for messages; empty if the file has nothing else.
    """

    def __init__(self, path: Path, tensors: Mapping[str, Described], opener: Opener, note: str = "") -> None:
        super().__init__(meta(tensors))
        self._path = path
        self._tensors = tensors
        self._opener = opener
        self.note = note

    def read(self) -> StateDict:
        """Reads the tensors with their values, on the CPU.

        Raises:
            WeightsError: If the file is damaged, or values are not finite.
        """
        with _errors_of(self._path):
            found = read_tensors(self._tensors, self._opener)
        broken = [k for k, v in found.items() if v.is_floating_point() and not bool(v.isfinite().all())]
        if broken:
            raise WeightsError(
                f"{self._path}: holds NaN or infinite values in {some(broken)}; the training that made it diverged"
            )
        return found


def read_state_dict(path: str | Path) -> StateDict:
    """Reads the tensors of a checkpoint, in any known wrapper, without running code.

    Args:
        path: The file, of any kind that `open_weights` reads.

    Returns:
        Tensors by name, on the CPU.

    Raises:
        FileNotFoundError: If there is no such file.
        WeightsError: If it does not hold weights, or values that are not finite floats.
    """
    return open_weights(path).read()


def open_weights(path: str | Path) -> FileTensors:
    """Reads names, types and shapes of a checkpoint's tensors, in any known wrapper, without running code.

    It takes safetensors and PyTorch files; `model_state`, `state_dict` and similar keys, or tensors without a key;
    names of data-parallel, compiled or averaged models, or of a part of a larger one. Optimizer state, arguments and
    other networks in the file are ignored.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: If there is no such file.
        WeightsError: If it does not hold weights: empty, truncated, a web page, code, types other than floats.
    """
    path = Path(path)
    if path.is_dir():
        if (path / ".metadata").is_file():
            raise WeightsError(
                f"{path}: is a checkpoint of torch.distributed; make a file of it, dcp_to_torch_save(folder, file) of"
                " torch.distributed.checkpoint.format_utils"
            )
        raise WeightsError(f"{path}: is a folder; load a saved model's folder with create_model('local-dir:{path}')")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such weights file")
    with path.open("rb") as f:
        head = f.read(512)
    with _errors_of(path):
        content, opener = _read_content(path, head)
        wrapped, notes = _unwrap(content)
        tensors, prefix = _network_of(_plain_names(wrapped))
        _check(tensors, sum(part.stat().st_size for part in _parts(path)))
    notes += [prefix] if prefix else []
    if notes:
        _logger.info("%s: reading %s", path, ", ".join(notes))
    return FileTensors(path, tensors, opener, ", ".join(notes))


@contextmanager
def _errors_of(path: Path) -> Iterator[None]:
    """Turns any error of reading a damaged or hostile file into one that names the file."""
    try:
        yield
    except CodeError as e:
        raise WeightsError(f"{path}: {_refusal(str(e))}") from e
    except FileError as e:
        raise WeightsError(f"{path}: {e}") from e
    except Exception as e:
        raise WeightsError(f"{path}: {DamagedError(brief(e))}") from e


def _read_content(path: Path, head: bytes) -> tuple[Any, Opener]:
    if path.name.endswith(INDEX_SUFFIX):
        return _read_shards(path)
    if _is_safetensors(head):
        return _read_safetensors(path)
    if problem := _not_weights(head):
        raise FileError(problem)
    return read_pickled(path, head)


def _is_safetensors(head: bytes) -> bool:
    # Eight bytes of header length, which the format limits to 100 MB, then a JSON object.
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= 100_000_000


def _not_weights(head: bytes) -> str | None:
    text = head.lstrip().lower()
    if not head:
        return "is empty (0 bytes); download it again"
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "is a web page, not weights; the link behind it no longer serves the file, or wants a log-in"
    if text.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the weights; run 'git lfs pull'"
    if text.startswith((b"{", b"[")):
        return "is JSON text, not weights; perhaps the error message of a server"
    return None


def _read_safetensors(path: Path) -> tuple[dict[str, Described], Opener]:
    tensors = {}
    with _opened_safetensors(path) as file:
        names = file.keys()
        if len(names) > _MOST_TENSORS:
            raise FileError(_too_many(len(names)))
        for name in names:
            part = file.get_slice(name)
            dtype = _SAFE_TYPES.get(part.get_dtype())
            kind = "strided" if dtype else f"of type {part.get_dtype()}"
            tensors[name] = Described(dtype or torch.float32, tuple(part.get_shape()), name, kind=kind)
    for name, one in tensors.items():
        if len(one.shape) <= _MOST_DIMENSIONS:  # others are rejected later
            tensors[name] = replace(one, stride=_contiguous(one.shape))

    @contextmanager
    def opener() -> Iterator[ReadStorage]:
        with _opened_safetensors(path) as file:
            yield lambda name: _bytes_of(file, name)

    return tensors, opener


@contextmanager
def _opened_safetensors(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            yield file
    except SafetensorError as e:
        raise FileError(f"is truncated or damaged ({brief(e)}); download it again") from e


def shards(index: Path) -> list[Path]:
    """Returns the files that an index of sharded weights names.

    Raises:
        FileError: If it is no such index, or names files in other folders.
    """
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
        names = sorted(set(content["weight_map"].values()))
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as e:
        raise FileError(f"is no index of safetensors files ({e!r:.100})") from e
    plain = re.compile(r"\w[\w.-]{0,200}\.safetensors")
    if not 0 < len(names) <= _MOST_SHARDS or not all(plain.fullmatch(name) for name in names):
        raise FileError(
            f"is no index of 1 to {_MOST_SHARDS} safetensors files beside it; it names {some(names)!r:.200}"
        )
    return [index.with_name(name) for name in names]


def _parts(path: Path) -> list[Path]:
    return shards(path) if path.name.endswith(INDEX_SUFFIX) else [path]


def _read_shards(index: Path) -> tuple[dict[str, Described], Opener]:
    """Reads the tensors of all files of an index."""
    tensors: dict[str, Described] = {}
    places: dict[str, Path] = {}
    for path in shards(index):
        if not path.is_file():
            raise FileError(f"names {path.name}, which is not there")
        part, _ = _read_safetensors(path)
        if twice := sorted(part.keys() & tensors.keys()):
            raise FileError(f"names two files that both hold {some(twice)}")
        tensors |= part
        places |= dict.fromkeys(part, path)

    @contextmanager
    def opener() -> Iterator[ReadStorage]:
        with ExitStack() as stack:
            files = {path: stack.enter_context(_opened_safetensors(path)) for path in set(places.values())}
            yield lambda name: _bytes_of(files[places[name]], name)

    return tensors, opener


def _bytes_of(file: Any, name: str) -> bytes:
    with torch.device("cpu"):  # else older releases of safetensors take the default device
        tensor = file.get_tensor(name)
    return tensor.flatten().view(torch.uint8).numpy().tobytes()


def _contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(prod(shape[i + 1 :]) for i in range(len(shape)))


def _refusal(name: str) -> str:
    if name.startswith("torch.distributed."):
        return (
            f"holds tensors that are spread over processes ({shown(name)}); save them gathered, by"
            " torch.distributed.checkpoint.state_dict.get_model_state_dict with full_state_dict=True"
        )
    return (
        f"holds more than tensors ({shown(name)}), and was refused without running any of it; if you trust it,"
        " save it again with torch.save(model.state_dict(), ...) or as safetensors"
    )


def brief(error: BaseException) -> str:
    """Returns the first line of an error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


# --- the network in a file --------------------------------------------------------------------------------


def _unwrap(content: Any) -> tuple[Mapping[str, Described], list[str]]:
    """Returns the innermost mapping that holds tensors, and the keys that lead to it."""
    notes: list[str] = []
    for _ in range(_MOST_WRAPPED):
        inner = _wrappers_in(content) if isinstance(content, dict) else []
        if "state_dict" in inner and "message_hub" in content:
            inner = ["state_dict"]  # MMEngine's EMA hook puts the averages there, and what was trained in their place
        if not inner:
            break
        notes.append(f"its {inner[0]!r}" + (f" (others: {', '.join(inner[1:])})" if len(inner) > 1 else ""))
        content = content[inner[0]]
    if isinstance(content, Placeholder):
        raise CodeError(content.name)
    if not isinstance(content, dict):
        raise FileError(f"holds one {type(content).__name__}, not tensors by name")
    if len(content) > _MOST_TENSORS:
        raise FileError(_too_many(len(content)))
    others = [key for key, value in content.items() if not isinstance(value, Described)]
    whole = [content[key] for key in others if key in _WRAPPERS and isinstance(content[key], Placeholder)]
    if whole:
        raise CodeError(whole[0].name)
    if others or not content:
        what = f"values that are not tensors: {some(list(map(shown, others)))}" if others else "no tensors"
        if notes:
            raise FileError(
                f"{', '.join(notes)} holds {what}; save the part with the weights alone: torch.save(content[KEY], ...)"
            )
        raise FileError(f"holds {what}; expected tensors by name, or one of {', '.join(_WRAPPERS)}")
    return content, notes


def _wrappers_in(content: Mapping[Any, Any]) -> list[str]:
    """Returns the keys under which a mapping holds weights, the one that is meant first."""
    known = [key for key in _WRAPPERS if isinstance(content.get(key), dict)]
    averages = [
        key
        for key, value in content.items()
        if isinstance(key, str) and _AVERAGES.search(key) and not _OTHERS.search(key) and _is_wrapped(value)
    ]
    named = len(averages) == 1 and not any(map(_AVERAGES.search, known))  # by a key of the user's, as in swa_model
    return averages + known if named else known


def _is_wrapped(content: Any) -> bool:
    """Returns whether a value is a network's tensors by name, as they are or under one more key."""
    parts = [content, *content.values()] if isinstance(content, dict) else []
    keys = [key for part in parts if isinstance(part, dict) for key in part]
    names = [_INSIDE.sub("", key) for key in keys if isinstance(key, str)]
    return any(_begins(name, beginning) for name in names for beginning in _BEGINNINGS)


def _too_many(count: int) -> str:
    return f"holds {count:,} entries by name, more than the {_MOST_TENSORS:,} that a network of this package can have"


def shown(name: object) -> str:
    """Returns a name from a file for a message: short, and without control characters."""
    text = name if isinstance(name, str) else repr(name) if isinstance(name, int | float | None) else "a name"
    return text if len(text) <= 80 and text.isprintable() else ascii(text[:80]) + "..." * (len(text) > 80)


def _plain_names(tensors: Mapping[str, Described]) -> dict[str, Described]:
    """Removes the parts that compiled and sharded modules insert into names."""
    out: dict[str, Described] = {}
    for name, value in tensors.items():
        if not isinstance(name, str) or len(name) > _LONGEST_NAME or not name.isprintable():
            raise FileError(f"holds a tensor named {shown(name)}, which no network has")
        plain = _INSIDE.sub("", name)
        if plain in out:
            raise FileError(f"holds {plain} twice, once behind a wrapper's name")
        out[plain] = value
    return out


def _network_of(tensors: dict[str, Described]) -> tuple[dict[str, Described], str]:
    """Returns the tensors of one network without their common prefix, and the prefix for messages.

    Raises:
        FileError: If there are several networks, and their names do not show which one is meant.
    """
    prefixes = sorted({name[: name.find(b)] for name in tensors for b in _BEGINNINGS if _begins(name, b)})
    if len(prefixes) > 1:
        own = [prefix for prefix in prefixes if not _OTHERS.search(prefix)]
        meant, averages = ([p for p in own if bool(_AVERAGES.search(p)) is wanted] for wanted in (False, True))
        if len(meant) != 1:
            raise FileError(
                f"holds {len(prefixes)} networks, under {some([repr(p) for p in prefixes])}; save only the one that you"
                " mean: torch.save({name.removeprefix(prefix): tensor for those that begin with it}, ...)"
            )
        meant = averages if len(averages) == 1 else meant
        others = tuple(prefix for prefix in prefixes if prefix not in meant)
        tensors = {name: value for name, value in tensors.items() if meant[0] or not name.startswith(others)}
        prefixes = meant
    prefix = prefixes[0] if prefixes else _common_prefix(tensors)
    beside = sorted({name.split(".")[0] for name in tensors if not name.startswith(prefix)})
    if not prefix:
        return tensors, ""
    note = f"the tensors under {prefix!r}" + (f" (others: {some(beside)})" if beside else "")
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}, note


def _begins(name: str, beginning: str) -> bool:
    at = name.find(beginning)
    return at == 0 or (at > 0 and name[at - 1] == ".")


def _common_prefix(tensors: Mapping[str, Described]) -> str:
    """Returns `module.`, `model.` or both, if all names begin with them."""
    prefix = ""
    while more := next((p for p in ("module.", "model.") if all(n.startswith(prefix + p) for n in tensors)), None):
        prefix += more
    return prefix


def _check(tensors: Mapping[str, Described], size: int) -> None:
    counters = (torch.int64, torch.int32, *_FLOATS)
    deep = [name for name, v in tensors.items() if len(v.shape) > _MOST_DIMENSIONS]
    if deep:
        raise FileError(f"holds tensors of more than {_MOST_DIMENSIONS} dimensions: {some(deep)}")
    wrong = [
        f"{k} ({v.kind if v.kind != 'strided' else str(v.dtype).removeprefix('torch.')})"
        for k, v in tensors.items()
        if v.kind != "strided" or v.dtype not in (counters if k.endswith(_COUNTER) else _FLOATS)
    ]
    if wrong:
        raise FileError(f"expected dense floating-point tensors, got {some(wrong)}")
    total = total_bytes(tensors.values())
    if total > _MOST_SHARED * size:
        large = max(tensors, key=lambda name: tensors[name].nbytes)
        raise FileError(f"has {size:,} bytes, but its tensors (the largest is {large}) would take {total:,}")


# --- into a model ----------------------------------------------------------------------------------------------------


def load_weights(
    model: nn.Module,
    state_dict: StateDict,
    origin: str,
    filter_fn: FilterFn,
    *,
    adopt_classes: bool = False,
    headless: bool = False,
    explain: Callable[[StateDict, nn.Module], str | None] = lambda state_dict, model: None,
) -> None:
    """Loads every tensor, or raises an error and loads none.

    The stem is adapted to the model's input channels as in timm; a classifier of another number of classes is left
    out, so that the model keeps a fresh one.

    Args:
        model: The model.
        state_dict: Tensors in any format that `filter_fn` knows.
        origin: Source of the tensors, for messages.
        filter_fn: The model family's `checkpoint_filter_fn`.
        adopt_classes: Gives the model the file's number of classes.
        headless: The file is known to hold no classifier.
        explain: Describes tensors that do not fit.

    Raises:
        WeightsError: If tensors are missing, unexpected or of another shape.
    """
    origin = f"{origin}: {note}" if (note := getattr(state_dict, "note", "")) else origin
    state, fresh = _fitted(model, state_dict, origin, filter_fn, adopt_classes, headless)
    problems = differences(model, state, ignore=CLASSIFIER if fresh else ())
    if problems:
        why = explain(state_dict, model) or _explain_names(state_dict) or "; ".join(problems)
        raise WeightsError(f"{origin}: {why}. Nothing was loaded")
    if isinstance(state_dict, FileTensors):  # read values only once the shapes fit
        state, fresh = _fitted(model, state_dict.read(), origin, filter_fn, adopt_classes, headless, quiet=True)
    _check_range(model, state, origin)
    model.load_state_dict(state, strict=not fresh)


def _fitted(
    model: nn.Module,
    state_dict: StateDict,
    origin: str,
    filter_fn: FilterFn,
    adopt: bool,
    headless: bool,
    quiet: bool = False,
) -> tuple[StateDict, bool]:
    """Returns the tensors under the model's names, and whether it keeps a fresh classifier."""
    try:
        state = filter_fn(dict(state_dict), model)
    except WeightsError as e:
        raise WeightsError(f"{origin}: {e}. Nothing was loaded") from e
    _fit_stem(model, state)
    _fit_counters(model, state)
    return state, _fit_classifier(model, state, origin, adopt, headless, quiet)


def _explain_names(state_dict: StateDict) -> str | None:
    """Describes tensors that were saved without a part of the network, or by another codebase."""
    if any(re.match(r"stages_\d+\.", name) for name in state_dict):
        return (
            "holds the state of a model made with features_only=True, which has no head; load it with"
            " create_model(..., features_only=True).load_state_dict(...)"
        )
    parts = sorted({name.split(".")[0] for name in state_dict})
    if {"backbone", "cls_head"} <= set(parts):
        return (
            "holds a recognizer of MMAction2 ('backbone.', 'cls_head.'); load it with MMAction2, or save the state of"
            " its backbone's model"
        )
    return None


def _check_range(model: nn.Module, state: StateDict, origin: str) -> None:
    """Raises WeightsError for values that the model's type cannot hold, which would become infinite or arbitrary."""
    own = model.state_dict()
    lost = [k for k, v in state.items() if k in own and v.is_floating_point() and not _holds(own[k].dtype, v)]
    if lost:
        dtype = str(own[lost[0]].dtype).removeprefix("torch.")
        raise WeightsError(f"{origin}: holds values in {some(lost)} that {dtype} cannot hold. Nothing was loaded")


def _holds(dtype: torch.dtype, value: torch.Tensor) -> bool:
    if dtype == value.dtype:
        return True
    return bool(value.to(dtype).isfinite().all() if dtype.is_floating_point else (value.abs() < 2**62).all())


def _fit_stem(model: nn.Module, state: StateDict) -> None:
    weight, wanted = state.get(STEM), model.state_dict()[STEM].shape[1]
    if weight is None or weight.ndim != 5 or weight.shape[1] != 3 or wanted == 3:
        return
    # timm adapts 4-D weights only; the temporal size of the stem's spatial kernel is 1.
    state[STEM] = adapt_input_conv(wanted, weight.flatten(2, 3)).unflatten(2, weight.shape[2:4])


def _fit_counters(model: nn.Module, state: StateDict) -> None:
    """Adds the counters of batch norms where a file has none, as PyTorch does: many tools leave them out."""
    counters = {name: value for name, value in model.state_dict().items() if name.endswith(_COUNTER)}
    if not any(name in state for name in counters):
        state.update({name: torch.zeros_like(value) for name, value in counters.items()})


def _fit_classifier(model: nn.Module, state: StateDict, origin: str, adopt: bool, headless: bool, quiet: bool) -> bool:
    """Fits the classifier; returns whether the model keeps a fresh one (or none) instead of the file's."""
    weight = state.get(CLASSIFIER[0])
    if (weight is None and not headless) or (weight is not None and (weight.ndim != 2 or not weight.numel())):
        return False
    own = model.state_dict().get(CLASSIFIER[0])
    classes, wanted = (0 if t is None else t.shape[0] for t in (weight, own))
    if classes == wanted:
        return False
    if adopt:
        model.reset_classifier(classes)  # type: ignore[operator]
        return False
    for name in CLASSIFIER:
        state.pop(name, None)
    if wanted and not quiet:
        _logger.warning("%s: its %d-class head is left out, the model has a fresh one of %d", origin, classes, wanted)
    return True


def digest(model: nn.Module) -> str:
    """Returns the SHA-256 of a model's tensors, which shows whether they are still those that were loaded."""
    sha256 = hashlib.sha256()
    for tensor in model.state_dict().values():
        sha256.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return sha256.hexdigest()


def differences(model: nn.Module, state: StateDict, ignore: Sequence[str] = ()) -> list[str]:
    """Lists the differences of tensors from those of a model, without the names in `ignore`."""
    own = {k: v for k, v in model.state_dict().items() if k not in ignore}
    missing = [k for k in own if k not in state]
    unexpected = [k for k in state if k not in own]
    misshapen = [
        f"{k} (is {tuple(state[k].shape)}, should be {tuple(v.shape)})"
        for k, v in own.items()
        if k in state and state[k].shape != v.shape
    ]
    found = (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen))
    return [f"{len(names)} tensor{'s' * (len(names) > 1)} {what}: {some(names)}" for what, names in found if names]
