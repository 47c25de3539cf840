"""Labels over time: the cut is the best one, files hold the segments, the page shows the stored measurement."""

import itertools
import json
from pathlib import Path

import localize
import localized_shapes
import numpy as np
import pytest
import streamed_shapes
from helpers.numbered_videos import write_video
from helpers.recording_model import StandIn
from hypothesis import given, settings
from hypothesis import strategies as st
from localize import Segment, Timeline, as_srt, cut, look_over, segments_of
from pages import part_of
from PIL import Image

import vov3d
from vov3d.synthetic.moving_shapes import make_clip
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


def timeline(labels: str, step: float = 0.5, shots: tuple[float, ...] = (0.0,)) -> Timeline:
    moments = np.full((len(labels), 3), 0.1, np.float32)
    for i, label in enumerate(labels):
        if label != ".":
            moments[i, "udl".index(label)] = 0.8
    duration = len(labels) * step - 0.1
    return Timeline(step, 1.0, duration, np.zeros((0, 2)), moments, moments, list(shots), [])


def test_segments_leave_out_what_is_short_or_weak():
    found = segments_of(timeline("uuuuduu...lll"), NAMES, threshold=0.3, min_length=1)
    assert [(s.start, s.end, s.label, s.index) for s in found] == [(0, 3.5, "up", 0), (5, 6.4, "left", 2)]
    assert found[0].score == pytest.approx((6 * 0.8 + 0.1) / 7, abs=1e-4)
    assert [s.label for s in segments_of(timeline("uuuuduu"), NAMES, 0.3, 0.5)] == ["up", "down", "up"]
    assert segments_of(timeline("....."), NAMES, 0.3, 1) == []


def test_segments_end_at_cuts():
    found = segments_of(timeline("uuuuuudd", shots=(0.0, 1.6, 3.1)), NAMES, 0.3, min_length=1)
    assert [(s.start, s.end, s.label) for s in found] == [(0, 1.6, "up"), (1.6, 3.1, "up"), (3.1, 3.9, "down")]
    short = segments_of(timeline("uuudul", shots=(0.0, 1.5, 2.0)), NAMES, 0.3, min_length=1)
    assert [(s.start, s.end, s.label) for s in short][:2] == [(0, 1.5, "up"), (1.5, 2.0, "down")]


@pytest.mark.parametrize("shots", [(0.0, 0.0, 0.0), (0.0, 0.0, 3.0)])
def test_moments_are_the_mean_of_the_windows_that_hold_them(shots):
    spans = np.array([(0.0, 4), (1, 5), (3, 7)])
    windows = np.eye(3, dtype=np.float32)
    moments = localize._timeline(1.0, 9.5, spans, windows, np.ones(3), np.array(shots), []).moments
    assert len(moments) == 10
    np.testing.assert_allclose(moments.sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(moments[:3], [[1, 0, 0], [1 / 2, 1 / 2, 0], [1 / 2, 1 / 2, 0]])
    np.testing.assert_allclose(moments[5:], [[0, 0, 1]] * 5)  # the last three are in no window
    half = localize._timeline(1.0, 4.0, spans[:2], windows[:2], np.array([1, 3]), np.zeros(2), [])
    np.testing.assert_allclose(half.moments[1], [1 / 4, 3 / 4, 0])


def test_moments_that_no_window_holds_take_the_nearest_of_their_shot():
    spans = np.array([(0.0, 1), (5, 6), (6, 7)])
    found = localize._timeline(1.0, 12, spans, np.eye(3, dtype=np.float32), np.ones(3), np.array([0, 0, 6.0]), [])
    assert found.moments.argmax(1).tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2, 2]
    assert found.shots == [0, 6]


def test_subtitles():
    text = as_srt([Segment(0, 1.25, "up", 0, 0.915), Segment(3599.9996, 3725.5, "down", 1, 0.5)])
    assert text == ("1\n00:00:00,000 --> 00:00:01,250\nup (92%)\n\n2\n01:00:00,000 --> 01:02:05,500\ndown (50%)\n")


@pytest.mark.parametrize("times", [None, [0, 10, 400, *range(500, 2000, 50)]])
def test_windows_are_those_of_the_classifier(tmp_path: Path, times):
    video = write_video(tmp_path / "a.mp4", num_frames=40, times_ms=times)
    classifier = VideoClassifier(StandIn())  # windows of 8 frames at 30 per second
    found = look_over(classifier, video, every=0.1, seconds=None, pictures=True, across_cuts=True)
    assert len(found.shown) == 9
    assert len(found.moments) * found.step == pytest.approx(found.duration, abs=found.step)
    np.testing.assert_allclose(found.windows.sum(1), 1, rtol=1e-5)
    if times is None:
        assert (found.step, found.length) == (0.1, pytest.approx(8 / 30))
        assert len(found.windows) == 1 + (40 - 8) // 3


@pytest.mark.slow
def test_files_written_for_a_video_of_known_shots(tmp_path: Path, capsys):
    video, out = tmp_path / "shots.mp4", tmp_path / "out.json"
    truth = localized_shapes.write_motions(video, 4, seed=7)
    options = ["--seconds", "1.6", "--every", "0.4", "--srt", str(tmp_path / "out.srt"), "--threshold", "0"]
    assert localize.main([str(video), "-o", str(out), "--picture", str(tmp_path / "out.png"), *options]) == 0
    content = json.loads(out.read_text())
    assert content["duration"] == pytest.approx(truth[-1].end)
    segments = [Segment(**segment) for segment in content["segments"]]
    assert (segments[0].start, segments[-1].end) == (0, content["duration"])
    assert all(a.end == b.start for a, b in itertools.pairwise(segments))
    assert content["shots"] == pytest.approx([one.start for one in truth])
    lengths = [round((one.end - one.start) * 10) for one in truth]
    assert len(content["windows"]) == sum(1 + (length - 16) // 4 for length in lengths)
    assert (tmp_path / "out.srt").read_text() == as_srt(segments)
    assert len(capsys.readouterr().out.splitlines()) == len(segments)
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.width > 1000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.json", "out.png", "out.srt", "shots.mp4"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--threshold", "2"], "--threshold is 2.0"),
        (["--min-length", "-1"], "--min-length is -1.0"),
        (["--srt", "nowhere/a.srt"], "nowhere/a.srt: there is no folder"),
        (["--picture", "a.txt"], "a picture's name must end in .png"),
        pytest.param(
            ["--every", "0.01", "--seconds", "1"],
            "a.mp4: a window every 0.01 s is more than the 30 frames a second of this video",
            marks=pytest.mark.slow,
        ),
        (["--fps", "25", "--seconds", "1"], "fps is for frames in an array or a folder; a file has its own rate"),
        (["--streaming", "--every", "1"], "--every 1 would have no effect: a stream has the window and the rate"),
        (["--streaming", "--seconds", "1"], "--seconds 1 would have no effect"),
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


def test_a_model_that_states_no_length_needs_one(tmp_path: Path, capsys):
    folder = vov3d.save_pretrained(vov3d.create_model("vov3d_n", num_classes=2), tmp_path / "model")
    video, out = write_video(tmp_path / "a.mp4", num_frames=20), tmp_path / "out.json"
    assert localize.main([str(video), "--model", str(folder), "-o", str(out)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "seconds is None: this model takes its frames from equal segments" in line
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-o", "a.mp4"], "a.mp4: is the file that is read, which would be lost"),
        (["-o", "out.json", "--srt", "a.mp4"], "a.mp4: is the file that is read"),
        (["-o", "out.json", "--checkpoint", "w.pth", "--srt", "w.pth"], "w.pth: is the file that is read"),
        (["-o", "out.json", "--srt", "./out.json"], "out.json: is named for two outputs"),
    ],
)
def test_what_is_read_is_not_overwritten(tmp_path: Path, capsys, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "a.mp4", num_frames=20)
    (tmp_path / "w.pth").touch()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert localize.main(["a.mp4", "--seconds", "0.4", *options]) == 1
    assert message in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    "options",
    [["--seconds", "1"], pytest.param(["--model", "vov3d_n.shapes_stream", "--streaming"], marks=pytest.mark.slow)],
)
def test_frames_of_a_folder_are_as_far_apart_as_said(tmp_path: Path, options):
    (tmp_path / "frames").mkdir()
    for number in range(24):
        Image.new("RGB", (32, 32), (5 * number, 0, 0)).save(tmp_path / "frames" / f"{number:03}.png")
    out = tmp_path / "out.json"
    for more, seconds in ([], 2), (["--fps", "24"], 1):
        assert localize.main([str(tmp_path / "frames"), "-o", str(out), *options, *more, "--threshold", "0"]) == 0
        content = json.loads(out.read_text())
        assert content["duration"] == content["segments"][-1]["end"] == seconds


def test_the_page_shows_what_was_measured():
    page = localized_shapes.PAGE.read_text()
    shown = part_of(page, "localized")
    report = json.loads(localized_shapes.RESULTS.read_text())
    assert shown == localized_shapes.table(report)


def test_frames_have_the_label_of_their_middle():
    found = localized_shapes.frame_labels([Segment(0.1, 0.3, "a", 4, 1), Segment(0.3, 0.449, "b", 5, 1)], 6)
    assert found.tolist() == [-1, 4, 4, 5, -1, -1]


@pytest.mark.slow
def test_scenes_are_several_clips_of_one_motion(tmp_path: Path):
    truth = localized_shapes.write_motions(tmp_path / "a.mp4", 2, seed=0, scenes=True)
    lengths = [round((s.end - s.start) * 10) for s in truth]
    assert all(length % 16 == 0 and 64 <= length <= 128 for length in lengths)
    classifier = VideoClassifier(vov3d.create_model("vov3d_n", pretrained=True))
    report = localized_shapes.measure(classifier, 2, scenes=True, seed=0)
    assert (report["motions"], report["frames"]) == (2, sum(lengths))
    assert all(0 <= share <= 100 for share in report["shares"].values())


@pytest.mark.slow
def test_a_stream_says_which_rate_it_takes_for_clips_of_unknown_length(tmp_path: Path, capsys):
    write_video(tmp_path / "a.mp4", num_frames=60)
    model = vov3d.create_model("vov3d_n", num_classes=2, causal=True)
    vov3d.save_pretrained(model, tmp_path / "mine", label_names=["up", "down"])
    for options, said in ((["--model", str(tmp_path / "mine")], True), ([], False)):
        assert localize.main([str(tmp_path / "a.mp4"), "--streaming", "-o", str(tmp_path / "out.json"), *options]) == 0
        assert ("2 frames/s, as for clips of 4 seconds" in capsys.readouterr().err) is said


@pytest.mark.parametrize("causal", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_stream_takes_every_frame_once(tmp_path, causal):
    video, folder = tmp_path / "motions.mp4", tmp_path / "model"
    truth = localized_shapes.write_motions(video, 2, seed=5)
    vov3d.save_pretrained(vov3d.create_model("vov3d_n", pretrained=True, causal=causal), folder)
    out = tmp_path / "found.json"
    assert localize.main([str(video), "--model", str(folder), "--streaming", "-o", str(out)]) == 0
    found = json.loads(out.read_text())
    assert found["duration"] == pytest.approx(truth[-1].end, abs=0.01)
    assert found["shots"] == pytest.approx([one.start for one in truth])
    steps = [-(-round(10 * (one.end - one.start)) // 2) for one in truth]  # a label for every second frame of each shot
    ends = [window["end"] for window in found["windows"]]
    starts = [window["start"] for window in found["windows"]]
    assert len(ends) == sum(steps)
    assert (max(ends[: steps[0]]), min(starts[steps[0] :])) == pytest.approx((truth[0].end, truth[1].start))
    assert ends[-1] == pytest.approx(truth[-1].end)


@pytest.mark.parametrize(("rate", "taken"), [(15, [0, 3, 5, 8, 10, 13, 15, 18]), (3, [0, 1, 1, 2, 2, 3, 3, 4, 4])])
def test_a_stream_keeps_the_rate_of_the_models_clips(rate, taken):
    classifier = vov3d.StreamClassifier(vov3d.create_model("vov3d_n.shapes_stream", pretrained=True))
    classifier.fps = 6
    frames = make_clip(2, np.random.default_rng(0), taken[-1] + 1)
    expected = classifier.scores_of(list(frames[taken])).numpy()
    classifier.reset()
    found = localize.stream_over(classifier, frames, across_cuts=True, fps=rate)
    assert found.step == pytest.approx(1 / 6)
    np.testing.assert_allclose(found.windows, expected, rtol=1e-3, atol=1e-5)


def test_a_stream_says_how_many_frames_are_missing(tmp_path):
    path = write_video(tmp_path / "cut.mp4", num_frames=30, gop=10, muxer={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    classifier = vov3d.StreamClassifier(vov3d.create_model("vov3d_n.shapes_stream", pretrained=True))
    with pytest.warns(RuntimeWarning, match=r"cut.mp4: \d+ of the 30 frames asked for are missing or damaged"):
        localize.stream_over(classifier, path)


@pytest.mark.slow
def test_a_stream_labels_each_shot_as_if_it_were_alone(tmp_path):
    video = tmp_path / "motions.mp4"
    truth = localized_shapes.write_motions(video, 3, seed=6)
    classifier = vov3d.StreamClassifier(vov3d.create_model("vov3d_n.shapes_stream", pretrained=True))
    found = localize.stream_over(classifier, video)
    with vov3d.video.VideoReader(video) as reader:
        frames = list(reader.read(range(round(truth[1].start * 10), round(truth[1].end * 10), 2)))
    alone = classifier.scores_of(frames).numpy()
    first = -(-round(10 * truth[0].end) // 2)
    np.testing.assert_allclose(found.windows[first : first + len(alone)], alone, rtol=1e-3, atol=1e-5)
    across = localize.stream_over(classifier, video, across_cuts=True)
    assert len(across.windows) == -(-round(10 * truth[-1].end) // 2)
    assert across.shots == [0]


def test_the_page_shows_what_streams_take():
    report = json.loads(streamed_shapes.RESULTS.read_text())
    assert part_of(streamed_shapes.PAGE.read_text(), "streamed") == streamed_shapes.table(report)
