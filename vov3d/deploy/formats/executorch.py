"""ExecuTorch files, for phones and other small machines: clips of one size, convolutions by XNNPACK."""

import json
from pathlib import Path
from threading import Lock

import torch

from vov3d.deploy.formats.base import Job, Run

_METADATA = "metadata"  # a method of the file that returns a constant


def write(job: Job, path: Path) -> None:
    """Writes one file with weights and metadata."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    frames, height, width = job.clip
    program = torch.export.export(job.graph, (torch.zeros(1, job.in_chans, frames, height, width),))
    lowered = to_edge_transform_and_lower(
        program, partitioner=[XnnpackPartitioner()], constant_methods={_METADATA: json.dumps(job.metadata)}
    )
    with open(path, "wb") as file:
        lowered.to_executorch().write_to_file(file)


def read(path: Path) -> tuple[dict[str, str], Run]:
    """Returns the metadata of a file, and a function that runs it."""
    from executorch.runtime import Runtime

    program = Runtime.get().load_program(path)
    if _METADATA not in program.method_names:
        return {}, lambda clip: []
    metadata = json.loads(program.load_method(_METADATA).execute([])[0])
    forward = program.load_method("forward")
    one_at_a_time = Lock()  # the next call overwrites the outputs

    def run(clip: torch.Tensor) -> list[torch.Tensor]:
        with one_at_a_time:
            views = [[out.clone() for out in forward.execute([view])] for view in clip.split(1)]
        return [torch.cat(outputs) for outputs in zip(*views, strict=True)]

    return metadata, run
