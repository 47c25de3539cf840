"""Evaluation: metrics and intervals, continued runs, broken videos, comparisons of models."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.numbered_videos import folder_of_frames, keep_part, write_video
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from reference import evaluate
from reference.evaluation.metrics import (
    Figure,
    confused,
    confusion,
    differing_pairs,
    mean_of_classes,
    summarize,
    wilson,
)
from reference.evaluation.models import load_model
from reference.evaluation.scores import Row, Scores, begin, read_scores, to_parquet

import vov3d
from vov3d.video import VideoClassifier

NAMES = ["red", "green", "blue", "grey", "black", "white", "pink"]


def make_model(folder: Path, seed: int, **cfg) -> Path:
    """Saves a small model of seven classes with its names."""
    torch.manual_seed(seed)
    sizes = dict(input_size=(3, 32, 32), test_input_size=(3, 40, 40), pool_size=(1, 1))
    overlay = dict(num_frames=4, frame_stride=2, sampling="dense") | sizes | cfg
    args = dict(depths=(1, 1, 1, 1), num_classes=len(NAMES), pretrained_cfg_overlay=overlay)
    model = vov3d.create_model("x3d_xs", **args).eval()
    torch.nn.init.normal_(model.head.fc.weight, std=0.5)  # so that it does not call everything the same
    return vov3d.save_pretrained(model, folder, label_names=NAMES)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """Saves two models of dense sampling, `a` and `b`, and one of segments."""
    folder = tmp_path_factory.mktemp("models")
    make_model(folder / "a", 1)
    make_model(folder / "b", 2)
    make_model(folder / "segments", 3, sampling="segment", frame_stride=None)
    return folder


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    """Writes twelve clips in memory; their class order is not the models'."""
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 255, (12, 9, 1, 1, 3), np.uint8)
    noise = rng.integers(0, 99, (12, 9, 40, 52, 3), np.uint8)
    file = tmp_path_factory.mktemp("clips") / "set.npz"
    np.savez(file, clips=colours // 2 + noise, labels=np.arange(12) % 5, classes=np.array(NAMES[::-1]))
    return file


@pytest.fixture
def home(tmp_path: Path, models: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "segments"):
        (tmp_path / name).symlink_to(models / name)
    return tmp_path


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# --- figures ---------------------------------------------------------------------------------------------------------


def test_wilson_against_published_values() -> None:
    """Of Newcombe, Two-sided confidence intervals for the single proportion (1998), table I, method 3."""
    for hits, total, low, high in [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611)]:
        assert wilson(hits, total) == pytest.approx((hits / total, low, high), abs=5e-5)
    assert wilson(29, 29) == pytest.approx((1, 0.8830, 1), abs=5e-5)


@given(st.integers(1, 500).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_intervals_hold_the_value(pair: tuple[int, int]) -> None:
    value, low, high = wilson(*pair)
    assert 0 <= low <= value <= high <= 1
    assert wilson(4 * pair[0], 4 * pair[1])[2] - wilson(4 * pair[0], 4 * pair[1])[1] < high - low


def test_mean_of_classes_weighs_classes_alike() -> None:
    figure = mean_of_classes(np.array([90, 0]), np.array([100, 10]))
    assert figure.value == pytest.approx(0.45)
    # the second class has no spread; the first has a binomial one, halved
    spread = 1.96 * (0.9 * 0.1 / 100) ** 0.5 / 2
    assert (figure.low, figure.high) == pytest.approx((0.45 - spread, 0.45 + spread), abs=0.006)
    assert mean_of_classes(np.array([90, 0]), np.array([100, 10])) == figure


ROWS = st.lists(
    st.tuples(st.integers(0, 6), st.one_of(st.none(), st.permutations(range(7)))), min_size=1, max_size=40
).filter(lambda rows: any(order for _, order in rows))


@settings(max_examples=40, deadline=None)
@given(ROWS)
def test_broken_videos_count_as_wrong_or_not_at_all(orders) -> None:
    rows = [
        Row(
            i,
            f"{i}",
            label,
            order[0] if order else None,
            order.index(label) if order else None,
            "" if order else "torn",
        )
        for i, (label, order) in enumerate(orders)
    ]
    good = [(label, order) for label, order in orders if order]
    right = sum(order[0] == label for label, order in good)
    wrong, left_out = summarize(rows, "wrong"), summarize(rows, "leave-out")
    assert wrong.top1.value == pytest.approx(right / len(rows))
    assert left_out.top1.value == pytest.approx(right / len(good))
    assert left_out.top5.value == pytest.approx(sum(label in order[:5] for label, order in good) / len(good))
    of_class = [[order[0] == label for label, order in good if label == c] for c in {label for label, _ in good}]
    assert left_out.mean_class.value == pytest.approx(np.mean([np.mean(hits) for hits in of_class]))
    assert wrong.broken == left_out.broken == len(rows) - len(good)
    assert confusion(rows, 7).sum() == len(good)
    assert np.trace(confusion(rows, 7)) == right


def test_pairs_in_which_two_models_differ() -> None:
    a = np.array([[8, 2, 0], [4, 6, 0], [0, 0, 10]])
    b = np.array([[9, 1, 0], [0, 10, 0], [5, 0, 5]])
    (first, second) = differing_pairs(a, b, 9)  # classes 1 and 2 are confused by neither
    assert first == (0, 1, pytest.approx(6 / 20), pytest.approx(1 / 20))
    assert second == (0, 2, 0, pytest.approx(5 / 20))
    assert differing_pairs(a, a, 9) == []
    assert confused(a, 1) == [(1, 0, 4)]


# --- scores on disk --------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(done=st.integers(0, 4), lost=st.integers(0, 400))
def test_scores_that_were_cut_off_anywhere_are_continued(tmp_path_factory, done: int, lost: int) -> None:
    """As after a kill in the middle of writing: whole videos are kept, torn ones computed again."""
    folder = tmp_path_factory.mktemp("scores")
    begin(folder, {})
    rows = [Row(i, f'a, "b" {i}.mp4', 0, 1, 1, note="cut\nshort") for i in range(5)]
    views = np.arange(12.0).reshape(2, 3, 2)

    def add(scores: Scores, row: Row) -> None:
        scores.add(row, np.array([0.25, 0.75]), views + row.index)

    scores = Scores(folder, 2, views=True)
    for row in rows[: done + 1]:
        add(scores, row)
    scores.close()
    whole = (folder / "videos.csv").read_bytes()
    (folder / "videos.csv").write_bytes(whole[: max(len(whole) - lost, 0)])
    again = Scores(folder, 2, views=True)
    kept = set(range(5)) - set(again.todo(5))
    assert len(kept) == len((folder / "videos.csv").read_bytes().splitlines()) - 1
    assert kept == set(range(len(kept)))
    for index in again.todo(5):
        add(again, rows[index])
    again.close()
    assert [(line["index"], line["path"], line["score_1"]) for line in table(folder / "videos.csv")] == [
        (str(i), f'a, "b" {i}.mp4', "0.75") for i in range(5)
    ]
    lines = [[float(cell) for cell in line.values()] for line in table(folder / "views.csv")]
    expected = [[i, clip, crop, *(views[clip, crop] + i)] for i in range(5) for clip in range(2) for crop in range(3)]
    assert lines == expected


def test_broken_videos_are_tried_again(tmp_path: Path) -> None:
    begin(tmp_path, {"views": "1x1"})
    scores = Scores(tmp_path, 2, views=False)
    scores.add(Row(0, "x", 0, error="torn"), None)
    scores.close()
    scores = Scores(tmp_path, 2, views=False)
    assert scores.todo(2) == [0, 1]
    scores.add(Row(0, "x", 0, 0, 0), np.array([0.9, 0.1]))
    scores.close()
    assert [row["path"] for row in table(tmp_path / "videos.csv")] == ["x"]
    scores = Scores(tmp_path, 2, views=False)
    assert scores.rows[0].rank == 0
    with pytest.raises(ValueError, match="another process writes here"):
        Scores(tmp_path, 2, views=False)
    scores.close()
    with pytest.raises(ValueError, match=r"holds scores of another run \(views was 1x1, is 2x3\)"):
        begin(tmp_path, {"views": "2x3"})
    (tmp_path / "run.json").unlink()
    with pytest.raises(ValueError, match=r"holds scores without run.json, which says of what; remove the folder"):
        begin(tmp_path, {"views": "2x3"})


def test_scores_are_kept_to_the_last_digit(tmp_path: Path) -> None:
    given = np.array([1_000_000.5, 0.4999999, 0.49999994, 1e-9], np.float32)  # values of a regression, close scores
    scores = Scores(tmp_path, 4, views=False)
    scores.add(Row(0, "x", None), given)
    scores.close()
    assert np.array_equal(read_scores(tmp_path)[0].astype(np.float32), given)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="of Linux")
@pytest.mark.parametrize("file", ["videos.csv", "views.csv"])
def test_a_full_disk_is_named(tmp_path: Path, monkeypatch, file: str) -> None:
    (tmp_path / file).symlink_to("/dev/full")
    with pytest.raises(OSError, match=rf"No space left.*; the same command continues: '.*{file}'") as told:
        Scores(tmp_path, 2, views=True)
    assert told.tb, "its frames keep what was opened"
    (tmp_path / file).unlink()
    scores = Scores(tmp_path, 2, views=True)
    full = Path("/dev/full").open("a", encoding="utf-8")  # noqa: SIM115
    with monkeypatch.context() as patch:
        patch.setattr(scores, f"_{file.removesuffix('.csv')}", full)
        with pytest.raises(OSError, match=r"No space left.*; the same command continues: '/dev/full'"):
            scores.add(Row(0, "x", 0, 1, 1), np.array([0.25, 0.75]), np.ones((1, 1, 2)))
    with suppress(OSError):  # it cannot write its rest either
        full.close()
    assert scores.todo(1) == [0]
    scores.close()


@pytest.mark.parametrize("sign", ["\n", "\r", "\r\n", "\u2028", '"'])
def test_a_name_with_a_line_end_is_read_again(tmp_path: Path, sign: str) -> None:
    for _ in range(2):
        scores = Scores(tmp_path, 2, views=False)
        for index in scores.todo(2):
            scores.add(Row(index, f"a{sign}{index}.mp4", 0, 1, 1), np.array([0.25, 0.75]))
        scores.close()
    assert len(table(tmp_path / "videos.csv")) == 2


# --- runs ------------------------------------------------------------------------------------------------------------


def test_scores_are_those_of_the_classifier(home: Path, clips: Path, capsys) -> None:
    assert evaluate.main(["--data", str(clips), "--model", "a", "--views", "2x3", "--per-view", "--confusion"]) == 0
    out = capsys.readouterr().out
    folder = home / "evaluation/a-2x3"
    rows, content = table(folder / "videos.csv"), np.load(clips)
    classifier = VideoClassifier(vov3d.from_pretrained("a"), views="2x3")
    views = table(folder / "views.csv")
    assert len(rows) == 12
    assert len(views) == 12 * 2 * 3
    for row, clip, label in zip(rows, content["clips"], content["labels"], strict=True):
        scores = classifier.scores(clip).numpy()
        written = np.array([float(row[f"score_{i}"]) for i in range(7)])
        assert written == pytest.approx(scores, rel=1e-3, abs=1e-5)
        assert NAMES[int(row["label"])] == str(content["classes"][label])
        assert int(row["prediction"]) == written.argmax()
        assert int(row["rank"]) == (written > written[int(row["label"])]).sum()
        own = [[float(v[f"score_{i}"]) for i in range(7)] for v in views if v["index"] == row["index"]]
        assert np.mean(own, 0) == pytest.approx(written, rel=1e-4, abs=1e-6)
    right = sum(row["rank"] == "0" for row in rows)
    assert f"top-1               {100 * right / 12:8.2f}" in out
    assert "12 videos of 5 classes (the model has 7)" in out
    assert "published" not in out
    accuracy = json.loads((folder / "summary.json").read_text())["accuracy"]
    assert accuracy["top1"][0] == pytest.approx(right / 12)
    counts = table(folder / "confusion.csv")
    assert [line["class"] for line in counts] == NAMES
    assert sum(int(line[name]) for line in counts for name in NAMES) == 12
    with Image.open(folder / "confusion.png") as picture:
        assert picture.format == "PNG"


def test_clips_of_segments_are_drawn_and_repeat(home: Path, clips: Path) -> None:
    found = []
    for out in ("first", "second"):
        assert evaluate.main(["--data", str(clips), "--model", "segments", "--per-view", "--out", out]) == 0
        found.append(table(home / out / "segments-2x3/views.csv"))
    views = found[0]
    assert found[1] == views
    assert len(views) == 12 * 2 * 3
    for first, second in zip(views[0:3], views[3:6], strict=True):
        assert (first.pop("clip"), second.pop("clip")) == ("0", "1")
        assert first != second


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """Writes a list with good videos, one cut short, two broken ones and one that is not there."""
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / "one.mp4", num_frames=12)
    folder_of_frames(folder / "two", 9)
    keep_part(write_video(folder / "cut.mp4", muxer={"movflags": "faststart"}, gop=12), 0.6)
    (folder / "text.mp4").write_text("404")
    (folder / "empty.mp4").touch()
    names = ["one.mp4 red", "text.mp4 red", "two blue", "cut.mp4 pink", "empty.mp4 green"]
    (folder / "list.txt").write_text("\n".join(names))
    (folder / "more.txt").write_text("\n".join([*names, "none.mp4 grey"]))
    return folder


def test_broken_videos_are_listed_and_both_figures_given(home: Path, videos: Path, capsys) -> None:
    command = ["--data", str(videos / "list.txt"), "--model", "a", "--protocol", "single"]
    assert evaluate.main(command) == 0
    out, err = capsys.readouterr()
    assert "list: 5 videos of 4 classes" in out
    assert "2 broken videos, counted as wrong:" in out
    assert f"  {videos / 'text.mp4'}: " in out
    assert f"damaged: {videos / 'cut.mp4'}: " in err
    rows = table(home / "evaluation/a-1x1/videos.csv")
    right = sum(row["rank"] == "0" for row in rows)
    assert f"counted as wrong: top-1 {100 * right / 5:.2f}" in out
    assert f"left out: top-1 {100 * right / 3:.2f}" in out
    assert [bool(row["error"]) for row in rows] == [False, True, False, False, True]
    assert [bool(row["note"]) for row in rows] == [False, False, False, True, False]
    assert evaluate.main([*command, "--broken", "leave-out"]) == 0
    out, err = capsys.readouterr()
    assert "list: 3 videos of 3 classes" in out
    assert "3 of 5 videos have scores already" in err


def test_scores_of_replaced_clips_are_refused(home: Path, clips: Path, tmp_path: Path, capsys) -> None:
    own = tmp_path / "set.npz"
    for step in (1, -1):
        content = dict(np.load(clips))
        np.savez(own, **content | {"clips": content["clips"][:, ::step]})
        assert evaluate.main(["--data", str(own), "--model", "a", "--protocol", "single"]) == (step < 0)
    assert "holds scores of another run (videos was " in capsys.readouterr().err


def test_names_that_are_no_text_are_written_with_escapes(home: Path, tmp_path: Path, capsys) -> None:
    for number, label in enumerate(("red", "blue")):
        (tmp_path / "data" / label).mkdir(parents=True)
        write_video(tmp_path / "data" / label / os.fsdecode(b"\xe4%d.mp4" % number), num_frames=5)
    (tmp_path / "data/red" / os.fsdecode(b"\xff.mp4")).touch()
    assert evaluate.main(["--data", str(tmp_path / "data"), "--model", "a", "--protocol", "single"]) == 0
    assert f"{tmp_path}/data/red/\\udcff.mp4: is empty" in capsys.readouterr().out
    assert [Path(row["path"]).name for row in table(home / "evaluation/a-1x1/videos.csv")] == [
        "\\udce41.mp4", "\\udce40.mp4", "\\udcff.mp4"
    ]  # fmt: skip


def test_a_partial_set_is_reported(home: Path, videos: Path, capsys) -> None:
    command = ["--data", str(videos / "more.txt"), "--model", "a", "--protocol", "single"]
    assert evaluate.main(command) == 1
    assert "1 of 6 videos are not there" in capsys.readouterr().err
    assert not (home / "evaluation").exists()
    assert evaluate.main([*command, "--partial"]) == 0
    assert "A PARTIAL SET: 1 videos of the list are not there and do not count" in capsys.readouterr().out


@pytest.mark.slow  # two processes
def test_a_killed_run_is_continued(home: Path, tmp_path: Path) -> None:
    """Killed for good, in the middle: the scores are those of an unbroken run, to the byte."""
    np.savez(
        "many.npz",
        clips=np.random.default_rng(0).integers(0, 255, (60, 9, 48, 48, 3), np.uint8),
        labels=np.arange(60) % 7,
        classes=np.array(NAMES),
    )
    command = [
        sys.executable,
        "-m",
        "reference.evaluate",
        "--data",
        "many.npz",
        "--model",
        "a",
        "--views",
        "3x3",
        "--per-view",
        "--out",
    ]
    path = os.pathsep.join([str(Path(vov3d.__file__).parents[1]), str(Path(evaluate.__file__).parents[1])])
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    process = subprocess.Popen([*command, "killed"], env=env, stderr=subprocess.DEVNULL)
    file = home / "killed/a-3x3/videos.csv"
    while process.poll() is None and (not file.is_file() or file.read_bytes().count(b"\n") < 4):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 4 <= file.read_bytes().count(b"\n") < 61
    arguments = command[3:]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert evaluate.main([*arguments, "killed"]) == 0
        assert evaluate.main([*arguments, "whole"]) == 0
    finally:
        torch.set_num_threads(threads)
    for name in ("videos.csv", "views.csv", "summary.json"):
        assert (home / "killed/a-3x3" / name).read_bytes() == (home / "whole/a-3x3" / name).read_bytes()


@pytest.mark.slow
def test_tempo_of_two_models(home: Path, clips: Path, capsys) -> None:
    command = ["--data", str(clips), "--model", "a", "b", "--views", "1x1", "--tempo", "1,2,2.5"]
    assert evaluate.main(command) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[1] == "| model | stride 1 | stride 2 | stride 2.5 |"
    assert [line.split()[1] for line in out[3:5]] == ["a", "b"]
    rows = table(home / "evaluation/tempo.csv")
    assert [(row["model"], row["stride"]) for row in rows] == [(m, s) for m in "ab" for s in ("1.0", "2.0", "2.5")]
    assert all(row["low"] <= row["top1"] <= row["high"] for row in rows)
    assert (home / "evaluation/tempo.png").stat().st_size > 5000
    assert evaluate.main([*command[:3], "a", "--views", "1x1"]) == 0  # stride 2 is the model's own
    own = json.loads((home / "evaluation/a-1x1/summary.json").read_text())["accuracy"]["top1"]
    assert float(rows[1]["top1"]) == own[0]
    one, two = (table(home / f"evaluation/a-1x1-stride{s}/videos.csv")[0]["score_0"] for s in (1, 2))
    assert one != two


@pytest.mark.slow
def test_two_models_are_compared(home: Path, clips: Path, capsys) -> None:
    assert evaluate.main(["--data", str(clips), "--compare", "a", "b", "--views", "1x1"]) == 0
    out = capsys.readouterr().out
    rows = table(home / "evaluation/compare-a-b.csv")
    assert rows
    for row in rows:
        assert f"{row['first class']} / {row['second class']}" in out
        assert row["confused by a"] != row["confused by b"]
    with Image.open(home / "evaluation/compare-a-b.png") as picture:
        assert picture.height > 150 * len(rows)


@pytest.mark.slow
def test_exported_files_are_evaluated(home: Path, clips: Path, capsys) -> None:
    vov3d.export(vov3d.from_pretrained("a").eval(), "a.pt2")
    for name in ("a", "a.pt2"):
        assert evaluate.main(["--data", str(clips), "--model", name, "--views", "1x1"]) == 0
    rows = [table(home / f"evaluation/{name}-1x1/videos.csv") for name in ("a", "a.pt2")]
    for own, exported in zip(*rows, strict=True):
        assert float(own["score_3"]) == pytest.approx(float(exported["score_3"]), rel=1e-3)
    capsys.readouterr()
    assert evaluate.main(["--data", str(clips), "--model", "a.pt2", "--checkpoint", "x.pth"]) == 1
    assert "a checkpoint or a device has no effect" in capsys.readouterr().err


def test_networks_that_pool_otherwise_are_evaluated_as_the_classifier_scores_them(home: Path, clips: Path) -> None:
    """They have no `forward_dense`; the temperature counts all the same."""
    model = vov3d.create_model("x3d_xs", depths=(1, 1, 1, 1), num_classes=len(NAMES), global_pool="max").eval()
    sizes = dict(input_size=(3, 32, 32), test_input_size=(3, 32, 32))
    model.pretrained_cfg.update(num_frames=4, frame_stride=2, temperature=3.0, num_classes=len(NAMES), **sizes)
    vov3d.save_pretrained(model, "max", label_names=NAMES)
    assert evaluate.main(["--data", str(clips), "--model", "max", "--views", "1x1"]) == 0
    wanted = VideoClassifier(model).scores(np.load(clips)["clips"][0])
    (row, *_) = table(home / "evaluation/max-1x1/videos.csv")
    assert [float(row[f"score_{i}"]) for i in range(len(NAMES))] == pytest.approx(wanted.tolist(), rel=1e-3)


def test_parquet_holds_what_the_csv_holds(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    begin(tmp_path, {})
    scores = Scores(tmp_path, 2, views=True)
    scores.add(Row(0, "a.mp4", 1, 0, 1), np.array([0.75, 0.25]), np.array([[[0.75, 0.25]]]))
    scores.add(Row(1, "b.mp4", 1, error="torn"), None)
    scores.close()
    assert [path.name for path in to_parquet(tmp_path)] == ["videos.parquet", "views.parquet"]
    content = parquet.read_table(tmp_path / "videos.parquet").to_pydict()
    assert (content["path"], content["score_0"]) == (["a.mp4", "b.mp4"], [0.75, None])
    assert (content["rank"], content["error"]) == ([1, None], ["", "torn"])


@pytest.mark.slow
def test_published_accuracy_stands_beside_untouched_weights_only(models: Path, tmp_path: Path) -> None:
    from helpers.reference_files import published_file

    file = published_file("vov3d_m_k400", tmp_path)
    device = torch.device("cpu")
    assert load_model("vov3d_m.k400_f16", str(file), device).published == (74.7, 92.1, (10, 3))
    assert load_model(str(models / "a"), None, device).published is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "{clips}"], "no model is named; give --model NAME"),
        (["--data", "{clips}", "--model", "a", "--compare", "a", "b"], "--compare names its two models itself"),
        (["--data", "{clips}", "--model", "a", "--checkpoint", "x", "y"], "2 checkpoints for 1 models"),
        (["--data", "{clips}", "--model", "a", "./a"], "would share a folder of results"),
        (["--data", "{clips}", "--model", "a", "--tempo", "fast"], "--tempo fast: expected strides such as 5,8"),
        (["--data", "{clips}", "--model", "a", "--tempo", "2", "--stride", "3"], "--tempo is a table of its own"),
        (["--data", "{clips}", "--model", "a", "--device", "nowhere"], "--device nowhere cannot be used here"),
        (["--data", "{clips}", "--model", "segments", "--stride", "3"], "stride=3 would have no effect"),
        (["--data", "{clips}", "--model", "segments", "--protocol", "k400"], "is for models of dense sampling"),
        (["--data", "{clips}", "--model", "a", "--protocol", "ssv"], "is for models of segment sampling"),
        (["--data", "{clips}", "--model", "a", "--frames", "9", "--stride", "3"], "exactly the 9 frames"),
        (["--data", "{clips}", "--model", "a", "--split", "val"], "split has no effect on clips in memory"),
        (["--data", "{clips}", "--model", "a", "--views", "2x2"], "views '2x2' cannot be read"),
        (["--data", "{videos}/list.txt", "--model", "a", "--fps", "3"], "video files have their own"),
        (["--data", "{clips}", "--model", "{videos}/none/model"], "none/model: does not exist: name the folder"),
        (["--data", "{videos}/list.txt", "--model", "vov4d"], "vov3d has no model 'vov4d'"),
    ],
)
def test_bad_arguments(home: Path, clips: Path, videos: Path, capsys, arguments: list[str], message: str) -> None:
    assert evaluate.main([argument.format(clips=clips, videos=videos) for argument in arguments]) == 1
    assert message in capsys.readouterr().err
    assert not (home / "evaluation").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clips": np.zeros((2, 4, 8, 8), np.uint8)}, r"found clips uint8 \(2, 4, 8, 8\), expected uint8 \(N, T, H, W"),
        ({"labels": np.array([0, 7])}, "expected 2 indices of its classes"),
        ({"labels": np.array([0.0, 1.0])}, "expected 2 indices of its classes"),
        ({"classes": np.array(["red", "mauve"])}, "found class 'mauve', expected one of 7 names"),
    ],
)
def test_sets_in_memory_that_are_wrong(tmp_path: Path, change: dict, message: str) -> None:
    from reference.evaluation.samples import load_samples

    content = {"clips": np.zeros((2, 4, 8, 8, 3), np.uint8), "labels": np.arange(2), "classes": np.array(NAMES[:2])}
    np.savez(tmp_path / "set.npz", **{**content, **change})
    with pytest.raises(ValueError, match=message):
        load_samples(tmp_path / "set.npz", NAMES, len(NAMES))
    np.savez(tmp_path / "set.npz", **content)
    assert load_samples(tmp_path / "set.npz", None, 2).classes == ("red", "green")
    with pytest.raises(ValueError, match="has 2 classes, the model 7 and no names"):
        load_samples(tmp_path / "set.npz", None, 7)


def test_intervals_are_printed_in_percent() -> None:
    assert evaluate._interval(Figure(0.5, 0.25, 0.756)) == "25.00 to 75.60"


def test_models_of_other_classes_are_not_compared(home: Path, capsys) -> None:
    for name, names in (("x", NAMES[:2]), ("y", NAMES[1::-1])):
        model = vov3d.create_model("x3d_xs", depths=(1, 1, 1, 1), num_classes=2)
        vov3d.save_pretrained(model, home / name, label_names=names)
    np.savez("set.npz", clips=np.zeros((2, 4, 32, 32, 3), np.uint8), labels=np.arange(2), classes=np.array(NAMES[:2]))
    assert evaluate.main(["--data", "set.npz", "--compare", "x", "y"]) == 1
    assert "x and y have different classes, or number them differently" in capsys.readouterr().err
