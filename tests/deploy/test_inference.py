"""optimize_for_inference: the same numbers and the same calls, for every model."""

import copy
import types

import pytest
import torch
from helpers.memory import fill_free_memory
from helpers.trained_like import as_trained
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

import vov3d
from vov3d import optimize_for_inference
from vov3d.adapters import PooledBackbone
from vov3d.deploy import _fused, _optimize
from vov3d.deploy._streaming import FrameConv
from vov3d.layers import MIDDLE_CONVS

SMALL = dict(mid_chs=(8, 8), out_chs=(4, 8), depths=(1, 2), output_stride=8, head_chs=16, hidden_chs=16, num_classes=5)
EXACT = dict(rtol=1e-10, atol=1e-12)


def small(name: str = "vov3d_m", **kwargs) -> nn.Module:
    if kwargs.get("features_only"):
        kwargs["out_indices"] = (0, 1, 2)
    return as_trained(vov3d.create_model(name, **SMALL | kwargs))


def clip(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@settings(deadline=None, max_examples=25)
@given(
    name=st.sampled_from(["vov3d_m", "x3d_m"]),
    conv=st.sampled_from(MIDDLE_CONVS),
    output_stride=st.sampled_from([8, 4, 2]),
    features_only=st.booleans(),
    batch=st.integers(1, 3),
    frames=st.integers(1, 5),
    height=st.integers(8, 21),
    width=st.integers(8, 21),
    layers=st.sampled_from(
        [{}, {"norm_layer": "groupnorm1"}, {"act_layer": "hard_swish"}, {"mid_act_layer": "gelu"}, {"se_ratio": 0}]
    ),
)
def test_every_form_of_every_model(name, conv, output_stride, features_only, batch, frames, height, width, layers):
    model = small(name, conv=conv, output_stride=output_stride, features_only=features_only, **layers)
    x = clip(batch, 3, frames, height, width)
    expected = model(x)
    torch.testing.assert_close(optimize_for_inference(model)(x), expected, **EXACT)
    single, x = copy.deepcopy(model).float(), x.float()
    for found, wanted in zip(tree_leaves(optimize_for_inference(single)(x)), tree_leaves(single(x)), strict=True):
        # Maps reach values of some hundred, and what is small in them is a difference of large ones.
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5 * float(wanted.detach().abs().max()))
    torch.testing.assert_close(model(x.double()), model(x.double()), rtol=0, atol=0)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize(("frames", "time_stride"), [(1, 1), (3, 1), (3, 2)])
@pytest.mark.parametrize("groups", [1, 2, 8])
def test_small_outputs_in_bf16_do_not_depend_on_what_was_in_memory(groups, frames, time_stride, layout):
    """Those of oneDNN one column wide or of one frame do, but for depthwise kernels (torch 2.14)."""
    torch.manual_seed(0)
    for width, stride, pad, length in (
        (1, 2, 1, 3),
        (2, 2, 1, 3),
        (3, 3, 1, 3),
        (4, 2, 0, 3),
        (3, 2, 1, 1),
        (8, 1, 1, 1),
    ):
        sizes = dict(stride=(time_stride, stride, stride), padding=(frames // 2, pad, pad), groups=groups, bias=False)
        conv = nn.Conv3d(8, 8, (frames, 3, 3), **sizes).bfloat16().requires_grad_(False)
        x = torch.randn(2, 8, length, 15, width).bfloat16().contiguous(memory_format=layout)
        wanted = F.silu(copy.deepcopy(conv).double()(x.double()))
        onednn = _fused.has_onednn("cpu", torch.bfloat16)
        forms = [_fused.Convolution(conv, nn.SiLU(), way) for way in {False, onednn}]
        for form in forms:
            for _ in range(3):
                fill_free_memory()
                torch.testing.assert_close(form(x).double(), wanted, rtol=0.03, atol=0.03)
        if frames == 1:
            one = FrameConv(conv, act=nn.SiLU())
            maps = x.transpose(1, 2).flatten(0, 1).permute(0, 2, 3, 1)
            for _ in range(3):
                fill_free_memory()
                out = one(maps).permute(0, 3, 1, 2).unflatten(0, (2, length)).transpose(1, 2)
                torch.testing.assert_close(out.double(), wanted, rtol=0.03, atol=0.03)


@pytest.mark.parametrize(
    "name", ["vov3d_m", "x3d_s", *(pytest.param(name, marks=pytest.mark.slow) for name in ("vov3d_l", "x3d_l"))]
)
def test_whole_models(name):
    model = as_trained(vov3d.create_model(name)).float()
    for m in model.modules():  # norms of these clips, so that numbers stay near 1
        if isinstance(m, nn.BatchNorm3d):
            m.reset_running_stats()
            m.momentum = None
    x = clip(2, 3, 4, 65, 47).float()
    with torch.no_grad():
        model.train()(x)
    model.eval()
    torch.testing.assert_close(optimize_for_inference(model)(x), model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["vov3d_m", "x3d_m"])
def test_every_call_and_setting(name):
    model = small(name)
    fast, x = optimize_for_inference(model), clip(3, 3, 4, 24, 24)
    features = model.forward_features(x)
    torch.testing.assert_close(fast.forward_features(x), features, **EXACT)
    torch.testing.assert_close(fast.forward_head(features), model.forward_head(features), **EXACT)
    hidden = fast.forward_head(features, pre_logits=True)
    torch.testing.assert_close(hidden, model.forward_head(features, pre_logits=True), **EXACT)
    torch.testing.assert_close(fast.forward_dense(x, window=2), model.forward_dense(x, window=2), **EXACT)
    torch.testing.assert_close(fast.forward_intermediates(x), model.forward_intermediates(x), **EXACT)
    assert fast.pretrained_cfg == model.pretrained_cfg
    assert (fast.num_classes, fast.in_chans, fast.feature_info) == (5, 3, model.feature_info)
    with pytest.raises(AttributeError, match="forward_nonsense"):
        fast.forward_nonsense  # noqa: B018
    with pytest.raises(ValueError, match="expected 3 channels"):
        fast(x[:, :2])


@pytest.mark.parametrize("features_only", [False, True])
def test_a_batch_in_pieces_equals_the_whole_batch(monkeypatch, features_only):
    fast, x = optimize_for_inference(small(features_only=features_only)), clip(5, 3, 2, 16, 16)
    whole = fast(x)
    monkeypatch.setattr(_optimize, "PIECE_BYTES", 2 * x[0, 0].nbytes)
    seen: list[int] = []
    fast.model.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    torch.testing.assert_close(fast(x), whole, **EXACT)
    assert seen == [2, 2, 1]


@pytest.mark.slow
@settings(deadline=None, max_examples=12)
@given(batch=st.integers(1, 3), frames=st.integers(1, 7), limit=st.integers(1, 4000))
def test_a_clip_in_parts_equals_the_whole_clip(batch, frames, limit):
    fast, x = optimize_for_inference(small()), clip(batch, 3, frames, 16, 16)
    whole = fast(x)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_fused, "FRAMES_BYTES", limit)
        torch.testing.assert_close(fast(x), whole, **EXACT)


def test_without_onednn(monkeypatch):
    monkeypatch.setattr(_optimize, "has_onednn", lambda *args: False)
    model, x = small().float(), clip(2, 3, 3, 16, 16).float()
    torch.testing.assert_close(optimize_for_inference(model)(x), model(x), rtol=1e-4, atol=1e-4)


def test_bfloat16_takes_float_clips():
    model, x = small(), clip(2, 3, 3, 16, 16)
    fast = optimize_for_inference(model, dtype=torch.bfloat16)
    out = fast(x)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.double(), model(x), rtol=0.1, atol=0.1)
    scores = fast.forward_dense(x, 1)
    torch.testing.assert_close(scores.double(), model.forward_dense(x, 1), rtol=0, atol=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_around_it_changes_nothing(dtype):
    fast, x = optimize_for_inference(small(), dtype=dtype), clip(2, 3, 3, 24, 24).float()
    expected = fast(x)
    with torch.autocast("cpu", torch.bfloat16):
        out, features = fast(x), fast.forward_features(x)
    assert out.dtype == features.dtype == dtype
    torch.testing.assert_close(out, expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_made_inside_of_autocast(dtype):
    before = _fused.has_onednn("cpu", dtype)
    _fused.has_onednn.cache_clear()
    with torch.autocast("cpu", torch.bfloat16):
        assert _fused.has_onednn("cpu", dtype) == before
        fast = optimize_for_inference(small(), dtype=dtype)
    assert fast(clip(1, 3, 2, 16, 16)).dtype == dtype


def test_a_network_with_autocast_inside():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = small().float()

        def forward(self, x):
            with torch.autocast("cpu", torch.bfloat16):
                return self.net(x).float()

    model, x = Net().eval(), clip(2, 3, 3, 24, 24).float()
    for size in (24, 8):  # small maps run as matrix products, which autocast converts
        expected = model(x[..., :size, :size])
        torch.testing.assert_close(optimize_for_inference(model)(x[..., :size, :size]), expected, rtol=0.1, atol=0.1)


def test_no_separate_shortcuts_sums_or_norms_are_left():
    fast = optimize_for_inference(small())
    kinds = {type(m) for m in fast.modules()}
    assert not kinds & {nn.BatchNorm3d, nn.Conv3d, vov3d.TOSA, vov3d.D2plus1D}
    assert not any(p.requires_grad for p in fast.parameters())
    # Every activation is part of a convolution, except behind a gate, a sum and a linear layer.
    alone = [name for name, m in fast.named_modules() if isinstance(m, nn.ReLU | nn.SiLU) and ".fc" not in name]
    gates = [name for name, m in fast.named_modules() if isinstance(m, _fused.Gate)]
    sums = [name for name, m in fast.named_modules() if isinstance(m, _fused.Bottleneck) and m.shortcut is not None]
    assert len(
        [name for name in alone if type(fast.get_submodule(name.rpartition(".")[0])) is not _fused.Convolution]
    ) == (2 * len(gates) + len(sums))
    assert not fast(clip(1, 3, 2, 16, 16)).requires_grad


class Swish(nn.Module):
    """Stands for PyTorchVideo's, which is known by its full name."""

    def forward(self, x):
        return x * torch.sigmoid(x)


Swish.__module__ = "pytorchvideo.layers.swish"


def test_networks_of_other_packages():
    model = nn.Sequential(
        nn.Conv3d(3, 8, (1, 3, 3), (2, 2, 2), (0, 1, 1), bias=False),
        nn.BatchNorm3d(8),
        Swish(),
        nn.Conv3d(8, 8, 3, dilation=2, padding=2, groups=4),
        nn.LeakyReLU(),
        nn.Conv3d(8, 8, 1, padding=1),
        nn.Conv3d(8, 8, (1, 3, 3), padding="same", padding_mode="circular"),
        nn.ConvTranspose3d(8, 4, 2, 2),
        nn.Dropout(),
        nn.ReLU(inplace=False),
    )
    x = clip(2, 3, 5, 9, 7)
    as_trained(model)
    fast = optimize_for_inference(model)
    torch.testing.assert_close(fast(x), model(x), **EXACT)
    assert any(isinstance(m, nn.SiLU) for m in fast.modules())
    single = model.float()
    torch.testing.assert_close(optimize_for_inference(single)(x.float()), single(x.float()), rtol=1e-4, atol=1e-4)


class Halved(nn.Module):
    """Stands for a layer that somebody put in the place of one of ours."""

    def forward(self, x):
        return 0.5 * x


class Centred(nn.Module):
    """An activation that looks at all frames."""

    def forward(self, x):
        return x - x.mean(2, keepdim=True)


class Adapted(nn.Conv3d):
    """As LoRA: a convolution, and a product of thin matrices beside it."""

    def __init__(self, conv):
        super().__init__(conv.in_channels, conv.out_channels, 1, bias=conv.bias is not None)
        self.load_state_dict(conv.state_dict())
        self.thin, self.wide = (
            nn.Parameter(torch.randn(2, conv.in_channels)),
            nn.Parameter(torch.randn(len(self.weight), 2)),
        )

    def forward(self, x):
        return super().forward(x) + torch.einsum("oi,bithw->bothw", self.wide @ self.thin, x)


def changed(name, change):
    model = small()
    owner, _, last = name.rpartition(".")
    setattr(model.get_submodule(owner), last, change(model.get_submodule(name)).double().eval())
    return model


BLOCK, LAYER = "stages.0.blocks.0", "stages.0.blocks.0.layers.0"
PUT_IN = {
    **{f"drop_path of {name}": (f"{name}.drop_path", lambda _: Halved()) for name in (BLOCK, LAYER)},
    **{f"adapted {part}": (f"{LAYER}.{part}", Adapted) for part in ("se.fc1", "se.fc2", "conv_pw", "conv_pwl")},
    "wrapped": (f"{LAYER}.se.fc1", lambda conv: nn.Sequential(conv, nn.Dropout())),
    "expansion over frames": (
        f"{LAYER}.conv_pw",
        lambda conv: nn.Conv3d(conv.in_channels, 8, (3, 1, 1), padding=(1, 0, 0)),
    ),
    "spatial over frames": (f"{LAYER}.conv_s", lambda conv: nn.Conv3d(8, 8, 3, (1, 2, 2), 1, groups=8)),
    "act over frames": (
        f"{LAYER}.act1",
        lambda act: type("A", (nn.Module,), {"forward": lambda _, x: x - x.mean(2, True)})(),
    ),
}


@pytest.mark.parametrize("kind", PUT_IN)
def test_layers_that_were_put_in_are_run(kind, monkeypatch):
    monkeypatch.setattr(_fused, "FRAMES_BYTES", 1)  # of which single frames may not be run
    model, x = changed(*PUT_IN[kind]), clip(2, 3, 5, 16, 16)
    torch.testing.assert_close(optimize_for_inference(model)(x), model(x), **EXACT)


OWN_FORWARDS = ["", BLOCK, f"{BLOCK}.act", f"{BLOCK}.shortcut", LAYER, f"{LAYER}.se", f"{LAYER}.act1", f"{LAYER}.bn2"]


@pytest.mark.parametrize("name", OWN_FORWARDS)
def test_a_forward_that_was_set_on_an_instance_is_run(name):
    model, x = small(), clip(2, 3, 2, 16, 16)
    module = model.get_submodule(name)
    theirs = type(module).forward
    module.forward = types.MethodType(lambda self, x: 0.5 * theirs(self, x), module)
    torch.testing.assert_close(optimize_for_inference(model)(x), model(x), **EXACT)


def test_a_network_whose_forward_is_another_of_its_methods_is_folded():
    model, x = small(), clip(2, 3, 2, 16, 16)
    model.forward = model.forward_features
    fast = optimize_for_inference(model)
    torch.testing.assert_close(fast(x), model(x), **EXACT)
    assert not any(isinstance(m, nn.BatchNorm3d) for m in fast.model.stages.modules())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_block_that_runs_twice_is_optimized_once(dtype):
    block = vov3d.fold_batchnorm(as_trained(vov3d.TOSA(8, 16, 8))).to(dtype)
    weights = {name: value.clone() for name, value in block.state_dict().items()}
    net, x = nn.Sequential(block, block).eval(), clip(1, 8, 3, 6, 6).to(dtype)
    torch.testing.assert_close(optimize_for_inference(net)(x), net(x), rtol=1e-4, atol=1e-4)
    _fused.Aggregation(block)
    assert all(torch.equal(value, weights[name]) for name, value in block.state_dict().items())


def test_an_in_place_activation_never_overwrites_a_shared_tensor():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.act, self.drop = nn.Conv3d(3, 3, 1), nn.ReLU(), nn.Dropout()

        def forward(self, x):
            y = self.conv(x)
            return self.act(self.drop(y)) + y

    net, x = Net().double().eval(), clip(1, 3, 2, 4, 4)
    torch.testing.assert_close(optimize_for_inference(net)(x), net(x), **EXACT)


def test_train_mode_is_refused():
    model = small()
    model.stages[1].blocks[0].bn_agg.train()
    with pytest.raises(ValueError, match=r"stages\.1\.blocks\.0\.bn_agg is in train mode; call eval"):
        optimize_for_inference(model)
    with pytest.raises(ValueError, match="cannot be trained"):
        optimize_for_inference(small()).train()


def test_hooks_are_refused_where_they_would_be_dropped_and_kept_elsewhere():
    model, seen = small(), []
    model.stages[0].register_forward_hook(lambda *args: seen.append(1))
    optimize_for_inference(model)(clip(1, 3, 2, 16, 16))
    assert seen == [1]
    model.stages[0].blocks[0].layers[2].se.register_forward_hook(lambda *args: None)
    with pytest.raises(ValueError, match=r"stages\.0\.blocks\.0\.layers\.2\.se \(SqueezeExcite3d\) has hooks"):
        optimize_for_inference(model)


def test_feature_hooks_of_timm_are_kept():
    model = small(features_only=True, feature_cls="hook")
    x = clip(1, 3, 2, 16, 16)
    torch.testing.assert_close(optimize_for_inference(model)(x), model(x), **EXACT)


def test_a_compiled_model_is_refused():
    with pytest.raises(ValueError, match=r"compiled: give its VoV3D, model\._orig_mod, and compile=True"):
        optimize_for_inference(torch.compile(small()))


def test_other_types_are_refused():
    for dtype in (torch.int8, "bf16"):  # export takes names
        with pytest.raises(ValueError, match="dtype must be a floating type such as torch.float32 .*, got"):
            optimize_for_inference(small(), dtype=dtype)


@pytest.mark.parametrize(
    "call",
    [
        vov3d.optimize_for_inference,
        vov3d.factorize,
        vov3d.fold_batchnorm,
        vov3d.freeze_batchnorm,
        lambda model: vov3d.replace_blocks(model, {"stem": torch.nn.Identity}),
        lambda model: vov3d.recalibrate(model, []),
        lambda model: vov3d.save_pretrained(model, "folder"),
    ],
)
def test_the_name_of_a_model_or_its_tensors_are_no_network(call):
    with pytest.raises(ValueError, match=r"expected a network \(nn.Module\), got 'vov3d_n'; vov3d.create_model builds"):
        call("vov3d_n")
    with pytest.raises(ValueError, match="got a OrderedDict; "):
        call(small().state_dict())


def test_an_optimized_model_is_not_saved_as_weights(tmp_path):
    with pytest.raises(ValueError, match="cannot save a OptimizedModel"):
        vov3d.save_pretrained(optimize_for_inference(small()), tmp_path)


def test_the_classifier_takes_an_optimized_model():
    model = small().float()
    frames = torch.randint(0, 256, (16, 3, 64, 64), dtype=torch.uint8)
    expected = vov3d.VideoClassifier(model).scores(frames)
    fast = vov3d.VideoClassifier(optimize_for_inference(model)).scores(frames)
    torch.testing.assert_close(fast, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.skipif(
    not _fused.has_onednn("cpu", torch.float32), reason="oneDNN cannot activate a convolution's output here"
)
@pytest.mark.parametrize("name", ["vov3d_m", "x3d_m"])
def test_activations_and_sums_are_fused_into_convolutions(name):
    fast = vov3d.optimize_for_inference(vov3d.create_model(name, num_classes=3).eval())
    alone = []
    for path, module in fast.named_modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(lambda _m, _i, y, path=path: alone.extend([path] * (y.ndim == 5)))
    fast(torch.randn(1, 3, 2, 32, 32))
    assert not alone


# --- what is no network of this package, and what is done with the result ---------------------------------------------


class Around(nn.Module):
    """A network of somebody else around one of ours."""

    def __init__(self, run, **kwargs):
        super().__init__()
        self.net, self.run = small(**kwargs), run

    def forward(self, *args, **kwargs):
        return self.run(self.net, *args, **kwargs)


X = clip(4, 3, 2, 16, 16)
AROUND = {
    "differences to the batch's mean": (lambda net, x: net(x) - net(x).mean(0), (X,)),
    "mean over pairs of views": (lambda net, x: net(x).unflatten(0, (-1, 2)).mean(1), (X,)),
    "one number for the batch": (lambda net, x: net(x).sum(), (X,)),
    "batch second": (lambda net, x: net(x).T, (X,)),
    "a second input of the batch": (lambda net, x, w: net(x) * w, (X, clip(4, 1))),
    "an input by its name": (lambda net, x, scale: net(x) * scale, (X, {"scale": clip(4, 1)})),
    "pathways in a list": (lambda net, xs: net(xs[0]) + net(xs[1]), ([X, X[:, :, :1]],)),
    "nested in": (lambda net, d: net(d["clips"][0]) * d["more"]["w"], ({"clips": (X,), "more": {"w": clip(4, 1)}},)),
    "nested out": (lambda net, x: {"logits": net(x), "maps": [net.forward_features(x), (net(x), None)]}, (X,)),
    "bytes that it scales itself": (
        lambda net, x: net(x.double() / 255 if x.dtype == torch.uint8 else x),
        (torch.arange(4 * 3 * 2 * 16 * 16).view(4, 3, 2, 16, 16).remainder(251).to(torch.uint8),),
    ),
    "indices beside the clips": (lambda net, x, i: net(x)[i], (X, torch.tensor([2, 0]))),
    "clips in four dimensions": (lambda net, x: net(x.unflatten(1, (3, -1))), (X.flatten(1, 2),)),
}


@pytest.mark.parametrize("kind", AROUND)
def test_networks_around_ours_see_the_whole_batch_and_their_own_types(kind, monkeypatch):
    monkeypatch.setattr(_optimize, "PIECE_BYTES", 1)
    run, args = AROUND[kind]
    kwargs = args[-1] if isinstance(args[-1], dict) and len(args) > 1 else {}
    args = args[:-1] if kwargs else args
    model = Around(run).eval()
    torch.testing.assert_close(optimize_for_inference(model)(*args, **kwargs), model(*args, **kwargs), **EXACT)


def test_layers_that_look_across_the_batch_see_all_of_it(monkeypatch):
    class Centred(nn.Linear):
        def forward(self, x):
            return super().forward(x - x.mean(0))

    monkeypatch.setattr(_optimize, "PIECE_BYTES", 1)
    own_layer, batch_statistics, subclass, x = small(), small(), small(), clip(4, 3, 2, 16, 16)
    own_layer.head.fc = Centred(16, 5).double().eval()
    norm = batch_statistics.stages[0].blocks[0].layers[0].bn2
    norm.running_mean = norm.running_var = None
    subclass.__class__ = type("Mine", (vov3d.VoV3D,), {"forward": lambda self, x: self.forward_features(x).mean(0)})
    for model in (own_layer, batch_statistics, subclass):
        torch.testing.assert_close(optimize_for_inference(model)(x), model(x), **EXACT)


@pytest.mark.parametrize("feature_cls", ["list", "dict", "hook", "getter", "fx"])
def test_every_kind_of_features_in_pieces(feature_cls, monkeypatch):
    monkeypatch.setattr(_optimize, "PIECE_BYTES", 1)
    model, x = small(features_only=True, feature_cls=feature_cls), clip(3, 3, 2, 16, 16)
    torch.testing.assert_close(optimize_for_inference(model)(x), model(x), **EXACT)


def test_parts_of_several_precisions_keep_them():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.exact = small().float(), nn.Linear(5, 2).double()

        def forward(self, x):
            return self.exact(self.net(x).double())

    model, x = Net().eval(), clip(1, 3, 2, 16, 16).float()
    fast = optimize_for_inference(model)
    assert (fast.dtype, fast(x).dtype) == (None, torch.float64)
    torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-4)


CONVERSIONS = {
    "to(float64)": lambda m: m.to(torch.float64),
    "double": lambda m: m.double(),
    "half": lambda m: m.half(),
    "bfloat16": lambda m: m.bfloat16(),
    "to(meta)": lambda m: m.to("meta"),
    "inside a parent": lambda m: nn.Sequential(m).half(),
}


@pytest.mark.parametrize("name", CONVERSIONS)
def test_another_precision_or_device_is_refused_at_the_call(name):
    fast, x = optimize_for_inference(small().float()), clip(1, 3, 2, 16, 16).float()
    before = fast(x)
    with pytest.raises(ValueError, match=r"optimized for torch\.float32 on cpu cannot .*optimize_for_inference on the"):
        CONVERSIONS[name](fast)
    assert fast.float().to("cpu", torch.float32).cpu().eval() is fast
    torch.testing.assert_close(copy.deepcopy(fast)(x), before)


def test_a_frozen_part_of_a_network_that_is_trained():
    fast, x = optimize_for_inference(small().float()), clip(2, 3, 2, 16, 16).float()
    parent = nn.Sequential(fast, nn.Linear(5, 2)).train()
    assert parent.training
    assert not fast.training
    torch.testing.assert_close(parent[0](x), fast(x))
    parent(x).sum().backward()
    assert parent[1].weight.grad is not None


MISUSES = {
    "gradients": lambda m: m.requires_grad_(),
    "the original's tensors": lambda m: m.load_state_dict(small().state_dict(), strict=False),
    "twice": optimize_for_inference,
    "jit.script": torch.jit.script,
}


@pytest.mark.parametrize("name", MISUSES)
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_unsupported_calls_name_the_alternative(name):
    with pytest.raises(ValueError, match="original"):
        MISUSES[name](optimize_for_inference(small()))


def test_calls_that_would_change_an_optimized_model_are_refused():
    fast = optimize_for_inference(small())
    assert fast.get_classifier().out_features == 5
    for name in ("reset_classifier", "set_grad_checkpointing", "prune_intermediate_layers"):
        with pytest.raises(AttributeError, match=f"has no {name}; use the original's"):
            getattr(fast, name)


@pytest.mark.parametrize("act", ["none", "relu"])
def test_maps_of_one_position_are_added_without_onednn(act, monkeypatch):
    # PyTorch 2.6 to 2.8 fails there: "could not create a memory".
    x, other, weight = torch.randn(2, 3, 1, 1), torch.randn(2, 4, 1, 1), torch.randn(4, 3, 1, 1)
    wanted = F.conv2d(x, weight) + other
    rectified = F.relu(wanted)
    for name in ("_convolution_pointwise", "_convolution_pointwise_"):
        monkeypatch.setattr(getattr(torch.ops.mkldnn, name), "binary", None)
    with torch.inference_mode():
        assert torch.equal(_fused._rectified_sum(x, weight, None, other), rectified)
        added = _fused._added(other.clone(), x, weight, None, act)
        assert torch.equal(added, rectified if act == "relu" else wanted)
        with pytest.raises(TypeError):  # larger ones take it
            _fused._rectified_sum(x.expand(2, 3, 2, 2), weight, None, other)


def test_a_pooled_backbone_takes_an_optimized_model():
    model, x = small(features_only=True), clip(1, 3, 2, 16, 16)
    fast = PooledBackbone(optimize_for_inference(model))
    for form in (x, x.flatten(1, 2)):
        torch.testing.assert_close(fast(form), PooledBackbone(model)(form), **EXACT)
