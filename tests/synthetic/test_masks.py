"""Masks of the moving shapes: of the same clips, where the pixels differ."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vov3d.synthetic.masks import _shown_by, make_masked_clip, make_masked_set
from vov3d.synthetic.moving_shapes import CLASSES, make_clip, make_set, make_tracks


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 19), st.integers(2, 17), st.sampled_from([16, 33, 64]), st.integers(0, 2**32))
def test_the_clip_is_that_without_a_mask(label, num_frames, size, seed):
    clip, mask = make_masked_clip(label, np.random.default_rng(seed), num_frames, size)
    assert np.array_equal(clip, make_clip(label, np.random.default_rng(seed), num_frames, size))
    assert (mask.shape, mask.dtype) == ((num_frames, size, size), bool)
    assert 0 < mask.mean() < 0.7


def test_a_set_has_the_clips_of_the_plain_set():
    clips, labels, masks = make_masked_set(22, 5, 4, 32)
    plain, same = make_set(22, 5, 4, 32)
    assert np.array_equal(clips, plain)
    assert np.array_equal(labels, same)
    assert masks.shape == (22, 4, 32, 32)


@pytest.mark.parametrize("label", range(20), ids=CLASSES.__getitem__)
def test_only_shapes_that_move_are_shown(label):
    for seed in range(4):
        tracks = make_tracks(label, np.random.default_rng(seed), 16)
        shown = _shown_by(label, tracks)
        for track, moves in zip(tracks, shown, strict=True):
            changes = max(np.ptp(getattr(track, name)) for name in ("x", "y", "size", "angle", "alpha"))
            bystander = track.size[0] <= 0.16 and np.ptp(track.size) == 0
            assert moves == (changes > 0.05 and not bystander), (seed, changes)


def test_the_mask_follows_a_shape_to_the_left():
    clip, mask = make_masked_clip(14, np.random.default_rng(8))
    centres = np.array([np.argwhere(frame).mean(0) for frame in mask])
    assert np.ptp(centres, 0).min() > 3  # it circles
    inside = np.array([clip[t][mask[t]].std(0).mean() for t in range(16)])
    assert inside.min() > 0
