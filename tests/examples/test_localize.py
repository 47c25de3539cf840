"""Labels over time: the cut is the best one, files hold the segments, the page shows the stored measurement."""

import itertools
import json
from pathlib import Path

import localize
import localized_shapes
import numpy as np
import pytest
from helpers.numbered_videos import write_video
from helpers.recording_model import StandIn
from hypothesis import given, settings
from hypothesis import strategies as st
from localize import Segment, Timeline, as_srt, cut, look_over, segments_of
from pages import part_of
from PIL import Image

import vov3d
from vov3d.video import VideoClassifier

NAMES = ["up", "down", "left"]


def total(scores: np.ndarray, threshold: float, labels: tuple[int, ...]) -> float:
    whole = np.concatenate([scores, np.full((len(scores), 1), threshold)], 1)
    return float(sum(whole[i, label] for i, label in enumerate(labels)))


def runs(labels: tuple[int, ...]) -> list[int]:
    return [len(list(group)) for _, group in itertools.groupby(labels)]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(0, 4), st.floats(0, 1), st.integers(0, 10**6))
def test_the_cut_is_the_best_of_all(count, least, threshold, seed):
    scores = np.random.default_rng(seed).random((count, 2))
    found = cut(scores, least, threshold)
    labels = tuple(label for start, end, label in found for _ in range(start, end))
    assert len(labels) == count
    assert all(a[1] == b[0] and a[2] != b[2] for a, b in itertools.pairwise(found))
    shortest = min(max(least, 1), count)
    allowed = [way for way in itertools.product(range(3), repeat=count) if min(runs(way)) >= shortest]
    assert labels in allowed
    assert total(scores, threshold, labels) == pytest.approx(max(total(scores, threshold, way) for way in allowed))


def timeline(labels: str, step: float = 0.5) -> Timeline:
    moments = np.full((len(labels), 3), 0.1, np.float32)
    for i, label in enumerate(labels):
        if label != ".":
            moments[i, "udl".index(label)] = 0.8
    return Timeline(step, 1.0, len(labels) * step - 0.1, moments, moments, [])


def test_segments_leave_out_what_is_short_or_weak():
    found = segments_of(timeline("uuuuduu...lll"), NAMES, threshold=0.3, min_length=1)
    assert [(s.start, s.end, s.label, s.index) for s in found] == [(0, 3.5, "up", 0), (5, 6.4, "left", 2)]
    assert found[0].score == pytest.approx((6 * 0.8 + 0.1) / 7, abs=1e-4)
    assert [s.label for s in segments_of(timeline("uuuuduu"), NAMES, 0.3, 0.5)] == ["up", "down", "up"]
    assert segments_of(timeline("....."), NAMES, 0.3, 1) == []


def test_moments_are_the_mean_of_the_windows_that_hold_them():
    windows = np.eye(3, dtype=np.float32)
    moments = localize._moments(windows, 4, 7)
    np.testing.assert_allclose(moments.sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(moments[0], [1, 0, 0])
    np.testing.assert_allclose(moments[1:3], [[1 / 2, 1 / 2, 0], [1 / 3] * 3], rtol=1e-6)
    np.testing.assert_allclose(moments[5:], [[0, 0, 1]] * 2)  # the last is in no window


def test_subtitles():
    text = as_srt([Segment(0, 1.25, "up", 0, 0.915), Segment(3599.9996, 3725.5, "down", 1, 0.5)])
    assert text == ("1\n00:00:00,000 --> 00:00:01,250\nup (92%)\n\n2\n01:00:00,000 --> 01:02:05,500\ndown (50%)\n")


@pytest.mark.parametrize("times", [None, [0, 10, 400, *range(500, 2000, 50)]])
def test_windows_are_those_of_the_classifier(tmp_path: Path, times):
    video = write_video(tmp_path / "a.mp4", num_frames=40, times_ms=times)
    classifier = VideoClassifier(StandIn())  # windows of 8 frames at 30 per second
    found = look_over(classifier, video, every=0.1, seconds=None, pictures=True)
    assert len(found.shown) == 9
    assert len(found.moments) * found.step == pytest.approx(found.duration, abs=found.step)
    np.testing.assert_allclose(found.windows.sum(1), 1, rtol=1e-5)
    if times is None:
        assert (found.step, found.length) == (0.1, pytest.approx(8 / 30))
        assert len(found.windows) == 1 + (40 - 8) // 3


def test_files_written_for_a_video_of_known_shots(tmp_path: Path, capsys):
    video, out = tmp_path / "shots.mp4", tmp_path / "out.json"
    truth = localized_shapes.write_motions(video, 4, seed=7)
    options = ["--seconds", "1.6", "--every", "0.4", "--srt", str(tmp_path / "out.srt"), "--threshold", "0"]
    assert localize.main([str(video), "-o", str(out), "--picture", str(tmp_path / "out.png"), *options]) == 0
    content = json.loads(out.read_text())
    assert content["duration"] == pytest.approx(truth[-1].end)
    segments = [Segment(**segment) for segment in content["segments"]]
    assert (segments[0].start, segments[-1].end) == (0, content["duration"])
    assert all(a.end == b.start and a.label != b.label for a, b in itertools.pairwise(segments))
    assert len(content["windows"]) == 1 + (round(truth[-1].end * 10) - 16) // 4
    assert (tmp_path / "out.srt").read_text() == as_srt(segments)
    assert len(capsys.readouterr().out.splitlines()) == len(segments)
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.width > 1000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.json", "out.png", "out.srt", "shots.mp4"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--every", "0"], "--every is 0.0"),
        (["--threshold", "2"], "--threshold is 2.0"),
        (["--min-length", "-1"], "--min-length is -1.0"),
        (["--srt", "nowhere/a.srt"], "nowhere/a.srt: there is no folder"),
        (["--picture", "a.txt"], "a picture's name must end in .png"),
        ([], "seconds is None: this model takes its frames from equal segments"),
        (["--seconds", "9"], "the frames ended after 20; a window takes 270"),
    ],
)
def test_errors_are_one_line(tmp_path: Path, capsys, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "a.mp4", num_frames=20)
    assert localize.main(["a.mp4", "-o", "out.json", *options]) == 1
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 1
    assert message in err[0]
    assert not (tmp_path / "out.json").exists()


def test_the_page_shows_what_was_measured():
    page = localized_shapes.PAGE.read_text()
    shown = part_of(page, "localized")
    report = json.loads(localized_shapes.RESULTS.read_text())
    assert shown == localized_shapes.table(report)


def test_frames_have_the_label_of_their_middle():
    found = localized_shapes.frame_labels([Segment(0.1, 0.3, "a", 4, 1), Segment(0.3, 0.449, "b", 5, 1)], 6)
    assert found.tolist() == [-1, 4, 4, 5, -1, -1]


def test_scenes_are_several_clips_of_one_motion(tmp_path: Path):
    truth = localized_shapes.write_motions(tmp_path / "a.mp4", 2, seed=0, scenes=True)
    lengths = [round((s.end - s.start) * 10) for s in truth]
    assert all(length % 16 == 0 and 64 <= length <= 128 for length in lengths)
    classifier = VideoClassifier(vov3d.create_model("vov3d_n", pretrained=True))
    report = localized_shapes.measure(classifier, 2, scenes=True, seed=0)
    assert (report["motions"], report["frames"]) == (2, sum(lengths))
    assert all(0 <= share <= 100 for share in report["shares"].values())


def test_a_stream_takes_every_frame_once(tmp_path):
    video, folder = tmp_path / "motions.mp4", tmp_path / "model"
    truth = localized_shapes.write_motions(video, 2, seed=5)
    vov3d.save_pretrained(vov3d.create_model("vov3d_n", pretrained=True, causal=True), folder)
    out = tmp_path / "found.json"
    assert localize.main([str(video), "--model", str(folder), "--streaming", "-o", str(out)]) == 0
    found = json.loads(out.read_text())
    assert found["duration"] == pytest.approx(truth[-1].end, abs=0.01)
    steps = round(truth[-1].end * 5)
    assert len(found["windows"]) == steps - 7
    assert found["windows"][-1]["end"] == pytest.approx(truth[-1].end, abs=0.21)
    assert localize.main([str(video), "--streaming", "--seconds", "2", "-o", str(out)]) == 1
    stream = vov3d.StreamClassifier(vov3d.create_model("vov3d_n", pretrained=True))
    with pytest.raises(ValueError, match="takes 6.00 s or more"):
        localize.stream_over(stream, video)
