"""Pages of moving shapes show the stored measurements; videos of new motions are as described."""

import json
import runpy
import sys

import factorized_x3d
import new_motions
import numpy as np
import packaged_model
import pytest
import torch
from pages import part_of
from reference.data.lists import read_list

import vov3d


def test_the_page_of_the_packaged_model_is_what_was_measured():
    report = json.loads(packaged_model.WEIGHTS.with_suffix(".json").read_text())
    assert part_of(packaged_model.PAGE.read_text(), "measured") == packaged_model.page(report)
    cfg = vov3d.create_model("vov3d_n", device="meta").pretrained_cfg
    assert (cfg["top1"], cfg["top5"]) == (round(report["top1"], 1), round(report["top5"], 1))
    confusion = np.array(report["confusion"])
    assert 100 * confusion.trace() / confusion.sum() == pytest.approx(report["top1"], abs=0.01)


def test_the_packaged_model_needs_motion():
    report = json.loads(packaged_model.WEIGHTS.with_suffix(".json").read_text())
    assert report["one_frame_top1"] < 20
    assert report["shuffled_frames_top1"] < report["top1"] / 2


def test_the_table_of_factorized_networks_is_what_was_measured():
    assert part_of(factorized_x3d.PAGE.read_text(), "factorized") == factorized_x3d.table(
        json.loads(factorized_x3d.RESULTS.read_text())
    )


@pytest.mark.slow
def test_the_factorization_script_runs_on_a_small_network(monkeypatch):
    monkeypatch.setattr(factorized_x3d, "NANO", factorized_x3d.NANO | {"depths": (1, 1, 1)})
    train_set = factorized_x3d.clips_of(64, 0)
    found = factorized_x3d.networks(train_set, passes=256)
    assert [passes for _, passes in found.values()] == [256, 256, 256, 288, 256, 256, 256]
    whole, split = found["3x3x3, trained"][0], found["factorized, rank 1"][0]
    assert not any(m.weight[0, 0].numel() > 9 for m in split.modules() if isinstance(m, torch.nn.Conv3d))
    assert any(m.weight[0, 0].numel() == 27 for m in whole.modules() if isinstance(m, torch.nn.Conv3d))


@pytest.mark.slow
def test_motions_turn_back_half_way(tmp_path):
    clip = new_motions.make_new_motion("Moving something up and back", np.random.default_rng(0))
    assert clip.shape == (16, 64, 64, 3)
    assert (clip == clip[::-1]).all()
    new_motions.write_new_motions(tmp_path, clips_per_class=2, seed=0)
    videos = {part: read_list(tmp_path, split=part) for part in ("train", "val")}
    for found in videos.values():
        assert len(found.paths) == 20
        assert found.classes == tuple(sorted(new_motions.NEW_CLASSES))
    assert not {path.name for path in videos["train"].paths} & {path.name for path in videos["val"].paths}


@pytest.mark.parametrize(
    ("module", "options"),
    [
        ("new_motions", []),
        ("vov3d.synthetic.moving_shapes", []),
        ("vov3d.synthetic.moving_tasks", ["regression"]),
    ],
)
def test_a_folder_that_cannot_be_made_is_one_line(module, options, tmp_path, monkeypatch):
    (tmp_path / "taken").touch()
    monkeypatch.delitem(sys.modules, module, raising=False)  # it is run anew
    monkeypatch.setattr(sys, "argv", [module, *options, "--to", str(tmp_path / "taken")])
    with pytest.raises(SystemExit, match=rf"{module.rpartition('.')[2]}: .*taken"):
        runpy.run_module(module, run_name="__main__")
