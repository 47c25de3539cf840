"""Explanations: where their maps lie, what they are of, what is refused, and that the model stays as it was."""

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from helpers.task_models import NAMES, task_model
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

import vov3d
from vov3d.deploy import ExportedModel
from vov3d.interpret import METHODS, explain, occlusion, save_explanations
from vov3d.interpret._alignment import enlarged, stride_of
from vov3d.interpret._target import find_target
from vov3d.interpret.picture import _in_one_palette, draw_animation, heated
from vov3d.synthetic.masks import make_masked_clip
from vov3d.synthetic.moving_shapes import make_clip, write_clip
from vov3d.weights.tasks import make_task

# 70 MB of wheels that only explanations need: extra `explain`
CLIP = torch.randn(3, 4, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def trained() -> Any:
    return vov3d.create_model("vov3d_n", pretrained=True).eval()


# --- alignment -------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(st.sampled_from([2, 4, 8, 16, 32]), st.integers(1, 6), st.integers(1, 6), st.data())
def test_maps_keep_their_values_at_the_centres_of_receptive_fields(stride, rows, columns, data):
    height, width = (n * stride - data.draw(st.integers(0, stride - 1)) for n in (rows, columns))
    maps = torch.rand(2, rows, columns)
    large = enlarged(maps, (height, width), stride)
    assert large.shape == (2, height, width)
    torch.testing.assert_close(large[:, ::stride, ::stride], maps)
    assert large.min() >= maps.min() - 1e-6
    assert large.max() <= maps.max() + 1e-6


@pytest.mark.parametrize("name", ["vov3d_n", "x3d_xs"])
def test_receptive_fields_are_centred_on_multiples_of_the_stride(name):
    """The gradient of one position reaches equally far to both sides of the centre."""
    model: Any = vov3d.create_model(name, se_ratio=0, depths=(1, 1), mid_chs=(4, 4), out_chs=(4, 4), output_stride=8)
    for module in model.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.constant_(module.weight, 0.1)
        if isinstance(module, nn.BatchNorm3d):
            nn.init.ones_(module.weight)
    clip = torch.rand(1, 3, 1, 192, 192, requires_grad=True)
    model.eval()
    for layer, stride in ((model.stages[:1], 4), (model.stages, 8)):
        position = 96 // stride
        (gradient,) = torch.autograd.grad(layer(model.stem(clip))[0, :, 0, position, position].sum(), clip)
        for dims in ((0, 1, 2, 3), (0, 1, 2, 4)):
            reached = gradient.abs().sum(dims).nonzero().flatten()
            assert int(reached[0] + reached[-1]) == 2 * 96


def test_strides_are_those_of_the_layer():
    reductions = [2, 4, 8, 16]
    assert stride_of("stem", reductions, (64, 64), (32, 32)) == 2
    assert stride_of("stages.1", reductions, (63, 65), (8, 9)) == 8
    assert stride_of("stages.1.blocks.0.conv_pw", reductions, (64, 64), (16, 16)) == 4
    assert stride_of("head.act1", reductions, (64, 64), (4, 4)) == 16
    with pytest.raises(ValueError, match="gives maps of 5x5 for frames of 64x64"):
        stride_of("stages.1", reductions, (64, 64), (5, 5))


# --- targets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "heads", "wanted", "outputs", "label"),
    [
        ("single", None, None, [2], "c"),
        ("single", None, 1, [1], "b"),
        ("single", None, np.int64(1), [1], "b"),
        ("single", None, torch.tensor([[0.1, 0.9]]).argmax(1), [1], "b"),
        ("multilabel", None, "a", [0], "a"),
        ("regression", None, "d", [3], "d"),
        ("multihead", {"verb": 2, "noun": 2}, None, [0, 2], "a c"),
        ("multihead", {"verb": 2, "noun": 2}, ("b", "d"), [1, 3], "b d"),
        ("multihead", {"verb": 2, "noun": 2}, (np.int64(1), "d"), [1, 3], "b d"),
        ("multihead", {"verb": 2, "noun": 2}, "d", [3], "d"),
    ],
)
def test_targets(task, heads, wanted, outputs, label):
    scores = torch.tensor([0.3, 0.1, 0.5, 0.1])
    found, indices = find_target(make_task(task, heads), scores, list("abcd"), wanted)
    assert (indices, found.label) == (outputs, label)


@pytest.mark.parametrize(
    ("task", "names", "wanted", "message"),
    [
        ("single", "abc", 3, "from 0 to 2"),
        ("single", "abc", True, "from 0 to 2"),
        ("single", "abc", -1, "from 0 to 2"),
        ("single", "abc", np.bool_(True), "from 0 to 2"),
        ("single", "abc", torch.tensor(1.0), "from 0 to 2"),
        ("single", ["left", "right"], "lefft", "no output 'lefft'; near: 'left'"),
        ("single", "aba", "a", r"names outputs \[0, 2\]"),
        ("single", "abc", ("a", "b"), "has one head"),
        ("single", "abc", (), "has 0 parts, but the model has one head"),
        ("regression", "abc", None, "gives 3 values: choose"),
    ],
)
def test_targets_that_do_not_fit_are_refused(task, names, wanted, message):
    with pytest.raises(ValueError, match=message):
        find_target(make_task(task), torch.rand(len(names)), list(names), wanted)


# --- explanations ----------------------------------------------------------------------------------------------------


def state_of(model: nn.Module) -> list[Any]:
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    return [
        [(m.training, *(dict(getattr(m, hook)) for hook in hooks)) for m in model.modules()],
        [(p.requires_grad, None if p.grad is None else (id(p.grad), p.grad.clone())) for p in model.parameters()],
        [v.clone() for v in model.state_dict().values()],
    ]


def same(a: Any, b: Any) -> bool:
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def factorized() -> nn.Module:
    model = task_model("single")
    vov3d.factorize(model)
    return model


def left_alone() -> Iterator[Any]:
    for task in NAMES:
        yield pytest.param(lambda task=task: task_model(task), id=task)
    yield pytest.param(lambda: task_model("single", causal=True), id="causal")
    yield pytest.param(lambda: task_model("single", global_pool=""), id="unpooled")
    yield pytest.param(factorized, id="factorized")
    yield pytest.param(lambda: task_model("single").to(torch.bfloat16), id="bfloat16")


@pytest.mark.parametrize("make", list(left_alone()))
@pytest.mark.parametrize("broken", [False, True])
def test_a_model_is_left_as_it_was(make, broken):
    model = make().train()
    model.stages[0].eval()
    model.stem.conv_s.weight.requires_grad_(False)
    model.head.fc.weight.grad = torch.ones_like(model.head.fc.weight)
    before = state_of(model)
    wanted = "none" if broken else 0
    with torch.no_grad() if broken else torch.inference_mode():
        if broken:
            with pytest.raises(ValueError, match="no output 'none'"):
                explain(model, CLIP, wanted)
        else:
            explanation = explain(model, CLIP, wanted)
            assert explanation.map.shape == (4, 32, 32)
            occlusion(model, CLIP, wanted)
    assert same(before, state_of(model))


@pytest.mark.parametrize("name", vov3d.list_models())
def test_every_model_of_the_zoo_is_explained(name):
    model: Any = vov3d.create_model(name, num_classes=3)
    model.reset_classifier(5)
    nn.init.normal_(model.head.fc.weight)
    clip = torch.randn(1, 3, 2, 64, 48)
    found = explain(model, clip, 4)
    assert found.map.shape == (2, 64, 48)
    assert found.layer == f"stages.{len(model.stages) - 2}"
    assert (found.target.label, found.target.index) == ("class 4", 4)
    assert found.map.min() >= 0
    assert found.map.max() in (0, 1)
    assert found.per_frame.sum() == pytest.approx(float(found.map.max()), abs=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_maps_follow_their_definition(method, trained):
    clip, _ = make_masked_clip(3, np.random.default_rng(1), 8)
    values = (torch.from_numpy(clip).permute(3, 0, 1, 2) / 255 - 0.45) / 0.225
    kept: list[torch.Tensor] = []
    handle = trained.head.act1.register_forward_hook(lambda module, args, output: kept.append(output))
    logits = trained(values[None])
    handle.remove()
    (gradient,) = torch.autograd.grad(logits[0, 3], kept[0])
    products = {
        "hirescam": gradient * kept[0],
        "gradcam": gradient.mean((2, 3, 4), keepdim=True) * kept[0],
        "layercam": gradient.clamp(min=0) * kept[0],
    }
    found = explain(trained, values, "Moving something down", method=method, layer="head.act1")
    if method in products:
        torch.testing.assert_close(found.raw, products[method].sum(1)[0].detach(), rtol=1e-3, atol=1e-6)
    assert torch.isfinite(found.map).all()


def test_the_map_lies_on_the_moving_shape(trained):
    right = 0
    for label in range(20):
        clip, masks = make_masked_clip(label, np.random.default_rng((778, label)))
        values = (torch.from_numpy(clip[1::2]).permute(3, 0, 1, 2) / 255 - 0.45) / 0.225
        found = explain(trained, values, label)
        on = torch.from_numpy(masks[1::2])
        right += bool(found.map[on].mean() > found.map[~on].mean())
    assert right >= 18


@pytest.mark.slow
def test_videos_are_sampled_and_named_as_by_the_classifier(trained, tmp_path):
    path = tmp_path / "clip.mp4"
    write_clip(path, make_masked_clip(18, np.random.default_rng(3))[0])
    result = vov3d.VideoClassifier(trained).result(path)
    found = explain(trained, path)
    assert found.predictions == result.predictions
    assert found.target == result.predictions[0]
    assert list(found.times) == result.clips[0]
    assert torch.equal(found.frames, result.frames)
    assert found.model == "vov3d_n.shapes_f8"
    halfway = (found.times[2] + found.times[3]) / 2
    torch.testing.assert_close(found.map_at([halfway])[0], (found.map[2] + found.map[3]) / 2)
    torch.testing.assert_close(found.map_at([-1.0, 99.0, found.times[5]]), found.map[[0, 7, 5]])
    assert found.map_at([]).shape == (0, *found.map.shape[1:])
    drops = occlusion(trained, path)
    assert drops.shape == (8,)
    html = found._repr_html_()
    assert html.count("<img ") == 1
    assert len(html) < 100_000
    for name, count, video in (("a.png", 1, None), ("a.gif", 8, None)):
        save_explanations([found], tmp_path / name, video)
        with Image.open(tmp_path / name) as picture:
            assert getattr(picture, "n_frames", 1) == count
    drawn = draw_animation([found])[0]
    few = _in_one_palette(drawn)
    assert len({bytes(picture.palette.palette) for picture in few}) == 1  # looking for it takes 0.2 s of a core
    for one, other in zip(drawn, few, strict=True):
        assert np.abs(np.asarray(one, float) - np.asarray(other.convert("RGB"), float)).mean() < 3
    save_explanations([found, explain(trained, path, 19)], tmp_path / "a.mp4", path)
    with vov3d.video.VideoReader(tmp_path / "a.mp4") as reader:
        assert reader.num_frames >= 14
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.gif", "a.mp4", "a.png", "clip.mp4"]


def test_another_video_than_the_explained_one_is_named(tmp_path):
    first, second = tmp_path / "first.mp4", tmp_path / "second.mp4"
    write_clip(first, make_clip(3, np.random.default_rng(0)), fps=1)
    write_clip(second, make_clip(3, np.random.default_rng(0)), fps=30)
    found = explain(task_model("single"), first)
    with pytest.raises(ValueError, match=r"second\.mp4: has no frame between .* give the video that was explained"):
        save_explanations([found], tmp_path / "out.mp4", second)
    with pytest.raises(ValueError, match=r"first\.mp4: is the file that is read"):
        save_explanations([found], first, first)


def test_a_frame_that_is_like_its_neighbours_is_not_missed():
    model = task_model("single")
    still = CLIP[:, :1].expand(-1, 4, -1, -1)
    assert occlusion(model, still, 0).abs().max() < 1e-5
    assert occlusion(model, still, 0, fill="mean").abs().max() > 1e-3


def test_maps_colour_only_where_they_are():
    frames = torch.full((1, 3, 4, 4), 100, dtype=torch.uint8)
    maps = torch.zeros(1, 4, 4)
    maps[0, 1, 2] = 1
    changed = (heated(frames, maps) != frames).any(1)[0]
    assert changed.nonzero().tolist() == [[1, 2]]


# --- refusals --------------------------------------------------------------------------------------------------------


def refused() -> Iterator[Any]:
    for make, message in (
        (lambda: vov3d.optimize_for_inference(task_model("single")), "OptimizedModel cannot be explained"),
        (lambda: ExportedModel.__new__(ExportedModel), "runs outside PyTorch and gives no gradients"),
        (lambda: vov3d.streaming(task_model("single", causal=True)), "a stream takes single frames"),
        (lambda: task_model("single").stem, "give a model of vov3d.create_model"),
        (lambda: nn.Sequential(task_model("single")), r"give the network inside it, model.get_submodule\('0'\)"),
        (lambda: vov3d.create_model("vov3d_n", num_classes=0), "no output to explain"),
        (lambda: vov3d.create_model("vov3d_n", device="meta"), "on the meta device"),
        (lambda: "vov3d_n", "str cannot be explained"),
    ):
        yield pytest.param(make, message, id=message[:30])


@pytest.mark.parametrize(("make", "message"), list(refused()))
@pytest.mark.parametrize("call", [explain, occlusion])
def test_other_models_are_refused_with_the_reason(make, message, call):
    with pytest.raises(ValueError, match=message):
        call(make(), CLIP)


@pytest.mark.parametrize(
    ("clip", "settings", "message"),
    [
        (CLIP, dict(method="cam"), "method is 'cam': use one of hirescam"),
        (CLIP, dict(layer="fc"), "name a part of stem, stages or head"),
        (CLIP, dict(layer="stages.7"), "no layer 'stages.7'; its stages are stages.0 to stages.0"),
        (CLIP, dict(layer="head.fc"), "gives no map of space and time"),
        (CLIP, dict(fps=3.0), "fps= has no effect on a clip that is a tensor"),
        (CLIP[0], {}, r"expected one clip \(C, T, H, W\)"),
        (CLIP.expand(2, -1, -1, -1, -1), {}, "one by one"),
        (CLIP * float("nan"), {}, "not finite"),
        (CLIP[:, :0], {}, r"the clip \(3, 0, .*\) is empty"),
    ],
)
def test_settings_that_do_not_fit_are_refused(clip, settings, message):
    with pytest.raises(ValueError, match=message):
        explain(task_model("single"), clip, **settings)


def test_without_the_package_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_grad_cam", None)
    with pytest.raises(ImportError, match=r"explaining a model needs grad-cam: pip install 'vov3d\[explain\]'"):
        explain(task_model("single"), CLIP)


@pytest.mark.parametrize("name", ["a.txt", "a"])
def test_files_of_other_formats_are_refused(name, tmp_path):
    with pytest.raises(ValueError, match=r"must end in one of \.mp4"):
        save_explanations([], tmp_path / name)
    with pytest.raises(ValueError, match="nothing to draw"):
        draw_animation([])
