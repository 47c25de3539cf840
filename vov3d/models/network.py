"""The common base of VoV3D and X3D: stem, stages of blocks, head, and the methods that users of timm expect."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Integral
from typing import Any

import torch
from timm.models._features import feature_take_indices
from torch import nn
from torch.utils.checkpoint import checkpoint

from vov3d.layers import ClassifierHead3d, Stem3d
from vov3d.layers.checks import check_counts, check_rate
from vov3d.layers.conv import as_given, channels_last, keeps_layout, refuse_scripting, stride_to_dilation
from vov3d.layers.head import classes_of
from vov3d.layers.norm_act import LayerType
from vov3d.models.summary import Summary, summarize
from vov3d.weights.config import forget_classifier
from vov3d.weights.state_dict import StateDict, rename
from vov3d.weights.tasks import task_of

# Names that VoV3D and X3D share in the format of PySlowFast: (fragment there, fragment here), see `rename`.
PYSLOWFAST_FRAME = (
    ("^s1.pathway0_stem.conv_xy.", "^stem.conv_s."),
    ("^s1.pathway0_stem.conv.", "^stem.conv_t."),
    ("^s1.pathway0_stem.", "^stem."),
    ("^s2.pathway0_res#.", "^stages.0.blocks.#."),
    ("^s3.pathway0_res#.", "^stages.1.blocks.#."),
    ("^s4.pathway0_res#.", "^stages.2.blocks.#."),
    ("^s5.pathway0_res#.", "^stages.3.blocks.#."),
    (".branch1.", ".shortcut.conv."),
    (".branch1_bn.", ".shortcut.bn."),
    ("^head.conv_5.", "^head.conv."),
    ("^head.conv_5_bn.", "^head.bn."),
    ("^head.lin_5.", "^head.hidden."),
    ("^head.projection.", "^head.fc."),
)


def is_pyslowfast(state_dict: Mapping[str, Any]) -> bool:
    """Returns whether tensors have the names of PySlowFast."""
    return any(name.startswith("s1.pathway0_stem.") for name in state_dict)


def own_factors(state_dict: StateDict, model: nn.Module | None) -> StateDict:
    """Renames kernels that `factorize` split with rank 1 to those of a network built from such pairs.

    Args:
        state_dict: Tensors under our own names.
        model: The model to load; if it was factorized itself, the names are kept. None if it is not known.
    """
    split = ".conv_st.conv_"
    if not any(split in name for name in state_dict):
        return state_dict
    if model is not None and any(split in name for name in model.state_dict()):
        return state_dict
    return rename(state_dict, [(f"{split}{factor}.", f".conv_{factor}.") for factor in "st"])


def check_stages(mid_chs: Sequence[int], out_chs: Sequence[int], depths: Sequence[int], output_stride: int) -> None:
    """Raises ValueError unless stages agree in number and allow `output_stride`; stem and stages have stride 2."""
    for name, numbers in (("mid_chs", mid_chs), ("out_chs", out_chs), ("depths", depths)):
        if isinstance(numbers, str) or not isinstance(numbers, Collection) or not len(numbers):
            raise ValueError(f"{name} must be a tuple of whole numbers, one for each stage, got {numbers!r}")
        check_counts(**{f"{name}[{i}]": number for i, number in enumerate(numbers)})
    if not len(mid_chs) == len(out_chs) == len(depths):
        raise ValueError(f"mid_chs, out_chs and depths must agree in length, got {mid_chs}, {out_chs}, {depths}")
    possible = [2**i for i in range(len(depths) + 1, 0, -1)]
    if output_stride not in possible:
        raise ValueError(
            f"output_stride={output_stride} is not supported: a stem and {len(depths)} stages of stride 2 give"
            f" {possible[0]}, and with dilated last stages {', '.join(map(str, possible[1:]))}"
        )


def drop_path_rates(last: float, num_blocks: int) -> list[float]:
    """Returns rates of stochastic depth, growing evenly from 0 at the first block.

    Raises:
        ValueError: If the last rate is not a probability.
    """
    check_rate("drop_path_rate", last)
    return [float(last) * i / max(num_blocks - 1, 1) for i in range(num_blocks)]


def init_weights(module: nn.Module) -> None:
    """Initialises convolutions Kaiming-normal by the true fan-out (PyTorch's ignores groups), and biases with zero."""
    for m in module.modules():
        if isinstance(m, nn.Conv3d) and not m.weight.is_meta:  # drawing nothing takes longer than drawing
            fan_out = m.out_channels // m.groups * m.weight[0, 0].numel()
            nn.init.normal_(m.weight, std=(2.0 / fan_out) ** 0.5)
            if m.bias is not None:
                nn.init.zeros_(m.bias)


def _is_recomputed() -> bool:
    """Returns whether a backward pass is running, which calls modules again for gradient checkpointing."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


@contextmanager
def _buffers_kept(module: nn.Module) -> Iterator[None]:
    """Lets a module update copies of its buffers, so that recomputing does not update norm statistics a second time."""
    owners = [(m, dict(m._buffers)) for m in module.modules() if m._buffers]
    try:
        for owner, buffers in owners:
            owner._buffers.update({name: None if b is None else b.clone() for name, b in buffers.items()})
        yield
    finally:
        for owner, buffers in owners:
            owner._buffers.update(buffers)


class Stage(nn.Module):
    """Blocks in series, recomputed in the backward pass when gradient checkpointing is on."""

    def __init__(self, blocks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.grad_checkpointing = False
        self.blocks = nn.Sequential(*blocks)

    @keeps_layout
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Runs the blocks."""
        if _is_recomputed():
            with _buffers_kept(self):
                return self.blocks(x)
        if not self.grad_checkpointing or not torch.is_grad_enabled():
            return self.blocks(x)
        for block in self.blocks:
            x = checkpoint(self._block, block, x, use_reentrant=False)
        return x

    @staticmethod
    def _block(block: nn.Module, x: torch.Tensor) -> torch.Tensor:
        if not _is_recomputed():
            return block(x)
        with _buffers_kept(block):
            return block(x)


class VideoNetwork(nn.Module):
    """Stem, stages and head. Every stage halves height and width; time keeps its length.

    Args:
        stages: Blocks of each stage, strided.
        stage_chs: Output channels of each stage.
        output_stride: Stride of the last map; stages beyond it are dilated in place of their stride. None leaves all
            strides as they are.
        in_chans: Channels of the clip.
        stem_chs: Channels of the stem.
        stem_temporal_kernel_size: Temporal kernel of the stem.
        head_chs: Channels that the head pools.
        hidden_chs: Features before the classifier.
        num_classes: Classes; 0 gives the features before the classifier.
        global_pool: Pooling of the head.
        drop_rate: Dropout before the classifier.
        act_layer: Activation of stem and head.
        norm_layer: Norm of stem and head.
        causal: Whether each frame of the output depends only on that frame of the clip and those before it.
        device: Device of the parameters.
        dtype: Floating type of the parameters.
    """

    pretrained_cfg: dict[str, Any]  # set by the builder

    def __init__(
        self,
        stages: list[list[nn.Module]],
        stage_chs: tuple[int, ...],
        *,
        output_stride: int | None = None,
        in_chans: int,
        stem_chs: int,
        stem_temporal_kernel_size: int,
        head_chs: int,
        hidden_chs: int,
        num_classes: int,
        global_pool: str,
        drop_rate: float,
        act_layer: LayerType,
        norm_layer: LayerType,
        causal: bool = False,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        layers: dict[str, Any] = dict(act_layer=act_layer, norm_layer=norm_layer, device=device, dtype=dtype)
        self.in_chans = in_chans
        self.causal = causal
        self._declared_classes: int | None = None
        self._names: tuple[Any, Any] | None = None
        self.num_features = stage_chs[-1]
        self.head_hidden_size = hidden_chs
        reductions = [2 ** (i + 1) for i in range(len(stages) + 1)]
        output_stride, dilation = output_stride or reductions[-1], 1
        self.stem = Stem3d(
            in_chans,
            stem_chs,
            temporal_kernel_size=stem_temporal_kernel_size,
            min_size=output_stride,
            causal=causal,
            **layers,
        )
        for blocks, reduction in zip(stages, reductions[1:], strict=True):
            if reduction > output_stride:
                dilation = stride_to_dilation(blocks, dilation)
        self.stages = nn.Sequential(*(Stage(blocks) for blocks in stages))
        self.head: Any = ClassifierHead3d(
            self.num_features, head_chs, hidden_chs, num_classes, global_pool, drop_rate, **layers
        )
        self.feature_info = [
            dict(
                num_chs=chs,
                reduction=min(reductions[i], output_stride),
                time_reduction=1,
                module=f"stages.{i - 1}" if i else "stem",
            )
            for i, chs in enumerate((stem_chs, *stage_chs))
        ]
        init_weights(self)

    __prepare_scriptable__ = refuse_scripting

    @property
    def num_classes(self) -> int:
        """Classes of the present head; 0 without one.

        Set it if the head does not reveal the number, such as a class of your own without `out_features`.

        Raises:
            ValueError: If the number is unknown and was not set, or a number other than the head's is set.
        """
        found = classes_of(self.head)
        found = self._declared_classes if found is None else found
        if found is None:
            layer = getattr(self.head, "fc", self.head)
            raise ValueError(
                f"the number of classes of the classifier, a {type(layer).__name__}, is unknown; give it"
                " out_features, or set model.num_classes"
            )
        return found

    @num_classes.setter
    def num_classes(self, value: int) -> None:
        found = classes_of(self.head)
        if found is not None and found != value:
            raise ValueError(
                f"num_classes={value} has no effect: the head has {found} classes; call reset_classifier({value}), or"
                " replace the classifier first"
            )
        self._declared_classes = value

    def remember_names(self) -> None:
        """Records that the class names of `pretrained_cfg` are those of the present classifier."""
        cfg = self.pretrained_cfg
        self._names = cfg.get("label_set"), cfg.get("label_names")
        self.get_classifier().names = self._names  # type: ignore[assignment]

    @property
    def lost_names(self) -> tuple[Any, Any] | None:
        """`label_set` and `label_names` of the original classifier if it was replaced, else None."""
        kept = any(vars(layer).get("names") == self._names for layer in self.get_classifier().modules())
        return None if kept else self._names

    @keeps_layout
    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Computes the last feature map `(B, num_features, T, H / output_stride, W / output_stride)` of a clip.

        Height and width are rounded up.
        """
        return self.stages(self.stem(x))

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Computes logits from a feature map.

        Args:
            x: Feature map `(B, num_features, T, H, W)` of `forward_features`.
            pre_logits: Stops before the classifier.

        Returns:
            `(B, num_classes)`, or with `pre_logits` `(B, head_hidden_size)`.

        Raises:
            ValueError: If `pre_logits` is asked of a head of another class.
        """
        if pre_logits:
            return self._own_head("pre_logits=True")(x, pre_logits=True)
        return self.head(x)

    def _own_head(self, wanted: str) -> ClassifierHead3d:
        """Returns the original head.

        Raises:
            ValueError: If it was replaced by one of another class.
        """
        if not isinstance(self.head, ClassifierHead3d):
            raise ValueError(
                f"{wanted} needs the original head, but it was replaced by {type(self.head).__name__};"
                " replace only head.fc to keep it"
            )
        return self.head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Computes logits `(B, num_classes)` of a clip `(B, C, T, H, W)`, in train and eval mode alike.

        Raises:
            ValueError: If the clip has another number of dimensions or channels, or fewer pixels than the strides need.
        """
        return self.forward_head(self.forward_features(x))

    def forward_frames(self, x: torch.Tensor) -> torch.Tensor:
        """Computes logits for every frame of a causal network, each pooled over that frame and those before it.

        Args:
            x: Clip `(B, C, T, H, W)`.

        Returns:
            `(B, T, num_classes)`; those of the last frame equal `forward`.

        Raises:
            ValueError: If the network is not causal, does not pool by the average, or has a head of another class.
        """
        if not self.causal:
            raise ValueError("forward_frames needs a causal network: create it with causal=True")
        return self._own_head("forward_frames").forward_frames(self.forward_features(x))

    def forward_dense(self, x: torch.Tensor, window: int | tuple[int, int] | None = None) -> torch.Tensor:
        """Computes the published evaluation at crops larger than the training crop.

        A window of the head slides over the last map, and the scores of the task (the softmax, unless the weights are
        for another task) are averaged over its positions. Logits are divided by `temperature` before.

        Args:
            x: Clip `(B, C, T, H, W)`.
            window: Height and width of the window in positions of the last map; the map of the training crop
                (`pool_size` of the pretrained configuration) if None. A window larger than the map is cut to the map,
                and the result is the softmax of `forward`.

        Returns:
            Scores `(B, num_classes)`: probabilities, or the values of a regression.

        Raises:
            ValueError: If no window is given or configured, or the head has no classifier or another pooling.
        """
        if window is None:
            window = getattr(self, "pretrained_cfg", {}).get("pool_size")
        if window is None:
            raise ValueError(
                "forward_dense needs a window, and the model's pretrained_cfg has no pool_size; give (7, 7)"
            )
        head = self._own_head("forward_dense")
        given: Any = window
        h, w = (given, given) if isinstance(given, Integral) else given
        if h < 1 or w < 1:
            raise ValueError(f"window must be at least 1x1, got {h}x{w}")
        return head.forward_dense(self.forward_features(x), (h, w), self.temperature, task_of(self).scores)

    @property
    def temperature(self) -> float:
        """Divisor of the logits before the softmax: that of the weights' configuration, 1 for a new classifier."""
        cfg = getattr(self, "pretrained_cfg", {})
        return (cfg.get("num_classes") == self.num_classes and cfg.get("temperature")) or 1.0

    def forward_intermediates(
        self,
        x: torch.Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[torch.Tensor] | tuple[torch.Tensor, list[torch.Tensor]]:
        """Returns the feature maps of stem (index 0) and stages (from 1).

        Args:
            x: Clip `(B, C, T, H, W)`.
            indices: The last n if an integer, all if None, else their indices.
            norm: Must be False: every map ends in its own norm and activation.
            stop_early: Stops after the last map that is asked for.
            output_fmt: Must be `"NCHW"`, timm's name for channels first; maps are `(B, C, T, H, W)`.
            intermediates_only: Leaves out the final feature map.

        Returns:
            The maps, or the final map and the maps.

        Raises:
            ValueError: If `norm` or `output_fmt` has another value, or the indices do not rise.
        """
        if norm:
            raise ValueError("norm=True has no effect here: every feature map ends in its own norm and activation")
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt must be 'NCHW' (channels first; maps are B, C, T, H, W), got {output_fmt!r}")
        levels = len(self.stages) + 1
        take, last = feature_take_indices(levels, indices)
        if take != sorted({*take} & {*range(levels)}):
            raise ValueError(
                f"indices={indices!r} must be whole numbers that rise, without repeats: maps come from the finest to"
                " the coarsest"
            )
        clip = x
        x = self.stem(channels_last(x))
        intermediates = [as_given(x, clip)] if 0 in take else []
        for i, stage in enumerate(self.stages, 1):
            if stop_early and i > last:
                break
            x = stage(x)
            if i in take:
                intermediates.append(as_given(x, clip))
        return intermediates if intermediates_only else (as_given(x, clip), intermediates)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drops the stages after the last wanted feature map (timm's feature getter calls this).

        Args:
            indices: The last n if an integer, else their indices; the stem is 0, stages follow from 1.
            prune_norm: Has no effect, there is no final norm.
            prune_head: Drops the head even if all stages are kept.

        Returns:
            The indices of the kept feature maps.
        """
        del prune_norm  # timm passes it; there is no final norm
        take, last = feature_take_indices(len(self.stages) + 1, indices)
        pruned = last < len(self.stages)
        self.stages = self.stages[:last]
        if pruned:
            self.num_features = self.head_hidden_size = self.feature_info[last]["num_chs"]
        if pruned or prune_head:
            self.head = nn.Identity()
        return take

    def summary(self, num_frames: int | None = None, size: int | None = None, time: bool = False) -> Summary:
        """Counts the network by stage and block: output shapes, parameters, multiply-adds, frames seen.

        Args:
            num_frames: Frames of the clip; those of the weights if None.
            size: Height and width in pixels; the test crop of the weights if None.
            time: Measures the share of time of each part as well, on the model's device.

        Returns:
            A table, which prints as text.

        Raises:
            ValueError: If the clip is too small or unknown, or a model without data is to be timed.
        """
        return summarize(self, num_frames, size, time)

    def get_classifier(self) -> nn.Module:
        """Returns the last linear layer, or the module that replaced it or the head."""
        return getattr(self.head, "fc", self.head)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the classifier by a fresh one, of one label a clip and without a temperature.

        Args:
            num_classes: Classes; 0 removes the classifier.
            global_pool: Another pooling, if given.

        Raises:
            ValueError: If `num_classes` is negative, the pooling does not fit the hidden layer, or the head is one of
                another class.
        """
        self._own_head("reset_classifier").reset(num_classes, global_pool)
        if num_classes:
            forget_classifier(getattr(self, "pretrained_cfg", {}))

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recomputes blocks in the backward pass instead of keeping their activations."""
        for stage in self.stages.children():
            assert isinstance(stage, Stage)
            stage.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Returns parameter groups for layer-wise decay, per stage if coarse, else per block."""
        return dict(stem=r"^stem", blocks=r"^stages\.(\d+)" if coarse else r"^stages\.(\d+)\.blocks\.(\d+)")

    def no_weight_decay(self) -> set[str]:
        """Returns the parameters to exempt besides norms and biases, which timm exempts itself: none."""
        return set()
