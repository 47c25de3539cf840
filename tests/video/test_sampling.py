"""Frames and crops equal the published loaders', and never leave the video."""

import json
import random
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vov3d.video import (
    Views,
    clip_indices,
    clip_times,
    crop_boxes,
    dense_indices,
    parse_views,
    random_clip_indices,
    random_clip_times,
    random_dense_indices,
    segment_indices,
)

REFERENCE = json.loads((Path(__file__).parents[1] / "reference" / "sampling.json").read_text())

counts = st.integers(1, 2000)
rates = st.floats(0.01, 1000)
lengths = st.integers(1, 64)
strides = st.integers(1, 40)
seeds = st.integers(0, 2**32)


def assert_clip(indices: list[int], num_frames: int, clip_len: int) -> None:
    assert len(indices) == clip_len
    assert all(type(index) is int and 0 <= index < num_frames for index in indices)
    assert indices == sorted(indices)


def test_reference_has_rows() -> None:
    assert {key: len(REFERENCE[key]) for key in ("dense", "segment_test", "three_crops")} == {
        "dense": 7,
        "segment_test": 4,
        "three_crops": 4,
    }


@pytest.mark.parametrize("row", REFERENCE["dense"])
def test_dense_equals_reference(row: dict) -> None:
    found = dense_indices(row["num_frames_in_video"], row["fps"], row["T"], row["tau"], row["clip"], row["clips"])
    assert found == row["indices"]


@pytest.mark.parametrize("row", REFERENCE["segment_test"])
def test_segment_equals_reference(row: dict) -> None:
    assert segment_indices(row["num_frames_in_video"], row["T"]) == row["indices"]


@pytest.mark.parametrize("row", REFERENCE["three_crops"])
def test_crops_equal_reference(row: dict) -> None:
    resized, corners = crop_boxes(row["height"], row["width"], row["size"], 3)
    assert list(resized) == row["resized"]
    assert [list(corner) for corner in corners] == row["top_left"]
    assert crop_boxes(row["height"], row["width"], row["size"], 1) == (resized, [corners[1]])


@given(counts, rates, lengths, strides, st.integers(1, 12), st.floats(0, 1))
def test_dense_stays_inside(n: int, fps: float, clip_len: int, stride: int, clips: int, place: float) -> None:
    for clip in (0, place * clips, clips - 1):
        assert_clip(dense_indices(n, fps, clip_len, stride, clip, clips), n, clip_len)


@given(counts, rates, lengths, strides, seeds)
def test_random_dense_stays_inside(n: int, fps: float, clip_len: int, stride: int, seed: int) -> None:
    indices = random_dense_indices(n, fps, clip_len, stride, random.Random(seed))
    assert_clip(indices, n, clip_len)
    assert indices == random_dense_indices(n, fps, clip_len, stride, random.Random(seed))


@given(counts, lengths, seeds)
def test_segment_stays_inside(n: int, clip_len: int, seed: int) -> None:
    middle = segment_indices(n, clip_len)
    drawn = segment_indices(n, clip_len, random.Random(seed))
    assert_clip(middle, n, clip_len)
    assert_clip(drawn, n, clip_len)
    assert all(abs(a - b) <= (n - 1) / clip_len / 2 + 1 for a, b in zip(middle, drawn, strict=True))


@given(st.integers(1, 2000), st.integers(1, 2000), st.integers(1, 400), st.sampled_from([1, 3]))
def test_crops_lie_inside(height: int, width: int, size: int, num_crops: int) -> None:
    (new_height, new_width), corners = crop_boxes(height, width, size, num_crops)
    assert min(new_height, new_width) == size
    assert len(corners) == num_crops
    for top, left in corners:
        assert 0 <= top <= new_height - size
        assert 0 <= left <= new_width - size


def test_a_very_long_video_is_not_left_by_rounding() -> None:
    n = 2**24 + 4  # n - 1 rounds up to n in float32
    assert dense_indices(n, 30, 4, 1, 1, 1)[-1] == n - 1


def test_random_dense_reaches_both_ends() -> None:
    rng = random.Random(0)
    starts = {random_dense_indices(84, 30, 16, 5, rng)[0] for _ in range(200)}
    assert starts == {0, 1, 2, 3}


def test_random_segment_reaches_both_ends() -> None:
    rng = random.Random(0)
    assert {segment_indices(9, 2, rng)[0] for _ in range(200)} == {0, 1, 2, 3, 4}


def test_one_dense_clip_is_the_middle() -> None:
    cfg = {"num_frames": 4, "frame_stride": 2, "sampling": "dense"}
    assert clip_indices(cfg, 107, 30, 1) == [[49, 51, 54, 56]]  # from 49.5 to 56.5
    assert clip_indices(cfg, 107, 30, 3) == [dense_indices(107, 30, 4, 2, clip, 3) for clip in range(3)]


SEGMENTS = {"num_frames": 8, "frame_stride": None, "sampling": "segment"}
DENSE = {"num_frames": 16, "frame_stride": 5, "sampling": "dense"}


def test_one_segment_clip_takes_the_middle_frames_and_several_draw() -> None:
    assert clip_indices(SEGMENTS, 45, 30, 1, key=7) == [segment_indices(45, 8)]
    plan = clip_indices(SEGMENTS, 450, 30, 4, key=7)
    assert plan == clip_indices(SEGMENTS, 450, 30, 4, key=7)
    assert plan[:2] == clip_indices(SEGMENTS, 450, 30, 2, key=7)
    assert len({tuple(clip) for clip in plan}) == 4
    assert plan != clip_indices(SEGMENTS, 450, 30, 4, key=8)
    # the same on every machine and with every version of Python
    assert clip_indices(SEGMENTS, 45, 30, 2, key=7) == [[6, 9, 16, 18, 24, 29, 37, 43], [0, 11, 13, 17, 26, 30, 34, 44]]


@given(counts, lengths, st.integers(2, 6), seeds)
def test_drawn_segments_hold_their_frame(n: int, clip_len: int, clips: int, key: int) -> None:
    size = (n - 1) / clip_len
    for clip in clip_indices(SEGMENTS | {"num_frames": clip_len}, n, 30, clips, key):
        assert_clip(clip, n, clip_len)
        assert all(round(size * i) <= index <= round(size * (i + 1)) for i, index in enumerate(clip))


def test_drawn_segments_reach_every_frame() -> None:
    found = [clip_indices(SEGMENTS | {"num_frames": 2}, 9, 30, 2, key) for key in range(100)]
    assert {clip[0] for plan in found for clip in plan} == {0, 1, 2, 3, 4}


@given(st.floats(0, 10_000), lengths, st.floats(0.1, 40), st.integers(1, 12))
@example(0.01953125, 1, 0.109375, 1)
def test_times_of_dense_clips_are_exactly_apart(last: float, clip_len: int, stride: float, clips: int) -> None:
    cfg = DENSE | {"num_frames": clip_len, "frame_stride": stride}
    plan = clip_times(cfg, last, clips)
    assert [len(clip) for clip in plan] == [clip_len] * clips
    for times in [*plan, random_clip_times(cfg, last, random.Random(0))]:
        assert times[0] >= 0
        assert all(b - a == pytest.approx(stride / 30) for a, b in pairwise(times))
        # the number of frames at 30 per second is rounded, up to half a frame
        assert times[0] == 0 or times[-1] <= last + (1.5 - stride) / 30 + 1e-9
    if clips > 1:
        assert plan[0][0] == 0


@pytest.mark.parametrize("seconds", [0.0, 0.5, 3.0, 61.0])
def test_times_agree_with_the_frames_of_30_per_second(seconds: float) -> None:
    n = round(30 * seconds) + 1
    for cfg in (DENSE, SEGMENTS):
        for clips in (1, 3):
            frames, times = clip_indices(cfg, n, 30, clips), clip_times(cfg, seconds, clips)
            shown = [[min(30 * time, n - 1) for time in clip] for clip in times]
            # the published points of a dense clip are spread to the last frame of its span, up to a stride further
            assert all(abs(a - b) <= 5 for x, y in zip(frames, shown, strict=True) for a, b in zip(x, y, strict=True))


def test_random_clips_are_those_of_the_models_way() -> None:
    for seed in range(20):
        dense = random_dense_indices(300, 25, 16, 5, random.Random(seed))
        assert random_clip_indices(DENSE, 300, 25, random.Random(seed)) == dense
        segments = segment_indices(300, 8, random.Random(seed))
        assert random_clip_indices(SEGMENTS, 300, 25, random.Random(seed)) == segments


@pytest.mark.parametrize(("text", "views"), [("1x1", (1, 1)), ("10x3", (10, 3)), ("2x3", (2, 3))])
def test_parse_views(text: str, views: tuple[int, int]) -> None:
    assert parse_views(text) == Views(*views)


@pytest.mark.parametrize("text", ["", "10", "0x1", "1x2", "-1x3", "1 x 3", "3x10", "1x1\n", "x3", "٣x3"])
def test_bad_views_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="CLIPSxCROPS"):
        parse_views(text)


@pytest.mark.parametrize(
    ("call", "cause"),
    [
        (lambda: dense_indices(0, 30, 16, 5), "0 frames"),
        (lambda: dense_indices(9, 0, 16, 5), "fps 0"),
        (lambda: dense_indices(9, float("nan"), 16, 5), "fps nan"),
        (lambda: dense_indices(9, 30, 0, 5), "clip of 0"),
        (lambda: dense_indices(9, 30, 16, 0), "stride 0"),
        (lambda: dense_indices(9, 30, 16, 5, 3, 2), "clip 3 of 2"),
        (lambda: random_dense_indices(0, 30, 16, 5, random.Random()), "0 frames"),
        (lambda: segment_indices(-1, 16), "-1 frames"),
        (lambda: segment_indices(9, 0), "clip of 0"),
        (lambda: crop_boxes(0, 9, 9, 1), "0x9"),
        (lambda: crop_boxes(9, 9, 9, 2), "2 crops"),
        (lambda: clip_indices({"num_frames": 4, "sampling": "dense"}, 9, 30, 1), "no frame_stride"),
        (lambda: clip_indices({"num_frames": 4, "sampling": "sparse"}, 9, 30, 1), "'sparse'"),
        (lambda: clip_indices({"num_frames": 4, "sampling": "segment"}, 9, 30, 0), "at least one clip"),
        (lambda: clip_times(DENSE, -1, 1), "after -1 seconds"),
        (lambda: clip_times(SEGMENTS, float("nan"), 1), "after nan seconds"),
        (lambda: clip_times({"num_frames": 4, "sampling": "dense"}, 9, 1), "no frame_stride"),
        (lambda: random_clip_indices({"num_frames": 4, "sampling": "sparse"}, 9, 30, random.Random()), "'sparse'"),
    ],
)
def test_bad_numbers_are_refused(call, cause: str) -> None:
    with pytest.raises(ValueError, match=cause):
        call()


def test_points_are_float32_as_published() -> None:
    # 183.33 * 0.9 is 164.99999999999997 in float64; torch.linspace of the published loader makes it 165
    assert dense_indices(250, 25, 16, 5, 9, 10)[:3] == [165, 169, 173]
