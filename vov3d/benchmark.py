"""Measures time by interleaved repetitions, peak memory, energy, and the roofline of the machine."""

import platform
import statistics
import time
import weakref
from collections.abc import Callable, Mapping
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from vov3d.models.budget import Budget

WARMUP = 2
"""Untimed calls before the timed ones."""

_RAPL = Path("/sys/class/powercap/intel-rapl:0/energy_uj")


class Times(NamedTuple):
    """Seconds of one call.

    Attributes:
        median: Median of the repetitions.
        q1: Lower quartile.
        q3: Upper quartile.
        joules: Energy of the processor for one call, None if it cannot be read.
    """

    median: float
    q1: float
    q3: float
    joules: float | None


def measure(
    calls: Mapping[str, Callable[[], object]],
    device: torch.device,
    repetitions: int = 10,
    warmup: int = WARMUP,
    done: Callable[[], object] = lambda: None,
) -> dict[str, Times]:
    """Times calls in turn, so that other load on the machine affects all of them alike.

    Args:
        calls: The calls to time, by name.
        device: Where they run; on a GPU, time is measured by its events.
        repetitions: Timed calls of each.
        warmup: Untimed calls of each before.
        done: Called after each call.
    """
    for call in calls.values():
        for _ in range(warmup):
            call()
            done()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    joules: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repetitions):
        for name, call in calls.items():
            before = _energy()
            seconds[name].append(_seconds(call, device))
            after = _energy()
            done()
            if before is not None and after is not None and after >= before:  # the counter overflows at times
                joules[name].append(after - before)
    return {name: _times(seconds[name], joules[name]) for name in calls}


def _times(seconds: list[float], joules: list[float]) -> Times:
    q1, median, q3 = statistics.quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else seconds * 3
    return Times(median, q1, q3, statistics.median(joules) if joules else None)


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    if device.type != "cuda":
        start = time.perf_counter()
        call()
        return time.perf_counter() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    begin.record()
    call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3


def _energy() -> float | None:
    """Reads the joules that the processor has used from the counter of Intel and AMD; None if it cannot be read."""
    try:
        return int(_RAPL.read_text()) / 1e6
    except OSError:
        return None


def peak_memory(call: Callable[[], object], device: torch.device) -> int:
    """Returns the largest number of bytes that a call has allocated at once, beyond those allocated before it."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    with _Allocations() as allocations:
        call()
    return allocations.peak


class _Allocations(TorchDispatchMode):
    """Follows the memory of the tensors that operators return; PyTorch's profiler prints lines of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()  # by address: given tensors are not counted when an operator returns them

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls an operator and counts the memory that is new."""
        given = {_storage(x).data_ptr() for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._add(_storage(tensor), given)
        return out

    def _add(self, storage: torch.UntypedStorage, given: set[int]) -> None:
        address, size = storage.data_ptr(), storage.nbytes()
        if not size or address in given or address in self._known:
            return
        self._known.add(address)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._remove, address, size)

    def _remove(self, address: int, size: int) -> None:
        self._known.discard(address)
        self.live -= size


def _storage(tensor: torch.Tensor) -> torch.UntypedStorage:
    return tensor.untyped_storage()


OUTSIDE = "(outside)"


class Operation(NamedTuple):
    """An operator in a forward pass or a training step.

    Attributes:
        layer: Name of the module that calls it; `OUTSIDE` for the loss, the backward pass and the optimizer.
        name: Name of the operator.
        seconds: Median time.
        flops: Operations of convolutions and matrix products, two for a multiply-add.
        bytes: Bytes of the tensors that it reads and writes.
    """

    layer: str
    name: str
    seconds: float
    flops: int
    bytes: int

    def bound(self, roofline: "Roofline") -> float:
        """Returns the least time on a machine: the larger of computing, and of reading and writing once."""
        return max(self.flops / roofline.flops, self.bytes / roofline.bandwidth)

    def limit(self, roofline: "Roofline") -> str:
        """Returns which of the two it is: `"FLOPs"` or `"bytes"`."""
        return "FLOPs" if self.flops / roofline.flops > self.bytes / roofline.bandwidth else "bytes"


def by_operator(
    model: nn.Module, call: Callable[[], object], repetitions: int = 10, warmup: int = WARMUP
) -> list[Operation]:
    """Times every operator of a call on the CPU, in their order.

    Views, which move nothing, are left out. Bytes are those of whole tensors: an operator on data that is still in
    the cache can be faster than its bound.

    Args:
        model: The model, whose modules name the operators.
        call: A forward pass or a training step of it.
        repetitions: Timed calls, of which the median counts.
        warmup: Untimed calls before.
    """
    layers: list[str] = []
    hooks = []

    def leave(*_: Any) -> None:
        layers.pop()

    for name, module in model.named_modules():
        hooks.append(module.register_forward_pre_hook(lambda *_, name=name: layers.append(name)))
        hooks.append(module.register_forward_hook(leave, always_call=True))
    passes = []
    try:
        for _ in range(warmup):
            call()
        for _ in range(repetitions):
            with _Operators(layers) as operators:
                call()
            passes.append(operators.found)
    finally:
        for hook in hooks:
            hook.remove()
    return [same[0]._replace(seconds=statistics.median(o.seconds for o in same)) for same in zip(*passes, strict=True)]


class _Operators(TorchDispatchMode):
    """Times operators and counts their cost.

    Args:
        layers: Names of the modules that are running, the innermost last.
    """

    def __init__(self, layers: list[str]) -> None:
        super().__init__()
        self.found: list[Operation] = []
        self._layers = layers

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls and times an operator."""
        kwargs = kwargs or {}
        start = time.perf_counter()
        out = func(*args, **kwargs)
        seconds = time.perf_counter() - start
        if not func.is_view and func.namespace != "profiler":  # marks of optimizers
            given = {id(x): x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
            tensors = [*given.values(), *(x for x in tree_leaves(out) if isinstance(x, torch.Tensor))]
            moved = sum(x.numel() * x.element_size() for x in tensors)
            name = func.overloadpacket.__name__.strip("_")
            layer = self._layers[-1] if self._layers else OUTSIDE
            self.found.append(Operation(layer, name, seconds, _flops(func, args, kwargs, out), moved))
        return out


def _flops(func: Any, args: Any, kwargs: Any, out: Any) -> int:
    """Returns the operations of a convolution or a matrix product; 0 for all other operators."""
    if func.namespace == "mkldnn" and "convolution" in func.overloadpacket.__name__:
        names = [argument.name for argument in func._schema.arguments]
        weight = args[next(names.index(name) for name in ("W", "weight") if name in names)]
        return 2 * out.numel() * weight[0].numel()
    if func.overloadpacket is torch.ops.aten.convolution_backward:  # PyTorch's count leaves groups out of account
        grad, x, weight, transposed, wanted = args[0], args[1], args[2], args[7], args[-1]
        return 2 * (x if transposed else grad).numel() * weight[0].numel() * sum(wanted[:2])
    count = flop_registry.get(func.overloadpacket)
    return count(*args, **kwargs, out_val=out) if count else 0


class Roofline(NamedTuple):
    """Measured peak performance of a machine in one precision.

    Attributes:
        flops: Operations per second of a large matrix product, two for a multiply-add.
        bandwidth: Bytes per second read and written by a copy too large for any cache.
    """

    flops: float
    bandwidth: float

    def seconds(self, cost: Budget, batch: int, itemsize: int, train: bool = False) -> float:
        """Returns the least time: the larger of computing, and of writing and reading every counted activation once.

        A training step counts three times: forward, and the gradients of inputs and of weights.
        """
        passes = 3 if train else 1
        computing = 2 * cost.macs * batch / self.flops
        moving = (2 * cost.activations * batch + cost.params) * itemsize / self.bandwidth
        return passes * max(computing, moving)


def measure_roofline(device: torch.device, dtype: torch.dtype) -> Roofline:
    """Measures a roofline by matrix products of size 2048 (8192 on a GPU) and a copy of 256 MiB.

    A precision in which the processor is slower than in float32 gets float32's speed, since it can be converted.
    """
    n = 8192 if device.type == "cuda" else 2048
    flops = max(_product_speed(device, kind, n) for kind in {dtype, torch.float32})
    source = torch.zeros(2**28, dtype=torch.uint8, device=device)
    target = torch.ones_like(source)
    times = measure({"copy": lambda: target.copy_(source)}, device, repetitions=5, warmup=1)
    return Roofline(flops, 2 * source.numel() / times["copy"].median)


def _product_speed(device: torch.device, dtype: torch.dtype, n: int) -> float:
    """Returns the operations per second of an n x n matrix product, or of a smaller one if that takes over a second."""
    for size in (256, n):
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        seconds = measure({"product": partial(torch.mm, a, b)}, device, repetitions=5, warmup=1)["product"].median
        if seconds * (n / size) ** 3 > 1:
            break
    return 2 * size**3 / seconds


def machine(device: torch.device) -> dict[str, Any]:
    """Returns the conditions of a measurement: processor, threads, versions, date."""
    facts = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": date.today().isoformat(),
    }
    return facts | ({"cuda": torch.version.cuda} if device.type == "cuda" else {})


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
