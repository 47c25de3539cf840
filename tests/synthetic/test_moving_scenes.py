"""Scenes: boxes and actions are those of the drawing, and the key frame does not show the action."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vov3d.synthetic.moving_scenes import ACTIONS, make_scene, make_scenes


@settings(deadline=None, max_examples=30)
@given(st.integers(3, 12), st.integers(16, 80), st.integers(0, 2**32))
def test_scenes_of_any_length_and_size(num_frames, size, seed):
    scene = make_scene(np.random.default_rng(seed), num_frames, size)
    number = len(scene.actions)
    assert scene.frames.shape == (num_frames, size, size, 3)
    assert scene.frames.dtype == np.uint8
    assert 2 <= number <= 3
    assert scene.boxes.shape == (num_frames, number, 4)
    assert scene.actions.shape == (number, len(ACTIONS))
    assert set(scene.actions.sum(1)) <= {1, 2}
    key = scene.boxes[scene.key]
    assert (key >= 0).all()
    assert (key <= 1).all()
    assert (key[:, :2] < key[:, 2:]).all()
    again = make_scene(np.random.default_rng(seed), num_frames, size)
    assert np.array_equal(scene.frames, again.frames)
    assert np.array_equal(scene.boxes, again.boxes)


def test_a_longer_set_begins_with_the_shorter_one_and_seeds_differ():
    longer = make_scenes(3, seed=1, num_frames=4, size=32)
    assert np.array_equal(make_scenes(1, seed=1, num_frames=4, size=32)[0].frames, longer[0].frames)
    assert not np.array_equal(make_scenes(1, seed=2, num_frames=4, size=32)[0].frames, longer[0].frames)


@pytest.fixture(scope="module")
def shapes():
    """Returns boxes `(T, N, 4)` and actions of many shapes whose boxes are cut by no edge."""
    scenes = make_scenes(400, seed=5, size=32)
    boxes = np.concatenate([s.boxes for s in scenes], 1)
    actions = np.concatenate([s.actions for s in scenes])
    inside = (boxes > 0).all((0, 2)) & (boxes < 1).all((0, 2))
    return boxes[:, inside], actions[inside], boxes[4], actions


def test_boxes_move_as_their_actions_say(shapes):
    boxes, actions, *_ = shapes
    moved = ((boxes[-1] - boxes[0])[:, :2] + (boxes[-1] - boxes[0])[:, 2:]) / 2
    grown = np.log(np.prod(boxes[-1][:, 2:] - boxes[-1][:, :2], 1) / np.prod(boxes[0][:, 2:] - boxes[0][:, :2], 1))
    done = {name: actions[:, i] for i, name in enumerate(ACTIONS)}
    assert all(count > 10 for count in actions.sum(0))
    assert (moved[done["moving left"], 0] < -0.15).all()
    assert (moved[done["moving right"], 0] > 0.15).all()
    assert (moved[done["moving up"], 1] < -0.15).all()
    assert (moved[done["moving down"], 1] > 0.15).all()
    assert (grown[done["growing"]] > 0.5).all()
    assert (grown[done["shrinking"]] < -0.5).all()
    still = done["standing still"]
    assert (np.abs(moved[still]) < 0.1).all()
    assert (actions[still].sum(1) == 1).all()


def test_in_the_key_frame_boxes_are_alike_for_all_actions(shapes):
    *_, key, actions = shapes
    places = np.stack([key[:, 0] + key[:, 2], key[:, 1] + key[:, 3], *(key[:, 2:] - key[:, :2]).T], 1)
    for row in actions.T:
        error = places.std(0) / np.sqrt(row.sum())
        assert (np.abs(places[row].mean(0) - places.mean(0)) < 4 * error).all()


def test_boxes_are_around_what_is_drawn():
    """Colours change sharply inside the boxes only."""
    scene = make_scene(np.random.default_rng(3), size=64)
    inside = np.zeros((64, 64), bool)
    for left, top, right, bottom in scene.boxes[scene.key] * 64:
        inside[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))] = True
    frame = scene.frames[scene.key].astype(float)
    steps = np.abs(np.diff(frame, axis=1)).max(2)
    sharp = steps > 60
    assert sharp.sum() > 20
    assert (inside[:, 1:] | inside[:, :-1])[sharp].all()


@pytest.mark.parametrize(("num_frames", "size"), [(2, 64), (8, 15)])
def test_scenes_that_cannot_be_made(num_frames, size):
    with pytest.raises(ValueError, match=f"3 frames of 16 pixels or more, not {num_frames} of {size}"):
        make_scenes(1, 0, num_frames, size)
