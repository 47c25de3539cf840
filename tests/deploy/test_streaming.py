"""Streams against clips: the same network on a long clip, with means over the same frames."""

import copy
import json

import pytest
import torch
import torch.nn.functional as F
from helpers.trained_like import as_trained
from torch import nn

import vov3d
import vov3d.deploy
from vov3d.deploy._conv2d import conv2d_graph_of
from vov3d.deploy._metadata import Metadata
from vov3d.deploy._streaming import FrameConv
from vov3d.layers import MIDDLE_CONVS, ConvNormAct3d, D2plus1D, SqueezeExcite3d
from vov3d.layers.causal import CausalPad3d, CausalSqueezeExcite3d
from vov3d.models.budget import budget_of

SMALL = dict(depths=(1, 2), mid_chs=(12, 16), out_chs=(6, 8), num_classes=7, head_chs=16, hidden_chs=24, stem_chs=6)
SMALL |= dict(output_stride=8)


def small(name="vov3d_m", **kwargs):
    return as_trained(vov3d.create_model(name, **{**SMALL, **kwargs}))


# --- the reference: plain modules on a whole clip --------------------------------------------------------------------


def trailing_mean(x, window):
    """Returns means over all positions and the last frames, `(B, C, T, H, W)` to `(B, C, T, 1, 1)`, by a loop."""
    rows = x.mean((3, 4), keepdim=True)
    return torch.cat([rows[:, :, max(i + 1 - window, 0) : i + 1].mean(2, True) for i in range(x.shape[2])], 2)


class TrailingSE(nn.Module):
    def __init__(self, se, window):
        super().__init__()
        self.se, self.window = se, window

    def forward(self, x):
        se = self.se
        return x * se.fc2(F.relu(se.fc1(trailing_mean(x, self.window)))).sigmoid()


def reference(model, window):
    """Returns a copy of the model whose squeeze-and-excitation averages over the last frames."""
    model = copy.deepcopy(model)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, SqueezeExcite3d):
                setattr(module, name, TrailingSE(child, window))
    return model


@torch.no_grad()
def logits_of_moments(model, clip, window):
    """Returns logits `(B, T, N)`; the last ones see the padding behind the clip."""
    x = reference(model, window).forward_features(clip)
    head = model.head
    x = head.hidden(trailing_mean(head.act1(head.bn(head.conv(x))), window))
    return head.fc(head.act2(x).flatten(2).transpose(1, 2))


def run(stream, clip, *steps):
    """Returns outputs `(B, T, N)` of a clip in steps of so many frames; the last number is repeated."""
    state, outs, at = stream.initial_state(clip.shape[0], *clip.shape[3:]), [], 0
    while at < clip.shape[2]:
        frames = steps[min(len(outs), len(steps) - 1)]
        piece = clip[:, :, at : at + frames]
        out, state = stream(piece[:, :, 0] if frames == 1 else piece, state)
        outs.append(out[:, None] if frames == 1 else out)
        at += frames
    return torch.cat(outs, 1)


def assert_exact(model, clip, window, *ways):
    """Compares a stream in steps of so many frames; the last number of each way is repeated."""
    stream = vov3d.streaming(model, window)
    length = clip.shape[2] - stream.delay
    assert length > 0
    expected = logits_of_moments(model, clip, window)[:, :length]
    atol = 1e-10 * float(expected.abs().max())
    for steps in ways:
        torch.testing.assert_close(run(stream, clip, *steps)[:, stream.delay :], expected, rtol=1e-9, atol=atol)


@pytest.mark.parametrize(
    ("name", "conv"),
    [("x3d_m", conv) for conv in MIDDLE_CONVS]
    + [pytest.param("vov3d_m", conv, marks=pytest.mark.slow if conv != "d2plus1d" else ()) for conv in MIDDLE_CONVS],
)
def test_a_stream_equals_the_model_on_clips(name, conv):
    model = small(name, conv=conv)
    clip = torch.randn(2, 3, 3 + vov3d.streaming(model).delay, 17, 16, dtype=torch.float64)
    assert_exact(model, clip, 3, (1,), (2,), (7,), (3, 1, 1, 5))


@pytest.mark.parametrize("conv", MIDDLE_CONVS)
@pytest.mark.parametrize("name", [pytest.param("vov3d_m", marks=pytest.mark.slow), "x3d_m"])
def test_a_causal_stream_equals_every_frame_of_a_clip(name, conv):
    model = small(name, conv=conv, causal=True)
    clip = torch.randn(2, 3, 9, 17, 16, dtype=torch.float64)
    stream = vov3d.streaming(model, window=9)
    assert stream.delay == 0
    with torch.no_grad():
        expected = model.forward_frames(clip)
    for steps in [(1,), (2,), (4, 1)]:
        torch.testing.assert_close(run(stream, clip, *steps), expected, rtol=1e-10, atol=1e-10)
    assert_exact(model, clip, 4, (2,))
    assert_exact(model, clip, 1, (1,))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    "name",
    ["vov3d_n", *(pytest.param(n, marks=pytest.mark.slow) for n in ("vov3d_m", "x3d_m", "vov3d_l", "x3d_l"))],
)
def test_every_model_of_the_zoo_can_be_streamed(name, causal):
    model = as_trained(vov3d.create_model(name, causal=causal, num_classes=5, hidden_chs=64))
    frames = vov3d.streaming(model).delay + 2
    assert_exact(model, torch.randn(1, 3, frames, 32, 32, dtype=torch.float64), 6, (8,))


@pytest.mark.slow
def test_other_kernels_dilated_stages_and_blocks():
    clip = torch.randn(1, 3, 40, 34, 36, dtype=torch.float64)
    for kwargs in (
        dict(temporal_kernel_size=5, stem_temporal_kernel_size=3),
        dict(temporal_kernel_size=1, stem_temporal_kernel_size=1),
        dict(output_stride=4),
        dict(num_blocks=1, se_every_other=False),
        dict(se_ratio=0, act_layer="gelu", mid_act_layer="hard_swish", in_chans=3),
    ):
        assert_exact(small(**kwargs), clip, 5, (4,))


@pytest.mark.slow
def test_delay_and_receptive_field_of_the_published_networks():
    for name, delay, field in (("vov3d_m", 42, 85), ("x3d_m", 28, 57)):
        stream = vov3d.streaming(vov3d.create_model(name))
        assert (stream.delay, stream.receptive_field, stream.window) == (delay, field, 16)
        causal = vov3d.streaming(vov3d.create_model(name, causal=True))
        assert (causal.delay, causal.receptive_field) == (0, field)


def test_no_output_sees_more_than_its_receptive_field():
    stream = vov3d.streaming(small(se_ratio=0, stem_temporal_kernel_size=3, depths=(1, 1)), window=1)
    frames = stream.receptive_field + 2
    clip = torch.randn(1, 3, frames, 16, 16, dtype=torch.float64)
    changed = clip.clone()
    changed[:, :, :2] += 1
    before, after = run(stream, clip, 1), run(stream, changed, 1)
    assert torch.equal(before[:, -1], after[:, -1])
    assert not torch.equal(before[:, -2], after[:, -2])


def test_a_frame_costs_a_sixteenth_of_a_clip_of_sixteen():
    model = vov3d.create_model("vov3d_n", num_classes=3)
    stream, counts = vov3d.streaming(model.eval()), []
    for layer in stream.modules():
        if isinstance(layer, FrameConv | nn.Linear):
            layer.register_forward_hook(lambda m, _, y: counts.append(y.numel() // y.shape[-1] * m.weight.numel()))
    stream(torch.randn(1, 3, 64, 64))
    assert budget_of(model, torch.randn(1, 3, 16, 64, 64)).macs / sum(counts) == pytest.approx(16, rel=0.05)


# --- the state -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("causal", [False, True])
def test_streams_of_a_batch_begin_anew_each_on_its_own(causal):
    stream = vov3d.streaming(small(causal=causal), window=4)
    clip = torch.randn(3, 3, stream.delay + 6, 16, 17, dtype=torch.float64)
    _, state = stream(torch.randn(3, 3, 9, 16, 17, dtype=torch.float64), stream.initial_state(3, 16, 17))
    kept = {name: value.clone() for name, value in state.items()}
    anew = stream.reset(state, torch.tensor([True, False, True]))
    out, _ = stream(clip, anew)
    torch.testing.assert_close(out[[0, 2]], run(stream, clip, 1)[[0, 2]], rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(out[1], stream(clip, state)[0][1], rtol=1e-9, atol=1e-11)
    assert all(torch.equal(state[name], value) for name, value in kept.items()), "a call changed its state"


def test_state_is_tensors_that_can_be_saved_and_moved(tmp_path):
    stream = vov3d.streaming(small(), window=4)
    clip = torch.randn(2, 3, 8, 16, 16, dtype=torch.float64)
    _, state = stream(clip, stream.initial_state(2, 16, 16))
    torch.save(state, tmp_path / "state.pt")
    again = torch.load(tmp_path / "state.pt", weights_only=True)
    assert torch.equal(stream(clip[:, :, 0], again)[0], stream(clip[:, :, 0], state)[0])
    single = stream.initial_state(2, 16, 16, dtype=torch.float32)
    assert {v.dtype for k, v in single.items() if k != "frames"} == {torch.float32}
    assert single.keys() == state.keys()
    assert all(single[name].shape == value.shape and not single[name].any() for name, value in state.items())
    assert {v.device.type for v in stream.initial_state(1, 16, 16, device="meta").values()} == {"meta"}


def test_a_state_of_other_streams_is_refused():
    stream = vov3d.streaming(small())
    frame = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    for state in (stream.initial_state(1, 16, 16), stream.initial_state(2, 32, 16)):
        with pytest.raises(ValueError, match="the state is not of 2 streams of 16x16"):
            stream(frame, state)
    with pytest.raises(ValueError, match="not a state of this network"):
        stream(frame, {})
    with pytest.raises(ValueError, match="at least 8x8"):
        stream(frame[..., :4], None)
    with pytest.raises(ValueError, match="convert one"):
        stream(frame.float(), None)
    with pytest.raises(ValueError, match=r"its 'stem\.conv_t\.1' is torch\.float32 on cpu, not torch\.float64 on cpu"):
        stream(frame, stream.initial_state(2, 16, 16, dtype=torch.float32))
    with pytest.raises(ValueError, match="the state is on meta, the frames on cpu"):
        stream(frame, stream.initial_state(2, 16, 16, device="meta"))
    with pytest.raises(ValueError, match="expected a clip"):
        stream(frame[0], None)
    with pytest.raises(ValueError, match=r"bool of shape \(2,\), got int64 of shape \(3,\)"):
        stream.reset(stream.initial_state(2, 16, 16), torch.arange(3))
    with pytest.raises(ValueError, match=r"a tensor, bool of shape \(2,\), got a list"):
        stream.reset(stream.initial_state(2, 16, 16), [True, False])
    with pytest.raises(ValueError, match="height must be a whole number of at least 1, got -16"):
        stream.initial_state(2, -16, 16)
    with pytest.raises(TypeError, match=r"expected a clip as a torch.Tensor, got ndarray"):
        stream(frame.numpy(), None)


@pytest.mark.parametrize("kept", ["window", "causal", "part"])
def test_a_state_of_another_network_of_the_same_size_is_refused(kept):
    stream = vov3d.streaming(small(causal=True), window=3)
    model = small(causal=kept != "causal")
    state = vov3d.streaming(model, window=5 if kept == "window" else 3).initial_state(2, 16, 16)
    if kept == "part":
        del state["head"]
    with pytest.raises(ValueError, match="not a state of this network"):
        stream(torch.randn(2, 3, 16, 16, dtype=torch.float64), state)


def test_means_do_not_drift():
    stream = vov3d.streaming(small(causal=True).float(), window=5)
    clip = torch.randn(1, 3, 100, 16, 16)  # longer than kernels and windows of all layers together reach
    _, state = stream(1e5 * clip, None)
    state["frames"] += 10**6
    torch.testing.assert_close(stream(clip, state)[0][:, -1], stream(clip, None)[0][:, -1], rtol=0, atol=0)


# --- with the rest of the package ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "conv", "causal"),
    [("vov3d_m", "d2plus1d", True), ("x3d_m", "dw3d", False)]
    + [
        pytest.param(*row, marks=pytest.mark.slow)
        for row in (
            ("vov3d_m", "d2plus1d", False),
            ("x3d_m", "dw3d", True),
            ("vov3d_m", "3d", False),
            ("vov3d_m", "3d", True),
        )
    ],
)
def test_an_optimized_stream_has_equal_outputs(name, conv, causal):
    stream = vov3d.streaming(small(name, conv=conv, causal=causal).float(), window=4)
    fast = vov3d.optimize_for_inference(stream)
    assert (fast.delay, fast.window, fast.num_classes) == (stream.delay, 4, 7)
    clip = torch.randn(2, 3, stream.delay + 3, 32, 33)
    for steps in ((1,), (4,)):
        torch.testing.assert_close(run(fast, clip, *steps), run(stream, clip, *steps), rtol=1e-3, atol=1e-4)
    half = vov3d.optimize_for_inference(stream, dtype=torch.bfloat16)
    out, exact = run(half, clip, 1), run(stream, clip, 1)
    assert out.dtype == torch.bfloat16
    assert float((out.float() - exact).abs().max()) < 0.05 * float(exact.abs().max())
    assert not half.reset(half.initial_state(1, 32, 32), torch.tensor([True]))["frames"].any()


@pytest.mark.parametrize("causal", [False, True])
def test_feature_maps_are_of_one_moment(causal):
    model = small(causal=causal)
    features = vov3d.create_model("vov3d_m", features_only=True, causal=causal, **SMALL).double().eval()
    features.load_state_dict({k.replace("stages.", "stages_"): v for k, v in model.state_dict().items()}, strict=False)
    stream = vov3d.streaming(features, window=4)
    clip = torch.randn(2, 3, stream.delay + 3, 16, 17, dtype=torch.float64)
    with torch.no_grad():
        expected = reference(model, 4).forward_intermediates(clip, intermediates_only=True)
    maps, state = stream(clip, stream.initial_state(2, 16, 17))
    length = clip.shape[2] - stream.delay
    assert len(maps) == len(expected) == 3
    for found, wanted in zip(maps, expected, strict=True):
        torch.testing.assert_close(found[:, :, stream.delay :], wanted[:, :, :length], rtol=1e-9, atol=1e-10)
    one, _ = stream(clip[:, :, 0], state)
    assert [m.shape for m in one] == [w[:, :, 0].shape for w in expected]


@pytest.mark.parametrize(
    ("ending", "causal"),
    [(".pt2", True), pytest.param(".onnx", True, marks=pytest.mark.slow)]
    + [pytest.param(ending, False, marks=pytest.mark.slow) for ending in (".pt2", ".onnx", ".xml")],
)
def test_an_exported_stream_takes_and_returns_the_state(ending, causal, tmp_path):
    stream = vov3d.streaming(small(causal=causal, num_blocks=2).float(), window=3)
    path = vov3d.export(stream, tmp_path / f"stream{ending}", size=32)  # compares step by step
    exported = vov3d.load_exported(path)
    assert (exported.delay, exported.window) == (stream.delay, 3)
    assert exported.receptive_field == stream.receptive_field
    ours, theirs = stream.initial_state(3, 32, 32), exported.initial_state(3, 32, 32)
    for i in range(4):
        frame = torch.randn(3, 3, 32, 32)
        expected, ours = stream(frame, ours)
        before, copies = theirs, {name: value.clone() for name, value in theirs.items()}
        found, theirs = exported(frame, theirs)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        assert all(torch.equal(before[name], copy) for name, copy in copies.items())  # a call keeps the old state
        if i == 1:
            mask = torch.tensor([False, True, False])
            ours, theirs = stream.reset(ours, mask), exported.reset(theirs, mask)
    with pytest.raises(ValueError, match="32x32 only"):
        exported.initial_state(1, 64, 64)
    with pytest.raises(ValueError, match="batch must be a whole number of at least 1, got 0"):
        exported.initial_state(0)
    with pytest.raises(ValueError, match="32x32 only, got 0x32"):
        exported.initial_state(1, 0)
    with pytest.raises(ValueError, match="one frame"):
        exported(torch.randn(1, 3, 2, 32, 32))
    with pytest.raises(ValueError, match=r"floating-point numbers, .* got torch\.uint8"):
        exported(torch.zeros(3, 3, 32, 32, dtype=torch.uint8), theirs)
    with pytest.raises(ValueError, match=r"its 'stem\.conv_t\.1' is torch\.float64 on cpu, not torch\.float32 on cpu"):
        exported(frame, {**theirs, "stem.conv_t.1": theirs["stem.conv_t.1"].double()})


@pytest.mark.slow  # an export
def test_an_exported_stream_with_wrong_outputs_is_not_kept(tmp_path, monkeypatch):
    stream = vov3d.streaming(small(causal=True).float(), window=3)
    monkeypatch.setattr("vov3d.deploy._stream_files.STEPS", 3)
    step = type(stream).forward

    def off(self, frames, state=None):
        out, after = step(self, frames, state)
        name = next(key for key, value in after.items() if value.ndim == 4)
        return out, after | {name: after[name] + (0.1 if torch.compiler.is_exporting() else 0)}

    monkeypatch.setattr(type(stream), "forward", off)
    with pytest.raises(vov3d.deploy.ExportError, match="off by more"):
        vov3d.export(stream, tmp_path / "stream.pt2", size=16)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("path", "kwargs", "match"),
    [
        ("s.pte", {}, "pt2, and not in int8|executorch"),
        ("s.pt2", {"frames": 4}, "no effect"),
        ("s.pt2", {"size": 4}, "size=8 or more"),
    ],
)
def test_unsupported_exports_of_streams_are_refused(path, kwargs, match, tmp_path):
    with pytest.raises((ValueError, ImportError), match=match):
        vov3d.export(vov3d.streaming(small().float()), tmp_path / path, **kwargs)


def test_without_a_classifier_it_gives_features():
    model = small(num_classes=0)
    out, _ = vov3d.streaming(model)(torch.randn(2, 3, 16, 16, dtype=torch.float64))
    assert out.shape == (2, model.head_hidden_size)


def test_models_that_cannot_be_streamed_are_refused_with_the_reason():
    model = small()
    for wrong, match in (
        (nn.Conv3d(3, 4, 1), "a Conv3d cannot be made a stream"),
        (vov3d.optimize_for_inference(model), "optimize the stream, not the model"),
        (small(global_pool="max"), "'max'"),
        (vov3d.create_model("vov3d_m", norm_layer="instancenorm3d", **SMALL), "streams need batch norms"),
    ):
        with pytest.raises(ValueError, match=match):
            vov3d.streaming(wrong)
    for window in (0, 2.5, "16"):
        with pytest.raises(ValueError, match=f"window is {window!r}: give the number of frames to pool"):
            vov3d.streaming(model, window)
    with pytest.raises(ValueError, match="cannot be trained"):
        vov3d.streaming(model).train()
    model.stem.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match="stem has hooks"):
        vov3d.streaming(model)
    model = small()
    model.forward = model.forward_features
    with pytest.raises(ValueError, match="the model has a forward that was set on the instance, which a stream"):
        vov3d.streaming(model)
    for name, method in (("", "forward_features"), ("head", "_hidden"), ("stages.1", "forward")):
        model = small()
        part = model.get_submodule(name)
        setattr(part, method, lambda x: x)
        with pytest.raises(ValueError, match=f"has a {method} that was set on the instance, which a stream"):
            vov3d.streaming(model)


class Standardized(nn.Module):
    def forward(self, x):
        return x * x.abs().mean().sigmoid()


@pytest.mark.parametrize(
    ("name", "layer", "match"),
    [
        ("conv_t", nn.Conv3d(16, 16, (3, 1, 1), padding=(2, 0, 0), dilation=(2, 1, 1), groups=16), "dilation in time"),
        ("conv_t", nn.Conv3d(16, 16, (3, 1, 1), groups=16), "changes the number of frames"),
        ("conv_pwl", nn.Conv3d(16, 8, (3, 1, 1), padding=(1, 0, 0)), "a kernel of one frame"),
        ("conv_s", nn.Conv3d(16, 16, (1, 3, 3), padding="same", groups=16), "padding in numbers"),
        ("conv_pwl", nn.Identity(), "need a Conv3d"),
        ("se", nn.Sigmoid(), "need squeeze-and-excitation"),
        ("act2", nn.Softmax(dim=1), "each value alone"),
        ("act2", nn.PReLU(16), "each value alone"),
        ("se.fc1", nn.Sequential(nn.Conv3d(16, 8, 1)), r"need a Conv3d at stages\.1\.blocks\.0\.layers\.1\.se\.fc1"),
        ("drop_path", nn.Hardtanh(0, 1), r"stochastic depth or Identity at .*\.layers\.1\.drop_path, got Hardtanh"),
        ("drop_path", nn.Hardtanh(), r"stochastic depth or Identity at .*\.layers\.1\.drop_path, got Hardtanh"),
        ("act2", Standardized(), "each value alone"),
        ("se.fc1", nn.Conv3d(16, 8, 3, padding=1), "a kernel of 1x1x1 without groups and padding"),
        ("shortcut", nn.Softmax(dim=1), r"need Identity or ConvNormAct3d at .*\.shortcut, got Softmax"),
        ("shortcut", nn.Sequential(nn.Conv3d(8, 8, 1), nn.BatchNorm3d(8)), r"at .*\.shortcut, got .*Sequential"),
        ("", nn.Identity(), "need D2plus1D"),
    ],
)
def test_layers_that_a_stream_would_compute_in_another_way_are_refused(name, layer, match):
    model = small(se_every_other=False).float()
    model.set_submodule(f"stages.1.blocks.0.layers.1.{name}".rstrip("."), layer)
    with pytest.raises(ValueError, match=match):
        vov3d.streaming(model)


PUT_IN = {
    "a shortcut with an activation": lambda: D2plus1D(8, 16, 8, causal=True, shortcut=ConvNormAct3d(8, 8)),
    "a depthwise projection": lambda: D2plus1D(8, 8, 8, causal=True),
    "a depthwise projection and its shortcut": lambda: D2plus1D(
        8, 8, 8, causal=True, shortcut=ConvNormAct3d(8, 8, groups=8)
    ),
}


@pytest.mark.parametrize("kind", PUT_IN)
def test_blocks_that_were_put_in_are_streamed_with_all_that_they_compute(kind):
    model, block = small("x3d_m", causal=True), PUT_IN[kind]()
    if "projection" in kind:
        block.conv_pwl = nn.Conv3d(8, 8, 1, groups=8)
    model.stages[1].blocks[1] = as_trained(block)
    clip = torch.randn(2, 3, 6, 16, 17, dtype=torch.float64)
    stream = vov3d.streaming(model, window=6)
    with torch.no_grad():
        expected = model.forward_frames(clip)
    for steps in ((1,), (4, 2)):
        torch.testing.assert_close(run(stream, clip, *steps), expected, rtol=1e-10, atol=1e-10)
    _, state = stream(clip[:, :, 0], None)
    kept = {name: value.clone() for name, value in state.items()}
    stream(clip[:, :, 1], state)
    assert all(torch.equal(value, kept[name]) for name, value in state.items())


def subclass(module, name):
    """Makes a module one of a class whose method of this name gives twice what it gave."""
    kind = type(module)
    module.__class__ = type("Doubled", (kind,), {name: lambda self, x: 2 * getattr(kind, name)(self, x)})


CHANGED = {
    "network": (lambda m: subclass(m, "forward_features"), "a Doubled cannot be made a stream"),
    "head": (lambda m: subclass(m.head, "forward_frames"), "original head, but it was replaced by Doubled"),
    "stem": (lambda m: subclass(m.stem, "forward"), r"need Stem3d at stem, got .*Doubled"),
    "stage": (lambda m: subclass(m.stages[1], "forward"), r"need Stage at stages\.1, got .*Doubled"),
    "series": (lambda m: subclass(m.stages[1].blocks, "forward"), r"need Sequential at stages\.1\.blocks"),
    "block": (lambda m: subclass(m.stages[1].blocks[0], "forward"), r"need D2plus1D or TOSA at stages\.1\.blocks\.0"),
    "gate": (
        lambda m: [subclass(x, "forward") for x in m.modules() if type(x) is CausalSqueezeExcite3d],
        r"need squeeze-and-excitation or Identity at .*\.se, got .*Doubled",
    ),
    "shortcut": (lambda m: subclass(m.stages[0].blocks[0].shortcut, "forward"), r"ConvNormAct3d at .*\.shortcut, got"),
    "padding": (lambda m: setattr(m.stem, "pad", CausalPad3d(3)), r"need CausalPad3d\(4\) at stem\.pad"),
    "pooling": (lambda m: subclass(m.head.global_pool, "forward"), r"SelectAdaptivePool2d at head\.global_pool"),
    "dropout": (lambda m: setattr(m.head, "drop", nn.Hardtanh()), r"dropout or Identity at head\.drop, got Hardtanh"),
    "a stem in a series": (
        lambda m: setattr(m, "stem", nn.Sequential(m.stem)),
        "need Stem3d at stem, got .*Sequential",
    ),
}


@pytest.mark.parametrize("kind", CHANGED)
@pytest.mark.parametrize("name", ["vov3d_m", "x3d_m"])
def test_subclasses_whose_own_code_a_stream_would_drop_are_refused(name, kind):
    model, (change, match) = small(name, causal=True), CHANGED[kind]
    change(model)
    with pytest.raises(ValueError, match=match):
        vov3d.streaming(model)


@pytest.mark.parametrize(
    ("part", "layer", "match"),
    [
        ("shortcut.act", nn.ReLU(), r"need Identity at stages\.1\.blocks\.0\.shortcut\.act, got ReLU"),
        ("conv_agg", nn.Conv3d(40, 8, (1, 3, 3), padding=(0, 1, 1)), r"of 1x1x1 .* as stages\.1\.blocks\.0\.conv_agg"),
    ],
)
def test_aggregations_that_cannot_be_merged_are_refused_with_their_place(part, layer, match):
    model = small().float()
    model.set_submodule(f"stages.1.blocks.0.{part}", layer)
    with pytest.raises(ValueError, match=match):
        vov3d.streaming(model)
    with pytest.raises(ValueError, match=match):
        conv2d_graph_of(model, (3, 16, 16))


def test_streaming_does_not_change_the_model():
    model = vov3d.create_model("vov3d_n", **{k: v for k, v in SMALL.items() if k == "num_classes"})
    before = {name: value.clone() for name, value in model.state_dict().items()}
    vov3d.streaming(model)(torch.randn(1, 3, 16, 16))
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.slow  # an export
def test_the_temperature_of_the_weights_goes_with_them(tmp_path):
    model = vov3d.create_model("vov3d_n", pretrained=True, causal=True).eval()
    stream = vov3d.streaming(model)
    exported = vov3d.load_exported(vov3d.export(stream, tmp_path / "stream.onnx", size=16))
    fast = vov3d.optimize_for_inference(stream)
    assert exported.temperature == fast.temperature == stream.temperature == model.temperature != 1


def test_another_head_is_refused():
    model = small()
    model.head = nn.Identity()
    with pytest.raises(ValueError, match="it was replaced by Identity"):
        vov3d.streaming(model)


@pytest.mark.parametrize("stream", [3, {}, {"delay": 0, "receptive_field": 1, "window": 1, "state": {"frames": [-1]}}])
def test_metadata_of_another_form_is_refused(stream):
    cfg = vov3d.create_model("vov3d_n", device="meta").pretrained_cfg
    strings = Metadata("0", "vov3d_n", None, dict(cfg), None, 20, 3, ["logits"], "fp32", 16, [1, 16, 16]).to_strings()
    assert Metadata.from_strings({k: v for k, v in strings.items() if k != "stream"}).stream is None
    with pytest.raises(ValueError, match="not what vov3d.export writes"):
        Metadata.from_strings(strings | {"stream": json.dumps(stream)})
