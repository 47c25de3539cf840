"""A network on the frames of one clip, `(T, C, H, W)`, with no convolution but `conv2d`.

Runtimes for phones have no `conv3d`. A kernel of t x k x k is the sum of t kernels of k x k, each on frames shifted by
one; frames stand where a batch of pictures would. Batch norms are folded into the convolutions before them.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from vov3d.layers import ClassifierHead3d, SqueezeExcite3d
from vov3d.models._network import VideoNetwork
from vov3d.surgery import fold_batchnorm


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
    """A classifier on one clip: logits and, where it has a window, probabilities.

    Attributes:
        output_names: A name for each output.
    """

    def __init__(self, model: Any, output_names: tuple[str, ...], window: tuple[int, int] | None) -> None:
        super().__init__()
        self.model: Any = _on_frames(model)
        self.output_names = output_names
        self.window = window
        self.temperature = model.temperature

    def forward(self, clip: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Clip `(1, C, T, H, W)` to a tuple of outputs."""
        stem, head = self.model.stem, self.model.head
        x = stem.act(stem.conv_t(stem.conv_s(clip[0].transpose(0, 1))))
        x = head.act1(head.conv(self.model.stages(x))).mean(0, keepdim=True)
        logits = self._classify(x.mean((2, 3), keepdim=True))[:, :, 0, 0]
        if self.window is None:
            return (logits,)
        window = min(self.window[0], x.shape[2]), min(self.window[1], x.shape[3])
        scores = (self._classify(F.avg_pool2d(x, window, stride=1)) / self.temperature).softmax(1)
        return logits, scores.mean((2, 3))

    def _classify(self, x: torch.Tensor) -> torch.Tensor:
        head = self.model.head
        return head.fc(head.act2(head.hidden(x)).movedim(1, -1)).movedim(-1, 1)


def frame_graph_of(model: Any) -> FrameGraph:
    """The graph of a classifier that `create_model` made.

    Raises:
        ValueError: If it is no such classifier, pools by something else than the average, or has other norms than
            batch norm.
    """
    classifies = isinstance(model, VideoNetwork) and isinstance(model.head, ClassifierHead3d) and model.num_classes
    if not classifies or model.head.global_pool.pool_type != "avg":
        raise ValueError("ExecuTorch files hold classifiers that pool by the average, and this model is none")
    cfg: Any = model.pretrained_cfg
    window = cfg.get("pool_size")
    names = ("logits", "probabilities") if window else ("logits",)
    return FrameGraph(model, names, tuple(window) if window else None)


def _on_frames(model: nn.Module) -> nn.Module:
    """A copy of a network whose layers take frames."""
    model = fold_batchnorm(model)
    for name, module in list(model.named_modules()):
        if name.rpartition(".")[2].startswith("bn") and type(module) is not nn.Identity:
            raise ValueError(f"ExecuTorch files fold batch norms, and {name} is a {type(module).__name__}")
        for child_name, child in list(module.named_children()):
            if isinstance(child, SqueezeExcite3d):
                setattr(module, child_name, _FrameGate(child))
            elif isinstance(child, nn.Conv3d):
                setattr(module, child_name, _FrameConv(child))
    return model
