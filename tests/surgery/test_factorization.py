"""3D convolutions split in place: exact if the kernels have the rank, the nearest approximation otherwise."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import vov3d
from vov3d.surgery import FactorizedConv3d, factorize

ORDERS = ("d2plus1d", "d1plus2d")
NANO = dict(stem_chs=4, mid_chs=(6, 8, 8, 8), out_chs=(4, 4, 8, 8), depths=(1, 1, 1, 1), head_chs=8, hidden_chs=8)


def make_rank(model: nn.Module, rank: int) -> None:
    """Gives every depthwise kernel of a model a rank, keeping their scale."""
    for m in model.modules():
        if isinstance(m, nn.Conv3d) and m.groups == m.in_channels > 1:
            left, singular, right = torch.linalg.svd(m.weight.data.flatten(3)[:, 0], full_matrices=False)
            singular[:, rank:] = 0
            m.weight.data = (left * singular[:, None] @ right).reshape(m.weight.shape)


def x3d(**kwargs):
    model = vov3d.create_model("x3d_m", num_classes=3, **{**NANO, **kwargs})
    for m in model.modules():
        if isinstance(m, nn.BatchNorm3d):
            nn.init.uniform_(m.weight, 0.5, 1.5)
    return model.eval()


@st.composite
def convolutions(draw):
    def three(low, high):
        return tuple(draw(st.integers(low, high)) for _ in range(3))

    chs = draw(st.integers(1, 4))
    kernel = (draw(st.integers(2, 4)), draw(st.integers(1, 3)), draw(st.integers(2, 4)))
    modes = ("zeros", "replicate", "circular")
    kwargs = dict(stride=three(1, 2), padding=three(0, 1), dilation=three(1, 2), bias=draw(st.booleans()))
    if draw(st.booleans()):
        kwargs |= dict(stride=1, padding=draw(st.sampled_from(("same", "valid"))))
    multiplier = draw(st.integers(1, 2)) if chs > 1 else 1
    mode = draw(st.sampled_from(modes))
    return nn.Conv3d(chs, chs * multiplier, kernel, groups=chs, padding_mode=mode, dtype=torch.float64, **kwargs)


@settings(deadline=None, max_examples=60)
@given(convolutions(), st.sampled_from(ORDERS), st.integers(1, 4))
def test_any_depthwise_convolution_of_the_rank_is_reproduced(conv, order, rank):
    left, singular, right = torch.linalg.svd(conv.weight.data.flatten(3)[:, 0], full_matrices=False)
    singular[:, rank:] = 0
    conv.weight.data = (left * singular[:, None] @ right).reshape(conv.weight.shape)
    model, x = nn.Sequential(copy.deepcopy(conv)), torch.randn(2, conv.in_channels, 8, 9, 10, dtype=torch.float64)
    report = factorize(model, order=order, rank=rank)
    assert isinstance(model[0], FactorizedConv3d)
    torch.testing.assert_close(model(x), conv(x), rtol=0, atol=1e-9)
    assert report.layers[0].energy == pytest.approx(1)
    assert report.layers[0].rank1_energy == pytest.approx(1) or rank > 1


@pytest.mark.parametrize("order", ORDERS)
def test_a_network_of_rank_one_is_reproduced(order):
    model = x3d()
    make_rank(model, 1)
    before, x = copy.deepcopy(model), torch.randn(1, 3, 4, 64, 64)
    report = factorize(model, order=order, clip=x)
    torch.testing.assert_close(model(x), before(x), rtol=1e-5, atol=1e-5)
    assert [layer.name for layer in report.layers] == [f"stages.{i}.blocks.0.conv_st" for i in range(4)]
    assert not report.left
    assert report.layers[0].params == (6 * 27, 6 * 12)
    assert report.layers[0].macs[0] == 6 * 27 * 4 * 16 * 16
    assert report.layers[0].macs[1] == (6 * 9 + 6 * 3) * 4 * 16 * 16 if order == "d2plus1d" else 6 * 12 * 4 * 16 * 16
    assert "stages.0.blocks.0.conv_st" in str(report)


def test_rank_three_is_exact_and_keeps_more_with_every_rank():
    model, x = x3d().double(), torch.randn(1, 3, 4, 64, 64, dtype=torch.float64)
    errors, energies = [], []
    for rank in (1, 2, 3):
        split = copy.deepcopy(model)
        energies.append(factorize(split, rank=rank).layers[0].energy)
        errors.append((split(x) - model(x)).norm().item())
    assert errors[2] < 1e-9 * model(x).norm() < errors[0]
    assert energies[0] < energies[1] < energies[2] == pytest.approx(1)


@pytest.mark.parametrize("order", ORDERS)
def test_full_convolutions_split_with_the_width_of_r2plus1d(order):
    model = nn.Sequential(nn.Conv3d(4, 6, 3, (2, 1, 1), 1), nn.Conv3d(6, 6, 3, groups=2), nn.Conv3d(6, 2, 1))
    whole = copy.deepcopy(model)
    assert set(factorize(nn.Sequential(*whole, nn.Conv3d(2, 2, 3, groups=2))).left) == {"0", "1"}
    report = factorize(model, order=order, conv="r2plus1d")
    assert report.left == {"1": "2 groups of several channels"}
    assert report.layers[0].params[1] <= report.layers[0].params[0]
    assert model[0].conv_s.in_channels == (4 if order == "d2plus1d" else model[0].conv_t.out_channels)
    # a kernel that has the rank is reproduced
    spatial, temporal = nn.Conv3d(4, 3, (1, 3, 3), padding=(0, 1, 1)), nn.Conv3d(3, 6, (3, 1, 1), padding=(1, 0, 0))
    made = nn.Conv3d(4, 6, 3, padding=1)
    made.weight.data = torch.einsum("omt,mihw->oithw", temporal.weight[:, :, :, 0, 0], spatial.weight[:, :, 0])
    split, x = nn.Sequential(copy.deepcopy(made)), torch.randn(1, 4, 5, 8, 8)
    factorize(split, order=order, conv="r2plus1d")
    if order == "d2plus1d":
        torch.testing.assert_close(split(x), made(x), rtol=1e-4, atol=1e-5)
    assert split[0](x).shape == made(x).shape


def test_dtype_mode_gradients_and_norm():
    model = x3d().train().half()
    model.stages[0].requires_grad_(False)
    report = factorize(model, norm="batchnorm3d")
    pair = model.stages[0].blocks[0].conv_st
    assert pair.conv_s.weight.dtype == torch.float16
    assert pair.training
    assert not pair.conv_t.weight.requires_grad
    assert model.stages[1].blocks[0].conv_st.conv_s.weight.requires_grad
    assert isinstance(pair.norm, nn.BatchNorm3d)
    assert len(report.layers) == 4
    model = x3d()
    plain = copy.deepcopy(model)
    factorize(model, norm="batchnorm3d")
    factorize(plain)
    x = torch.randn(1, 3, 4, 64, 64)
    torch.testing.assert_close(model(x), plain(x), rtol=1e-4, atol=1e-5)


def test_random_factors_learn():
    model = x3d().train()
    report = factorize(model, init="random")
    assert {layer.energy for layer in report.layers} == {0.0}
    model(torch.randn(2, 3, 4, 64, 64)).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


class Around(nn.Module):
    """Reads the settings of its convolution, and keeps a map."""

    def __init__(self, **settings):
        super().__init__()
        self.conv, self.last = nn.Conv3d(4, 4, 3, groups=4, **settings), None

    def forward(self, x):
        pad = [size // 2 for size in reversed(self.conv.kernel_size) for _ in range(2)]
        x = nn.functional.pad(x, pad) if self.conv.padding == (0, 0, 0) else x
        y = self.conv(x)
        self.last = y if self.last is None else self.last + y
        return self.last.reshape(len(x), self.conv.out_channels, -1)


@pytest.mark.parametrize("order", ["d2plus1d", "d1plus2d"])
@pytest.mark.parametrize(
    "settings",
    [{"stride": (1, 2, 2)}, {"padding": "same", "padding_mode": "reflect"}, {"padding": (1, 0, 2), "dilation": 2}],
)
def test_code_around_a_convolution_reads_its_settings_and_starts_without_a_state(settings, order):
    torch.manual_seed(0)
    model, x = Around(**settings).double(), torch.randn(2, 4, 5, 8, 8).double()
    before = copy.deepcopy(model)
    factorize(model, rank=3, order=order, clip=torch.randn(1, 4, 5, 6, 6).double())
    torch.testing.assert_close(model(x), before(x), rtol=1e-9, atol=1e-10)
    for name in {*nn.Conv3d.__constants__} - {"output_padding"}:
        assert getattr(model.conv, name) == getattr(before.conv, name), name


class Reading(nn.Module):
    """Reads the weight of a convolution in a method that `forward` calls."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.other = (nn.Conv3d(4, 4, 3, padding=1, groups=4) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.other(self.converted(x))

    def converted(self, x: torch.Tensor) -> torch.Tensor:
        conv = self.conv
        return conv(x.to(conv.weight.dtype))


class Holding(nn.Module):
    """Calls convolutions that it holds in a list or a dictionary of its own."""

    def __init__(self, kind: type) -> None:
        super().__init__()
        self.conv, self.other = (nn.Conv3d(4, 4, 3, padding=1, groups=4) for _ in range(2))
        self.held = [self.conv] if kind is list else {0: self.conv}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.other(self.held[0](x))


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Reading(), "the model's code reads its weight"),
        (Holding(list), "the model's code holds it"),
        (Holding(dict), "the model's code holds it"),
    ],
)
def test_convolutions_that_code_around_them_needs_whole_are_left(model, reason):
    report = vov3d.factorize(model)
    assert [layer.name for layer in report.layers] == ["other"]
    assert report.left["conv"].startswith(reason)
    assert model(torch.randn(1, 4, 4, 6, 6)).shape == (1, 4, 4, 6, 6)


def test_filters_choose_by_name_or_function():
    assert [row.name for row in factorize(x3d(), filter="stages.[01]*").layers] == [
        "stages.0.blocks.0.conv_st",
        "stages.1.blocks.0.conv_st",
    ]
    assert [
        row.name for row in factorize(x3d(), filter=lambda _, m: m.stride[1] == 2 and m.in_channels == 6).layers
    ] == ["stages.0.blocks.0.conv_st"]


def test_a_convolution_used_twice_stays_one():
    conv = nn.Conv3d(4, 4, 3, padding=1, groups=4)
    model = nn.Sequential(conv, nn.ReLU(), conv)
    assert len(factorize(model).layers) == 1
    assert model[0] is model[2]


class Special(nn.Conv3d):
    def forward(self, x):
        return 2 * super().forward(x)


class Renamed(nn.Conv3d):
    """As torchvision's `Conv3DSimple`: another constructor, and nothing else."""

    def __init__(self, chs):
        super().__init__(chs, chs, 3, padding=1, groups=chs)


class Scaled(Renamed):
    """Its parent reads what it holds."""

    def __init__(self, chs):
        super().__init__(chs)
        self.scale = nn.Parameter(torch.ones(1))


@pytest.mark.parametrize("mark", ["subclass", "instance"])
def test_subclasses_are_treated_by_what_they_compute(mark):
    model = nn.Sequential(Renamed(4), nn.Conv3d(4, 4, 3, padding=1, groups=4))
    if mark == "instance":
        model[0].forward = lambda x: 2 * nn.Conv3d.forward(model[0], x)  # as dispatchers of large models do
    x, want = torch.randn(1, 4, 3, 5, 5), model(torch.ones(1, 4, 3, 5, 5))
    report = factorize(model, rank=3)
    assert list(report.left) == (["0"] if mark == "instance" else [])
    torch.testing.assert_close(model(torch.ones(1, 4, 3, 5, 5)), want)
    assert model(x).is_contiguous()


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_kernel_that_is_not_finite_leaves_the_model_whole(broken):
    model = nn.Sequential(Renamed(4), Renamed(4), Renamed(2))
    model[1].weight.data[0, 0, 0, 0, 0] = broken
    with pytest.raises(ValueError, match=r"1\.weight has values that are not finite"):
        factorize(model)
    assert all(type(m) is Renamed for m in model)
    factorize(model, filter="[02]")


def test_an_error_at_any_convolution_leaves_the_model_whole():
    made = []

    def norm(chs, device=None, dtype=None):
        made.append(chs)
        if len(made) == 2:
            raise MemoryError("no more")
        return nn.BatchNorm3d(chs, device=device, dtype=dtype)

    class Guarded(nn.Sequential):
        def __setattr__(self, name, value):
            if name == "1" and isinstance(value, FactorizedConv3d):
                raise TypeError("no")
            super().__setattr__(name, value)

    for model, kwargs, error in (
        (nn.Sequential(Renamed(2), Renamed(2)), dict(norm=norm), MemoryError),
        (nn.Sequential(Guarded(Renamed(2), Renamed(2))), {}, TypeError),
    ):
        with pytest.raises(error):
            factorize(model, **kwargs)
        assert [type(m) for m in model.modules() if isinstance(m, nn.Conv3d)] == [Renamed, Renamed]


def test_skipped_convolutions_are_listed_with_the_reason():
    normed = nn.utils.parametrizations.weight_norm(nn.Conv3d(2, 2, 3, groups=2))
    model = nn.Sequential(
        nn.Conv3d(2, 2, 3, groups=2),
        nn.Conv3d(2, 4, 3),
        Special(2, 2, 3, groups=2),
        normed,
        nn.LazyConv3d(2, 3),
        Scaled(2),
    )
    left = factorize(model).left
    assert set(left) == {"1", "2", "3", "4", "5"}
    assert left["1"] == "not depthwise (conv='r2plus1d' splits full convolutions)"
    assert "Special" in left["2"]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(init="zeros"), "init='zeros' is not known; use one of 'svd', 'random'"),
        (dict(order="2d"), "order='2d' is not known"),
        (dict(conv="3d"), "conv='3d' is not known"),
        (dict(rank=0), "rank must be at least 1, got 0"),
        (dict(rank=1.5), r"rank must be at least 1, got 1\.5; give a whole number"),
        (dict(filter="none*"), r"nothing in X3D can be split: it has no 3D convolutions that fit filter='none\*'"),
        (dict(filter=lambda name, conv: False), "it has no 3D convolutions that fit the filter"),
    ],
)
def test_bad_arguments_change_nothing(kwargs, message):
    model = x3d()
    names = list(model.state_dict())
    with pytest.raises(ValueError, match=message):
        factorize(model, **kwargs)
    assert list(model.state_dict()) == names


def test_hooks_are_not_dropped():
    model = x3d()
    model.stages[2].blocks[0].conv_st.register_forward_hook(lambda *_: None)
    names = list(model.state_dict())
    with pytest.raises(ValueError, match=r"stages\.2\.blocks\.0\.conv_st \(Conv3d\) has hooks"):
        factorize(model)
    assert list(model.state_dict()) == names
    with pytest.raises(ValueError, match=r"wrap it in nn\.Sequential"):
        factorize(nn.Conv3d(2, 2, 3, groups=2))


def test_our_own_model_becomes_the_one_that_conv_builds():
    model = x3d()
    factorize(model)
    built = vov3d.create_model("x3d_m", num_classes=3, conv="d2plus1d", **NANO)
    shapes = {k.replace("conv_st.", ""): v.shape for k, v in model.state_dict().items()}
    assert shapes == {k: v.shape for k, v in built.state_dict().items()}
    assert math.isclose(sum(p.numel() for p in model.parameters()), sum(p.numel() for p in built.parameters()))


def test_complex_kernels_are_split_and_those_without_values_left():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Conv3d(2, 2, 3, groups=2, dtype=torch.complex64)), torch.randn(1, 2, 4, 4, 4) + 0j
    expected = model(x)
    vov3d.factorize(model, rank=3)
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="0: its weight is on the meta device"):
        vov3d.factorize(nn.Sequential(nn.Conv3d(2, 2, 3, groups=2, device="meta")))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("frozen", ["weight", "bias"])
def test_each_parameter_stays_as_frozen_as_it_was(frozen, order):
    model = nn.Sequential(nn.Conv3d(4, 4, 3, groups=4))
    model[0].get_parameter(frozen).requires_grad_(False)
    factorize(model, order=order)
    flags = {name: parameter.requires_grad for name, parameter in model[0].named_parameters()}
    last = "conv_t" if order == "d2plus1d" else "conv_s"
    assert flags.pop(f"{last}.bias") == (frozen == "weight")
    assert set(flags.values()) == {frozen == "bias"}


@pytest.mark.parametrize("init", ["svd", "random"])
def test_tied_parameters_stay_tied(init):
    model = nn.Sequential(*(nn.Conv3d(4, 4, 3, padding=1, groups=4) for _ in range(4)))
    model[1].weight, model[3].bias = model[0].weight, model[0].bias
    factorize(model, init=init)
    pairs = [(pair.conv_s.weight, pair.conv_t.weight, pair.conv_t.bias) for pair in model]
    tied = [tuple(own is first for own, first in zip(pair, pairs[0], strict=True)) for pair in pairs]
    assert tied == [(True, True, True), (True, True, False), (False, False, False), (False, False, True)]
