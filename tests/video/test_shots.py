"""Cuts between shots: where they are found, and which are known to be missed."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vov3d.synthetic.moving_shapes import CLASSES, make_clip
from vov3d.video.shots import split_shots


def clip(seed: int, frames: int) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(make_clip(int(rng.integers(len(CLASSES))), rng, frames)).permute(0, 3, 1, 2)


def cuts(frames: torch.Tensor) -> list[int]:
    told = list(split_shots(iter(frames)))
    assert len(told) == len(frames)
    assert all(torch.equal(given, frame) for (_, frame), given in zip(told, frames, strict=True))
    return [number for number, (begins, _) in enumerate(told) if begins]


@settings(max_examples=8, deadline=None, derandomize=True)
@given(st.lists(st.integers(10, 24), min_size=1, max_size=4), st.integers(0, 10**6))
def test_hard_cuts_are_found_at_their_frame(lengths, seed):
    frames = torch.cat([clip(seed + number, length) for number, length in enumerate(lengths)])
    assert cuts(frames) == [sum(lengths[:number]) for number in range(len(lengths))]


def test_most_of_many_cuts_and_little_else():
    lengths = np.random.default_rng(0).integers(8, 25, 20).tolist()
    frames = torch.cat([clip(1000 + number, length) for number, length in enumerate(lengths)])
    found, true = set(cuts(frames)), set(np.cumsum([0, *lengths[:-1]]).tolist())
    assert len(true - found) <= 1
    assert len(found - true) <= 1


@pytest.mark.parametrize("colour", [0, 255])
def test_a_flash_is_no_cut(colour):
    frames = clip(3, 20).clone()
    frames[6] = colour
    frames[12:14] = colour
    assert cuts(frames) == [0]


def test_a_fade_to_black_and_a_dissolve_are_missed():
    first, second = clip(4, 30).float(), clip(5, 30).float()
    share = torch.linspace(0, 1, 30)[:, None, None, None]
    assert cuts((first * (1 - share)).byte()) == [0]
    assert cuts((first * (1 - share) + second * share).byte()) == [0]


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_few_frames(count):
    frames = torch.zeros(count, 3, 5, 7, dtype=torch.uint8)
    assert [begins for begins, _ in split_shots(iter(frames))] == [True, False, False][:count]
