"""Parameters and multiply-adds of the paper's Tables 2 and 8, to the digit."""

import re

import pytest
from helpers.reference_files import load_reference
from timm.models import get_pretrained_cfg

import vov3d
from vov3d.models import builder, list_pretrained, measure_budget

BUDGETS = load_reference("budgets")
CLASSES = {"k400": 400, "ssv1": 174}

CLIPS: dict[tuple[str, int, int], list[str]] = {}
"""Names of weights by model, frames and pixels of a clip; the number of classes hardly matters."""
for name in list_pretrained():
    cfg = get_pretrained_cfg(name)
    CLIPS.setdefault((name.split(".")[0], cfg.num_frames, cfg.test_input_size[-1]), []).append(name)


@pytest.mark.parametrize(
    "name", [name if name == "x3d_m.k400" else pytest.param(name, marks=pytest.mark.slow) for name in BUDGETS]
)
def test_budget_is_the_published_one(name: str):
    model, label_set = name.split(".")
    for key, expected in BUDGETS[name].items():
        if key == "params":
            continue
        frames, size = map(int, key.removeprefix("gmacs_").split("x"))
        budget = measure_budget(model, frames, size, num_classes=CLASSES[label_set])
        assert round(budget.macs / 1e9, 3) == expected
        assert budget.params == BUDGETS[name]["params"]


@pytest.mark.parametrize(
    "clip", [pytest.param(clip, marks=pytest.mark.slow) if "_l" in clip[0] else clip for clip in CLIPS], ids=str
)
def test_published_multiply_adds_are_those_of_the_test_crop(clip: tuple[str, int, int]):
    budget = measure_budget(*clip)
    for name in CLIPS[clip]:
        # PyTorchVideo's figures include batch norm and pooling; the authors cut the digits after the first.
        tolerance = 0.1 if name.endswith("_ptv") else 0.02
        assert budget.macs / 1e9 == pytest.approx(get_pretrained_cfg(name).gmacs_per_view, rel=tolerance), name


@pytest.mark.parametrize("value", [0, -1, 2.5, "8", (64, 64)])
@pytest.mark.parametrize("name", ["num_frames", "size"])
def test_sizes_of_a_clip_are_whole_numbers(name, value):
    message = f"{name} must be a whole number of at least 1, got {re.escape(repr(value))}"
    with pytest.raises(ValueError, match=message):
        measure_budget("vov3d_n", **{name: value})
    with pytest.raises(ValueError, match=message):
        vov3d.create_model("vov3d_n", device="meta").summary(**{name: value})


def test_feature_maps_know_their_channels_with_older_timm(monkeypatch):
    def build(*args, **kwargs):
        model = real(*args, **kwargs)
        vars(model).pop("in_chans", None)  # timm before 1.0.31 does not set it
        return model

    real = builder.build_model_with_cfg
    monkeypatch.setattr(builder, "build_model_with_cfg", build)
    for given in ({}, {"in_chans": 2}):
        model = vov3d.create_model("vov3d_n", features_only=True, **given)
        assert model.in_chans == given.get("in_chans", 3)


@pytest.mark.parametrize("wrapper", ["list", "getter"])
def test_feature_maps_cost_what_the_network_costs_up_to_them(wrapper):
    whole = measure_budget("vov3d_n", 4, 64)
    all_maps = measure_budget("vov3d_n", 4, 64, features_only=True, feature_cls=wrapper)
    assert all_maps.stages == whole.stages
    assert all_maps.macs < whole.macs  # there is no head
    first = measure_budget("vov3d_n", 4, 64, features_only=True, feature_cls=wrapper, out_indices=(1,))
    assert first.stages == whole.stages[:2]
    assert first.params < all_maps.params
