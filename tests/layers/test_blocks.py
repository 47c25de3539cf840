"""D(2+1)D, T-OSA, squeeze-and-excitation and the head on their own."""

import inspect
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import vov3d
from vov3d.layers import MIDDLE_CONVS, ClassifierHead3d, ConvNormAct3d, SqueezeExcite3d, Stem3d


def randomize_norms(module: torch.nn.Module) -> None:
    for m in module.modules():
        if isinstance(m, torch.nn.BatchNorm3d):
            torch.nn.init.uniform_(m.weight, 0.5, 1.5)
            torch.nn.init.normal_(m.running_mean, std=0.1)
            torch.nn.init.uniform_(m.running_var, 0.5, 1.5)


@pytest.mark.parametrize("conv", MIDDLE_CONVS)
@pytest.mark.parametrize(("in_chs", "stride"), [(24, 1), (12, 1), (24, 2)])
def test_d2plus1d_stands_alone(conv, in_chs, stride):
    block = vov3d.D2plus1D(in_chs, 54, 24, stride=stride, conv=conv)
    x = torch.randn(2, in_chs, 3, 9, 7, requires_grad=True)
    out = block(x)
    assert out.shape == (2, 24, 3, -(-9 // stride), -(-7 // stride))
    assert (block.shortcut is not None) == (in_chs == 24 and stride == 1)
    out.sum().backward()
    assert all(p.grad is not None for p in block.parameters())


@settings(deadline=None, max_examples=30)
@given(
    chs=st.integers(1, 6),
    t=st.sampled_from([1, 3, 5]),
    k=st.sampled_from([1, 3, 5]),
    stride=st.integers(1, 2),
    seed=st.integers(0, 2**31),
    order=st.sampled_from(["d2plus1d", "d1plus2d"]),
)
def test_the_pair_is_a_depthwise_kernel_that_is_an_outer_product(chs, t, k, stride, seed, order):
    torch.manual_seed(seed)
    args = dict(stride=stride, kernel_size=k, temporal_kernel_size=t, dtype=torch.float64)
    pair = vov3d.D2plus1D(chs, 8, chs, conv=order, **args).eval()
    whole = vov3d.D2plus1D(chs, 8, chs, conv="dw3d", **args).eval()
    randomize_norms(pair)
    state = {name: value for name, value in pair.state_dict().items() if name not in ("conv_s.weight", "conv_t.weight")}
    state["conv_st.weight"] = pair.conv_t.weight.detach() * pair.conv_s.weight.detach()
    whole.load_state_dict(state)
    x = torch.randn(2, chs, 6, 7, 8, dtype=torch.float64)
    torch.testing.assert_close(pair(x), whole(x), rtol=1e-10, atol=1e-10)


def test_shortcut_false_and_module():
    x = torch.randn(1, 4, 2, 4, 4)
    projection = vov3d.ConvNormAct3d(4, 6, act_layer=None)
    with_projection = vov3d.D2plus1D(4, 8, 6, shortcut=projection, zero_init_last=True).eval()
    torch.testing.assert_close(with_projection(x), F.relu(projection.eval()(x)))
    plain = vov3d.D2plus1D(4, 8, 4, shortcut=False, zero_init_last=True).eval()
    assert torch.equal(plain(x), torch.zeros_like(x))
    with pytest.raises(ValueError, match=r"shortcut must be True, False or a module .* got 1"):
        vov3d.D2plus1D(4, 8, 4, shortcut=1)  # was once taken for False


@pytest.mark.parametrize("block", [vov3d.D2plus1D, vov3d.TOSA])
def test_a_norm_without_a_weight_cannot_start_at_zero(block):
    with pytest.raises(ValueError, match=r"Identity\(\) has none; give zero_init_last=False"):
        block(4, 8, 4, norm_layer=nn.Identity, zero_init_last=True)
    assert block(4, 8, 4, norm_layer=nn.Identity, zero_init_last=False)(torch.ones(1, 4, 2, 3, 3)).shape[1] == 4


@pytest.mark.parametrize("settings", [{"stride": (1, 2, 2)}, {"stride": 0}, {"kernel_size": (3, 3)}])
def test_sizes_are_one_number(settings):
    (name,) = settings
    with pytest.raises(ValueError, match=f"^{name} must be one whole number of at least 1, got"):
        vov3d.D2plus1D(4, 8, 4, **settings)


def test_se_width_is_never_far_below_its_ratio():
    widths = {chs: SqueezeExcite3d(chs).fc1.out_channels for chs in (40, 54, 160, 216, 432)}
    assert widths == {40: 8, 54: 8, 160: 16, 216: 16, 432: 32}


def test_tosa_shapes_shortcut_and_se():
    block = vov3d.TOSA(24, 48, 40, stride=2)
    assert block(torch.randn(1, 24, 4, 9, 9)).shape == (1, 40, 4, 5, 5)
    assert [hasattr(layer.se, "fc1") for layer in block.layers] == [True, False, True, False, True]
    assert block.conv_agg.in_channels == 5 * 24
    same = vov3d.TOSA(40, 48, 40, se_every_other=False).eval()
    assert same.conv_agg.in_channels == 5 * 24 + 40
    assert all(hasattr(layer.se, "fc1") for layer in same.layers)
    x = torch.randn(1, 40, 4, 5, 5)
    torch.testing.assert_close(same(x), x.relu())  # its last norm starts at zero


def test_tosa_refuses_odd_widths_and_no_blocks():
    with pytest.raises(ValueError, match="mid_chs must be even.*got 27"):
        vov3d.TOSA(24, 27, 40)
    with pytest.raises(ValueError, match="num_blocks must be a whole number of at least 1, got 0"):
        vov3d.TOSA(24, 48, 40, num_blocks=0)


COUNTS, RATES, FLAGS = ("3", 2.5, 0, -1, None, [1, 2], True), ("0.1", 1.5, -1, float("nan"), [0.1]), ("false", 2, None)


@pytest.mark.parametrize("block", [vov3d.D2plus1D, vov3d.TOSA, ConvNormAct3d, Stem3d])
def test_blocks_refuse_arguments_of_another_kind_by_name(block):
    parameters = inspect.signature(block).parameters
    good = {name: 8 for name, parameter in parameters.items() if parameter.default is parameter.empty}
    kinds = {"chs": COUNTS, "chans": COUNTS, "blocks": COUNTS, "groups": COUNTS, "path": RATES, "last": FLAGS}
    for name in parameters:
        values = FLAGS if name in ("causal", "se_every_other") else kinds.get(name.rsplit("_", 1)[-1], ())
        for value in values:
            with pytest.raises(ValueError, match=rf"{name} must be .*got {re.escape(repr(value))}"):
                block(**good | {name: value})


def test_blocks_take_counts_and_rates_of_numpy():
    block = vov3d.TOSA(np.int64(8), np.int32(8), np.int64(8), num_blocks=np.int64(2), drop_path=np.float32(0.1))
    assert block(torch.randn(1, 8, 2, 4, 4)).shape == (1, 8, 2, 4, 4)


def measured_field(block: torch.nn.Module, layer: int) -> int:
    """Returns the number of frames whose change reaches the middle frame of a bottleneck's output."""
    frames = 41
    x = torch.randn(1, 4, frames, 3, 3, dtype=torch.float64, requires_grad=True)
    y = x
    for module in block.layers[: layer + 1]:
        y = module(y)
    (grad,) = torch.autograd.grad(y[:, :, frames // 2].sum(), x)
    return int((grad.abs().amax((0, 1, 3, 4)) > 0).sum())


@settings(deadline=None, max_examples=25)
@given(
    conv=st.sampled_from(MIDDLE_CONVS),
    t=st.sampled_from([1, 3, 5]),
    num_blocks=st.integers(1, 5),
    stride=st.integers(1, 2),
)
def test_temporal_receptive_fields_are_those_measured(conv, t, num_blocks, stride):
    torch.manual_seed(0)
    # Squeeze-and-excitation sees the whole clip, and ReLU may hide a frame: neither is part of the formula.
    block = vov3d.TOSA(
        4,
        8,
        4,
        num_blocks,
        stride,
        temporal_kernel_size=t,
        se_ratio=0,
        conv=conv,
        act_layer="silu",
        dtype=torch.float64,
    ).eval()
    fields = block.temporal_receptive_fields()
    measured = [measured_field(block, i) for i in range(num_blocks)]
    assert fields == ([1] if stride == 1 else []) + measured
    assert measured == [1 + (i + 1) * (t - 1) for i in range(num_blocks)]


@settings(deadline=None, max_examples=30)
@given(
    frames=st.integers(1, 4),
    h=st.integers(1, 9),
    w=st.integers(1, 9),
    extra=st.integers(0, 3),
)
def test_dense_head_is_the_softmax_where_the_window_covers_the_map(frames, h, w, extra):
    head = ClassifierHead3d(6, 8, 10, num_classes=5, dtype=torch.float64).eval()
    x = torch.randn(2, 6, frames, h, w, dtype=torch.float64)
    torch.testing.assert_close(head.forward_dense(x, (h + extra, w + extra)), head(x).softmax(1))


@settings(deadline=None, max_examples=30)
@given(h=st.integers(3, 9), w=st.integers(2, 9))
def test_dense_head_averages_the_softmax_of_its_windows(h, w):
    head = ClassifierHead3d(6, 8, 10, num_classes=5, dtype=torch.float64).eval()
    x = torch.randn(1, 6, 2, h, w, dtype=torch.float64)
    windows = [head(x[..., i : i + 3, j : j + 2]).softmax(1) for i in range(h - 2) for j in range(w - 1)]
    torch.testing.assert_close(head.forward_dense(x, (3, 2)), torch.stack(windows).mean(0))


@pytest.mark.parametrize("pool", ["avg", "max", "avgmax", "catavgmax"])
def test_head_pools_over_the_whole_clip(pool):
    head = ClassifierHead3d(6, 8, 10, num_classes=5, global_pool=pool).eval()
    x = torch.randn(2, 6, 3, 4, 5)
    out = head(x)
    assert out.shape == (2, 5)
    permuted = x.flatten(2)[..., torch.randperm(60)].view_as(x)
    torch.testing.assert_close(head(permuted), out)
    assert head(x, pre_logits=True).shape == (2, 10)


def test_head_without_pooling_gives_a_map_of_the_pooled_answer():
    pooled = ClassifierHead3d(6, 8, 10, num_classes=5).eval()
    dense = ClassifierHead3d(6, 8, 10, num_classes=5, global_pool="").eval()
    dense.load_state_dict(pooled.state_dict())
    x = torch.randn(2, 6, 1, 1, 1).expand(2, 6, 3, 4, 5)
    torch.testing.assert_close(dense(x), pooled(x).view(2, 5, 1, 1, 1).expand(2, 5, 3, 4, 5))
    dense.reset(0)
    assert dense(x).shape == (2, 10, 3, 4, 5)


def test_head_errors():
    with pytest.raises(ValueError, match="global_pool='mean' is not known"):
        ClassifierHead3d(6, 8, global_pool="mean")
    with pytest.raises(ValueError, match="num_classes must be 0 or more, got -1"):
        ClassifierHead3d(6, 8, num_classes=-1)
    with pytest.raises(ValueError, match="changes the width of the hidden layer"):
        ClassifierHead3d(6, 8).reset(5, "catavgmax")
    x = torch.randn(1, 6, 2, 3, 3)
    with pytest.raises(ValueError, match="num_classes is 0"):
        ClassifierHead3d(6, 8, num_classes=0).forward_dense(x, (7, 7))
    with pytest.raises(ValueError, match="global_pool is 'max'"):
        ClassifierHead3d(6, 8, global_pool="max").forward_dense(x, (7, 7))


@pytest.mark.parametrize("causal", [False, True])
def test_temporal_receptive_fields_of_factorized_convolutions(causal):
    block = vov3d.TOSA(4, 8, 4, conv="dw3d", causal=causal)
    fields = block.temporal_receptive_fields()
    vov3d.factorize(block)
    assert block.temporal_receptive_fields() == fields == [1, 3, 5, 7, 9, 11]
