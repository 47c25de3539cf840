"""ONNX files, run by ONNX Runtime."""

from pathlib import Path

import torch

from vov3d.deploy._formats import Job, Run
from vov3d.deploy._graph import names_of, trace


def write(job: Job, path: Path) -> None:
    """Writes one file, weights and metadata inside."""
    inputs, outputs = names_of(job.graph)
    program = torch.onnx.export(
        trace(job.graph, job.in_chans), dynamo=True, input_names=inputs, output_names=outputs, verbose=False
    )
    assert program is not None
    program.model.metadata_props.update(job.metadata)
    program.save(path, external_data=False)


def read(path: Path) -> tuple[dict[str, str], Run]:
    """Metadata of a file, and the function that runs it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # warnings are about its own rewriting of the graph
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    names = [given.name for given in session.get_inputs()]

    def run(*inputs: torch.Tensor) -> list[torch.Tensor]:
        given = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
        return [torch.from_numpy(out) for out in session.run(None, given)]

    return session.get_modelmeta().custom_metadata_map, run
