"""Streaming networks in files: the graph that is exported, and its comparison with the source."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from vov3d.deploy._compare import Comparison
from vov3d.deploy._exported import ExportedStream
from vov3d.deploy._streaming import StreamingNetwork

STEPS = 12
"""Frames on which a file is compared with its source."""


class StreamGraph(nn.Module):
    """One step of a stream: from a frame and the state to outputs and the new state, each a separate tensor.

    Attributes:
        output_names: A name for each output, without the state.
        state_names: A name for each tensor of the state.
    """

    def __init__(self, stream: StreamingNetwork, size: tuple[int, int]) -> None:
        super().__init__()
        self.stream, self.size = stream, size
        self.output_names = stream.output_names
        self.state_names = tuple(stream.initial_state(1, *size))

    @property
    def input_names(self) -> list[str]:
        """Names of the inputs, in order."""
        return ["frame", *self.state_names]

    @property
    def all_output_names(self) -> list[str]:
        """Names of the outputs and the new state, in order."""
        return [*self.output_names, *(f"{name}.next" for name in self.state_names)]

    def forward(self, frame: torch.Tensor, *state: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Computes a tuple of outputs and new state from a frame `(B, C, H, W)` and the state."""
        out, after = self.stream(frame, dict(zip(self.state_names, state, strict=True)))
        outputs = tuple(out) if isinstance(out, list) else (out,)
        return (*outputs, *(after[name] for name in self.state_names))

    def trace(self) -> torch.export.ExportedProgram:
        """Exports the step with `torch.export`, for any number of streams."""
        state = self.stream.initial_state(2, *self.size)
        example = (torch.zeros(2, self.stream.in_chans, *self.size), *state.values())
        any_batch = {0: torch.export.Dim.DYNAMIC}
        with torch.no_grad():  # else the graph contains operations that switch gradients off
            return torch.export.export(self, example, dynamic_shapes=(any_batch, (any_batch,) * len(state)))


def stream_metadata(stream: StreamingNetwork, size: tuple[int, int]) -> dict[str, Any]:
    """Returns the metadata of a stream: shapes of its state without the batch, delay, receptive field and window."""
    shapes = {name: list(value.shape[1:]) for name, value in stream.initial_state(1, *size).items()}
    names = ("delay", "receptive_field", "window")
    return {name: getattr(stream, name) for name in names} | {"state": shapes}


def compare_steps(stream: StreamingNetwork, exported: ExportedStream, size: tuple[int, int]) -> Iterator[Comparison]:
    """Compares both frame by frame, each with its own state, for new streams and for ones that began long ago."""
    generator = torch.Generator().manual_seed(0)
    for name, batch, seen in (("a stream from its first frame", 1, 0), ("running streams", 2, 1000)):
        ours, theirs = stream.initial_state(batch, *size), exported.initial_state(batch)
        for state in (ours, theirs):
            state["frames"] += seen
        difference = relative = 0.0
        for _ in range(STEPS):
            frame = torch.randn(batch, stream.in_chans, *size, generator=generator)
            out, ours = stream(frame, ours)
            found, theirs = exported(frame, theirs)
            outs, founds = (list(x) if isinstance(x, list) else [x] for x in (out, found))
            pairs = [*zip(outs, founds, strict=True), *((ours[key], theirs[key]) for key in ours)]
            for expected, given in pairs:
                off = float((given.float() - expected.float()).abs().amax().nan_to_num(float("inf")))
                difference = max(difference, off)
                relative = max(relative, off / max(float(expected.abs().amax()), 1e-3))
        shape = (batch, stream.in_chans, *size)
        yield Comparison(f"{name}, {STEPS} steps", (shape,), batch, difference, relative, None)
