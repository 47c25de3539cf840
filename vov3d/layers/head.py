"""The classifier head of X3D and VoV3D.

1x1x1 conv, BN, ReLU -> pool over the clip -> 1x1x1 conv to the hidden features, ReLU -> dropout -> linear.
It returns logits, in training and in evaluation. `forward_dense` is the published evaluation at larger crops:
a window of the training crop's map slides over the map, and the softmax is averaged over its positions.
"""

from collections.abc import Callable
from numbers import Integral
from typing import Any

import torch
import torch.fx
import torch.nn.functional as F
from einops import rearrange
from timm.layers import SelectAdaptivePool2d
from torch import nn

from vov3d.layers.causal import running_mean
from vov3d.layers.checks import check_counts, check_rate
from vov3d.layers.conv import conv3d, keeps_layout, refuse_scripting
from vov3d.layers.norm_act import LayerType, create_act, create_norm

torch.fx.wrap("rearrange")  # einops cannot handle symbolic values

_POOLS = ("avg", "max", "avgmax", "catavgmax", "")

# Layers of torch.nn that keep the last dimension.
_KEEPS_WIDTH = (
    nn.Identity,
    nn.modules.dropout._DropoutNd,
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.ReLU,
    nn.GELU,
    nn.SiLU,
    nn.Sigmoid,
    nn.Tanh,
    nn.Softmax,
    nn.LogSoftmax,
)


def softmax(logits: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Returns the softmax over the classes of logits `(B, num_classes, ...)`, divided by a temperature."""
    return (logits / temperature).softmax(1)


def on_rows(classifier: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Applies a classifier to features `(..., C)` as rows `(N, C)`, as it gets pooled ones: it may need that form."""
    return classifier(x.flatten(0, -2)).unflatten(0, x.shape[:-1])


def classes_of(classifier: nn.Module) -> int | None:
    """Returns the number of classes of a classifier or a whole head.

    Args:
        classifier: `head.fc`, or a module that replaced the head.

    Returns:
        The outputs of the last layer that has a number of outputs, also if it is wrapped (LoRA, parametrizations,
        quantization); 0 if there is none; None if it is unknown.
    """
    if isinstance(classifier, ClassifierHead3d):
        return classes_of(classifier.fc)
    if isinstance(classifier, nn.Sequential):
        found = (classes_of(layer) for layer in reversed(classifier))
        return next((classes for classes in found if classes != 0), 0)
    if isinstance(classifier, _KEEPS_WIDTH):
        return 0
    for name in ("out_features", "out_channels"):
        width = getattr(classifier, name, None)
        if isinstance(width, Integral):
            return int(width)
    return None


class ClassifierHead3d(nn.Module):
    """Classifier on the last feature map.

    Args:
        in_chs: Channels of the feature map.
        mid_chs: Channels that are pooled.
        hidden_chs: Features before the classifier.
        num_classes: Classes; 0 leaves the classifier out.
        global_pool: `"avg"`, `"max"`, `"avgmax"`, `"catavgmax"`, or `""` for a map of logits.
        drop_rate: Dropout before the classifier.
        act_layer: Activation, a timm name or a class.
        norm_layer: Norm, a name or a class.
        device: Device of the parameters.
        dtype: Floating type of the parameters.

    Shape:
        `(B, in_chs, T, H, W)` to `(B, num_classes)`; to `(B, hidden_chs)` without classes; with
        `global_pool=""` to `(B, num_classes or hidden_chs, T, H, W)`.

    Raises:
        ValueError: If `global_pool` is not known, or channels, `num_classes` or `drop_rate` are not allowed.
    """

    def __init__(
        self,
        in_chs: int,
        mid_chs: int,
        hidden_chs: int = 2048,
        num_classes: int = 400,
        global_pool: str = "avg",
        drop_rate: float = 0.5,
        act_layer: LayerType = "relu",
        norm_layer: LayerType = "batchnorm3d",
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        check_counts(in_chs=in_chs, mid_chs=mid_chs, hidden_chs=hidden_chs)
        check_rate("drop_rate", drop_rate)
        self.num_features = hidden_chs
        self.conv = conv3d(in_chs, mid_chs, (1, 1), **dd)
        self.bn = create_norm(norm_layer, mid_chs, **dd)
        self.act1 = create_act(act_layer)
        self.global_pool = self._pool(global_pool)
        self.hidden = conv3d(mid_chs * self.global_pool.feat_mult(), hidden_chs, (1, 1), **dd)
        self.act2 = create_act(act_layer)
        self.drop = nn.Dropout(drop_rate)
        self.fc = self._classifier(num_classes, **dd)

    @staticmethod
    def _pool(global_pool: str) -> SelectAdaptivePool2d:
        if global_pool not in _POOLS:
            raise ValueError(f"global_pool={global_pool!r} is not known; use one of {_POOLS}")
        return SelectAdaptivePool2d(pool_type=global_pool)

    def _classifier(self, num_classes: int, **dd) -> nn.Module:
        given: Any = num_classes
        if not isinstance(given, Integral) or isinstance(given, bool) or num_classes < 0:
            raise ValueError(f"num_classes must be 0 or more, got {num_classes!r}; give a whole number")
        if num_classes == 0:
            return nn.Identity()
        fc = nn.Linear(self.num_features, int(num_classes), **dd)
        nn.init.normal_(fc.weight, std=0.01)
        nn.init.zeros_(fc.bias)
        return fc

    def reset(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the classifier by a fresh one and, if given, the pooling.

        Args:
            num_classes: Classes; 0 removes the classifier.
            global_pool: One of `"avg"`, `"max"`, `"avgmax"`, `"catavgmax"` or `""`; None keeps the present one.

        Raises:
            ValueError: If the pooling is not known, or its width is not that of the hidden layer.
        """
        weight = self.hidden.weight
        if global_pool is not None:
            pool = self._pool(global_pool)
            if pool.feat_mult() != self.global_pool.feat_mult():
                raise ValueError(
                    f"global_pool={global_pool!r} changes the width of the hidden layer; create the model with it"
                )
            self.global_pool = pool
        self.fc = self._classifier(num_classes, device=weight.device, dtype=weight.dtype)

    def _hidden(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop(self.act2(self.hidden(x)))

    def _logits(self, x: torch.Tensor) -> torch.Tensor:
        return on_rows(self.fc, x.movedim(1, -1)).movedim(-1, 1)

    __prepare_scriptable__ = refuse_scripting

    @keeps_layout
    def forward(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Classifies a feature map.

        Args:
            x: Feature map `(B, in_chs, T, H, W)`.
            pre_logits: Stops before the classifier.

        Returns:
            Logits `(B, num_classes)`, or with `pre_logits` `(B, hidden_chs)`; with `global_pool=""` a map of either,
            of the size of `x`.
        """
        x = self.act1(self.bn(self.conv(x)))
        if not self.global_pool.is_identity():
            # timm's pooling is 2-D, so time is merged with height
            x = self.global_pool(rearrange(x, "b c t h w -> b c (t h) w")).unsqueeze(2)
            x = self._hidden(x).flatten(1)
            return x if pre_logits else self.fc(x)
        x = self._hidden(x)
        return x if pre_logits else self._logits(x)

    @keeps_layout
    def forward_frames(self, x: torch.Tensor) -> torch.Tensor:
        """Classifies every frame of a feature map, pooled over it and the frames before it.

        Args:
            x: Feature map `(B, in_chs, T, H, W)`.

        Returns:
            Logits `(B, T, num_classes)`; without a classifier `(B, T, hidden_chs)`.

        Raises:
            ValueError: If the head does not pool by the average.
        """
        if self.global_pool.pool_type != "avg":
            raise ValueError(f"forward_frames pools by the average, but global_pool is {self.global_pool.pool_type!r}")
        x = self._hidden(running_mean(self.act1(self.bn(self.conv(x)))))
        return on_rows(self.fc, x.flatten(2).transpose(1, 2))

    @keeps_layout
    def forward_dense(
        self,
        x: torch.Tensor,
        window: tuple[int, int],
        temperature: float = 1.0,
        scores: Callable[[torch.Tensor, float], torch.Tensor] = softmax,
    ) -> torch.Tensor:
        """Averages the softmax, or other scores, over the positions of a window that slides over the map.

        Args:
            x: Feature map `(B, in_chs, T, H, W)`.
            window: Height and width of the window in map positions; a larger one is cut to the map.
            temperature: Divisor of the logits before the softmax.
            scores: Computes scores from logits `(B, num_classes, ...)` and the temperature.

        Returns:
            Scores `(B, num_classes)`: probabilities, unless others are asked for.

        Raises:
            ValueError: If the head has no classifier or does not pool by the average.
        """
        if isinstance(self.fc, nn.Identity):
            raise ValueError("forward_dense needs a classifier, but num_classes is 0")
        if self.global_pool.pool_type != "avg":
            raise ValueError(f"forward_dense pools by the average, but global_pool is {self.global_pool.pool_type!r}")
        x = self.act1(self.bn(self.conv(x)))
        size = (x.shape[2], min(window[0], x.shape[3]), min(window[1], x.shape[4]))
        half = x.dtype.itemsize == 2 and x.device.type == "cpu"  # for which PyTorch has no such pooling
        x = F.avg_pool3d(x.float() if half else x, size, stride=1).to(x.dtype)
        return scores(self._logits(self._hidden(x)), temperature).mean((2, 3, 4))
