"""ONNX files, run by ONNX Runtime."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from vov3d.deploy.formats.base import Job, Run, quantized
from vov3d.deploy.graphs import names_of, trace

OPSETS = range(17, 21)
"""Versions of the operators that files can be written for."""

_TRACED = 18  # the oldest version that PyTorch writes


def write(job: Job, path: Path) -> None:
    """Writes one file with weights and metadata."""
    inputs, outputs = names_of(job.graph)
    opset = job.opset or _TRACED
    program = torch.onnx.export(
        trace(job.graph, job.in_chans),
        dynamo=True,
        input_names=inputs,
        output_names=outputs,
        opset_version=max(opset, _TRACED),
        verbose=False,
    )
    assert program is not None
    _tidy(program.model)
    if opset < _TRACED:
        _lower(program.model, opset)
    if job.calibration is None:
        program.model.metadata_props.update(job.metadata)
        program.save(path, external_data=False)
        return
    import onnx

    network = quantized(program.model_proto, job.calibration, lambda clip: {inputs[0]: clip.numpy()})
    onnx.helper.set_model_props(network, job.metadata)
    onnx.save(network, path)


def _tidy(model: Any) -> None:
    """Names the batch, and leaves out an attribute that old readers do not know and that has no effect here."""
    symbol = getattr(model.graph.inputs[0].shape[0], "value", None)
    values = [*model.graph.inputs, *(value for node in model.graph for value in node.outputs)]
    for value in values if isinstance(symbol, str) else ():
        for i, size in enumerate(value.shape or ()):
            if isinstance(name := getattr(size, "value", None), str):
                value.shape[i] = re.sub(rf"\b{symbol}\b", "batch", name)
    for node in model.graph:
        if node.op_type == "Reshape":  # no shape contains a 0
            node.attributes.pop("allowzero", None)


def _lower(model: Any, opset: int) -> None:
    """Turns operators of version 18 into those of version 17, where the axes of reductions are an attribute."""
    import onnx_ir
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    for node in model.graph:
        if node.op_type.startswith("Reduce") and node.op_type != "ReduceSum" and len(node.inputs) > 1:
            axes = node.inputs[1].const_value.numpy().tolist()
            node.resize_inputs(1)
            node.attributes.pop("noop_with_empty_axes", None)
            node.attributes["axes"] = onnx_ir.AttrInt64s("axes", axes)
    model.graph.opset_imports[""] = opset
    RemoveUnusedNodesPass()(model)


def read(path: Path) -> tuple[dict[str, str], Run]:
    """Returns the metadata of a file, and a function that runs it.

    Raises:
        ValueError: If its weights are in other files.
    """
    import onnxruntime

    content = path.read_bytes()
    if _has_external(memoryview(content), "model"):
        raise ValueError("it was not written by vov3d.export: its weights are in other files")

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # its warnings concern its own rewriting of the graph
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    names = [given.name for given in session.get_inputs()]

    def run(*inputs: torch.Tensor) -> list[torch.Tensor]:
        given = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
        return [torch.from_numpy(out) for out in session.run(None, given)]

    return session.get_modelmeta().custom_metadata_map, run


# Fields of ONNX messages that contain tensors, by their numbers in onnx.proto.
_FIELDS = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
}
_EXTERNAL = (13, 14)  # fields of a tensor: the place of its data, and whether that is another file
_DEEPEST = 50


def _has_external(message: memoryview, kind: str, depth: int = 0) -> bool:
    """Returns whether a tensor of a message has its data in another file."""
    if depth > _DEEPEST:
        raise ValueError("its graphs are nested too deeply")
    for number, value in _fields(message):
        inner = _FIELDS.get(kind, {}).get(number)
        if kind == "tensor" and number in _EXTERNAL and value:
            return True
        if inner and isinstance(value, memoryview) and _has_external(value, inner, depth + 1):
            return True
    return False


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yields number and value of every field of a protobuf message."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        if tag & 7 == 0:
            value, at = _varint(message, at)
            yield tag >> 3, value
            continue
        size = {1: 8, 5: 4}.get(tag & 7)
        if tag & 7 == 2:
            size, at = _varint(message, at)
        if size is None or at + size > len(message):
            raise ValueError("it is truncated or damaged")
        yield tag >> 3, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for i in range(10):
        if at + i >= len(message):
            break
        byte = message[at + i]
        value |= (byte & 127) << (7 * i)
        if byte < 128:
            return value, at + i + 1
    raise ValueError("it is truncated or damaged")
