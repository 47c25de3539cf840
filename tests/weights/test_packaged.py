"""The packaged model: use without a network, class names, accuracy, and the places searched before the package."""

import json
import re

import numpy as np
import pytest
import torch
from huggingface_hub import constants

import vov3d
from vov3d.cli import main
from vov3d.labels import load_labels
from vov3d.models import measure_budget
from vov3d.synthetic.moving_shapes import CLASSES, make_clip, make_set, write_clip
from vov3d.weights.config import resolve_cfg
from vov3d.weights.sources import find_local

TAG = "vov3d_n.shapes_f8"


@pytest.fixture
def offline(hub, monkeypatch):
    """Blocks the network, and removes what an earlier call could have left."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    yield
    assert not hub.requests


@pytest.mark.slow
def test_the_packaged_model_reaches_its_stated_accuracy_on_held_out_clips(offline):
    model = vov3d.create_model("vov3d_n", pretrained=True).eval()
    clips, labels = make_set(400, seed=4321)
    x = (torch.from_numpy(clips[:, 1::2]).permute(0, 4, 1, 2, 3) / 255 - 0.45) / 0.225
    with torch.inference_mode():
        right = (model(x).argmax(1).numpy() == labels).mean()
    stated = resolve_cfg("vov3d_n", None, None).top1
    assert stated
    assert 100 * right == pytest.approx(stated, abs=5)  # three deviations of 400 clips


def test_the_packaged_model_is_small_and_has_class_names(offline):
    assert load_labels("shapes") == CLASSES
    assert measure_budget(TAG, 8, 64).params < 300_000
    place, path = find_local(resolve_cfg("vov3d_n", None, None))
    assert place == "package"
    assert path.stat().st_size < 1_500_000
    model = vov3d.create_model(TAG, pretrained=True)
    assert vov3d.class_names(model) == list(CLASSES)


def test_predict_and_demo_need_neither_a_name_nor_a_network(offline, capsys, tmp_path):
    clip = tmp_path / "clip.mp4"
    write_clip(clip, make_clip(0, np.random.default_rng(0)))
    assert main(["predict", str(clip)]) == 0
    assert any(name in capsys.readouterr().out for name in CLASSES)
    assert main(["demo", "-o", str(tmp_path / "first"), "--clips", "3", "--seed", "5"]) == 0
    out = capsys.readouterr().out
    assert re.search("[0-3] of 3 correct", out)
    assert main(["demo", "-o", str(tmp_path / "second"), "--clips", "3", "--seed", "5"]) == 0
    assert capsys.readouterr().out == out.replace("first", "second")
    assert {path.suffix for path in (tmp_path / "first").iterdir()} == {".mp4", ".png"}


def test_predict_and_embed_describe_the_classes_of_the_model(offline, capsys, tmp_path):
    clip = str(tmp_path / "clip.mp4")
    write_clip(clip, make_clip(0, np.random.default_rng(0)))
    for command in (["predict", clip], ["predict", clip, "--json"], ["embed", clip, "-o", str(tmp_path / "v.npz")]):
        assert main(command) == 0
        (line,) = capsys.readouterr().err.splitlines()
        assert "knows only 20 motions of generated shapes" in line
        assert "vov3d_m" in line
    assert main(["predict", clip, "--model", "x3d_xs", "--random-weights"]) == 0
    assert "knows" not in capsys.readouterr().err


# --- temperature -----------------------------------------------------------------------------------------------------


def clip_of(model, seed=0):
    frames = make_clip(3, np.random.default_rng(seed), 8)
    return ((torch.from_numpy(frames).permute(3, 0, 1, 2)[None] / 255 - 0.45) / 0.225).to(torch.float32)


@pytest.mark.slow  # an export
def test_the_temperature_is_the_measured_one_and_softens_scores_alone(offline, tmp_path):
    model = vov3d.create_model("vov3d_n", pretrained=True).eval()
    report = json.loads(find_local(resolve_cfg("vov3d_n", None, None))[1].with_suffix(".json").read_text())
    assert model.temperature == report["temperature"] > 1
    x = clip_of(model)
    expected = (model(x) / model.temperature).softmax(1)
    fast = vov3d.optimize_for_inference(model)
    vov3d.save_pretrained(model, tmp_path / "mine")
    again = vov3d.from_pretrained(tmp_path / "mine").eval()
    exported = vov3d.load_exported(vov3d.export(model, tmp_path / "n.pt2", frames=8, size=64))
    with torch.inference_mode():
        for network in (model, fast, again, exported):
            torch.testing.assert_close(network.forward_dense(x), expected, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(network(x), model(x), rtol=1e-4, atol=1e-4)
    frames = torch.from_numpy(make_clip(3, np.random.default_rng(0), 8))
    torch.testing.assert_close(vov3d.VideoClassifier(model).scores(frames.numpy()), expected[0], rtol=1e-4, atol=1e-5)


def test_the_temperature_goes_with_the_weights_and_that_classifier_only(offline, tmp_path):
    assert vov3d.create_model("vov3d_n").temperature == 1
    assert vov3d.create_model("vov3d_m").temperature == 1
    model = vov3d.create_model("vov3d_n", pretrained=True)
    assert vov3d.create_model("vov3d_n", pretrained=True, num_classes=4).temperature == 1
    with torch.no_grad():
        model.get_classifier().bias.add_(1)
    vov3d.save_pretrained(model, tmp_path / "trained")
    assert vov3d.from_pretrained(tmp_path / "trained").temperature == model.temperature > 1
    model.reset_classifier(7)
    assert model.temperature == 1
    torch.testing.assert_close(model.eval().forward_dense(clip_of(model)), model(clip_of(model)).softmax(1))


def test_places_named_by_the_user_go_before_the_package(hub, monkeypatch, tmp_path):
    other = vov3d.create_model("vov3d_n").state_dict()
    torch.save(other, tmp_path / f"{TAG}.pth")
    monkeypatch.setenv("VOV3D_WEIGHTS_DIR", str(tmp_path))
    found = vov3d.create_model(TAG, pretrained=True).state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in other.items())
    monkeypatch.delenv("VOV3D_WEIGHTS_DIR")
    with pytest.raises(vov3d.WeightsError, match="mine/vov3d_n"):
        vov3d.create_model(TAG, pretrained=True, pretrained_cfg_overlay={"hf_hub_id": "mine/vov3d_n"})


def test_a_saved_copy_loads_its_own_file(offline, tmp_path):
    model = vov3d.create_model("vov3d_n", pretrained=True)
    with torch.no_grad():
        model.get_classifier().bias.add_(1)
    vov3d.save_pretrained(model, tmp_path / "mine")
    again = vov3d.from_pretrained(tmp_path / "mine")
    assert torch.equal(again.get_classifier().bias, model.get_classifier().bias)
    assert again.pretrained_cfg.get("top1") is None
