"""Graphs of a model to export: the forward pass, and for classifiers the published evaluation too."""

from typing import Any

import torch
from timm.models import FeatureDictNet
from torch import nn

from vov3d.layers import ClassifierHead3d
from vov3d.layers.head import on_rows
from vov3d.models.network import VideoNetwork
from vov3d.weights.tasks import task_of


class PlainGraph(nn.Module):
    """The forward pass, unchanged.

    Attributes:
        output_names: A name for each output.
    """

    def __init__(self, model: nn.Module, output_names: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.output_names = output_names

    def forward(self, clip: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Computes a tuple of outputs from a clip `(B, C, T, H, W)`."""
        out = self.model(clip)
        return tuple(out) if isinstance(out, (list, tuple)) else (out,)  # PyTorch 2.6 traces no unions


class ClassifierGraph(nn.Module):
    """The logits of `forward` and the scores of `forward_dense`, from one feature map.

    `forward_dense` slides a window of fixed size, or of the map's size if the map is smaller. A graph of dynamic sizes
    cannot express that choice, so windows at all positions are computed, as a matrix product, and those that do not
    fit get weight 0. This adds between 1% and 2% to the network's multiply-adds.

    Attributes:
        output_names: A name for each output.
    """

    def __init__(self, model: Any, window: tuple[int, int]) -> None:
        super().__init__()
        self.model = model
        self.task = task_of(model)
        self.output_names = ("logits", self.task.scored)
        self.window = window

    def forward(self, clip: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Computes logits and scores `(B, num_classes)` from a clip `(B, C, T, H, W)`."""
        head = self.model.head
        x = head.act1(head.bn(head.conv(self.model.forward_features(clip))))
        logits = self._classify(x.mean((2, 3, 4), keepdim=True)).flatten(1)
        frame = x.mean(2)
        rows, row_weights = _windows(frame.shape[2], self.window[0], frame)
        columns, column_weights = _windows(frame.shape[3], self.window[1], frame)
        pooled = (rows @ frame @ columns.mT).unsqueeze(2)
        scores = self.task.scores(self._classify(pooled), self.model.temperature).squeeze(2)
        return logits, (scores * (row_weights[:, None] * column_weights)).sum((2, 3))

    def _classify(self, x: torch.Tensor) -> torch.Tensor:
        """Computes logits `(B, num_classes, T, H, W)` from pooled features `(B, C, T, H, W)`."""
        head = self.model.head
        return on_rows(head.fc, head.act2(head.hidden(x)).movedim(1, -1)).movedim(-1, 1)


def _windows(length: int, window: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes the windows along one dimension of a map.

    Returns:
        The matrix `(length, length)` that averages over the window that starts at each position, cut off at the end,
        and the weight of each start `(length,)`: equal where the window fits, 0 elsewhere; all on the first if it
        fits nowhere.
    """
    at = torch.arange(length, device=like.device)
    inside = ((at >= at[:, None]) & (at < at[:, None] + window)).to(like.dtype)
    fits = ((at + window <= length) | (at == 0)).to(like.dtype)
    return inside / inside.sum(1, keepdim=True), fits / fits.sum()


def graph_of(model: Any) -> PlainGraph | ClassifierGraph:
    """Returns the graph of a model made by `create_model`.

    Raises:
        ValueError: If it returns a dictionary of features.
    """
    if not isinstance(model, VideoNetwork):
        return PlainGraph(model, _feature_names(model))
    window = getattr(model, "pretrained_cfg", {}).get("pool_size")
    pools_by_average = isinstance(model.head, ClassifierHead3d) and model.head.global_pool.pool_type == "avg"
    if model.num_classes and pools_by_average and window:
        return ClassifierGraph(model, (window[0], window[1]))
    return PlainGraph(model, ("logits",) if model.num_classes else ("features",))


def _feature_names(model: Any) -> tuple[str, ...]:
    if type(model) is FeatureDictNet:
        raise ValueError("cannot export features as a dictionary; leave out feature_cls='dict' to get a list")
    return tuple(name.replace(".", "_") for name in model.feature_info.module_name())


def trace(graph: Any, in_chans: int) -> torch.export.ExportedProgram:
    """Exports a graph with `torch.export`, with dynamic batch, frames, height and width.

    The sizes of the example all differ, are above 1, and odd where possible, so that none is taken for a constant or
    for another size.
    """
    if hasattr(graph, "trace"):  # of other inputs or of fixed sizes
        program = graph.trace()
    else:
        open_size = torch.export.Dim.DYNAMIC
        example = torch.zeros(2, in_chans, 3, 75, 101)
        shapes = ({0: open_size, 2: open_size, 3: open_size, 4: open_size},)
        program = torch.export.export(graph, (example,), dynamic_shapes=shapes)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # else the file would contain source lines and paths of this machine
    return program


def names_of(graph: Any) -> tuple[list[str], list[str]]:
    """Returns the names of a graph's inputs and outputs."""
    return getattr(graph, "input_names", ["clip"]), getattr(graph, "all_output_names", list(graph.output_names))
