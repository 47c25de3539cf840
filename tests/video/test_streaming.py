"""Many videos, frames that keep coming, and memory that does not grow with a video's length."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.numbered_videos import keep_part, write_pictures, write_video
from helpers.recording_model import CFG, StandIn, frames_of
from helpers.warnings_as_errors import no_warnings
from hypothesis import given, settings
from hypothesis import strategies as st

from vov3d.video import Predictions, VideoClassifier, VideoError, VideoReader, _averaging
from vov3d.video._loading import prefetched, stream_clips


@pytest.fixture
def model() -> StandIn:
    torch.manual_seed(0)
    return StandIn()


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    return [write_video(tmp_path / f"{count}.mp4", num_frames=count, gop=12) for count in (50, 9, 30)]


def test_stream_gives_pairs_in_order(paths: list[Path], model: StandIn) -> None:
    classifier = VideoClassifier(model, views="2x3")
    sources = [*paths, frames_of(paths[0]), paths[1].read_bytes()]
    pairs = list(classifier.stream(iter(sources), topk=2))
    assert [id(source) for source, _ in pairs] == [id(source) for source in sources]
    assert [predictions for _, predictions in pairs] == [classifier(source, topk=2) for source in sources]
    assert list(classifier.stream([])) == []


def test_a_broken_source_raises_at_its_turn_or_is_returned_in_its_place(
    paths: list[Path], model: StandIn, tmp_path: Path
) -> None:
    classifier = VideoClassifier(model)
    sources = [paths[0], tmp_path / "none.mp4", np.zeros((4, 8, 8), np.uint8), paths[1]]
    found = classifier.stream(sources)
    assert next(found)[0] == paths[0]
    with pytest.raises(VideoError, match=r"none\.mp4: no such file"):
        next(found)
    results = [result for _, result in classifier.stream(sources, errors="return")]
    assert [type(result) for result in results] == [Predictions, VideoError, ValueError, Predictions]
    assert results[3] == classifier(paths[1])
    with pytest.raises(ValueError, match="errors is 'ignore'"):
        classifier.stream(sources, errors="ignore")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="topk is 0"):
        classifier.stream(sources, topk=0)


def test_the_next_video_is_decoded_while_one_is_computed(paths: list[Path], model: StandIn) -> None:
    opened = threading.Event()

    def sources() -> Iterator[Path]:
        yield paths[0]
        opened.set()
        yield paths[1]

    plain = model.forward_dense

    def waiting(x: torch.Tensor) -> torch.Tensor:
        assert opened.wait(20)  # never set if the second were asked for only after the first
        return plain(x)

    model.forward_dense = waiting  # type: ignore[method-assign]
    assert len(list(VideoClassifier(model).stream(sources()))) == 2


def test_a_stream_that_is_left_ends_its_thread(paths: list[Path], model: StandIn) -> None:
    found = VideoClassifier(model, views="10x3").stream(paths * 10)
    next(found)
    del found
    for _ in range(200):
        if not any(thread.name == "vov3d-decode" for thread in threading.enumerate()):
            return
        time.sleep(0.02)
    raise AssertionError("the thread goes on")


def test_errors_of_the_thread_come_behind_the_items_before_them() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise KeyError("two")

    found = prefetched(items(), 3)
    assert next(found) == 1
    with pytest.raises(KeyError, match="two"):
        next(found)


@given(st.lists(st.lists(st.integers(0, 39), min_size=1, max_size=6).map(sorted), min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_clips_hold_their_frames_and_no_more_are_kept_than_needed(plan: list[list[int]]) -> None:
    frames = torch.arange(40, dtype=torch.uint8).view(40, 1, 1, 1).expand(40, 3, 2, 2).contiguous()
    clips = sorted({tuple(clip) for clip in plan})
    with VideoReader(frames) as reader:
        found = dict(stream_clips(reader, clips, lambda frame: frame))
    assert set(found) == set(clips)
    assert all(found[clip][:, 0, 0, 0].tolist() == list(clip) for clip in clips)


def test_frames_are_freed_when_no_clip_needs_them(tmp_path: Path) -> None:
    import weakref

    alive: list[weakref.ref] = []

    def noted(frame: torch.Tensor) -> torch.Tensor:
        copy = frame.clone()
        alive.append(weakref.ref(copy))
        return copy

    clips = [tuple(range(start, start + 8, 2)) for start in range(0, 200, 10)]
    most = 0
    with VideoReader(np.zeros((220, 8, 8, 3), np.uint8)) as reader:
        for _ in stream_clips(reader, clips, noted):
            most = max(most, sum(ref() is not None for ref in alive))
    assert most <= 5


def test_crops_share_the_memory_of_their_clip(model: StandIn) -> None:
    transform = VideoClassifier(model, views="1x3")._transform
    frames = torch.zeros(4, 3, 32, 60, dtype=torch.uint8)
    memory = frames.untyped_storage().data_ptr()
    assert all(crop.untyped_storage().data_ptr() == memory for crop in transform.cut(frames))


def test_views_at_once_follow_memory(monkeypatch: pytest.MonkeyPatch, model: StandIn) -> None:
    view = 1 << 20
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    for free, on_gpu, on_cpu in ((1 << 20, 1, 1), (480 << 20, 10, 2), (1 << 40, 64, 2)):
        monkeypatch.setattr(_averaging, "free_bytes", lambda device, free=free: free)
        assert _averaging.views_at_once(view, gpu) == on_gpu
        assert _averaging.views_at_once(view, cpu) == on_cpu
    assert VideoClassifier(model).views_at_once() == 2
    assert VideoClassifier(model, batch_size=7).views_at_once() == 7


def test_free_memory_is_read() -> None:
    assert 1 << 20 < _averaging.free_bytes(torch.device("cpu")) < 1 << 50


@pytest.mark.parametrize(("hop", "fps", "stride"), [(1, 30, 2), (3, 30, 2), (5, 25, 3), (20, 60, 1.5), (2, 30, 0.5)])
@pytest.mark.parametrize("views", ["1x1", "1x3"])
def test_a_window_equals_a_call_on_its_frames(hop: int, fps: float, stride: float, views: str) -> None:
    torch.manual_seed(0)
    model = StandIn(frame_stride=stride)
    classifier = VideoClassifier(model, views=views)
    frames = torch.randint(0, 256, (60, 40, 50, 3), dtype=torch.uint8)
    length = max(int(np.ceil(stride * 4 * fps / 30)), 1)
    labels = list(classifier.window(iter(frames), hop=hop, fps=fps))
    assert [at for at, _ in labels] == list(range(length - 1, 60, hop))
    for at, predictions in labels:
        expected = classifier(frames[at + 1 - length : at + 1], fps=fps)
        assert [p.index for p in predictions] == [p.index for p in expected]
        assert [p.score for p in predictions] == pytest.approx([p.score for p in expected], abs=1e-6)


def test_a_window_over_segments_takes_its_length(model: StandIn) -> None:
    segments = StandIn(sampling="segment")
    frames = np.random.default_rng(0).integers(0, 256, (40, 3, 40, 50), np.uint8)
    labels = list(VideoClassifier(segments).window(frames, hop=10, fps=10, seconds=2))
    assert [at for at, _ in labels] == [19, 29, 39]
    assert labels[1][1][0].score == pytest.approx(VideoClassifier(segments)(frames[10:30])[0].score, abs=1e-6)
    with pytest.raises(ValueError, match="say how long the window is"):
        VideoClassifier(segments).window(frames, hop=10)
    with pytest.raises(ValueError, match="hop is 1.5: it must be a whole number of frames"):  # labels at every third
        VideoClassifier(segments).window(frames, hop=1.5, seconds=2)
    with pytest.raises(ValueError, match="seconds=2 would have no effect.*0.266667 seconds by its stride of 2"):
        VideoClassifier(model).window(frames, hop=10, seconds=2)


def test_window_works_only_on_new_frames_that_count(model: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = VideoClassifier(model)  # 4 frames, stride 2: a window of 8 frames
    resized: list[int] = []
    plain = classifier._transform.resize

    def spied(frames: torch.Tensor) -> torch.Tensor:
        resized.append(len(frames))
        return plain(frames)

    monkeypatch.setattr(classifier._transform, "resize", spied)
    assert len(list(classifier.window(np.zeros((80, 40, 40, 3), np.uint8), hop=1))) == 73
    assert sum(resized) == 80
    resized.clear()
    assert len(list(classifier.window(np.zeros((80, 40, 40, 3), np.uint8), hop=40))) == 2
    assert sum(resized) == 8


@pytest.mark.parametrize(
    ("settings", "frames", "cause"),
    [
        ({"hop": 0}, np.zeros((9, 8, 8, 3), np.uint8), "hop is 0"),
        ({"hop": 1, "fps": 0}, np.zeros((9, 8, 8, 3), np.uint8), "fps 0 must"),
        ({"hop": 1}, np.zeros((7, 8, 8, 3), np.uint8), "the frames ended after 7; a window takes 8"),
        ({"hop": 1}, np.zeros((9, 8, 8, 3), np.float32), "frame 0: expected uint8"),
        ({"hop": 1}, [np.zeros((8, 8, 3), np.uint8), np.zeros((9, 8, 3), np.uint8)], "frame 1 is .3, 9, 8., those"),
        ({"hop": 1, "topk": 0}, [], "topk is 0"),
    ],
)
def test_bad_windows_are_refused(model: StandIn, settings: dict, frames, cause: str) -> None:
    with pytest.raises(ValueError, match=cause):
        list(VideoClassifier(model).window(frames, **settings))


def test_a_window_is_one_clip(model: StandIn) -> None:
    with pytest.raises(ValueError, match="views has 10"):
        VideoClassifier(model, views="10x3").window([], hop=1)


def test_stride_and_frames_replace_the_models_own(paths: list[Path], model: StandIn) -> None:
    changed = StandIn(frame_stride=6)
    changed.load_state_dict(model.state_dict())
    assert torch.equal(VideoClassifier(model, stride=6).scores(paths[0]), VideoClassifier(changed).scores(paths[0]))
    assert not torch.equal(VideoClassifier(model).scores(paths[0]), VideoClassifier(changed).scores(paths[0]))
    longer = StandIn(num_frames=6)
    longer.pretrained_cfg = CFG
    VideoClassifier(longer, num_frames=6).scores(paths[0])
    assert longer.seen[0].shape[2] == 6


@pytest.mark.parametrize(
    ("sampling", "settings", "cause"),
    [
        ("segment", {"stride": 2}, "stride=2 would have no effect.*4 frames from equal segments"),
        ("dense", {"stride": 0}, "stride 0 must be positive"),
        ("dense", {"num_frames": 0}, "num_frames is 0"),
        ("dense", {"backend": "opencv"}, "backend 'opencv' is not known"),
    ],
)
def test_settings_without_effect_or_sense(sampling: str, settings: dict, cause: str) -> None:
    with pytest.raises(ValueError, match=cause):
        VideoClassifier(StandIn(sampling=sampling), **settings)


def test_a_cut_file_is_labelled_and_the_missing_frames_reported(tmp_path: Path, model: StandIn) -> None:
    path = keep_part(write_video(tmp_path / "a.mp4", muxer={"movflags": "faststart"}, gop=12), 0.6)
    with pytest.warns(RuntimeWarning, match=rf"{path}: \d+ of the \d+ frames asked for are missing"):
        assert len(VideoClassifier(model, views="10x1")(path)) == 5


@pytest.mark.parametrize("shape", [(1, 8000), (8000, 1)])
def test_frames_too_long_to_resize_are_refused(tmp_path: Path, model: StandIn, shape: tuple[int, int]) -> None:
    path = write_pictures(tmp_path / "a.mov", [np.zeros((*shape, 3), np.uint8)] * 3)
    with pytest.raises(VideoError, match=r"a\.mov: frames of \d+x\d+ pixels would become \d+x\d+ by resizing"):
        VideoClassifier(model)(path)


@pytest.mark.parametrize("count", [1, 2])
def test_few_and_tiny_frames_are_labelled(tmp_path: Path, model: StandIn, count: int) -> None:
    path = write_pictures(tmp_path / "a.mov", [np.full((1, 1, 3), 90, np.uint8)] * count)
    with no_warnings():
        assert len(VideoClassifier(model, views="2x3")(path)) == 5
