"""Graphs of a model to export: the forward pass, and for classifiers the published evaluation too."""

from typing import Any

import torch
import torch.nn.functional as F
from timm.models import FeatureDictNet
from torch import nn

from vov3d.layers import ClassifierHead3d, SqueezeExcite3d
from vov3d.models.network import VideoNetwork
from vov3d.surgery import fold_batchnorm
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
        return tuple(out) if isinstance(out, list | tuple) else (out,)


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
        return head.fc(head.act2(head.hidden(x)).movedim(1, -1)).movedim(-1, 1)


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
    if hasattr(graph, "trace"):  # a stream, which has other inputs
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


class _FrameConv(nn.Module):
    """A convolution of a clip, as a sum of `conv2d` over shifted frames."""

    def __init__(self, conv: nn.Conv3d) -> None:
        super().__init__()
        self.taps = nn.ParameterList(conv.weight.detach().unbind(2))
        self.bias = None if conv.bias is None else nn.Parameter(conv.bias.detach())
        self.stride, self.padding, self.dilation = conv.stride[1:], conv.padding[1:], conv.dilation[1:]
        self.groups = conv.groups

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        frames, reach = x.shape[0], len(self.taps) // 2
        x = F.pad(x, (0, 0, 0, 0, 0, 0, reach, reach)) if reach else x
        out: Any = None
        for shift, weight in enumerate(self.taps):
            bias, moved = None if shift else self.bias, x[shift : shift + frames]
            tap = F.conv2d(moved, weight, bias, self.stride, self.padding, self.dilation, self.groups)
            out = tap if out is None else out + tap
        return out


class _FrameGate(nn.Module):
    """Squeeze-and-excitation over all frames."""

    def __init__(self, se: SqueezeExcite3d) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = _FrameConv(se.fc1), se.act, _FrameConv(se.fc2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = x.mean((2, 3), keepdim=True).mean(0, keepdim=True)
        return x * self.fc2(self.act(self.fc1(gate))).sigmoid()


class FrameGraph(nn.Module):
    """A classifier for one clip at a time: logits and, if it has a window, scores.

    Attributes:
        output_names: A name for each output.
    """

    def __init__(self, model: Any, output_names: tuple[str, ...], window: tuple[int, int] | None) -> None:
        super().__init__()
        self.task = task_of(model)
        self.model: Any = _on_frames(model)
        self.output_names = output_names
        self.window = window
        self.temperature = model.temperature

    def forward(self, clip: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Computes a tuple of outputs from a clip `(1, C, T, H, W)`."""
        stem, head = self.model.stem, self.model.head
        x = stem.act(stem.conv_t(stem.conv_s(clip[0].transpose(0, 1))))
        x = head.act1(head.conv(self.model.stages(x))).mean(0, keepdim=True)
        logits = self._classify(x.mean((2, 3), keepdim=True))[:, :, 0, 0]
        if self.window is None:
            return (logits,)
        window = min(self.window[0], x.shape[2]), min(self.window[1], x.shape[3])
        scores = self.task.scores(self._classify(F.avg_pool2d(x, window, stride=1)), self.temperature)
        return logits, scores.mean((2, 3))

    def _classify(self, x: torch.Tensor) -> torch.Tensor:
        head = self.model.head
        return head.fc(head.act2(head.hidden(x)).movedim(1, -1)).movedim(-1, 1)


def frame_graph_of(model: Any) -> FrameGraph:
    """Returns the graph of a classifier made by `create_model`, for one clip at a time.

    Raises:
        ValueError: If the model is not such a classifier, does not pool by the average, is causal, or has norms
            other than batch norm.
    """
    classifies = isinstance(model, VideoNetwork) and isinstance(model.head, ClassifierHead3d) and model.num_classes
    if not classifies or model.head.global_pool.pool_type != "avg":
        raise ValueError("ExecuTorch files hold only classifiers with average pooling; export .onnx, .xml or .pt2")
    if model.causal:
        raise ValueError("ExecuTorch files do not support causal models; export it as .onnx, .xml or .pt2")
    cfg: Any = model.pretrained_cfg
    window = cfg.get("pool_size")
    names = ("logits", task_of(model).scored) if window else ("logits",)
    return FrameGraph(model, names, tuple(window) if window else None)


def _on_frames(model: nn.Module) -> nn.Module:
    """Returns a copy of a network whose layers take frames as a batch."""
    model = fold_batchnorm(model)
    for name, module in list(model.named_modules()):
        if name.rpartition(".")[2].startswith("bn") and type(module) is not nn.Identity:
            raise ValueError(f"ExecuTorch files need batch norms to fold, but {name} is a {type(module).__name__}")
        for child_name, child in list(module.named_children()):
            if isinstance(child, SqueezeExcite3d):
                setattr(module, child_name, _FrameGate(child))
            elif isinstance(child, nn.Conv3d):
                setattr(module, child_name, _FrameConv(child))
    return model
