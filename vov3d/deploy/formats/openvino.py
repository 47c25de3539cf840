"""OpenVINO files: a network in `.xml`, and its weights in a `.bin` file beside it."""

import hashlib
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import torch

from vov3d.deploy.formats.base import Job, Run, quantized
from vov3d.deploy.graphs import names_of, trace

_DIGEST = "sha256_of_bin"
_lock = Lock()


@cache
def _the_core() -> Any:
    import openvino

    return openvino.Core()


def core() -> Any:
    """Returns the one core of this process, which is never destroyed.

    A core replaces the thread's alternate signal stack. When two are destroyed in the order in which they were made,
    that stack is left unmapped, and the next signal that Python handles, such as Ctrl-C, ends the process with a
    segmentation fault.
    """
    with _lock:
        return _the_core()


def write(job: Job, path: Path) -> None:
    """Writes both files; weights are in half precision unless the precision is fp32."""
    import openvino

    network = openvino.convert_model(trace(job.graph, job.in_chans))
    for ports, names in zip((network.inputs, network.outputs), names_of(job.graph), strict=True):
        for port, name in zip(ports, names, strict=True):
            port.get_tensor().set_names({name})
    if job.calibration is not None:
        network = quantized(network, job.calibration, lambda clip: clip.numpy())
    for key, value in job.metadata.items():
        network.set_rt_info(value, ["vov3d", key])
    half = job.dtype in ("fp16", "bf16")
    openvino.save_model(network, path, compress_to_fp16=half)
    # The digest is known only now; saving again changes only the .xml.
    network.set_rt_info(_digest_of_weights(path), ["vov3d", _DIGEST])
    openvino.save_model(network, path, compress_to_fp16=half)


def read(path: Path) -> tuple[dict[str, str], Run]:
    """Returns the metadata of a file, and a function that runs it.

    Raises:
        ValueError: If the `.bin` beside it is not the one that it was written with.
    """
    network = core().read_model(path)
    info = network.get_rt_info(["vov3d"]).astype(dict) if network.has_rt_info(["vov3d"]) else {}
    metadata = {key: value.astype(str) if hasattr(value, "astype") else value for key, value in info.items()}
    if metadata and metadata.get(_DIGEST) != _digest_of_weights(path):
        raise ValueError(f"{path.with_suffix('.bin').name} does not belong to it; export writes both files together")
    # By default, CPUs with bf16 units compute everything in bf16, even fp32 files.
    asked = "bf16" if metadata.get("dtype") == '"bf16"' else "f32"
    capable = "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    compiled = core().compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": asked if capable else "f32"})
    one_at_a_time = Lock()  # a compiled network has one request, which refuses or mixes up calls of several threads

    def run(*inputs: torch.Tensor) -> list[torch.Tensor]:
        with one_at_a_time:
            outputs = compiled([value.numpy() for value in inputs])  # copies, since share_outputs is left out
        return [torch.from_numpy(outputs[i]) for i in range(len(compiled.outputs))]

    return metadata, run


def _digest_of_weights(path: Path) -> str:
    """Returns the SHA-256 of the `.bin` file, since OpenVINO accepts any other one of the same size."""
    return hashlib.sha256(path.with_suffix(".bin").read_bytes()).hexdigest()
