"""Weights from the formats of older codebases, and back."""

import hashlib
import json
import subprocess
import sys

import pytest
import torch
from helpers.reference_files import PUBLISHED, load_reference, published_file, published_state_dict

import vov3d
from vov3d import WeightsError, convert, convert_state_dict, create_model

NANO = dict(stem_chs=4, mid_chs=(4, 8, 8, 8), out_chs=(4, 4, 8, 8), depths=(1, 1, 1, 2), head_chs=8, hidden_chs=8)


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(v, b[k]) for k, v in a.items())


@pytest.mark.parametrize(
    "reference",
    [
        pytest.param(name, marks=pytest.mark.slow) if name in ("vov3d_l_ssv1", "x3d_m_k400") else name
        for name in PUBLISHED
    ],
)
def test_the_published_formats_are_converted_without_naming_the_model(reference, tmp_path):
    path = published_file(reference, tmp_path)
    found, _ = convert(path, tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert PUBLISHED[reference] in found.variants
    again = create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    original = create_model(PUBLISHED[reference], checkpoint_path=path).eval()
    clip = torch.randn(1, 3, 4, 64, 64)
    torch.testing.assert_close(again(clip), original(clip), rtol=0, atol=1e-5)
    source = json.loads((tmp_path / "out/config.json").read_text())["source"]
    assert source["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.slow
def test_weights_without_a_tag_state_no_published_accuracy(tmp_path):
    found, model = convert(published_file("vov3d_l_ssv1", tmp_path), tmp_path / "out")
    assert (found.num_classes, model.pretrained_cfg["sampling"]) == (174, "segment")
    cfg = json.loads((tmp_path / "out/config.json").read_text())["pretrained_cfg"]
    assert not {"tag", "top1", "license", "label_set"} & set(cfg)
    card = (tmp_path / "out/README.md").read_text()
    assert "Accuracy" not in card
    assert "Licence of the weights: not stated with them" in card


@pytest.mark.parametrize("how", ["name", "file"])
def test_a_tag_brings_what_was_published(how, tmp_path):
    path = published_file("pytorchvideo_x3d_s", tmp_path)
    if how == "file":
        path = path.rename(tmp_path / "X3D_S.pyth")
    convert(path, tmp_path / "out", "x3d_s.k400_ptv" if how == "name" else None)
    cfg = json.loads((tmp_path / "out/config.json").read_text())["pretrained_cfg"]
    assert (cfg["tag"], cfg["license"], cfg["num_frames"], cfg["top1"]) == ("k400_ptv", "apache-2.0", 13, 73.33)
    assert "| Kinetics-400 | 10 clips x 3 crops | 182 | 73.33 | 91.27 |" in (tmp_path / "out/README.md").read_text()
    names = vov3d.class_names(create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True))
    assert names[6] == "arm wrestling"


@pytest.mark.slow
def test_widths_classes_channels_and_names_of_ones_own(tmp_path):
    model = create_model("vov3d_m", num_classes=3, in_chans=2, conv="d1plus2d", **NANO)
    torch.save(convert_state_dict(create_model("x3d_m", num_classes=3, **NANO), "pytorchvideo"), tmp_path / "x.pth")
    torch.save({"state_dict": model.state_dict()}, tmp_path / "v.pth")
    names = ["up", "down", "still"]
    convert(tmp_path / "v.pth", tmp_path / "v", label_names=names, conv="d1plus2d")
    again = vov3d.from_pretrained(tmp_path / "v")
    assert same(again.state_dict(), model.state_dict())
    assert vov3d.class_names(again) == names
    clip = torch.randn(1, 2, 3, 32, 32)
    torch.testing.assert_close(again.eval()(clip), model.eval()(clip))
    found, x3d = convert(tmp_path / "x.pth", tmp_path / "x")
    assert (found.format, found.variants, x3d.num_classes) == ("pytorchvideo", (), 3)
    assert same(vov3d.from_pretrained(tmp_path / "x").state_dict(), x3d.state_dict())


def test_files_that_cannot_be_converted_leave_nothing(tmp_path):
    path = published_file("x3d_m_k400", tmp_path)
    torch.save({"a.weight": torch.ones(2)}, tmp_path / "other.pth")
    for file, kwargs, error, message in (
        (path, dict(model_name="vov3d_m"), WeightsError, "this file holds x3d_m .*, not vov3d_m"),
        (path, dict(model_name="x3d_m.ssv1_f16"), WeightsError, "has 400 classes, but x3d_m.ssv1_f16 has 174"),
        (path, dict(model_name="x3d_m.k600"), ValueError, "has no tag 'k600'"),
        (path, dict(label_names=["one"]), ValueError, "got 1 label_names for a model of 400 classes"),
        (tmp_path / "other.pth", {}, WeightsError, "its 1 tensors, a.weight, .* a VoV3D or X3D"),
        (tmp_path / "none.pth", {}, FileNotFoundError, "no such weights file"),
    ):
        with pytest.raises(error, match=message):
            convert(file, tmp_path / "out", **kwargs)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "reference",
    [
        pytest.param(name, marks=pytest.mark.slow) if name in ("vov3d_l_ssv1", "x3d_m_k400") else name
        for name in PUBLISHED
    ],
)
def test_back_into_the_published_format_tensor_for_tensor(reference):
    published = published_state_dict(reference)
    classes = next(len(v) for k, v in published.items() if k.endswith(("projection.bias", "proj.bias")))
    overlay = {"state_dict": published}
    model = create_model(PUBLISHED[reference], True, num_classes=classes, pretrained_cfg_overlay=overlay)
    to = "pytorchvideo" if reference.startswith("pytorchvideo") else "slowfast"
    for given in (model, model.state_dict(), published):
        back = convert_state_dict(given, to)
        assert same(back, published)
        assert all(v.dtype == published[k].dtype for k, v in back.items())


def test_between_the_two_older_codebases():
    published = published_state_dict("pytorchvideo_x3d_s")
    slowfast = convert_state_dict(published, "slowfast")
    assert slowfast.keys() == load_reference("x3d_m_k400")["state_dict"].keys()
    assert same(convert_state_dict(slowfast, "pytorchvideo"), published)


@pytest.mark.parametrize("name", ["vov3d_m", "x3d_m"])
def test_round_trips_of_any_width(name):
    model = create_model(name, num_classes=3, in_chans=1, **NANO)
    foreign = convert_state_dict(model, "slowfast")
    assert not foreign.keys() & model.state_dict().keys()
    overlay = {"state_dict": foreign}
    fresh = create_model(name, True, num_classes=3, in_chans=1, pretrained_cfg_overlay=overlay, **NANO)
    assert same(fresh.state_dict(), model.state_dict())


def test_a_trained_norm_that_pytorchvideo_lacks_is_folded():
    model = create_model("x3d_m", num_classes=3, **NANO)
    for norm in (m for m in model.modules() if isinstance(m, torch.nn.BatchNorm3d)):
        torch.nn.init.uniform_(norm.weight, 0.5, 2)
        torch.nn.init.normal_(norm.bias)
    for _ in range(3):
        model(torch.randn(2, 3, 2, 64, 64))  # running statistics
    foreign = convert_state_dict(model, "pytorchvideo")
    assert "blocks.1.res_blocks.0.branch1_norm.weight" not in foreign
    again = create_model("x3d_m", True, num_classes=3, pretrained_cfg_overlay={"state_dict": foreign}, **NANO)
    clip = torch.randn(2, 3, 2, 64, 64)
    torch.testing.assert_close(again.eval()(clip), model.eval()(clip), rtol=1e-4, atol=1e-4)
    assert same(convert_state_dict(again, "pytorchvideo"), foreign)


def test_a_file_in_place_of_a_network_is_named():
    with pytest.raises(ValueError, match=r"expected a network or its state dict, got 'w.pth'; .* vov3d.convert"):
        convert_state_dict("w.pth", "slowfast")


@pytest.mark.slow
def test_what_the_older_codebases_cannot_hold():
    with pytest.raises(ValueError, match="format 'pytorchvideo' has no vov3d_m; it can be written as slowfast"):
        convert_state_dict(create_model("vov3d_m", device="meta"), "pytorchvideo")
    with pytest.raises(ValueError, match="no names for conv='d2plus1d'"):
        convert_state_dict(create_model("x3d_m", conv="d2plus1d", device="meta"), "slowfast")
    with pytest.raises(ValueError, match="no names for conv='d1plus2d'"):
        convert_state_dict(create_model("vov3d_m", conv="d1plus2d", device="meta"), "slowfast")
    with pytest.raises(ValueError, match="format 'mmaction' has no x3d_m; it can be written as pytorchvideo, slowfast"):
        convert_state_dict(create_model("x3d_m", device="meta"), "mmaction")
    with pytest.raises(WeightsError, match="not those of a VoV3D or X3D"):
        convert_state_dict(torch.nn.Conv3d(1, 1, 1), "slowfast")


@pytest.mark.slow  # a second interpreter, PyTorchVideo's own loader where it is installed
def test_files_load_in_pytorchvideo(tmp_path):
    pytest.importorskip("pytorchvideo")
    file = published_file("pytorchvideo_x3d_s", tmp_path)
    torch.save({"model_state": convert_state_dict(published_state_dict("pytorchvideo_x3d_s"), "pytorchvideo")}, file)
    code = (
        "import torch, sys; from pytorchvideo.models.x3d import create_x3d;"
        "create_x3d(input_clip_length=13, input_crop_size=160, depth_factor=2.2)"
        f".load_state_dict(torch.load({str(file)!r})['model_state'])"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
