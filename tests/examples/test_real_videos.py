"""Small sets of real videos: clips of kept videos are those of the trainer, and runs are named, done once and told."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import real_videos
import torch
from pages import part_of
from reference.data.clips import VideoClips, to_network
from reference.data.sources import read_source
from reference.training.recipe import load_recipe, sections

import vov3d
from vov3d.synthetic.moving_shapes import CLASSES, make_set, write_videos

CFG = {
    "num_frames": 4,
    "sampling": "segment",
    "input_size": (3, 16, 16),
    "test_input_size": (3, 16, 16),
    "mean": (0.45,) * 3,
    "std": (0.225,) * 3,
    "interpolation": "bilinear",
}


def made(kind: str, seed: int, said: Sequence[int], data: str = "fights") -> dict:
    labels = [0, 0, 0, 0, 1, 1]
    frames = real_videos._tests(real_videos.KINDS[kind])
    return {
        "data": data,
        "kind": kind,
        "seed": seed,
        "labels": labels,
        "said": dict.fromkeys(frames, said),
        "cpu_s": 90,
    }


@pytest.mark.parametrize("train", [True, False])
def test_clips_of_kept_videos_are_the_trainers_own(tmp_path, train):
    write_videos(tmp_path / "videos", 2, seed=0, num_frames=9, size=32, classes=CLASSES[:2])
    recipe = sections(load_recipe("finetune", {"clip.flip": "true"}))
    source, _ = read_source(str(tmp_path / "videos"), "train", recipe.data, recipe.shapes, None)
    own = VideoClips(source, CFG, recipe, train)
    kept = {
        frames: real_videos.Kept(source, CFG, recipe, train, frames) for frames in ("ordered", "shuffled", "single")
    }
    for epoch in range(2):
        keys = [(epoch, i) for i in range(len(source))]
        batches = {name: clips.__getitems__(keys) for name, clips in (*kept.items(), ("own", own))}
        assert torch.equal(batches["ordered"].labels, batches["own"].labels)
        found = {name: to_network(batch.clips, CFG, torch.zeros(())) for name, batch in batches.items()}
        assert torch.equal(found["ordered"], found["own"])
        assert torch.equal(found["single"], found["single"][:, :, :1].expand_as(found["own"]))
        assert not torch.equal(found["shuffled"], found["own"])
        if not train:
            sums = [found[name].sum((1, 3, 4)).sort().values for name in ("shuffled", "own")]
            torch.testing.assert_close(*sums)


def test_crops_are_the_left_the_centre_and_the_right(tmp_path):
    write_videos(tmp_path / "videos", 2, seed=0, num_frames=9, size=32, classes=CLASSES[:2])
    recipe = sections(load_recipe("finetune", {}))
    source, _ = read_source(str(tmp_path / "videos"), "train", recipe.data, recipe.shapes, None)
    clips = real_videos.Kept(source, CFG, recipe, False, "crops")
    for i in range(len(source)):  # wide videos, whose three crops differ
        shown, fps = clips._video(i)
        clips._videos[i] = torch.cat([shown, shown.flip(3)], 3), fps
    crops = clips.__getitems__([(0, 1)]).clips
    assert crops.shape == (1, 3, 3, 4, 16, 16)
    torch.testing.assert_close(crops[0, 0], crops[0, 2].flip(3))

    class Reading(torch.nn.Module):
        def forward_dense(self, views):
            assert views.shape == (3, 3, 4, 16, 16)
            return torch.tensor([[0.4, 0.6, 0], [0.4, 0.6, 0], [0.95, 0, 0.05]])

    assert real_videos.answers(Reading(), clips) == [0] * len(source)


def test_accuracy_is_balanced_over_the_classes():
    run = made("tuned", 0, [0, 0, 0, 0, 0, 1])
    mean, each = real_videos.figure([run, made("tuned", 1, [0, 0, 0, 1, 1, 1])], "ordered")
    assert each == [75.0, 87.5]
    assert mean.value == pytest.approx(0.8125)
    assert mean.low < mean.value < mean.high


def test_every_planned_run_has_keys_of_the_recipe():
    for run in real_videos.PLAN:
        load_recipe("finetune", real_videos.SETS[run.data] | real_videos.KINDS[run.kind].keys)
    for name in real_videos.RIVALS:
        load_recipe("shapes_nano", real_videos.NETWORKS[name].keys)
    assert len({run.name for run in real_videos.PLAN}) == len(real_videos.PLAN)


def test_the_recipe_for_small_networks_is_the_one_that_was_measured():
    measured = {"model.name": "vov3d_n", **real_videos.KINDS["mixed"].keys}
    assert load_recipe("finetune_nano") == load_recipe("finetune", measured)


def test_runs_are_done_once_and_the_report_names_what_is_missing(tmp_path, monkeypatch, capsys):
    done = []

    def execute(run, videos, work):
        done.append(run.name)
        return made(run.kind, run.seed, [0, 0, 0, 0, 0, 1], run.data)

    monkeypatch.setattr(real_videos, "execute", execute)
    words = ["--results", str(tmp_path / "found")]
    for _ in range(2):
        assert real_videos.main([*words, "run", "--videos", "x", "--only", "fights-mixed-"]) == 0
    assert done == [f"fights-mixed-seed{seed}" for seed in real_videos.SEEDS]
    assert real_videos.main([*words, "list"]) == 0
    assert "fights-mixed-seed0" in capsys.readouterr().out
    page = tmp_path / "page.md"
    page.write_text(real_videos.PAGE.read_text())
    real_videos.report(tmp_path / "found", page)
    text = page.read_text()
    assert "| from `vov3d_n` | 75.0 ± 0.0 | " in part_of(text, "fights")
    assert "| `finetune_nano` |  | 75.0 |  |" in part_of(text, "choices")
    missing = part_of(text, "missing")
    assert re.search("^- from scratch: .*`fights` 3 of 3", missing, re.MULTILINE)
    assert not re.search("^- from `vov3d_n`: .*`fights`", missing, re.MULTILINE)


def test_videos_that_nearly_all_runs_name_wrongly_are_counted():
    runs = [made("tuned", seed, [0, 1, 0, seed == 2, 1, seed == 0]) for seed in range(3)]
    shuffled = made("mixed_shuffled", 0, [1, 1, 1, 1, 0, 0])
    row = real_videos.hard_videos({str(i): run for i, run in enumerate([*runs, shuffled])}).splitlines()[-1]
    assert row == "| fights | 3 | 6 | 3 | 1 (numbers 1) |"


def test_rivals_are_trained_once_and_fine_tuned_from_there(tmp_path, monkeypatch, capsys):
    done = []
    row = {"params": 230000, "macs": 47e6, "top1": 98.25}
    monkeypatch.setattr(real_videos, "pretrain", lambda name, work: done.append(name) or row)
    words = ["--results", str(tmp_path / "found"), "pretrain", "--work", str(tmp_path)]
    for _ in range(2):
        assert real_videos.main([*words, "--only", "baseline"]) == 0
    assert done == ["baseline"]
    page = tmp_path / "page.md"
    page.write_text(real_videos.PAGE.read_text())
    (tmp_path / "found" / "fights-mixed_x3d-seed0.json").write_text(
        json.dumps(made("mixed_x3d", 0, [0, 0, 0, 0, 0, 1]))
    )
    real_videos.report(tmp_path / "found", page)
    assert "| X3D: depthwise 3D | 230,000 | 47.0 | 98.2 |" in part_of(page.read_text(), "networks")
    assert "| from an X3D of equal cost | 75.0 | " in part_of(page.read_text(), "fights")

    kind = real_videos.KINDS["mixed_x3d"]
    with pytest.raises(ValueError, match="run `python docs/measure real_videos pretrain --work .*` first"):
        real_videos._model(kind, tmp_path)
    model = vov3d.create_model("x3d_m", num_classes=20, **real_videos.NETWORKS[kind.network].args)
    vov3d.save_pretrained(model, real_videos._pretrained(kind.network, tmp_path) / "model")
    assert real_videos.NETWORKS[kind.network].conv == "dw3d"
    again = vov3d.create_model(real_videos._model(kind, tmp_path), pretrained=True, num_classes=2)
    assert torch.equal(again.stem.conv_s.weight, model.stem.conv_s.weight)


@pytest.mark.slow
def test_the_packaged_model_is_trained_further_once(tmp_path, monkeypatch):
    """Few clips; the real number takes half an hour."""
    monkeypatch.setattr(real_videos.people, "write_set", lambda path, _, seed: write_few(path, seed))
    monkeypatch.setattr(real_videos.moving_shapes, "make_set", lambda _, *rest: make_set(20, *rest))
    words = ["--results", str(tmp_path / "found"), "pretrain", "--work", str(tmp_path), "--only", "people"]
    assert real_videos.main(words) == 0
    stored = json.loads((tmp_path / "found" / "networks" / "people.json").read_text())
    assert stored["shapes_top1"] > 50  # it goes on from the packaged weights
    model = vov3d.create_model(real_videos._model(real_videos.KINDS["people"], tmp_path), pretrained=True)
    assert (model.num_classes, model.pretrained_cfg["num_frames"]) == (55, 8)
    monkeypatch.setattr(real_videos, "train_further", None)
    assert real_videos.main(words) == 0  # not again


def write_few(path: Path, seed: int) -> None:
    labels = np.arange(32 if seed == 1000 else 4)
    clips = np.stack([real_videos.people.make_clip(int(i), np.random.default_rng((seed, int(i)))) for i in labels])
    np.savez(path, clips=clips, labels=labels, classes=np.array(real_videos.people.CLASSES))


def test_the_page_is_that_of_the_stored_runs(tmp_path):
    found = real_videos.read(real_videos.RESULTS)
    page = real_videos.PAGE.read_text()
    again = tmp_path / "page.md"
    again.write_text(page)
    real_videos.report(real_videos.RESULTS, again)
    assert again.read_text() == page, "write it anew with `python docs/measure real_videos report`"
    for run in found.values():
        assert json.dumps(run).count("mp4") == 0
        assert all(len(said) == len(run["labels"]) for said in run["said"].values())
        assert np.bincount(run["labels"]).min() > 0
