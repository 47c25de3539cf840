"""Files of `torch.export`, run by PyTorch."""

import inspect
import json
from pathlib import Path
from threading import Lock

import torch

from vov3d.deploy.formats._archive import METADATA, checked_archive, unknown_operator
from vov3d.deploy.formats.base import Job, Run
from vov3d.deploy.graphs import trace

_ONE_AT_A_TIME = Lock()  # PyTorch keeps the file that it reads in a global variable


def write(job: Job, path: Path) -> None:
    """Writes one file with weights and metadata.

    Raises:
        ValueError: If the network runs an operator that `read` refuses.
    """
    program = trace(job.graph, job.in_chans)
    if unknown := unknown_operator(program):
        raise ValueError(
            f"{path.name}: the network runs {unknown}, which is not among the operators that are loaded from a .pt2"
            " file; write .onnx or .xml, or replace the layer"
        )
    program._example_inputs = None  # else the example clip is saved as well
    # Tracing excludes maps of one position; the graph is right for them too, and clips are checked before.
    program.range_constraints.clear()
    torch.export.save(program, path, extra_files={METADATA: json.dumps(job.metadata)})


def read(path: Path) -> tuple[dict[str, str], Run]:
    """Returns the metadata of a file, and a function that runs it.

    Raises:
        ValueError: If the file has content that `write` does not write.
    """
    extra = {METADATA: ""}
    archive = checked_archive(path)
    with _ONE_AT_A_TIME:
        program = torch.export.load(archive, extra_files=extra)
    # Newer releases of torch exclude small maps by a guard as well.
    has_guards = "check_guards" in inspect.signature(program.module).parameters
    module = program.module(check_guards=False) if has_guards else program.module()

    def run(*inputs: torch.Tensor) -> list[torch.Tensor]:
        # the layout in which depthwise convolutions are several times faster
        clips = [x.contiguous(memory_format=torch.channels_last_3d) if x.ndim == 5 else x for x in inputs]
        return list(module(*clips))

    return json.loads(extra[METADATA] or "{}"), run
