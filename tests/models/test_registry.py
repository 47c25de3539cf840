"""Names, tags and configurations, and the places where timm stumbles over five dimensions."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from helpers.reference_files import load_reference, published_state_dict
from torch import nn

import vov3d
import vov3d.models
from vov3d.weights.config import VideoPretrainedCfg

PUBLISHED = load_reference("published_checkpoints")["checkpoints"]


def config(name: str) -> dict:
    return vov3d.create_model(name, device="meta").pretrained_cfg


def test_names():
    assert vov3d.list_models() == ["vov3d_l", "vov3d_m", "vov3d_n", "x3d_l", "x3d_m", "x3d_s", "x3d_xs"]
    assert vov3d.list_models("vov3d_*") == ["vov3d_l", "vov3d_m", "vov3d_n"]
    assert vov3d.list_models("vov3d_m*", pretrained=True) == vov3d.list_pretrained("vov3d_m*")
    packaged = {"vov3d_n.shapes_f8", "vov3d_n.shapes_stream"}
    assert set(vov3d.list_pretrained()) - packaged == {entry["name"] for entry in PUBLISHED}
    assert vov3d.is_model("vov3d_m")
    assert vov3d.is_model("vov3d_m.k400_f16")
    assert not vov3d.is_model("resnet50")  # timm's, not ours
    assert vov3d.model_entrypoint("x3d_m.k400_ptv") is vov3d.models.x3d.x3d_m


@pytest.mark.parametrize("entry", PUBLISHED, ids=lambda entry: entry["name"])
def test_tags_say_what_was_published(entry):
    cfg = config(entry["name"])
    name, tag = entry["name"].split(".")
    assert (cfg["architecture"], cfg["tag"]) == (name, tag)
    assert cfg["url"] == entry["url"]
    assert cfg["hf_hub_id"] == f"vov3d/{entry['name']}"
    assert (cfg["top1"], cfg["top5"]) == (entry["top1"], entry["top5"])
    assert cfg["gmacs_per_view"] == entry["gmacs_per_view"]
    assert cfg["views"][0] * cfg["views"][1] == entry["views"]
    assert (cfg["label_set"], cfg["num_frames"]) == (entry["dataset"], entry["frames"])
    assert cfg.get("pretrained_on") == entry["pretrained_on"]
    assert cfg["num_classes"] == len(vov3d.load_labels(entry["dataset"]))
    dense = entry["dataset"] == "k400"
    assert cfg["sampling"] == ("dense" if dense else "segment")
    assert cfg.get("frame_stride") == (entry.get("stride", 5) if dense else None)
    assert cfg.get("clip_seconds") == (None if dense else 4)
    assert cfg["license"] == ("apache-2.0" if tag.endswith("ptv") else "cc-by-nc-4.0")
    assert set(cfg["mean"]) == {0.45}
    assert set(cfg["std"]) == {0.225}
    assert cfg["interpolation"] == "bilinear"


def test_default_tags():
    assert {name: config(name)["tag"] for name in vov3d.list_models()} == {
        "vov3d_n": "shapes_f8",
        "vov3d_m": "k400_f16",
        "vov3d_l": "k400_f16",
        "x3d_m": "k400_f16",
        "x3d_l": "k400_f16",
        "x3d_s": "k400_ptv",
        "x3d_xs": "k400_ptv",
    }


def test_timm_creates_our_models():
    model = timm.create_model("vov3d_m", num_classes=7)
    assert model(torch.randn(2, 3, 2, 32, 32)).shape == (2, 7)
    assert isinstance(model, vov3d.VoV3D)
    assert "x3d_m.k400_ptv" in timm.list_models("x3d*", pretrained=True)


def test_timm_loads_a_published_file_through_the_filter(tmp_path):
    path = tmp_path / "published.pth"
    torch.save(published_state_dict("x3d_m_k400"), path)
    ours = vov3d.create_model("x3d_m", checkpoint_path=path).state_dict()
    theirs = timm.create_model("x3d_m", pretrained=True, pretrained_cfg_overlay={"file": str(path)}).state_dict()
    assert all(torch.equal(v, theirs[k]) for k, v in ours.items())


def test_state_dict_given_in_memory():
    state_dict = published_state_dict("x3d_m_k400")
    model = vov3d.create_model("x3d_m", pretrained=True, pretrained_cfg_overlay={"state_dict": state_dict})
    assert torch.equal(model.head.fc.weight, state_dict["head.projection.weight"])


@pytest.mark.parametrize("given", ["cfg", "dict", "tag", "name"])
def test_configuration_in_every_form(given):
    forms = {
        "cfg": dict(pretrained_cfg=VideoPretrainedCfg(num_frames=9, num_classes=5)),
        "dict": dict(pretrained_cfg=dict(num_frames=9, num_classes=5, input_size=[3, 224, 224])),
        "tag": dict(pretrained_cfg="ssv2_f32"),
        "name": {},
    }
    model = vov3d.create_model("vov3d_m.ssv2_f32" if given == "name" else "vov3d_m", device="meta", **forms[given])
    frames, classes = (9, 5) if given in ("cfg", "dict") else (32, 174)
    assert model.pretrained_cfg["num_frames"] == frames
    assert model.num_classes == model.head.fc.out_features == classes


def test_configuration_errors_say_what_is_known():
    with pytest.raises(ValueError, match="vov3d_m has no tag 'k600'; its tags are k400_f16, ssv1_f16"):
        vov3d.create_model("vov3d_m.k600")
    with pytest.raises(ValueError, match="no field 'num_frame'; did you mean 'num_frames'"):
        vov3d.create_model("vov3d_m", pretrained_cfg_overlay={"num_frame": 3})
    with pytest.raises(ValueError, match=r"input_size must be \(C, H, W\), got \(3, 16, 224, 224\).* num_frames"):
        vov3d.create_model("vov3d_m", pretrained_cfg_overlay={"input_size": (3, 16, 224, 224)})
    for field, value, words in (
        ("sampling", "bogus", "sampling must be 'dense' or 'segment', got 'bogus'"),
        ("num_frames", "8", "num_frames must be a whole number from 1, got '8'"),
        ("num_frames", 0, "num_frames must be a whole number from 1, got 0"),
        ("frame_stride", "5", "frame_stride must be a positive, finite number, got '5'"),
        ("frame_stride", float("nan"), "frame_stride must be a positive, finite number, got nan"),
    ):
        with pytest.raises(ValueError, match=words):
            vov3d.create_model("vov3d_m", pretrained_cfg_overlay={field: value})
    with pytest.raises(ValueError, match="clip_seconds must be a positive, finite number, got -1"):
        vov3d.create_model("vov3d_n", pretrained_cfg_overlay={"clip_seconds": -1})
    with pytest.raises(ValueError, match="vov3d has no model 'vov3d_xl'; did you mean 'vov3d_"):
        vov3d.create_model("vov3d_xl")
    with pytest.raises(ValueError, match="vov3d has no model 'resnet50'; its models are vov3d_l, vov3d_m"):
        vov3d.create_model("resnet50")
    with pytest.raises(ValueError, match="folder/vov3d_m: has no source prefix, and there is no such folder; use"):
        vov3d.create_model("folder/vov3d_m")
    with pytest.raises(ValueError, match="has no source prefix; use 'local-dir:.*' for a folder"):
        vov3d.create_model(str(Path(__file__).parent))
    with pytest.raises(ValueError, match="vov3d has no model 'x3d_q'"):
        vov3d.model_entrypoint("x3d_q")


def test_organisation_of_the_hub(monkeypatch):
    monkeypatch.setenv("VOV3D_HUB_ORG", "someone")
    assert config("vov3d_l.ssv2_f32_ft_k400")["hf_hub_id"] == "someone/vov3d_l.ssv2_f32_ft_k400"
    assert config("vov3d_m")["hf_hub_id"] == "someone/vov3d_m.k400_f16"


def test_overlay_replaces_fields():
    model = vov3d.create_model("vov3d_m", device="meta", pretrained_cfg_overlay=dict(num_frames=32, pool_size=(9, 9)))
    assert model.pretrained_cfg["num_frames"] == 32
    assert model.pretrained_cfg["pool_size"] == (9, 9)


def test_no_label_names_for_another_number_of_classes():
    assert vov3d.class_names(vov3d.create_model("vov3d_m", device="meta"))[6] == "arm wrestling"
    assert vov3d.class_names(vov3d.create_model("vov3d_m", device="meta", num_classes=7)) is None
    assert vov3d.class_names(nn.Linear(1, 1)) is None
    with pytest.raises(ValueError, match="class_names takes a model, got 'vov3d_m'; load_labels"):
        vov3d.class_names("vov3d_m")
    with pytest.raises(ValueError, match="label set 'k700' is not known; use one of k400, ssv1, ssv2"):
        vov3d.load_labels("k700")


def test_every_model_can_be_imported_by_its_name():
    for name in vov3d.list_models():
        assert getattr(vov3d.models, name) is vov3d.model_entrypoint(name)
        assert name in vov3d.models.__all__


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(num_classes="10"), "num_classes must be 0 or more, got '10'"),
        (dict(num_classes=2.5), "num_classes must be 0 or more, got 2.5"),
        (dict(in_chans=0), "in_chans must be a whole number of at least 1, got 0"),
        (dict(in_chans="3"), "in_chans must be a whole number of at least 1, got '3'"),
        (dict(drop_path_rate=1.5), "drop_path_rate must be between 0 and 1, got 1.5"),
        (dict(drop_path_rate=-0.1), "drop_path_rate must be between 0 and 1, got -0.1"),
        (dict(drop_rate="0.5"), "drop_rate must be between 0 and 1, got '0.5'"),
        (dict(drop_rate=float("nan")), "drop_rate must be between 0 and 1, got nan"),
        (dict(depths="111"), "depths must be a tuple of whole numbers, one for each stage, got '111'"),
        (dict(depths=(1, 1, 1.5)), r"depths\[2\] must be a whole number of at least 1, got 1.5"),
        (dict(mid_chs=24), "mid_chs must be a tuple of whole numbers, one for each stage, got 24"),
        (dict(stem_chs="12"), "stem_chs must be a whole number of at least 1, got '12'"),
        (dict(causal="false"), "causal must be True or False, got 'false'"),
        (dict(norm_layer=3), "norm_layer must be a name, or a class or function that builds a layer, got 3"),
        (dict(features_only=True, out_indices=(0, 4)), r"out_indices=\(0, 4\) does not choose among 4 feature maps"),
        (dict(features_only=True, out_indices=()), r"out_indices=\(\) does not choose among 4 feature maps"),
        (dict(features_only=True, out_indices="1"), "out_indices='1' does not choose among 4 feature maps"),
        (dict(features_only=True, out_indices=(2, 0)), r"out_indices=\(2, 0\) must rise, without repeats"),
        (dict(features_only=True, out_indices=[3, -1]), r"out_indices=\[3, -1\] must rise, without repeats"),
        (dict(num_classes=True), "num_classes must be 0 or more, got True"),
        (dict(pretrained="ssv2_f16"), r"pretrained='ssv2_f16' chooses no weights.* \('vov3d_n.TAG'\)"),
        (dict(pretrained="False"), "pretrained='False' chooses no weights; give True or False"),
        (dict(pretrained=Path("weights.pth")), "pretrained='weights.pth' chooses no weights.*checkpoint_path="),
        (dict(pretrained_cfg_overlay={"label_names": ["a"]}), "label_names must be 20 names, .*, got 1"),
    ],
)
def test_arguments_out_of_their_range(kwargs, message):
    with pytest.raises(ValueError, match=message):
        vov3d.create_model("vov3d_n", device="meta", **kwargs)


@pytest.mark.parametrize("name", vov3d.list_models())
def test_feature_maps_of_every_model_rise(name):
    levels = len(vov3d.create_model(name, features_only=True, device="meta").feature_info)
    for wrong in ((2, 0), (1, 1), [levels - 1, -1]):
        with pytest.raises(ValueError, match="must rise, without repeats"):
            vov3d.create_model(name, features_only=True, out_indices=wrong, device="meta")
    for wrong in ((), (0, levels), levels + 1):
        with pytest.raises(ValueError, match=f"does not choose among {levels} feature maps"):
            vov3d.create_model(name, features_only=True, out_indices=wrong, device="meta")


def test_arguments_that_there_are_not():
    with pytest.raises(TypeError, match="vov3d_n has no argument num_labels; those of the model are act_layer, "):
        vov3d.create_model("vov3d_n", num_labels=3)


def test_numbers_may_be_those_of_numpy(tmp_path):
    """The number of classes often is `labels.max() + 1`."""
    numbers = dict(in_chans=np.int16(1), drop_rate=np.float32(0.5), drop_path_rate=np.float32(0.25))
    depths = np.array([1, 1, 2])
    model = vov3d.create_model("vov3d_n", num_classes=np.int64(3), depths=depths, **numbers)
    assert (model.num_classes, type(model.num_classes), model.in_chans) == (3, int, 1)
    assert model.stages[-1].blocks[-1].drop_path.drop_prob == 0.25
    vov3d.save_pretrained(model, tmp_path)
    model = vov3d.from_pretrained(tmp_path)
    assert model(torch.randn(1, 1, 2, 16, 16)).shape == (1, 3)
    maps = vov3d.create_model("vov3d_n", features_only=True, out_indices=(i for i in np.arange(1, 3)))
    assert maps.feature_info.channels() == [16, 32]
    model.reset_classifier(np.int64(4))
    assert model.num_classes == 4
    model.head.fc = nn.Linear(256, np.int64(5))
    assert model.num_classes == 5
    heads = {"verb": np.int64(2), "noun": np.int64(3)}
    model = vov3d.create_model("vov3d_n", heads=heads, pretrained_cfg_overlay={"mean": np.full(3, 0.5)}, device="cpu")
    vov3d.save_pretrained(model, tmp_path)
    assert vov3d.from_pretrained(tmp_path).pretrained_cfg["heads"] == heads
    vov3d.VoV3D(num_classes=np.int64(3), drop_path_rate=np.float32(0.1), device="meta")


def test_names_in_capitals_and_what_is_no_name():
    with pytest.raises(ValueError, match="no model 'VoV3D_N'; did you mean 'vov3d_n'?"):
        vov3d.create_model("VoV3D_N")
    with pytest.raises(ValueError, match="model_name must be a name such as 'vov3d_m', .* got None"):
        vov3d.create_model(None)
