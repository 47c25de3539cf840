"""Sections: a part of a video is read as a video of its own."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.numbered_videos import folder_of_frames, frame_numbers, write_video
from hypothesis import given, settings
from hypothesis import strategies as st

from vov3d.video import Section, VideoError, VideoReader, plan_clips

FPS, FRAMES = 25, 100


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "day.mp4", num_frames=FRAMES, fps=FPS, gop=30)


@settings(max_examples=15, deadline=None)
@given(start=st.integers(0, FRAMES - 1), length=st.integers(1, 40), late=st.integers(-400, 400))
def test_it_holds_the_frames_that_are_shown_in_it(video: Path, start: int, length: int, late: int) -> None:
    begin, end = max((start + late / 1000) / FPS, 0), (start + length - 0.5) / FPS
    expected = [i for i in range(FRAMES) if begin <= i / FPS + 1e-6 and i / FPS < end] or [start + 1]
    with VideoReader(Section(video, begin, max(end, begin + 1e-3))) as reader:
        numbers = frame_numbers(reader.read(range(reader.num_frames)))
    assert numbers == [min(number, FRAMES - 1) for number in expected]


def test_its_frames_and_times_count_from_its_start(video: Path) -> None:
    section = Section(video, 1, 3)
    with VideoReader(section) as part, VideoReader(video) as whole:
        assert (part.num_frames, part.fps, part.duration) == (50, whole.fps, pytest.approx(2))
        assert np.allclose(part.timestamps, whole.timestamps[:50])
        assert torch.equal(part.read([0, 7]), whole.read([25, 32]))
        (clip,) = plan_clips({"num_frames": 4, "sampling": "segment"}, part)
        assert max(clip) < 50
        assert part.content_key() != whole.content_key()
        assert part.path == f"{video} (from 1 s to 3 s)"
    with VideoReader(Section(str(video), 1, 3)) as again:
        assert frame_numbers(pickle.loads(pickle.dumps(again)).read([0])) == [25]


def test_it_ends_where_the_video_ends(video: Path) -> None:
    for end in (None, 99.0):
        with VideoReader(Section(video, 3.5, end)) as reader:
            assert frame_numbers(reader.read([0, reader.num_frames - 1])) == [88, 99]


def test_a_video_of_variable_rate(tmp_path: Path) -> None:
    times = [0, 10, 20, 1000, 1500, 2000, 2040]
    write_video(tmp_path / "v.mkv", times_ms=times)
    with VideoReader(Section(tmp_path / "v.mkv", 1, 2.01)) as reader:
        assert reader.timestamps.tolist() == pytest.approx([0, 0.5, 1])
        assert (reader.num_frames, reader.fps) == (3, pytest.approx(2))
        assert frame_numbers(reader.read([0, 2])) == [3, 5]


def test_folders_of_frames_by_seconds_or_by_frames(tmp_path: Path) -> None:
    folder_of_frames(tmp_path / "f", 24)
    with VideoReader(Section(tmp_path / "f", 1, 1.5)) as reader:  # 12 a second
        assert frame_numbers(reader.read(range(reader.num_frames))) == list(range(12, 18))
    with VideoReader(Section(tmp_path / "f", 4, 9, in_frames=True), fps=60) as reader:
        assert frame_numbers(reader.read(range(reader.num_frames))) == [4, 5, 6, 7, 8]
        assert reader.fps == 60


def test_what_cannot_be_meant(video: Path) -> None:
    with pytest.raises(ValueError, match="expected 0 <= start < end"):
        Section(video, 3, 2)
    with pytest.raises(ValueError, match="expected 0 <= start < end"):
        Section(video, -1)
    with pytest.raises(VideoError, match=r"day.mp4 \(from 70 s to 80 s\): the video has only 4.00 s; see whether"):
        VideoReader(Section(video, 70, 80))
    with pytest.raises(VideoError, match="no such file|does not exist|cannot"):
        VideoReader(Section(video.with_name("none.mp4"), 0, 1))
    with pytest.raises(ValueError, match="fps is for frames in an array or a folder"):
        VideoReader(Section(video, 0, 1), fps=5)
