"""Files of `torch.export`, run by PyTorch."""

import json
from pathlib import Path

import torch

from vov3d.deploy._formats import Job, Run
from vov3d.deploy._graph import trace

_METADATA = "vov3d.json"


def write(job: Job, path: Path) -> None:
    """Writes one file, weights and metadata inside."""
    program = trace(job.graph, job.in_chans)
    program._example_inputs = None  # else the example clip is saved as well
    torch.export.save(program, path, extra_files={_METADATA: json.dumps(job.metadata)})


def read(path: Path) -> tuple[dict[str, str], Run]:
    """Metadata of a file, and the function that runs it."""
    extra = {_METADATA: ""}
    module = torch.export.load(path, extra_files=extra).module()

    def run(clip: torch.Tensor) -> list[torch.Tensor]:
        # the layout in which depthwise convolutions are several times faster
        return list(module(clip.contiguous(memory_format=torch.channels_last_3d)))

    return json.loads(extra[_METADATA] or "{}"), run
