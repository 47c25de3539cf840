"""Moving shapes for tasks beyond one label: targets that are in the clips, and lists that say them."""

import csv

import numpy as np
import pytest

from vov3d.synthetic.moving_tasks import HEADS, MOTIONS, TASKS, VALUES, make_task_clip, make_task_set, write_task_videos


@pytest.mark.parametrize("task", TASKS)
def test_a_clip_depends_on_seed_and_number_alone(task):
    clips, targets = make_task_set(task, 3, 5, 8, 32)
    again, same = make_task_set(task, 2, 5, 8, 32)
    assert (clips[:2] == again).all()
    assert (targets[:2] == same).all()
    assert clips.shape == (3, 8, 32, 32, 3)
    assert targets.shape == (3, {"multilabel": len(MOTIONS), "regression": 2, "multihead": 2}[task])


def test_speeds_are_those_of_the_shape():
    """The centre of what changes moves as the target says."""
    off = []
    for seed in range(12):
        clip, speed = make_task_clip("regression", np.random.default_rng(seed), 16, 64)
        still = np.median(clip, 0)
        weights = np.abs(clip.astype(float) - still).sum(-1) ** 2
        grid = np.arange(64)
        x = (weights.sum(1) * grid).sum(1) / weights.sum((1, 2))
        y = (weights.sum(2) * grid).sum(1) / weights.sum((1, 2))
        seen = np.array([np.polyfit(np.arange(16), x, 1)[0], -np.polyfit(np.arange(16), y, 1)[0]]) * 10 / 64
        off.append((speed * seen).sum() / (np.linalg.norm(speed) * np.linalg.norm(seen)))
    assert np.mean(off) > 0.8  # the cosine


def test_targets_stay_in_bounds():
    for seed in range(20):
        many = make_task_clip("multilabel", np.random.default_rng(seed), 4, 16)[1]
        assert set(many) <= {0, 1}
        assert 1 <= many.sum() <= 3
        assert (np.abs(make_task_clip("regression", np.random.default_rng(seed), 4, 16)[1]) <= 0.5).all()
        verb, noun = make_task_clip("multihead", np.random.default_rng(seed), 4, 16)[1]
        assert verb < len(HEADS["verb"])
        assert noun < len(HEADS["noun"])
    for wrong in (("single", 4, 16), ("regression", 1, 16)):
        with pytest.raises(ValueError, match=r"clips for|needs 2 frames"):
            make_task_clip(wrong[0], np.random.default_rng(0), *wrong[1:])


@pytest.mark.parametrize("task", TASKS)
def test_lists_name_the_videos_with_their_targets(task, tmp_path):
    write_task_videos(task, tmp_path, 2, 1)
    with (tmp_path / "train.csv").open(newline="", encoding="utf-8") as file:
        heading, *rows = csv.reader(file)
    assert heading[1:] == {"multilabel": ["labels"], "regression": list(VALUES), "multihead": list(HEADS)}[task]
    assert all((tmp_path / row[0]).stat().st_size > 1000 for row in rows)
    assert len(rows) == 2
