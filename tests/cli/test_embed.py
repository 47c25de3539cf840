"""Vectors of videos: from Python, and from `vov3d embed` into files."""

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow.parquet
import pytest
import torch
from helpers.numbered_videos import folder_of_frames, write_pictures, write_video
from helpers.recording_model import StandIn
from hypothesis import given, settings
from hypothesis import strategies as st

import vov3d
from vov3d.cli import _kept, main
from vov3d.cli import embed as command
from vov3d.cli.arguments import span
from vov3d.video import VideoClassifier, VideoError
from vov3d.weights.state_dict import digest

EVERY = ("--every", "0.1s", "--seconds", "200ms")


def run(capsys, *argv: str) -> tuple[int, str, list[str]]:
    code = main(["embed", *argv])
    out, err = capsys.readouterr()
    known = "vov3d embed: this model knows only 20 motions"  # said of the packaged model by every call
    return code, out, [line for line in err.splitlines() if not line.startswith(known)]


@pytest.fixture(scope="module")
def classifier() -> VideoClassifier:
    return VideoClassifier(vov3d.create_model("vov3d_n", pretrained=True))


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """Writes a folder of two videos and a folder of frames."""
    folder = tmp_path / "clips"
    (folder / "deep").mkdir(parents=True)
    write_video(folder / "b.mp4", num_frames=12)
    write_video(folder / "deep" / "a.MKV", num_frames=20)
    folder_of_frames(folder / "frames", 9)
    (folder / "notes.txt").write_text("no video")
    return folder


# --- from Python -----------------------------------------------------------------------------------------------------


def test_an_embedding_is_the_input_of_the_classifier(classifier: VideoClassifier) -> None:
    clip = np.random.default_rng(0).integers(0, 255, (8, 64, 64, 3), np.uint8)
    vector = classifier.embedding(clip)
    assert (vector.shape, vector.dtype) == ((256,), torch.float32)
    logits = classifier.model.get_classifier()(vector)
    probabilities = (logits / classifier.model.temperature).softmax(0)
    torch.testing.assert_close(probabilities, classifier.scores(clip), rtol=1e-4, atol=1e-5)
    headless = vov3d.create_model("vov3d_n", pretrained=True).eval()
    headless.reset_classifier(0)
    views = classifier._transform(torch.from_numpy(clip).permute(0, 3, 1, 2))
    torch.testing.assert_close(headless(views)[0], vector)


def test_views_are_averaged(classifier: VideoClassifier, tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", num_frames=40)
    three = VideoClassifier(classifier.model, views="1x3", batch_size=1)
    crops = three._transform(torch.from_numpy(np.stack([*read(path)])))
    torch.testing.assert_close(three.embedding(path), classifier_input(classifier.model, crops).mean(0))


def read(path: Path) -> list[np.ndarray]:
    with vov3d.video.VideoReader(path) as reader:
        return list(reader.read(vov3d.video.segment_indices(reader.num_frames, 8)).numpy())


@torch.no_grad()
def classifier_input(model, views: torch.Tensor) -> torch.Tensor:
    return model.forward_head(model.forward_features(views), pre_logits=True)


def test_broken_sources_in_the_stream(classifier: VideoClassifier, tmp_path: Path) -> None:
    good, none = write_video(tmp_path / "a.mp4", num_frames=9), tmp_path / "none.mp4"
    (first, error), (second, vector) = classifier.embeddings([none, good], errors="return")
    assert (first, second) == (none, good)
    assert isinstance(error, VideoError)
    torch.testing.assert_close(vector, classifier.embedding(good))
    with pytest.raises(VideoError, match=r"none\.mp4: no such file"):
        classifier.embedding(none)
    with pytest.raises(ValueError, match="errors is 'skip'"):
        classifier.embeddings([good], errors="skip")  # type: ignore[arg-type]


def test_models_without_a_vector() -> None:
    clip = np.zeros((8, 64, 64, 3), np.uint8)
    with pytest.raises(ValueError, match="StandIn has no forward_features and forward_head"):
        VideoClassifier(StandIn()).embedding(clip)
    mapped = VideoClassifier(vov3d.create_model("vov3d_n", global_pool=""))
    with pytest.raises(ValueError, match="not one vector a view: build it with pooling"):
        mapped.embedding(clip)


# --- from the command line -------------------------------------------------------------------------------------------


def test_folders_into_both_formats(capsys, classifier: VideoClassifier, clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "vectors.npz"
    out.write_text("what was there")
    single = str(clips / "b.mp4")
    twice = (single, str(clips), f"{clips}/deep/../b.mp4", single)  # in several ways
    assert run(capsys, *twice, "-o", str(out)) == (
        0,
        f"written   {out}: 3 vectors of 256 by vov3d_n.shapes_f8\n",
        [f"vov3d embed: {clips}: left out 1 without a video's extension (notes.txt)"],
    )
    found = np.load(out)
    assert found["paths"].tolist() == [single, str(clips / "deep/a.MKV"), str(clips / "frames")]
    for share, paths in ((1, [single, str(clips / "frames")]), (2, [str(clips / "deep/a.MKV")])):
        assert run(capsys, *twice, "-o", str(tmp_path / "s.npz"), "--shard", f"{share}/2")[0] == 0
        assert np.load(tmp_path / "s.npz")["paths"].tolist() == paths
    assert (found["model"], found["tag"], found["dimension"]) == ("vov3d_n", "shapes_f8", 256)
    assert (found["vector"], found["views"]) == ("forward_head(pre_logits=True)", "1x1")
    assert found["digest"] == digest(vov3d.create_model("vov3d_n", pretrained=True))
    assert found["sampling"] == "8 frames, in equal segments"
    for path, vector in zip(found["paths"], found["vectors"], strict=True):
        expected = classifier.embedding(path)
        np.testing.assert_allclose(vector, expected, rtol=1e-3, atol=1e-4)

    assert run(capsys, str(clips), "-o", str(tmp_path / "v.parquet"))[0] == 0
    table = pyarrow.parquet.read_table(tmp_path / "v.parquet")
    np.testing.assert_array_equal(np.stack(table["vector"].to_numpy()), found["vectors"])
    assert table["path"].to_pylist() == found["paths"].tolist()
    about = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    assert about == {key: str(found[key]) for key in found if key not in ("paths", "vectors")}


def test_broken_files_stop_or_are_left_out(capsys, clips: Path, tmp_path: Path) -> None:
    (clips / "notes.txt").unlink()
    (clips / "c.mp4").write_text("no video")
    out, part = tmp_path / "vectors.npz", tmp_path / ".vectors.npz.part"
    code, text, err = run(capsys, str(clips), "-o", str(out))
    assert (code, text, len(err)) == (1, "", 1)
    assert err[0].startswith(f"vov3d embed: {clips / 'c.mp4'}: cannot be read as a video")
    assert err[0].endswith(
        f"; 1 vector is kept in {part}: repair or leave out the video, and the same command continues"
    )
    assert not out.exists()
    code, text, err = run(capsys, str(clips), "-o", str(out), "--broken", "leave-out")
    assert (code, len(err)) == (0, 2)
    assert err[0] == "vov3d embed: 1 of 4 videos are done"
    assert err[1].startswith(f"left out  {clips / 'c.mp4'}: cannot be read")
    assert len(np.load(out)["paths"]) == 3
    assert not part.exists()
    code, text, err = run(capsys, "none.mp4", "-o", str(out), "--broken", "leave-out")
    assert (code, text) == (1, "")
    assert err == ["vov3d embed: none of 1 videos can be read, first none.mp4: no such file; nothing was written"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clips", "vectors.npz"]


def test_an_unfinished_call_goes_on_and_notices_what_changed(capsys, clips: Path, tmp_path: Path) -> None:
    (clips / "notes.txt").unlink()
    whole, out, part = tmp_path / "whole.npz", tmp_path / "v.npz", tmp_path / ".v.npz.part"
    assert run(capsys, str(clips), "-o", str(whole))[0] == 0
    (clips / "z.mp4").write_text("no video")
    assert run(capsys, str(clips), "-o", str(out))[0] == 1
    (clips / "z.mp4").unlink()
    kept = part.read_bytes()

    part.write_bytes(kept[:-100])  # killed in the middle of a line
    assert run(capsys, str(clips), "-o", str(out))[2] == ["vov3d embed: 2 of 3 videos are done"]
    np.testing.assert_array_equal(np.load(out)["vectors"], np.load(whole)["vectors"])
    assert np.load(out)["paths"].tolist() == np.load(whole)["paths"].tolist()

    part.write_bytes(kept)
    code, _, err = run(capsys, str(clips), "-o", str(out), "--views", "1x3")
    assert (code, len(err)) == (1, 1)
    assert f"{part}: holds vectors of an unfinished call with other views; delete it" in err[0]
    write_video(clips / "b.mp4", num_frames=30)
    assert run(capsys, str(clips), "-o", str(out))[2] == ["vov3d embed: 2 of 3 videos are done"]
    changed = np.load(out)["vectors"] != np.load(whole)["vectors"]
    assert changed.any(1).tolist() == [True, False, False]

    part.write_bytes(kept.replace(b'"state"', b'"stade"'))
    code, _, err = run(capsys, str(clips), "-o", str(out))
    assert (code, err) == (1, [f"vov3d embed: {part}: is damaged ('state'); delete it"])


@pytest.mark.parametrize("options", [(), pytest.param(EVERY, marks=pytest.mark.slow)], ids=["clips", "windows"])
def test_a_folder_of_frames_that_was_written_over_is_computed_again(
    capsys, clips: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    (clips / "notes.txt").unlink()
    out, bad, frames = tmp_path / "v.npz", clips / "z.mp4", clips / "frames"
    bad.write_text("no video")
    assert run(capsys, str(clips), "-o", str(out), *options)[0] == 1
    before = frames.stat().st_mtime_ns
    picture = sorted(frames.iterdir())[4]
    picture.write_bytes(sorted(frames.iterdir())[0].read_bytes())
    assert frames.stat().st_mtime_ns == before
    bad.unlink()
    assert run(capsys, str(clips), "-o", str(out), *options)[2] == ["vov3d embed: 2 of 3 videos are done"]
    assert run(capsys, str(clips), "-o", str(tmp_path / "whole.npz"), *options)[0] == 0
    np.testing.assert_array_equal(np.load(out)["vectors"], np.load(tmp_path / "whole.npz")["vectors"])


def test_a_video_that_changes_while_it_is_read_is_computed_again(tmp_path: Path) -> None:
    video = tmp_path / "a.mp4"
    video.write_text("first")
    for form in (_kept.Kept, _kept.KeptRows):
        with form(tmp_path / "v.npz", {}) as kept:
            for name in kept.reading([str(video)]):
                video.write_text(f"changed while {form.__name__} was at it")
                add(kept, name, 1, 2) if isinstance(kept, _kept.KeptRows) else kept.add(name, torch.ones(3))
            assert str(video) in kept
        with form(tmp_path / "v.npz", {}) as kept:
            assert str(video) not in kept
            kept.forget()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="of Linux")
def test_a_full_disk_is_named_and_what_was_done_stays(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("video")
    with _kept.Kept(tmp_path / "v.npz", {}) as kept:
        kept.add(str(tmp_path / "a.mp4"), torch.ones(3))
    full = Path("/dev/full").open("wb")  # noqa: SIM115
    with _kept.Kept(tmp_path / "v.npz", {}) as kept:
        kept._file.close()
        kept._file = full
        with pytest.raises(OSError, match=r"No space left.*: '.*\.v\.npz\.part'"):
            kept.add("b.mp4", torch.ones(3))
    with _kept.Kept(tmp_path / "v.npz", {}) as kept:
        assert list(kept.vectors) == [str(tmp_path / "a.mp4")]


# --- two calls with one output ---------------------------------------------------------------------------------------


def listed(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "options"),
    [
        (_kept.Kept, EVERY),
        pytest.param(_kept.KeptRows, (), marks=pytest.mark.slow),
        pytest.param(_kept.Kept, (), marks=pytest.mark.slow),
        pytest.param(_kept.KeptRows, EVERY, marks=pytest.mark.slow),
    ],
)
def test_an_output_that_another_call_writes_is_refused(
    capsys, clips: Path, tmp_path: Path, monkeypatch, form: type[_kept.Kept], options: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    with form(tmp_path / "v.npz", {"of": "another call"}) as kept:
        if isinstance(kept, _kept.KeptRows):
            add(kept, str(clips / "b.mp4"), 1, 2)
        else:
            kept.add(str(clips / "b.mp4"), torch.ones(3))
        before = listed(tmp_path)
        code, text, err = run(capsys, str(clips / "b.mp4"), "-o", "v.npz", *options)
        assert (code, text) == (1, "")
        assert err == [
            "vov3d embed: v.npz: another vov3d embed is writing it; wait for that one, or write to another file"
        ]
        assert listed(tmp_path) == before
        assert run(capsys, str(clips / "b.mp4"), "-o", "w.npz", *options)[0] == 0
        kept.forget()
    assert run(capsys, str(clips / "b.mp4"), "-o", "v.npz", *options)[0] == 0
    assert sorted(listed(tmp_path)) == ["v.npz", "w.npz"]


@pytest.mark.slow
def test_the_lock_of_a_killed_call_is_gone(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from vov3d.cli._kept import Kept\n"
        "with Kept(Path(sys.argv[1]), {}):\n print('ready', flush=True); time.sleep(600)"
    )
    out = tmp_path / "v.npz"
    with subprocess.Popen([sys.executable, "-c", code, str(out)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        with pytest.raises(ValueError, match="another vov3d embed is writing it"):
            _kept.Kept(out, {})
        process.kill()
    with _kept.Kept(out, {}) as kept:
        assert not len(kept)


def test_a_file_that_was_deleted_before_it_was_locked_is_made_again(tmp_path: Path, monkeypatch) -> None:
    part, real = tmp_path / ".v.npz.part", _kept.fcntl.flock
    part.write_text("of a call that is about to finish")

    def finished_meanwhile(file, how: int) -> None:
        monkeypatch.setattr(_kept.fcntl, "flock", real)
        part.unlink()
        real(file, how)

    monkeypatch.setattr(_kept.fcntl, "flock", finished_meanwhile)
    with _kept.Kept(tmp_path / "v.npz", {}):
        assert part.read_text() == "{}\n"


@pytest.mark.slow
@pytest.mark.parametrize("windows_first", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_windows_and_whole_videos_are_told_apart(capsys, clips: Path, tmp_path: Path, windows_first: bool) -> None:
    out, part, bad = tmp_path / "v.npz", tmp_path / ".v.npz.part", tmp_path / "z.mp4"
    first, second = [EVERY, ()] if windows_first else [(), EVERY]
    bad.write_text("no video")
    assert run(capsys, str(clips / "b.mp4"), str(bad), "-o", str(out), *first)[0] == 1
    before = listed(tmp_path)
    code, _, err = run(capsys, str(clips / "b.mp4"), "-o", str(out), *second)
    other = f"{part}: holds vectors of an unfinished call with other every and window and cuts"
    assert (code, err) == (1, [f"vov3d embed: {other}; delete it, or write to another file"])
    assert listed(tmp_path) == before
    part.unlink()
    assert run(capsys, str(clips / "b.mp4"), "-o", str(out), *second)[0] == 0
    assert sorted(listed(tmp_path)) == ["v.npz", "z.mp4"]


def test_files_left_out_of_folders_are_reported(capsys, tmp_path: Path) -> None:
    folder = tmp_path / "all"
    for name in ("__MACOSX", ".hidden", "deep"):
        (folder / name).mkdir(parents=True)
        (folder / name / "a.mp4").write_text("no video")
    (folder / "deep" / "a.mp4").unlink()
    (folder / "linked").symlink_to(tmp_path)
    write_video(folder / "a.mp4", num_frames=9)
    write_video(folder / "deep" / "a.ts", num_frames=9)
    for name in (".DS_Store", "a.srt", "b.srt", "c.srt", "d.srt", "poster.jpg"):
        (folder / name).touch()
    code, _, err = run(capsys, str(folder), "-o", str(tmp_path / "v.npz"))
    assert code == 0
    assert err == [
        f"vov3d embed: {folder}: left out 3 hidden (.hidden, __MACOSX, .DS_Store); 1 links to folders (linked); "
        "1 pictures (poster.jpg); 4 without a video's extension (a.srt, b.srt, c.srt, ...)"
    ]
    paths = [str(folder / "a.mp4"), str(folder / "deep" / "a.ts")]
    assert np.load(tmp_path / "v.npz")["paths"].tolist() == paths


def test_settings_are_printed(capsys, clips: Path, tmp_path: Path) -> None:
    settings = ("--model", "x3d_xs", "--random-weights", "--frames", "2", "--stride", "3")
    code, _, err = run(capsys, str(clips / "b.mp4"), "-o", str(tmp_path / "v.npz"), *settings)
    assert code == 0
    assert err == ["RANDOM WEIGHTS: these vectors mean nothing, only the speed is real"]
    found = np.load(tmp_path / "v.npz")
    assert (found["weights"], found["sampling"]) == ("random", "2 frames, every 3 at 30 fps")
    assert found["vectors"].shape == (1, 2048)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x.mp4", "-o", "v.csv"], "v.csv: a file of vectors must end in .npz or .parquet"),
        (["x.mp4", "-o", "nowhere/v.npz"], "nowhere/v.npz: there is no folder"),
        (["x.mp4", "-o", "v.npz", "--model", "m.onnx"], "m.onnx: an exported file gives labels, not vectors"),
        (["empty", "-o", "v.npz"], "empty: has no file with a video's extension"),
        (["@none.txt", "-o", "v.npz"], "none.txt: no such list of videos"),
        (["@v.txt", "-o", "v.npz"], "v.txt: names no videos"),
        (["x.mp4", "-o", "empty.npz/"], "empty.npz: is a folder; name a file"),
        (["x.mp4", "-o", "v.npz", "--views", "3"], "views '3' cannot be read"),
    ],
)
def test_refused_before_anything_is_computed(capsys, arguments, message, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.npz").mkdir()
    (tmp_path / "v.txt").write_text("\ufeff\n\n")
    code, text, err = run(capsys, *arguments)
    assert (code, text, len(err)) == (1, "", 1)
    assert message in err[0]


def test_a_file_is_there_whole_or_not_at_all(capsys, clips: Path, tmp_path: Path, monkeypatch) -> None:
    def fails(path: Path, *_: object) -> None:
        path.write_text("half")
        raise OSError("disk full")

    monkeypatch.setitem(command._WRITERS, ".npz", fails)
    code, _, err = run(capsys, str(clips / "b.mp4"), "-o", str(tmp_path / "v.npz"))
    assert (code, err) == (1, ["vov3d embed: disk full"])
    assert sorted(path.name for path in tmp_path.iterdir()) == [".v.npz.part", "clips"]
    monkeypatch.undo()
    assert run(capsys, str(clips / "b.mp4"), "-o", str(tmp_path / "v.npz"))[2] == [
        "vov3d embed: 1 of 1 videos are done"
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clips", "v.npz"]


def test_names_that_are_no_utf8(capsys, tmp_path: Path) -> None:
    name = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.mp4")
    write_video(tmp_path / "a.mp4", num_frames=9).rename(name)
    assert run(capsys, name, "-o", str(tmp_path / "v.npz"))[0] == 0
    assert np.load(tmp_path / "v.npz")["paths"].tolist() == [name]
    assert run(capsys, name, "-o", str(tmp_path / "v.parquet"))[0] == 0
    (path,) = pyarrow.parquet.read_table(tmp_path / "v.parquet")["path"].to_pylist()
    assert path == f"{tmp_path}/caf\\udce9.mp4"


# --- windows of long videos ------------------------------------------------------------------------------------------


def rows(path: Path) -> dict:
    with np.load(path) as found:
        return {key: found[key] for key in found}


@pytest.mark.slow
def test_windows_in_both_formats(capsys, classifier: VideoClassifier, clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "v.npz"
    code, text, _ = run(capsys, str(clips), "-o", str(out), *EVERY, "--across-cuts")
    found = rows(out)
    assert (code, text) == (
        0,
        f"written   {out}: {len(found['times'])} vectors of 256 of 3 videos by vov3d_n.shapes_f8\n",
    )
    assert [str(found[key]) for key in ("every", "window", "cuts", "sampling")] == [
        "0.1", "0.2", "crossed", "8 frames, in equal segments",
    ]  # fmt: skip
    for path in dict.fromkeys(found["paths"].tolist()):
        here = found["paths"] == path
        windows = list(classifier.embeddings_over(path, 0.1, 0.2, across_cuts=True))
        np.testing.assert_allclose(found["times"][here], [window.time for window in windows])
        np.testing.assert_allclose(found["vectors"][here], [w.values.numpy() for w in windows], rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(found["shot_ends"][here], windows[0].duration)
        assert not found["shot_starts"][here].any()
    assert run(capsys, str(clips), "-o", str(tmp_path / "v.parquet"), *EVERY, "--across-cuts")[0] == 0
    table = pyarrow.parquet.read_table(tmp_path / "v.parquet")
    for column, name in (("time", "times"), ("shot_start", "shot_starts"), ("shot_end", "shot_ends")):
        np.testing.assert_array_equal(table[column].to_numpy(), found[name])
    np.testing.assert_array_equal(np.stack(table["vector"].to_numpy()), found["vectors"])
    assert table["path"].to_pylist() == found["paths"].tolist()
    assert table.schema.metadata[b"cuts"] == b"crossed"


def test_windows_keep_within_shots(capsys, tmp_path: Path) -> None:
    video = tmp_path / "a.mov"
    parts = [
        np.random.default_rng(i).integers(0, 100, (12, 8, 3), np.uint8).repeat(4, 0).repeat(4, 1) for i in range(3)
    ]
    lengths = (12, 3, 9)
    pictures = [part + 60 * i for i, part in enumerate(parts) for _ in range(lengths[i])]
    write_pictures(video, np.array(pictures, np.uint8))
    assert run(capsys, str(video), "-o", str(tmp_path / "v.npz"), *EVERY)[0] == 0
    found = rows(tmp_path / "v.npz")
    np.testing.assert_allclose(found["shot_starts"], [0, 0, 0, 0.4, 0.5, 0.5], atol=1e-6)
    np.testing.assert_allclose(found["shot_ends"], [0.4, 0.4, 0.4, 0.5, 0.8, 0.8], atol=1e-6)
    np.testing.assert_allclose(found["times"], [0.1, 0.2, 0.3, 0.45, 0.6, 0.7], atol=1e-6)


@pytest.mark.slow
def test_windows_go_on_after_an_error(capsys, clips: Path, tmp_path: Path) -> None:
    (clips / "notes.txt").unlink()
    whole, out = tmp_path / "whole.npz", tmp_path / "v.npz"
    part, vectors = tmp_path / ".v.npz.part", tmp_path / ".v.npz.part.rows"
    assert run(capsys, str(clips), "-o", str(whole), *EVERY)[0] == 0
    (clips / "z.mp4").write_text("no video")
    code, _, err = run(capsys, str(clips), "-o", str(out), *EVERY)
    assert code == 1
    assert err[0].endswith(
        f"; 3 videos are kept in {part}: repair or leave out the video, and the same command continues"
    )
    kept, written = part.read_bytes(), vectors.read_bytes()
    assert len(written) == rows(whole)["vectors"].nbytes

    part.write_bytes(kept[:-60])  # killed in the middle of a line
    vectors.write_bytes(written + b"some of a row")
    code, _, err = run(capsys, str(clips), "-o", str(out), *EVERY, "--broken", "leave-out")
    assert (code, err[0], len(err)) == (0, "vov3d embed: 2 of 4 videos are done", 2)
    assert all(np.array_equal(rows(out)[key], value) for key, value in rows(whole).items())
    assert not part.exists()
    assert not vectors.exists()

    (clips / "z.mp4").unlink()
    part.write_bytes(kept)
    vectors.write_bytes(written)
    write_video(clips / "b.mp4", num_frames=30)
    assert run(capsys, str(clips), "-o", str(out), *EVERY)[2] == ["vov3d embed: 2 of 3 videos are done"]
    assert rows(out)["paths"].tolist()[0] == str(clips / "b.mp4")
    assert len(rows(out)["times"]) > len(rows(whole)["times"])

    part.write_bytes(kept)
    vectors.write_bytes(written[:100])
    code, _, err = run(capsys, str(clips), "-o", str(out), *EVERY)
    assert (code, err) == (1, [f"vov3d embed: {vectors}: is shorter than {part} says; delete both"])
    code, _, err = run(capsys, str(clips), "-o", str(out), "--every", "0.2", "--seconds", "0.2")
    assert "holds vectors of an unfinished call with other every; delete it" in err[0]


def test_vectors_of_windows_wait_on_disk(tmp_path: Path) -> None:
    def windows():
        for number in range(1, 5):
            assert len(kept) == 0
            assert (tmp_path / ".v.npz.part.rows").exists()
            yield vov3d.video.Window(number, number + 1, 0.0, 9.0, torch.full((3,), float(number)))

    with _kept.KeptRows(tmp_path / "v.npz", {"every": "1"}) as kept:
        kept.add_windows("a", windows())
        assert b"".join(kept.vectors_of("a", at_once=3)) == np.arange(1, 5, dtype=np.float32).repeat(3).tobytes()
        assert not hasattr(kept.rows["a"], "vectors")
    assert _kept.Rows(0, [1, 2, 3, 4], [0, 0, 2.5, 3.5], 9.0).shot_ends() == [2.5, 2.5, 3.5, 9.0]


def add(kept: _kept.KeptRows, video: str, value: int, count: int) -> None:
    vector = torch.full((3,), float(value))
    kept.add_windows(video, (vov3d.video.Window(i, i + 1, 0.0, 9.0, vector) for i in range(count)))


def test_a_video_that_was_away_comes_back_with_its_own_rows(tmp_path: Path, monkeypatch) -> None:
    def opened() -> _kept.KeptRows:
        return _kept.KeptRows(tmp_path / "v.npz", {"every": "1"})

    def broken_off() -> Iterator[vov3d.video.Window]:
        for _ in range(9):
            yield vov3d.video.Window(0, 1, 0.0, 9.0, torch.full((3,), 9.0))
        raise VideoError("cut short")

    monkeypatch.chdir(tmp_path)
    for name in "abcd":
        Path(name).write_text(name)
    with opened() as kept:
        for value, name in enumerate("abc", 1):
            add(kept, name, value, value + 1)
    Path("b").rename("b away")
    Path("c").rename("c away")
    with opened() as kept:
        assert [*kept.rows] == ["a"]
        with pytest.raises(VideoError):
            kept.add_windows("d", broken_off())
    with opened() as kept:
        add(kept, "d", 4, 2)
    Path("a").unlink()
    Path("d").unlink()
    with opened() as kept:
        assert not kept.rows  # all are away, and all come back
    for name in "abcd":
        away = Path(f"{name} away")
        away.rename(name) if away.exists() else Path(name).write_text("another")
    with opened() as kept:
        found = {name: b"".join(kept.vectors_of(name)) for name in kept.rows}
    expected = {"b": (2, 3), "c": (3, 4)}
    assert found == {name: np.full((n, 3), value, np.float32).tobytes() for name, (value, n) in expected.items()}


class Sessions:
    """Calls of `embed --every` on four videos, which are broken off, changed, taken away and put back between them."""

    def __init__(self, folder: Path, rng: random.Random) -> None:
        self.folder, self.rng, self.clock = folder, rng, 10**9
        self.content: dict[str, int] = {}
        self.done: dict[str, int] = {}
        for video in ("v0", "v1", "v2", "v3"):
            self.change(str(folder / video))

    def change(self, video: str) -> None:
        """Gives a video other content, which it never had before."""
        self.clock += 1
        self.content[video] = self.clock % 10**9
        Path(video).write_text("x" * self.rng.randint(1, 3))
        os.utime(video, (self.clock, self.clock))

    def rows(self, video: str) -> np.ndarray:
        """Returns the rows of a video as it is now: `(N, 3)`, N from 0 to 4."""
        content = self.content[video]
        return np.array([[content * 10 + row] * 3 for row in range(content % 5)], np.float32).reshape(-1, 3)

    def windows(self, video: str, breaks: bool) -> Iterator[vov3d.video.Window]:
        rows = self.rows(video)
        for row in rows[: self.rng.randint(0, len(rows)) if breaks else None]:
            yield vov3d.video.Window(0, 1, 0.0, 9.0, torch.from_numpy(row))
        if breaks:
            raise VideoError("cut short")

    def call(self) -> None:
        """Checks that what is kept is all that was done and is unchanged, and goes on with what is missing."""
        with _kept.KeptRows(self.folder / "o.npz", {"every": "1"}) as kept:
            here = [video for video in self.content if Path(video).exists()]
            assert set(kept.rows) == {video for video in here if self.done.get(video) == self.content[video]}
            for video in kept.rows:
                assert b"".join(kept.vectors_of(video)) == self.rows(video).tobytes()
            for video in (video for video in here if video not in kept):
                breaks = self.rng.random() < 0.3
                try:
                    kept.add_windows(video, self.windows(video, breaks))
                    self.done[video] = self.content[video]
                except VideoError:
                    if self.rng.random() < 0.5:
                        break

    def disturb(self) -> None:
        """Changes and moves videos, and leaves the incomplete line of a killed process."""
        for video in self.content:
            away, chance = Path(f"{video} away"), self.rng.random()
            if away.exists():
                if chance < 0.6:
                    away.rename(video)
            elif chance < 0.25:
                self.change(video)
            elif chance < 0.45:
                Path(video).rename(away)
        part = self.folder / ".o.npz.part"
        if part.exists() and self.rng.random() < 0.3:
            part.write_bytes(part.read_bytes() + b'{"video": "v')


@given(st.randoms(use_true_random=True))
@settings(max_examples=100, deadline=None)
def test_whatever_happens_between_calls_each_video_keeps_its_own_rows(rng: random.Random) -> None:
    with TemporaryDirectory() as folder:
        sessions = Sessions(Path(folder), rng)
        for _ in range(5):
            sessions.call()
            sessions.disturb()


def test_windows_of_a_video_given_twice_are_there_once(capsys, clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "v.npz"
    twice = [str(clips / "b.mp4"), f"{clips}/deep/../b.mp4", str(clips / "b.mp4")]
    assert run(capsys, *twice, "-o", str(out), *EVERY)[0] == 0
    assert (np.diff(rows(out)["times"]) > 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seconds", "2"], "--seconds is for windows over long videos: give --every too"),
        (["--across-cuts"], "--across-cuts is for windows over long videos: give --every too"),
        (["--every", "1", "--views", "2x1"], "--views 2x1 has 2 clips, and with --every each window is one"),
        (["--every", "1ms", "--seconds", "1"], "b.mp4: a window every 0.001 s is more than the 30 frames"),
        (["--every", "1", "--seconds", "1", "--model", "x3d_xs", "--random-weights"], "seconds=1 would have no effect"),
    ],
)
def test_settings_of_windows_that_do_not_fit(capsys, clips: Path, tmp_path: Path, options, message) -> None:
    code, text, err = run(capsys, str(clips / "b.mp4"), "-o", str(tmp_path / "v.npz"), *options)
    assert (code, text) == (1, "")
    assert message in err[-1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clips"]


def test_a_video_with_fewer_frames_than_windows_is_left_out(capsys, clips: Path, tmp_path: Path) -> None:
    slow, out = write_video(clips / "slow.mp4", num_frames=5, fps=2), tmp_path / "v.npz"
    words = [str(slow), str(clips / "b.mp4"), "-o", str(out), *EVERY]
    assert run(capsys, *words)[0] == 1
    code, _, err = run(capsys, *words, "--broken", "leave-out")
    told = f"left out  {slow}: a window every 0.1 s is more than the 2 frames a second of this video; give 0.5 s or"
    assert (code, err) == (0, [f"{told} more (--every, every=)"])
    assert set(rows(out)["paths"]) == {str(clips / "b.mp4")}


def test_windows_of_a_model_that_states_no_length_need_one(capsys, clips: Path, tmp_path: Path) -> None:
    folder = vov3d.save_pretrained(vov3d.create_model("vov3d_n", num_classes=2), tmp_path / "model")
    words = [str(clips / "b.mp4"), "-o", str(tmp_path / "v.npz"), "--model", str(folder), "--every", "1"]
    code, text, err = run(capsys, *words)
    assert (code, text) == (1, "")
    assert "seconds is None: this model takes its frames from equal segments" in err[-1]
    assert not (tmp_path / "v.npz").exists()


@pytest.mark.parametrize("text", ["0.5s", "0.5", "500ms", " 500 ms ", ".5 s", "0.50"])
def test_times_as_people_write_them(text) -> None:
    assert span(text) == 0.5


@pytest.mark.parametrize("text", ["0", "-1", "1m", "soon", "", "0ms", "1e3", "nan"])
def test_times_that_cannot_be_read(capsys, text) -> None:
    with pytest.raises(SystemExit):
        run(capsys, "x.mp4", "-o", "v.npz", f"--every={text}")
    assert f"must be a time above 0 such as 0.5s, 0.5 or 500ms, got {text!r}" in capsys.readouterr().err


@pytest.mark.slow
def test_two_hours_take_the_memory_of_a_minute(tmp_path: Path) -> None:
    code = (
        "import resource, sys; from vov3d.cli import main; assert main(sys.argv[1:]) == 0;"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    peaks = []
    for name, frames in (("short", 60), ("long", 7200)):
        video = write_video(tmp_path / f"{name}.mp4", num_frames=frames, fps=1, options={"preset": "ultrafast"})
        options = ["-o", str(tmp_path / f"{name}.npz"), "--every", "5s", "--seconds", "8s"]
        command = [sys.executable, "-c", code, "embed", str(video), *options]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        peaks.append(int(told.splitlines()[-1]))
        assert len(rows(tmp_path / f"{name}.npz")["times"]) > frames / 8
    assert peaks[1] < 1.1 * peaks[0]
