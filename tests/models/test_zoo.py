"""The whole registry, as timm tests its own: every model through everything that users do with one."""

import copy
import gc
import io
import itertools
import pickle
import shutil
import warnings
import weakref
from functools import cache, partial

import pytest
import timm
import torch
from helpers.reference_recipe import weight
from timm.optim import create_optimizer_v2
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.fx.experimental.optimization import fuse
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import vov3d
from vov3d.layers import MIDDLE_CONVS

MODELS = vov3d.list_models()
CONVS = [(model, conv) for model in ("vov3d_m", "x3d_m") for conv in MIDDLE_CONVS]
SMALL = (2, 3, 4, 32, 32)


@cache
def built(name: str) -> nn.Module:
    """Builds one instance a worker; tests that change it copy it."""
    model = vov3d.create_model(name, num_classes=11).eval()
    shapes = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    model.load_state_dict({k: torch.from_numpy(weight(k, shape)) for k, shape in shapes.items()})
    return model


def clip(*shape: int) -> torch.Tensor:
    return torch.randn(shape or SMALL, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("name", "settings"),
    [("vov3d_n", {}), ("x3d_xs", {}), ("vov3d_n", {"features_only": True}), ("vov3d_n", {"causal": True})],
)
def test_a_network_frees_its_memory_when_it_is_deleted(name, settings):
    model = vov3d.create_model(name, **settings)
    sum(out.sum() for out in tree_leaves(model(clip(*SMALL)))).backward()
    tensors = [weakref.ref(t) for p in model.parameters() for t in (p, p.grad) if t is not None]
    gc.disable()  # Python collects cycles late; a GPU's memory would stay taken
    try:
        del model
        assert not any(tensor() is not None for tensor in tensors)
    finally:
        gc.enable()


@pytest.mark.parametrize("name", MODELS)
def test_forward_and_backward(name):
    model = copy.deepcopy(built(name)).train()
    out = model(clip())
    assert out.shape == (2, 11)
    out.square().mean().backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not without


@pytest.mark.parametrize("name", MODELS)
def test_logits_in_train_and_eval_mode_alike(name):
    model = copy.deepcopy(built(name))
    for mode in (True, False):
        out = model.train(mode)(clip())
        assert (out < 0).any()  # no softmax
        assert out.shape == (2, 11)


@pytest.mark.parametrize("name", MODELS)
def test_features_only_equals_forward_intermediates(name):
    model = built(name)
    features_model = vov3d.create_model(name, features_only=True)
    state = {k.replace("stages.", "stages_"): v for k, v in model.state_dict().items() if not k.startswith("head.")}
    features_model.load_state_dict(state)
    x = clip(1, 3, 3, 64, 96)
    with torch.no_grad():
        features = features_model.eval()(x)
        final, intermediates = model.forward_intermediates(x)
        assert torch.equal(final, model.forward_features(x))
    assert len(features) == len(intermediates) == len(model.feature_info)
    for i, (feature, intermediate) in enumerate(zip(features, intermediates, strict=True)):
        assert torch.equal(feature, intermediate)
        reduction = 2 ** (i + 1)
        assert feature.shape == (1, model.feature_info[i]["num_chs"], 3, 64 // reduction, 96 // reduction)
        assert features_model.feature_info.reduction()[i] == reduction
        assert features_model.feature_info.get("time_reduction")[i] == 1


@pytest.mark.parametrize("feature_cls", ["list", "dict", "hook", "getter", "fx"])
def test_ways_of_extracting_features(feature_cls):
    model = vov3d.create_model("vov3d_m", features_only=True, feature_cls=feature_cls, out_indices=(0, 2)).eval()
    out = model(clip())
    out = list(out.values()) if isinstance(out, dict) else out
    assert [tuple(f.shape) for f in out] == [(2, 20, 4, 16, 16), (2, 40, 4, 4, 4)]


def test_forward_intermediates_options():
    model = built("vov3d_m")
    with torch.no_grad():
        final, last_two = model.forward_intermediates(clip(), indices=2)
        only = model.forward_intermediates(clip(), indices=[1], stop_early=True, intermediates_only=True)
    assert [f.shape[1] for f in last_two] == [80, 160]
    assert torch.equal(final, last_two[-1])
    assert [f.shape[1] for f in only] == [20]
    with pytest.raises(ValueError, match="norm=True has no effect"):
        model.forward_intermediates(clip(), norm=True)
    with pytest.raises(ValueError, match="output_fmt must be 'NCHW'"):
        model.forward_intermediates(clip(), output_fmt="NLC")
    for indices in ([2, 0], [1, 1], [1.5]):  # timm gives other maps than were asked for, without a word
        with pytest.raises(ValueError, match="must be whole numbers that rise, without repeats"):
            model.forward_intermediates(clip(), indices=indices)


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n[-2:] == "_l" else n for n in MODELS])
def test_copies_and_state_dicts(name):
    model = built(name)
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    loaded = vov3d.create_model(name, num_classes=11).eval()
    loaded.load_state_dict(torch.load(buffer, weights_only=True))
    with torch.no_grad():
        expected = model(clip())
        for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model), loaded):
            assert torch.equal(other(clip()), expected)


@pytest.mark.slow  # test_export does it with small networks
@pytest.mark.parametrize("name", MODELS)
def test_export_with_dynamic_batch_and_frames(name):
    model = built(name)
    shapes = ({0: torch.export.Dim("batch", min=1, max=64), 2: torch.export.Dim("frames", min=1, max=512)},)
    exported = torch.export.export(model, (clip(),), dynamic_shapes=shapes)
    assert "conv2d" not in str(exported.graph)  # the views that training uses do not leak into exported files
    program = exported.module()
    for shape in (SMALL, (3, 3, 7, 32, 32)):
        torch.testing.assert_close(program(clip(*shape)), model(clip(*shape)), rtol=1e-4, atol=1e-4)


def test_no_weights_are_drawn_on_the_meta_device(monkeypatch):
    drawn = []
    monkeypatch.setattr(torch.nn.init, "normal_", lambda weight, **kwargs: drawn.append(weight))
    model = vov3d.create_model("vov3d_n", device="meta")
    assert not [weight for weight in drawn if weight.ndim == 5]
    vov3d.create_model("vov3d_n")
    assert len([weight for weight in drawn if weight.ndim == 5]) == sum(p.ndim == 5 for p in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compile(backend):
    if backend == "inductor" and not shutil.which("g++"):
        pytest.skip("inductor needs a C++ compiler")
    model = vov3d.create_model("vov3d_m", num_classes=11, num_blocks=2).eval()
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    with torch.no_grad():
        torch.testing.assert_close(compiled(clip()), model(clip()), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_autocast_and_channels_last(name):
    model = built(name)
    with torch.no_grad():
        expected = model(clip())
        last = copy.deepcopy(model).to(memory_format=torch.channels_last_3d)
        out = last(clip().to(memory_format=torch.channels_last_3d))
        torch.testing.assert_close(out, expected, rtol=1e-3, atol=1e-4)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = model(clip())
    assert out.dtype == torch.bfloat16
    assert (out.float() - expected).abs().max() < 0.1 * expected.abs().max()


@pytest.mark.parametrize("name", MODELS)
def test_sync_batchnorm_conversion_keeps_activations(name):
    model = built(name)
    converted = timm.layers.convert_sync_batchnorm(copy.deepcopy(model))
    kinds = {type(m) for m in converted.modules()}
    assert nn.SyncBatchNorm in kinds
    assert nn.BatchNorm3d not in kinds
    with torch.no_grad():
        torch.testing.assert_close(converted(clip()), model(clip()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "conv"), CONVS)
def test_every_middle_convolution(name, conv):
    model = vov3d.create_model(name, conv=conv, num_classes=3).eval()
    x = clip(1, 3, 2, 32, 32)
    with torch.no_grad():
        assert model(x).shape == (1, 3)
    kinds = {n.split(".")[-2] for n in model.state_dict() if ".conv_s" in n or ".conv_t" in n}
    assert ("conv_st" in kinds) == (conv in ("3d", "dw3d"))


@pytest.mark.parametrize("shape", [(1, 3, 1, 32, 32), (1, 3, 5, 33, 47), (2, 3, 2, 63, 32), (1, 3, 17, 35, 39)])
@pytest.mark.parametrize("name", ["vov3d_m", "x3d_m"])
def test_odd_sizes(name, shape):
    model = built(name)
    with torch.no_grad():
        assert model(clip(*shape)).shape == (shape[0], 11)
        features = model.forward_features(clip(*shape))
    assert features.shape[2:] == (shape[2], -(-shape[3] // 32), -(-shape[4] // 32))


def test_clips_that_do_not_fit():
    model = built("vov3d_m")
    with pytest.raises(ValueError, match=r"the strides need clips of at least 32x32 pixels, got 32x31"):
        model(clip(1, 3, 4, 32, 31))
    with pytest.raises(ValueError, match=r"expected a clip \(B, C, T, H, W\), got 4 dimensions"):
        model(clip(3, 4, 32, 32))
    with pytest.raises(ValueError, match=r"expected 3 channels .* got 4"):
        model(clip(1, 4, 3, 32, 32))
    with pytest.raises(ValueError, match=r"floating-point numbers, .* got torch\.uint8; .*eval_transform"):
        model(clip(1, 3, 4, 32, 32).to(torch.uint8))
    with pytest.raises(ValueError, match=r"at least one frame, got sizes \(1, 3, 0, 32, 32\)"):
        model(clip(1, 3, 0, 32, 32))
    with pytest.raises(TypeError, match=r"as a torch\.Tensor, got ndarray"):
        model(clip(1, 3, 4, 32, 32).numpy())


@pytest.mark.parametrize("name", ["vov3d_l", "x3d_l"])
def test_classifier_can_be_replaced_and_left_out(name):
    model = copy.deepcopy(built(name))
    x = clip()
    with torch.no_grad():
        features = model.forward_features(x)
        assert features.shape[1] == model.num_features
        hidden = model.forward_head(features, pre_logits=True)
        assert hidden.shape == (2, model.head_hidden_size)
        torch.testing.assert_close(model.get_classifier()(hidden), model(x))
        model.reset_classifier(5)
        assert model(x).shape == (2, 5)
        assert model.num_classes == model.get_classifier().out_features == 5
        model.reset_classifier(0)
        torch.testing.assert_close(model(x), hidden)
        model.reset_classifier(0, "")
        assert model(x).shape == (2, model.head_hidden_size, 4, 1, 1)
        assert vov3d.create_model(name, num_classes=0).eval()(x).shape == (2, model.head_hidden_size)


@pytest.mark.slow
def test_dense_window():
    model = built("vov3d_m")
    x = clip(1, 3, 2, 96, 64)
    with torch.no_grad():
        torch.testing.assert_close(model.forward_dense(x), model(x).softmax(1))  # the tag's 7x7 covers the map
        torch.testing.assert_close(model.forward_dense(x, 3), model(x).softmax(1))
        features = model.forward_features(x)
        halves = [model.forward_head(features[..., i : i + 2, :]).softmax(1) for i in (0, 1)]
        torch.testing.assert_close(model.forward_dense(x, (2, 2)), torch.stack(halves).mean(0))
        with pytest.raises(ValueError, match="window must be at least 1x1, got 0x7"):
            model.forward_dense(x, (0, 7))
        with pytest.raises(ValueError, match="forward_dense needs a window"):
            vov3d.VoV3D().forward_dense(x)
        low = vov3d.create_model("vov3d_n", pretrained=True).eval()
        wanted = low.forward_dense(x)
        for dtype, atol in ((torch.float16, 0.01), (torch.bfloat16, 0.03)):
            found = copy.deepcopy(low).to(dtype).forward_dense(x.to(dtype))
            torch.testing.assert_close(found.float(), wanted, rtol=0, atol=atol)
    windows = {n: vov3d.create_model(n, device="meta").pretrained_cfg["pool_size"] for n in vov3d.list_pretrained()}
    assert {n: w for n, w in windows.items() if w != (7, 7)} == {
        "vov3d_n.shapes_f8": (4, 4),
        "vov3d_n.shapes_stream": (4, 4),
        "x3d_xs.k400_ptv": (5, 5),
        "x3d_s.k400_ptv": (5, 5),
        "x3d_l.k400_ptv": (10, 10),
    }


@pytest.mark.parametrize("name", ["vov3d_m", "x3d_xs"])
def test_fast_convolutions_change_no_gradient(name, monkeypatch):
    fast = copy.deepcopy(built(name)).double().train()
    fast.head.drop.p = 0.0
    plain = copy.deepcopy(fast)
    fast(clip().double()).square().mean().backward()
    monkeypatch.setattr("vov3d.layers.conv._views_are_faster", lambda x, weight, groups: False)
    plain(clip().double()).square().mean().backward()
    for (n, a), b in zip(fast.named_parameters(), plain.parameters(), strict=True):
        assert (a.grad - b.grad).abs().max() <= 1e-9 * b.grad.abs().max(), n


@pytest.mark.parametrize("name", ["vov3d_m", "x3d_xs"])
def test_gradient_checkpointing_changes_no_gradient(name):
    plain = copy.deepcopy(built(name)).double().train()
    plain.head.drop.p = 0.0
    checkpointed = copy.deepcopy(plain)
    checkpointed.set_grad_checkpointing()
    for model in (plain, checkpointed):
        model(clip().double()).square().mean().backward()
    for (n, a), b in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-12, msg=n)


def statistics(model):
    return {n: b.clone() for n, b in model.named_buffers()}


@pytest.mark.parametrize("way", ["set_grad_checkpointing", "features_only", "a user's own"])
@pytest.mark.parametrize("name", ["vov3d_n", "x3d_xs"])
def test_recomputed_blocks_move_statistics_once(name, way):
    """`features_only` and a user's own checkpoints run stages again by other code than ours."""
    only = {"features_only": True} if way == "features_only" else {}
    depths = dict(depths=(1, 1, 2)) if name == "vov3d_n" else dict(depths=(2, 1, 1, 1))
    plain = vov3d.create_model(name, num_classes=5, drop_rate=0.0, **depths, **only).double().train()
    recomputed = copy.deepcopy(plain)
    if way == "a user's own":
        for stage in recomputed.stages:
            stage.forward = partial(checkpoint, stage.forward, use_reentrant=False)
    else:
        recomputed.set_grad_checkpointing()
    for model in (plain, recomputed):
        for _ in range(2):
            out = model(clip().double())
            (out[-1] if only else out).square().mean().backward()
    for (key, a), b in zip(statistics(plain).items(), statistics(recomputed).values(), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-12, msg=key)
    for (n, a), b in zip(plain.named_parameters(), recomputed.parameters(), strict=True):
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-12, msg=n)


@pytest.mark.parametrize("name", MODELS)
def test_every_convolution_is_pytorchs_own_class(name):
    assert {type(m) for m in built(name).modules() if isinstance(m, nn.modules.conv._ConvNd)} == {nn.Conv3d}


@pytest.mark.parametrize("name", ["vov3d_n", "x3d_xs"])
def test_tools_that_check_exact_types_find_every_module(name):
    model, x = built(name), clip(1, 3, 2, 32, 32)
    fused = fuse(copy.deepcopy(model))
    assert not [m for m in fused.modules() if isinstance(m, nn.BatchNorm3d)]
    found = []
    counted = copy.deepcopy(model)
    for module in counted.modules():
        if type(module) is nn.Conv3d:  # as counters of operations do
            module.register_forward_hook(
                lambda m, _, out: found.append(out[0, 0].numel() * len(out) * m.weight.numel())
            )
    with torch.no_grad():
        torch.testing.assert_close(counted(x), fused(x), rtol=1e-3, atol=1e-3)
    linear = model.head.fc.weight.numel()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(x)
    assert sum(found) + linear == counter.get_total_flops() // 2


@pytest.mark.parametrize("way", ["forward_features", "forward_intermediates", "features_only", "a map of logits"])
@pytest.mark.parametrize("chans", [1, 3])
def test_feature_maps_have_the_memory_format_of_the_clips(way, chans):
    kwargs = {"features_only": dict(features_only=True), "a map of logits": dict(global_pool="")}.get(way, {})
    model = vov3d.create_model("vov3d_n", in_chans=chans, num_classes=5, **kwargs).eval()
    call = getattr(model, way, model)
    for with_grad, x in itertools.product((False, True), (clip(1, chans, 4, 32, 32), clip(2, chans, 1, 32, 48))):
        with torch.set_grad_enabled(with_grad):
            for shaped in (x, x.transpose(3, 4), x.expand(2, *x.shape[1:]) if len(x) == 1 else x):
                out = tree_leaves(call(shaped))
                assert all(m.view(len(m), -1).shape[0] == len(shaped) for m in out)
    if chans > 1:
        out = tree_leaves(call(clip(2, 3, 4, 32, 32).contiguous(memory_format=torch.channels_last_3d)))
        assert all(m.is_contiguous(memory_format=torch.channels_last_3d) for m in out)


@pytest.mark.parametrize("name", ["vov3d_n", "x3d_xs"])
def test_torch_func_transforms_work(name):
    model = vov3d.create_model(name, num_classes=3, depths=(1, 1, 1) if name == "vov3d_n" else (1, 1, 1, 1)).eval()
    x, parameters, buffers = clip(2, 3, 2, 32, 32), dict(model.named_parameters()), dict(model.named_buffers())

    def loss(parameters, x):
        return functional_call(model, (parameters, buffers), (x[None],)).square().mean()

    with torch.no_grad():
        torch.testing.assert_close(vmap(lambda x: model(x[None])[0])(x), model(x), rtol=1e-4, atol=1e-5)
    each = vmap(grad(loss), (None, 0))(parameters, x)
    alone = torch.autograd.grad(loss(parameters, x[1]), list(parameters.values()))
    for (n, a), b in zip(each.items(), alone, strict=True):
        torch.testing.assert_close(a[1], b, rtol=1e-3, atol=1e-4, msg=n)
    stacked = stack_module_state([model, copy.deepcopy(model)])
    outs = vmap(lambda p, b: functional_call(model, (p, b), (x,)))(*stacked)
    torch.testing.assert_close(outs[0], outs[1])


@pytest.mark.slow
def test_a_trace_is_made_of_plain_convolutions_and_takes_other_clips():
    model = built("vov3d_n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(model, clip(1, 3, 2, 32, 32))
    assert "memory_format" not in str(traced.inlined_graph)
    with torch.no_grad():
        for shape in ((1, 3, 2, 32, 32), (2, 3, 4, 32, 32)):
            torch.testing.assert_close(traced(clip(*shape)), model(clip(*shape)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("part", [lambda: built("vov3d_n"), lambda: nn.Sequential(vov3d.TOSA(4, 4, 4)), vov3d.X3D])
def test_scripting_is_refused_in_one_sentence(part):
    with pytest.raises(RuntimeError, match=r"cannot be scripted by TorchScript: write a file with vov3d\.export"):
        torch.jit.script(part())


@pytest.mark.parametrize("with_grad", [False, True])
@pytest.mark.parametrize("name", ["vov3d_n", "x3d_xs"])
def test_a_batch_of_no_clips(name, with_grad):
    model, empty = built(name), torch.empty(0, 3, 4, 32, 32)
    with torch.set_grad_enabled(with_grad):
        assert model(empty).shape == (0, 11)
        assert model.forward_features(empty).shape[0] == 0
    assert vov3d.optimize_for_inference(model)(empty).shape == (0, 11)


def test_parameter_groups_and_layer_decay():
    model = built("vov3d_l")
    optimizer = create_optimizer_v2(model, "sgd", lr=0.1, weight_decay=5e-5, layer_decay=0.5)
    decays = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    scales = {id(p): g["lr_scale"] for g in optimizer.param_groups for p in g["params"]}
    assert set(decays) == {id(p) for p in model.parameters()}
    assert decays[id(model.stem.bn.weight)] == 0
    assert decays[id(model.stem.conv_s.weight)] == 5e-5
    # stem, 1 + 2 + 5 + 3 blocks, head
    assert scales[id(model.head.fc.weight)] == 1
    assert scales[id(model.stem.conv_s.weight)] == pytest.approx(0.5**12)
    assert model.group_matcher(coarse=True)["blocks"] == r"^stages\.(\d+)"
    assert model.no_weight_decay() == set()


def test_constructor_arguments():
    model = vov3d.VoV3D(
        in_chans=2,
        num_classes=3,
        stem_chs=8,
        mid_chs=(8, 16),
        out_chs=(4, 8),
        depths=(1, 1),
        num_blocks=2,
        head_chs=16,
        hidden_chs=12,
        output_stride=8,
        global_pool="catavgmax",
        norm_layer="groupnorm1",
        act_layer="silu",
        drop_rate=0.0,
        drop_path_rate=0.5,
    )
    assert model(torch.randn(1, 2, 2, 8, 8)).shape == (1, 3)
    assert model.stages[1].blocks[0].drop_path.drop_prob == 0.5
    assert isinstance(model.stages[0].blocks[0].drop_path, nn.Identity)
    assert not [m for m in model.modules() if isinstance(m, nn.BatchNorm3d)]
    with pytest.raises(ValueError, match="must agree in length"):
        vov3d.X3D(depths=(1, 2, 3))
    with pytest.raises(ValueError, match="a whole number of at least 1, got 0"):
        vov3d.VoV3D(depths=(1, 0, 3, 2))
    with pytest.raises(TypeError, match="img_size"):
        vov3d.create_model("vov3d_m", img_size=224)


@pytest.mark.parametrize("name", ["vov3d_m", "x3d_xs"])
def test_device_and_dtype_reach_every_parameter(name):
    model = vov3d.create_model(name, device="meta", dtype=torch.bfloat16)
    assert {(p.device.type, p.dtype) for p in model.parameters()} == {("meta", torch.bfloat16)}


def test_starting_weights_keep_the_scale_of_depthwise_convolutions():
    torch.manual_seed(0)
    model = vov3d.create_model("vov3d_l")
    weight = model.stages[3].blocks[0].layers[0].conv_s.weight
    assert weight.std().item() == pytest.approx((2 / 9) ** 0.5, rel=0.05)  # fan-out 9, not 384 x 9
    assert all(block.bn_agg.weight.abs().max() == 0 for stage in model.stages for block in stage.blocks)
