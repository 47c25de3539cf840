"""X3D.

Paper: X3D: Expanding Architectures for Efficient Video Recognition, https://arxiv.org/abs/2004.04730

Layout: stem -> four stages of bottlenecks with a depthwise 3x3x3 convolution -> head; the baseline of VoV3D
(`conv="d2plus1d"` is the paper's "D(2+1)D alone", Table 3). Clips are `(B, C, T, H, W)`; every stage halves
height and width, time keeps its length.

Deviations: XS, S and M are one network for clips of different length and size. PyTorchVideo leaves out the norm of
the first stage's shortcut; its weights load with that norm as the exact identity (in evaluation).
"""

from typing import Any

import torch
from timm.models import generate_default_cfgs, register_model
from torch import nn

from vov3d.layers import ConvNormAct3d, D2plus1D
from vov3d.layers.checks import check_counts
from vov3d.layers.norm_act import LayerType
from vov3d.models.builder import build_video_model
from vov3d.models.family import Family, register_family
from vov3d.models.network import (
    PYSLOWFAST_FRAME,
    VideoNetwork,
    check_stages,
    drop_path_rates,
    is_pyslowfast,
    own_factors,
)
from vov3d.weights.config import published_cfg
from vov3d.weights.state_dict import StateDict, rename

__all__ = ["X3D"]


class X3D(VideoNetwork):
    """X3D (https://arxiv.org/abs/2004.04730); the defaults are the published X3D-XS, S and M.

    Args:
        in_chans: Channels of the clip.
        num_classes: Classes; 0 gives the features before the classifier `(B, head_hidden_size)`.
        global_pool: `"avg"`, `"max"`, `"avgmax"`, `"catavgmax"`, or `""` for a map of logits.
        output_stride: Stride of the last map: the network's own, 32 for four stages, or 16, 8, 4, 2, for which the
            last stages are dilated in place of their stride. Weights are the same for all.
        stem_chs: Channels of the stem.
        mid_chs: Middle channels of the bottlenecks, per stage.
        out_chs: Channels of each stage.
        depths: Bottlenecks of each stage.
        head_chs: Channels that the head pools.
        hidden_chs: Features before the classifier.
        kernel_size: Spatial size of the middle convolutions, odd.
        temporal_kernel_size: Temporal size of the middle convolutions, odd.
        stem_temporal_kernel_size: Temporal size of the stem's second convolution, odd.
        se_ratio: Width of squeeze-and-excitation relative to the middle channels; 0 for none.
        se_every_other: Squeeze-and-excitation in every other bottleneck of a stage only.
        conv: Middle convolution of the bottlenecks: `"3d"`, `"r2plus1d"`, `"dw3d"`, `"d1plus2d"` or
            `"d2plus1d"`.
        act_layer: Activation of 1x1x1 convolutions and sums.
        mid_act_layer: Activation after middle convolutions.
        norm_layer: Norm, a name or a class.
        drop_rate: Dropout before the classifier.
        drop_path_rate: Stochastic depth of the last bottleneck, growing from 0 at the first.
        zero_init_last: Starts the bottlenecks' last norms at zero.
        causal: Each output frame depends only on that frame of the clip and those before it: convolutions are padded
            before the clip only, squeeze-and-excitation and `forward_frames` pool over the frames so far. Weights are
            the same.
        device: Device of the parameters.
        dtype: Floating type of the parameters.

    Raises:
        ValueError: If stages do not agree in number, or an argument is not allowed.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 400,
        global_pool: str = "avg",
        output_stride: int = 32,
        stem_chs: int = 24,
        mid_chs: tuple[int, ...] = (54, 108, 216, 432),
        out_chs: tuple[int, ...] = (24, 48, 96, 192),
        depths: tuple[int, ...] = (3, 5, 11, 7),
        head_chs: int = 432,
        hidden_chs: int = 2048,
        kernel_size: int = 3,
        temporal_kernel_size: int = 3,
        stem_temporal_kernel_size: int = 5,
        se_ratio: float = 1 / 16,
        se_every_other: bool = True,
        conv: str = "dw3d",
        act_layer: LayerType = "relu",
        mid_act_layer: LayerType = "silu",
        norm_layer: LayerType = "batchnorm3d",
        drop_rate: float = 0.5,
        drop_path_rate: float = 0.0,
        zero_init_last: bool = True,
        causal: bool = False,
        device=None,
        dtype=None,
    ) -> None:
        check_counts(stem_chs=stem_chs, head_chs=head_chs, hidden_chs=hidden_chs)
        check_stages(mid_chs, out_chs, depths, output_stride)
        dd: dict[str, Any] = dict(device=device, dtype=dtype)
        rates = drop_path_rates(drop_path_rate, sum(depths))
        stages: list[list[nn.Module]] = []
        in_chs = stem_chs
        for mid, out, depth in zip(mid_chs, out_chs, depths, strict=True):
            stages.append([])
            for i in range(depth):
                stride = 1 if i else 2
                shortcut = stride == 1 and in_chs == out
                block = D2plus1D(
                    in_chs,
                    mid,
                    out,
                    stride=stride,
                    kernel_size=kernel_size,
                    temporal_kernel_size=temporal_kernel_size,
                    se_ratio=0 if se_every_other and i % 2 else se_ratio,
                    shortcut=shortcut
                    or ConvNormAct3d(in_chs, out, stride=stride, norm_layer=norm_layer, act_layer=None, **dd),
                    act_layer=act_layer,
                    mid_act_layer=mid_act_layer,
                    norm_layer=norm_layer,
                    conv=conv,
                    drop_path=rates.pop(0),
                    zero_init_last=zero_init_last,
                    causal=causal,
                    **dd,
                )
                stages[-1].append(block)
                in_chs = out
        super().__init__(
            stages,
            out_chs,
            output_stride=output_stride,
            in_chans=in_chans,
            stem_chs=stem_chs,
            stem_temporal_kernel_size=stem_temporal_kernel_size,
            head_chs=head_chs,
            hidden_chs=hidden_chs,
            num_classes=num_classes,
            global_pool=global_pool,
            drop_rate=drop_rate,
            causal=causal,
            act_layer=act_layer,
            norm_layer=norm_layer,
            **dd,
        )


_PYSLOWFAST_NAMES = (
    *PYSLOWFAST_FRAME,
    (".branch2.a.", ".conv_pw."),
    (".branch2.a_bn.", ".bn1."),
    (".branch2.b.", ".conv_st."),
    (".branch2.b_bn.", ".bn2."),
    (".branch2.se.", ".se."),
    (".branch2.c.", ".conv_pwl."),
    (".branch2.c_bn.", ".bn3."),
)

# PyTorchVideo calls the stem's spatial convolution conv_t and its temporal one conv_xy.
_PYTORCHVIDEO_NAMES = (
    ("^blocks.0.conv.conv_t.", "^stem.conv_s."),
    ("^blocks.0.conv.conv_xy.", "^stem.conv_t."),
    ("^blocks.0.norm.", "^stem.bn."),
    ("^blocks.1.res_blocks.", "^stages.0.blocks."),
    ("^blocks.2.res_blocks.", "^stages.1.blocks."),
    ("^blocks.3.res_blocks.", "^stages.2.blocks."),
    ("^blocks.4.res_blocks.", "^stages.3.blocks."),
    (".branch1_conv.", ".shortcut.conv."),
    (".branch1_norm.", ".shortcut.bn."),
    (".branch2.conv_a.", ".conv_pw."),
    (".branch2.norm_a.", ".bn1."),
    (".branch2.conv_b.", ".conv_st."),
    (".branch2.norm_b.0.", ".bn2."),
    (".branch2.norm_b.1.block.0.", ".se.fc1."),
    (".branch2.norm_b.1.block.2.", ".se.fc2."),
    (".branch2.conv_c.", ".conv_pwl."),
    (".branch2.norm_c.", ".bn3."),
    ("^blocks.5.pool.pre_conv.", "^head.conv."),
    ("^blocks.5.pool.pre_norm.", "^head.bn."),
    ("^blocks.5.pool.post_conv.", "^head.hidden."),
    ("^blocks.5.proj.", "^head.fc."),
)
_SHORTCUT = ".shortcut.conv.weight"


def _identity_norm(chs: int, eps: float = 1e-5) -> StateDict:
    """Returns a norm that is the identity in evaluation: x / sqrt(1 + eps) * sqrt(1 + eps)."""
    ones = torch.ones(chs)
    return dict(
        weight=ones * (1 + eps) ** 0.5,
        bias=ones * 0,
        running_mean=ones * 0,
        running_var=ones.clone(),
        num_batches_tracked=torch.tensor(0),
    )


def _shortcuts_without_norm(state_dict: StateDict) -> list[str]:
    """Returns the shortcuts that have no norm in PyTorchVideo: those that keep the width."""
    found = [name for name, v in state_dict.items() if name.endswith(_SHORTCUT) and v.shape[0] == v.shape[1]]
    return [name.removesuffix(".conv.weight") for name in found]


def _is_pytorchvideo(state_dict: StateDict) -> bool:
    return any(name.startswith(("blocks.0.conv.", "blocks.0.norm.")) for name in state_dict)


def checkpoint_filter_fn(state_dict: StateDict, model: nn.Module) -> StateDict:
    """Renames the PySlowFast and PyTorchVideo formats to this model's names; keeps own names, also of split kernels."""
    if is_pyslowfast(state_dict):
        return rename(state_dict, _PYSLOWFAST_NAMES)
    if not _is_pytorchvideo(state_dict):
        return own_factors(state_dict, model)
    state_dict = rename(state_dict, _PYTORCHVIDEO_NAMES)
    for shortcut in _shortcuts_without_norm(state_dict):
        norm = _identity_norm(state_dict[f"{shortcut}.conv.weight"].shape[0])
        state_dict = {f"{shortcut}.bn.{k}": v for k, v in norm.items()} | state_dict
    return state_dict


def _to_pytorchvideo(state_dict: StateDict) -> StateDict:
    """Removes the norms that PyTorchVideo lacks; folds them into their neighbours if they were trained."""
    for shortcut in _shortcuts_without_norm(state_dict):
        identity = _identity_norm(state_dict[f"{shortcut}.conv.weight"].shape[0])
        norm = {k: state_dict[f"{shortcut}.bn.{k}"] for k in identity}
        state_dict = {k: v for k, v in state_dict.items() if not k.startswith(f"{shortcut}.bn.")}
        if any(not torch.equal(norm[k].cpu(), v.to(norm[k].dtype)) for k, v in identity.items()):
            _fold_norm(state_dict, shortcut, norm)
    return rename(state_dict, _PYTORCHVIDEO_NAMES, back=True)


def _fold_norm(state_dict: StateDict, shortcut: str, norm: StateDict, eps: float = 1e-5) -> None:
    """Folds a norm's scale into its convolution and its offset into the norm that the shortcut is added to."""
    scale = norm["weight"] / (norm["running_var"] + eps).sqrt()
    offset = norm["bias"] - norm["running_mean"] * scale
    state_dict[f"{shortcut}.conv.weight"] = state_dict[f"{shortcut}.conv.weight"] * scale.view(-1, 1, 1, 1, 1)
    last = f"{shortcut.removesuffix('.shortcut')}.bn3.bias"
    state_dict[last] = state_dict[last] + offset


_M = dict(mid_chs=(54, 108, 216, 432), depths=(3, 5, 11, 7))
model_cfgs: dict[str, dict[str, Any]] = {
    "x3d_xs": _M,
    "x3d_s": _M,
    "x3d_m": _M,
    "x3d_l": dict(depths=(5, 10, 25, 15)),
}


def _published(rows: dict[str, tuple]) -> dict[str, Any]:
    """Builds the configurations of VoV3D's authors from rows of file, top-1, top-5, multiply-adds per view."""
    cfgs = {}
    for name, (file, top1, top5, gmacs, *crop) in rows.items():
        url = f"https://dl.dropbox.com/s/{file}"
        size = crop[0] if crop else 256
        cfgs[name] = published_cfg(name, url, top1=top1, top5=top5, gmacs_per_view=gmacs, test_input_size=size)
    return cfgs


def _pytorchvideo(rows: dict[str, tuple]) -> dict[str, Any]:
    """Builds PyTorchVideo's configurations from rows of file, frames, stride, both crops, accuracies, GMACs."""
    cfgs = {}
    for name, (file, frames, stride, input_size, test_input_size, top1, top5, gmacs) in rows.items():
        cfgs[name] = published_cfg(
            name,
            f"https://dl.fbaipublicfiles.com/pytorchvideo/model_zoo/kinetics/{file}",
            frames,
            stride,
            source="pytorchvideo",
            input_size=input_size,
            test_input_size=test_input_size,
            top1=top1,
            top5=top5,
            gmacs_per_view=gmacs,
        )
    return cfgs


# x3d_l's multiply-adds on Kinetics are those of a 224-pixel test crop, all others of the authors' of 256.
default_cfgs = generate_default_cfgs(
    _published(
        {
            "x3d_m.k400_f16": ("s87lnn7ch4a6e47/x3d_M_256e_k400.pth", 75.1, 92.2, 6.2),
            "x3d_m.ssv1_f16": ("lb9uvj4tl19xzmn/x3d_M_ssv1.pth", 46.4, 75.3, 6.1),
            "x3d_m.ssv2_f16": ("b6gjywzrn85sa89/x3d_M_ssv2.pth", 63.1, 88.0, 6.1),
            "x3d_l.k400_f16": ("jhw5439tyvmtjzp/x3d_L_256e_256scale_k400.pth", 76.1, 92.6, 9.1, 224),
            "x3d_l.ssv1_f16": ("yixwwfv6mv2bpnd/x3d_L_ssv1.pth", 47.1, 76.5, 12.0),
            "x3d_l.ssv2_f16": ("iaqwbejrkbd7372/x3d_L_ssv2.pth", 62.7, 87.8, 12.0),
        }
    )
    | _pytorchvideo(
        {
            "x3d_xs.k400_ptv": ("X3D_XS.pyth", 4, 12, 160, 182, 69.12, 88.63, 0.91),
            "x3d_s.k400_ptv": ("X3D_S.pyth", 13, 6, 160, 182, 73.33, 91.27, 2.96),
            "x3d_m.k400_ptv": ("X3D_M.pyth", 16, 5, 224, 256, 75.94, 92.72, 6.72),
            "x3d_l.k400_ptv": ("X3D_L.pyth", 16, 5, 312, 356, 77.44, 93.31, 26.64),
        }
    )
)

_FAMILY = register_family(
    Family(
        X3D,
        checkpoint_filter_fn,
        conv="dw3d",
        variants=model_cfgs,
        formats={
            "slowfast": lambda state_dict: rename(state_dict, _PYSLOWFAST_NAMES, back=True),
            "pytorchvideo": _to_pytorchvideo,
        },
        # The window of forward_dense, the crops and the licence are those of PyTorchVideo.
        tag_of=lambda state_dict: "k400_ptv" if _is_pytorchvideo(state_dict) else None,
    )
)


def _create_x3d(variant: str, pretrained: bool, **kwargs: Any) -> X3D:
    return build_video_model(_FAMILY, variant, pretrained, model_cfgs[variant], **kwargs)  # type: ignore[return-value]


@register_model
def x3d_xs(pretrained: bool = False, **kwargs: Any) -> X3D:
    """X3D-XS: the network of X3D-M for 4 frames of 160 pixels."""
    return _create_x3d("x3d_xs", pretrained, **kwargs)


@register_model
def x3d_s(pretrained: bool = False, **kwargs: Any) -> X3D:
    """X3D-S: the network of X3D-M for 13 frames of 160 pixels."""
    return _create_x3d("x3d_s", pretrained, **kwargs)


@register_model
def x3d_m(pretrained: bool = False, **kwargs: Any) -> X3D:
    """X3D-M: 3.8 M parameters with 400 classes, 6.2 GMACs at 16x256x256."""
    return _create_x3d("x3d_m", pretrained, **kwargs)


@register_model
def x3d_l(pretrained: bool = False, **kwargs: Any) -> X3D:
    """X3D-L: the deeper X3D-M, 6.2 M parameters with 400 classes, 12.0 GMACs at 16x256x256."""
    return _create_x3d("x3d_l", pretrained, **kwargs)
