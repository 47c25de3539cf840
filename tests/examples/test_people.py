"""Clips of people for real_videos.py: of any size, the same for the same seed, and bodies stand where they should."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from people import bodies, clips
from reference.data.sources import read_source
from reference.training.recipe import load_recipe, sections

LABELS = len(clips.CLASSES)


def rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, LABELS - 1), st.integers(2, 12), st.integers(8, 24).map(lambda n: 2 * n), st.integers(0, 2**32))
def test_clips_of_any_length_and_size(label, num_frames, size, seed):
    clip = clips.make_clip(label, rng(seed), num_frames, size)
    assert clip.shape == (num_frames, size, size, 3)
    assert clip.dtype == np.uint8
    assert np.array_equal(clip, clips.make_clip(label, rng(seed), num_frames, size))


def drawn(pose: bodies.Pose, size: float) -> np.ndarray:
    """Returns where a body is seen whose feet are at the lower edge of the picture: bool `(T, S, S)`."""
    n = len(pose.yaw)
    frames = np.zeros((n, 64, 64, 3), np.float32)
    look = bodies.make_look(rng(0))._replace(girth=1.0)
    bodies.draw_body(frames, pose, look, (np.zeros(n), np.full(n, 0.95)), np.full(n, size), 0.0)
    return frames.sum(-1) > 0


def test_a_standing_body_is_as_tall_as_it_should_and_stands_on_its_feet():
    for seed in range(5):
        rows = np.flatnonzero(drawn(bodies.pose_of("standing", rng(seed), 4), 0.8).any((0, 2)))
        assert 0.8 * 64 < np.ptp(rows) < 0.95 * 64
        assert rows[-1] >= 60


def test_bodies_stand_before_a_fall_and_lie_after_it():
    for seed in range(5):
        seen = drawn(bodies.pose_of("falling", rng(seed), 16), 0.7)
        first, last = (np.ptp(np.flatnonzero(frame.any(1))) for frame in (seen[0], seen[-1]))
        assert first > 1.5 * last


@pytest.mark.parametrize(("action", "way"), [("walking left", -1), ("walking right", 1)])
def test_those_who_walk_go_their_way_or_are_followed(action, way):
    poses = [bodies.pose_of(action, rng(seed), 8) for seed in range(20)]
    moved = [way * (pose.x[-1] - pose.x[0]) for pose in poses]
    assert min(moved) == 0
    assert sum(distance > 0.5 for distance in moved) > 10


@pytest.mark.parametrize(
    ("label", "axis", "way"),
    [("hand moving left", 0, -1), ("hand moving right", 0, 1), ("hand moving up", 1, -1), ("hand moving down", 1, 1)],
)
def test_hands_move_as_their_class_says(label, axis, way):
    steps = np.diff(clips._along(clips._line(label, 0.0), 9, rng(0)), axis=0)
    assert (way * steps[:, axis] >= 0).all()
    assert way * steps[:, axis].sum() == pytest.approx(2)
    assert not steps[:, 1 - axis].any()


@pytest.mark.slow
def test_written_sets_are_data_of_the_trainer(tmp_path):
    clips.write_set(tmp_path / "set.npz", 60, 7)
    recipe = sections(load_recipe("shapes_nano", {}))
    source, _ = read_source(str(tmp_path / "set.npz"), "train", recipe.data, recipe.shapes, None)
    assert source.classes == clips.CLASSES
    assert source.labels.tolist() == [*range(LABELS), *range(5)]
    assert source.clips is not None
    assert np.array_equal(source.clips[57], clips.make_clip(2, rng(7, 57)))
