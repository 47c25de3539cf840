"""The classifier gives the model the right views and averages its scores."""

import base64
import io
import pickle
import re
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.numbered_videos import frame_numbers, write_video
from helpers.recording_model import CFG, StandIn, frames_of
from PIL import Image
from torch import nn

import vov3d
from vov3d.video import (
    Prediction,
    Section,
    VideoClassifier,
    VideoError,
    VideoReader,
    eval_transform,
    plan_clips,
    segment_indices,
)
from vov3d.video.decoders.pyav import PyAVFrames
from vov3d.video.picture import draw_result


@pytest.fixture
def model() -> StandIn:
    torch.manual_seed(0)
    return StandIn().train()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_video(tmp_path / "a.mp4", num_frames=50, gop=12)


def expected(model: StandIn, source, clips: int, crops: int, fps: float | None = None) -> torch.Tensor:
    transform = eval_transform(model.pretrained_cfg, crops)
    with VideoReader(source, fps=fps) as reader:
        views = [transform(reader.read(clip)) for clip in plan_clips(model.pretrained_cfg, reader, clips)]
    with torch.inference_mode():
        return model.eval().forward_dense(torch.cat(views)).mean(0)


@pytest.mark.parametrize("views", ["1x1", "10x3", "2x3"])
@pytest.mark.parametrize("sampling", ["dense", "segment"])
def test_scores_are_the_mean_over_views(path: Path, views: str, sampling: str) -> None:
    torch.manual_seed(0)
    model = StandIn(sampling=sampling)
    clips, crops = map(int, views.split("x"))
    scores = VideoClassifier(model, views=views, batch_size=4).scores(path)
    assert scores.shape == (7,)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, expected(model, path, clips, crops))


def test_batches_hold_all_views_once(path: Path, model: StandIn) -> None:
    VideoClassifier(model, views="10x3", batch_size=4).scores(path)
    assert [len(batch) for batch in model.seen] == [4] * 7 + [2]
    assert model.seen[0].shape == (4, 3, 4, 32, 32)


def test_equal_clips_are_computed_once_and_weighed(path: Path) -> None:
    same = StandIn()
    VideoClassifier(same, views="10x1").scores(frames_of(path)[:4])  # one clip as it is
    assert [len(batch) for batch in same.seen] == [1]
    short = StandIn()  # 9 frames, span 8: starts 0, 0.1, ... give a few different clips, not equally often
    frames = frames_of(path)[:9]
    scores = VideoClassifier(short, views="10x1").scores(frames)
    assert 1 < sum(map(len, short.seen)) < 10
    torch.testing.assert_close(scores, expected(short, frames, 10, 1))


def test_each_frame_is_decoded_once(path: Path, model: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[int]] = []
    plain = PyAVFrames.frames

    def spied(self, targets):
        asked.append(list(targets))
        return plain(self, asked[-1])

    monkeypatch.setattr(PyAVFrames, "frames", spied)
    VideoClassifier(model, views="10x3").scores(path)
    assert len(asked) == 1
    assert len(asked[0]) == len(set(asked[0]))


def test_variable_rate_is_sampled_by_time(tmp_path: Path) -> None:
    times = [20 * i for i in range(40)] + [800 + 200 * i for i in range(10)]
    path = write_video(tmp_path / "v.mkv", times_ms=times)
    model = StandIn(input_size=(3, 64, 64), test_input_size=(3, 64, 64), mean=(0, 0, 0), std=(1, 1, 1), frame_stride=20)
    VideoClassifier(model, views="1x3", batch_size=3).scores(path)
    left, _, right = model.seen[0].transpose(1, 2) * 255  # 64 of 96 columns each, which overlap in the middle 32
    assert frame_numbers(torch.cat([left, right[..., 32:]], -1)) == [0, 33, 43, 46]  # 0, 667, 1333 and 2000 ms


def test_clips_do_not_jump_over_a_pause(tmp_path: Path) -> None:
    times = [round(1000 * (i + 1710 * (i >= 90)) / 30) for i in range(180)]  # 3 seconds, a pause of 57, 3 seconds
    model = StandIn(num_frames=16, frame_stride=5)
    result = VideoClassifier(model, views="10x1").result(write_video(tmp_path / "a.mkv", times_ms=times))
    assert result.clips[0] == pytest.approx([i / 6 for i in range(16)], abs=2e-3)  # frames 0, 5, 10, ..., 75
    assert len({tuple(clip) for clip in result.clips}) < 10  # in the pause all are the same


def test_clips_of_segments_repeat_wherever_the_file_lies(path: Path, tmp_path: Path) -> None:
    model = StandIn(sampling="segment", num_frames=8)
    classifier = VideoClassifier(model, views="3x1")
    result = classifier.result(path)
    assert len({tuple(clip) for clip in result.clips}) == 3
    (tmp_path / "elsewhere").mkdir()
    copy = tmp_path / "elsewhere" / "another name.mp4"
    copy.write_bytes(path.read_bytes())
    for again in (path, copy, path.read_bytes()):
        assert classifier.result(again).clips == result.clips
    other = write_video(tmp_path / "b.mp4", num_frames=50, gop=25)
    assert classifier.result(other).clips != result.clips
    with VideoReader(path) as reader:
        middle = [reader.timestamps[index] for index in segment_indices(50, 8)]
    assert VideoClassifier(model).result(path).clips == [middle]


@pytest.mark.parametrize("antialias", [True, False])
def test_antialias_reaches_the_frames(path: Path, antialias: bool) -> None:
    model = StandIn()
    frames = frames_of(path)[:4]
    VideoClassifier(model, antialias=antialias).scores(frames)
    assert torch.equal(model.seen[0], eval_transform(CFG, antialias=antialias)(frames))
    assert not torch.equal(model.seen[0], eval_transform(CFG, antialias=not antialias)(frames))


def test_predictions_are_sorted_and_named(path: Path, model: StandIn) -> None:
    names = [f"name {i}" for i in range(7)]
    classifier = VideoClassifier(model, class_names=names)
    best = classifier(path, topk=3)
    scores = classifier.scores(path)
    assert best == [Prediction(int(i), names[int(i)], float(scores[i])) for i in scores.argsort(descending=True)[:3]]
    assert len(classifier(path, topk=100)) == 7
    assert classifier(str(path), topk=3) == best
    assert sum(p.score for p in classifier(path, topk=7)) == pytest.approx(1)


def test_names_default_to_numbers_or_the_label_set(model: StandIn) -> None:
    assert VideoClassifier(model).class_names[3] == "class 3"
    labelled = StandIn(400, label_set="k400")
    assert VideoClassifier(labelled).class_names[0] == "abseiling"
    assert VideoClassifier(labelled, class_names=["x"] * 400).class_names[0] == "x"


@pytest.mark.parametrize("count", [4, 5, 50])
def test_frames_of_every_form_agree(path: Path, model: StandIn, count: int) -> None:
    frames = frames_of(path)[:count]
    classifier = VideoClassifier(model, views="2x3")
    last = frames.permute(0, 2, 3, 1)
    forms = [frames, frames.numpy(), last, last.contiguous().numpy(), last.numpy()[:, :, ::1]]
    results = [classifier.scores(form) for form in forms]
    assert all(torch.equal(result, results[0]) for result in results)
    if count == 50:
        assert torch.equal(results[0], classifier.scores(path))


def test_a_whole_clip_is_taken_as_it_is(path: Path, model: StandIn) -> None:
    frames = frames_of(path)[[3, 30, 10, 20]]
    VideoClassifier(model, views="10x1").scores(frames, fps=7)
    (view,) = model.seen
    assert torch.equal(view, eval_transform(CFG)(frames))


def test_fps_of_an_array_counts(path: Path, model: StandIn) -> None:
    frames = frames_of(path)
    scores = VideoClassifier(model).scores(frames, fps=60)
    torch.testing.assert_close(scores, expected(model, frames, 1, 1, fps=60))
    assert not torch.equal(scores, VideoClassifier(model).scores(frames))
    for rate in (Fraction(60), np.float32(60), torch.tensor(60.0), Rate()):
        assert torch.equal(VideoClassifier(model).scores(frames, fps=rate), scores)


class Rate:
    """A number such as those in which PyAV gives rates, which Python's own kinds of numbers do not include."""

    def __float__(self) -> float:
        return 60.0


def test_lists_give_lists(path: Path, model: StandIn) -> None:
    classifier = VideoClassifier(model)
    frames = frames_of(path)
    assert classifier([path, frames], topk=2) == [classifier(path, topk=2), classifier(frames, topk=2)]
    assert classifier([]) == []


def test_precision_of_the_model_is_kept(path: Path, model: StandIn) -> None:
    exact = VideoClassifier(model).scores(path)
    scores = VideoClassifier(model.bfloat16()).scores(path)
    assert model.seen[-1].dtype == torch.bfloat16
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, exact, atol=0.05, rtol=0)


def test_progress_is_silent_in_pipes(path: Path, model: StandIn, monkeypatch, capfd) -> None:
    quick = VideoClassifier(model, views="2x1").scores(path)
    monkeypatch.setattr(model, "forward_dense", _slow(model.forward_dense))
    slow = VideoClassifier(model, views="2x1", batch_size=1, progress=True).scores(path)
    torch.testing.assert_close(slow, quick)
    assert capfd.readouterr() == ("", "")


def _slow(function):
    def slowed(x: torch.Tensor) -> torch.Tensor:
        time.sleep(0.6)  # a bar shows itself after a second
        return function(x)

    return slowed


def test_broken_file_is_named(tmp_path: Path, model: StandIn) -> None:
    with pytest.raises(VideoError, match=r"absent\.mp4: no such file"):
        VideoClassifier(model)(tmp_path / "absent.mp4")


@pytest.mark.parametrize(
    ("settings", "cause"),
    [
        ({"views": "1x2"}, "CLIPSxCROPS"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"class_names": ["a", "b"]}, "must be 7 names.*got 2"),
        ({"class_names": "abcdefg"}, "must be 7 names"),
        ({"class_names": dict(enumerate("abcdefg"))}, "must be 7 names, one a class of the model; got a dict"),
        ({"class_names": range(7)}, "class_names must be texts, in index order, got 0"),
        ({"class_names": set("abcdefg")}, "must be 7 names.*got a set, not a list of them in index order"),
        ({"views": (2, 3)}, r"views \(2, 3\) cannot be read: give CLIPSxCROPS"),
        ({"batch_size": 1.5}, "batch_size is 1.5: .* a whole number"),
        ({"num_frames": 4.5}, "num_frames is 4.5: .* a whole number"),
        ({"stride": "2"}, "stride '2' must be positive"),
    ],
)
def test_bad_settings_are_refused(model: StandIn, settings: dict, cause: str) -> None:
    with pytest.raises(ValueError, match=cause):
        VideoClassifier(model, **settings)


def test_outputs_that_are_not_finite_are_no_prediction() -> None:
    model = vov3d.create_model("vov3d_n", num_classes=3)
    torch.nn.init.constant_(model.head.fc.bias, float("nan"))
    frames = np.zeros((8, 64, 64, 3), np.uint8)
    with pytest.raises(ValueError, match=r"<frames 8x64x64x3>: the outputs of the model are not finite \(NaN\)"):
        VideoClassifier(model)(frames)
    (result,) = VideoClassifier(model).results([frames], errors="return")
    assert (result.predictions, result.scores) == ([], None)
    assert "not finite" in str(result.error)


@pytest.mark.parametrize("pool", ["max", "catavgmax"])
def test_networks_that_pool_otherwise_give_the_scores_of_their_logits(pool: str) -> None:
    model = vov3d.create_model("vov3d_n", num_classes=3, global_pool=pool).eval()
    frames = torch.randint(0, 256, (8, 3, 64, 64), dtype=torch.uint8)
    clip = eval_transform(model.pretrained_cfg)(frames)
    with torch.no_grad():
        wanted = model(clip)[0].softmax(0)
    torch.testing.assert_close(VideoClassifier(model).scores(frames), wanted)


def test_unfit_models_are_refused() -> None:
    headless = StandIn()
    headless.num_classes = 0
    with pytest.raises(ValueError, match="no classes"):
        VideoClassifier(headless)
    with pytest.raises(ValueError, match=r"StandIn.pretrained_cfg lacks mean, std"):
        VideoClassifier(StandIn(mean=None, std=None))
    with pytest.raises(ValueError, match=r"DataParallel.pretrained_cfg lacks .*: give the network inside it, .module"):
        VideoClassifier(nn.DataParallel(vov3d.create_model("vov3d_n", device="meta")))
    with pytest.raises(ValueError, match=r"Linear.pretrained_cfg lacks num_frames"):
        VideoClassifier(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="StreamingNetwork is a stream, .*: label videos as they run with"):
        VideoClassifier(vov3d.streaming(vov3d.create_model("vov3d_n")))


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        (np.zeros((4, 32, 32, 3), np.float32), "got float32 of shape (4, 32, 32, 3)"),
        (torch.zeros(4, 3, 32, 32), "got torch.float32 of shape (4, 3, 32, 32)"),
        (np.zeros((32, 32, 3), np.uint8), "got uint8 of shape (32, 32, 3)"),
        (np.zeros((4, 32, 32, 1), np.uint8), "(4, 32, 32, 1)"),
        (np.zeros((0, 32, 32, 3), np.uint8), "got none"),
        (7, "got int"),
        ([np.zeros((32, 32, 3), np.float32)] * 4, "got torch.float32 of shape (4, 32, 32, 3)"),
        ([np.zeros((32, 32, 3), np.uint8), np.zeros((32, 31, 3), np.uint8)], "frame 1 of the list is torch.uint8 of"),
        ([np.zeros((32, 32, 3), np.uint8), torch.zeros(32, 32, 3)], "frame 1 of the list is torch.float32 of"),
    ],
)
def test_unfit_frames_are_refused(model: StandIn, source, cause: str) -> None:
    with pytest.raises(ValueError, match=re.escape(cause)):
        VideoClassifier(model)(source)


def test_settings_without_effect_or_sense_are_refused(path: Path, model: StandIn) -> None:
    with pytest.raises(ValueError, match=r"a\.mp4: fps is for frames in an array"):
        VideoClassifier(model)(path, fps=25)
    for topk in (0, 1.5, "3"):
        with pytest.raises(ValueError, match=f"topk is {topk!r}"):
            VideoClassifier(model)(path, topk=topk)
    with pytest.raises(ValueError, match="fps '30' must be positive"):
        VideoClassifier(model)(frames_of(path), fps="30")


@pytest.mark.parametrize("call", ["stream", "results", "embeddings"])
@pytest.mark.parametrize(
    "kind", [str, Path, Section, lambda path: path.read_bytes()], ids=["str", "Path", "part", "bytes"]
)
def test_one_video_in_place_of_several_is_refused(path: Path, model: StandIn, call: str, kind) -> None:
    with pytest.raises(ValueError, match=r"expected several videos, got one, .*; give a list of them"):
        getattr(VideoClassifier(model), call)(kind(path))


# --- notebooks -------------------------------------------------------------------------------------------------------


def test_single_frames_are_one_video(path: Path, model: StandIn) -> None:
    classifier = VideoClassifier(model)
    frames = frames_of(path)
    expected = classifier(frames)
    arrays = [frame.permute(1, 2, 0).contiguous().numpy() for frame in frames]
    forms = [arrays, tuple(arrays), list(frames), [frame.permute(1, 2, 0) for frame in frames]]
    forms.append([Image.fromarray(array) for array in arrays])
    for form in forms:  # other layouts in memory add up in another order
        found = classifier(form)
        assert [p.index for p in found] == [p.index for p in expected]
        assert [p.score for p in found] == pytest.approx([p.score for p in expected], abs=1e-5)
    (_, streamed), _ = classifier.stream([arrays, path])
    assert streamed == classifier.result(arrays).predictions
    with VideoReader(arrays, fps=10) as reader:
        assert (reader.path, reader.num_frames, reader.fps) == ("<50 frames>", 50, 10)


def test_predictions_are_a_table(path: Path, model: StandIn) -> None:
    names = ["<b>bold</b>", *"bcdefg"]
    predictions = VideoClassifier(model, class_names=names)(path, topk=7)
    assert isinstance(predictions, list)
    assert str(predictions).splitlines() == [f"{100 * p.score:5.1f}%  {p.label}" for p in predictions]
    table = predictions._repr_html_()
    assert table.count("<tr>") == 8
    assert "&lt;b&gt;bold&lt;/b&gt;" in table
    assert "<b>" not in table


def picture_in(html: str) -> Image.Image:
    (data,) = re.findall(r'<img src="data:image/jpeg;base64,([^"]+)"', html)
    return Image.open(io.BytesIO(base64.b64decode(data)))


HOSTILE = "<img src=x onerror=alert(1)>\"'&"


def test_a_notebook_shows_the_frames_beside_the_labels(path: Path, model: StandIn, tmp_path: Path) -> None:
    classifier = VideoClassifier(model, class_names=[HOSTILE, *"bcdefg"])
    result = classifier.result(path, topk=7)
    for shown in (classifier(path, topk=7), result):
        html = shown._repr_html_()
        assert picture_in(html).size == (4 * 100 - 4, 96)
        assert html.count("<img ") == 1
        assert "onerror=alert(1)&gt;&quot;&#x27;&amp;" in html
        assert len(html) < 40_000
    assert path.name in result._repr_html_()
    hostile = path.rename(path.with_name("<b>clip.mp4"))
    assert "&lt;b&gt;clip" in classifier.result(hostile)._repr_html_()
    (broken,) = classifier.results([tmp_path / "<i>none.mp4"], errors="return")
    assert "no such file" in broken._repr_html_()
    assert "<i>" not in broken._repr_html_()


def test_frames_of_predictions_stay_out_of_lists_and_pickles(path: Path, model: StandIn) -> None:
    classifier = VideoClassifier(model)
    one = classifier(path)
    assert one.frames.shape == (4, 3, 32, 32)
    (listed,) = classifier([path])
    again = pickle.loads(pickle.dumps(one))
    assert (listed.frames, again.frames) == (None, None)
    assert one == listed == again
    assert type(again) is type(one)
    assert "<img" not in listed._repr_html_()


def test_a_result_is_drawn_as_a_picture(path: Path, model: StandIn, tmp_path: Path) -> None:
    classifier = VideoClassifier(model)
    result = classifier.result(path)
    assert draw_result(result).width == 1080
    assert len(repr(result)) < 1000
    (broken,) = classifier.results([tmp_path / "none.mp4"], errors="return")
    assert "no such file" in repr(broken)


def test_a_classifier_describes_itself(model: StandIn) -> None:
    assert repr(VideoClassifier(model, views="10x3")) == (
        "VideoClassifier(StandIn: 7 classes, 10x3 views of 4 frames every 2 at 30 fps, 32x32 pixels, on cpu)"
    )
    packaged = repr(VideoClassifier("vov3d_n"))
    assert packaged.startswith("VideoClassifier(vov3d_n.shapes_f8: 20 classes, 1x1 views of 8 frames in equal segments")


def test_a_name_loads_a_model_with_its_weights() -> None:
    clip = np.random.default_rng(0).integers(0, 255, (8, 64, 64, 3), np.uint8)
    model = vov3d.create_model("vov3d_n", pretrained=True)
    assert VideoClassifier("vov3d_n")(clip) == VideoClassifier(model)(clip)
    with pytest.raises(ValueError, match=r"m\.onnx is an exported file: load it with vov3d\.load_exported"):
        VideoClassifier("m.onnx")
    with pytest.raises(ValueError, match="vov3d has no model 'vov3d_q'"):
        VideoClassifier("vov3d_q")
