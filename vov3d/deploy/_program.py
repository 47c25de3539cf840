"""Files of `torch.export`, run by PyTorch."""

import inspect
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from vov3d.deploy._formats import Job, Run
from vov3d.deploy._graph import trace

_METADATA = "vov3d.json"


def write(job: Job, path: Path) -> None:
    """Writes one file, weights and metadata inside."""
    program = trace(job.graph, job.in_chans)
    program._example_inputs = None  # else the example clip is saved as well
    # Tracing takes maps of one position for another case; the graph serves them too, and clips are checked before it.
    program.range_constraints.clear()
    torch.export.save(program, path, extra_files={_METADATA: json.dumps(job.metadata)})


def read(path: Path) -> tuple[dict[str, str], Run]:
    """Metadata of a file, and the function that runs it."""
    extra = {_METADATA: ""}
    with _no_code_from_pickles():
        program = torch.export.load(path, extra_files=extra)
    # Newer releases of torch repeat the same refusal of small maps as a guard.
    has_guards = "check_guards" in inspect.signature(program.module).parameters
    module = program.module(check_guards=False) if has_guards else program.module()

    def run(*inputs: torch.Tensor) -> list[torch.Tensor]:
        # the layout in which depthwise convolutions are several times faster
        clips = [x.contiguous(memory_format=torch.channels_last_3d) if x.ndim == 5 else x for x in inputs]
        return list(module(*clips))

    return json.loads(extra[_METADATA] or "{}"), run


@contextmanager
def _no_code_from_pickles() -> Iterator[None]:
    """Loads tensors only, where `torch.export.load` would unpickle whatever a file holds."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
