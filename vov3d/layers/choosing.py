"""The choice of the fastest of several equal computations on a GPU, by measuring each once.

The first call with a new shape, precision, memory format and device measures every form and keeps the fastest, as
cuDNN's benchmark mode does. A form is trusted only if its results, and its gradients in training, agree with a
reference in float64: some releases of cuDNN convolve wrongly in bfloat16 (PyTorch issue 163539).

Nothing is measured on CPUs, where rules apply (`vov3d/layers/conv.py`), nor while a computation is traced, compiled or
captured as a CUDA graph, nor in PyTorch's deterministic mode, as the choice depends on time.
"""

import json
import os
import statistics
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

from vov3d.files import alone_in, replacing
from vov3d.layers._shifted import in_autocast
from vov3d.layers.conv_forms import FORMS, KINDS, PLAIN, Conv, fitting, is_channels_last, run
from vov3d.layers.conv_reference import Reference

MEASURED = {"cuda"}
"""Types of devices on which forms are measured."""

ROUNDS = 5
"""Timed calls of each form, which take turns."""

GAIN = 0.97
"""A form replaces the first only if it takes less than this share of its time, so that noise decides nothing."""

MAX_SIZES = 32
"""Sizes of clips for which one convolution is measured; others get the form that these chose most often."""

AUTO = "auto"
_VARIABLE, _FILE_VARIABLE = "VOV3D_CONV_FORMS", "VOV3D_CONV_FORMS_CACHE"
_FORMAT, _VERSION = "vov3d conv forms", 1

Outputs = Sequence[torch.Tensor]
Candidates = Mapping[str, Callable[[], Outputs]]


class Clock(Protocol):
    """Times calls on a device."""

    def __call__(self, name: str, call: Callable[[], object]) -> float:
        """Returns the seconds of one call of the candidate `name`."""
        ...


def event_clock(name: str, call: Callable[[], object]) -> float:
    """Returns the seconds of a call on the current GPU, by its events."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3


class Choice(NamedTuple):
    """A measured choice.

    Attributes:
        form: The name of the chosen candidate.
        seconds: The median time of each candidate that ran and was right.
        refused: The reason against each of the others.
    """

    form: str
    seconds: dict[str, float]
    refused: dict[str, str]


def measured(candidates: Candidates, wrong: Callable[[Outputs], str | None], clock: Clock) -> Choice:
    """Checks and times candidates; the first is kept unless another is clearly faster.

    Args:
        candidates: Calls by name, which return the tensors to check.
        wrong: Returns what is wrong with results, None if they are right.
        clock: Times one call.
    """
    refused: dict[str, str] = {}
    for name, call in candidates.items():
        try:
            complaint = wrong(call())
        except Exception as e:  # out of memory, no kernel for this precision, a compiler that is missing
            complaint = (str(e).splitlines() or [type(e).__name__])[0]
        if complaint:
            refused[name] = complaint
    right = [name for name in candidates if name not in refused]
    times: dict[str, list[float]] = {name: [] for name in right}
    for _ in range(ROUNDS):
        for name in right:
            times[name].append(clock(name, candidates[name]))
    seconds = {name: statistics.median(values) for name, values in times.items()}
    form = next(iter(seconds), next(iter(candidates)))
    fastest = min(seconds, key=seconds.__getitem__, default=form)
    if seconds and seconds[fastest] < GAIN * seconds[form]:
        form = fastest
    return Choice(form, seconds, refused)


class Chooser:
    """Keeps measured choices in memory and, if asked to, in a file.

    Attributes:
        clock: Times one call.
    """

    def __init__(self, clock: Clock = event_clock) -> None:
        self.clock = clock
        self._known: dict[Hashable, str] = {}
        self._sizes: dict[Hashable, Counter[str]] = {}
        self._stored: dict[str, str] = {}
        self._file: Path | None = None
        self._warned: set[str] = set()

    def known(self, key: Hashable) -> str | None:
        """Returns the choice for a key, None if there is none yet."""
        return self._known.get(key)

    def use_file(self, path: Path | None) -> None:
        """Keeps choices in a file from now on, and takes over those that it has.

        Raises:
            ValueError: If the file is not one that this function's choices are kept in.
        """
        self._stored = {} if path is None else {_identity(row["case"]): row["form"] for row in _read(path)}
        self._file = path

    def choose(
        self,
        key: Hashable,
        like: Hashable,
        case: Callable[[], dict[str, Any]] | None,
        candidates: Candidates,
        wrong: Callable[[Outputs], str | None],
    ) -> str:
        """Measures candidates, or takes the choice from the file.

        Args:
            key: What the choice depends on.
            like: The same without the sizes of the clips.
            case: Returns the same as a dictionary for the file; None keeps the choice out of it.
            candidates: Calls by name; the first is the plain form.
            wrong: Returns what is wrong with results, None if they are right.
        """
        sizes = self._sizes.setdefault(like, Counter())
        stored = self._stored.get(_identity(case())) if self._stored and case else None
        if stored is not None and stored in candidates:
            form = stored
        elif sizes.total() >= MAX_SIZES:
            form = next((name for name, _ in sizes.most_common() if name in candidates), next(iter(candidates)))
        else:
            choice = _undisturbed(lambda: measured(candidates, wrong, self.clock))
            form = choice.form
            sizes[form] += 1
            if case is not None:
                self._warn(case(), choice)
                if self._file is not None and choice.seconds:
                    _add(self._file, case(), choice)
        self._known[key] = form
        return form

    def _warn(self, case: dict[str, Any], choice: Choice) -> None:
        """Warns once of each form that gives wrong results in a precision."""
        for name, reason in choice.refused.items():
            text = f"{name} in {case['dtype']}"
            if reason.startswith("differs") and text not in self._warned:
                self._warned.add(text)
                instead = f"{choice.form} is used instead" if choice.seconds else "no other form is right here"
                warnings.warn(
                    f"{text} gives wrong results on {case['device']} with PyTorch {case['torch']}: it {reason};"
                    f" {instead}. This is a fault of PyTorch or cuDNN; another version of them may be right",
                    RuntimeWarning,
                    stacklevel=2,
                )


def _undisturbed(call: Callable[[], Choice]) -> Choice:
    """Runs a call in a thread of its own, on the same device and stream.

    Contexts of the caller belong to its thread: without them, checkpointing saves no tensors of the measurement, and
    autocast and counters of operations do not see it.
    """
    result: list[Choice] = []
    errors: list[BaseException] = []
    grad, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    stream = torch.cuda.current_stream() if torch.cuda.is_available() else None

    def target() -> None:
        try:
            with torch.inference_mode(inference), torch.set_grad_enabled(grad):
                if stream is None:
                    result.append(call())
                else:
                    with torch.cuda.device(stream.device), torch.cuda.stream(stream):
                        result.append(call())
        except BaseException as e:
            errors.append(e)

    thread = threading.Thread(target=target, name="vov3d-choosing")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return result[0]


# --- the file --------------------------------------------------------------------------------------------------------


def _identity(case: Mapping[str, Any]) -> str:
    return json.dumps(case, sort_keys=True)


def _read(path: Path) -> list[dict[str, Any]]:
    """Reads the rows of a file; none if there is no file.

    Raises:
        ValueError: If it is not such a file.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != _FORMAT or content["version"] != _VERSION:
            raise ValueError(f"it is of format {content['format']!r}, version {content['version']!r}")
        rows = content["choices"]
        if not all(isinstance(row["form"], str) and isinstance(row["case"], dict) for row in rows):
            raise ValueError("a choice has no form or no case")
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        reason = f"it has no {e}" if isinstance(e, KeyError) else str(e)
        raise ValueError(
            f"{path} is no file of choices, {_FORMAT!r} of version {_VERSION}: {reason}; name another file, or delete"
            " this one to measure again"
        ) from e
    return rows


def _add(path: Path, case: dict[str, Any], choice: Choice) -> None:
    """Adds a choice to a file, to which other processes may be adding theirs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with alone_in(path.parent):
        rows = [row for row in _read(path) if row["case"] != case]
        milliseconds = {name: round(1e3 * s, 5) for name, s in choice.seconds.items()}
        rows.append({"case": case, "form": choice.form, "milliseconds": milliseconds, "refused": choice.refused})
        with replacing(path) as draft:
            content = {"format": _FORMAT, "version": _VERSION, "choices": rows}
            draft.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def conditions(device: torch.device) -> dict[str, Any]:
    """Returns the device and the versions of the libraries, on which a measurement depends."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {"device": name, "torch": torch.__version__, "cudnn": torch.backends.cudnn.version()}


# --- settings --------------------------------------------------------------------------------------------------------


class _Policy(NamedTuple):
    """The form of each kind of kernel, `AUTO` for the measured one."""

    point: str = AUTO
    spatial: str = AUTO
    temporal: str = AUTO
    whole: str = AUTO


def _policy(forms: str | Mapping[str, str]) -> _Policy:
    """Returns the policy for a form or for forms by kind of kernel.

    Raises:
        ValueError: If a kind or a form is unknown.
    """
    by_kind = dict(forms) if isinstance(forms, Mapping) else dict.fromkeys(KINDS, forms)
    for kind, form in by_kind.items():
        if kind not in KINDS:
            raise ValueError(f"{kind!r} is no kind of convolution; use {', '.join(KINDS)}")
        if form != AUTO and form not in FORMS:
            raise ValueError(f"{form!r} is no form of a convolution; use {', '.join((AUTO, *FORMS))}")
    return _Policy(**by_kind)


def _parsed(text: str) -> str | dict[str, str]:
    """Returns a form, or forms by kind from `spatial=conv2d,temporal=shifted`."""
    if "=" not in text:
        return text.strip()
    pairs = (part.partition("=") for part in text.split(","))
    return {kind.strip(): form.strip() for kind, _, form in pairs}


_chooser = Chooser()


def _from_environment() -> _Policy | ValueError:
    """Returns what the environment sets, or the error that it contains, to be raised by the first use."""
    text, file = os.environ.get(_VARIABLE, AUTO), os.environ.get(_FILE_VARIABLE)
    try:
        policy = _policy(_parsed(text))
    except ValueError as e:
        return ValueError(f"environment variable {_VARIABLE}={text!r}: {e}")
    try:
        _chooser.use_file(Path(file) if file else None)
    except ValueError as e:
        return ValueError(f"environment variable {_FILE_VARIABLE}={file!r}: {e}")
    return policy


_policy_now = _from_environment()


def _current() -> _Policy:
    if isinstance(_policy_now, ValueError):
        raise _policy_now
    return _policy_now


def set_conv_forms(
    forms: str | Mapping[str, str] = AUTO, *, cache: str | os.PathLike[str] | None = None
) -> AbstractContextManager[None]:
    """Sets the form in which convolutions run on GPUs; on CPUs rules choose it.

    Takes effect at once; as a context manager, until the end of the block. The environment variables VOV3D_CONV_FORMS
    (such as `conv3d` or `spatial=conv2d,temporal=shifted`) and VOV3D_CONV_FORMS_CACHE set the same for a process.

    `"auto"` measures: the first clip of each shape, precision and memory format takes longer. Compiled and exported
    models, CUDA graphs, and PyTorch's deterministic modes (`torch.use_deterministic_algorithms`,
    `torch.backends.cudnn.deterministic`) get `"conv3d"` instead of measurements; a graph gets what was measured before
    its capture.

    Args:
        forms: `"auto"`, a form of `vov3d.layers.conv_forms.FORMS`, or a dictionary of them by kind of kernel: `point`
            (1 x 1 x 1), `spatial` (1 x k x k), `temporal` (t x 1 x 1), `whole` (t x k x k); other kinds are `"auto"`.
            A convolution that a form cannot compute runs as `"conv3d"`.
        cache: JSON file in which measured choices are kept for later processes. They are used on the same GPU with the
            same versions of PyTorch and cuDNN.

    Returns:
        A context manager that restores the former setting.

    Raises:
        ValueError: If a kind or a form is unknown, or the file is not one of choices.
    """
    global _policy_now
    policy = _policy(forms)
    before = (_policy_now, _chooser._file, _chooser._stored)
    _chooser.use_file(None if cache is None else Path(cache))
    _policy_now = policy
    return _restoring(*before)


@contextmanager
def _restoring(policy: _Policy | ValueError, file: Path | None, stored: dict[str, str]) -> Iterator[None]:
    global _policy_now
    try:
        yield
    finally:
        _policy_now, _chooser._file, _chooser._stored = policy, file, stored


# --- convolutions ----------------------------------------------------------------------------------------------------


def _is_fixed() -> bool:
    """Returns whether PyTorch is in a deterministic mode, where no choice may depend on time."""
    return torch.are_deterministic_algorithms_enabled() or torch.backends.cudnn.deterministic


def on(device: torch.device) -> AbstractContextManager[object]:
    """Makes a GPU the current one, on which events are recorded and kernels start."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def is_captured() -> bool:
    """Returns whether the current stream is captured as a CUDA graph."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def rounds_to_tf32() -> tuple[bool, bool]:
    """Returns whether float32 convolutions and matrix products may round their inputs to 10 bits."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    if hasattr(cudnn, "conv") and hasattr(matmul, "fp32_precision"):  # new in torch 2.9
        return cudnn.conv.fp32_precision == "tf32", matmul.fp32_precision == "tf32"
    return cudnn.allow_tf32, matmul.allow_tf32


def convolve(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> torch.Tensor:
    """Convolves a clip in the form that is set or measured.

    Args:
        x: `(B, C, T, H, W)`, contiguous or channels-last, not empty.
        weight: `(O, C / groups, t, k, k)`.
        bias: `(O,)`.
        stride: Of time, which is 1, height and width.
        padding: Zeros on both sides.
        dilation: Of each axis.
        groups: Groups of channels.
    """
    x, weight, bias = in_autocast(x), in_autocast(weight), None if bias is None else in_autocast(bias)
    conv = Conv(tuple(weight.shape), tuple(stride), tuple(padding), tuple(dilation), groups)
    return run(_name(x, weight, bias, conv), x, weight, bias, conv)


def _name(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, conv: Conv) -> str:
    """Returns the form for a convolution."""
    policy, last = _current(), is_channels_last(x)
    form: str = getattr(policy, conv.kind)
    if form != AUTO:
        fits = FORMS[form].fits(conv, last) and min(conv.lengths(tuple(x.shape[2:]))) > 0
        return form if fits else PLAIN
    if torch.compiler.is_compiling() or _is_fixed():
        return PLAIN
    grads = (x.requires_grad, weight.requires_grad) if torch.is_grad_enabled() else (False, False)
    tf32 = rounds_to_tf32() if x.dtype == torch.float32 else (False, False)
    like = (x.device, x.dtype, last, conv, bias is None, grads, tf32)
    known = _chooser.known((x.shape, *like))
    if known is not None:
        return known
    if is_captured() or weight.dtype != x.dtype or min(conv.lengths(tuple(x.shape[2:]))) < 1:
        return PLAIN  # the last two raise PyTorch's own error
    return _measure(x.detach(), weight.detach(), bias, conv, last, grads, tf32, like)


def _measure(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    conv: Conv,
    last: bool,
    grads: tuple[bool, bool],
    tf32: tuple[bool, bool],
    like: tuple[Hashable, ...],
) -> str:
    names = fitting(conv, last)
    if tf32[1] and not tf32[0]:
        names = [name for name in names if name != "matmul"]  # less precise than a convolution is to be

    def case() -> dict[str, Any]:
        sizes = {"clip": list(x.shape), "channels_last": last, "kernel": list(conv.kernel), "bias": bias is not None}
        settings = {"stride": list(conv.stride), "padding": list(conv.padding), "dilation": list(conv.dilation)}
        more = {"groups": conv.groups, "gradients": list(grads), "dtype": str(x.dtype).removeprefix("torch.")}
        return conditions(x.device) | {"what": "convolution"} | sizes | settings | more | {"tf32": list(tf32)}

    reference = Reference(x, weight, bias, conv, grads, tf32[0])
    candidates = {name: reference.call(name) for name in names}
    with on(x.device):
        return _chooser.choose((x.shape, *like), like, case, candidates, reference.wrong)


def choose(
    key: Hashable,
    like: Hashable,
    case: Callable[[], dict[str, Any]] | None,
    candidates: Candidates,
    wrong: Callable[[Outputs], str | None],
) -> str:
    """Returns the fastest right one of some computations, measured at the first call with a key.

    The first candidate is returned where nothing may be measured; see `Chooser.choose` for the arguments.
    """
    if torch.compiler.is_compiling() or _is_fixed():
        return next(iter(candidates))
    known = _chooser.known(key)
    if known is not None:
        return known
    return next(iter(candidates)) if is_captured() else _chooser.choose(key, like, case, candidates, wrong)
