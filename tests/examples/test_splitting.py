"""Held-out videos: whole videos, no copies on both sides, and a list of them that evaluation takes."""

import csv
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.tiny_training_runs import clips_file, command
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import evaluate, train
from reference.data import splitting
from reference.data.sources import Member, Source
from reference.data.splitting import groups_of, held_out, read_sources
from reference.training.recipe import load_recipe, sections
from reference.training.seen import HELD_OUT, TRAIN, parts_of, write_seen

from vov3d.synthetic.moving_shapes import CLASSES, write_videos
from vov3d.video import Section


def source_of(files: list[Path | Member], labels: list[int] | None = None) -> Source:
    labels = labels or [0] * len(files)
    return Source("x", np.array(labels, np.int64), tuple(f"class {i}" for i in range(max(labels) + 1)), files)


def sides(source: Source, share: float = 0.3, group: str = "") -> tuple[set[str], set[str]]:
    train_part, val = held_out(source, share, group)
    return {str(f) for f in train_part.files}, {str(f) for f in val.files}


@settings(deadline=None, max_examples=60)
@given(
    groups=st.lists(st.integers(1, 6), min_size=2, max_size=9),
    share=st.floats(0.05, 0.9),
    name=st.sampled_from(
        [
            "v_Archery_g{:02d}_c{:02d}.avi",
            "film{:d}_brush_hair_u_nm_np1_ba_goo_{:d}.avi",
            "{:011d}_00001{:d}_00002{:d}.mp4",
            "match{:d}-part{:d}.mp4",
        ]
    ),
)
def test_clips_of_one_video_stay_on_one_side(groups, share, name):
    files = [Path(name.format(g, c, c)) for g, number in enumerate(groups, 1) for c in range(number)]
    owner = [g for g, number in enumerate(groups, 1) for _ in range(number)]
    train_part, val = held_out(source_of(files), share)
    of = {str(file): g for file, g in zip(files, owner, strict=True)}
    ours, theirs = ({of[str(file)] for file in part.files} for part in (train_part, val))
    assert ours
    assert theirs
    assert len(train_part) + len(val) == len(files)
    if max(groups) > 1:
        assert not ours & theirs
        assert "groups, each on one side of the split" in " ".join(train_part.notes)


def test_groups_by_an_expression_and_none():
    files = [Path(f"cam{c}_day{d}.mp4") for d in range(5) for c in range(2)]
    train_part, val = sides(source_of(files), group=r"day\d")
    assert not {f[-5] for f in train_part} & {f[-5] for f in val}
    assert groups_of(source_of(files), r"(cam\d)_")[0] == [0, 1] * 5
    assert len(set(groups_of(source_of([Path(f"v_g01_c0{i}.avi") for i in range(3)]), "none")[0])) == 3
    for group, message in (("(", "is no regular expression"), ("night", "matches no name of a file")):
        with pytest.raises(ValueError, match=message):
            held_out(source_of(files), 0.2, group)


def test_copies_stay_on_one_side(tmp_path):
    rng = np.random.default_rng(0)
    files, labels = [], []
    for i in range(12):
        (tmp_path / f"{i}.mp4").write_bytes(rng.bytes(20_000))
        (tmp_path / f"copy of {i}.mp4").write_bytes((tmp_path / f"{i}.mp4").read_bytes())
        files += [tmp_path / f"{i}.mp4", tmp_path / f"copy of {i}.mp4"]
        labels += [i % 2] * 2
    train_part, val = held_out(source_of(files, labels), 0.3)
    stems = [{Path(f).stem.removeprefix("copy of ") for f in part.files} for part in (train_part, val)]
    assert not stems[0] & stems[1]
    assert stems[1]
    assert "12 files are copies of others" in " ".join(train_part.notes)


def test_a_class_of_one_group_is_not_held_out():
    files = [Path(f"v_g01_c0{i}.avi") for i in range(4)] + [Path(f"w_g0{i}_c01.avi") for i in range(4)]
    train_part, val = held_out(source_of(files, [0] * 4 + [1] * 4), 0.25)
    assert np.bincount(train_part.labels).tolist() == [4, 3]
    assert val.labels.tolist() == [1]
    assert "nothing is held out of 1 classes" in " ".join(train_part.notes)
    with pytest.raises(ValueError, match="no class has videos to hold out"):
        held_out(source_of(files[:4]), 0.25)


def options(path: Path, **keys):
    r = sections(load_recipe("finetune", {k.replace("_", ".", 1): str(v) for k, v in keys.items()}))
    r.data.path = str(path)
    return r.data, r.shapes


def test_no_video_is_on_both_sides_of_a_split(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.mp4").write_bytes(name.encode() * 5000)
    (tmp_path / "same.mp4").symlink_to(tmp_path / "a.mp4")
    (tmp_path / "copy.mp4").write_bytes(b"b" * 5000)
    (tmp_path / "train.txt").write_text("a.mp4 0\nb.mp4 1\n")
    for name in ("a", "same", "copy"):
        (tmp_path / "val.txt").write_text(f"c.mp4 0\n{name}.mp4 1\n".replace("a.mp4 1", "a.mp4 0"))
        with pytest.raises(ValueError, match=f"1 of 2 videos for validation are among those for training, as .*{name}"):
            read_sources(*options(tmp_path))
        assert len(read_sources(*options(tmp_path, data_overlap="true"))[1]) == 2


@pytest.mark.parametrize(("group", "shared"), [("g01", True), ("g03", False)])
def test_a_split_that_parts_the_clips_of_one_video_is_noted(tmp_path, group, shared):
    for part, names in (("train", ("g01_c01", "g02_c01")), ("val", ("g04_c01", f"{group}_c02"))):
        for name in names:
            for sport in ("Archery", "Biking"):
                path = tmp_path / part / sport / f"v_{sport}_{name}.avi"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(path.name.encode())
    notes = " ".join(read_sources(*options(tmp_path))[1].notes)
    assert ("2 of 4 videos for validation share a group with videos for training" in notes) is shared


@pytest.mark.parametrize(
    ("part", "shared"), [("a.mp4,4,8", True), ("a.mp4,,", True), ("a.mp4,5,8", False), ("b.mp4,0,9", False)]
)
def test_no_stretch_of_a_video_is_on_both_sides_of_a_split(tmp_path, part, shared):
    for name in ("a", "b"):
        (tmp_path / f"{name}.mp4").write_bytes(name.encode() * 100)
    (tmp_path / "train.csv").write_text("path,start,end,label\na.mp4,0,5,x\na.mp4,20,,y\n")
    (tmp_path / "val.csv").write_text(f"path,start,end,label\na.mp4,9,12,y\n{part},x\n")
    if shared:
        with pytest.raises(ValueError, match=r"1 of 2 videos .*, which overlaps .*a\.mp4 \(from 0 s to 5 s\): take"):
            read_sources(*options(tmp_path))
    else:
        assert len(read_sources(*options(tmp_path))[1]) == 2


def test_no_clip_in_memory_is_on_both_sides_of_a_split(tmp_path):
    with np.load(clips_file(tmp_path, 20)) as file:
        content = dict(file)
    content["clips"][7] = content["clips"][1]
    np.savez(tmp_path / "own.npz", **content)
    train_part, _ = read_sources(*options(tmp_path / "own.npz"))
    assert "1 files are copies of others" in " ".join(train_part.notes)
    other = clips_file(tmp_path, 6, seed=1)
    assert len(read_sources(*options(other, data_val=clips_file(tmp_path, 20)))[1]) == 20
    with pytest.raises(ValueError, match=r"20 of 20 videos .*, as .*own.npz, clip 0, which is .*20-0.npz, clip 0"):
        read_sources(*options(clips_file(tmp_path, 20), data_val=tmp_path / "own.npz"))


# --- what a model has seen -------------------------------------------------------------------------------------------


def test_the_list_recognises_moved_files_and_files_of_one_name(tmp_path):
    for name, size in (("x/1.mp4", 10), ("y/1.mp4", 10), ("x/2.mp4", 11), ("y/é\udcff.mp4", 12)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"v" * size)
    x1, y1, x2, odd = (tmp_path / name for name in ("x/1.mp4", "y/1.mp4", "x/2.mp4", "y/é\udcff.mp4"))
    write_seen(tmp_path / "model/videos.csv", source_of([x1, x2]), source_of([y1, odd]))
    assert parts_of(tmp_path / "model", [x1, y1, x2, odd]) == [TRAIN, HELD_OUT, TRAIN, HELD_OUT]
    (tmp_path / "elsewhere").mkdir()
    moved = x2.rename(tmp_path / "elsewhere/2.mp4")
    (tmp_path / "elsewhere/3.mp4").write_bytes(b"v" * 10)
    assert parts_of(tmp_path / "model", [moved, tmp_path / "elsewhere/3.mp4"]) == [TRAIN, None]
    assert parts_of(tmp_path, [x1]) == [None]
    composed, decomposed = (tmp_path / unicodedata.normalize(form, "é.mp4") for form in ("NFC", "NFD"))
    decomposed.write_bytes(b"v" * 13)
    write_seen(tmp_path / "model/videos.csv", source_of([decomposed]), None)
    assert parts_of(tmp_path / "model", [decomposed.rename(composed)]) == [TRAIN]
    (tmp_path / "model/mine.onnx").touch()
    assert parts_of(tmp_path / "model/mine.onnx", [composed]) == [TRAIN]
    write_seen(tmp_path / "model/videos.csv", replace(source_of([composed]), name="shapes:train"), None)
    assert parts_of(tmp_path / "model", [composed]) == [None]
    (tmp_path / "videos.csv").write_text("other\n")
    assert parts_of(x1.rename(tmp_path / "1.pt"), [x1]) == [None]
    with pytest.raises(ValueError, match="expected the columns part,class"):
        parts_of(tmp_path, [x1])


def test_the_list_recognises_what_shares_a_moment_with_a_video_for_training(tmp_path):
    day, night = tmp_path / "day one.mp4", tmp_path / "night.mp4"
    for file, size in ((day, 10), (night, 11)):
        file.write_bytes(b"v" * size)
    write_seen(tmp_path / "a/videos.csv", source_of([Section(day, 5, 10.5)]), source_of([Section(night, 0, 5)]))
    items = [Section(day, 5, 10.5), Section(day, 0, 5), Section(day, 10, 12), Section(day, 10.5), day, night]
    assert parts_of(tmp_path / "a", items) == [TRAIN, None, TRAIN, None, TRAIN, None]
    write_seen(tmp_path / "b/videos.csv", source_of([day]), source_of([night]))
    items = [day, Section(day, 3, 4), night, Section(night, 3, 4)]
    assert parts_of(tmp_path / "b", items) == [TRAIN, TRAIN, HELD_OUT, None]


@pytest.mark.parametrize("kind", ["folder", "clips"])
def test_evaluation_takes_the_held_out_videos(tmp_path, monkeypatch, capsys, kind):
    monkeypatch.chdir(tmp_path)
    if kind == "folder":
        write_videos(Path("data"), 5, seed=0, num_frames=5, size=32, classes=CLASSES[:2])
        data, out_of = Path("data"), 10
    else:
        data, out_of = clips_file(tmp_path, 20), 20
    keys = dict(data_val_share=0.2, schedule_epochs=1, data_workers=0)
    assert train.main(command(data, Path("run"), **keys)) == 0
    with Path("run/model/videos.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert Path("run/videos.csv").read_bytes() == Path("run/model/videos.csv").read_bytes()
    number = sum(row["part"] == HELD_OUT for row in rows)
    assert (number, len(rows)) == (out_of // 5, out_of)
    words = ["--data", str(data), "--model", "run/model", "--views", "1x1"]
    capsys.readouterr()
    assert evaluate.main(words) == 0
    text = capsys.readouterr()
    assert f"run/model was trained on {out_of - number} of these {out_of} videos" in text.err
    assert f"measuring the {number} that were held out" in text.err
    assert f": {number} videos of 2 classes" in text.out
    assert evaluate.main([*words, "--all"]) == 0
    text = capsys.readouterr()
    assert "WARNING: they are measured" in text.err
    assert f": {out_of} videos of 2 classes" in text.out


def test_only_files_of_equal_size_are_compared_by_content(tmp_path, monkeypatch):
    for i in range(5):
        (tmp_path / f"{i}.mp4").write_bytes(b"v" * (100 + i // 4))
    looked = []
    content = splitting._content
    monkeypatch.setattr(splitting, "_content", lambda *args: looked.append(args) or content(*args))
    groups_of(source_of([tmp_path / f"{i}.mp4" for i in range(5)]))
    assert len(looked) == 4
