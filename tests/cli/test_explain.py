"""The command `explain`: labels, shares and a picture, or one line that says what is wrong."""

import numpy as np
import pytest
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


def test_an_unknown_label_is_refused(capsys, video):
    assert main(["explain", video, "--label", "Pushing somethin"]) == 1
    assert "the model has no output 'Pushing somethin'; near: 'Pushing something'" in capsys.readouterr().err


def test_the_methods_are_those_of_the_package():
    assert tuple(METHODS) == _METHODS
    assert vov3d.explain.__module__ == "vov3d.interpret.gradcam"
