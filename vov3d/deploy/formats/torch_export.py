"""Files of `torch.export`, run by PyTorch."""

import inspect
import json
from pathlib import Path
from threading import Lock

import torch

from vov3d.deploy.formats._archive import METADATA, checked_archive
from vov3d.deploy.formats.base import Job, Run
from vov3d.deploy.graphs import trace

_ONE_AT_A_TIME = Lock()  # PyTorch keeps the file that it reads in a global


def write(job: Job, path: Path) -> None:
    """Writes one file, weights and metadata inside."""
    program = trace(job.graph, job.in_chans)
    program._example_inputs = None  # else the example clip is saved as well
    # Tracing takes maps of one position for another case; the graph serves them too, and clips are checked before it.
    program.range_constraints.clear()
    torch.export.save(program, path, extra_files={METADATA: json.dumps(job.metadata)})


def read(path: Path) -> tuple[dict[str, str], Run]:
    """Metadata of a file, and the function that runs it.

    Raises:
        ValueError: If the file holds what `write` does not write.
    """
    extra = {METADATA: ""}
    archive = checked_archive(path)
    with _ONE_AT_A_TIME:
        program = torch.export.load(archive, extra_files=extra)
    # Newer releases of torch repeat the same refusal of small maps as a guard.
    has_guards = "check_guards" in inspect.signature(program.module).parameters
    module = program.module(check_guards=False) if has_guards else program.module()

    def run(*inputs: torch.Tensor) -> list[torch.Tensor]:
        # the layout in which depthwise convolutions are several times faster
        clips = [x.contiguous(memory_format=torch.channels_last_3d) if x.ndim == 5 else x for x in inputs]
        return list(module(*clips))

    return json.loads(extra[METADATA] or "{}"), run
