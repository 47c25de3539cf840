"""The head that finds segments: what it is taught, what it keeps to, and its command from features to mAP."""

import itertools
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import localized_segments
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pages import part_of
from PIL import Image
from reference import localize
from reference.localization import shapes
from reference.localization.annotations import read_annotations
from reference.localization.features import Video, check_backbone, matched, read_features
from reference.localization.metrics import Truth, overlaps
from reference.localization.model import Head, Settings, find, load_head, read_results, thinned
from reference.localization.shapes import make_video, write_shapes
from reference.localization.training import targets_of

import vov3d
from vov3d.video import VideoClassifier, VideoReader
from vov3d.weights.state_dict import digest

ABOUT = {
    "model": "vov3d_n", "tag": "shapes_f8", "weights": "vov3d_n", "dimension": "6", "vector": "made up",
    "views": "1x1", "sampling": "8 frames, in equal segments", "every": "0.5", "window": "1", "cuts": "kept",
}  # fmt: skip
LABELS = ("jump", "run")


def made_up(seed: int, name: str) -> tuple[Video, list[dict]]:
    """Features of a minute in four shots; a channel of each class is on while it happens, others are noise."""
    rng = np.random.default_rng(seed)
    edges = [0.0, *sorted(rng.choice(np.arange(10, 50), 3, replace=False).tolist()), 60.0]
    times, shots = list[float](), list[tuple[float, float]]()
    for start, end in itertools.pairwise(edges):
        here = np.arange(start + 0.5, end - 0.4, 0.5).tolist()
        times, shots = times + here, shots + [(start, end)] * len(here)
    vectors = rng.normal(0, 0.3, (len(times), 6)).astype(np.float32)
    found = []
    for start in (2.0, 14.0, 27.0, 41.0, 52.0):
        label, length = int(rng.integers(2)), float(rng.uniform(2, 6))
        found.append({"label": LABELS[label], "segment": [start, start + length]})
        vectors[(np.array(times) >= start) & (np.array(times) <= start + length), label] += 3
    return Video(f"films/{name}.mp4", np.array(times), np.array(shots), vectors), found


def write_features(path: Path, videos: list[Video], **change: str) -> Path:
    counts = [len(video.times) for video in videos]
    shots = np.concatenate([video.shots for video in videos])
    np.savez(
        path,
        paths=np.repeat(np.array([video.path for video in videos]), counts),
        times=np.concatenate([video.times for video in videos]),
        shot_starts=shots[:, 0],
        shot_ends=shots[:, 1],
        vectors=np.concatenate([video.vectors for video in videos]),
        **{**ABOUT, **change},
    )
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Features and annotations of ten videos, and a head that was trained on six of them."""
    folder = tmp_path_factory.mktemp("data")
    videos, database = [], {}
    for number in range(10):
        video, found = made_up(number, f"v_{number}")
        videos.append(video)
        subset = "training" if number < 6 else "validation"
        database[str(number)] = {"duration": 60, "subset": subset, "annotations": found}
    write_features(folder / "features.npz", videos)
    (folder / "truth.json").write_text(json.dumps({"database": database}))
    argv = ["--features", str(folder / "features.npz"), "--annotations", str(folder / "truth.json"), "--device", "cpu"]
    assert localize.main(["train", *argv, "--output", str(folder / "head"), "--epochs", "40", "--lr", "0.005"]) == 0
    return folder


def arguments(data: Path, *more: str, **change: Path) -> list[str]:
    files = {"features": data / "features.npz", "annotations": data / "truth.json", "model": data / "head"} | change
    return [word for name, path in files.items() for word in (f"--{name}", str(path))] + [*more, "--device", "cpu"]


def table(text: str) -> list[float]:
    return [float(value) for value in text.splitlines()[-1].split()[1:]]


def test_segments_rank_by_their_whole_scores():
    """A sure head's scores differ in the sixth digit and behind it."""

    class Sure:
        mean, settings = torch.zeros(1), SimpleNamespace(labels=("a",))

        def __call__(self, features, edges, there):
            return features, torch.full((*features.shape[:2], 2), 0.4)

    logits = np.array([[12.0], [14.0], [13.0], [15.0]], np.float32)
    video = Video("v.mp4", np.arange(4) + 0.5, np.array([[0.0, 4.0]] * 4), logits)
    found = find(Sure(), video, "v")
    assert [int(one.start) for one in found] == [3, 1, 2, 0]
    assert len({one.score for one in found}) == 4


@pytest.mark.slow
def test_it_finds_what_is_plain_to_see(data, capsys, tmp_path):
    out = tmp_path / "found.json"
    assert localize.main(["evaluate", *arguments(data, "--output", str(out))]) == 0
    measured = table(capsys.readouterr().out)
    assert len(measured) == 6
    assert measured[0] > 85  # segments lie across cuts, too, of which each shot has but a part
    found = read_results(out)
    assert {one.video for one in found} == set("6789")
    assert all(0 <= one.start < one.end <= 60 for one in found)
    assert localize.main(["evaluate", "--found", str(out), "--annotations", str(data / "truth.json")]) == 0
    assert table(capsys.readouterr().out) == measured
    results = json.loads(out.read_text())
    results["results"]["6"][0]["label"] = results["results"]["7"][0]["label"] = "Jump"
    results["results"]["elsewhere"] = results["results"].pop("9")
    out.write_text(json.dumps(results))
    assert localize.main(["evaluate", "--found", str(out), "--annotations", str(data / "truth.json")]) == 0
    text = capsys.readouterr().out
    assert "2 segments found are of classes that the annotations do not hold, and do not count" in text
    assert "what is found in 1 videos that are not of the subset is left out" in text
    assert table(text)[-1] < measured[-1]
    assert localize.main(["evaluate", *arguments(data, "--subset", "training")]) == 0
    assert "30 segments of 2 classes" in capsys.readouterr().out


def test_overlaps_that_are_asked_for_and_weights_that_differ(data, capsys, tmp_path):
    other = write_features(tmp_path / "f.npz", read_features(data / "features.npz").videos, weights="other.pth")
    argv = arguments(data, "--tiou", "0.5", "0.55", "0.95", features=other)
    assert localize.main(["evaluate", *argv]) == 0
    text = capsys.readouterr().out
    assert f"f.npz is of weights other.pth, {data / 'head'} of vov3d_n: they must be the same ones" in text
    assert text.splitlines()[-2].split() == ["tIoU", "0.5", "0.55", "0.95", "mean"]
    measured = table(text)
    assert len(measured) == 4
    assert measured[0] >= measured[1] >= measured[2]
    for share in ("50", "0", "half"):
        with pytest.raises(SystemExit):
            localize.main(["evaluate", *arguments(data, "--tiou", share)])
        assert f"{share!r} is no overlap" in capsys.readouterr().err


def test_results_under_the_names_of_files_are_those_of_the_videos(data, capsys, tmp_path):
    out = tmp_path / "found.json"
    evaluate = ["evaluate", "--found", str(out), "--annotations", str(data / "truth.json")]
    assert localize.main(["evaluate", *arguments(data, "--output", str(out))]) == 0
    measured, content = table(capsys.readouterr().out), json.loads(out.read_text())
    content["results"] = {f"v_{name}": segments for name, segments in content["results"].items()}
    out.write_text(json.dumps(content))
    assert localize.main(evaluate) == 0
    assert table(capsys.readouterr().out) == measured
    content["results"] = {name[1:]: segments for name, segments in content["results"].items()}
    out.write_text(json.dumps(content))
    assert localize.main(evaluate) == 1
    assert "has results for _6 and other videos, none of them of the 4 of the annotations, such as 6" in (
        capsys.readouterr().err
    )


def test_names_of_files_are_matched_to_one_video_each():
    assert matched(["v_a", "b", "v_b"], ["a", "b", "c"]) == {"a": "v_a", "b": "b"}
    assert matched(["v_a"], ["a", "v_a"]) == {"v_a": "v_a"}


@pytest.mark.parametrize("name", ["truth.json", "features.npz", "lists/run_test.txt"])
def test_what_is_measured_is_not_overwritten(data, capsys, tmp_path, name):
    for file in ("truth.json", "features.npz"):
        shutil.copy(data / file, tmp_path)
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "run_test.txt").write_text("v_6 1 4\n")
    out = tmp_path / name
    before = out.read_bytes()
    annotations = out.parent if name.startswith("lists") else tmp_path / "truth.json"
    argv = arguments(data, "--output", str(out), annotations=annotations, features=tmp_path / "features.npz")
    assert localize.main(["evaluate", *argv]) == 1
    assert "is the file that is read, which would be lost" in capsys.readouterr().err
    assert out.read_bytes() == before


def test_no_segment_lies_across_a_cut(data):
    head = load_head(data / "head")
    for video in read_features(data / "features.npz").videos:
        shots = np.unique(video.shots, axis=0)
        for one in find(head, video, video.name):
            inside = (shots[:, 0] - 1e-3 <= one.start) & (one.end <= shots[:, 1] + 1e-3)
            assert inside.any()


def test_parquet_is_read_alike(data, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    with np.load(data / "features.npz") as found:
        columns = {"path": found["paths"], "time": found["times"], "vector": list(found["vectors"])}
        columns |= {"shot_start": found["shot_starts"], "shot_end": found["shot_ends"]}
    pq.write_table(pa.table(columns).replace_schema_metadata(ABOUT), tmp_path / "f.PARQUET")
    mine, other = read_features(tmp_path / "f.PARQUET"), read_features(data / "features.npz")
    assert mine.about == other.about
    for a, b in zip(mine.videos, other.videos, strict=True):
        assert (a.path, a.duration) == (b.path, b.duration)
        np.testing.assert_array_equal(a.vectors, b.vectors)


def test_a_saved_head_is_the_same(data, tmp_path):
    head, video = load_head(data / "head"), read_features(data / "features.npz").videos[0]
    head.save(tmp_path / "again")
    assert find(load_head(tmp_path / "again"), video, "v") == find(head, video, "v")
    (tmp_path / "again" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="its files are of no head"):
        load_head(tmp_path / "again")


@pytest.mark.parametrize(
    ("change", "more", "message"),
    [
        ({"features": "none.npz"}, [], "none.npz: no such file; vov3d embed VIDEOS --every 0.5s"),
        ({"features": "single.npz"}, [], "single.npz: holds one vector a video; write it with vov3d embed --every"),
        ({"features": "other.npz"}, [], "was made with every '0.25', the model's features with '0.5'"),
        ({"features": "few.npz"}, [], "3 of 4 annotated videos have no features (7, 8, 9): embed them too"),
        ({"annotations": "new.json"}, [], "1 classes that .* does not know: 'jumps'; the nearest to 'jumps' is 'jump'"),
        ({"annotations": "late.json"}, [], "6 58 to 70 (jump) is not within 0 and 60 s"),
        ({"model": "nowhere"}, [], "nowhere: no head there"),
        ({}, ["--subset", "test"], "no video is of subset 'test'; the file has training, validation"),
    ],
)
def test_what_does_not_fit_is_one_line(data, capsys, tmp_path, monkeypatch, change, more, message):
    monkeypatch.chdir(tmp_path)
    videos = read_features(data / "features.npz").videos
    np.savez("single.npz", paths=["a"], vectors=np.zeros((1, 6)), model="vov3d_n")
    write_features(Path("other.npz"), videos, every="0.25")
    write_features(Path("few.npz"), videos[:7])
    for name, label, end in (("new", "jumps", 4), ("late", "jump", 70)):
        database = {"6": {"subset": "validation", "annotations": [{"label": label, "segment": [end - 12, end]}]}}
        if name == "new":
            database["6"]["annotations"][0]["segment"] = [1, 4]
        Path(f"{name}.json").write_text(json.dumps({"database": database}))
    assert localize.main(["evaluate", *arguments(data, *more, **{k: Path(v) for k, v in change.items()})]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("localize: ")
    assert message in line or re.search(message, line)


def test_partial_and_mended_data(data, capsys, tmp_path):
    few = write_features(tmp_path / "few.npz", read_features(data / "features.npz").videos[:7])
    assert localize.main(["evaluate", *arguments(data, "--partial", features=few)]) == 0
    assert "3 of 4 videos have no features and are left out" in capsys.readouterr().out
    database = json.loads((data / "truth.json").read_text())
    database["database"]["6"]["annotations"].append({"label": "run", "segment": [58, 70]})
    (tmp_path / "late.json").write_text(json.dumps(database))
    assert localize.main(["evaluate", *arguments(data, "--mend", annotations=tmp_path / "late.json")]) == 0
    assert "1 segments were cut at the ends of their videos, 0 were left out" in capsys.readouterr().out


def test_videos_that_last_other_than_annotated_are_noted(data, capsys, tmp_path):
    database = json.loads((data / "truth.json").read_text())
    database["database"]["6"]["duration"], database["database"]["7"]["duration"] = 144, 60.9
    (tmp_path / "a.json").write_text(json.dumps(database))
    assert localize.main(["evaluate", *arguments(data, annotations=tmp_path / "a.json")]) == 0
    text = capsys.readouterr().out
    assert "1 of 4 videos are not as long as annotated (6 lasts 60 s, annotated 144 s): where they play" in text


def test_a_subset_without_segments_teaches_nothing(data, capsys, tmp_path):
    database = json.loads((data / "truth.json").read_text())
    database["database"]["6"] |= {"subset": "testing", "annotations": []}
    (tmp_path / "a.json").write_text(json.dumps(database))
    argv = ["--features", str(data / "features.npz"), "--annotations", str(tmp_path / "a.json"), "--subset", "testing"]
    assert localize.main(["train", *argv, "--output", str(tmp_path / "head"), "--device", "cpu"]) == 1
    assert "has no segment for the 1 videos of subset 'testing'" in capsys.readouterr().err
    assert not (tmp_path / "head").exists()


@pytest.fixture
def predicts(data, tmp_path, monkeypatch):
    """Predicts on videos whose features are made up; gives exit status and results, if there are some."""
    videos = {video.name: video for video in read_features(data / "features.npz").videos}

    def embedded(classifier, about, path, fps):
        return videos.get(Path(path).stem) or VideoReader(path)  # which cannot be read

    def predict(*words):
        out = tmp_path / "found.json"
        status = localize.main(["predict", *words, "--model", str(data / "head"), "-o", str(out), "--device", "cpu"])
        return status, sorted({one.video for one in read_results(out)}) if out.exists() else None

    monkeypatch.setattr(localize, "_backbone", lambda about, args: None)
    monkeypatch.setattr(localize, "embedded", embedded)
    return predict


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["left/v_6.mp4", "right/v_6.mp4"], "left/v_6.mp4 and right/v_6.mp4 have one name in the results"),
        (["v_6.mp4", "v_7.mp4", "v_6.mp4"], "v_6.mp4 is given 2 times"),
        (["v_6.mp4", "--fps", "25"], "--fps is for folders of frames"),
    ],
)
def test_no_segment_is_told_of_another_video(predicts, capsys, words, message):
    assert predicts(*words) == (1, None)
    assert message in capsys.readouterr().err


def test_a_video_that_cannot_be_read_costs_no_other(predicts, capsys, tmp_path):
    broken, missing = tmp_path / "broken.mp4", tmp_path / "missing.mp4"
    broken.write_bytes(b"nothing")
    assert predicts(str(broken)) == (1, None)
    assert "1 of 1 videos cannot be read; nothing was written: " in capsys.readouterr().err
    assert predicts("v_6.mp4", str(broken), str(missing), "v_7.mp4") == (1, ["v_6", "v_7"])
    (line,) = capsys.readouterr().err.splitlines()
    assert "2 of 4 videos cannot be read; " in line
    assert "holds the others: " in line
    assert str(broken) in line
    assert str(missing) in line


def test_a_video_is_not_overwritten_by_its_segments(data, capsys, tmp_path):
    video = tmp_path / "film.mp4"
    video.write_bytes(b"film")
    assert localize.main(["predict", str(video), "--model", str(data / "head"), "-o", str(video)]) == 1
    assert "film.mp4: is the file that is read, which would be lost" in capsys.readouterr().err
    assert video.read_bytes() == b"film"


def test_a_head_takes_the_network_of_its_training_only(data, capsys, tmp_path):
    model = vov3d.create_model("vov3d_n", pretrained=True)
    about = {**ABOUT, "digest": digest(model)}
    check_backbone(about, model, "vov3d_n", "head")
    check_backbone(ABOUT, model, "vov3d_n", "head")  # trained before features had a digest
    for key, value in (("model", "vov3d_m"), ("tag", "k400_f16"), ("digest", "0" * 64)):
        with pytest.raises(ValueError, match=f"head was trained on features of .*{value}.* named 'vov3d_n'"):
            check_backbone({**about, key: value}, model, "vov3d_n", "head")
    with torch.no_grad():
        next(model.parameters()).add_(1)
    vov3d.save_pretrained(model, tmp_path / "other", label_names=vov3d.class_names(model))
    head = load_head(data / "head")
    for wrong in ({"weights": str(tmp_path / "other")}, {"tag": "other"}):
        head.settings.about.update({**about, **wrong})
        head.save(tmp_path / "head")
        argv = ["predict", "film.mp4", "--model", str(tmp_path / "head"), "-o", str(tmp_path / "found.json")]
        assert localize.main([*argv, "--device", "cpu"]) == 1
        assert "was trained on features of" in capsys.readouterr().err


@pytest.mark.parametrize(("mine", "status"), [("a" * 64, 1), ("b" * 64, 0), (None, 0)])
def test_features_of_other_weights_are_refused_where_both_have_a_digest(data, capsys, tmp_path, mine, status):
    head = load_head(data / "head")
    head.settings.about["digest"] = "b" * 64
    head.save(tmp_path / "head")
    change = {"weights": "moved.pth"} | ({"digest": mine} if mine else {})
    other = write_features(tmp_path / "f.npz", read_features(data / "features.npz").videos, **change)
    assert localize.main(["evaluate", *arguments(data, features=other, model=tmp_path / "head")]) == status
    out, err = capsys.readouterr()
    assert ("was made with digest 'aaa" in err) == (status == 1)
    assert ("they must be the same ones" in out) == (mine is None)


def test_frames_of_a_folder_are_as_far_apart_as_said(tmp_path):
    for number in range(24):
        Image.new("RGB", (32, 32), (10 * number, 0, 0)).save(tmp_path / f"{number:03}.png")
    classifier = VideoClassifier(vov3d.create_model("vov3d_n", pretrained=False))
    about = {"every": "0.5", "window": "1", "cuts": "crossed"}
    assert localize.embedded(classifier, about, str(tmp_path)).duration == 2
    assert localize.embedded(classifier, about, str(tmp_path), 24).duration == 1


# --- parts -----------------------------------------------------------------------------------------------------------


def test_each_moment_is_taught_what_holds_it():
    times = np.arange(0.5, 10, 1.0)
    shots = np.array([(0.0, 6.0)] * 6 + [(6.0, 10.0)] * 4)
    video = Video("v", times, shots, np.zeros((10, 6), np.float32))
    truth = [Truth("v", 1, 5, "run"), Truth("v", 2, 3, "jump"), Truth("v", 5.6, 9, "jump"), Truth("v", 9.7, 9.9, "run")]
    classes, far, inside = targets_of(video, truth, LABELS)
    assert inside.tolist() == [False, True, True, True, True, False, True, True, True, True]
    assert classes[:, 0].tolist() == [0, 0, 1, 0, 0, 0, 1, 1, 1, 0]
    assert classes[:, 1].tolist() == [0, 1, 1, 1, 1, 0, 0, 0, 0, 1]
    np.testing.assert_allclose(far[[1, 2, 6]], [(0.5, 3.5), (0.5, 0.5), (0.5, 2.5)])  # the part behind the cut


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 20), st.integers(0, 10**6))
def test_thinned_segments_lose_by_their_overlap_with_better_ones(count, seed):
    rng = np.random.default_rng(seed)
    spans = np.sort(rng.uniform(0, 20, (count, 2)), 1)
    scores = rng.uniform(0.05, 1, count)
    kept = thinned(spans, scores)
    values = [score for _, score in kept]
    assert values == sorted(values, reverse=True)
    for rank, (span, score) in enumerate(kept):
        own = scores[(spans == span).all(1)].max()
        better = np.array([other for other, _ in kept[:rank]])
        shares = overlaps(span[None], better)[0] if rank else np.zeros(0)
        assert score == pytest.approx(own * np.exp(-(shares**2).sum() / 0.3))


def test_what_is_filled_up_changes_nothing():
    torch.manual_seed(0)
    head = Head(Settings(LABELS, 6, 0.5, 1.0, 2.0, ABOUT)).eval()
    video, _ = made_up(0, "a")
    from reference.localization.model import inputs

    alone = head(*inputs([video]))
    longer = Video("b", np.arange(200.0), np.array([(0.0, 200.0)] * 200), np.ones((200, 6), np.float32))
    beside = head(*inputs([video, longer]))
    for a, b in zip(alone, beside, strict=True):
        torch.testing.assert_close(b[0, : len(video.times)], a[0])


@pytest.mark.slow
def test_generated_videos_are_what_their_annotations_say(tmp_path):
    frames, found = make_video(np.random.default_rng(1))
    spans = [one["segment"] for one in found]
    assert all(1.59 < end - start < 3.21 for start, end in spans)
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))
    assert spans[-1][1] <= len(frames) / 10
    assert any(a[1] < b[0] for a, b in itertools.pairwise(spans))
    path = write_shapes(tmp_path, 1, 1, seed=3)
    annotations = read_annotations(path)
    assert annotations.subset("training").videos == ("training_0000",)
    with vov3d.video.VideoReader(tmp_path / "videos" / "training_0000.mp4") as reader:
        assert reader.duration == pytest.approx(annotations.durations["training_0000"])


@pytest.mark.slow
def test_shapes_from_one_command_and_predictions_of_a_film(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(shapes, "_SHOTS", (2, 3))
    run = tmp_path / "run"
    argv = ["train", "--annotations", "shapes", "--output", str(run), "--videos", "1", "--val-videos", "1"]
    assert localize.main([*argv, "--epochs", "2", "--device", "cpu"]) == 0
    measured = table(capsys.readouterr().out)
    report = json.loads((run / "results.json").read_text())
    assert [*report["map"].values(), report["mean"]] == pytest.approx(measured, abs=0.06)
    assert localize.main(["evaluate", "--model", str(run), "--annotations", "shapes", "--device", "cpu"]) == 0
    assert table(capsys.readouterr().out) == measured
    film, out = run / "shapes" / "videos" / "validation_0000.mp4", tmp_path / "film.json"
    assert localize.main(["predict", str(film), "--model", str(run), "-o", str(out), "--device", "cpu"]) == 0
    found = read_results(out)
    video = next(v for v in read_features(run / "shapes" / "features.npz").videos if v.name == "validation_0000")
    expected = find(load_head(run), video, "validation_0000")
    assert [(one.label, one.video) for one in found[:20]] == [(one.label, one.video) for one in expected[:20]]
    np.testing.assert_allclose([one.start for one in found], [one.start for one in expected], atol=0.02)


def test_the_page_shows_what_heads_reach():
    report = json.loads(localized_segments.RESULTS.read_text())
    assert part_of(localized_segments.PAGE.read_text(), "segments") == localized_segments.table(report)
