"""Shards for training: every video once, the same bytes again, and only what is missing after a stop."""

import hashlib
import json
import tarfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import make_shards
from reference.data.sources import read_shards, shards_of
from reference.data.splitting import held_out
from reference.make_shards import Entry, plan
from reference.training.seen import HELD_OUT, TRAIN, parts_of, write_seen

from vov3d.files import replacing

ENTRIES = st.lists(st.tuples(st.text("abcé", min_size=1, max_size=5), st.integers(0, 50)), unique_by=lambda e: e[0])


@given(ENTRIES, st.integers(1, 100), st.integers(0, 3))
def test_a_plan_holds_every_video_once_within_its_limit(rows, limit, seed) -> None:
    entries = [Entry(Path(name), size, "run", 0) for name, size in rows]
    shards = plan(entries, Path("out"), "train", limit, seed)
    packed = [entry for shard in shards for entry in shard.entries]
    assert sorted(map(str, packed)) == sorted(map(str, entries))
    assert [shard.first for shard in shards] == [sum(len(s.entries) for s in shards[:i]) for i in range(len(shards))]
    for shard in shards:
        assert sum(entry.size for entry in shard.entries) <= limit or len(shard.entries) == 1
    assert shards == plan(entries[::-1], Path("out"), "train", limit, seed)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Writes class folders of files that are named as videos."""
    for number in range(12):
        path = (
            tmp_path / "data" / ("run" if number % 3 else "jump é") / f"v{number}.tar.{'MP4' if number % 2 else 'webm'}"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([number]) * (100 * number + 1))
    return tmp_path / "data"


def make(data: Path, out: Path, *more: str) -> int:
    return make_shards.main([str(data), "--output", str(out), "--workers", "3", *more])


@pytest.fixture
def small(monkeypatch) -> None:
    """Makes a megabyte of 1000 bytes, for several shards of small files."""
    monkeypatch.setattr(make_shards, "_MB", 1000)


def digests(out: Path) -> dict[str, str]:
    return {tar.name: hashlib.sha256(tar.read_bytes()).hexdigest() for tar in sorted(out.glob("*.tar"))}


def test_shards_hold_all_videos_and_their_labels(data: Path, tmp_path: Path, small) -> None:
    out = tmp_path / "out"
    assert make(data, out, "--shard-mb", "2") == 0
    tars, _ = shards_of(str(out), None)
    source = read_shards("out", tars, None, None)
    found = {(source.label_name(i), source.files[i].read()) for i in range(len(source))}  # type: ignore[index, union-attr]
    assert len(tars) > 2
    assert found == {(path.parent.name, path.read_bytes()) for path in data.rglob("v*")}
    for name, digest in digests(out).items():
        assert (out / f"{name}.sha256").read_text() == f"{digest}  {name}\n"
    about = json.loads((out / "all.json").read_text())
    assert (about["videos"], about["classes"]) == (12, ["jump é", "run"])


def test_classes_of_shards_have_the_numbers_of_their_list(tmp_path: Path) -> None:
    # Sorted by their letters, "class 10" would be the third, and a list of numbers would be measured as other classes.
    labels = [*range(9), 10, 11]  # there is no video of class 9
    for label in labels:
        (tmp_path / f"{label}.mp4").write_bytes(bytes([label]))
    (tmp_path / "list.csv").write_text("".join(f"{label}.mp4,{label}\n" for label in labels))
    assert make(tmp_path / "list.csv", tmp_path / "out") == 0
    tars, _ = shards_of(str(tmp_path / "out"), None)
    source = read_shards("out", tars, None, None)
    assert source.classes == tuple(f"class {number}" for number in range(12))
    assert [file.read() for file in source.files or ()] == [bytes([label]) for label in source.labels]  # type: ignore[union-attr]
    (tmp_path / "out" / "all.json").unlink()
    assert read_shards("out", tars, None, None).classes == tuple(sorted(f"class {label}" for label in labels))


def test_packed_videos_are_known_by_their_former_names(tmp_path: Path) -> None:
    """Clips of one video stay on one side of the split, and evaluation on the folder knows what was trained on."""
    files = [tmp_path / f"data/{c}/v_{c}_g{g}_c{n}.avi" for c in ("run", "jump") for g in range(10, 14) for n in (1, 2)]
    for number, path in enumerate(files):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%04d" % number)
    assert make(tmp_path / "data", tmp_path / "out") == 0
    train, val = held_out(read_shards("out", shards_of(str(tmp_path / "out"), None)[0], None, None), 0.25)
    write_seen(tmp_path / "model/videos.csv", train, val)
    parts = dict(zip(files, parts_of(tmp_path / "model", files), strict=True))
    assert Counter(parts.values()) == {TRAIN: 12, HELD_OUT: 4}
    assert len({(path.stem[:-1], part) for path, part in parts.items()}) == 8
    packed = [member for source in (train, val) for member in source.files or ()]
    assert Counter(parts_of(tmp_path / "model", packed)) == {TRAIN: 12, HELD_OUT: 4}


def test_webdataset_reads_them(data: Path, tmp_path: Path, small) -> None:
    webdataset = pytest.importorskip("webdataset")
    out = tmp_path / "out"
    assert make(data, out, "--shard-mb", "2") == 0
    urls = [str(tar) for tar in sorted(out.glob("*.tar"))]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False))
    assert len({sample["__key__"] for sample in samples}) == 12
    assert {sample.get("mp4", sample.get("webm")) for sample in samples} == {p.read_bytes() for p in data.rglob("v*")}
    assert all(json.loads(sample["json"])["label"] in ("run", "jump é") for sample in samples)


def test_the_same_command_makes_what_is_missing_to_the_same_bytes(data, tmp_path, small, monkeypatch, capsys) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert make(data, whole, "--shard-mb", "2") == 0
    written = []

    def failing(path):
        if len(written) == 3:
            raise OSError("the disk is full")
        written.append(path)
        return replacing(path)

    monkeypatch.setattr(make_shards, "replacing", failing)
    assert make_shards.main([str(data), "--output", str(out), "--workers", "1", "--shard-mb", "2"]) == 1
    monkeypatch.undo()
    monkeypatch.setattr(make_shards, "_MB", 1000)
    there = {tar: tar.stat().st_mtime_ns for tar in out.glob("*.tar")}
    assert 0 < len(there) < len(digests(whole))
    assert make(data, out, "--shard-mb", "2") == 0
    assert "shards are there" in capsys.readouterr().err
    assert digests(out) == digests(whole)
    assert {tar: tar.stat().st_mtime_ns for tar in there} == there


def test_damage_is_found_and_repaired(data: Path, tmp_path: Path, small, capsys) -> None:
    out = tmp_path / "out"
    make(data, out, "--shard-mb", "2")
    before = digests(out)
    tar = out / next(iter(before))
    tar.write_bytes(tar.read_bytes()[:-1] + b"x")
    assert make(data, out, "--shard-mb", "2") == 0
    assert digests(out) != before  # it is not read without being asked
    assert make(data, out, "--shard-mb", "2", "--verify") == 0
    assert "is damaged and made again" in capsys.readouterr().err
    assert digests(out) == before


def test_other_videos_or_settings_need_another_folder(data: Path, tmp_path: Path, small, capsys) -> None:
    out = tmp_path / "out"
    make(data, out, "--shard-mb", "2")
    for more in (["--shard-mb", "3"], ["--shard-mb", "2", "--seed", "1"]):
        assert make(data, out, *more) == 1
        assert "name another folder" in capsys.readouterr().err
    (data / "run" / "more.mp4").write_bytes(b"1")
    assert make(data, out, "--shard-mb", "2") == 1
    (out / "all.json").unlink()  # the shards that stay are of other videos
    capsys.readouterr()
    assert make(data, out, "--shard-mb", "2") == 1
    assert "all-000000.tar: is there without all.json, which says of what" in capsys.readouterr().err


def test_a_video_that_changes_meanwhile_leaves_no_shard(data: Path, tmp_path: Path) -> None:
    path = next(data.rglob("*.MP4"))
    shard = plan([Entry(path, path.stat().st_size + 1, "run", 0)], tmp_path, "all", 10, 0)[0]
    with pytest.raises(OSError, match="has changed"):
        make_shards.write_shard(shard)
    assert not list(tmp_path.glob("*.tar*"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"kind": "labels"}, "one label a video"),
        ({"labels": ()}, "has none"),
        ({"sections": (object(),)}, "parts of longer videos"),
        ({"classes": ("7",)}, "reads as another class's number"),
        ({"paths": (Path("frames"),)}, "is no video file"),
    ],
)
def test_what_shards_cannot_hold_is_refused(change, says) -> None:
    fine = {"paths": (Path("a.mp4"),), "labels": (0,), "classes": ("run",), "sections": (), "kind": "label"}
    with pytest.raises(ValueError, match=says):
        make_shards.entries_of(SimpleNamespace(**{**fine, **change}), "list.csv")  # type: ignore[arg-type]


def test_headers_tell_nothing_of_the_machine(data: Path, tmp_path: Path, small) -> None:
    make(data, tmp_path / "out")
    with tarfile.open(next((tmp_path / "out").glob("*.tar"))) as tar:
        assert {(info.mtime, info.uid, info.gid, info.uname) for info in tar} == {(0, 0, 0, "")}
