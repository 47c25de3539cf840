"""Tests the classes of moving shapes, which differ only in motion, and that no shortcut distinguishes them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from vov3d.synthetic.moving_shapes import (
    _BOUNCING,
    CLASSES,
    PAIRS,
    make_clip,
    make_set,
    make_tracks,
    write_videos,
)
from vov3d.video import VideoReader


def rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_twenty_classes_in_pairs():
    assert len(set(CLASSES)) == 20
    assert CLASSES[:2] == PAIRS[0]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 19), st.integers(2, 20), st.integers(8, 40).map(lambda n: 2 * n), st.integers(0, 2**32))
def test_clips_of_any_length_and_size(label, num_frames, size, seed):
    clip = make_clip(label, rng(seed), num_frames, size)
    assert clip.shape == (num_frames, size, size, 3)
    assert clip.dtype == np.uint8
    assert np.array_equal(clip, make_clip(label, rng(seed), num_frames, size))


def test_shapes_stand_still_around_their_motion():
    for label in range(0, 20, 3):
        for track in make_tracks(label, rng(label), 8):
            longer = track.standing(3, 2)
            for name in ("x", "y", "size", "angle", "alpha", "depth"):
                own, values = getattr(track, name), getattr(longer, name)
                assert values.tolist() == [own[0]] * 3 + own.tolist() + [own[-1]] * 2
    assert make_clip(0, rng(0), 8, before=3, after=2).shape == (13, 64, 64, 3)
    assert np.array_equal(make_clip(0, rng(0), 8, before=0, after=0), make_clip(0, rng(0), 8))
    with pytest.raises(ValueError, match="cannot have -1 frames before"):
        make_clip(0, rng(0), 8, before=-1)


@pytest.mark.parametrize("pair", [i for i in range(len(PAIRS)) if i != _BOUNCING], ids=lambda i: PAIRS[i][0])
def test_pairs_are_time_reverses(pair):
    """The moving shape is reversed; bystanders, drawn afterwards, are as likely either way."""
    for seed in range(5):
        first, second = (make_tracks(2 * pair + i, rng(seed), 16)[-2:] for i in range(2))
        count = 1 if len(first) == 1 or first[0].size[0] < 0.17 else len(first)
        for a, b in zip(first[-count:], second[-count:], strict=True):
            for name in ("x", "y", "size", "angle", "alpha", "depth"):
                assert np.array_equal(getattr(a, name), getattr(b, name)[::-1]), name


@pytest.mark.parametrize("label", range(len(CLASSES)), ids=lambda i: CLASSES[i])
def test_the_moving_shape_is_visible_in_most_frames(label):
    """A quarter of a disc is inside where its centre is 0.4 radii outside."""
    for seed in range(150):
        for track in make_tracks(label, rng(seed), 16)[-2 if label // 2 in (4, 6, 9) else -1 :]:
            outside = np.maximum(abs(track.x), abs(track.y)) >= 1 + 0.4 * track.size
            assert outside.mean() <= 0.5, seed


@pytest.mark.parametrize("num_frames", [4, 8, 12, 15, 16, 30])
def test_fast_and_slow_visit_the_same_places(num_frames):
    slow, fast = (make_tracks(2 * _BOUNCING + i, rng(3), num_frames)[-1].y for i in range(2))
    assert np.allclose(np.sort(slow), np.sort(fast))
    assert not np.allclose(slow, fast)


def test_a_longer_set_begins_with_the_shorter_one_and_seeds_differ():
    clips, labels = make_set(6, seed=1, num_frames=4, size=32)
    assert labels.tolist() == [0, 1, 2, 3, 4, 5]
    assert np.array_equal(make_set(3, seed=1, num_frames=4, size=32)[0], clips[:3])
    assert not np.array_equal(make_set(3, seed=2, num_frames=4, size=32)[0], clips[:3])


@pytest.mark.parametrize(
    ("args", "message"), [((20, 16, 64), "label 20"), ((0, 1, 64), "2 frames"), ((0, 16, 8), "16 pixels")]
)
def test_clips_that_cannot_be_made(args, message):
    label, num_frames, size = args
    with pytest.raises(ValueError, match=message):
        make_clip(label, rng(0), num_frames, size)


def test_video_files_in_class_folders(tmp_path):
    write_videos(tmp_path, 2, seed=3, num_frames=5, size=32, classes=CLASSES[6:8])
    files = sorted(tmp_path.rglob("*.mp4"))
    assert [path.parent.name for path in files] == [CLASSES[6]] * 2 + [CLASSES[7]] * 2
    with VideoReader(files[-1]) as reader:
        assert (reader.num_frames, reader.height, reader.width, reader.fps) == (5, 64, 64, 10)  # enlarged twofold
    with pytest.raises(ValueError, match=r"there are no classes \['Waving'\]"):
        write_videos(tmp_path, 1, seed=0, classes=("Waving",))


# --- no shortcut -----------------------------------------------------------------------------------------------------


def accuracy(inputs: torch.Tensor, labels: torch.Tensor, model: nn.Module, passes: int) -> float:
    """Returns the held-out accuracy, in percent, of a small network trained on four fifths."""
    cut = len(inputs) * 4 // 5
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.05)
    for _ in range(passes):
        for batch in torch.randperm(cut).split(64):
            loss = nn.functional.cross_entropy(model(inputs[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        return 100 * (model.eval()(inputs[cut:]).argmax(1) == labels[cut:]).float().mean().item()


def network(channels: int) -> nn.Sequential:
    def block(a, b):
        return nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b), nn.ReLU())

    blocks = block(channels, 24), block(24, 48), block(48, 96)
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(384, 20))


@pytest.mark.slow
def test_single_or_shuffled_frames_do_not_distinguish_the_classes_of_a_pair():
    """Within pairs, one frame is worth a coin, and so are all of them shuffled."""
    torch.manual_seed(0)
    clips, labels = (torch.from_numpy(a) for a in make_set(2000, seed=7, num_frames=8, size=32))
    order = torch.randperm(len(clips), generator=torch.Generator().manual_seed(1))
    clips, labels = clips[order].permute(0, 1, 4, 2, 3).float() / 255 - 0.45, labels[order]
    one = clips[torch.arange(len(clips)), torch.randint(8, (len(clips),))]
    mixed = torch.stack([clip[torch.randperm(8)] for clip in clips])

    def within_pairs(inputs: torch.Tensor, model: nn.Module, passes: int) -> float:
        """Returns the accuracy within pairs of classes, the pair being known: 50 is chance."""
        return accuracy(inputs, labels % 2, model, passes)

    linear = nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(768, 2))
    results = {
        "linear, one frame": within_pairs(one, linear, 5),
        "2D network, one frame": accuracy(one, labels, network(3), 5),
        "2D network, frames without order": within_pairs(mixed.flatten(1, 2), network(24), 5),
    }
    assert abs(results["linear, one frame"] - 50) < 7.5  # 400 held-out clips: a standard deviation is 2.5
    assert results["2D network, one frame"] < 50 + 3
    assert abs(results["2D network, frames without order"] - 50) < 7.5
