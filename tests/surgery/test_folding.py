"""fold_batchnorm on the zoo and on models made to mislead it."""

import builtins
import copy
import warnings
from types import MethodType

import pytest
import torch
from helpers.trained_like import as_trained
from helpers.warnings_as_errors import no_warnings
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

import vov3d
from vov3d.surgery import fold_batchnorm
from vov3d.surgery.hooks import check_no_hooks, check_own_code_runs


def norms(model: nn.Module) -> int:
    return sum(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())


def check(model: nn.Module, x: torch.Tensor, left: int) -> None:
    before, folded = model(x), fold_batchnorm(model)
    torch.testing.assert_close(folded(x), before, rtol=1e-10, atol=1e-12)
    assert norms(folded) == left
    torch.testing.assert_close(model(x), before, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["vov3d_m", "x3d_m"])
@pytest.mark.parametrize("conv", vov3d.layers.MIDDLE_CONVS)
def test_no_norm_is_left_in_the_zoo(name, conv):
    small = dict(mid_chs=(8, 8), out_chs=(4, 8), depths=(1, 2), output_stride=8, hidden_chs=16, num_classes=5)
    check(as_trained(vov3d.create_model(name, conv=conv, **small)), torch.randn(2, 3, 3, 17, 19).double(), left=0)


@settings(deadline=None, max_examples=40)
@given(
    dims=st.sampled_from([1, 2, 3]),
    groups=st.integers(1, 2),
    stride=st.integers(1, 2),
    bias=st.booleans(),
    affine=st.booleans(),
    eps=st.sampled_from([1e-5, 1e-2]),
)
def test_any_convolution_with_any_norm(dims, groups, stride, bias, affine, eps):
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dims - 1]
    model = nn.Sequential(
        conv(4, 6, 3, stride, 1, groups=groups, bias=bias), norm(6, eps=eps, affine=affine), nn.ReLU()
    )
    check(as_trained(model), torch.randn(2, 4, *(5,) * dims).double(), left=0)


class Net(nn.Module):
    """Layers a, n, b and a forward pass given as a function of them and x."""

    def __init__(self, run, **layers: nn.Module):
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.run = run

    def forward(self, x):
        return self.run(self, x)


def conv() -> nn.Conv2d:
    return nn.Conv2d(3, 3, 1)


def norm() -> nn.BatchNorm2d:
    return nn.BatchNorm2d(3)


NOT_FOLDABLE = {
    "the convolution has a second reader": Net(lambda s, x: s.n(y := s.a(x)) + y, a=conv(), n=norm()),
    "the convolution runs twice": Net(lambda s, x: s.n(s.a(s.a(x))), a=conv(), n=norm()),
    "the norm runs twice": Net(lambda s, x: s.n(s.a(x)) + s.n(s.b(x)), a=conv(), b=conv(), n=norm()),
    "the norm comes first": Net(lambda s, x: s.a(s.n(x)), a=conv(), n=norm()),
    "declared in order, run otherwise": Net(lambda s, x: s.n(s.b(x).relu()) + s.a(x), a=conv(), n=norm(), b=conv()),
    "the weight is read as well": Net(lambda s, x: s.n(s.a(x)) + s.a.weight.sum(), a=conv(), n=norm()),
    "no running statistics": nn.Sequential(conv(), nn.BatchNorm2d(3, track_running_stats=False)),
    "a subclass of a convolution": nn.Sequential(
        type("Twice", (nn.Conv2d,), {"forward": lambda s, x: 2 * x})(3, 3, 1), norm()
    ),
    "a parametrized weight": nn.Sequential(parametrizations.weight_norm(conv()), norm()),
}


@pytest.mark.parametrize("case", NOT_FOLDABLE)
def test_what_cannot_be_folded_stays(case):
    model = as_trained(NOT_FOLDABLE[case])
    check(model, torch.randn(2, 3, 4, 4).double(), left=norms(model))


class Untraceable(nn.Module):
    """Asks for the values of its input, so that only its parts can be traced."""

    def __init__(self):
        super().__init__()
        self.part = nn.Sequential(conv(), nn.Identity(), norm(), nn.SiLU())
        self.parts = nn.ModuleList([nn.Sequential(conv(), norm()), nn.Sequential(conv(), norm())])

    def forward(self, x):
        x = self.part(x) if x.sum() > 0 else self.part(-x)
        for i, part in enumerate(self.parts):
            x = part(x) if i else part(x).relu()
        return x


def test_parts_of_a_model_that_cannot_be_traced_are_folded():
    check(as_trained(Untraceable()), torch.randn(2, 3, 4, 4).double(), left=0)


class ReadsLayers(Untraceable):
    def forward(self, x):
        found = []
        for layer in self.part if x.sum() > 0 else self.parts[0]:
            x = layer(x)
            found.append(x)
        return torch.cat(found)


class ReadsByName(Untraceable):
    def forward(self, x):
        assert len(x)
        part = getattr(self, "part")  # noqa: B009
        return self.part(x) + part.get_submodule("0")(x) + self.parts[1](x)


class ReadsWeight(Untraceable):
    def forward(self, x):
        assert len(x)
        return self.part(x) * self.part[0].weight.mean() + self.parts[0](self.parts[1](x))


def first_layer(part, x):
    return part[0](x)


class PassesOn(Untraceable):
    def forward(self, x):
        assert len(x)
        return self.part(x) + first_layer(self.part, x) + self.helper(x)

    def helper(self, x):
        first, *_ = (p for p in self.parts)
        return first[0](x)


class CallsAnotherMethod(Untraceable):
    def __init__(self):
        super().__init__()
        self.block = ReadsLayers()

    def forward(self, x):
        assert len(x)
        return self.block.only_first(x) + self.block.part(x)


ReadsLayers.only_first = lambda self, x: self.part[0](x)


@pytest.mark.parametrize("kind", [ReadsLayers, ReadsByName, ReadsWeight, PassesOn, CallsAnotherMethod])
def test_parts_into_which_other_code_reaches_are_not_folded(kind):
    torch.manual_seed(0)
    model, x = as_trained(kind()), torch.randn(2, 3, 4, 4).double()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for changed in (fold_batchnorm(model), vov3d.optimize_for_inference(model)):
            torch.testing.assert_close(changed(x), model(x), rtol=1e-10, atol=1e-12)


def test_a_part_with_hooks_into_which_the_model_reaches():
    model = as_trained(Net(lambda s, x: s.a(x) + s.a[0](x), a=nn.Sequential(conv(), norm())))
    model.a.register_forward_hook(lambda *args: None)
    check(model, torch.randn(2, 3, 4, 4).double(), left=1)


class Optional(nn.Module):
    """Reads the convolution twice unless a gate is given."""

    def __init__(self):
        super().__init__()
        self.a, self.n = conv(), norm()

    def forward(self, x, gate=None):
        y = self.a(x)
        return self.n(y) + y if gate is None else self.n(y) * gate


class OneOrMany(Optional):
    """Reads the convolution twice for a single tensor."""

    def forward(self, x):
        y = self.a(x if isinstance(x, torch.Tensor) else torch.cat(x))
        return self.n(y) + y if isinstance(x, torch.Tensor) else self.n(y)


@pytest.mark.parametrize("kind", [Optional, OneOrMany])
def test_branches_that_depend_on_arguments(kind):
    check(as_trained(kind()), torch.randn(2, 3, 4, 4).double(), left=1)


class Stream(nn.Module):
    """Keeps the last frame, counts calls and averages outputs, each in another way."""

    def __init__(self):
        super().__init__()
        self.a, self.n = nn.Conv3d(3, 3, (2, 1, 1)), nn.BatchNorm3d(3)
        self.last, self.calls = None, []
        self.register_buffer("total", torch.zeros(3, 1, 1, 1))
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        last = torch.zeros_like(x[:, :, -1:]) if self.last is None else self.last
        self.last = x[:, :, -1:]
        y = self.n(self.a(torch.cat([last, x], 2)))
        self.calls.append(1)
        self.count.add_(1)
        self.total = self.total + y.mean((0, 2, 3, 4))[:, None, None, None]
        return y * self.total / self.count + len(self.calls)


@pytest.mark.parametrize("change", [fold_batchnorm, vov3d.optimize_for_inference])
def test_a_model_that_keeps_a_state_starts_without_one(change):
    model = as_trained(nn.Sequential(Stream(), nn.SiLU(), Stream()))
    changed, x = change(model), torch.randn(1, 3, 4, 5, 5).double()
    with torch.no_grad():
        for part in x.split(2, 2):
            torch.testing.assert_close(changed(part), model(part), rtol=1e-10, atol=1e-12)


def test_a_method_that_was_set_on_a_layer_of_ours_keeps_its_state_elsewhere():
    model = vov3d.create_model("vov3d_n", num_blocks=1).eval()

    def counting(self, x):
        self.calls = getattr(self, "calls", 0) + 1
        return vov3d.VoV3D.forward_features(self, x)

    model.forward_features = MethodType(counting, model)
    folded = fold_batchnorm(model)
    assert not hasattr(folded, "calls")
    assert not any(isinstance(module, nn.BatchNorm3d) for module in folded.modules())


@pytest.mark.parametrize("change", [fold_batchnorm, vov3d.optimize_for_inference])
def test_maps_with_gradients_that_a_model_keeps(change):
    model, x = as_trained(Stream()), torch.randn(1, 3, 2, 5, 5).double()
    model.maps = {"last": [model(x)]}
    with torch.no_grad():
        torch.testing.assert_close(change(model)(x), model(x), rtol=1e-10, atol=1e-12)


class Features(nn.Module):
    """Has other calls, which end after a convolution or continue from its map, beside one that runs layers in full."""

    def __init__(self):
        super().__init__()
        self.stem, self.stem_norm = nn.Conv3d(3, 3, 1), nn.BatchNorm3d(3)
        self.last, self.last_norm, self.act = nn.Conv3d(3, 3, 1), nn.BatchNorm3d(3), nn.ReLU()

    def forward_features(self, x):
        return self.last(self.stem_norm(self.stem(x)))

    def forward_head(self, x, pre_logits: bool = False):
        x = self.last_norm(x)
        return x if pre_logits else self.act(x)

    def forward(self, x):
        return self.forward_head(self.forward_features(x))


@pytest.mark.parametrize("change", [fold_batchnorm, vov3d.optimize_for_inference])
@pytest.mark.parametrize("norm_layer", [nn.BatchNorm3d, nn.Identity])
def test_other_calls_of_a_model_keep_their_outputs(norm_layer, change):
    model, x = Features(), torch.randn(2, 3, 2, 4, 4).double()
    model.last_norm = norm_layer(3)
    changed = change(as_trained(model))
    assert norms(changed) == (norm_layer is nn.BatchNorm3d)
    with torch.no_grad():
        for call in ("forward", "forward_features", "forward_head"):
            expected = getattr(model, call)(x)
            torch.testing.assert_close(getattr(changed, call)(x), expected, rtol=1e-10, atol=1e-12)


class Remembers(nn.Module):
    """Adds what an earlier call kept between the convolution and the norm: a map, or the statistics of one."""

    def __init__(self, what: str):
        super().__init__()
        self.a, self.n, self.what = conv(), norm(), what
        self.register_buffer("mean", None)
        self.register_buffer("ready", torch.tensor(False))

    def forward(self, x):
        y = self.a(x)
        if self.what == "the map":
            earlier, self.mean = self.mean, y
            return self.n(y) if earlier is None else self.n(y) + earlier
        if self.what == "the input" and self.mean is not None:
            y = y + self.mean
        if self.what == "whether it ran":
            y = y + 1 if self.ready else y
            self.ready.fill_(True)
        self.mean = x.mean((2, 3), keepdim=True)
        return self.n(y)


class RemembersOne(Untraceable):
    """Cannot be traced after it has kept a value."""

    def forward(self, x):
        self.last = x.mean()
        return self.part(x) if self.last > 0 else self.part(-x)


@pytest.mark.parametrize("what", ["the map", "the input", "whether it ran"])
@pytest.mark.parametrize("change", [fold_batchnorm, vov3d.optimize_for_inference])
def test_what_a_later_call_reads_is_not_folded(change, what):
    model = as_trained(nn.Sequential(conv(), norm(), Remembers(what), nn.SiLU()))
    changed, x = change(model), torch.randn(3, 1, 3, 4, 4).double()
    assert norms(changed) == 1
    with torch.no_grad():
        for part in x:
            torch.testing.assert_close(changed(part), model(part), rtol=1e-10, atol=1e-12)


class Holds(nn.Module):
    """Calls a convolution or a norm that a dictionary holds as well."""

    def __init__(self, held: str) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv3d(3, 4, 3), nn.BatchNorm3d(4)
        self.held = {held: getattr(self, held)}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        conv, bn = self.held.get("conv", self.conv), self.held.get("bn", self.bn)
        return bn(conv(x))


@pytest.mark.parametrize("held", ["conv", "bn"])
@pytest.mark.parametrize("change", [fold_batchnorm, vov3d.optimize_for_inference])
@pytest.mark.filterwarnings("ignore:1 batch norms are not folded")
def test_what_the_code_of_a_model_holds_apart_is_not_folded(held, change):
    model, x = as_trained(Holds(held)), torch.randn(2, 3, 4, 8, 8).double()
    torch.testing.assert_close(change(model)(x), model(x), rtol=1e-6, atol=1e-6)


def test_a_trace_that_fails_leaves_nothing_behind():
    check(as_trained(RemembersOne()), torch.randn(2, 3, 4, 4).double(), left=0)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("change", [fold_batchnorm, vov3d.optimize_for_inference])
def test_weights_that_were_computed_with_gradients(change):
    model, x = nn.Sequential(conv(), norm(), nn.ReLU(), conv()), torch.randn(2, 3, 4, 4).double()
    prune.l1_unstructured(model[0], "weight", 0.5)
    weight_norm(model[3])
    before = as_trained(model)(x)
    torch.testing.assert_close(change(model)(x), before, rtol=1e-10, atol=1e-12)


def test_linear_layers_on_rows():
    model = as_trained(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)))
    check(model, torch.randn(5, 3).double(), left=0)
    with pytest.raises(ValueError, match=r"takes \(B, C\), got \(2, 4, 3\)"):
        fold_batchnorm(model)(torch.randn(2, 4, 3).double())


def test_hooks_are_not_dropped():
    model = as_trained(nn.Sequential(conv(), norm()))
    model[1].register_forward_hook(lambda *args: None)
    with pytest.raises(ValueError, match=r"1 \(BatchNorm2d\) has hooks .* remove them first"):
        fold_batchnorm(model)


@pytest.mark.parametrize(
    ("change", "cure"),
    [
        (lambda m: prune.random_unstructured(m, "weight", 0.5), r"prune\.remove\(module, 'weight'\)"),
        (weight_norm, r"remove_weight_norm\(module\)"),
        (spectral_norm, r"remove_spectral_norm\(module\)"),
    ],
)
def test_hooks_of_pytorch_are_named_by_what_removes_them(change, cure):
    model = nn.Sequential(conv())
    change(model[0])
    with pytest.raises(ValueError, match=f"they compute its weight: undo that with torch.nn.utils.{cure} first"):
        check_no_hooks("model", model)
    with pytest.raises(ValueError, match=f"0 has hooks, which nobody calls; .*{cure} first"):
        check_own_code_runs(model, "nobody calls")


def test_a_hook_between_convolution_and_norm_is_seen():
    part = nn.Sequential(conv(), norm(), conv())
    model = as_trained(nn.Sequential(part, norm()))
    part.register_forward_hook(lambda module, args, output: output.relu())
    check(model, torch.randn(2, 3, 4, 4).double(), left=1)


def test_the_copy_is_in_eval_mode_and_the_original_where_it_was():
    model = nn.Sequential(conv(), norm()).train()
    folded = fold_batchnorm(model)
    assert model.training
    assert not any(m.training for m in folded.modules())
    assert folded[0].bias.requires_grad


@pytest.mark.parametrize("frozen", [False, True])
def test_subclasses_that_change_nothing_are_folded_frozen_or_not(frozen):
    kinds = [type("Mine", (kind,), {}) for kind in (nn.Conv3d, nn.BatchNorm3d, nn.Conv3d, nn.SyncBatchNorm)]
    model = as_trained(
        nn.Sequential(kinds[0](3, 4, 1), kinds[1](4), nn.ReLU(), kinds[2](4, 3, 1, bias=False), kinds[3](3))
    )
    if frozen:
        vov3d.freeze_batchnorm(model)
    before, x = copy.deepcopy(model), torch.randn(2, 3, 2, 4, 4).double()
    with no_warnings():
        folded = fold_batchnorm(model)
    torch.testing.assert_close(folded(x), before(x), rtol=1e-10, atol=1e-12)
    assert [type(m) for m in folded][1::3] == [nn.Identity, nn.Identity]


@pytest.mark.parametrize("frozen", [False, True])
def test_norms_that_stay_are_named(frozen):
    class Activated(nn.BatchNorm2d):
        def forward(self, x):
            return super().forward(x).relu()

    model = as_trained(nn.Sequential(norm(), conv(), Activated(3), conv(), norm()))
    if frozen:
        vov3d.freeze_batchnorm(model)
    with pytest.warns(UserWarning, match=r"2 batch norms are not folded.*: 0 \(\w+\), 2 \(\w*Activated\)"):
        check(model, torch.randn(2, 3, 4, 4).double(), left=1 if frozen else 2)


@pytest.mark.parametrize(
    "of",
    [
        lambda x: torch.arange(x.shape[0]),
        lambda x: torch.zeros(x.size(0), 2),
        lambda x: torch.linspace(0, 1, x.shape[2]),
        lambda x: torch.full((2,), x.shape[0]),
        lambda x: torch.tensor(x.numel() // x.shape[0]),
        lambda x: torch.ones(1).expand(x.shape[0]),
        lambda x: torch.eye(x.mean(4).shape[1] * 2 + 1),
        lambda x: torch.full((2,), x.mean()),
        lambda x: torch.full((2,), x[0].mean() + 1),
        lambda x: torch.scalar_tensor(2 * x.mean()),
        lambda x: torch.ones(torch.sym_max(x.shape[0], 1)),
        lambda x: Twice.apply(2 * x),
    ],
)
def test_what_functions_in_c_do_not_expect_ends_a_trace_and_not_the_process(of):
    class Sized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = nn.Sequential(nn.Conv3d(3, 4, 1), nn.BatchNorm3d(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.part(x).mean((2, 3, 4)) + of(x).sum()

    model, x = Sized().eval(), torch.randn(2, 3, 2, 4, 4)
    folded = fold_batchnorm(model)
    assert type(folded.part[1]) is nn.Identity  # what can be traced is folded still
    torch.testing.assert_close(folded(x), model(x))


@pytest.mark.parametrize("order", ["d2plus1d", "d1plus2d"])
def test_norms_after_factorized_convolutions_are_folded(order):
    model = vov3d.create_model("x3d_m", mid_chs=(8, 8), out_chs=(4, 8), depths=(1, 2), output_stride=8, num_classes=5)
    vov3d.factorize(model, order=order, norm="batchnorm3d")
    with no_warnings():
        check(as_trained(model), torch.randn(2, 3, 3, 17, 19).double(), left=0)


@pytest.mark.parametrize("bias", [False, True])
def test_a_folded_bias_is_frozen_where_the_bias_was(bias):
    model = nn.Sequential(nn.Conv2d(3, 3, 1, bias=bias), norm())
    (model[0] if bias else model[1]).bias.requires_grad_(False)
    folded = fold_batchnorm(model)[0]
    assert (folded.weight.requires_grad, folded.bias.requires_grad) == (True, False)


class Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x


class Branches(nn.Module):
    """Adds the map of the convolution unless a question about it has the answer yes."""

    def __init__(self, asks):
        super().__init__()
        self.a, self.n, self.asks = conv(), norm(), asks

    def forward(self, x):
        y = self.a(x)
        return self.n(y) if self.asks(y) else self.n(y) + y


@pytest.mark.parametrize(
    ("asks", "left"),
    [
        (lambda y: isinstance(y, torch.Tensor), 0),
        (lambda y: isinstance(y, (tuple, torch.Tensor)), 0),
        (lambda y: isinstance(y, list | torch.Tensor), 0),
        (torch.is_tensor, 0),
        (lambda y: isinstance(y, tuple), 1),
        (lambda y: not torch.is_tensor(y), 1),
        (lambda y: isinstance(y.shape[0], int), 1),
        (lambda y: not isinstance(y.shape[0], int), 1),
    ],
)
def test_results_are_tensors_to_the_code_of_models(asks, left):
    before = builtins.isinstance
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(as_trained(Branches(asks)), torch.randn(2, 3, 4, 4).double(), left=left)
    assert builtins.isinstance is before
