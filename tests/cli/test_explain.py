"""The command `explain`: labels, shares and a picture, or one line that says what is wrong."""

from pathlib import Path

import numpy as np
import pytest
from helpers.task_models import NAMES, task_model
from PIL import Image

import vov3d
from vov3d.cli import main
from vov3d.cli.explain import _METHODS
from vov3d.interpret import METHODS
from vov3d.synthetic.moving_shapes import make_clip, write_clip


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("videos") / "clip.mp4"
    write_clip(path, make_clip(18, np.random.default_rng(3)))
    return str(path)


@pytest.mark.slow
def test_models_and_labels_are_shown_side_by_side(capsys, video, tmp_path):
    models = ["--model", "vov3d_n", "--model", "vov3d_n.shapes_stream"]
    labels = ["--label", "Pulling something", "--label", "18"]
    code = main(["explain", video, "-o", str(tmp_path / "out.png"), *models, *labels, "--occlusion"])
    out, err = capsys.readouterr()
    assert code == 0
    assert "knows only 20 motions" in err
    assert out.count("explained: Pulling something (hirescam of stages.1)") == 2
    assert out.count("explained: Pushing something") == 2
    assert out.count("correlation of share and fall") == 4
    shares = [float(line.split()[1][:-1]) for line in out.splitlines() if line[2:8].strip().endswith("s")]
    assert len(shares) == 4 * 8
    assert sum(shares) == pytest.approx(400, abs=2)
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.height > 5 * 120


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "out.avi"], "must end in one of .mp4"),
        (["-o", "none/out.png"], "there is no folder"),
        (["--model", "a.onnx"], "a.onnx is an exported file, which runs outside PyTorch and gives no gradients"),
        (["--device", "nowhere"], "--device nowhere cannot be used here"),
    ],
)
def test_errors_are_one_line(arguments, message, capsys, video, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["explain", video, *arguments]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert len(err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_the_video_is_not_overwritten(capsys, video, tmp_path):
    other = tmp_path / "link.mp4"
    other.symlink_to(video)
    before = Path(video).read_bytes()
    assert main(["explain", video, "-o", str(other)]) == 1
    assert "link.mp4: is the file that is read, which would be lost" in capsys.readouterr().err
    assert Path(video).read_bytes() == before


def test_a_frame_of_the_folder_is_not_overwritten(capsys, tmp_path):
    for number in range(1, 9):
        Image.new("RGB", (64, 64), (20 * number, 0, 0)).save(tmp_path / f"{number:05}.png")
    frame = tmp_path / "00003.png"
    before = frame.read_bytes()
    assert main(["explain", str(tmp_path), "-o", str(frame)]) == 1
    assert (
        f"00003.png: is a frame of {tmp_path}, the folder that is read, which would be lost" in capsys.readouterr().err
    )
    assert frame.read_bytes() == before


def test_a_number_is_a_name_where_a_class_has_that_name(capsys, video, tmp_path, monkeypatch):
    monkeypatch.setitem(NAMES, "single", ["10", "2", "ten"])
    folder = str(vov3d.save_pretrained(task_model("single"), tmp_path / "model"))
    assert main(["explain", video, "--model", folder, *(f"--label={label}" for label in ("10", "2", "1"))]) == 0
    said = [line.split(" (")[0] for line in capsys.readouterr().out.splitlines() if "explained" in line]
    assert said == ["  explained: 10", "  explained: 2", "  explained: 2"]


def test_an_unknown_label_is_refused(capsys, video):
    assert main(["explain", video, "--label", "Pushing somethin"]) == 1
    assert "the model has no output 'Pushing somethin'; near: 'Pushing something'" in capsys.readouterr().err


def test_the_methods_are_those_of_the_package():
    assert tuple(METHODS) == _METHODS
    assert vov3d.explain.__module__ == "vov3d.interpret.gradcam"
