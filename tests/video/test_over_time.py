"""Windows at regular times of a long video: each is what its frames alone give, within its shot, decoded once."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.numbered_videos import write_pictures, write_video
from helpers.recording_model import StandIn, frames_of
from hypothesis import given, settings
from hypothesis import strategies as st

from vov3d.models import create_model
from vov3d.synthetic.moving_shapes import make_clip
from vov3d.video import VideoClassifier, VideoError, VideoReader
from vov3d.video.transforms import eval_transform
from vov3d.video.window import ShotWindows

SEGMENTS = dict(sampling="segment", frame_stride=None)


def frames_with_cuts(begins: list[int], count: int) -> list[tuple[bool, torch.Tensor]]:
    return [(number in begins, torch.full((3, 32, 32), number, dtype=torch.uint8)) for number in range(count)]


@settings(max_examples=50, deadline=None)
@given(
    st.integers(1, 60),
    st.floats(0.034, 1.0),
    st.sets(st.integers(0, 59), max_size=4),
    st.sampled_from([None, 0.2, 0.5]),
)
def test_windows_are_those_of_each_shot_alone(count, every, cuts, seconds):
    cfg = StandIn().pretrained_cfg | (SEGMENTS if seconds else {})
    plan = ShotWindows(cfg, eval_transform(cfg), every, 30.0, seconds)
    begins = sorted({0, *(cut for cut in cuts if cut < count)})
    found = list(plan.clips(frames_with_cuts(begins, count)))
    expected = []
    for shot, end in zip(begins, [*begins[1:], count], strict=True):
        starts = [shot + int(np.floor(k * (every * 30) + 0.5)) for k in range(count + 1)]
        full = [start for start in starts if start + plan.length <= end]
        expected += [(start, start + plan.length, shot) for start in full] or [(shot, end, shot)]
    assert [(clip.start, clip.end, clip.shot) for clip in found] == expected
    for clip in found:
        numbers = clip.crops[0][:, 0, 0, 0].tolist()
        assert numbers == sorted(numbers)
        assert clip.start <= numbers[0] <= numbers[-1] < clip.end


def test_windows_are_what_a_call_on_their_frames_gives(tmp_path: Path):
    video = write_video(tmp_path / "a.mp4", num_frames=40)
    classifier = VideoClassifier(StandIn(), views="1x3")  # windows of 8 frames at 30 per second
    windows = list(classifier.scores_over(video, 0.25, across_cuts=True))
    starts = [round(window.start * 30) for window in windows]
    assert starts == [0, 8, 15, 23, 30]  # 7.5 frames apart
    frames = frames_of(video)
    for start, window in zip(starts, windows, strict=True):
        assert (window.end - window.start, window.duration) == (pytest.approx(8 / 30), pytest.approx(40 / 30))
        assert window.time == pytest.approx((start + 4) / 30)
        whole = classifier.scores(frames[start : start + 8].numpy())
        torch.testing.assert_close(window.values, whole, rtol=1e-4, atol=1e-5)


def test_one_pass_of_decoding_and_no_window_across_a_cut(tmp_path: Path, monkeypatch):
    rng = np.random.default_rng(0)
    lengths = (20, 5, 17)
    video = write_pictures(tmp_path / "a.mov", np.concatenate([make_clip(i, rng, n) for i, n in enumerate(lengths)]))
    asked = []
    stream = VideoReader.stream

    def counted(self, indices, transform=None):
        for index, frame in stream(self, indices, transform):
            asked.append(index)
            yield index, frame

    monkeypatch.setattr(VideoReader, "stream", counted)
    classifier = VideoClassifier(StandIn())
    windows = list(classifier.scores_over(video, 0.1))
    assert asked == list(range(42))
    spans = [(round(w.start * 30), round(w.end * 30), round(w.shot * 30)) for w in windows]
    assert spans == [
        *((i, i + 8, 0) for i in (0, 3, 6, 9, 12)),
        (20, 25, 20),
        *((i, i + 8, 25) for i in (25, 28, 31, 34)),
    ]
    across = list(classifier.scores_over(video, 0.1, across_cuts=True))
    assert {window.shot for window in across} == {0}
    assert len(across) == 1 + (42 - 8) // 3


@pytest.mark.parametrize("times", [None, [0, 10, 400, *range(500, 2000, 50)]])
def test_files_of_variable_rate_are_cut_by_time(tmp_path: Path, times):
    video = write_video(tmp_path / "a.mp4", num_frames=40, times_ms=times)
    windows = list(VideoClassifier(StandIn()).scores_over(video, 0.2, across_cuts=True))
    step = np.diff([window.time for window in windows])
    np.testing.assert_allclose(step, 0.2, atol=1e-6)
    assert windows[0].duration == pytest.approx(2.0 if times else 40 / 30, abs=0.04)


def test_scores_are_those_of_the_task(tmp_path: Path):
    video = write_video(tmp_path / "v.mp4", num_frames=60)
    found = {}
    for task in (None, "multilabel", "regression"):
        model = create_model("vov3d_n", pretrained=True, task=task)
        classifier = VideoClassifier(model)
        window = next(classifier.scores_over(video, 0.5, seconds=1.6, across_cuts=True))
        found[task] = window.values
    assert found[None].sum() == pytest.approx(1)
    assert found["regression"].min() < 0
    assert found["multilabel"].min() > 0
    assert found["multilabel"].sum() != pytest.approx(1, abs=0.01)


def test_what_does_not_fit(tmp_path: Path):
    video = write_video(tmp_path / "a.mp4", num_frames=20)
    classifier = VideoClassifier(StandIn())
    for every in (0, "0.5s"):
        with pytest.raises(ValueError, match=f"every is {every!r}: give the seconds"):
            classifier.scores_over(video, every)
    with pytest.raises(VideoError, match="a.mp4: a window every 0.01 s is more than the 30 frames .* 0.034 s"):
        classifier.scores_over(video, 0.01)
    with pytest.raises(ValueError, match="seconds=1 would have no effect"):
        classifier.scores_over(video, 0.5, seconds=1)
    with pytest.raises(ValueError, match="seconds is None: this model takes its frames from equal segments"):
        VideoClassifier(StandIn(**SEGMENTS)).scores_over(video, 0.5)
    stated = VideoClassifier(StandIn(**SEGMENTS, clip_seconds=0.3))
    assert [w.end - w.start for w in stated.scores_over(video, 0.1)] == [pytest.approx(0.3, abs=0.04)] * 4
    with pytest.raises(ValueError, match="a window is one clip, but views has 2"):
        VideoClassifier(StandIn(), views="2x1").scores_over(video, 0.5)
    with pytest.raises(ValueError, match="has no forward_features"):
        classifier.embeddings_over(video, 0.5)
    with pytest.raises(VideoError, match="no such file"):
        classifier.scores_over(tmp_path / "none.mp4", 0.5)


@pytest.mark.parametrize("across_cuts", [False, True])
def test_frames_that_cannot_be_resized_name_their_video(tmp_path: Path, across_cuts):
    video = write_pictures(tmp_path / "strip.mov", [np.zeros((16, 2048, 3), np.uint8)] * 4)
    windows = VideoClassifier(StandIn()).scores_over(video, 0.5, across_cuts=across_cuts)
    with pytest.raises(VideoError, match=r"strip.mov: .* 64"):
        list(windows)
