"""Classifying many videos in stages: what is named, done and left, and decoders that hang; Ray is in another file."""

import json
import os
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cluster import classify, results
from cluster.decoding import Decoder, Decoding, decode
from cluster.inputs import collect, is_remote, is_whole
from cluster.plan import Cluster, plan, rates_of
from cluster.plan import main as plan_main
from cluster.stages import Decode, Model, Modelling, Write, names_table
from helpers.numbered_videos import folder_of_frames, write_video
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from vov3d.video import VideoClassifier, VideoReader, plan_clips

# --- which videos ----------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Writes empty files under the names of videos."""
    for name in ("b.mp4", "deep/a.MKV", "deep/notes.txt", ".hidden/c.mp4"):
        (tmp_path / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "videos" / name).write_bytes(b"")
    return tmp_path / "videos"


def test_every_form_names_the_same_videos(folder: Path, tmp_path: Path) -> None:
    wanted = [str(folder / "b.mp4"), str(folder / "deep/a.MKV")]
    (tmp_path / "list.txt").write_text("\n".join(wanted) + "\n\n")
    pq.write_table(pa.table({"file": wanted}), tmp_path / "list.parquet")
    assert collect([str(folder)]) == wanted
    assert collect([f"{folder}/**/*"]) == wanted
    assert collect([f"@{tmp_path}/list.txt"]) == wanted
    assert collect([f"{tmp_path}/list.parquet"], column="file") == wanted
    assert collect([wanted[0], str(folder), wanted[1]]) == wanted  # each once


def test_lists_may_be_utf_16(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a.mp4\n\nü/b.mp4\n", encoding="utf-16")
    assert collect([f"@{tmp_path}/list.txt"]) == ["a.mp4", "ü/b.mp4"]


def test_links_and_frames_in_a_folder_are_left_out_with_a_note(folder: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "other").mkdir()
    (folder / "link").symlink_to(tmp_path / "other")
    (folder / "frames").mkdir()
    (folder / "frames" / "0001.jpg").touch()
    assert len(collect([str(folder)])) == 2
    said = capsys.readouterr().err
    assert f"{folder}: left out 1 links to folders (link); 1 folders of pictures (frames); give them by name" in said


def test_object_stores_are_listed(folder: Path) -> None:
    import fsspec

    store = fsspec.filesystem("memory")
    for name in ("/shop/b.mp4", "/shop/deep/a.mkv", "/shop/deep/notes.txt"):
        store.pipe(name, b"content")
    assert collect(["memory://shop/"]) == ["memory:///shop/b.mp4", "memory:///shop/deep/a.mkv"]
    assert collect(["memory://shop/*.mp4"]) == ["memory:///shop/b.mp4"]
    assert collect(["memory://shop/b.mp4"]) == ["memory://shop/b.mp4"]
    store.pipe("/shop/day.1/c.mp4", b"content")
    store.pipe("/shop/clip.bin", b"content")
    assert collect(["memory://shop/day.1"]) == ["memory:///shop/day.1/c.mp4"]
    assert collect(["memory://shop/clip.bin"]) == ["memory://shop/clip.bin"]
    with pytest.raises(FileNotFoundError, match="memory://none/"):
        collect(["memory://none/"])
    assert not is_remote("https://host/a.mp4")
    assert collect(["https://host/a.mp4?key=1", "http://host/[1].mp4"]) == [
        "https://host/a.mp4?key=1",
        "http://host/[1].mp4",
    ]


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("{}/empty", "names no file with a video's extension"),
        ("{}/*.avi", "names no file with a video's extension"),
        ("@{}/none.txt", "no such list"),
        ("@{}/list.parquet", "is not text"),
        ("{}/none.parquet", "no such Parquet file"),
        ("{}/list.parquet", "has no column 'path'"),
    ],
)
def test_what_names_nothing_is_refused(argument: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    pq.write_table(pa.table({"file": ["a.mp4"]}), tmp_path / "list.parquet")
    with pytest.raises((FileNotFoundError, ValueError), match=says):
        collect([argument.format(tmp_path)])


@given(st.lists(st.text(min_size=1, max_size=4), unique=True), st.integers(1, 12))
def test_shards_are_disjoint_complete_and_equal(videos: list[str], count: int) -> None:
    shares = [results.shard_of(videos, (number, count)) for number in range(1, count + 1)]
    assert sorted(video for share in shares for video in share) == sorted(videos)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


# --- what is done ----------------------------------------------------------------------------------------------------


def rows(paths: list[str]) -> pa.Table:
    empty = results.schema(False).empty_table()
    columns = {name: [None] * len(paths) for name in empty.column_names}
    return pa.table({**columns, "path": paths, "error": ["is broken"] * len(paths)}, schema=empty.schema)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=5, unique=True), max_size=6))
def test_repeated_rows_are_removed_and_no_video_is_lost(tmp_path_factory, parts: list[list[str]]) -> None:
    folder = tmp_path_factory.mktemp("results")
    for number, part in enumerate(parts):
        results.write(folder, rows(part), (number % 2 + 1, 2))
    before = results.done(folder)
    assert before == {path for part in parts for path in part}
    results.remove_repeats(folder)
    stored = pq.read_table(folder)["path"].to_pylist() if any(folder.iterdir()) else []
    assert sorted(stored) == sorted(before)
    assert results.remove_repeats(folder) == 0


def test_a_stage_that_runs_again_replaces_its_file(tmp_path: Path) -> None:
    assert results.write(tmp_path, rows(["a", "b"])) == results.write(tmp_path, rows(["a", "b"]))
    assert results.remove_repeats(tmp_path) == 0


def test_what_is_left_keeps_its_order_and_names_that_are_no_utf8(tmp_path: Path) -> None:
    strange = os.fsdecode(b"b\xff.mp4")
    results.write(tmp_path, rows([results.text_of(strange)]))
    assert results.left(["c.mp4", strange, "a.mp4"], results.done(tmp_path)) == ["c.mp4", "a.mp4"]


def test_other_settings_are_refused(tmp_path: Path) -> None:
    results.begin(tmp_path, {"model": "x", "views": "1x1"})
    results.begin(tmp_path, {"model": "x", "views": "1x1"})
    with pytest.raises(ValueError, match="views '1x1' and not '2x3'"):
        results.begin(tmp_path, {"model": "x", "views": "2x3"})


def test_names_from_another_folder_are_not_taken_for_done(tmp_path: Path) -> None:
    made = {"model": "x"}
    results.begin(tmp_path, made)  # of whole names, or before it was noted
    for start in ("/day1", None, "/day1"):
        results.begin(tmp_path, made, start)
    with pytest.raises(ValueError, match=r"named from /day1, so the same names here, in /day2, may be others"):
        results.begin(tmp_path, made, "/day2")
    results.begin(tmp_path, made)
    with pytest.raises(ValueError, match="/day1"):
        results.begin(tmp_path, made, "/day2")
    with pytest.raises(ValueError, match="model 'x' and not 'y'; name another folder"):
        results.begin(tmp_path, {"model": "y"}, "/day1")


@pytest.mark.parametrize(("name", "whole"), [("a.mp4", 0), ("/a.mp4", 1), ("s3://b/a.mp4", 1), ("http://h/a.mp4", 1)])
def test_whole_names(name: str, whole: bool) -> None:
    assert is_whole(name) == whole


def test_rows_of_broken_videos_are_removed(tmp_path: Path) -> None:
    table = rows(["a", "b", "c"])
    found = table.set_column(table.column_names.index("error"), "error", pa.array(["x", None, "x"], pa.string()))
    results.write(tmp_path, found)
    results.write(tmp_path, rows(["d"]))
    assert results.forget_broken(tmp_path, ["a", "b", "d", "e"]) == 2
    assert results.done(tmp_path) == {"b", "c"}


@pytest.mark.parametrize("labelled", [0, 1])
def test_of_repeated_rows_one_with_labels_stays(labelled: int, tmp_path: Path) -> None:
    errors = [pa.array(["x", "x"], pa.string()), pa.array([None, "x"], pa.string())]
    for number in (0, 1):
        table = rows(["a", "b"]).set_column(rows([]).column_names.index("error"), "error", errors[number ^ labelled])
        results.write(tmp_path, table, (number + 1, 2))
    assert results.remove_repeats(tmp_path) == 2
    stored = pq.read_table(tmp_path)
    assert dict(zip(stored["path"].to_pylist(), stored["error"].to_pylist(), strict=True)) == {"a": None, "b": "x"}


def test_shards_that_retry_at_once_do_not_bring_rows_back(tmp_path: Path, monkeypatch) -> None:
    rewrite = results._keep
    monkeypatch.setattr(results, "_keep", lambda file, keep: (time.sleep(0.2), rewrite(file, keep)))
    results.write(tmp_path, rows(["a", "b", "c"]))
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(results.forget_broken, [tmp_path] * 2, [["a"], ["b"]])) == [1, 1]
    assert results.done(tmp_path) == {"c"}


def test_a_file_that_another_run_deletes_has_no_rows(tmp_path: Path, monkeypatch) -> None:
    results.write(tmp_path, rows(["a"]))
    listed = results._parts(tmp_path)
    results.forget_broken(tmp_path, ["a"])
    monkeypatch.setattr(results, "_parts", lambda folder: listed)
    assert not results.done(tmp_path)
    assert results.remove_repeats(tmp_path) == 0


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    results.write(tmp_path, rows(["a"])).write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"part-.*is no file of results"):
        results.done(tmp_path)


# --- decoders --------------------------------------------------------------------------------------------------------

STAND_IN = """
import os, sys, time
from multiprocessing.connection import Connection
from collections import Counter
from dataclasses import replace
from pathlib import Path
from cluster.decoding import Decoded
link = Connection(int(sys.argv[1]))
link.recv()
link.send(True)
while True:
    name = link.recv()
    if "hangs" in name:
        time.sleep(600)
    if "crashes" in name or ("once" in name and not Path(name).exists()):
        Path(name).touch()
        os._exit(11)
    link.send(Decoded(name, (1, 1, 1, 1, 3), (1,)))
    link.send_bytes(b"abc")
"""
DECODING = Decoding({}, 1, 1, 0.3, ".")


def test_videos_that_hang_or_crash_cost_their_row_alone(tmp_path: Path) -> None:
    decoder = Decoder(DECODING, [sys.executable, "-c", STAND_IN])
    found = [decoder(str(tmp_path / name)) for name in ("fine", "hangs", "also fine", "crashes", "lost once")]
    decoder.close()
    assert [row.views for row in found] == [b"abc", b"", b"abc", b"", b"abc"]
    assert "hangs: was not decoded within 0.3 s and given up; --timeout" in str(found[1].error)
    assert "crashes: the decoder crashes on it" in str(found[3].error)
    assert 0.3 <= found[1].seconds < 60


def test_the_process_of_a_hanging_decoder_is_gone() -> None:
    decoder = Decoder(DECODING, [sys.executable, "-c", STAND_IN])
    decoder("fine")
    process = decoder._process
    decoder("hangs")
    assert process is not None
    assert process.returncode == -9


def test_a_decoder_that_cannot_start_says_so() -> None:
    with pytest.raises(RuntimeError, match="cannot start"):
        Decoder(DECODING, [sys.executable, "-c", "raise SystemExit(3)"])("a.mp4")


# --- stages ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(Modelling("vov3d_n", views="2x3", batch=4, topk=3, embedding=True, device="cpu"))


@pytest.fixture
def in_this_process(monkeypatch) -> None:
    """Decodes in the process of the test, which has everything imported."""
    monkeypatch.setattr(Decoder, "__call__", lambda self, name: decode(name, self._decoding))


def decoding_of(model: Model, folder: Path) -> Decoding:
    return Decoding(model.cfg, model.clips, model.crops, 60.0, str(folder))


def test_stages_give_what_the_classifier_gives(model: Model, tmp_path: Path, in_this_process) -> None:
    write_video(tmp_path / "a.mp4", num_frames=40)
    write_video(tmp_path / "b.mp4", num_frames=3)  # whose clips are equal
    (tmp_path / "c.mp4").write_bytes(b"no video")
    tables = list(Decode(decoding_of(model, tmp_path))(names_table(["a.mp4", "b.mp4", "c.mp4", "none.mp4"])))
    (found,) = [model(table) for table in tables]
    (tmp_path / "out").mkdir()
    counts = Write(tmp_path / "out", (1, 1))(found).to_pylist()[0]
    assert (counts["videos"], counts["broken"]) == (4, 2)
    stored = {row["path"]: row for row in pq.read_table(tmp_path / "out").to_pylist()}
    classifier = VideoClassifier(model._network, "2x3")
    for name in ("a.mp4", "b.mp4"):
        result = classifier.result(tmp_path / name, topk=3)
        assert stored[name]["labels"] == [p.label for p in result.predictions]
        np.testing.assert_allclose(stored[name]["scores"], [p.score for p in result.predictions], atol=1e-5)
        np.testing.assert_allclose(stored[name]["embedding"], classifier.embedding(tmp_path / name), atol=1e-4)
        assert (stored[name]["error"], stored[name]["weights"]) == (None, model.digest)
    for name in ("c.mp4", "none.mp4"):
        assert stored[name]["labels"] is stored[name]["embedding"] is None
        assert name in stored[name]["error"]


def test_folders_of_frames_play_at_the_given_rate_and_files_at_their_own(model: Model, tmp_path: Path) -> None:
    folder_of_frames(tmp_path / "frames", 90)
    write_video(tmp_path / "a.mp4", num_frames=90)
    cfg = {**model.cfg, "sampling": "dense", "frame_stride": 4}
    usual = replace(decoding_of(model, tmp_path), cfg=cfg)
    fast = replace(usual, fps=48.0)
    assert decode("a.mp4", usual).views == decode("a.mp4", fast).views != b""
    assert decode("frames", usual).views != decode("frames", fast).views != b""
    clips = Counter(plan_clips(cfg, VideoReader(tmp_path / "frames", fps=48.0), model.clips))
    assert decode("frames", fast).weights == tuple(n for n in clips.values() for _ in range(model.crops))


def test_a_video_in_an_object_store_is_read(model: Model, tmp_path: Path) -> None:
    import fsspec

    content = write_video(tmp_path / "a.mp4", num_frames=20).read_bytes()
    fsspec.filesystem("memory").pipe("/shop/a.mp4", content)
    found, local = (decode(name, decoding_of(model, tmp_path)) for name in ("memory://shop/a.mp4", "a.mp4"))
    assert found.views == local.views != b""
    missing = decode("memory://shop/none.mp4", decoding_of(model, tmp_path))
    assert "memory://shop/none.mp4" in str(missing.error)


def test_a_network_without_vectors_is_refused() -> None:
    model = Model(Modelling("vov3d_n", device="cpu"))
    model._network = nn.Linear(1, 1)
    with pytest.raises(ValueError, match="gives labels, not vectors"):
        model._keep_features()


# --- the command without Ray -----------------------------------------------------------------------------------------


def run(*argv: object) -> int:
    return classify.main([*map(str, argv), "--no-ray", "--decode-cpus", "2", "--gpus", "0"])


def test_a_stopped_run_continues_and_a_whole_one_does_nothing(tmp_path, monkeypatch, capsys, in_this_process) -> None:
    monkeypatch.chdir(tmp_path)
    Path("videos").mkdir()
    for number in range(7):
        write_video(Path(f"videos/{number}.mp4"), num_frames=10)
    Path("videos/broken.mp4").write_bytes(b"no video")
    again = ("videos", "--output", "out", "--rows", 2, "--block", 2)
    written = Write.__call__

    def stopping(self, table):
        found = written(self, table)
        if len(list(Path("out").glob("part-*"))) == 2:
            raise OSError("the disk is gone")
        return found

    monkeypatch.setattr(Write, "__call__", stopping)
    assert run(*again) == 1
    kept = len(results.done(Path("out")))
    assert 0 < kept < 8
    monkeypatch.setattr(Write, "__call__", written)
    assert run(*again) == 0
    assert f"{kept} of 8 videos are done" in capsys.readouterr().err
    paths = pq.read_table("out")["path"].to_pylist()
    assert sorted(paths) == sorted([*(f"videos/{number}.mp4" for number in range(7)), "videos/broken.mp4"])
    files = {file: file.stat().st_mtime_ns for file in Path("out").iterdir()}
    assert run(*again) == 0
    assert {file: file.stat().st_mtime_ns for file in Path("out").iterdir()} == files
    summary = json.loads(Path("out/_summary.json").read_text())
    assert summary["videos"] == 8 - kept
    Path("elsewhere/videos").mkdir(parents=True)
    write_video(Path("elsewhere/videos/1.mp4"), num_frames=10)
    with monkeypatch.context() as patched:
        patched.chdir("elsewhere")
        assert run("videos", "--output", "../out") == 1
    assert f"named from {tmp_path}, so the same names here" in capsys.readouterr().err
    write_video(Path("videos/broken.mp4"), num_frames=10)
    assert run(*again, "--retry-broken") == 0
    assert "1 broken videos are done again" in capsys.readouterr().err
    repaired = pq.read_table("out")
    assert sorted(repaired["path"].to_pylist()) == sorted(paths)
    assert repaired["error"].null_count == 8
    assert rates_of(Path("out/_summary.json"))[1] is None


def test_shards_write_into_one_folder(tmp_path, in_this_process) -> None:
    for number in range(5):
        write_video(tmp_path / f"{number}.mp4", num_frames=10)
    for number in (1, 2):
        assert run(tmp_path, "--output", tmp_path / "out", "--shard", f"{number}/2") == 0
    assert len(pq.read_table(tmp_path / "out")) == len(results.done(tmp_path / "out")) == 5


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--address", "auto"], "--address is for Ray and has no effect with --no-ray"),
        (["--model-cpus", "2"], "--shard I/N"),
        (["--embedding", "--model", "none.onnx"], "none.onnx"),
        (["--views", "0x1"], "views"),
        (["--fps", "0"], "--fps 0: frames per second must be positive"),
        (["--fps", "nan"], "--fps nan"),
    ],
)
def test_settings_without_effect_are_refused(argv, says, tmp_path, capsys) -> None:
    write_video(tmp_path / "a.mp4", num_frames=10)
    assert run(tmp_path, "--output", tmp_path / "out", *argv) == 1
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/0", "a/b", "1/2/3", "-1/2"])
def test_a_shard_is_i_of_n(text, tmp_path, capsys) -> None:
    with pytest.raises(SystemExit):
        run(tmp_path, "--output", tmp_path / "out", f"--shard={text}")
    assert "such as 3/64" in capsys.readouterr().err


# --- the planner -----------------------------------------------------------------------------------------------------

POSITIVE = st.floats(1e-3, 1e6)


@given(st.floats(1, 1e12), POSITIVE, POSITIVE, st.integers(1, 512), st.integers(1, 16), st.integers(1, 256))
def test_a_plan_is_as_fast_as_its_slower_stage(videos, decode_rate, model_rate, gpus, each, cores) -> None:
    found = plan(videos, decode_rate, model_rate, Cluster(gpus, each, cores))
    assert found.rate == min(found.decode, found.model)
    assert (found.bottleneck == "decode") == (found.decode < found.model) == (found.busy < 1)
    assert found.hours * 3600 * found.rate == pytest.approx(videos)
    # the machines that it asks for make up for what decoding lacks, and one less does not
    lacking, more = found.model - found.decode, cores * decode_rate
    assert found.more_machines * more >= lacking * (1 - 1e-6)
    assert found.more_machines == 0 or (found.more_machines - 1) * more <= lacking * (1 + 1e-6)


def test_a_plan_by_hand(capsys) -> None:
    found = plan(10e6, 20, 300, Cluster(64, 8, 96, 25.0))
    assert (found.cluster.machines, found.cluster.decode_cores, found.bottleneck) == (8, 704, "decode")
    assert found.rate == 704 * 20
    assert found.machine_hours_per_million == pytest.approx(8 * 1e6 / 14080 / 3600)
    assert found.more_machines == 3  # 5120 videos/s lack, a machine decodes 1920
    assert (
        plan_main(["--videos", "10e6", "--gpus", "64", "--decode-rate", "20", "--model-rate", "300", "--price", "25"])
        == 0
    )
    assert "3.95 a million videos" in capsys.readouterr().out


def test_a_plan_takes_rates_from_a_summary(tmp_path, capsys) -> None:
    file = tmp_path / "_summary.json"
    decoding = {"videos": 100, "seconds": 9.0, "cpu_seconds": 5.0}
    stages = {"decode": decoding, "model": {"videos": 100, "seconds": 4.0, "on_gpus": 2}}
    file.write_text(json.dumps({"stages": stages}))
    assert rates_of(file) == (20, 25)
    stages["model"]["on_gpus"] = 0
    file.write_text(json.dumps({"stages": stages}))
    assert plan_main(["--videos", "1e6", "--gpus", "8", "--summary", str(file)]) == 1
    assert "ran on the CPU" in capsys.readouterr().err
    file.write_text("{}")
    assert plan_main(["--videos", "1e6", "--gpus", "8", "--summary", str(file)]) == 1
    assert "is no summary" in capsys.readouterr().err


def test_plans_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="decode rate is 0"):
        plan(1e6, 0, 300, Cluster(8))
