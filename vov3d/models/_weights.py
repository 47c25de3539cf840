"""Weights in files: read without running code, checked by name, loaded whole or not at all."""

import argparse
import hashlib
import logging
import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from timm.models import adapt_input_conv
from torch import nn

_logger = logging.getLogger(__name__)

StateDict = dict[str, torch.Tensor]
FilterFn = Callable[[StateDict, nn.Module], StateDict]

STEM = "stem.conv_s.weight"
CLASSIFIER = ("head.fc.weight", "head.fc.bias")

# Averaged weights first, as timm prefers them; then PySlowFast and PyTorchVideo, Lightning, and others.
_WRAPPERS = ("state_dict_ema", "model_ema", "model_state", "state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.", "model.")
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_COUNTER = "num_batches_tracked"

# What reading damaged files ends in, between zip, pickle and safetensors.
_UNREADABLE = (
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    SafetensorError,
)


class WeightsError(RuntimeError):
    """Weights could not be had, read, or fitted to the model. Nothing was loaded."""


def some(names: Sequence[str], most: int = 5) -> str:
    """The first few names and how many more there are."""
    more = f", and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def rename(state_dict: StateDict, rules: Sequence[tuple[str, str]], back: bool = False) -> StateDict:
    """Applies rules in order to every name.

    Args:
        state_dict: Tensors by name.
        rules: Pairs of a fragment of a foreign name and of ours; `^` in front holds it to the start of the name, `#`
            stands for a number that both have.
        back: Turns our names into foreign ones.
    """
    patterns = [_rule(*reversed(rule)) if back else _rule(*rule) for rule in rules]
    out = {}
    for name, value in state_dict.items():
        for pattern, replacement in patterns:
            name = pattern.sub(replacement, name)
        out[name] = value
    return out


@cache
def _rule(given: str, wanted: str) -> tuple[re.Pattern[str], str]:
    pattern = re.escape(given).replace(r"\^", "^", 1).replace(r"\#", r"(\d+)")
    return re.compile(pattern), wanted.removeprefix("^").replace("#", r"\1")


# --- files -----------------------------------------------------------------------------------------------------------


def read_state_dict(path: str | Path) -> StateDict:
    """Reads the tensors of a checkpoint, whatever is wrapped around them, without running code.

    safetensors and PyTorch files; `model_state`, `state_dict` or bare tensors; with prefixes of data-parallel or
    compiled models; optimizer state beside them is left alone.

    Args:
        path: The file.

    Returns:
        Tensors by name, on the CPU.

    Raises:
        FileNotFoundError: If there is no such file.
        WeightsError: If it does not hold weights: empty, truncated, a web page, code, other values than finite floats.
    """
    path = Path(path)
    if path.is_dir():
        raise WeightsError(f"{path}: is a folder; load a saved model's folder with create_model('local-dir:{path}')")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such weights file")
    with path.open("rb") as f:
        head = f.read(512)
    if _is_safetensors(head):
        checkpoint = _read_safetensors(path)
    elif problem := _not_weights(head):
        raise WeightsError(f"{path}: {problem}")
    else:
        checkpoint = _read_pickled(path)
    state_dict = _unwrap(path, checkpoint)
    _check_values(path, state_dict)
    return state_dict


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


def _read_safetensors(path: Path) -> StateDict:
    try:
        return safetensors.torch.load_file(path, device="cpu")
    except (SafetensorError, OSError, ValueError) as e:
        raise WeightsError(f"{path}: is truncated or damaged ({e}); download it again") from e


def _read_pickled(path: Path) -> Any:
    try:
        # timm's training checkpoints hold a Namespace of arguments: plain data.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as e:
        raise WeightsError(f"{path}: {_refusal(e)}") from e
    except _UNREADABLE as e:
        raise WeightsError(
            f"{path}: is truncated, damaged or not a PyTorch file ({brief(e)}); download it again"
        ) from e


def _refusal(error: Exception) -> str:
    """Why a safe unpickling stopped: code in the file, or a file that is no pickle at all."""
    text = str(error)
    found = re.search(r"GLOBAL ([\w.]+)", text)
    if not found and "Unsupported class" not in text:
        return f"is truncated, damaged or not a PyTorch file ({brief(error)}); download it again"
    what = f" ({found.group(1)})" if found else ""
    return (
        f"holds more than tensors{what}, and was refused without running any of it; where you trust it, save it again"
        " as torch.save(model.state_dict(), ...) or as safetensors"
    )


def brief(error: BaseException) -> str:
    """An error in one line, without PyTorch's advice to read the file unsafely."""
    advice = ("Weights only load failed", "Check the documentation", "Please file an issue")
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.strip().startswith(advice)]
    return lines[0] if lines else type(error).__name__


def _unwrap(path: Path, checkpoint: Any) -> StateDict:
    if isinstance(checkpoint, Mapping):
        for key in _WRAPPERS:
            if isinstance(checkpoint.get(key), Mapping):
                _logger.info("%s: reading its %r", path, key)
                checkpoint = checkpoint[key]
                break
    if not isinstance(checkpoint, Mapping):
        raise WeightsError(f"{path}: holds a {type(checkpoint).__name__}, not tensors by name")
    others = [str(k) for k, v in checkpoint.items() if not isinstance(v, torch.Tensor)]
    if others or not checkpoint:
        what = f"values that are no tensors: {some(others)}" if others else "no tensors"
        raise WeightsError(f"{path}: holds {what}; expected tensors by name, or one of {', '.join(_WRAPPERS)}")
    return _strip_prefixes({str(k): v for k, v in checkpoint.items()})


def _strip_prefixes(state_dict: StateDict) -> StateDict:
    while prefix := next((p for p in _PREFIXES if all(k.startswith(p) for k in state_dict)), None):
        state_dict = {k.removeprefix(prefix): v for k, v in state_dict.items()}
    return state_dict


def _check_values(path: Path, state_dict: StateDict) -> None:
    counters = (torch.int64, torch.int32, *_FLOATS)
    wrong = [
        f"{k} ({str(v.dtype).removeprefix('torch.')})"
        for k, v in state_dict.items()
        if v.layout != torch.strided or v.dtype not in (counters if k.endswith(_COUNTER) else _FLOATS)
    ]
    if wrong:
        raise WeightsError(f"{path}: expected dense floating-point tensors, got {some(wrong)}")
    broken = [k for k, v in state_dict.items() if v.is_floating_point() and not bool(v.isfinite().all())]
    if broken:
        raise WeightsError(
            f"{path}: holds NaN or infinite values in {some(broken)}; the training that made it diverged"
        )


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
    """Loads every tensor, or raises and loads none.

    The stem is adapted to the model's input channels as timm does it; a classifier of another number of classes is
    left out, so that the model keeps a fresh one.

    Args:
        model: The model.
        state_dict: Tensors in any format that `filter_fn` knows.
        origin: Where the tensors come from, for messages.
        filter_fn: The model family's `checkpoint_filter_fn`.
        adopt_classes: Gives the model the file's number of classes.
        headless: The file is known to hold no classifier.
        explain: Says what the tensors are where they do not fit.

    Raises:
        WeightsError: If tensors are missing, unexpected or of another shape.
    """
    state = filter_fn(dict(state_dict), model)
    _fit_stem(model, state)
    fresh = _fit_classifier(model, state, origin, adopt_classes, headless)
    problems = differences(model, state, ignore=CLASSIFIER if fresh else ())
    if problems:
        raise WeightsError(f"{origin}: {explain(state_dict, model) or '; '.join(problems)}. Nothing was loaded")
    model.load_state_dict(state, strict=not fresh)


def _fit_stem(model: nn.Module, state: StateDict) -> None:
    weight, wanted = state.get(STEM), model.state_dict()[STEM].shape[1]
    if weight is None or weight.ndim != 5 or weight.shape[1] != 3 or wanted == 3:
        return
    # timm adapts 4-D weights only; the temporal size of the stem's spatial kernel is 1.
    state[STEM] = adapt_input_conv(wanted, weight.flatten(2, 3)).unflatten(2, weight.shape[2:4])


def _fit_classifier(model: nn.Module, state: StateDict, origin: str, adopt: bool, headless: bool) -> bool:
    """Whether the model keeps a fresh classifier (or none) instead of the file's."""
    weight = state.get(CLASSIFIER[0])
    if weight is None and not headless:
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
    if wanted:
        _logger.warning("%s: its %d-class head is left out, the model has a fresh one of %d", origin, classes, wanted)
    return True


def digest(model: nn.Module) -> str:
    """SHA-256 of a model's tensors, which tells whether they are still those that were loaded."""
    sha256 = hashlib.sha256()
    for tensor in model.state_dict().values():
        sha256.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return sha256.hexdigest()


def differences(model: nn.Module, state: StateDict, ignore: Sequence[str] = ()) -> list[str]:
    """What keeps tensors from being exactly those of a model, leaving out the names in `ignore`."""
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
