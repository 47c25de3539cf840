"""`prepare`: what it says of a data set, what it writes, and that train and evaluate take it."""

import csv
import hashlib
import io
import json
import os
import shlex
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.made_data_sets import MADE, make
from helpers.numbered_videos import keep_part, write_video
from helpers.tiny_training_runs import TINY
from reference import check_data, evaluate, prepare, train
from reference.data.encoding import small_size
from reference.data.lists import read_list
from reference.data.published import DATA_SETS, against_published, data_set, shown
from reference.data.sources import read_source
from reference.data.splitting import check_apart, held_out
from reference.evaluation.samples import load_samples

from vov3d.video import Section, VideoReader

RECIPE = SimpleNamespace(labels_from=-1, layout="", partial=False, root="", classes="")


def source(folder: Path, part: str = "train", task: str = "single"):
    return read_source(str(folder), part, RECIPE, SimpleNamespace(), None, task)[0]


def filled(name: str, folder: Path, frames: int = 12) -> Path:
    """A made-up data set with videos in it."""
    make(MADE[name], folder)
    for part in MADE[name].videos.values():
        for path in part:
            (folder / path).unlink()
            write_video(folder / path, num_frames=frames)
    return folder


def digest(folder: Path) -> dict[str, str]:
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.rglob("*") if file.is_file()}


def problems(out: Path) -> dict[str, str]:
    with (out / "problems.csv").open(newline="", encoding="utf-8") as file:
        return {Path(row["path"]).name: row["problem"] for row in csv.DictReader(file)}


@pytest.mark.parametrize("name", [name for name in MADE if name != "jester, numbers"])
def test_prepared_lists_say_what_the_published_ones_say(name: str, tmp_path: Path, capsys) -> None:
    folder, out, made = make(MADE[name], tmp_path / "my data"), tmp_path / "out", MADE[name]
    assert prepare.main([name.upper(), str(folder), "--output", str(out)]) == 0
    said = capsys.readouterr().out
    data = DATA_SETS[name]
    assert f"{data.title}: files from {data.home}; terms: {data.terms}" in said
    for split, part in made.videos.items():
        first, again = read_list(folder, split=split, labelled=False), read_list(out, split=split, labelled=False)
        assert [file.name for file in again.paths] == [file.name for file in first.paths]
        assert again.sections == first.sections
        if split not in made.bare:
            assert (again.labels, again.classes, again.kind) == (first.labels, first.classes, first.kind)
        count = len(part) if data.counted == "files" else len(first)
        assert f"{split}: {count} {data.counted} " in said
    sizes = (made.classes,) if isinstance(made.classes, int) else made.classes
    assert f"of {shown(sizes)}" in said
    assert f"--data {out} --output runs/{name}" in said or "train" not in made.videos
    assert list(problems(out)) == []


def test_a_test_list_is_for_prediction(tmp_path: Path, capsys) -> None:
    folder, out = make(MADE["ssv1"], tmp_path / "ssv1"), tmp_path / "out"
    assert prepare.main(["ssv1", str(folder), "--output", str(out)]) == 0
    said = capsys.readouterr().out
    assert f"vov3d predict @{out / 'test.txt'}" in said
    files = [Path(line) for line in (out / "test.txt").read_text().splitlines()]
    assert [file.name for file in files] == ["9", "10"]
    assert all(file.is_dir() for file in files)
    with pytest.raises(ValueError, match=r"test\.csv:2: .*the list of a test set has no labels"):
        read_list(out, split="test")


def test_what_is_missing_is_listed(tmp_path: Path, capsys) -> None:
    folder, out = make(MADE["ucf101"], tmp_path / "ucf"), tmp_path / "out"
    lost = next(folder.rglob("v_Sport001_g00_c01.avi"))
    lost.unlink()
    command = ["ucf101", str(folder), "--output", str(out)]
    assert prepare.main(command) == 1
    said = capsys.readouterr().out
    assert "train: 3 videos of 101 classes; DIFFERS: published are 9,537 or 9,586 or 9,624 videos" in said
    assert problems(out) == {lost.name: "no such file"}
    assert str(lost) in said
    assert len(read_list(out, split="train")) == 2
    assert prepare.main([*command, "--partial"]) == 0
    for file in folder.rglob("*.avi"):
        file.unlink()
    assert prepare.main([*command, "--partial"]) == 1
    assert "no video is there; say where they are with --videos" in capsys.readouterr().err


def test_videos_are_made_small_and_a_broken_one_stops_nothing(tmp_path: Path, capsys) -> None:
    folder, out = filled("ucf101", tmp_path / "ucf"), tmp_path / "out"
    broken, cut = sorted(folder.rglob("*.avi"))[:2]
    broken.write_text("404 not found")
    keep_part(cut, 0.4)
    before = digest(folder)
    command = ["ucf101", str(folder), "--output", str(out), "--short-side", "32", "--workers", "2"]
    assert prepare.main(command) == 1
    assert digest(folder) == before
    assert set(problems(out)) == {broken.name, cut.name}
    videos = [read_list(out, split=split) for split in ("train", "test")]
    assert sum(map(len, videos)) == 3
    for path in (path for part in videos for path in part.paths):
        assert path.is_relative_to(out / "videos-32")
        (original,) = folder.rglob(f"{path.stem}.avi")
        with VideoReader(original) as whole, VideoReader(path) as small:
            assert (small.height, small.width) == small_size(whole.height, whole.width, 32)
            assert (small.num_frames, round(small.fps, 2)) == (whole.num_frames, round(whole.fps, 2))
            difference = small.read([5]).float().mean() - whole.read([5]).float().mean()
            assert abs(difference) < 6
    # again: what is done is left alone, what is not is done
    files = sorted((out / "videos-32").rglob("*.mp4"))
    files[0].unlink()
    times = [file.stat().st_ctime_ns for file in files[1:]]
    assert prepare.main(command) == 1
    assert "2 of 5 videos are done already" in capsys.readouterr().out
    assert files[0].is_file()
    assert [file.stat().st_ctime_ns for file in files[1:]] == times
    # a video that an older one has replaced is done again
    (original,) = folder.rglob(f"{files[1].stem}.avi")
    write_video(original, num_frames=7)
    os.utime(original, (1e9, 1e9))
    assert prepare.main(command) == 1
    assert "2 of 5 videos are done already" in capsys.readouterr().out
    with VideoReader(files[1]) as small:
        assert small.num_frames == 7
    assert not [file for file in out.rglob("*") if ".part" in file.name]


def test_parts_of_long_videos_are_cut_out(tmp_path: Path) -> None:
    folder, out = tmp_path / "long", tmp_path / "out"
    folder.mkdir()
    write_video(folder / "day.mp4", num_frames=100, fps=25)
    (folder / "train.csv").write_text("path,start,end,label\nday.mp4,0,1,a, b\n".replace("a, b", '"a, b"'))
    (folder / "val.csv").write_text("path,start,end,label\nday.mp4,1.2,3.2,c\nday.mp4,,,d\n")
    (folder / "classes.txt").write_text("c\nd\na, b\n")
    train = source(folder)
    assert (train.labels.tolist(), train.classes) == ([2], ("c", "d", "a, b"))
    with VideoReader(train.files[0]) as reader:
        assert reader.num_frames == 25
    assert prepare.main(["folders", str(folder), "--output", str(out)]) == 1  # it is of lists
    listed = make(MADE["charades"], tmp_path / "charades")
    for path in MADE["charades"].videos["train"]:
        (listed / path).unlink()
        write_video(listed / path, num_frames=20, fps=1)
    command = ["charades", str(listed), "--output", str(out), "--segments", "--short-side", "32", "--partial"]
    assert prepare.main(command) == 0
    small = read_list(out, split="train")
    assert small.sections == ()
    assert [VideoReader(path).num_frames for path in small.paths] == [8, 13]  # seconds 12 to 19, and 0 to 12


# --- what train and evaluate make of it ------------------------------------------------------------------------------


def test_many_labels_are_arrays(tmp_path: Path) -> None:
    epic = source(make(MADE["epic100"], tmp_path / "epic"), task="multihead")
    assert (epic.labels.dtype, epic.labels.tolist()) == (np.int64, [[0, 299], [96, 0]])
    assert tuple(map(len, epic.classes)) == (97, 300)
    assert epic.label_name(1) == "verb number 96 noun number 0"
    charades = source(make(MADE["charades"], tmp_path / "charades"), task="multilabel")
    assert (charades.labels.dtype, charades.labels.shape) == (np.float32, (2, 157))
    assert [np.flatnonzero(row).tolist() for row in charades.labels] == [[92, 156], []]
    assert epic.digest() != charades.digest()
    assert (epic.heads, charades.heads) == (("verb", "noun"), ())
    with pytest.raises(ValueError, match="has a verb and a noun for each video"):
        load_samples(tmp_path / "epic", None, 97, split="val")
    for name, task in (("epic", "multihead"), ("charades", "multilabel")):
        with pytest.raises(ValueError, match=f"give task.name='{task}'"):
            source(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "task", "figures"),
    [("epic100", "multihead", "verb + noun top-1"), ("charades", "multilabel", "mAP")],
)
def test_the_printed_commands_train_and_evaluate(
    name: str, task: str, figures: str, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = filled(name, tmp_path / "data", frames=64)
    for path in MADE[name].videos.get("val", ()):
        (folder / path).unlink()
        write_video(folder / path, num_frames=56)  # no copy of a video for training
    assert prepare.main([name, str(folder), "--short-side", "32", "--partial", "--workers", "1"]) == 0
    printed = (line.partition(":")[::2] for line in capsys.readouterr().out.splitlines())
    words = {what: shlex.split(text)[3:] for what, text in printed if "python -m reference." in text}
    assert ["--task.name", task] == words["train"][6:8]
    keys = TINY | {"model.pretrained": "false", "schedule.epochs": "1", "optimizer.batch": "2", "data.workers": "0"}
    if name == "charades":  # two videos, of which none can be held out
        keys |= {"data.val_share": "0", "train.keep": "last"}
    given = [word for key, value in keys.items() for word in (f"--{key}", value)]
    assert train.main([*words["train"], *given]) == 0
    assert evaluate.main([*words["evaluate"], "--views", "1x1", "--device", "cpu"]) == 0
    summary = json.loads(next(Path("evaluation").rglob("summary.json")).read_text())
    assert (summary["task"], figures in summary["figures"]) == (task, True)


@pytest.mark.parametrize(("name", "task"), [("epic100", "multihead"), ("charades", "multilabel")])
def test_published_lists_are_checked_with_and_without_their_task(name: str, task: str, tmp_path: Path, capsys) -> None:
    folder = filled(name, tmp_path / "data", frames=64)
    said = []
    for words in ([], ["--task", task]):
        check_data.main([str(folder), "--split", "train", "--workers", "1", *words])
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
    assert f"videos of {'97 verbs and 300 nouns' if name == 'epic100' else '157 classes'}, 0 broken" in said[0]


def test_parts_of_one_video_stay_on_one_side(tmp_path: Path) -> None:
    rows = [(video, start) for video in ("a", "b", "c", "d") for start in range(3)]
    for video in "abcd":
        write_video(tmp_path / f"{video}.mp4", num_frames=8)
    lines = [f"{video}.mp4,{start / 10},{start / 10 + 0.1},x" for video, start in rows]
    (tmp_path / "all.csv").write_text("path,start,end,label\n" + "\n".join(lines))
    whole = source(tmp_path / "all.csv")
    train, val = held_out(whole, 0.25)
    sides = [{Path(part.video).name for part in side.files if isinstance(part, Section)} for side in (train, val)]
    assert len(train) + len(val) == 12
    assert len(val) == 3
    assert not sides[0] & sides[1]
    check_apart(train, val)


def write_shard(path: Path, videos: dict[str, object], content: bytes = b"video") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for key, label in videos.items():
            said = {f"{key}.json": json.dumps({"label": label}).encode()} if isinstance(label, str) else {}
            said = said or {f"{key}.cls": f"{label}\n".encode()}
            for name, data in ({f"{key}.MP4": content} | said).items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize("form", ["{}-000{}.tar", "{}/{}.tar"])
def test_shards_of_a_folder(tmp_path: Path, form: str, capsys) -> None:
    write_shard(tmp_path / form.format("train", 0), {"a/1": "run", "a/2": "jump"})
    write_shard(tmp_path / form.format("train", 1), {"a/3": "run"})
    write_shard(tmp_path / form.format("val", 0), {"1": "run"})
    train, val = source(tmp_path), source(tmp_path, "val")
    assert (train.labels.tolist(), train.classes) == ([1, 0, 1], ("jump", "run"))
    assert len(val) == 1
    samples = load_samples(tmp_path, ["run", "jump"], 2, split="train")
    assert samples.labels == (0, 1, 0)
    assert samples.sources[0].read() == b"video"
    assert prepare.main(["webdataset", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "train: 3 videos of 2 classes in 2 shards" in said
    assert f"--data {tmp_path} --split val" in said
    (tmp_path / "more.tar").touch()
    with pytest.raises(ValueError, match=r"more\.tar says no part, such as train-000\.tar"):
        source(tmp_path)


def test_class_folders(tmp_path: Path, capsys) -> None:
    for path in ("train/a/1.mp4", "train/b b/2.mp4", "val/a/3.MP4"):
        (tmp_path / "data" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / path).touch()
    assert prepare.main(["folders", str(tmp_path / "data"), "--output", str(tmp_path / "out")]) == 0
    assert "no published number to compare with" in capsys.readouterr().out
    assert read_list(tmp_path / "out", split="train").classes == ("a", "b b")


def test_a_list_of_an_earlier_run_is_told(tmp_path: Path, capsys) -> None:
    for part in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / "videos" / part / name).mkdir(parents=True)
            (tmp_path / "videos" / part / name / f"{part}.mp4").touch()
    command = ["folders", str(tmp_path / "videos"), "--output", str(tmp_path / "out")]
    assert prepare.main(command) == 0
    assert "of an earlier run" not in capsys.readouterr().out
    for name in ("a", "b"):
        (tmp_path / "videos/val" / name / "val.mp4").rename(tmp_path / "videos/train" / name / "val.mp4")
        (tmp_path / "videos/val" / name).rmdir()
    (tmp_path / "videos/val").rmdir()
    assert prepare.main(command) == 0
    assert f"{tmp_path / 'out/val.csv'} is of an earlier run" in capsys.readouterr().out


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ucf102", "."], "data set 'ucf102' is not known; use one of ucf101"),
        (["ucf101", "nowhere"], "nowhere: no such folder; give the folder of UCF101"),
        (["ucf101", "{}"], "holds no lists of UCF101; expected in it:"),
        (["charades", "{}", "--output", "{}/out"], "whose files are left as they are; give another place"),
        (["diving48", "{}", "--segments"], "--segments has no effect on Diving48 V2"),
        (["webdataset", "{}"], "holds no shards"),
        (["webdataset", "{}", "--short-side", "64"], "have no effect on shards"),
    ],
)
def test_what_cannot_be_prepared(arguments: list[str], message: str, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    make(MADE["diving48"], tmp_path / "data")
    assert prepare.main([argument.format(tmp_path / "data") for argument in arguments]) == 1
    assert message in capsys.readouterr().err


# --- facts -----------------------------------------------------------------------------------------------------------


def test_names_are_known_however_they_are_spelt() -> None:
    for given, name in (("UCF-101", "ucf101"), ("K400", "kinetics400"), ("Something_V2", "ssv2"), ("EPIC", "epic100")):
        assert data_set(given).name == name


@pytest.mark.parametrize("data", [data for data in DATA_SETS.values() if data.counts], ids=lambda data: data.name)
def test_published_numbers_are_as_published_and_others_are_not(data) -> None:
    for split, counts in data.counts.items():
        for count in counts:
            for size in data.classes:
                assert against_published(data, split, count, size) == (True, "as published")
        one_more = tuple(number + 1 for number in data.classes[0])
        assert not against_published(data, split, counts[0], one_more)[0]
        assert not against_published(data, split, counts[0] + 1, data.classes[0])[0]


def test_the_table_in_the_docs_is_what_the_code_knows() -> None:
    text = (Path(__file__).parents[2] / "docs/guides/datasets.md").read_text(encoding="utf-8")
    first, *_ = [part for part in text.split("\n\n") if part.startswith("| data set ")]
    assert first.splitlines()[2:] == prepare.table()
