"""VoV3D.

Paper: Diverse Temporal Aggregation and Depthwise Spatiotemporal Factorization for Efficient Video Classification,
https://arxiv.org/abs/2012.00317

Layout: stem -> four stages of T-OSA modules made of D(2+1)D bottlenecks -> head of X3D. Clips are
`(B, C, T, H, W)`; every stage halves height and width, time keeps its length.

Deviations: depths are those whose parameters and multiply-adds the paper reports (its Table 2 prints others for M);
`forward` returns logits in evaluation too, the published averaging of softmax over a larger crop is
`forward_dense`; convolutions start from the true fan-out, which the published initialisation takes without groups.
"""

from typing import Any

from timm.models import generate_default_cfgs, register_model
from torch import nn

from vov3d.layers import TOSA
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

__all__ = ["VoV3D"]


class VoV3D(VideoNetwork):
    """VoV3D (https://arxiv.org/abs/2012.00317, Table 2); the defaults are the published VoV3D-M.

    Args:
        in_chans: Channels of the clip.
        num_classes: Classes; 0 gives the features before the classifier `(B, head_hidden_size)`.
        global_pool: `"avg"`, `"max"`, `"avgmax"`, `"catavgmax"`, or `""` for a map of logits.
        output_stride: Stride of the last map: the network's own, 32 for four stages, or 16, 8, 4, 2, for which the
            last stages are dilated in place of their stride. Weights are the same for all.
        stem_chs: Channels of the stem.
        mid_chs: Middle channels of the bottlenecks, per stage; even.
        out_chs: Channels of each stage.
        depths: T-OSA modules of each stage.
        num_blocks: Bottlenecks of each T-OSA module.
        head_chs: Channels that the head pools.
        hidden_chs: Features before the classifier.
        kernel_size: Spatial size of the middle convolutions, odd.
        temporal_kernel_size: Temporal size of the middle convolutions, odd.
        stem_temporal_kernel_size: Temporal size of the stem's second convolution, odd.
        se_ratio: Width of squeeze-and-excitation relative to the middle channels; 0 for none.
        se_every_other: Squeeze-and-excitation in every other bottleneck of a module only.
        conv: Middle convolution of the bottlenecks: `"3d"`, `"r2plus1d"`, `"dw3d"`, `"d1plus2d"` or
            `"d2plus1d"` (Table 4).
        act_layer: Activation of 1x1x1 convolutions and sums.
        mid_act_layer: Activation after middle convolutions.
        norm_layer: Norm, a name or a class.
        drop_rate: Dropout before the classifier.
        drop_path_rate: Stochastic depth of the last module, growing from 0 at the first.
        zero_init_last: Starts the aggregations' norms at zero.
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
        stem_chs: int = 20,
        mid_chs: tuple[int, ...] = (40, 80, 160, 320),
        out_chs: tuple[int, ...] = (20, 40, 80, 160),
        depths: tuple[int, ...] = (1, 2, 3, 2),
        num_blocks: int = 5,
        head_chs: int = 320,
        hidden_chs: int = 2048,
        kernel_size: int = 3,
        temporal_kernel_size: int = 3,
        stem_temporal_kernel_size: int = 5,
        se_ratio: float = 1 / 16,
        se_every_other: bool = True,
        conv: str = "d2plus1d",
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
        layers: dict[str, Any] = dict(act_layer=act_layer, norm_layer=norm_layer, device=device, dtype=dtype)
        rates = drop_path_rates(drop_path_rate, sum(depths))
        stages: list[list[nn.Module]] = []
        in_chs = stem_chs
        for mid, out, depth in zip(mid_chs, out_chs, depths, strict=True):
            stages.append([])
            for i in range(depth):
                tosa = TOSA(
                    in_chs,
                    mid,
                    out,
                    num_blocks=num_blocks,
                    stride=1 if i else 2,
                    kernel_size=kernel_size,
                    temporal_kernel_size=temporal_kernel_size,
                    se_ratio=se_ratio,
                    se_every_other=se_every_other,
                    conv=conv,
                    mid_act_layer=mid_act_layer,
                    drop_path=rates.pop(0),
                    zero_init_last=zero_init_last,
                    causal=causal,
                    **layers,
                )
                stages[-1].append(tosa)
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
            **layers,
        )


_PYSLOWFAST_NAMES = (
    *PYSLOWFAST_FRAME,
    (".branch2.c.", ".conv_agg."),
    (".branch2.c_bn.", ".bn_agg."),
    (".branch2.layers.", ".layers."),
    (".layers.#.a.0.", ".layers.#.conv_pw."),
    (".layers.#.a.1.", ".layers.#.bn1."),
    (".layers.#.b1.", ".layers.#.conv_s."),
    (".layers.#.b2.", ".layers.#.conv_t."),
    (".layers.#.b_bn.", ".layers.#.bn2."),
    (".layers.#.c.0.", ".layers.#.conv_pwl."),
    (".layers.#.c.1.", ".layers.#.bn3."),
)


def checkpoint_filter_fn(state_dict: StateDict, model: nn.Module) -> StateDict:
    """Renames the published PySlowFast format to this model's names; keeps own names, also of split kernels."""
    return rename(state_dict, _PYSLOWFAST_NAMES) if is_pyslowfast(state_dict) else own_factors(state_dict, model)


model_cfgs: dict[str, dict[str, Any]] = {
    "vov3d_n": dict(
        output_stride=16,
        stem_chs=12,
        mid_chs=(24, 48, 96),
        out_chs=(16, 32, 64),
        depths=(1, 1, 2),
        head_chs=128,
        hidden_chs=256,
        drop_rate=0.0,
    ),
    "vov3d_m": dict(),
    "vov3d_l": dict(
        stem_chs=24, mid_chs=(48, 96, 192, 384), out_chs=(24, 48, 96, 192), depths=(1, 2, 5, 3), head_chs=384
    ),
}


def _published(rows: dict[str, tuple]) -> dict[str, Any]:
    """Builds configurations from rows of file, frames, label set fine-tuned from, top-1, top-5, GMACs per view."""
    cfgs = {}
    for name, (file, frames, pretrained_on, top1, top5, gmacs, *crop) in rows.items():
        cfgs[name] = published_cfg(
            name,
            f"https://dl.dropbox.com/s/{file}",
            frames,
            pretrained_on=pretrained_on,
            top1=top1,
            top5=top5,
            gmacs_per_view=gmacs,
            test_input_size=crop[0] if crop else 256,
        )
    return cfgs


# The authors' model zoo. vov3d_l's multiply-adds on Kinetics are those of a 224-pixel test crop, all others of 256.
default_cfgs = generate_default_cfgs(
    _published(
        {
            "vov3d_m.k400_f16": ("8qbewp3teb51jfb/vov3d_M_k400_weight.pth", 16, None, 74.7, 92.1, 6.4),
            "vov3d_m.ssv1_f16": ("usbcudmhpknqvtd/vov3d_M_f16_ssv1.pth", 16, None, 49.0, 78.2, 6.4),
            "vov3d_m.ssv1_f32": ("fvet69zyeswe25v/vov3d_M_f32_ssv1.pth", 32, None, 50.1, 79.2, 12.8),
            "vov3d_m.ssv1_f32_ft_k400": ("7qzdrv7p2l12mor/vov3d_M_f32_finetune_ssv1.pth", 32, "k400", 53.3, 81.2, 12.8),
            "vov3d_m.ssv2_f16": ("hz34ltdl6iukdxc/vov3d_M_f16_ssv2.pth", 16, None, 63.6, 88.6, 6.4),
            "vov3d_m.ssv2_f32": ("z6qtyjgf0v13jnq/vov3d_M_f32_ssv2.pth", 32, None, 64.3, 88.9, 12.8),
            "vov3d_m.ssv2_f32_ft_k400": ("dpkbx6wjkay7ret/vov3d_M_f32_finetune_ssv2.pth", 32, "k400", 65.8, 89.6, 12.8),
            "vov3d_l.k400_f16": ("ah2azwbocxro9qa/vov3d_L_k400_weight.pth", 16, None, 76.3, 92.9, 9.3, 224),
            "vov3d_l.ssv1_f16": ("bdjam5tyaedkczl/vov3d_L_f16_ssv1.pth", 16, None, 49.5, 78.0, 12.1),
            "vov3d_l.ssv1_f32": ("g6lc5sj8h7f2r5v/vov3d_L_f32_ssv1.pth", 32, None, 50.6, 78.7, 24.3),
            "vov3d_l.ssv1_f32_ft_k400": ("4q2fupr3gcht1ik/vov3d_L_f32_finetune_ssv1.pth", 32, "k400", 54.7, 82.0, 24.3),
            "vov3d_l.ssv2_f16": ("678efl8zyrmq7ch/vov3d_L_f16_ssv2.pth", 16, None, 64.5, 88.7, 12.1),
            "vov3d_l.ssv2_f32": ("f4330e5htdiwqa5/vov3d_L_f32_ssv2.pth", 32, None, 65.9, 89.6, 24.3),
            "vov3d_l.ssv2_f32_ft_k400": ("sly5orjsi2zl84a/vov3d_L_f32_finetune_ssv2.pth", 32, "k400", 67.4, 90.5, 24.3),
        }
    )
    | {
        # Trained by the command in docs/guides/training.md; the test set has another seed.
        "vov3d_n.shapes_f8": published_cfg(
            "vov3d_n.shapes_f8",
            None,
            8,
            input_size=64,
            test_input_size=64,
            output_stride=16,
            top1=99.1,
            top5=100.0,
            gmacs_per_view=0.047,
            temperature=1.45,  # by examples/packaged_model.py
        ),
        # Fine-tuned from it for streams: docs/measure/stream_model.py.
        "vov3d_n.shapes_stream": published_cfg(
            "vov3d_n.shapes_stream",
            None,
            8,
            input_size=64,
            test_input_size=64,
            output_stride=16,
            top1=98.7,
            top5=100.0,
            gmacs_per_view=0.047,
            causal=True,
        ),
    }
)

_FAMILY = register_family(
    Family(
        VoV3D,
        checkpoint_filter_fn,
        conv="d2plus1d",
        variants=model_cfgs,
        formats={"slowfast": lambda state_dict: rename(state_dict, _PYSLOWFAST_NAMES, back=True)},
    )
)


def _create_vov3d(variant: str, pretrained: bool, **kwargs: Any) -> VoV3D:
    return build_video_model(_FAMILY, variant, pretrained, model_cfgs[variant], **kwargs)  # type: ignore[return-value]


@register_model
def vov3d_n(pretrained: bool = False, **kwargs: Any) -> VoV3D:
    """VoV3D-N: three stages of narrow T-OSA modules, 0.23 M parameters; its weights come with the package.

    It is not in the paper. It classifies the twenty motions of `vov3d.synthetic.moving_shapes` in clips of 8 x 64 x 64.
    """
    return _create_vov3d("vov3d_n", pretrained, **kwargs)


@register_model
def vov3d_m(pretrained: bool = False, **kwargs: Any) -> VoV3D:
    """VoV3D-M: base width 40, 3.7 M parameters with 400 classes, 6.4 GMACs at 16x256x256 (Table 2)."""
    return _create_vov3d("vov3d_m", pretrained, **kwargs)


@register_model
def vov3d_l(pretrained: bool = False, **kwargs: Any) -> VoV3D:
    """VoV3D-L: base width 48, 6.3 M parameters with 400 classes, 12.2 GMACs at 16x256x256 (Table 2)."""
    return _create_vov3d("vov3d_l", pretrained, **kwargs)
