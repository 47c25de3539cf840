"""Vectors of videos: from Python, and from `vov3d embed` into files."""

from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch
from stand_in import StandIn
from video_files import folder_of_frames, write_video

import vov3d
from vov3d.cli import embed as command
from vov3d.cli import main
from vov3d.video import VideoClassifier, VideoError


def run(capsys, *argv: str) -> tuple[int, str, list[str]]:
    code = main(["embed", *argv])
    out, err = capsys.readouterr()
    return code, out, err.splitlines()


@pytest.fixture(scope="module")
def classifier() -> VideoClassifier:
    return VideoClassifier(vov3d.create_model("vov3d_n", pretrained=True))


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """A folder of two videos and a folder of frames."""
    folder = tmp_path / "clips"
    (folder / "deep").mkdir(parents=True)
    write_video(folder / "b.mp4", num_frames=12)
    write_video(folder / "deep" / "a.MKV", num_frames=20)
    folder_of_frames(folder / "frames", 9)
    (folder / "notes.txt").write_text("no video")
    return folder


# --- from Python -----------------------------------------------------------------------------------------------------


def test_an_embedding_is_what_the_classifier_takes(classifier: VideoClassifier) -> None:
    clip = np.random.default_rng(0).integers(0, 255, (8, 64, 64, 3), np.uint8)
    vector = classifier.embedding(clip)
    assert (vector.shape, vector.dtype) == ((256,), torch.float32)
    probabilities = classifier.model.get_classifier()(vector).softmax(0)
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
    with pytest.raises(ValueError, match="not one vector a view: build it with a pooling"):
        mapped.embedding(clip)


# --- from the command line -------------------------------------------------------------------------------------------


def test_folders_into_both_formats(capsys, classifier: VideoClassifier, clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "vectors.npz"
    out.write_text("what was there")
    single = str(clips / "b.mp4")
    assert run(capsys, str(clips), single, "-o", str(out)) == (
        0,
        f"written   {out}: 4 vectors of 256 by vov3d_n.shapes_f8\n",
        [],
    )
    found = np.load(out)
    assert found["paths"].tolist() == [single, str(clips / "deep/a.MKV"), str(clips / "frames"), single]
    assert (found["model"], found["tag"], found["dimension"]) == ("vov3d_n", "shapes_f8", 256)
    assert (found["vector"], found["views"]) == ("forward_head(pre_logits=True)", "1x1")
    assert found["sampling"] == "8 frames, in equal segments"
    for path, vector in zip(found["paths"], found["vectors"], strict=True):
        expected = classifier.embedding(path)
        np.testing.assert_allclose(vector, expected, rtol=1e-3, atol=1e-4)

    assert run(capsys, str(clips), "-o", str(tmp_path / "v.parquet"))[0] == 0
    table = pyarrow.parquet.read_table(tmp_path / "v.parquet")
    np.testing.assert_array_equal(np.stack(table["vector"].to_numpy()), found["vectors"][:3])
    assert table["path"].to_pylist() == found["paths"][:3].tolist()
    about = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    assert about == {key: str(found[key]) for key in found if key not in ("paths", "vectors")}


def test_broken_files_stop_or_are_left_out(capsys, clips: Path, tmp_path: Path) -> None:
    (clips / "c.mp4").write_text("no video")
    out = tmp_path / "vectors.npz"
    code, text, err = run(capsys, str(clips), "-o", str(out))
    assert (code, text, len(err)) == (1, "", 1)
    assert err[0].startswith(f"vov3d embed: {clips / 'c.mp4'}: cannot be read as a video")
    assert not out.exists()
    code, text, err = run(capsys, str(clips), "-o", str(out), "--broken", "leave-out")
    assert (code, len(err)) == (0, 1)
    assert err[0].startswith(f"left out  {clips / 'c.mp4'}: cannot be read")
    assert len(np.load(out)["paths"]) == 3
    code, text, err = run(capsys, "none.mp4", "-o", str(out), "--broken", "leave-out")
    assert (code, text) == (1, "")
    assert err == ["vov3d embed: none of 1 videos can be read, first none.mp4: no such file; nothing was written"]


def test_settings_are_told(capsys, clips: Path, tmp_path: Path) -> None:
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
        (["x.mp4", "-o", "v.npz", "--model", "m.onnx"], "m.onnx: an exported file gives labels, no vectors"),
        (["empty", "-o", "v.npz"], "empty: holds no file that ends in .avi"),
        (["x.mp4", "-o", "v.npz", "--views", "3"], "views '3' cannot be read"),
    ],
)
def test_refused_before_anything_is_computed(capsys, arguments, message, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
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
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clips"]
